"""Errors as RFC 9457 problem documents. They say what a caller can act on, and never hold a stack trace."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from despina.wire import ErrorClass

log = logging.getLogger(__name__)
MEDIA_TYPE = b"application/problem+json"


@dataclass(eq=False)  # not frozen: context managers set an exception's traceback
class Problem(Exception):
    """One error answer."""

    status: int
    type: str
    title: str
    detail: str = ""
    errors: tuple[dict[str, str], ...] = ()
    fault: ErrorClass | None = None
    """Whose fault it is, where a breaker should know; None for the caller's own and for refusals."""
    retry_after: float | None = None
    """Seconds after which it is worth asking again."""
    can_fall_back: bool = False
    """Whether the manifest's fallback may answer in its place."""

    def document(self) -> dict[str, Any]:
        """The problem document."""
        found: dict[str, Any] = {
            "type": f"urn:despina:problem:{self.type}",
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            found["detail"] = self.detail
        if self.errors:
            found["errors"] = list(self.errors)
        return found

    def body(self) -> bytes:
        """The document as JSON."""
        return json.dumps(self.document()).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that go with it."""
        found = [(b"retry-after", str(math.ceil(self.retry_after)).encode())] if self.retry_after else []
        told = {401: (b"www-authenticate", b"Bearer"), 405: (b"allow", b"POST")}
        return [*found, told[self.status]] if self.status in told else found


def invalid_input(exc: ValidationError) -> Problem:
    """422, with each field by its path. The values themselves are not repeated."""
    found = tuple(
        {"field": ".".join(map(str, e["loc"])) or "(body)", "message": e["msg"]}
        for e in exc.errors(include_url=False, include_input=False, include_context=False)
    )
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in found)
    return Problem(422, "invalid-input", "The input does not fit the program's signature", detail, found)


def unexpected(exc: Exception) -> Problem:
    """500 for what is Despina's own fault; what it was stands in the log."""
    log.exception("Unexpected", exc_info=exc)
    return Problem(500, "internal-error", "Something went wrong in the server", type(exc).__name__)


def deadline_exceeded() -> Problem:
    """504 for a request that took longer than `runtime.requestTimeoutSeconds`."""
    return Problem(504, "deadline-exceeded", "The program took too long", fault="Timeout", can_fall_back=True)
