"""MCP servers as backends, through the official SDK (https://github.com/modelcontextprotocol/python-sdk)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from despina.wire import ToolBackend
from despina_runtime.lm.target import KeyFile
from despina_runtime.tools.endpoint import CONNECT_SECONDS, Outcome, Request
from despina_runtime.tools.routing import Fate

log = logging.getLogger(__name__)
CONNECT_FACTOR = 5  # a handshake is a few requests
ANSWERS = {-32601: Fate.REFUSED, -32602: Fate.INVALID, -32603: Fate.ERROR}
"""What a server says of one call (https://www.jsonrpc.org/specification#error_object); after any other the session
is of no more use."""


class McpTransport:
    """One session with one server, opened at the first call and again after it broke.

    The SDK wants a session to be entered and left by one task, so each lives in a task of its own.
    """

    def __init__(self, backend: ToolBackend, token: KeyFile) -> None:
        self._backend, self._token = backend, token
        self._client: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()

    async def send(self, request: Request) -> Outcome:
        """One attempt."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(request.deadline, now + CONNECT_SECONDS * CONNECT_FACTOR)):
                client = await asyncio.shield(self._connected())
        except Exception as exc:  # the SDK raises what its transports raise, groups included
            await self._drop()
            return Outcome(Fate.UNREACHED, message=type(exc).__name__)
        return await self._call(client, request)

    async def _call(self, client: Any, request: Request) -> Outcome:
        from mcp import MCPError

        try:
            async with asyncio.timeout_at(request.deadline):
                found = await client.call_tool(request.tool, request.arguments, meta=dict(request.trace) or None)
        except TimeoutError:
            return Outcome(Fate.TIMEOUT, message="no answer in time")
        except MCPError as exc:
            fate = ANSWERS.get(exc.error.code)
            if fate is None:
                await self._drop()
            return Outcome(fate or Fate.BROKEN, message=str(exc)[:500])
        except Exception as exc:
            await self._drop()
            return Outcome(Fate.BROKEN, message=type(exc).__name__)
        if found.is_error:
            return Outcome(Fate.ERROR, message=_text(found)[:500])
        return Outcome(Fate.DONE, result_of(found))

    def _connected(self) -> asyncio.Future[Any]:
        if self._client is None:
            self._client = asyncio.get_running_loop().create_future()
            self._leave = asyncio.Event()
            self._task = asyncio.create_task(self._live(self._client, self._leave))
        return self._client

    async def _live(self, ready: asyncio.Future[Any], leave: asyncio.Event) -> None:
        from mcp import Client

        try:
            async with transport_to(self._backend, self._token.read()) as transport, Client(transport) as client:
                if not ready.done():
                    ready.set_result(client)
                await leave.wait()
        except Exception as exc:
            log.info("MCP session ended url=%s error=%s", self._backend.url, type(exc).__name__)
            if not ready.done():
                ready.set_exception(ConnectionError(type(exc).__name__))
                ready.exception()  # seen here: nobody may be waiting any more
        finally:
            if self._client is ready:
                self._client = None

    async def _drop(self) -> None:
        """The next call opens a session anew."""
        self._client = None
        self._leave.set()

    async def close(self) -> None:
        """End the session."""
        await self._drop()
        if self._task:
            with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, 1)


@contextlib.asynccontextmanager
async def transport_to(backend: ToolBackend, token: str | None) -> AsyncIterator[Any]:
    """The SDK's transport for a backend, with its bearer token."""
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if backend.transport == "SSE":
        yield sse_client(backend.url, headers=headers)
    else:
        async with create_mcp_http_client(headers=headers) as client:
            yield streamable_http_client(backend.url, http_client=client)


def result_of(found: Any) -> Any:
    """A result as JSON: its structured content, where a lone `result` stands for a value that is no object; else its
    text, as JSON if it is that."""
    content = found.structured_content
    if isinstance(content, dict) and set(content) == {"result"}:
        return content["result"]
    if content is not None:
        return content
    text = _text(found)
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


def _text(found: Any) -> str:
    return "\n".join(part.text for part in found.content if part.type == "text")
