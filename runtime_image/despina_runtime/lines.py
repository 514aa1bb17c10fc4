"""The JSON lines that processes of one pod exchange: a supervisor and its workers, whoever scores and who is scored."""

from __future__ import annotations

import asyncio

LONGEST_LINE = 2**22
RECORDS = b"R"
"""So begins a line that is no document of its own but a list of what a worker has executed."""


async def next_line(reader: asyncio.StreamReader) -> bytes:
    """The next line, or nothing when the other process has gone: also if a write noticed that first, if something was
    left unread, which the reader is told as an error, or if it went in the middle of a line."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return b""
    return line if line.endswith(b"\n") else b""
