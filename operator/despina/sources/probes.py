"""Looking at the backends of tools: are they there, and do they offer what the contract says?

Each tool has a task that looks at all of its backends in one round, and wakes the tool when a round showed something
new.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from despina.decide.tool import Look
from despina.sources.answers import MOST_BYTES, TooLong, body_of
from despina.wire import TOOLS_PATH, HostReport, OfferedTool

log = logging.getLogger(__name__)
Key = tuple[str, str]
CONNECT_SECONDS = 3.0


@dataclass(frozen=True)
class Target:
    """How one backend is looked at."""

    backend: str
    tool: str
    """The tool's name there."""
    kind: Literal["Http", "Mcp"]
    urls: tuple[str, ...]
    """Where it is asked what it offers: its pods' admin ports, or its one address."""
    call_urls: tuple[str, ...] = ()
    """Where it is called, for probe Call."""
    probe: Literal["Contract", "TCP", "Call"] = "Contract"
    arguments: Mapping[str, Any] | None = None
    transport: Literal["StreamableHTTP", "SSE"] = "StreamableHTTP"
    token: str | None = field(default=None, repr=False)


class Failed(Exception):
    """A look failed; the text says how, without any address or secret."""


class TooSlow(Exception):
    """It is there, but it took too long."""


@dataclass
class _Watch:
    targets: tuple[Target, ...] = ()
    period: float = 30.0
    timeout: float = 10.0
    looks: dict[str, Look] = field(default_factory=dict)
    again: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Probes:
    """What all tools' backends showed last."""

    def __init__(self, client: httpx.AsyncClient, wake: Callable[[Key], None]) -> None:
        self._client = client
        self._wake = wake
        self._watches: dict[Key, _Watch] = {}

    def looks(self, tool: Key) -> Mapping[str, Look]:
        """The last looks at a tool's backends."""
        watch = self._watches.get(tool)
        return dict(watch.looks) if watch else {}

    def watch(self, tool: Key, targets: tuple[Target, ...], period: float, timeout: float) -> None:
        """What to look at from now on, every `period` seconds; at once if that is something else than before."""
        watch = self._watches.setdefault(tool, _Watch())
        is_new = targets != watch.targets
        watch.targets, watch.period, watch.timeout = targets, period, timeout
        present = {t.backend for t in targets}
        watch.looks = {name: look for name, look in watch.looks.items() if name in present}
        if watch.task is None:
            watch.task = asyncio.create_task(self._rounds(tool, watch), name=f"probe {tool}")
        elif is_new:
            watch.again.set()

    def forget(self, tool: Key) -> None:
        """Look no more."""
        watch = self._watches.pop(tool, None)
        if watch and watch.task:
            watch.task.cancel()

    async def close(self) -> None:
        """Look at nothing any more."""
        for tool in list(self._watches):
            self.forget(tool)
        await self._client.aclose()

    async def _rounds(self, tool: Key, watch: _Watch) -> None:
        while True:
            watch.again.clear()
            before = dict(watch.looks)
            targets = [t for t in watch.targets if t.urls]
            looks = (self._look(t, before.get(t.backend, Look()), watch.timeout) for t in targets)
            found = await asyncio.gather(*looks)
            watch.looks |= {t.backend: look for t, look in zip(targets, found, strict=True)}
            if watch.looks != before:
                self._wake(tool)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(watch.period):
                    await watch.again.wait()

    async def _look(self, target: Target, before: Look, timeout: float) -> Look:  # noqa: ASYNC109 - of the look
        try:
            async with asyncio.timeout(timeout):
                return await self._seen(target)
        except (TooSlow, TimeoutError):
            return replace(before, failures=0, error="", is_slow=True)
        except Exception as exc:  # whatever a user's address leads to must not end the rounds
            error = str(exc) if isinstance(exc, Failed) else f"the look failed: {type(exc).__name__}"
            return replace(before, failures=before.failures + 1, error=error, is_slow=False)

    async def _seen(self, target: Target) -> Look:
        if target.probe == "TCP":
            await _connect(target.urls[0])
            return Look(has_answered=True, is_unchecked=True)
        reports = await (_listed(target) if target.kind == "Mcp" else self._reported(target))
        offers = tuple(report[target.tool] for report in reports if target.tool in report)
        if target.probe == "Call" and offers:
            await self._call(target)
        others = tuple(sorted({name for report in reports for name in report}))[:20]
        return Look(offers=offers, has_answered=True, others=others)

    async def _reported(self, target: Target) -> list[dict[str, OfferedTool]]:
        """What each address says; those that fail do not count while another answers."""
        found = await asyncio.gather(*(self._report(url, target) for url in target.urls), return_exceptions=True)
        reports = [f for f in found if isinstance(f, dict)]
        error = next((f for f in found if isinstance(f, BaseException)), None)
        if error and not reports:
            raise error
        return reports

    async def _report(self, url: str, target: Target) -> dict[str, OfferedTool]:
        body = await self._send("GET", f"{url.rstrip('/')}{TOOLS_PATH}", target)
        try:
            return HostReport.model_validate_json(body).tools
        except ValidationError:
            raise Failed(f"GET {TOOLS_PATH} gave something else than a list of tools") from None

    async def _call(self, target: Target) -> None:
        if target.kind == "Mcp":
            await _called(target)
            return
        url = f"{target.call_urls[0].rstrip('/')}{TOOLS_PATH}/{target.tool}/execute"
        await self._send("POST", url, target, json=dict(target.arguments or {}))

    async def _send(self, method: str, url: str, target: Target, **options: Any) -> bytes:
        headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
        what = f"{method} {urlsplit(url).path}"
        try:
            async with self._client.stream(method, url, headers=headers, **options) as response:
                if response.status_code != 200:
                    raise Failed(f"{what} was answered with status {response.status_code}")
                return await body_of(response)
        except TooLong:
            raise Failed(f"{what} gave more than {MOST_BYTES // 2**20} MiB") from None
        except httpx.ReadTimeout:
            raise TooSlow from None
        except httpx.HTTPError as exc:
            raise Failed(f"{what} failed: {type(exc).__name__}") from None


async def _connect(url: str) -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), CONNECT_SECONDS)
    except (OSError, TimeoutError) as exc:
        raise Failed(f"no connection: {type(exc).__name__}") from None
    writer.close()


@contextlib.asynccontextmanager
async def _client(target: Target) -> Any:
    """A session; the SDK is imported only where there is an MCP server to look at."""
    from despina.sources.mcp_session import session

    headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
    try:
        async with session(target.urls[0], headers, target.transport == "SSE") as client:
            yield client
    except TimeoutError:
        raise
    except Exception as exc:  # the SDK raises what its transports raise, groups included
        raise Failed(f"the MCP session failed: {type(exc).__name__}") from None


async def _listed(target: Target) -> list[dict[str, OfferedTool]]:
    """What an MCP server offers. A result that it wraps as `result` is compared without the wrapping."""
    async with _client(target) as client:
        tools = (await client.list_tools()).tools
    return [
        {
            t.name: OfferedTool(
                description=t.description or "", parameters=t.input_schema, returns=_unwrapped(t.output_schema)
            )
            for t in tools
        }
    ]


def _unwrapped(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    properties = (schema or {}).get("properties") or {}
    if schema is None or set(properties) != {"result"}:
        return schema
    defs = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {**properties["result"], **defs}


async def _called(target: Target) -> None:
    async with _client(target) as client:
        found = await client.call_tool(target.tool, dict(target.arguments or {}))
    if found.is_error:
        raise Failed("the call failed")
