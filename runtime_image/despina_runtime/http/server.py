"""Ports, and uvicorn as every process uses it: signals are not its business, for whoever has it ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from despina_runtime.http.asgi import Scope, Send, send_body
from despina_runtime.messages import Receive

EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's Service and the kubelet reach it by the pod's own address
# Longer than the idle time-outs of common load balancers (60 s), so that it is they who close first.
KEEP_ALIVE_SECONDS = 75
MOST_CONNECTIONS = 10_000
"""In one process; requests on more are answered with 503."""
LONGEST_HEAD_BYTES = 65_536
"""Of a request's line and headers together, and of what follows a body in chunks."""
MOST_PIPELINED = 64
"""So many requests of one connection may wait while another one of it is answered; then no more of it is read."""
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
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


class Protocol(HttpToolsProtocol):
    """uvicorn's, which has no bound on what it and its parser keep of a connection before they call the application."""

    _unread = 0
    """Bytes that came since the last that were given on, as headers or as a part of a body."""
    _is_ended = False

    def connection_made(self, transport: Any) -> None:
        """One more."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.app = refuse_connection

    def data_received(self, data: bytes) -> None:
        """What has come."""
        if self._is_ended:
            return
        self._unread += len(data)
        _data_received(self, data)
        if self._unread > LONGEST_HEAD_BYTES or len(self.pipeline) > MOST_PIPELINED:
            self._end()

    def on_headers_complete(self) -> None:
        """A head is there; with its body it may have come in one piece."""
        if self._unread > LONGEST_HEAD_BYTES and self._head_bytes() > LONGEST_HEAD_BYTES:
            self.app = refuse_head
        self._unread = 0
        _on_headers_complete(self)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._unread = 0
        _on_body(self, body)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _end(self) -> None:
        """Read no more of it. What came before is answered first: an application that still writes on a transport that
        was closed meanwhile logs an error."""
        self._is_ended = True
        if is_arriving(self):
            self.transport.write(TOO_LONG)
            self.transport.close()
        else:
            self.cycle.keep_alive = False


# They take part in each request: `super()` alone would cost one in a hundred of the cached ones.
_data_received, _on_body = HttpToolsProtocol.data_received, HttpToolsProtocol.on_body
_on_headers_complete = HttpToolsProtocol.on_headers_complete


async def refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the application's place on a connection that is one too many."""
    await send_body(send, 503, b"", b"text/plain", [(b"connection", b"close")])


async def refuse_head(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the application's place for a request whose head is too long."""
    await send_body(send, 431, b"", b"text/plain", [(b"connection", b"close")])


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
            http=Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=graceful_seconds,
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
