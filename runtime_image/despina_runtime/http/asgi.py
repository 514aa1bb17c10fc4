"""The few ASGI pieces that the hot path needs; Starlette alone would cost a third of a small answer's time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any

from despina_runtime.lines import GaveWay, Intake, TooLong
from despina_runtime.messages import Message, Receive
from despina_runtime.problem import MEDIA_TYPE, Disconnected, Problem

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]
MOST_BODIES = 256
"""Of the longest that there may be: more is not kept of bodies that have not come whole."""
PING_SECONDS = 15.0
EVENTS = b"text/event-stream"
JSON_KINDS = b"application/json", b"application/*", b"*/*"


async def read_body(receive: Receive, limit: int) -> bytes:
    """The request's body; a Problem 413 beyond so many bytes."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise Disconnected
    if not message.get("more_body") and len(body) <= limit:
        return body
    return await _read_rest(receive, body, limit)


async def _read_rest(receive: Receive, first: bytes, limit: int) -> bytes:
    try:
        return await _intake(limit).read(_chunks(receive, first), limit)
    except TooLong:
        raise Problem(413, "body-too-large", "The body is too large", f"the limit is {limit} bytes") from None
    except GaveWay:
        raise Problem(503, "overloaded", "Too many bodies are being sent at once", retry_after=1.0) from None


@lru_cache(16)
def _intake(limit: int) -> Intake:
    return Intake(MOST_BODIES * limit)


async def _chunks(receive: Receive, first: bytes) -> AsyncIterator[bytes]:
    yield first
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def send_body(
    send: Send, status: int, body: bytes, media_type: bytes = b"application/json", headers: Iterable[Header] = ()
) -> None:
    """One whole answer."""
    fixed = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem, headers: Iterable[Header] = ()) -> None:
    """One error answer."""
    await send_body(send, problem.status, problem.body(), MEDIA_TYPE, [*problem.headers(), *headers])


def with_headers(send: Send, headers: Callable[[], list[Header]]) -> Send:
    """A `send` that adds headers, asked for at the moment the answer starts."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers()]
        await send(message)

    return adding


def wants_events(accept: bytes) -> bool:
    """Whether an Accept header, in small letters, asks for events, and for JSON no more than for them (RFC 9110)."""
    wanted = dict(map(_preference, accept.split(b",")))
    json = next((wanted[kind] for kind in JSON_KINDS if kind in wanted), 0.0)
    return wanted.get(EVENTS, 0.0) >= max(json, 0.001)  # the least that is not nothing


def _preference(entry: bytes) -> tuple[bytes, float]:
    kind, *parameters = (part.strip() for part in entry.split(b";"))
    weights = [p[2:] for p in parameters if p.startswith(b"q=")]
    try:
        return kind, float(weights[0]) if weights else 1.0
    except ValueError:
        return kind, 1.0


class EventStream:
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) as an answer."""

    def __init__(self, send: Send, headers: Callable[[], list[Header]]) -> None:
        self.started = False
        self._send = send
        self._headers = headers
        self._turn = asyncio.Lock()

    async def tell(self, event: str, data: bytes) -> None:
        """One event; `data` is JSON, which holds no line break."""
        await self._write(b"event: %s\ndata: %s\n\n" % (event.encode(), data))

    async def keep_alive(self) -> None:
        """A comment now and then, which clients pass over: proxies end connections on which nothing comes."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self._write(b": ping\n\n")

    async def _write(self, text: bytes) -> None:
        async with self._turn:
            if not self.started:
                self.started = True
                fixed = [(b"content-type", EVENTS), (b"cache-control", b"no-cache")]
                await self._send({"type": "http.response.start", "status": 200, "headers": [*fixed, *self._headers()]})
            await self._send({"type": "http.response.body", "body": text, "more_body": True})

    async def end(self) -> None:
        """Nothing more comes."""
        await self._send({"type": "http.response.body", "body": b""})
