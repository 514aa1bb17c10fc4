"""What an ASGI server and an application say to each other; https://asgi.readthedocs.io/en/latest/specs/."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
"""Once a request's body has been read, it tells that the caller has left."""


def tell_when_left(receive: Receive, left: Callable[[], None] | None) -> None:
    """Have this called when the caller of a request leaves before he is answered, or nobody any more.

    What receives is a method of the request, as uvicorn has it, and `http/server.py` looks there when a connection is
    lost; other servers tell nothing.
    """
    request: Any = getattr(receive, "__self__", None)
    if not hasattr(request, "disconnected"):
        return
    request.left = left
    if left and request.disconnected:
        left()
