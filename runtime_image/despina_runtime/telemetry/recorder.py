"""Takes in what was executed, in the worker, and hands it over in batches: a request waits for none of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import orjson
from prometheus_client import Counter

from despina_runtime.telemetry.executed import Executed

UNRECORDED = Counter("despina_predictions_unrecorded_total", "Predictions that nobody took in time.")
MOST_WAITING = 4096
LONGEST = 2**18
"""Bytes of one record as JSON. Of a longer one, callers' words are left out."""
BATCH_BYTES = 2**20
Take = Callable[[bytes], bool]
"""Given a JSON list of records; false if there is no room for it now."""


class Recorder:
    """One worker's, of all revisions: one that is released has requests to end."""

    def __init__(self) -> None:
        self._waiting: deque[Executed] = deque()

    def __call__(self, executed: Executed) -> None:
        """Take one in; the oldest goes where nobody takes them."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            UNRECORDED.inc()
        self._waiting.append(executed)

    def hand_over(self, take: Take) -> None:
        """All that is there, in batches, as far as there is room."""
        while self._waiting:
            batch, size = [], 0
            while self._waiting and size < BATCH_BYTES:
                batch.append(_as_json(self._waiting.popleft()))
                size += len(batch[-1])
            if not take(_list_of(batch)):
                UNRECORDED.inc(len(batch))
                return


def _as_json(executed: Executed) -> bytes:
    text = _dumps(executed)
    return text if len(text) <= LONGEST else _dumps(executed._replace(inputs=None, outputs=None, spans=[]))


def _dumps(executed: Executed) -> bytes:
    return orjson.dumps(tuple(executed), default=str, option=orjson.OPT_NON_STR_KEYS)


def _list_of(items: Sequence[bytes]) -> bytes:
    return b"[%s]" % b",".join(items)
