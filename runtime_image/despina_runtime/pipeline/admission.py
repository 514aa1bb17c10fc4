"""What a program accepts: so many requests a second, and so many that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from despina_runtime.lm.meter import Lingering
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.problem import Problem


class TokenBucket:
    """A rate with a burst. `share` is this worker's part of the whole program's rate."""

    def __init__(self, rate: float, burst: float, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self.share = share
        self._tokens = max(1.0, burst * share)
        self._at = clock()

    def take(self) -> float:
        """Take one token: 0.0, or the seconds until there is one."""
        now = self._clock()
        rate = self._rate * self.share
        self._tokens = min(max(1.0, self._burst * self.share), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / rate


class RateLimit:
    """Refuses what comes faster than `limits.requestsPerSecond`."""

    def __init__(self, bucket: TokenBucket, then: Step) -> None:
        self._bucket = bucket
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """429 with Retry-After, or what follows."""
        wait = self._bucket.take()
        if wait:
            raise Problem(429, "rate-limited", "Too many requests", retry_after=max(1.0, wait))
        return await self._then(call)


class Slots:
    """`runtime.maxConcurrency` executions at a time; `limits.maxQueue` more wait, each within its own deadline."""

    def __init__(self, slots: int, queue: int) -> None:
        self._free = asyncio.Semaphore(slots)
        self._queue = queue
        self.waiting = 0

    async def take(self, deadline: float) -> None:
        """Wait for a slot; raises Problem 503 when too many wait and 504 at the deadline."""
        if self._free.locked():
            await self._wait(deadline)
        else:
            await self._free.acquire()

    async def _wait(self, deadline: float) -> None:
        if self.waiting >= self._queue:
            raise Problem(503, "overloaded", "Too many requests are waiting", retry_after=1.0)
        self.waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError:
            detail = "it waited for its turn until its deadline"
            raise Problem(504, "deadline-exceeded", "The program is too busy", detail, fault="Timeout") from None
        finally:
            self.waiting -= 1

    def give_back(self, lingering: Iterable[Lingering] = ()) -> None:
        """End of an execution. A thread cannot be stopped: if one still works on it, its end is the execution's."""
        loop, busy = asyncio.get_running_loop(), {one for one in lingering if not one.done()}

        def end(one: Lingering) -> None:
            busy.discard(one)
            if not busy:
                self._free.release()

        for one in tuple(busy):
            one.add_done_callback(lambda ended: loop.call_soon_threadsafe(end, ended))
        if not busy:
            self._free.release()


class Queue:
    """Lets so many executions through at a time."""

    def __init__(self, slots: Slots, waited: Callable[[float], None], then: Step) -> None:
        self._slots = slots
        self._waited = waited
        """Told for how many seconds an execution has waited for its slot."""
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """What follows, when there is a slot."""
        began = time.perf_counter()
        await self._slots.take(call.deadline)
        self._waited(time.perf_counter() - began)
        try:
            return await self._then(call)
        finally:
            self._slots.give_back(call.meter.lingering)
