"""The tool host: serves the functions of Python packages over plain HTTP and over MCP.

    POST /tools/NAME/execute   the arguments as a JSON object in, {"result": ...} out
    GET  /tools                what there is, with schemas
    POST /mcp                  the same tools for MCP clients

An answer that carries `despina-executed: no` says that nothing was executed, so that the call may be made elsewhere.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from despina.api.contract import differences, told
from despina.wire import (
    ADMIN_PORT,
    DEADLINE_HEADER,
    DRAINING_HEADER,
    EXECUTED_HEADER,
    POD_NAME_ENV,
    TOOLS_PATH,
    HostReport,
    OfferedTool,
    ToolHostConfig,
    ToolProblemReport,
)
from despina.wire.logs import FACTS
from despina_runtime.http.asgi import Header, Scope, Send, read_body, send_body, send_problem
from despina_runtime.http.mcp_server import McpEndpoint, Offer, Refusal, Told
from despina_runtime.http.prometheus import Dropped, metrics
from despina_runtime.http.server import EVERYWHERE, make_server, open_port
from despina_runtime.http.traces import hosted_route
from despina_runtime.messages import Receive
from despina_runtime.pipeline.admission import Slots
from despina_runtime.problem import Disconnected, Problem, invalid_input, place_of
from despina_runtime.surroundings import on_signals
from despina_runtime.telemetry.context import PARENT, STATE
from despina_runtime.telemetry.export import Exporter, exporter_of
from despina_runtime.telemetry.hosted import HostedTraces
from despina_runtime.tools.errors import LEFT, NotReady
from despina_runtime.tools.functions import Function, find_tools

log = logging.getLogger(__name__)
CALLS = Counter("despina_tool_host_calls_total", "Calls of a tool, by outcome.", ["tool", "outcome"])
SECONDS = Histogram("despina_tool_host_seconds", "How long executions took.", ["tool"])
IN_FLIGHT = Gauge("despina_tool_host_in_flight", "Calls under way, waiting ones included.")
REGISTRY.register(Dropped())
Headers = Mapping[bytes, bytes]
NOT_EXECUTED: Header = (EXECUTED_HEADER.encode(), b"no")
LEAVING: list[Header] = [(b"connection", b"close"), (DRAINING_HEADER.encode(), b"yes")]
LARGEST_BODY = 16 * 2**20
LONGEST_QUEUE = 1024
CHECK_SECONDS = 15.0
EXPORT_SECONDS = 1.0


class Tokens:
    """Who may call: each file of a folder holds the token of one namespace's callers; read again when it changes."""

    def __init__(self, folder: str | None) -> None:
        self._folder = Path(folder) if folder else None
        self._looked = float("-inf")
        self._tokens: list[bytes] = []

    def allow(self, headers: Headers) -> bool:
        """Whether a request may be answered. A folder without files lets nobody in."""
        if self._folder is None:
            return True
        given = headers.get(b"authorization", b"")
        return any(hmac.compare_digest(given, b"Bearer " + token) for token in self._read(self._folder))

    def _read(self, folder: Path) -> list[bytes]:
        now = time.monotonic()
        if now - self._looked > 1.0:
            self._looked = now
            files = [p for p in folder.glob("[!.]*") if p.is_file()] if folder.is_dir() else []
            self._tokens = [token for p in files if (token := p.read_bytes().strip())]
        return self._tokens


