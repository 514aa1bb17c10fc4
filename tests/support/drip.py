"""A server that never comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx


class Drip(httpx.AsyncByteStream):
    """A body of which there is always more to come."""

    def __init__(self, chunk: bytes = b" ") -> None:
        self._chunk = chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield self._chunk
            await asyncio.sleep(0)
