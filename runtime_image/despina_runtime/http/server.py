"""Ports, and uvicorn as every process uses it: signals are not its business, for whoever has it ends it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
import time
from collections import deque
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from despina_runtime.http.asgi import Scope, Send, send_body
from despina_runtime.http.cycle import write_heads_fast
from despina_runtime.messages import Receive

EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's Service and the kubelet reach it by the pod's own address
# Longer than the idle time-outs of common load balancers (60 s), so that it is they who close first.
KEEP_ALIVE_SECONDS = 75
MOST_CONNECTIONS = 10_000
"""In one process; requests on more are answered with 503."""
LONGEST_HEAD_BYTES = 65_536
"""Of a request's line and headers together, and of what follows a body in chunks."""
PIECE_BYTES = 16_384
"""What is read at once, up to 256 KiB, is parsed in pieces: of a head only those after its first are counted."""
COUNTED_BYTES = LONGEST_HEAD_BYTES - PIECE_BYTES
"""A head of which more was counted may be too long, and is measured."""
MOST_PIPELINED = 64
"""So many requests of one connection may wait while another one of it is answered; then no more of it is read."""
FRAMING = b"content-length", b"transfer-encoding"
"""Headers that say where a body ends."""
INVALID = "Invalid HTTP request received."
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
ARRIVAL_SECONDS = 10.0
READING_SECONDS = 30.0
"""So long a caller may read nothing of what waits for him; a proxy that buffers answers reads at once."""
LAST_SECONDS = 0.5
LOOK_EVERY = 10
"""Ticks of uvicorn's, of a tenth of a second each."""


class Server(uvicorn.Server):
    """A uvicorn server that ends only when `should_exit` is set, and ends connections on which a request is too late or
    answers are not read.

    Those are looked for once a second, so that no request pays for a timer of its own.
    """

    def __init__(self, config: uvicorn.Config, arrival_seconds: float, reading_seconds: float) -> None:
        super().__init__(config)
        self._arrival_seconds, self._reading_seconds = arrival_seconds, reading_seconds
        self._arriving: dict[Any, tuple[Any, float]] = {}
        """By connection: the request that is arriving, and since when."""
        self._waiting: dict[Any, tuple[int, int, float]] = {}
        """By connection: bytes that wait for the caller, how often he made room, and since when he reads none."""

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % LOOK_EVERY == 0:
            self._end_late()
            self._end_waiting()
        return await super().on_tick(counter)

    def _end_late(self) -> None:
        """On one that is being closed nothing arrives: it has the time that its last answer takes to be read."""
        now, before, self._arriving = time.monotonic(), self._arriving, {}
        connections: list[Any] = [
            c for c in self.server_state.connections if is_arriving(c) and not c.transport.is_closing()
        ]
        for connection in connections:
            request, since = before.get(connection, (None, now))
            if request is not connection.scope:
                since = now
            elif now - since > self._arrival_seconds:
                close_now(connection.transport)
            self._arriving[connection] = connection.scope, since

    def _end_waiting(self) -> None:
        """Neither writing nor closing has a deadline of its own. While either waits, what is unwritten grows no more,
        unless the caller made room in between."""
        now, before, self._waiting = time.monotonic(), self._waiting, {}
        connections: list[Any] = [c for c in self.server_state.connections if is_waiting(c)]
        for connection in connections:
            size, rooms = waiting_bytes(connection.transport), connection.rooms
            last_size, last_rooms, since = before.get(connection, (size, rooms, now))
            if size < last_size or rooms != last_rooms:
                since = now
            elif now - since > self._reading_seconds:
                connection.transport.abort()
            self._waiting[connection] = size, rooms, since

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
    """Bytes that came in pieces since the one of which something was given on, as headers or as a part of a body."""
    _is_ended = False
    _earlier: WeakSet[Any] | None = None
    """Of uvicorn's cycles those that others were queued behind, for as long as they wait or run. Most connections have
    none, and one attribute more of each would cost all of them the fast way by which Python finds thirty."""
    rooms = 0
    """How often the caller, whom more waited for than may be, had read so much that more was written."""

    def connection_made(self, transport: Any) -> None:
        """One more."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.app = refuse_connection

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells it to the request that came last; the one that is answered may be another."""
        for cycle in self._earlier or ():
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        for cycle in (*(self._earlier or ()), self.cycle):
            if left := getattr(cycle, "left", None):  # of `messages.tell_when_left`
                left()

    def resume_writing(self) -> None:
        """The caller made room."""
        self.rooms += 1
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """What has come."""
        if self._is_ended:
            return
        size = len(data)
        if size > PIECE_BYTES:
            self._receive_pieces(data)
            return
        self._unread += size
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._unread > LONGEST_HEAD_BYTES:
            self._end()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.send_400_response(INVALID)
        except HttpParserUpgrade as exc:
            self._go_without_upgrade(data[exc.args[0] :])

    def _receive_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            if not self.transport.is_closing():
                self.data_received(data[start : start + PIECE_BYTES])

    def _go_without_upgrade(self, rest: bytes) -> None:
        """A request for another protocol, as some clients of HTTP/2 begin, is answered like any other, and is the last
        one. Its body, which the parser leaves out and would take for the next request, is read by one of its own."""
        headers: Any = self.cycle.scope["headers"]
        framing = [b"%s: %s\r\n" % (name, value) for name, value in headers if name in FRAMING]
        headers.append((b"connection", b"close"))
        self.cycle.keep_alive = False
        self.cycle.more_body = True
        self.parser = HttpRequestParser(_Body(self))
        self._parse(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(framing))
        if rest and not self.transport.is_closing():
            self.data_received(rest)

    def end_body(self) -> None:
        """The last request's body is whole."""
        self.on_message_complete()
        self._is_ended = True

    def on_headers_complete(self) -> None:
        """A head is there; with its body it may have come in one piece."""
        if self._unread > COUNTED_BYTES and self._head_bytes() > LONGEST_HEAD_BYTES:
            self.app = refuse_head
        self._unread = 0
        if (cycle := self.cycle) is not None and not cycle.response_complete:
            self._queue_behind(cycle)
        _on_headers_complete(self)
        self.headers = TRAILERS

    def _queue_behind(self, cycle: Any) -> None:
        """Raises where too many wait already, which ends the parsing of what was read with them."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise TooManyWait
        if self._earlier is None:
            self._earlier = WeakSet()
        self._earlier.add(cycle)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._unread = 0
        _on_body(self, body)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed, or is one too many; it is no answer to what came before."""
        if is_arriving(self):
            super().send_400_response(msg)
        else:
            self._end()

    def _end(self) -> None:
        """Read no more of it. What came before is answered first: an application that still writes on a transport that
        was closed meanwhile logs an error."""
        self._is_ended = True
        if is_arriving(self):
            self.transport.write(TOO_LONG)
            self.transport.close()
        else:
            self.cycle.keep_alive = False


