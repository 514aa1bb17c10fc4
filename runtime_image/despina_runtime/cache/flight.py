"""Single flight within a process: of equal questions at one time, one is asked and all get its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Flights:
    """Work under way, by key. It runs in a task of its own, so that a caller who leaves takes nobody's answer along."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def is_flying(self, key: str) -> bool:
        """Whether somebody asks this already."""
        return key in self._tasks

    async def share(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work under way for this key, or of this work."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda done: self._land(key, done))
        result: T = await asyncio.shield(task)
        return result

    def _land(self, key: str, done: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # seen here, for all who waited may have left
