"""What is read of others: the JSON lines that processes of one pod exchange (a supervisor and its workers, whoever
scores and who is scored), and bodies that are no longer than they may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

LONGEST_LINE = 2**22
RECORDS = b"R"
"""So begins a line that is no document of its own but a list of what a worker has executed."""


class TooLong(Exception):
    """A body that nobody reads to its end."""


async def read_at_most(chunks: AsyncIterable[bytes], most: int) -> bytes:
    """A body as it comes; raises TooLong for one of more bytes."""
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise TooLong
    return body


async def next_line(reader: asyncio.StreamReader) -> bytes:
    """The next line, or nothing when the other process has gone: also if a write noticed that first, if something was
    left unread, which the reader is told as an error, or if it went in the middle of a line."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return b""
    return line if line.endswith(b"\n") else b""
