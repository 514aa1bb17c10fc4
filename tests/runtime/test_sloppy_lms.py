"""LM servers that answer oddly, compressed or without an end: their failure, and none of the program's."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError, LMServerError
from dspy.utils.usage_tracker import UsageTracker

from despina_runtime.http.asgi import send_body
from despina_runtime.http.server import make_server, open_port
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.openai_compatible import LONGEST_ANSWER, LONGEST_STREAM
from despina_runtime.lm.target import Target
from despina_runtime.telemetry.counting import VersionCounts
from tests.support.pods import lm_config

CHAT = [{"role": "user", "content": "hello"}]
WORDS = "fine"
CHOICE = {"message": {"content": WORDS}, "finish_reason": "stop"}
PART = {"index": 0, "delta": {"content": WORDS}, "finish_reason": "stop"}


@dataclass
class Provider:
    """A server that gives one answer, whatever it is asked."""

    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    is_endless: bool = False
    status: int = 200
    url: bytes = b""
    asked: list[dict[bytes, bytes]] = field(default_factory=list)

    async def __call__(self, scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.asked.append(dict(scope["headers"]))
        if self.is_endless:
            await self._go_on(send)
        else:
            await send_body(send, self.status, self.body, headers=self.headers)

    async def _go_on(self, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2 + LONGEST_STREAM // len(self.body)):
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def asking(provider: Provider, retries: int = 1, counts: VersionCounts | None = None) -> AsyncIterator[Callable]:
    """A function that asks it once for a request, and gives the outputs and the request's meter."""
    port = open_port("127.0.0.1", 0)
    port.listen()
    server = make_server(provider, 0)
    serving = asyncio.create_task(server.serve(sockets=[port]))
    provider.url = f"http://localhost:{port.getsockname()[1]}".encode()  # of an address nobody keeps cookies
    target = Target(lm_config(provider.url.decode(), retries=retries), None, 20, counts=counts)

    async def ask(emit=None, **params) -> tuple[list, Meter]:
        meter = Meter(asyncio.get_running_loop().time() + 20)
        return await target.answer(CHAT, params, meter, "", meter.deadline, emit), meter

    try:
        yield ask
    finally:
        await target.close()
        server.should_exit = True
        await serving


class Told:
    """What is passed on of a stream."""

    started = False
    text = ""

    async def __call__(self, text: str) -> None:
        self.text += text


