"""The few ASGI pieces that the hot path needs; Starlette alone would cost a third of a small answer's time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from despina_runtime.problem import MEDIA_TYPE, Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 16 * 2**20


class Disconnected(Exception):
    """The caller went away before the whole request had come."""


async def read_body(receive: Receive) -> bytes:
    """The request's body; a Problem 413 beyond the limit."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Problem(413, "body-too-large", "The body is too large", f"the limit is {MAX_BODY_BYTES} bytes")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def send_body(
    send: Send, status: int, body: bytes, media_type: bytes = b"application/json", headers: Iterable[Any] = ()
) -> None:
    """One whole answer."""
    fixed = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem, headers: Iterable[Any] = ()) -> None:
    """One error answer."""
    await send_body(send, problem.status, problem.body(), MEDIA_TYPE, headers)


def with_headers(send: Send, headers: Callable[[], list[tuple[bytes, bytes]]]) -> Send:
    """A `send` that adds headers, asked for at the moment the answer starts."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers()]
        await send(message)

    return adding
