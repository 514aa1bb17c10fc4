"""Counting how executions go, for the operator: it compares a version with the one before."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter

from despina.wire import SECONDS_BOUNDS, Counts
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.pipeline.record import CLASSES
from despina_runtime.problem import Problem

OUTAGES = {"lm-unavailable", "lm-rate-limited", "lm-failure"}


class Tally:
    """One revision's executions: results by class, how long they took, what they cost."""

    def __init__(self, then: Step) -> None:
        self._then = then
        self._counts: Counter[str] = Counter()
        self._seconds = [0] * (len(SECONDS_BOUNDS) + 1)
        self._cost = 0.0

    async def __call__(self, call: Call) -> Answer:
        """What follows, counted. What the breaker or a full queue refused was not executed."""
        started = time.perf_counter()
        try:
            answer = await self._then(call)
        except Problem as problem:
            if problem.fault:
                self._count(call, started, CLASSES[problem.fault])
                self._counts["outage"] += problem.type in OUTAGES
            raise
        self._count(call, started, "ok")
        return answer

    def _count(self, call: Call, started: float, kind: str) -> None:
        self._counts[kind] += 1
        self._seconds[bisect_left(SECONDS_BOUNDS, time.perf_counter() - started)] += 1
        self._cost += float(call.meter.cost or 0)

    def refuse(self) -> None:
        """Count a caller's own mistake, which never came this far."""
        self._counts["caller"] += 1

    def report(self) -> Counts:
        """All so far."""
        return Counts(**self._counts, seconds=tuple(self._seconds), cost_usd=self._cost)