class _Body:
    """What a parser calls that reads no more than a body."""

    def __init__(self, protocol: Protocol) -> None:
        self.on_body, self.on_message_complete = protocol.on_body, protocol.end_body


class TooManyWait(Exception):
    """One more request than may wait."""


TRAILERS: Any = deque(maxlen=0)
"""Takes what a body in chunks ends with and keeps nothing: uvicorn would add it to the headers, where it would override
what a proxy has set, or bring back what it has taken away."""

# They take part in each request: `super()` alone would cost one in a hundred of the cached ones.
_on_body, _on_headers_complete = HttpToolsProtocol.on_body, HttpToolsProtocol.on_headers_complete


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


def is_waiting(connection: Any) -> bool:
    """Whether the caller must read before more is written, or before his connection is closed."""
    return bool(connection.flow.write_paused or connection.transport.is_closing())


def waiting_bytes(transport: Any) -> int:
    """What the caller has yet to read, here and in the kernel: that takes more only when a third of its megabytes are
    free, for which a slow reader may need minutes."""
    connected = transport.get_extra_info("socket")
    try:
        unsent = fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4)) if connected else bytes(4)
    except (OSError, ValueError):  # it is closed, and will be told so in a moment
        unsent = bytes(4)
    return int(transport.get_write_buffer_size()) + int.from_bytes(unsent, sys.byteorder)


def close_now(transport: Any) -> None:
    """Closing alone waits until what is unwritten is read."""
    if transport.get_write_buffer_size():
        transport.abort()
    else:
        transport.close()


def make_server(
    app: Any,
    graceful_seconds: int,
    arrival_seconds: float = ARRIVAL_SECONDS,
    reading_seconds: float = READING_SECONDS,
) -> Server:
    """A server with the fast event loop and parser, no access log, no `server` header and no WebSockets.

    `arrival_seconds`: how long a request may take from its first byte to its last. `reading_seconds`: how long a caller
    may read nothing of what waits for him.
    """
    write_heads_fast()
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
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=graceful_seconds,
        ),
        arrival_seconds,
        reading_seconds,
    )


def open_port(host: str, port: int) -> socket.socket:
    """The serving socket. It listens only once a worker is ready: until then, callers are refused at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listen = socket.socket(family, socket.SOCK_STREAM)
    listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listen.bind((host, port))
    listen.set_inheritable(True)
    return listen
