"""Errors as RFC 9457 problem documents. They say what a caller can act on, and never hold a stack trace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

MEDIA_TYPE = b"application/problem+json"


@dataclass(eq=False)  # not frozen: context managers set an exception's traceback
class Problem(Exception):
    """One error answer."""

    status: int
    type: str
    title: str
    detail: str = ""
    errors: tuple[dict[str, str], ...] = ()

    def body(self) -> bytes:
        """The JSON document."""
        document: dict[str, Any] = {
            "type": f"urn:despina:problem:{self.type}",
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            document["detail"] = self.detail
        if self.errors:
            document["errors"] = list(self.errors)
        return json.dumps(document).encode()


def invalid_input(exc: ValidationError) -> Problem:
    """422, with each field by its path. The values themselves are not repeated."""
    found = tuple(
        {"field": ".".join(map(str, e["loc"])) or "(body)", "message": e["msg"]}
        for e in exc.errors(include_url=False, include_input=False, include_context=False)
    )
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in found)
    return Problem(422, "invalid-input", "The input does not fit the program's signature", detail, found)
