"""Asking a candidate what callers ask, without their noticing: afterwards, seldom, and never many at a time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable

import orjson

from despina.wire import SECONDS_BOUNDS, ShadowConfig, ShadowReport
from despina_runtime.problem import Problem

log = logging.getLogger(__name__)
AT_A_TIME = 2
Ask = Callable[[bytes], Awaitable[bytes | None]]
"""A request's body to the outputs as JSON; None when there are none."""


class Shadow:
    """Mirrors a part of the live requests that were executed, and compares."""

    def __init__(self, config: ShadowConfig, ask: Ask) -> None:
        self.config = config
        self._ask = ask
        self._tasks: set[asyncio.Task[None]] = set()
        self._mirrored = self._dropped = self._failed = self._agreed = 0
        self._live = [0] * (len(SECONDS_BOUNDS) + 1)
        self._seconds = [0] * (len(SECONDS_BOUNDS) + 1)

    def __call__(self, body: bytes, answer: bytes, seconds: float) -> None:
        """A caller has had its answer after so many seconds."""
        if random.random() * 100 >= self.config.percent:  # noqa: S311 - a sample
            return
        if len(self._tasks) >= AT_A_TIME:
            self._dropped += 1
            return
        task = asyncio.create_task(self._mirror(body, answer, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _mirror(self, body: bytes, answer: bytes, seconds: float) -> None:
        started = time.perf_counter()
        try:
            theirs = await self._ask(body)
        except Problem:
            theirs = None
        self._mirrored += 1
        self._live[bisect_left(SECONDS_BOUNDS, seconds)] += 1
        self._seconds[bisect_left(SECONDS_BOUNDS, time.perf_counter() - started)] += 1
        if theirs is None:
            self._failed += 1
        else:
            self._agreed += orjson.loads(theirs) == orjson.loads(answer)

    def report(self) -> ShadowReport:
        """All so far."""
        return ShadowReport(
            revision=self.config.revision,
            mirrored=self._mirrored,
            dropped=self._dropped,
            failed=self._failed,
            agreed=self._agreed,
            live_seconds=tuple(self._live),
            seconds=tuple(self._seconds),
        )

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
