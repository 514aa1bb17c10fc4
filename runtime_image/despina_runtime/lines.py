"""What is read of others: the JSON lines that processes of one pod exchange (a supervisor and its workers, whoever
scores and who is scored), and bodies that are no longer than they may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

LONGEST_LINE = 2**22
RECORDS = b"R"
"""So begins a line that is no document of its own but a list of what a worker has executed."""
TRACED = b"T"
"""And so one that lists what it has only answered again, for the traces of those who ask for them."""


class TooLong(Exception):
    """A body that nobody reads to its end."""


async def read_at_most(chunks: AsyncIterable[bytes], most: int) -> bytes:
    """A body as it comes; raises TooLong for one of more bytes."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise TooLong
    return bytes(body)


class GaveWay(Exception):
    """A body that is read no further, for others came when there was no room for all."""


class Intake:
    """Bodies that are read before it is known who sends them. Together they are no longer than `most`: where more
    comes, the one that began first gives way, for whoever means it sends all of his at once."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._begun: dict[object, bytearray] = {}

    async def read(self, chunks: AsyncIterable[bytes], most: int) -> bytes:
        """A body as it comes; raises TooLong for one of more bytes, and GaveWay."""
        this = object()
        self._begun[this] = bytearray()
        try:
            async for chunk in chunks:
                self._add(this, chunk)
                if len(self._read_of(this)) > most:
                    raise TooLong
            return bytes(self._read_of(this))
        finally:
            self._drop(this)

    def _add(self, this: object, chunk: bytes) -> None:
        self._read_of(this).extend(chunk)
        self._size += len(chunk)
        while self._size > self._most:
            self._drop(next(iter(self._begun)))

    def _read_of(self, this: object) -> bytearray:
        if (found := self._begun.get(this)) is None:
            raise GaveWay
        return found

    def _drop(self, this: object) -> None:
        self._size -= len(self._begun.pop(this, b""))


async def next_line(reader: asyncio.StreamReader) -> bytes:
    """The next line, or nothing when the other process has gone: also if a write noticed that first, if something was
    left unread, which the reader is told as an error, or if it went in the middle of a line."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return b""
    return line if line.endswith(b"\n") else b""
