"""A request and its answer as uvicorn has them, with a head that is written fast.

uvicorn searches each name and value of each answer's headers for what must not be in them, which is a fifth of what a
cached answer costs. Nearly all headers are the same from one answer to the next.
"""

from __future__ import annotations

import functools
from typing import Any

from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

Header = tuple[bytes, bytes]
LENGTH, NAME = b"content-length", b"despina-prediction-id"
PLAIN = b"0123456789abcdefghijklmnopqrstuvwxyz-~"
CLOSE = b"connection: close\r\n"
NO_CONTENT = 204, 304
_send = RequestResponseCycle.send


class Cycle(RequestResponseCycle):
    """Writes a head that says how long its body is; all else is uvicorn's."""

    async def send(self, message: Any) -> None:
        """A part of the answer."""
        if message["type"] == "http.response.start" and self._is_first():
            head = head_of(message["status"], [*self.default_headers, *message["headers"]], self.keep_alive)
            if head and self.scope["method"] != "HEAD":
                self.response_started, self.waiting_for_100_continue = True, False
                self.chunked_encoding, self.expected_content_length = False, head[1]
                self.transport.write(head[0])
                return
        await _send(self, message)

    def _is_first(self) -> bool:
        return not (self.response_started or self.disconnected or self.flow.write_paused or self.access_log)


def head_of(status: int, headers: list[Header], keep_alive: bool) -> tuple[bytes, int] | None:
    """An answer's head, and how long the body is; None where headers say anything else of the connection or the body,
    or cannot be sent."""
    lines, length = [STATUS_LINE[status]], None
    for header in headers:
        line = _line(header) if header[0] != NAME else _named(header)
        if line is None:
            return None
        lines.append(line)
        if header[0] == LENGTH:
            length = int(header[1])
    if length is None or status in NO_CONTENT:
        return None
    lines.append(b"\r\n" if keep_alive else CLOSE + b"\r\n")
    return b"".join(lines), length


def _named(header: Header) -> bytes | None:
    """The one that is another in each answer, so that keeping it is of no use."""
    return _line(header) if header[1].translate(None, PLAIN) else b"%s: %s\r\n" % header


@functools.lru_cache(1024)
def _line(header: Header) -> bytes | None:
    name, value = header
    if name in (b"connection", b"transfer-encoding") or name != name.lower():
        return None
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
        return None
    return b"%s: %s\r\n" % header


def write_heads_fast() -> None:
    """For all of uvicorn's connections from now on; it has no setting for it."""
    httptools_impl.RequestResponseCycle = Cycle  # type: ignore[misc]
