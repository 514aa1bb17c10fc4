"""The serving application: `POST /execute` on the shortest way, everything else through Starlette."""

from __future__ import annotations

import time

from despina.wire import REVISION_HEADER, VERSION_HEADER, RuntimeConfig
from despina_runtime.asgi import (
    Disconnected,
    Receive,
    Scope,
    Send,
    read_body,
    send_body,
    send_problem,
    with_headers,
)
from despina_runtime.pipeline.execute import Executor
from despina_runtime.pipeline.record import IN_FLIGHT, REQUESTS, SECONDS
from despina_runtime.pipeline.validate import parse_inputs, render_outputs
from despina_runtime.problem import Problem
from despina_runtime.program.load import Loaded
from despina_runtime.routes import build_routes

CLOSE = (b"connection", b"close")


class Service:
    """One revision of one program as an ASGI application."""

    def __init__(self, loaded: Loaded, config: RuntimeConfig) -> None:
        self.is_retired = False
        self._interface = loaded.interface
        self._executor = Executor(loaded.program, config)
        self._routes = build_routes(loaded.interface, config)
        self._version = config.model.version
        self._headers = [
            (VERSION_HEADER.encode(), config.model.version.encode()),
            (REVISION_HEADER.encode(), config.revision.encode()),
        ]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer carries. A retired pod asks each caller to connect anew, to the new version."""
        return [*self._headers, CLOSE] if self.is_retired else self._headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        answer = with_headers(send, self.headers)
        if scope["type"] == "http" and scope["path"] == "/execute":
            await self._execute(scope, receive, answer)
        else:
            await self._routes(scope, receive, answer)

    async def _execute(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 200
        with IN_FLIGHT.track_inprogress():
            try:
                await send_body(send, 200, await self._predict(scope, receive))
            except Problem as problem:
                status = problem.status
                await send_problem(send, problem, [(b"allow", b"POST")] if status == 405 else ())
            except Disconnected:
                status = 499
        REQUESTS.labels(self._version, str(status)).inc()
        SECONDS.labels(self._version).observe(time.perf_counter() - started)

    async def _predict(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise Problem(405, "method-not-allowed", "Use POST")
        inputs = parse_inputs(self._interface, await read_body(receive))
        return render_outputs(self._interface, await self._executor.run(inputs))
