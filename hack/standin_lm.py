"""A stand-in for a language model: no weights, but it really learns in context.

An OpenAI-compatible server (chat completions, streaming, usage, `response_format: json_schema`). It reads the
demonstrations in its own prompt, finds those whose inputs are nearest to the question's (TF-IDF over character
n-grams), and answers with their outputs. Without demonstrations it takes the first value that is allowed, makes one of
the type that is asked for or, where the question comes with passages (`id: text`), takes the sentence that is nearest
to it, with that passage's id and the similarity as its confidence. So a compiled program is measurably better on
held-out data than an uncompiled one. Its accuracy says something about the path that a prompt takes, and nothing about
any language model.

`POST /admin` {"delay_seconds", "status", "retry_after", "garble", "cut", "hang", "not_json", "drop",
"times"} makes it misbehave, for all or for the next `times` requests; `GET /admin` counts its calls, in all and of
distinct content.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import itertools
import json
import random
import re
import time
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from polyfactory.value_generators.regex import RegexFactory
from sklearn.feature_extraction.text import TfidfVectorizer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]\s*\n?(.*?)(?=\n*\[\[ ## |\n*Respond with the corresponding|\Z)", re.S)
ASKED = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
TAGGED = re.compile(r"`<(\w+)>`")
IN_JSON = re.compile(r"Respond with a JSON object.*?fields: (.*)", re.S)
NOTED = re.compile(r"\{(\w+)\}\s+# note: the value you produce (.*)")
ONE_OF = re.compile(r"must (?:exactly match \(no extra characters\)|be) one of: (.*)")
TYPED = re.compile(r"`\[\[ ## (\w+) ## \]\]` \(must be formatted as a valid Python (.+?)\)")
FREE_TEXT = "stand-in"
OF_NAME = {"url": "https://example.com/a.png", "file_data": "data:text/plain;base64,YQ=="}
OF_FORMAT = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05",
    "duration": "P1D",
    "uuid": "00000000-0000-4000-8000-000000000001",
}


def answer(messages: list[dict], schema: dict | None = None) -> str:
    """The completion of a chat, in the format that its last message or the response format asks for."""
    texts = [(m["role"], _text(m["content"])) for m in messages]
    question = dict(FIELD.findall(texts[-1][1]))
    demos = tuple(
        (user, reply)
        for (role, user), (next_role, reply) in itertools.pairwise(texts)
        if role == "user" and next_role == "assistant"
    )
    tags = TAGGED.findall(texts[-1][1])
    in_json = re.findall(r"`(\w+)`", " ".join(IN_JSON.findall(texts[-1][1])))
    wanted = list((schema or {}).get("properties", {})) or _asked(texts[-1][1]) or tags or in_json
    system = "\n".join(t for role, t in texts if role == "system")
    allowed = _allowed(system, schema)
    known = _nearest(demos, "\n".join(question.values()), allowed) or _extracted(question, texts[-1][1])
    made = _made(system, schema)
    values = {name: known.get(name) or allowed.get(name, [made.get(name, FREE_TEXT)])[0] for name in wanted}
    if schema or in_json:
        return json.dumps(values)
    values = {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    if tags:
        return "\n".join(f"<{name}>{v}</{name}>" for name, v in values.items())
    return "\n\n".join(f"[[ ## {k} ## ]]\n{v}" for k, v in values.items()) + "\n\n[[ ## completed ## ]]"


def _text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _asked(text: str) -> list[str]:
    return [name for name in ASKED.findall(text) if name != "completed"]


def _allowed(system: str, schema: dict | None) -> dict[str, list[str]]:
    """The values that a field may have, where the prompt or the schema lists them."""
    notes = ((name, ONE_OF.match(note)) for name, note in NOTED.findall(system))
    found = {name: said[1].split("; ") for name, said in notes if said}
    for name, part in (schema or {}).get("properties", {}).items():
        if "enum" in part:
            found[name] = part["enum"]
    return found


def _made(system: str, schema: dict | None) -> dict[str, Any]:
    """A value of each field's type, where the prompt or the schema says one."""
    found = {name: value for name, note in NOTED.findall(system) if (value := _of_note(note)) is not None}
    parts = (schema or {}).get("properties", {})
    return found | {name: _of_schema(part, (schema or {}).get("$defs", {})) for name, part in parts.items()}


