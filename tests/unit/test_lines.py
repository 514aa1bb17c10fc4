"""A line, or nothing when the other process has gone, however it went."""

from __future__ import annotations

import asyncio

import pytest

from despina_runtime.lines import next_line


@pytest.mark.parametrize("how", [None, BrokenPipeError(), ConnectionResetError()])
async def test_the_end_is_the_end(how):
    """A write that meets the other's end first leaves its error to whoever reads."""
    reader = asyncio.StreamReader()
    reader.feed_data(b"one\n")
    assert await next_line(reader) == b"one\n"
    if how:
        reader.set_exception(how)
    else:
        reader.feed_eof()
    assert await next_line(reader) == b""


async def test_half_of_a_line_is_none():
    """Who was killed while it wrote has said nothing with that."""
    reader = asyncio.StreamReader()
    reader.feed_data(b'{"state": {')
    reader.feed_eof()
    assert await next_line(reader) == b""
