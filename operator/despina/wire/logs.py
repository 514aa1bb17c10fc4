"""How the operator and all of a pod's processes write their logs: one line a record, as text or as JSON.

Whatever others wrote, whose names and words get into messages, no line begins that is not a record of ours: in text,
what follows a line break is indented, and other control characters, those of direction too, are written out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LOG_FORMAT_ENV = "DESPINA_LOG_FORMAT"
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LONGEST = 2**14
"""Characters of a message."""
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
FACTS: dict[str, str] = {}
"""What this process works for, such as `program`: said with every record."""
NOTHING: Mapping[str, str] = MappingProxyType({})
ABOUT: ContextVar[Mapping[str, str]] = ContextVar("despina_about", default=NOTHING)
"""What the code of the moment works for, such as `trace_id`: said with what is logged meanwhile."""
OF_A_RECORD = ("prediction", "trace_id")
"""Given by `extra`, where only a single record is about it."""


class OneLine(logging.Formatter):
    """Either form. Of errors it says the type and where, and their text only if `quotes_errors`: it may be anybody's
    words, such as a caller's."""

    def __init__(self, form: LogFormat, quotes_errors: bool) -> None:
        super().__init__(TEXT)
        self._form, self._quotes = form, quotes_errors

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line."""
        message = record.getMessage()[:LONGEST]
        if self._form == "json":
            return json.dumps(self._document(record, message))
        record.message, record.asctime = message, self.formatTime(record)
        lines = [self.formatMessage(record), *(self._error(record) or "").splitlines()]
        return UNSAFE.sub(_written_out, "\n".join(lines)).replace("\n", "\n    ")

    def _document(self, record: logging.LogRecord, message: str) -> dict[str, Any]:
        """Its own keys come last: what is said of it can take none of their places."""
        given = {name: str(vars(record)[name]) for name in OF_A_RECORD if name in vars(record)}
        error = {"error": text} if (text := self._error(record)) else {}
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        own = {"time": at.replace("+00:00", "Z"), "level": record.levelname, "logger": record.name, "message": message}
        return own | {k: v for k, v in {**FACTS, **ABOUT.get(), **given, **error}.items() if k not in own}

    def _error(self, record: logging.LogRecord) -> str:
        kind, exc, places = record.exc_info or (None, None, None)
        if kind is None:
            return ""
        if self._quotes:
            return "".join(traceback.format_exception(kind, exc, places)).rstrip()[:LONGEST]
        return "".join([*traceback.format_tb(places), kind.__name__])[-LONGEST:]


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def set_up(form: str | None, quotes_errors: bool = False, **facts: str) -> None:
    """Have this process log so, to its standard error; any other form than `json` is text."""
    FACTS.update(facts)
    root = logging.getLogger()
    if not root.handlers:  # where others have theirs, as a test does, they stay
        logging.basicConfig(level=logging.INFO, handlers=[logging.StreamHandler(sys.stderr)])
        root.handlers[0].setFormatter(OneLine("text", quotes_errors))
    for handler in root.handlers:
        if isinstance(handler.formatter, OneLine):
            handler.setFormatter(OneLine("json" if form == "json" else "text", quotes_errors))