def whole(**changes: Any) -> bytes:
    return json.dumps({"choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 4}} | changes).encode()


def message(**changes: Any) -> bytes:
    return whole(choices=[{"message": {"content": WORDS} | changes}])


def events(*found: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in found) + b"data: [DONE]\n\n"


ODD = {
    "no choices": whole(choices=[]),
    "choices that are no list": whole(choices={"a": 1}),
    "a choice that is none": whole(choices=["", ""]),
    "no message": whole(choices=[{}]),
    "a number as content": message(content=5),
    "an object as content": message(content={"a": 1}),
    "parts that are none": message(content=["a", "b"]),
    "a part without its text": message(content=[{"type": "text"}]),
    "a part whose text is none": message(content=[{"type": "text", "text": 5}]),
    "tool calls that are no list": message(tool_calls="x"),
    "a tool call without a name": message(tool_calls=[{"function": {}}]),
    "reasoning that is no text": message(reasoning_content=5),
    "logprobs that are none": whole(choices=[CHOICE | {"logprobs": [1]}]),
    "more choices than can be asked for": whole(choices=[CHOICE] * 129),
    "more calls than a program has tools": message(tool_calls=[{"function": {"name": "f"}}] * 129),
    "a list": b"[1]",
    "no JSON": b"<html>",
}
ODD_STREAMS = {
    "choices that are no list": events({"choices": {"a": 1}}),
    "a text as choices": events({"choices": "abc"}),
    "a delta that is no object": events({"choices": [PART | {"delta": "x"}]}),
    "a number as content": events({"choices": [PART | {"delta": {"content": 5}}]}),
    "an index that is none": events({"choices": [PART, PART | {"index": "x"}]}),
    "an index beyond all": events({"choices": [PART, PART | {"index": 2**40}]}),
    "a list of logprobs": events({"choices": [PART | {"logprobs": [1]}]}),
    "an event that is a list": events([1]),
    "an error": events({"error": {"message": "overloaded"}}),
}


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_answer_is_the_providers_failure_and_is_asked_for_again(odd):
    provider = Provider(ODD[odd])
    counts = VersionCounts()
    async with asking(provider, counts=counts) as ask:
        with pytest.raises(LMServerError):
            await ask()
    assert len(provider.asked) == 2
    (told,) = counts.take()["lms"]
    assert (told["lm"], told["outcomes"]) == ("main", {"LMServerError": 2})


@pytest.mark.parametrize("odd", ODD_STREAMS)
async def test_so_is_an_odd_stream(odd):
    provider = Provider(ODD_STREAMS[odd])
    async with asking(provider) as ask:
        with pytest.raises(LMServerError):
            await ask(Told())
    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ("x", (0, 0)), ([1], (0, 0)), (None, (0, 0)), ({"prompt_tokens": "many", "completion_tokens": 4}, (0, 4)),
        ({"prompt_tokens": -5, "completion_tokens": 4}, (0, 4)), ({"prompt_tokens": [3]}, (0, 0)),
        ({"prompt_tokens": True, "completion_tokens": 1e999}, (0, 0)),
        ({"prompt_tokens": 1e20, "completion_tokens": 4.0}, (0, 4)),
        ({"prompt_tokens": 10**400, "completion_tokens": 1e308}, (0, 0)),
        ({f"count {n}": n for n in range(200)} | {"prompt_tokens": 3}, (0, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": "x"}}, (3, 4)),
    ],
    ids=repr,
)  # fmt: skip
async def test_a_usage_that_is_none_is_left_out(usage, counted):
    tracker = UsageTracker()
    with dspy.context(usage_tracker=tracker):
        async with asking(Provider(whole(usage=usage))) as ask:
            outputs, meter = await ask()
        async with asking(Provider(events({"choices": [PART], "usage": usage}))) as ask:
            streamed, streams = await ask(Told())
    assert outputs == streamed == [WORDS]
    assert (meter.input_tokens, meter.output_tokens) == (streams.input_tokens, streams.output_tokens) == counted
    tracker.get_total_tokens()


async def test_what_an_answer_cost_is_no_count_and_is_told_as_it_is():
    tracker = UsageTracker()
    with dspy.context(usage_tracker=tracker):
        async with asking(Provider(whole(usage={"prompt_tokens": 3, "cost": 0.37}))) as ask:
            await ask()
    ((_, total),) = tracker.get_total_tokens().items()
    assert total == {"prompt_tokens": 3, "cost": 0.37}


async def test_a_content_may_come_in_parts():
    parts = [{"type": "text", "text": "fi"}, {"type": "refusal", "refusal": "x"}, {"type": "text", "text": "ne"}]
    async with asking(Provider(message(content=parts))) as ask:
        assert (await ask())[0] == [WORDS]
    told = Told()
    async with asking(Provider(events({"choices": [PART | {"delta": {"content": parts}}]}))) as ask:
        assert (await ask(told))[0] == [told.text] == [WORDS]


@pytest.mark.parametrize("emit", [None, Told()], ids=["whole", "streamed"])
async def test_nothing_compressed_is_asked_for_or_unpacked(emit):
    packed = gzip.compress(whole() if emit is None else events({"choices": [PART]}))
    provider = Provider(packed, [(b"content-encoding", b"gzip")])
    async with asking(provider, retries=0) as ask:
        with pytest.raises(LMServerError, match="compressed"):
            await ask(emit)
    assert provider.asked[0][b"accept-encoding"] == b"identity"


async def test_a_prompt_goes_nowhere_else_and_a_cookie_to_nobody():
    other = Provider(whole())
    async with asking(other) as ask:
        await ask()
        provider = Provider(whole(), [(b"set-cookie", b"who=a"), (b"location", other.url)], status=307)
        async with asking(provider, retries=1) as asked:
            with pytest.raises(LMError, match="307"):
                await asked()
            provider.status = 200
            await asked()
    assert len(other.asked) == 1
    assert not any(b"cookie" in headers for headers in provider.asked)


@pytest.mark.parametrize("piece", [b" " * 2**16, b": a comment\n" * 2**12], ids=["one line", "many lines"])
@pytest.mark.parametrize("emit", [None, Told()], ids=["whole", "streamed"])
async def test_an_answer_that_does_not_end_is_read_up_to_a_bound(emit, piece):
    async with asking(Provider(piece, is_endless=True), retries=0) as ask, asyncio.timeout(20):
        with pytest.raises(LMServerError, match="longer"):
            await ask(emit)


LIKE_OPENAI = {
    "id": "chatcmpl-" + "x" * 29,
    "model": "m" * 22,
    "system_fingerprint": "f" * 13,
    "obfuscation": "x" * 150,
}
LISTED = {"choices": [PART | {"logprobs": {"content": [[]] * 1000}}]}


async def test_a_stream_of_very_many_tokens_comes_whole():
    token = LIKE_OPENAI | {"choices": [{"index": 0, "delta": {"content": "the "}}]}
    stream = events(*[token] * 20_000, {"choices": [PART]})
    assert len(stream) > LONGEST_ANSWER
    async with asking(Provider(stream)) as ask:
        assert (await ask(Told()))[0] == ["the " * 20_000 + WORDS]


@pytest.mark.parametrize(
    "stream",
    [
        events({"choices": [PART], "other": "x" * LONGEST_ANSWER}),
        events(*[{"choices": [PART | {"delta": {"content": "x" * 2**16}}]}] * 65),
        events(*[{"choices": [PART | {"delta": {"reasoning_content": "x" * 2**16}}]}] * 65),
        events(*[LISTED] * (1 + LONGEST_ANSWER // 3000)),
    ],
    ids=["one event", "text", "reasoning", "lists"],
)
async def test_what_is_kept_of_a_stream_is_no_longer_than_an_answer_may_be(stream):
    async with asking(Provider(stream), retries=0) as ask:
        with pytest.raises(LMServerError, match="longer"):
            await ask(Told())


async def test_a_long_event_comes_whole_and_a_short_one_in_the_midst_of_bytes():
    words = "é" * 500_000
    told = Told()
    async with asking(Provider(events({"choices": [PART | {"delta": {"content": words}}]}))) as ask:
        assert (await ask(told))[0] == [words]
    assert told.text == words
