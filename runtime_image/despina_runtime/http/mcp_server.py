"""Programs and tools as MCP servers over streamable HTTP, through the official SDK.

Stateless: every request stands for itself, so that any replica may answer it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from despina_runtime.http.asgi import Scope, Send
from despina_runtime.messages import Receive
from despina_runtime.telemetry.context import PARENT, STATE

RECEIVE = "despina.receive"
"""Where a request's own receiver stands in its scope: the SDK hands on one that only replays the body."""
Told = tuple[bytes, dict[str, Any]]
"""A result as JSON, and what else a client may want to know of it (`_meta`)."""


class Refusal(Exception):
    """The call failed; the text is what the caller's LM is told."""


@dataclass(frozen=True)
class Offer:
    """One tool as an MCP client sees it."""

    name: str
    description: str
    parameters: dict[str, Any]
    returns: dict[str, Any]
    call: Callable[[dict[str, Any], dict[bytes, bytes], Receive | None], Awaitable[Told]]
    """Given the arguments, the request's headers, and where it is heard that the caller leaves. Raises Refusal."""


class McpEndpoint:
    """An ASGI application. The SDK is imported, and its tasks are started, at the first request."""

    def __init__(self, name: str, offers: Sequence[Offer], largest_body: int) -> None:
        """`largest_body`: a request beyond so many bytes is refused with 413."""
        self._name = name
        self._largest_body = largest_body
        self._offers = {offer.name: offer for offer in offers}
        self._manager: Any = None
        self._living: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if self._living is None:
            self._living = asyncio.create_task(self._live())
        await self._ready.wait()
        await self._manager.handle_request({**scope, RECEIVE: receive}, receive, send)

    async def _live(self) -> None:
        from mcp.server.lowlevel import Server
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        server: Any = Server(self._name, on_list_tools=self._list, on_call_tool=self._call)
        self._manager = StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=self._largest_body
        )
        async with self._manager.run():
            self._ready.set()
            await asyncio.Event().wait()

    async def _list(self, _: Any, __: Any) -> Any:
        from mcp_types import ListToolsResult, Tool

        tools = [
            Tool(name=o.name, description=o.description, input_schema=o.parameters, output_schema=as_object(o.returns))
            for o in self._offers.values()
        ]
        return ListToolsResult(tools=tools)

    async def _call(self, context: Any, params: Any) -> Any:
        from mcp import MCPError
        from mcp_types import INVALID_PARAMS, CallToolResult, TextContent

        offer = self._offers.get(params.name)
        if offer is None:
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name}")
        request = getattr(context, "request", None)
        headers, receive = (dict(request.scope["headers"]), request.scope[RECEIVE]) if request else ({}, None)
        headers |= {name.encode(): value.encode() for name, value in _context_of(params.meta).items()}
        try:
            result, meta = await offer.call(params.arguments or {}, headers, receive)
        except Refusal as exc:
            return CallToolResult(content=[TextContent(text=str(exc))], is_error=True)
        value = from_json(result)
        structured = value if is_object(offer.returns) else {"result": value}
        content = [TextContent(text=result.decode())]
        return CallToolResult(content=content, structured_content=structured, _meta=meta or None)

    async def close(self) -> None:
        """End its tasks."""
        if self._living:
            self._living.cancel()
            await asyncio.wait([self._living])


def _context_of(meta: Any) -> dict[str, str]:
    """The caller's trace, which stands beside a call's arguments and may be another than that of the HTTP request:
    https://github.com/open-telemetry/semantic-conventions-genai, `docs/mcp`."""
    found = meta if isinstance(meta, dict) else {}
    return {name: found[name] for name in (PARENT, STATE) if isinstance(found.get(name), str) and found[name].isascii()}


def is_object(schema: dict[str, Any]) -> bool:
    """Whether values of a schema are JSON objects."""
    return schema.get("type") == "object"


def as_object(schema: dict[str, Any]) -> dict[str, Any]:
    """MCP wants results to be objects: any other value is called `result` in one."""
    if is_object(schema):
        return schema
    inner = {k: v for k, v in schema.items() if k != "$defs"}
    defs = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {"type": "object", "properties": {"result": inner}, "required": ["result"], **defs}
