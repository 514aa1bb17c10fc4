"""Ports, and uvicorn as every process uses it: signals are not its business, for whoever has it ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's Service and the kubelet reach it by the pod's own address
# Longer than the idle time-outs of common load balancers (60 s), so that it is they who close first.
KEEP_ALIVE_SECONDS = 75
MOST_CONNECTIONS = 10_000
"""In one process; requests on more are answered with 503."""
ARRIVAL_SECONDS = 10.0
LAST_SECONDS = 0.5
LOOK_EVERY = 10
"""Ticks of uvicorn's, of a tenth of a second each."""


class Server(uvicorn.Server):
    """A uvicorn server that ends only when `should_exit` is set, and ends connections on which a request is too late.

    Those are looked for once a second, so that no request pays for a timer of its own.
    """

    def __init__(self, config: uvicorn.Config, arrival_seconds: float) -> None:
        super().__init__(config)
        self._arrival_seconds = arrival_seconds
        self._arriving: dict[Any, tuple[Any, float]] = {}
        """By connection: the request that is arriving, and since when."""

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % LOOK_EVERY == 0:
            self._end_late()
        return await super().on_tick(counter)

    def _end_late(self) -> None:
        now, before, self._arriving = time.monotonic(), self._arriving, {}
        connections: list[Any] = [c for c in self.server_state.connections if is_arriving(c)]
        for connection in connections:
            request, since = before.get(connection, (None, now))
            if request is not connection.scope:
                since = now
            elif now - since > self._arrival_seconds:
                connection.transport.close()
            self._arriving[connection] = connection.scope, since

    async def end(self) -> None:
        """Take no more connections, and end when those that were taken have had a moment to say what they want: what
        is idle then is closed."""
        for listener in self.servers:
            listener.close()
        await asyncio.sleep(LAST_SECONDS)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def is_arriving(connection: Any) -> bool:
    """Whether more of a request must come before it can be answered: of uvicorn's protocol, its private parts.

    One that comes while another is answered has the time of a kept connection first.
    """
    cycle = connection.cycle
    if cycle is None:
        return True
    if cycle.response_complete:
        return connection.timeout_keep_alive_task is None
    return bool(cycle.more_body and not connection.pipeline)


def make_server(app: Any, graceful_seconds: int, arrival_seconds: float = ARRIVAL_SECONDS) -> Server:
    """A server with the fast event loop and parser, no access log, no `server` header and no WebSockets.

    `arrival_seconds`: how long a request may take from its first byte to its last.
    """
    return Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=graceful_seconds,
            limit_concurrency=MOST_CONNECTIONS,
        ),
        arrival_seconds,
    )


def open_port(host: str, port: int) -> socket.socket:
    """The serving socket. It listens only once a worker is ready: until then, callers are refused at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listen = socket.socket(family, socket.SOCK_STREAM)
    listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listen.bind((host, port))
    listen.set_inheritable(True)
    return listen
