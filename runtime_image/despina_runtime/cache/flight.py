"""Single flight within a process: of equal questions at one time, one is asked and all get its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
COARSE_SECONDS = 0.01
"""uvloop's timers come in milliseconds, and a little early or late."""


@dataclass(slots=True)
class _Flight:
    """Work that somebody waits for."""

    task: asyncio.Task[Any]
    waiting: int = 0


class Flights:
    """Work under way, by key. It runs in a task of its own, so that a caller who leaves takes nobody's answer along; it
    ends with the last of them.

    All callers get the same object: bytes, or what nobody changes.
    """

    def __init__(self, is_shared: bool = True) -> None:
        self.is_shared = is_shared
        """False: each does its own work."""
        self._flights: dict[str, _Flight] = {}

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
            flight = self._flights.get(key)
            leads = flight is None
            flight = flight or self._begin(key, work)
            flight.waiting += 1
            try:
                if not await has_ended(flight.task, until):
                    raise TimeoutError
            finally:
                self._leave(key, flight)
            try:
                return flight.task.result(), leads
            except TimeoutError:
                if leads:
                    raise

    def _begin(self, key: str, work: Callable[[], Awaitable[T]]) -> _Flight:
        flight = self._flights[key] = _Flight(asyncio.ensure_future(work()))
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    def _leave(self, key: str, flight: _Flight) -> None:
        flight.waiting -= 1
        if not flight.waiting and not flight.task.done():
            flight.task.cancel()
            del self._flights[key]  # whoever comes now begins anew

    def _land(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.task.cancelled():
            flight.task.exception()  # seen here, for all who waited may have left


async def has_ended(task: asyncio.Task[Any], until: float) -> bool:
    """Wait for a task, which goes on if nobody does: false if the event loop's time `until` comes first.

    A third of what `asyncio.wait`, or `shield` within a time-out, costs each request.
    """
    loop = asyncio.get_running_loop()
    waiting = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiting.done():
            waiting.set_result(None)

    timer = loop.call_at(until, wake)
    task.add_done_callback(wake)
    try:
        await waiting
    finally:
        timer.cancel()
        task.remove_done_callback(wake)
    return task.done()


def is_over(until: float) -> bool:
    """Whether the event loop's time has come."""
    return asyncio.get_running_loop().time() > until - COARSE_SECONDS
