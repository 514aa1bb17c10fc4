"""Short questions to thousands of pods every few seconds, over connections that are kept: as little of HTTP/1.1 as pods
answer with, and so a third of a client's work.

One question at a time goes over a connection. An answer has a length and is not packed; whatever is longer, comes in
pieces, goes on behind its end or comes to no question is none, and ends the connection.
"""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_address
from typing import NamedTuple, cast

from despina.sources.answers import TooLong

MOST_HEAD = 8192
"""Bytes before a body."""
MOST_KEPT, KEPT_SECONDS = 4096, 60.0
"""Connections that wait for the next question, and for how long."""
STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d)[ \r]")
NOTHING_NEW = re.compile(rb"HTTP/1\.1 304[ \r]")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9}) *\r\n", re.I)
REFUSED = re.compile(rb"\r\n(?:transfer-encoding|content-encoding: *(?!identity *\r\n))", re.I)
ENDS = re.compile(rb"\r\nconnection: *close", re.I)
TAG = re.compile(rb'\r\netag: *("[\w-]{1,64}") *\r\n', re.I)


class Reply(NamedTuple):
    """What was answered."""

    status: int
    tag: str
    """The ETag, to be shown with the next question; empty for one that is none of ours."""
    body: bytes


class NoAnswer(Exception):
    """What came is no answer, or nothing did."""


class TooLate(NoAnswer):
    """Nothing whole came in time."""


class Line(asyncio.Protocol):
    """A connection to one pod."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._said = bytearray()
        self._least = 0
        """Bytes that an answer has at least, as far as is known: until they are there, nothing is looked for."""
        self._transport: asyncio.Transport | None = None
        self._asked: asyncio.Future[Reply] | None = None
        self.is_open = True
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It can be asked."""
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, question: bytes) -> Reply:
        """Raises NoAnswer and TooLong."""
        loop = asyncio.get_running_loop()
        if not self.is_open or not self._transport:
            raise NoAnswer
        self._asked = loop.create_future()
        timer = loop.call_later(self._seconds, self.end, TooLate())  # a third of what asyncio.timeout() takes
        self._transport.write(question)
        try:
            return await self._asked
        finally:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        if not self._asked or self._asked.done():  # and would be kept for as long as the connection is
            self.end(NoAnswer())
            return
        self._said += data
        if len(self._said) < self._least:
            return
        try:
            reply = self._reply()
        except (NoAnswer, TooLong) as exc:
            self.end(exc)
            return
        if reply:
            self._asked.set_result(reply)

    def _reply(self) -> Reply | None:
        end = self._said.find(b"\r\n\r\n", 0, MOST_HEAD)
        if end < 0 and len(self._said) < MOST_HEAD:
            return None
        head = bytes(self._said[: end + 2])
        status, tag, length = STATUS.match(head), TAG.search(head), _length(head)
        whole = end + 4 + length
        if not status or end < 0 or REFUSED.search(head) or len(self._said) > whole:
            raise NoAnswer
        if length > self._most:
            raise TooLong
        if len(self._said) < whole:
            self._least = whole
            return None
        reply = Reply(int(status[1]), tag[1].decode() if tag else "", bytes(self._said[end + 4 :]))
        self.is_open = self.is_open and not ENDS.search(head)
        self._said, self._least = bytearray(), 0
        return reply

    @property
    def has_begun(self) -> bool:
        """Whether there is a part of an answer, so that the question was heard."""
        return bool(self._said)

    def connection_lost(self, exc: Exception | None) -> None:
        """The pod ended it, or we did."""
        self.end(NoAnswer())

    def end(self, why: Exception) -> None:
        """No question any more."""
        self.is_open = False
        if self._asked and not self._asked.done():
            self._asked.set_exception(why)
        if self._transport:
            self._transport.abort()


def _length(head: bytes) -> int:
    """Of the body; raises NoAnswer where that is not said."""
    found = LENGTH.search(head)
    if NOTHING_NEW.match(head):
        return 0
    if not found:
        raise NoAnswer
    return int(found[1])


class Lines:
    """The connections that are kept, by pods' addresses."""

    def __init__(self, port: int, most: int, seconds: float) -> None:
        """`most`: bytes of an answer; `seconds`: until it is whole, and until there is a connection."""
        self._port, self._most, self._seconds = port, most, seconds
        self._kept: dict[str, Line] = {}

    async def ask(self, ip: str, path: str, headers: str) -> Reply:
        """`headers` are whole lines. Raises NoAnswer, TooLong, OSError (TimeoutError
        among them), and ValueError for what is no address."""
        host = f"[{ip}]" if ":" in ip else ip
        question = f"GET {path} HTTP/1.1\r\nHost: {host}:{self._port}\r\n{headers}\r\n".encode("ascii")
        kept = self._kept.pop(ip, None)
        if kept and kept.is_open:
            try:
                return await self._over(kept, ip, question)
            except NoAnswer as exc:
                if kept.has_begun or isinstance(exc, TooLate):
                    raise
        return await self._over(await self._new(ip), ip, question)

    async def _new(self, ip: str) -> Line:
        ip_address(ip)  # a name would be looked up
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._seconds):
            _, line = await loop.create_connection(lambda: Line(self._most, self._seconds), ip, self._port)
        return line

    async def _over(self, line: Line, ip: str, question: bytes) -> Reply:
        try:
            reply = await line.ask(question)
        except BaseException:
            line.end(NoAnswer())
            raise
        self._keep(line, ip) if line.is_open else line.end(NoAnswer())
        return reply

    def _keep(self, line: Line, ip: str) -> None:
        now = asyncio.get_running_loop().time()
        line.idle_since = now
        if before := self._kept.pop(ip, None):
            before.end(NoAnswer())
        self._kept[ip] = line
        oldest = next(iter(self._kept))
        if len(self._kept) > MOST_KEPT or now - self._kept[oldest].idle_since > KEPT_SECONDS:
            self._kept.pop(oldest).end(NoAnswer())

    def close(self) -> None:
        """End all."""
        for line in self._kept.values():
            line.end(NoAnswer())
        self._kept.clear()
