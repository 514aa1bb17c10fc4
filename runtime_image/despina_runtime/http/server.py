"""Ports, and uvicorn as every process uses it: signals are not its business, for whoever has it ends it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's Service and the kubelet reach it by the pod's own address
# Longer than the idle time-outs of common load balancers (60 s), so that it is they who close first.
KEEP_ALIVE_SECONDS = 75


class Server(uvicorn.Server):
    """A uvicorn server that ends only when `should_exit` is set."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def make_server(app: Any, graceful_seconds: int) -> Server:
    """A server with the fast event loop and parser, no access log and no `server` header."""
    return Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=graceful_seconds,
        )
    )


def open_port(host: str, port: int) -> socket.socket:
    """The serving socket. It listens only once a worker is ready: until then, callers are refused at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listen = socket.socket(family, socket.SOCK_STREAM)
    listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listen.bind((host, port))
    listen.set_inheritable(True)
    return listen
