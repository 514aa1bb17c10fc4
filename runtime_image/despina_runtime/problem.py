"""Errors as RFC 9457 problem documents. They say what a caller can act on, and never hold a stack trace."""

from __future__ import annotations

import json
import logging
import math
import traceback
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from despina.wire import ErrorClass

log = logging.getLogger(__name__)
UNFIT = "The input does not fit the program's signature"
MOST_TOLD, MOST_GATHERED = 100, 1000
"""Errors of one input: so many are told, and beyond the second number, for which pydantic takes milliseconds, none."""
LONGEST_WORDS, LONGEST_DETAIL = 200, 4000
"""Characters: a path holds what a caller wrote, and a message what a type of the program's makes of it."""
MEDIA_TYPE = b"application/problem+json"


class Disconnected(Exception):
    """The caller went away before the whole answer was given."""


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


def invalid_input(exc: ValidationError, title: str = UNFIT) -> Problem:
    """422, with each field by its path. The values themselves are not repeated."""
    found = _told(exc)
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in found)
    return Problem(422, "invalid-input", title, cut(detail, LONGEST_DETAIL), found)


def _told(exc: ValidationError) -> tuple[dict[str, str], ...]:
    count, found = exc.error_count(), []
    if count <= MOST_GATHERED:
        errors = exc.errors(include_url=False, include_input=False, include_context=False)[:MOST_TOLD]
        found = [{"field": _path(e["loc"]), "message": cut(e["msg"], LONGEST_WORDS)} for e in errors]
    if count > len(found):
        found.append({"field": _path(()), "message": f"{count} errors in all"})
    return tuple(found)


def _path(loc: tuple[int | str, ...]) -> str:
    return cut(".".join(map(str, loc)), LONGEST_WORDS) or "(body)"


def cut(text: str, longest: int) -> str:
    """A text of so many characters at most; an ellipsis stands for the rest."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def by_field(exc: ValidationError) -> dict[str, str]:
    """What is wrong, by the field that it is in; without the values, as above."""
    wrong: dict[str, list[str]] = {}
    for error in invalid_input(exc).errors:
        wrong.setdefault(error["field"].partition(".")[0], []).append(f"{error['field']}: {error['message']}")
    return {field: "; ".join(reasons) for field, reasons in wrong.items()}


def unexpected(exc: Exception) -> Problem:
    """500 for what is Despina's own fault; what it was stands in the log."""
    log.error("Unexpected error=%s\n%s", type(exc).__name__, place_of(exc))
    return Problem(500, "internal-error", "Something went wrong in the server", type(exc).__name__)


def as_problem(exc: Exception) -> Problem:
    """What a caller is told of whatever was raised."""
    return exc if isinstance(exc, Problem) else unexpected(exc)


def place_of(exc: BaseException) -> str:
    """Where it was raised, call by call. Its own text may quote what callers wrote, and is told nowhere."""
    return "".join(traceback.format_tb(exc.__traceback__))


def deadline_exceeded() -> Problem:
    """504 for a request that took longer than `runtime.requestTimeoutSeconds`."""
    return Problem(504, "deadline-exceeded", "The program took too long", fault="Timeout", can_fall_back=True)
