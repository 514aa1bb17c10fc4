"""Which request the code of the moment works for, for whatever is logged meanwhile."""

from __future__ import annotations

from contextvars import ContextVar

ABOUT: ContextVar[tuple[str, str] | None] = ContextVar("despina_about", default=None)
"""The revision and the trace's id."""


def about() -> dict[str, str]:
    """As fields of a log."""
    found = ABOUT.get()
    return {"revision": found[0], "trace_id": found[1]} if found else {}
