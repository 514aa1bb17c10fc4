"""Single flight within a process: of equal questions at one time, one is asked and all get its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
COARSE_SECONDS = 0.01
"""uvloop's timers come in milliseconds, and a little early or late."""


class Flights:
    """Work under way, by key. It runs in a task of its own, so that a caller who leaves takes nobody's answer along.

    All callers get the same object: bytes, or what nobody changes.
    """

    def __init__(self, is_shared: bool = True) -> None:
        self.is_shared = is_shared
        """False: each does its own work."""
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def share(self, key: str, until: float, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of the work under way for this key, or of this work; and whether it was this work.

        A TimeoutError of the work says that the time of the caller whose it is has run out. The others begin anew.

        Args:
            key: equal for equal questions.
            until: the event loop's time until which this caller waits.
            work: what to do if nobody does it already.

        Raises:
            TimeoutError: this caller's own time has run out.
        """
        if not self.is_shared:
            return await work(), True
        while True:
            task = self._tasks.get(key)
            leads = task is None
            task = task or self._begin(key, work)
            waiting = asyncio.timeout_at(until)
            try:
                async with waiting:
                    return await asyncio.shield(task), leads
            except TimeoutError:
                if leads or waiting.expired():
                    raise

    def _begin(self, key: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        task = self._tasks[key] = asyncio.ensure_future(work())
        task.add_done_callback(lambda done: self._land(key, done))
        return task

    def _land(self, key: str, done: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # seen here, for all who waited may have left


def is_over(until: float) -> bool:
    """Whether the event loop's time has come."""
    return asyncio.get_running_loop().time() > until - COARSE_SECONDS