class Host:
    """The serving application."""

    def __init__(
        self, config: ToolHostConfig, functions: Mapping[str, Function], traces: HostedTraces | None = None
    ) -> None:
        self.traces = traces or HostedTraces()
        self._config = config
        self._functions = functions
        self._tokens = Tokens(config.tokens_dir)
        self._slots = Slots(config.max_in_flight, LONGEST_QUEUE)
        self._mcp = McpEndpoint(config.tool, [self._offer(f) for f in functions.values()], LARGEST_BODY)
        self._problems: dict[str, ToolProblemReport] = {}
        self._mismatches = {name: text for name, f in functions.items() if (text := mismatch(config, f))}
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        headers, path = dict(scope["headers"]), scope["path"]
        name = path.removeprefix(f"{TOOLS_PATH}/").removesuffix("/execute")
        try:
            if not self._tokens.allow(headers):
                raise Problem(401, "unauthorized", "Send `Authorization: Bearer TOKEN`")
            if path == f"{TOOLS_PATH}/{name}/execute" and name in self._functions:
                await self._answer(name, headers, scope, receive, send)
            elif path == TOOLS_PATH:
                await send_body(send, 200, self.report().model_dump_json().encode(), headers=self._headers())
            elif path == "/mcp":
                await self._mcp(scope, receive, send)
            else:
                raise Problem(404, "not-found", "There is nothing here", path)
        except Disconnected:
            return
        except Problem as problem:
            refused = [NOT_EXECUTED] if problem.fault is None else []
            await send_problem(send, problem, [*refused, *self._headers()])

    def _headers(self) -> list[Header]:
        """A host that was told to end asks each caller to connect elsewhere."""
        return LEAVING if self.is_draining else []

    async def _answer(self, name: str, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise Problem(405, "method-not-allowed", "Use POST")
        arguments = _object(await read_body(receive, LARGEST_BODY))
        result = await self.execute(name, arguments, headers)
        await send_body(send, 200, b'{"result":%s}' % result, headers=self._headers())

    async def execute(self, name: str, arguments: dict[str, Any], headers: Headers) -> bytes:
        """One call; a Problem without a fault means that nothing was executed."""
        IN_FLIGHT.inc()
        outcome, status, began = LEFT, 499, time.perf_counter()
        try:
            result = await self._in_turn(name, arguments, self._seconds(headers))
            outcome, status = "ok", 200
            return result
        except Problem as problem:
            outcome, status = problem.type, problem.status
            raise
        finally:
            IN_FLIGHT.dec()
            CALLS.labels(name, outcome).inc()
            seconds, error = time.perf_counter() - began, "" if status == 200 else outcome
            self.traces.take(name, _context(headers), seconds, status, error)

    def _seconds(self, headers: Headers) -> float:
        """The time that is left: the tool's own, or the caller's if that is less."""
        try:
            asked = float(headers.get(DEADLINE_HEADER.encode(), b"inf"))
        except ValueError:
            asked = float("inf")
        return min(self._config.timeout_seconds, max(0.0, asked))

    async def _in_turn(self, name: str, arguments: dict[str, Any], seconds: float) -> bytes:
        if name in self._mismatches:
            text = self._mismatches[name]
            raise Problem(409, "contract-mismatch", "This host's tool differs from the contract", text)
        now = asyncio.get_running_loop().time()
        await self._take(now + min(seconds, self._config.queue_timeout_seconds))
        work = asyncio.create_task(self._functions[name].call(arguments))
        work.add_done_callback(self._ended)
        with SECONDS.labels(name).time():
            return await self._run(self._functions[name], work, now + seconds)

    def _ended(self, work: asyncio.Task[bytes]) -> None:
        """A thread cannot be stopped, so that a slot is free again when its work ends and not when it took too long."""
        self._slots.give_back()
        if not work.cancelled():
            work.exception()  # seen here: nobody may be waiting any more

    async def _take(self, deadline: float) -> None:
        try:
            await self._slots.take(deadline)
        except Problem:
            raise Problem(503, "overloaded", "Too many calls are under way", retry_after=1.0) from None

    async def _run(self, function: Function, work: asyncio.Task[bytes], deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(work)
        except TimeoutError:
            raise Problem(504, "deadline-exceeded", "The tool took too long", fault="Timeout") from None
        except ValidationError as exc:
            raise invalid_input(exc) from None
        except NotReady as exc:
            self._problems[function.name] = ToolProblemReport(reason=exc.reason[:64], message=str(exc)[:1024])
            raise Problem(503, _dashed(exc.reason), "The tool cannot work as things are", str(exc)) from exc
        except Exception as exc:
            log.error("Tool raised tool=%s error=%s\n%s", function.name, type(exc).__name__, place_of(exc))
            detail = f"{type(exc).__name__}: {exc}"[:500]
            raise Problem(500, "tool-error", "The tool raised an error", detail, fault="Program") from exc
        finally:
            if function.is_async:
                work.cancel()

    def _offer(self, function: Function) -> Offer:
        async def call(arguments: dict[str, Any], headers: dict[bytes, bytes], _: Receive | None) -> Told:
            try:
                return await self.execute(function.name, arguments, headers), {}
            except Problem as problem:
                raise Refusal(": ".join(t for t in (problem.title, problem.detail) if t)) from None

        return Offer(function.name, function.description, function.parameters, function.returns, call)

    def report(self) -> HostReport:
        """What it offers, and what is wrong with it."""
        return HostReport(tools={name: self._offered(f) for name, f in self._functions.items()})

    def _offered(self, function: Function) -> OfferedTool:
        return OfferedTool(
            description=function.description,
            parameters=function.parameters,
            returns=function.returns,
            problem=self._problems.get(function.name),
        )

    async def check(self) -> None:
        """Ask the packages from time to time whether their tools can work."""
        while True:
            for name, function in self._functions.items():
                problem = await asyncio.to_thread(function.problem)
                if problem:
                    self._problems[name] = problem
                else:
                    self._problems.pop(name, None)
            await asyncio.sleep(CHECK_SECONDS)

    async def close(self) -> None:
        """End what runs beside."""
        await self._mcp.close()


def mismatch(config: ToolHostConfig, function: Function) -> str:
    """How a function differs from the contract that the host is there for; empty when it does not."""
    if config.contract is None or function.name != config.contract.name:
        return ""
    return told(differences(config.contract, function.parameters, function.returns))


def _context(headers: Headers) -> Iterable[tuple[str, str]]:
    """The caller's trace."""
    return [(name, headers[name.encode()].decode("latin-1")) for name in (PARENT, STATE) if name.encode() in headers]


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = from_json(body or b"{}")
    except ValueError:
        raise Problem(400, "invalid-json", "The body is not JSON") from None
    if not isinstance(found, dict):
        raise Problem(422, "invalid-input", "The arguments must be a JSON object")
    return found


def _dashed(reason: str) -> str:
    """CredentialsMissing as credentials-missing."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in reason).strip("-")


def build_admin(host: Host, is_ready: Callable[[], bool]) -> Starlette:
    """Probes, metrics, the report, and a trace that is asked for by its id, on a port of their own; none of it is
    secret, or quotes callers."""

    def readyz(_: Request) -> Response:
        return PlainTextResponse("ready", 200) if is_ready() else PlainTextResponse("not ready", 503)

    def tools(_: Request) -> Response:
        return Response(host.report().model_dump_json(), media_type="application/json")

    return Starlette(
        routes=[
            Route("/healthz", lambda _: PlainTextResponse("ok")),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route(TOOLS_PATH, tools),
            hosted_route(host.traces.find),
        ]
    )


async def serve_tools(config: ToolHostConfig, host: str = EVERYWHERE, admin_port: int | None = ADMIN_PORT) -> int:
    """Host tools until SIGTERM, then drain. The result is the exit code."""
    FACTS["tool"] = config.tool
    stop = asyncio.Event()
    on_signals(stop)
    # Functions that are not async run in threads: one for each call that may be under way.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(config.max_in_flight, "tool"))
    functions = chosen(config, find_tools(config.packages))
    traces = HostedTraces(_exporter(config))
    app = Host(config, functions, traces)
    server = make_server(app, config.timeout_seconds, config.timeout_seconds)
    serving = asyncio.create_task(server.serve(sockets=[open_port(host, config.port)]))
    beside = [asyncio.create_task(app.check())]
    if admin_port is not None:
        admin = build_admin(app, lambda: server.started and not stop.is_set())
        beside.append(asyncio.create_task(make_server(admin, 1).serve(sockets=[open_port(host, admin_port)])))
    log.info("Hosting tools=%s port=%d", ",".join(functions), config.port)
    await asyncio.wait([serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    app.is_draining = True
    await asyncio.sleep(config.drain_seconds)
    server.should_exit = True
    await serving
    for task in beside:
        task.cancel()
    await app.close()
    await asyncio.to_thread(traces.close, EXPORT_SECONDS)
    return 0


def _exporter(config: ToolHostConfig) -> Exporter | None:
    return exporter_of(
        os.environ, {"service.name": config.tool, "service.instance.id": os.environ.get(POD_NAME_ENV, "")}
    )


def chosen(config: ToolHostConfig, functions: dict[str, Function]) -> dict[str, Function]:
    """Of a package's tools, the one that the host is there for; all, where there is no contract to hold to."""
    name = config.contract.name if config.contract else ""
    return {name: functions[name]} if name in functions else functions
