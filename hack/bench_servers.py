"""What the serving bench compares with, and the LM that all of them ask. `python bench_servers.py NAME PORT ...`:

lm PORT                    an OpenAI-compatible server that answers after the milliseconds named in the model
raw PORT WORKERS           reads a JSON body and sends it back: what the server itself can do
handwritten PORT WORKERS LM_URL MODEL dspy|dict
                           what one writes by hand: FastAPI, the program in 64 threads, DSPy's own cache, and with
                           `dict` a dictionary in front of it
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from pydantic import BaseModel

FLAGS = {
    "loop": "uvloop",
    "http": "httptools",
    "access_log": False,
    "log_level": "warning",
    "backlog": 4096,
    "server_header": False,
    "proxy_headers": False,
}
TEXT = "[[ ## answer ## ]]\nforty-two\n\n[[ ## completed ## ]]"
TOKENS = ["[[ ##", " answer", " ## ]]\n", *(f"word{i} " for i in range(20)), "\n\n[[ ## completed", " ## ]]"]
TOKEN_SECONDS = 0.01


async def lm(scope, receive, send) -> None:
    """`openai/ms50` answers after 50 ms; streams a token each 10 ms."""
    if scope["type"] != "http":
        return
    body = json.loads((await receive())["body"])
    await asyncio.sleep(int(body["model"].removeprefix("ms")) / 1000)
    head = {"id": "x", "created": 1, "model": body["model"]}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    if body.get("stream"):
        await stream(send, head, usage)
        return
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    await respond(send, json.dumps(answer).encode())


async def stream(send, head: dict, usage: dict) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    head = {**head, "object": "chat.completion.chunk"}
    for token in TOKENS:
        choice = {"index": 0, "delta": {"content": token}, "finish_reason": None}
        event = f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(TOKEN_SECONDS)
    end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
    await send({"type": "http.response.body", "body": f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode()})


async def respond(send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def raw(scope, receive, send) -> None:
    """The limit: no program, no validation, no cache."""
    if scope["type"] == "http":
        await respond(send, (await receive())["body"])


class Question(BaseModel):
    question: str


def handwritten():
    """FastAPI around `program(...)`, from the environment: LM_URL, MODEL, DICT."""
    import dspy
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from pydantic import BaseModel

    from bench_program import QuestionAnswering

    class Question(BaseModel):
        question: str

    app, pool, answers = FastAPI(), ThreadPoolExecutor(64), {}
    program = QuestionAnswering()
    dspy.configure(lm=dspy.LM(f"openai/{os.environ['MODEL']}", api_base=os.environ["LM_URL"], api_key="none"))
    keeps = os.environ.get("DICT") == "dict"

    @app.post("/execute")
    async def execute(question: Question):
        if keeps and question.question in answers:
            return {"answer": answers[question.question]}
        loop = asyncio.get_running_loop()
        prediction = await loop.run_in_executor(pool, lambda: program(question=question.question))
        if keeps:
            answers[question.question] = prediction.answer
        return {"answer": prediction.answer}

    @app.post("/stream")
    async def streamed(question: Question):
        listeners = [dspy.streaming.StreamListener(signature_field_name="answer")]
        run = dspy.streamify(QuestionAnswering(), stream_listeners=listeners)

        async def events():
            async for piece in run(question=question.question):
                if isinstance(piece, dspy.streaming.StreamResponse):
                    yield f"event: delta\ndata: {json.dumps({'text': piece.chunk})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main(name: str, port: str, workers: str = "1", *rest: str) -> None:
    """Serve."""
    sys.path.insert(0, str(Path(__file__).parent))
    if rest:
        os.environ["LM_URL"], os.environ["MODEL"], os.environ["DICT"] = rest
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    uvicorn.run(f"bench_servers:{name}", factory=name == "handwritten", port=int(port), workers=int(workers), **FLAGS)


if __name__ == "__main__":
    main(*sys.argv[1:])
