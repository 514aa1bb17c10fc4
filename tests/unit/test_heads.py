"""An answer's head is what uvicorn would have written."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from despina_runtime.http.cycle import Cycle, head_of

LENGTH = (b"content-length", b"5")
HEADS = {
    "plain": (200, [LENGTH, (b"content-type", b"text/plain")]),
    "many, one twice": (200, [(b"x-a", b"1"), LENGTH, (b"x-b", b""), (b"x-a", b"2")]),
    "of an error": (503, [LENGTH, (b"retry-after", b"1")]),
    "of a connection that ends": (200, [LENGTH, (b"connection", b"close")]),
    "without a length": (200, [(b"content-type", b"text/plain")]),
    "in chunks": (200, [(b"transfer-encoding", b"chunked")]),
    "of no content": (204, [(b"x-a", b"1")]),
    "of no content, with a length": (204, [(b"content-length", b"5")]),
    "in capitals": (200, [(b"Content-Length", b"5"), (b"X-A", b"b")]),
    "with a line break in a value": (200, [LENGTH, (b"x-a", b"1\r\nx-b: 2")]),
    "with a space in a name": (200, [LENGTH, (b"x a", b"1")]),
    "of a prediction": (200, [LENGTH, (b"despina-prediction-id", b"abcd1234-01-0a~1f-00ff")]),
    "of a prediction, with a line break in its name": (200, [LENGTH, (b"despina-prediction-id", b"a\r\nx-b: 2")]),
    "with letters beyond ASCII": (200, [LENGTH, (b"x-a", "ü".encode("latin-1"))]),
}


class Transport:
    def __init__(self) -> None:
        self.written, self.is_closed = b"", False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def answered(kind: type[RequestResponseCycle], status: int, headers: list[Any], method: str, keep_alive: bool) -> Any:
    """What is written of an answer, and what is known of it afterwards."""
    transport: Any = Transport()
    log = logging.getLogger("uvicorn")

    async def answer() -> Any:
        scope: Any = {"method": method, "type": "http"}
        date = [(b"date", b"Mon, 30 Nov 2026 16:00:00 GMT")]
        cycle = kind(
            scope, transport, FlowControl(transport), log, log, False, date, asyncio.Event(), False, keep_alive,
            lambda: None,
        )  # fmt: skip
        try:
            await cycle.send({"type": "http.response.start", "status": status, "headers": headers})
            await cycle.send({"type": "http.response.body", "body": b"" if status == 204 else b"hello"})
        except RuntimeError as exc:
            return str(exc)
        return cycle.keep_alive, cycle.response_complete, cycle.chunked_encoding, transport.is_closed

    return asyncio.run(answer()), transport.written


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_what_uvicorn_would_have_written(head, method, keep_alive):
    status, headers = HEADS[head]
    ours, theirs = (answered(kind, status, headers, method, keep_alive) for kind in (Cycle, RequestResponseCycle))
    assert ours == theirs


def test_which_heads_are_written_fast():
    fast = {name for name, (status, headers) in HEADS.items() if head_of(status, headers, True)}
    assert fast == {"plain", "many, one twice", "of an error", "of a prediction", "with letters beyond ASCII"}
