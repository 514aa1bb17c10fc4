"""What one worker counts: plain integers, since a cached answer must not pay for being counted.

Told is what is new since it was told last, as the JSON of `despina.wire.Figures`; whoever hears it adds it up. So what
is kept here does not grow with time, and a worker that is killed takes with it what it had not told yet, and no more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from despina.wire import MOST_MODULES, OTHER, SECONDS_BOUNDS
from despina.wire.predictions import unsigned
from despina_runtime.telemetry.context import trace_of

BUCKETS = len(SECONDS_BOUNDS) + 1
Counts = dict[str, int]
JSON = dict[str, Any]
Exemplar = tuple[str, Iterable[tuple[str, str]], float, float]
"""A request's name, the headers of its caller's trace, how many seconds it took, and when it ended."""
LONGEST_NAME = 110
"""Characters: with `prediction_id` not more than OpenMetrics allows."""


class Times:
    """How long something took."""

    __slots__ = "buckets", "seconds"

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.buckets, self.seconds = [0] * BUCKETS, 0.0

    def __call__(self, seconds: float) -> None:
        """One of them."""
        self.buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1
        self.seconds += seconds

    def take(self) -> JSON:
        """What is new, as a `Timing`; empty if there is nothing."""
        if not any(self.buckets):
            return {}
        found = {"buckets": self.buckets, "seconds": self.seconds}
        self._begin()
        return found


class Asked:
    """What one module asked of one LM."""

    __slots__ = "cost_usd", "input_tokens", "outcomes", "output_tokens"

    def __init__(self) -> None:
        self.outcomes: Counts = {}
        self.input_tokens = self.output_tokens = 0
        self.cost_usd = 0.0

    def told(self) -> JSON:
        """As `LMFigures`, without the names."""
        return {name: getattr(self, name) for name in self.__slots__}


class VersionCounts:
    """Of one version, whichever of its revisions was asked."""

    def __init__(self, lm_seconds: dict[str, Times] | None = None) -> None:
        self.revisions = 0
        """Those that may still count here."""
        self.answers: dict[tuple[int, str | None], int] = {}
        """By status and tier."""
        self.errors: Counts = {}
        self.degraded: Counts = {}
        self.latency, self.first_token, self.queue = Times(), Times(), Times()
        self.exemplars: dict[int, Exemplar] = {}
        """By the bucket of `latency`."""
        self._lms: dict[tuple[str, str], Asked] = {}
        self._lm_seconds = {} if lm_seconds is None else lm_seconds
        self._modules: set[str] = set()

    def attempt(self, lm: str, module: str, outcome: str, tokens: tuple[int, int] = (0, 0), usd: float = 0.0) -> None:
        """One attempt at an LM."""
        asked = self._asked(lm, module)
        asked.outcomes[outcome] = asked.outcomes.get(outcome, 0) + 1
        asked.input_tokens += tokens[0]
        asked.output_tokens += tokens[1]
        asked.cost_usd += usd

    def _asked(self, lm: str, module: str) -> Asked:
        if module not in self._modules:
            if len(self._modules) < MOST_MODULES:
                self._modules.add(module)
            else:
                module = OTHER
        if (found := self._lms.get((lm, module))) is None:
            found = self._lms[lm, module] = Asked()
        return found

    def took(self, lm: str, seconds: float) -> None:
        """How long an attempt took."""
        if (times := self._lm_seconds.get(lm)) is None:
            times = self._lm_seconds[lm] = Times()
        times(seconds)

    def take(self) -> JSON:
        """What is new, as a `VersionFigures`."""
        found = {
            "requests": _by_status(self.answers),
            "errors": self.errors,
            "latency": self.latency.take(),
            "first_token": self.first_token.take(),
            "queue": self.queue.take(),
            "exemplars": {bucket: told for bucket, one in self.exemplars.items() if (told := _exemplar(*one))},
            "lms": [{"lm": lm, "module": module, **asked.told()} for (lm, module), asked in self._lms.items()],
        }
        self.answers, self.errors, self.exemplars, self._lms = {}, {}, {}, {}
        return {name: value for name, value in found.items() if value}


class ToolCounts:
    """Of tools, whichever version called them."""

    def __init__(self) -> None:
        self._attempts: dict[tuple[str, str], Counts] = {}
        self._seconds: dict[str, Times] = {}

    def attempt(self, tool: str, backend: str, fate: str) -> None:
        """One attempt at a backend."""
        fates = self._attempts.setdefault((tool, backend), {})
        fates[fate] = fates.get(fate, 0) + 1

    def took(self, tool: str, seconds: float) -> None:
        """How long a call took, with all its attempts."""
        self._seconds.setdefault(tool, Times())(seconds)

    def take(self) -> JSON:
        """What is new, as fields of `Figures`."""
        tools = [{"tool": t, "backend": b, "outcomes": fates} for (t, b), fates in self._attempts.items()]
        seconds = {tool: times.take() for tool, times in self._seconds.items()}
        self._attempts, self._seconds = {}, {}
        return {"tools": tools, "tool_seconds": seconds}


class Counting:
    """One worker's."""

    def __init__(self) -> None:
        self.tools = ToolCounts()
        self._versions: dict[str, VersionCounts] = {}
        self._lm_seconds: dict[str, Times] = {}

    def begin(self, version: str) -> VersionCounts:
        """Where a revision counts; whoever begins, ends."""
        found = self._versions.setdefault(version, VersionCounts(self._lm_seconds))
        found.revisions += 1
        return found

    def end(self, version: str) -> None:
        """A revision counts no more. What it has counted is told before it is forgotten."""
        self._versions[version].revisions -= 1

    def take(self) -> JSON:
        """What is new, as `Figures`; empty if there is nothing."""
        cache, degraded = Counts(), Counts()
        for counts in self._versions.values():
            add(degraded, counts.degraded)
            add(cache, _by_tier(counts.answers))
            counts.degraded = {}
        versions = {name: told for name, counts in self._versions.items() if (told := counts.take())}
        self._versions = {name: counts for name, counts in self._versions.items() if counts.revisions}
        seconds = {lm: told for lm, times in self._lm_seconds.items() if (told := times.take())}
        self._lm_seconds.clear()
        found = {"versions": versions, "cache": cache, "degraded": degraded, "lm_seconds": seconds}
        return {name: value for name, value in (found | self.tools.take()).items() if value}


def add(counts: Counts, more: Counts) -> None:
    """To what was counted so far."""
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def _by_status(answers: dict[tuple[int, str | None], int]) -> Counts:
    found = Counts()
    for (status, _), count in answers.items():
        add(found, {str(status): count})
    return found


def _by_tier(answers: dict[tuple[int, str | None], int]) -> Counts:
    found = Counts()
    for (status, tier), count in answers.items():
        if status == 200:
            add(found, {tier or "none": count})
    return found


def _exemplar(name: str, trace: Iterable[tuple[str, str]], seconds: float, at: float) -> JSON:
    """As `Exemplar`; empty without a name, or where it is too long."""
    parent = trace_of(trace)
    kind, told = ("trace_id", parent.split("-")[1]) if parent else ("prediction_id", unsigned(name))
    return {"kind": kind, "name": told, "seconds": seconds, "at": at} if 0 < len(told) <= LONGEST_NAME else {}
