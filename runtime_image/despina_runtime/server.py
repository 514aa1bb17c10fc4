"""uvicorn, as both processes use it: signals are not its business, for the supervisor hands them down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn

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
