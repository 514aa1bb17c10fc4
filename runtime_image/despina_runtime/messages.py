"""What an ASGI server and an application say to each other; https://asgi.readthedocs.io/en/latest/specs/."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
"""Once a request's body has been read, it tells that the caller has left."""