def _of_note(note: str) -> Any:
    _, adheres, schema = note.partition("must adhere to the JSON schema: ")
    if adheres:
        parsed = json.loads(schema)
        return _of_schema(parsed, parsed.get("$defs", {}))
    return {"must be True or False": True, "must be a single int value": 1, "must be a single float value": 0.5}.get(
        note
    )


def _of_schema(schema: dict, definitions: dict) -> Any:
    """The smallest value that fits; of a list, one item; between two bounds the middle, for there probabilities lie."""
    if "$ref" in schema:
        return _of_schema(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return _of_schema(choices[0], definitions)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    match schema.get("type"):
        case "object":
            parts = schema.get("properties", {})
            named = schema.get("required") or [name for name in parts if name in OF_NAME]
            return {name: OF_NAME.get(name) or _of_schema(parts.get(name, {}), definitions) for name in named}
        case "array":
            return [_of_schema(part, definitions) for part in schema.get("prefixItems", [schema.get("items", {})])]
        case "number" if {"minimum", "maximum"} <= schema.keys():
            return (schema["minimum"] + schema["maximum"]) / 2
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        case "boolean" | "null":
            return schema["type"] == "boolean" or None
    if "pattern" in schema:
        return RegexFactory(random.Random(1))(schema["pattern"])  # noqa: S311 - it shall be the same each time
    return OF_FORMAT.get(schema.get("format", ""), FREE_TEXT)


def _extracted(question: dict[str, str], text: str) -> dict[str, str]:
    """What stands in passages of the prompt: strings are the sentence nearest to the rest of the question, numbers its
    similarity, lists its passage's id."""
    passages = [p.partition(": ") for p in json.loads(question.get("passages", "[]"))]
    sentences = [(s, key) for key, _, whole in passages for s in re.split(r"(?<=[.;!?]) ", whole) if s]
    if not sentences:
        return {}
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    matrix = vectorizer.fit_transform([s for s, _ in sentences])
    asked = vectorizer.transform(["\n".join(v for k, v in question.items() if k != "passages")])
    scores = (matrix @ asked.T).toarray().ravel()
    best = int(scores.argmax())
    sentence, key = sentences[best]
    kinds = {"float": f"{min(1.0, float(scores[best])):.2f}", "int": "1", "list[str]": json.dumps([key])}
    types = dict(TYPED.findall(text))
    return {name: kinds.get(types.get(name, ""), sentence) for name in _asked(text)}


@functools.lru_cache(maxsize=64)
def _index(demos: tuple[tuple[str, str], ...]):
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    inputs = ["\n".join(dict(FIELD.findall(user)).values()) for user, _ in demos]
    return vectorizer, vectorizer.fit_transform(inputs)


def _nearest(demos: tuple[tuple[str, str], ...], question: str, allowed: dict) -> dict[str, str]:
    """The outputs of the demonstrations nearest to the question: three vote, by similarity, on listed values."""
    if not demos:
        return {}
    vectorizer, matrix = _index(demos)
    scores = (matrix @ vectorizer.transform([question]).T).toarray().ravel()
    best = scores.argsort()[::-1][:3]
    outputs = [dict(FIELD.findall(demos[i][1])) for i in best]
    result = outputs[0]
    for name in allowed:
        votes: dict[str, float] = {}
        for i, output in zip(best, outputs, strict=True):
            votes[output.get(name, "")] = votes.get(output.get(name, ""), 0.0) + scores[i]
        result[name] = max(votes, key=votes.__getitem__)
    return result


@dataclass
class StandIn:
    """The server's state: how it shall misbehave, and what it was asked."""

    faults: dict = field(default_factory=dict)
    calls: int = 0
    contents: set[str] = field(default_factory=set)
    echo: bool = False

    def fault(self) -> dict:
        """The faults of this request; `times` counts down."""
        if "times" in self.faults:
            if self.faults["times"] <= 0:
                self.faults = {}
            else:
                self.faults["times"] -= 1
        return self.faults

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        if self.echo:
            return await _echo(await request.json())
        body = await request.json()
        self.calls += 1
        self.contents.add(hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest())
        fault = self.fault()
        await asyncio.sleep(3600 if fault.get("hang") else fault.get("delay_seconds", 0))
        if fault.get("status"):
            headers = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else {}
            error = {"error": {"message": "the stand-in was told to fail", "type": "server_error"}}
            return JSONResponse(error, fault["status"], headers)
        if fault.get("not_json"):
            return Response(b'{"choices": [{"mess', media_type="application/json")
        if fault.get("drop"):
            return StreamingResponse(_dropped(), media_type="application/json")
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        text = answer(body["messages"], schema)
        if fault.get("garble"):
            text = text[::-1]
        if fault.get("cut"):
            text = text[: len(text) // 2]
        usage = _usage(body["messages"], text)
        if body.get("stream") and fault.get("garble"):
            return StreamingResponse(_garbage(), media_type="text/event-stream")
        choices = [_choice(body, index, text) for index in range(body.get("n") or 1)]
        if body.get("stream"):
            return StreamingResponse(_stream(body["model"], choices, usage), media_type="text/event-stream")
        return JSONResponse({**_head(body["model"], "chat.completion"), "choices": choices, "usage": usage})

    async def admin(self, request: Request) -> Response:
        """GET /admin counts; POST /admin sets faults, and {} takes them away."""
        if request.method == "POST":
            self.faults = await request.json()
        return JSONResponse({"calls": self.calls, "distinct": len(self.contents), "faults": self.faults})


async def _echo(body: dict) -> Response:
    """An answer that is a function of the question alone, so that a mixed-up one shows: an allowed value by the digest
    of its first field. By the same digest one of 20 fails and one of 50 takes a second."""
    question = next(iter(dict(FIELD.findall(_text(body["messages"][-1]["content"]))).values()))
    digest = hashlib.sha256(question.encode()).digest()
    if digest[1] % 20 == 0:
        return JSONResponse({"error": {"message": "one of twenty"}}, 500)
    await asyncio.sleep(1.0 if digest[2] % 50 == 0 else 0.02)
    allowed = _allowed(_text(body["messages"][0]["content"]), None)
    values = {name: options[digest[0] % len(options)] for name, options in allowed.items()}
    text = "\n\n".join(f"[[ ## {k} ## ]]\n{v}" for k, v in values.items()) + "\n\n[[ ## completed ## ]]"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = _usage(body["messages"], text)
    return JSONResponse({**_head(body["model"], "chat.completion"), "choices": [choice], "usage": usage})


def _head(model: str, kind: str) -> dict:
    return {"id": "chatcmpl-stand-in", "object": kind, "created": int(time.time()), "model": model}


def _usage(messages: list[dict], text: str) -> dict:
    prompt, completion = sum(len(_text(m["content"])) for m in messages) // 4, len(text) // 4
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _garbage():
    yield b"data: \xff\xfe{{{\n\n"


async def _dropped():
    """Half an answer, and then nothing: the server closes the connection."""
    yield b'{"choices": [{"message": '
    raise ConnectionAbortedError


def _choice(body: dict, index: int, text: str) -> dict:
    """One answer; with its reasoning and its tokens' probabilities if the request is for them."""
    message = {"role": "assistant", "content": f"{text}{index or ''}"}
    if body.get("reasoning_effort"):
        message["reasoning_content"] = f"I looked at {len(body['messages'])} messages."
    choice = {"index": index, "message": message, "finish_reason": "stop"}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": part, "logprob": -0.5} for part in _parts(message["content"])]}
    return choice


def _parts(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


async def _stream(model: str, choices: list[dict], usage: dict):
    """The choices in turn, part by part."""
    head = _head(model, "chat.completion.chunk")
    for parts in itertools.zip_longest(*map(_deltas, choices)):
        for part in filter(None, parts):
            yield f"data: {json.dumps({**head, 'choices': [part]})}\n\n"
    yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"


def _deltas(choice: dict):
    rest = {"index": choice["index"], "finish_reason": None}
    for part in _parts(choice["message"].get("reasoning_content", "")):
        yield {**rest, "delta": {"reasoning_content": part}}
    probabilities = iter(choice.get("logprobs", {}).get("content", ()))
    for part in _parts(choice["message"]["content"]):
        found = [token for token in [next(probabilities, None)] if token]
        yield {**rest, "delta": {"content": part}, **({"logprobs": {"content": found}} if found else {})}
    yield {**rest, "delta": {}, "finish_reason": choice["finish_reason"]}


def build_app(echo: bool = False) -> Starlette:
    """The server's application."""
    state = StandIn(echo=echo)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", state.chat, methods=["POST"]),
            Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "stand-in", "object": "model"}]})),
            Route("/admin", state.admin, methods=["GET", "POST"]),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--echo", action="store_true", help="answer by a digest of the question")
    args = parser.parse_args()
    uvicorn.run(build_app(args.echo), host=args.host, port=args.port, log_level="warning")
