"""The serving application: `POST /execute` on the shortest way, everything else through Starlette."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson
from pydantic_core import to_json

from despina.wire import DEGRADED_HEADER, FALLBACK_HEADER, TOOLS_HEADER, TRACE_HEADER, VERSION_HEADER, RuntimeConfig
from despina_runtime.feedback.line import Line
from despina_runtime.http.asgi import (
    EVENTS,
    EventStream,
    Header,
    Scope,
    Send,
    read_body,
    send_problem,
    wants_events,
    with_headers,
)
from despina_runtime.http.feedback import Feedback
from despina_runtime.http.mcp_server import McpEndpoint, Offer, Refusal, Told
from despina_runtime.http.modules import Modules
from despina_runtime.http.routes import build_routes
from despina_runtime.http.sessions import Sessions
from despina_runtime.http.wishes import Wishing
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.target import KeyFile
from despina_runtime.messages import Receive
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.pipeline.corridor import Corridors
from despina_runtime.pipeline.record import Record
from despina_runtime.pipeline.shadow import Shadow
from despina_runtime.problem import Disconnected, Problem, as_problem
from despina_runtime.program.load import Loaded
from despina_runtime.telemetry.context import is_sampled
from despina_runtime.tools.api import refusal_of

CLOSE = (b"connection", b"close")
JSON = (b"content-type", b"application/json")
OPEN_PATHS = {"/healthz", "/readyz"}
PREDICTION = "despina-prediction-id"
PREDICTION_HEADER = PREDICTION.encode()
SESSION, LM, FALLBACK = b"x-session-id", b"x-lm", FALLBACK_HEADER.encode()
TRACE = b"traceparent", b"tracestate"
TOOLS = TOOLS_HEADER.encode()
KEEP = TRACE_HEADER.encode()
CHOICES = SESSION, LM, FALLBACK, TOOLS, TRACE[0], KEEP
SHADOWED = refusal_of("Refuse", "shadow")
NO_TRACE: tuple[tuple[str, str], ...] = ()
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Service:
    """One revision of one program as an ASGI application."""

    def __init__(
        self, loaded: Loaded, config: RuntimeConfig, corridors: Corridors, sessions: Sessions, line: Line
    ) -> None:
        self.is_retired = False
        self.shadow: Shadow | None = None
        self._config = config
        self._sessions = sessions
        self._others = 0
        self._main = corridors.build(loaded.program, loaded.is_async, loaded.interface)
        self._tally = corridors.tally
        self._modules = Modules(loaded, corridors)
        self._token = KeyFile(config.auth_token_file)
        self._secured = config.auth_token_file is not None
        self._names, self._again = corridors.names, corridors.again
        self._feedback = None
        if config.feedback and self._names:
            self._feedback = Feedback(loaded.interface, config.feedback, self._names, line)
        offers = [self._offer(loaded, config), *([self._feedback.offer(config.program)] if self._feedback else ())]
        self._mcp = McpEndpoint(config.program, offers, config.limits.max_request_bytes)
        wishing = Wishing(self._modules, config, line)
        self._routes = build_routes(
            loaded.interface, config, self._modules, sessions, self.run, wishing, self._feedback
        )
        self.record = Record(corridors.counts)
        self._time = asyncio.get_running_loop().time
        self._id_prefix = f"{config.revision}-{os.urandom(4).hex()}-"
        self._ids = itertools.count(1)
        self._limit, self._timeout = config.limits.max_request_bytes, config.request_timeout_seconds
        self._lm = config.lm
        self._headers: list[Header] = [(VERSION_HEADER.encode(), config.model.version.encode())]

    def headers(self) -> list[Header]:
        """What every answer carries. A retired pod asks each caller to connect anew, to the new version."""
        return [*self._headers, CLOSE] if self.is_retired else self._headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        path = scope["path"]
        if self._secured and path not in OPEN_PATHS and not self._is_allowed(dict(scope["headers"])):
            refused = Problem(401, "unauthorized", "Send `Authorization: Bearer TOKEN`")
            await send_problem(send, refused, self.headers())
        elif path == "/execute":
            await self._execute(self._main, scope, receive, send)
        elif path == "/mcp":
            await self._beside(self._mcp, scope, receive, send)
        elif path.startswith("/modules/") and path.endswith("/execute"):
            await self._execute_module(path, scope, receive, send)
        else:
            with suppress(Exception):  # it was answered and told, and Starlette raises it again
                await self._beside(self._routes, scope, receive, send)

    async def _beside(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """One request for anything else; what it began with stays until it ends."""
        works = scope.get("method") == "POST"  # a GET of an MCP client's may stay open for as long as that likes
        self._others += works
        try:
            await app(scope, receive, with_headers(send, self.headers))
        finally:
            self._others -= works

    @property
    def is_busy(self) -> bool:
        """Whether any request is worked on."""
        return bool(self.record.in_flight or self._others)

    async def _execute_module(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            module = self._modules.corridor(path.removeprefix("/modules/").removesuffix("/execute"))
        except Problem as problem:
            await send_problem(send, problem, self.headers())
        else:
            await self._execute(module, scope, receive, send)

    async def _execute(self, corridor: Step, scope: Scope, receive: Receive, send: Send) -> None:
        """One request from its first byte to the last of its answer."""
        started = time.perf_counter()
        status, tier, name, trace = 500, None, "", NO_TRACE
        self.record.in_flight += 1
        try:
            call = await self._read(scope, receive)
            trace = call.trace
            if call.emit is not None:
                tier, name = await self._stream(corridor, call, send, started)
            else:
                answer = await corridor(call)
                tier, name = answer.tier, self._id(answer, call.is_traced)
                headers = self._headers_of(answer, call, name)
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": answer.body})
                if call.is_traced and corridor is self._main and self._again:
                    self._again(call, answer, dict(headers)[PREDICTION_HEADER], time.perf_counter() - started)
                if self.shadow is not None and corridor is self._main:
                    self._mirror(call, answer, time.perf_counter() - started)
            status = 200
        except Disconnected:
            status = 499
        except Exception as exc:
            problem = self._refused(exc)
            status = problem.status
            await send_problem(send, problem, self.headers())
        finally:
            self.record.in_flight -= 1
            self.record(status, time.perf_counter() - started, tier, name, trace)

    def _refused(self, exc: Exception) -> Problem:
        """What a caller is told; his own mistakes are counted as such."""
        problem = as_problem(exc)
        self.record.fail(problem)
        if self._tally and 400 <= problem.status < 500 and problem.status != 429:
            self._tally.refuse()
        return problem

    def _mirror(self, call: Call, answer: Answer, seconds: float) -> None:
        """Have a candidate asked the same, unless the answer cost nothing or is not the program's usual one."""
        is_usual = call.lm == self._lm and call.temperature is None and answer.degraded is None
        if self.shadow and is_usual and answer.tier is None and not answer.collapsed:
            self.shadow(call.body, answer.body, seconds)

    async def run(
        self, body: bytes, headers: Mapping[bytes, bytes], receive: Receive | None = None
    ) -> tuple[Answer, str]:
        """An item of a batch, or a call by MCP: through the same corridor, and counted like a request of its own; the
        answer and its name."""
        started = time.perf_counter()
        status, tier, name, trace = 500, None, "", NO_TRACE
        self.record.in_flight += 1
        try:
            call = Call(body, self._time() + self._timeout, self._lm)
            call.receive = receive
            await self._choose(call, headers)
            trace = call.trace
            answer = await self._main(call)
            status, tier, name = 200, answer.tier, self._id(answer)
            self._count_degraded(answer)
            return answer, name
        except (Disconnected, asyncio.CancelledError):
            status = 499
            raise
        except Exception as exc:
            problem = self._refused(exc)
            status = problem.status
            raise problem from None
        finally:
            self.record.in_flight -= 1
            self.record(status, time.perf_counter() - started, tier, name, trace)

    def _offer(self, loaded: Loaded, config: RuntimeConfig) -> Offer:
        """The program as a tool of the Model Context Protocol."""
        schema = loaded.interface.schema()

        async def call(arguments: dict[str, Any], headers: dict[bytes, bytes], receive: Receive | None) -> Told:
            try:
                answer, name = await self.run(to_json(arguments, inf_nan_mode="constants"), headers, receive)
                return answer.body, {PREDICTION: name}
            except Disconnected:
                raise Refusal("nobody waits for the answer") from None
            except Exception as exc:
                problem = as_problem(exc)
                raise Refusal(f"{problem.title}: {problem.detail}".removesuffix(": ")) from None

        return Offer(config.program, loaded.interface.instructions, schema["inputs"], schema["outputs"], call)

    async def close(self) -> None:
        """End what runs beside."""
        await self._mcp.close()

    async def _read(self, scope: Scope, receive: Receive) -> Call:
        if scope["method"] != "POST":
            raise Problem(405, "method-not-allowed", "Use POST")
        headers = dict(scope["headers"])
        call = Call(await read_body(receive, self._limit), self._time() + self._timeout, self._lm)
        call.receive = receive
        if not headers.keys().isdisjoint(CHOICES):
            await self._choose(call, headers)
        accept = headers.get(b"accept", b"").lower()
        if EVENTS in accept and wants_events(accept):
            call.emit = _nowhere
        return call

    def _is_allowed(self, headers: Mapping[bytes, bytes]) -> bool:
        token = self._token.read()
        if not token:
            return False  # a missing or empty Secret opens no door
        given = headers.get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + token.encode())

    async def _choose(self, call: Call, headers: Mapping[bytes, bytes]) -> None:
        """What a caller may choose: first by the request itself, then by its session."""
        if session := headers.get(SESSION):
            variables = await self._sessions.get(session.decode("latin-1"))
            call.lm, call.temperature = variables.lm or call.lm, variables.temperature
        if chosen := headers.get(LM):
            call.lm = chosen.decode("latin-1")
            self._sessions.check_lm(call.lm)
        call.may_ask_others = FALLBACK not in headers
        if headers.get(TOOLS) == b"Refuse":
            call.refusal = SHADOWED
        parent = headers.get(TRACE[0], b"").decode("latin-1")
        call.is_traced = headers.get(KEEP) == b"keep" or is_sampled(parent)
        call.trace = tuple((k.decode(), headers[k].decode("latin-1")) for k in TRACE if k in headers)

    async def _stream(self, corridor: Step, call: Call, send: Send, started: float) -> tuple[str | None, str]:
        """Events as they come: `delta` for text, `status` for tools, then `result`, which alone counts, or `problem`;
        `done` with the account. The cache's tier that the answer came from, and its name."""
        stream, first = EventStream(send, self.headers), self._first_chunk(started)

        async def emit(event: str, data: dict[str, str]) -> None:
            if event == "delta":
                first()
            await stream.tell(event, orjson.dumps(data))

        call.emit, answer = emit, None
        pinging = asyncio.create_task(stream.keep_alive())
        try:
            answer = await corridor(call)
            self._count_degraded(answer)
            first()
            await stream.tell("result", answer.body)
        except Problem as problem:
            if not stream.started:
                raise
            self.record.fail(problem)
            await stream.tell("problem", problem.body())
        finally:
            pinging.cancel()
        name = self._id(answer)
        await stream.tell("done", orjson.dumps(self._account(name, call.meter, answer)))
        await stream.end()
        return answer.tier if answer else None, name

    def _first_chunk(self, started: float) -> Callable[[], None]:
        """What to call with each chunk of a stream: the first is counted."""
        chunks = itertools.count()

        def tell() -> None:
            if next(chunks) == 0:
                self.record.begin_to_stream(time.perf_counter() - started)

        return tell

    def _account(self, name: str, meter: Meter, answer: Answer | None) -> dict[str, Any]:
        account: dict[str, Any] = {
            "prediction_id": name,
            "lm_attempts": meter.attempts,
            "input_tokens": meter.input_tokens,
            "output_tokens": meter.output_tokens,
        }
        if answer and answer.degraded:
            account["degraded"] = answer.degraded
        return account | ({"cost_usd": format(meter.cost, "f")} if meter.cost is not None else {})

    def _id(self, answer: Answer | None, is_traced: bool = False) -> str:
        """An answer's name; without recording, only to tell it from others."""
        if self._names is None:
            return f"{self._id_prefix}{next(self._ids):x}"
        is_first = answer is None or (answer.tier is None and not answer.collapsed)
        if not (is_first or is_traced) and self._feedback is None:  # nobody can say anything of it
            return f"{self._id_prefix}{next(self._ids):x}"
        if answer is None or answer.origin is None:
            return self._names.signed(self._names.origin())
        return self._names.signed(answer.origin) if is_first else self._names.hit(answer.origin)

    def _headers_of(self, answer: Answer, call: Call, name: str) -> list[Header]:
        """All headers of a 200. What does not change from one replay to the next is kept with the answer."""
        if answer.headers is None:
            answer.headers = [JSON, (b"content-length", b"%d" % len(answer.body)), *self._headers, *self._told(answer)]
        found = [*answer.headers, (PREDICTION_HEADER, name.encode())]
        if self.is_retired:
            found.append(CLOSE)
        return found if answer.tier else found + _spent(call.meter)

    def _told(self, answer: Answer) -> list[Header]:
        """Where the answer came from. Cache-Status is RFC 9211."""
        found = [(b"cache-status", _status(answer).encode())] if self._config.cache else []
        self._count_degraded(answer)
        if answer.degraded:
            found.append((DEGRADED_HEADER.encode(), answer.degraded.encode()))
        return found

    def _count_degraded(self, answer: Answer) -> None:
        if answer.degraded:
            self.record.degrade(answer.degraded)


def _spent(meter: Meter) -> list[Header]:
    found = [
        (b"despina-lm-attempts", b"%d" % meter.attempts),
        (b"despina-input-tokens", b"%d" % meter.input_tokens),
        (b"despina-output-tokens", b"%d" % meter.output_tokens),
    ]
    return [*found, (b"despina-cost-usd", format(meter.cost, "f").encode())] if meter.cost is not None else found


def _status(answer: Answer) -> str:
    key = f'; key="{answer.key}"' if answer.key else ""
    if answer.tier:
        return f"despina; hit; detail={answer.tier}{key}"
    stored = "; stored" if answer.key else ""
    return f"despina; fwd=miss{'; collapsed' if answer.collapsed else ''}{stored}{key}"


async def _nowhere(event: str, data: dict[str, str]) -> None:
    """Stands in a call that wants a stream until there is one."""
