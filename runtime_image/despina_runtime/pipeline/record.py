"""Counting one revision's requests."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable

from despina.wire import SECONDS_BOUNDS, ErrorClass
from despina_runtime.problem import Problem
from despina_runtime.telemetry.counting import VersionCounts

CLASSES: dict[ErrorClass, str] = {"Program": "program", "Upstream": "upstream", "Timeout": "timeout"}
WITHOUT_FAULT = {429: "overload", 500: "internal", 502: "upstream", 503: "overload", 504: "timeout"}
"""By the status of what is nobody's fault; all others are the caller's."""


class Record:
    """Counts what a revision answered, with all others of its version. A cached answer costs 40 microseconds, so this
    is no place for more than a few integers."""

    def __init__(self, counts: VersionCounts) -> None:
        self.in_flight = 0
        self._counts = counts

    def __call__(
        self, status: int, seconds: float, tier: str | None = None, name: str = "",
        trace: Iterable[tuple[str, str]] = (),
    ) -> None:  # fmt: skip
        """One answer: its HTTP status, how long it took, the cache's tier if it came from there, its prediction's name,
        and the headers of the caller's trace."""
        counts, what = self._counts, (status, tier)
        counts.answers[what] = counts.answers.get(what, 0) + 1
        latency, bucket = counts.latency, bisect_left(SECONDS_BOUNDS, seconds)
        latency.buckets[bucket] += 1
        latency.seconds += seconds
        if (name or trace) and bucket not in counts.exemplars:
            counts.exemplars[bucket] = name, trace, seconds, time.time()

    def fail(self, problem: Problem) -> None:
        """One that ended so, also where its answer had begun by then."""
        kind, errors = class_of(problem), self._counts.errors
        errors[kind] = errors.get(kind, 0) + 1

    def degrade(self, problem: str) -> None:
        """One answer of a fallback, by what had failed."""
        self._counts.degraded[problem] = self._counts.degraded.get(problem, 0) + 1

    def begin_to_stream(self, seconds: float) -> None:
        """How long a stream took until its first chunk."""
        self._counts.first_token(seconds)


def class_of(problem: Problem) -> str:
    """Whose an error is, in a word."""
    return CLASSES[problem.fault] if problem.fault else WITHOUT_FAULT.get(problem.status, "caller")
