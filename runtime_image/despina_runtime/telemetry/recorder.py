"""Takes in what was executed, in the worker, and hands it over in batches: a request waits for none of it, and nothing
is written down while one does."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson
from pydantic_core import to_json

from despina_runtime.telemetry.executed import END, NO_WORDS, WORDS

log = logging.getLogger(__name__)
MOST_WAITING = 4096
LONGEST = 2**18
"""Bytes of one record's words as JSON. Longer ones are left out."""
BATCH_BYTES = 2**20
Take = Callable[[bytes], bool]
"""Given records, each ended by `END`; false if there is no room for it now."""


class Record(NamedTuple):
    """What a record is made of, in the order of `Executed`."""

    counted: Sequence[Any]
    """All up to the traceparent, and a list of `Attempt`."""
    words: Sequence[Any]
    """Inputs and outputs, and a list of `Step`."""


class Recorder:
    """One worker's, of all revisions: one that is released has requests to end."""

    def __init__(self) -> None:
        self._dropped: dict[str, int] = {}
        self._refused = b""
        """A batch for which there was no room."""
        self._waiting: deque[Callable[[], Record]] = deque()

    def __call__(self, executed: Callable[[], Record]) -> None:
        """Take one in. It is asked for what it is when it is handed over; the oldest goes where nobody takes them."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._drop("not_taken_in_time")
        self._waiting.append(executed)

    def hand_over(self, take: Take) -> None:
        """All that is there, in batches, as far as there is room; what was refused is offered again."""
        while batch := self._refused or self._batch():
            self._refused = b"" if take(batch) else batch
            if self._refused:
                return

    def _batch(self) -> bytes:
        batch, size = list[bytes](), 0
        while self._waiting and size < BATCH_BYTES:
            batch.append(self._written(self._waiting.popleft()))
            size += len(batch[-1])
        return b"".join(batch)

    def _written(self, executed: Callable[[], Record]) -> bytes:
        """A record as bytes; nothing if what a program left in its trace cannot be made one."""
        try:
            record = executed()
            words = _words(record.words)
            return b"".join((orjson.dumps(record.counted), WORDS, words if len(words) <= LONGEST else NO_WORDS, END))
        except Exception as exc:  # its types and their methods are anybody's
            log.error("A prediction cannot be recorded error=%s", type(exc).__name__)
            self._drop("unwritable")
            return b""

    def _drop(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1

    def take_dropped(self) -> dict[str, int]:
        """How many are lost since this was asked last, by reason."""
        found, self._dropped = self._dropped, {}
        return found


def _words(words: Sequence[Any]) -> bytes:
    """As JSON. Most are plain, for which orjson is the fastest."""
    try:
        return orjson.dumps(words)
    except (TypeError, RecursionError):
        inputs, outputs, steps = words
        return orjson.dumps((inputs, outputs, [(path, *map(written, rest)) for path, *rest in steps]))


def written(values: Any) -> Any:
    """As JSON, whatever DSPy's types or a program's own are in it; what cannot be written at all stays as it is."""
    try:
        if isinstance(values, orjson.Fragment):
            return values
        return orjson.Fragment(to_json(values, fallback=str, inf_nan_mode="null", serialize_unknown=True))
    except Exception:  # its types and their methods are anybody's
        return values
