"""The keyed work queue: each key at most once, one worker per key, back-off after failures.

Events only say *that* something happened; a key that is woken ten times before its turn is worked on once.
A key that is woken while it is being worked on is worked on again. Keys may also be asked for at a later time.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

Key = tuple[str, str]
Work = Callable[[Key], Awaitable[float | None]]
BASE_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 60.0
MOST_DOUBLINGS = 10
"""A key may fail for days, and the power of so many failures is no number."""


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    doublings = min(failures - 1, MOST_DOUBLINGS)
    return min(BASE_BACKOFF_SECONDS * 2.0**doublings, MAX_BACKOFF_SECONDS)


class Queue:
    """Runs `work(key)` when the key is due; its result, in seconds, asks for another turn."""

    def __init__(self, work: Work, workers: int = 8, clock: Callable[[], float] | None = None) -> None:
        self._work = work
        self._workers = workers
        self._clock = clock or asyncio.get_running_loop().time
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, after: float = 0.0) -> None:
        """Ask for a turn; the earliest time asked for counts."""
        due = self._clock() + after
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.set()

    @property
    def depth(self) -> int:
        """Keys that wait for a worker; those that asked for a later turn do not."""
        now = self._clock()
        return sum(due <= now for due in list(self._due.values()))  # at once: metrics are made in another thread

    @property
    def lag(self) -> float:
        """Seconds that the most overdue key has waited; 0 when none is overdue."""
        idle = [due for key, due in self._due.items() if key not in self._busy]
        return max(0.0, self._clock() - min(idle, default=float("inf")))

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._next()
            self._busy.add(key)
            try:
                await self._turn(key)
            finally:
                self._release(key)

    def _release(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._due:
            heapq.heappush(self._heap, (self._due[key], next(self._order), key))
        self._changed.set()

    async def _turn(self, key: Key) -> None:
        try:
            again = await self._work(key)
        except Exception:  # one bad key must not stop the others
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            log.exception("Reconcile failed key=%s/%s failures=%d", *key, failures)
            again = backoff(failures)
        else:
            self._failures.pop(key, None)
        if again is not None:
            self.add(key, again)

    async def _next(self) -> Key:
        while True:
            key = self._pop()
            if key is not None:
                return key
            wait = self._heap[0][0] - self._clock() if self._heap else None
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait, 0.001) if wait is not None else None):
                    await self._changed.wait()

    def _pop(self) -> Key | None:
        """A key that is due. One that is being worked on is left out of the heap until that is done."""
        while self._heap and self._heap[0][0] <= self._clock():
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due and key not in self._busy:
                del self._due[key]
                return key
        return None
