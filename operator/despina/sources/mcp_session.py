"""Sessions with MCP servers, which are anybody's: what they answer is bounded, as `answers` bounds the others'."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from despina.sources.answers import MOST_BYTES, PLAIN, TooLong, no_cookies, refuse_packed


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends with TooLong where it goes on and on."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for chunk in self._stream:
            count += len(chunk)
            if count > MOST_BYTES:
                raise TooLong
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Transport(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        refuse_packed(response.headers)
        response.stream = _Bounded(response.stream)  # type: ignore[arg-type]
        return response


def _http(headers: dict[str, Any] | None = None, timeout: Any = None, auth: Any = None) -> httpx2.AsyncClient:
    """Whoever looks has a time-out of his own for the whole."""
    return httpx2.AsyncClient(
        transport=_Transport(),
        headers={**PLAIN, **(headers or {})},
        timeout=timeout or httpx2.Timeout(None),
        auth=auth,
        cookies=no_cookies(),
    )


@contextlib.asynccontextmanager
async def session(url: str, headers: dict[str, str], is_sse: bool) -> AsyncIterator[Any]:
    """A session of the official SDK; raises what its transports raise, groups included."""
    async with _http(headers) as http:
        by_sse = sse_client(url, headers=headers, httpx_client_factory=_http) if is_sse else None
        async with Client(by_sse or streamable_http_client(url, http_client=http)) as client:
            yield client
