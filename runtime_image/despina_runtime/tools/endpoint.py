"""The endpoints of a backend: where they are, how they do, and one attempt to call one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
from pydantic_core import from_json, to_json

from despina.api.breaking import OK
from despina.wire import DEADLINE_HEADER, DRAINING_HEADER, EXECUTED_HEADER, TOOLS_PATH, ToolBackend
from despina_runtime.breaker import Breaker
from despina_runtime.lm.target import KeyFile
from despina_runtime.tools.routing import FAILURES, Fate, View

CONNECT_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 60
LIMITED_SECONDS = 1.0
SLOW_SECONDS = 5.0
LEAVING_SECONDS = 10.0
"""By then the name of a host that was told to end stands for its successor, or it says once more that it will end."""
RESOLVE_SECONDS = 5.0
# A peer that has gone without a word is noticed within seconds, while one that is only slow still acknowledges.
SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", 0), 2),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", 0), 1),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", 0), 3),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 0), 4000),
)


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended: a result, or why there is none."""

    fate: Fate
    result: Any = None
    message: str = ""
    retry_after: float = 0.0
    is_leaving: bool = False
    """The endpoint said that it is about to end."""


@dataclass(frozen=True)
class Request:
    """One call, as it is sent to whichever endpoint."""

    tool: str
    arguments: dict[str, Any]
    deadline: float
    """The event loop's time at which the attempt must have ended."""
    trace: tuple[tuple[str, str], ...] = ()
    """Headers of the caller's trace (https://www.w3.org/TR/trace-context/)."""


class Transport(Protocol):
    """How a kind of backend is spoken to."""

    async def send(self, request: Request) -> Outcome:
        """One attempt; never raises but for cancellation."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


def make_session() -> aiohttp.ClientSession:
    """One pool of connections for all tools of a worker."""

    def make_socket(address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        for level, option, value in SOCKET_OPTIONS:
            if option:
                made.setsockopt(level, option, value)
        return made

    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, socket_factory=make_socket)
    timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS)
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, trace_configs=[trace])


async def _note_reuse(_session: Any, context: Any, _params: Any) -> None:
    context.trace_request_ctx.append("reused")


class HttpTransport:
    """`POST /tools/NAME/execute`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: KeyFile, keeps: bool = True) -> None:
        """`keeps`: whether connections are used again; one through a Service would stay with its pod."""
        self._session, self._token = session, token
        self._own = {"content-type": "application/json"} | ({} if keeps else {"connection": "close"})
        self._url = f"{url.rstrip('/')}{TOOLS_PATH}"

    async def send(self, request: Request) -> Outcome:
        """One attempt."""
        left = request.deadline - asyncio.get_running_loop().time()
        headers = {**self._own, DEADLINE_HEADER: f"{left:.3f}", **dict(request.trace)}
        if token := self._token.read():
            headers["authorization"] = f"Bearer {token}"
        url = f"{self._url}/{request.tool}/execute"
        seen: list[str] = []
        try:
            async with (
                asyncio.timeout_at(request.deadline),
                self._session.post(
                    url, data=to_json(request.arguments, inf_nan_mode="null"), headers=headers, trace_request_ctx=seen
                ) as response,
            ):
                return outcome_of(response, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            return Outcome(Fate.UNREACHED, message=type(exc).__name__)
        except TimeoutError:
            return Outcome(Fate.TIMEOUT, message="no answer in time")
        except (aiohttp.ClientError, OSError) as exc:
            return Outcome(Fate.STALE if seen else Fate.BROKEN, message=type(exc).__name__)

    async def close(self) -> None:
        """The session is the grid's."""


def outcome_of(response: aiohttp.ClientResponse, body: bytes) -> Outcome:
    """What an answer means."""
    try:
        document = from_json(body)
    except ValueError:
        document = {}
    is_leaving = response.headers.get(DRAINING_HEADER) == "yes"
    if response.status == 200 and isinstance(document, dict) and "result" in document:
        return Outcome(Fate.DONE, document["result"], is_leaving=is_leaving)
    message = f"status {response.status}"
    if isinstance(document, dict) and isinstance(document.get("title"), str):
        message = ": ".join(t for t in (document["title"], str(document.get("detail") or "")) if t)[:500]
    pause = _seconds(response.headers.get("retry-after"))
    return Outcome(_fate(response), message=message, retry_after=pause, is_leaving=is_leaving)


def _fate(response: aiohttp.ClientResponse) -> Fate:
    if response.status == 429:
        return Fate.LIMITED
    if response.headers.get(EXECUTED_HEADER) == "no":
        return Fate.INVALID if response.status in (400, 422) else Fate.REFUSED
    if response.status in (401, 403, 404):
        return Fate.REFUSED
    return Fate.INVALID if 400 <= response.status < 500 else Fate.ERROR


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text)) if text else 0.0
    except ValueError:
        return 0.0


