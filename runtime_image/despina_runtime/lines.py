"""The JSON lines that processes of one pod exchange: a supervisor and its workers, whoever scores and who is scored."""

from __future__ import annotations

import asyncio

LONGEST_LINE = 2**22


async def next_line(reader: asyncio.StreamReader) -> bytes:
    """The next line, or nothing when the other process has gone: also if a write noticed that first, or if something
    was left unread, which the reader is told as an error."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""