@dataclass
class Endpoint:
    """One address of a backend, as this worker has seen it do."""

    backend: ToolBackend
    transport: Transport
    breaker: Breaker
    slow_seconds: float | None
    clock: Callable[[], float] = time.monotonic
    in_flight: int = 0
    last_used: int = 0
    limited_until: float = 0.0
    slow_until: float = 0.0
    leaving_until: float = 0.0
    started: list[float] = field(default_factory=list)
    """When the calls under way began."""

    def view(self, most: int) -> View:
        """The endpoint as routing sees it, where so many calls may be under way."""
        now = self.clock()
        return View(
            priority=self.backend.priority,
            weight=self.backend.weight,
            in_flight=self.in_flight,
            last_used=self.last_used,
            is_open=not self.breaker.is_admitting,
            is_limited=now < self.limited_until,
            is_slow=self._is_slow(now),
            is_leaving=now < self.leaving_until,
            is_full=self.in_flight >= most,
        )

    def _is_slow(self, now: float) -> bool:
        """For a few seconds after a slow call, or while one that is under way has become slow."""
        limit = self.slow_seconds
        if limit is None:
            return False
        return now < self.slow_until or any(now - began > limit for began in self.started)

    async def call(self, request: Request, turn: int) -> Outcome:
        """One attempt; what it shows is remembered."""
        ticket = self.breaker.admit()
        if ticket is None:
            return Outcome(Fate.REFUSED, message="its breaker is open")
        began = self.clock()
        self.last_used = turn
        self.in_flight += 1
        self.started.append(began)
        try:
            outcome = await self.transport.send(request)
        except BaseException:
            self.breaker.release(ticket)
            raise
        finally:
            self.in_flight -= 1
            self.started.remove(began)
        self._learn(outcome, ticket, began)
        return outcome

    def _learn(self, outcome: Outcome, ticket: int, began: float) -> None:
        now = self.clock()
        self.breaker.record(ticket, outcome.fate.value if outcome.fate in FAILURES else OK)
        if outcome.is_leaving:
            self.leaving_until = now + LEAVING_SECONDS
        if outcome.fate is Fate.LIMITED:
            self.limited_until = now + (outcome.retry_after or LIMITED_SECONDS)
        if self.slow_seconds is not None and now - began > self.slow_seconds:
            self.slow_until = now + SLOW_SECONDS


Lookup = Callable[[str, int], Awaitable[list[str]]]


async def lookup(host: str, port: int) -> list[str]:
    """The addresses of a host name, each in the form that stands in a URL."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(info[4][0]) for info in found)
    return [f"[{a}]" if ":" in a else a for a in addresses]


class Addresses:
    """What a host name stands for, looked up again every five seconds and after a connection failed.

    While the name cannot be looked up, what was known last stays.
    """

    def __init__(self, url: str, look: Lookup = lookup, clock: Callable[[], float] = time.monotonic) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._form = f"{parts.scheme}://{{}}:{self._port}{parts.path}"
        self._look, self._clock = look, clock
        self._known: list[str] = []
        self._at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def get(self) -> list[str]:
        """The URLs of all addresses; waits only for the first look-up."""
        if self._clock() - self._at > RESOLVE_SECONDS:
            self._begin()
        if not self._known and self._looking:
            await asyncio.shield(self._looking)
        return [self._form.format(address) for address in self._known]

    def suspect(self) -> None:
        """A connection failed: look again now."""
        self._at = float("-inf")
        self._begin()

    def _begin(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        self._at = self._clock()
        try:
            self._known = await self._look(self._host, self._port) or self._known
        except OSError:
            return
