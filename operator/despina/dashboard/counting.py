"""Sums over pods of what they count, which never go back (pure).

A pod's figures are flattened to numbers by name, so that adding, keeping and comparing are the same for all of them.
What a pod no longer says (its container began anew, a version ended, it is gone) is kept as what was counted before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from despina.wire import MOST, MOST_MODULES, OTHER, SECONDS_BOUNDS, Figures, LMFigures, Timing

Name = tuple[str, ...]
"""What is counted, such as `("requests", VERSION, STATUS)`."""
Sums = dict[Name, float]
MOST_VERSIONS, MOST_TOOLS, MOST_WORDS = 4, 64, 16
"""Of one pod; what comes behind is counted as `other`."""
MOST_NAMES = 4096
"""Of one program: of all its pods together, and of all that ended."""
MOST_GONE = 20
"""Pods of one program that are gone, and known again if they are back after all."""
MOST_MISSED = 3
"""Questions that a pod may leave open before what it said of the moment holds no longer."""
LONGEST_WORD = 100
BUCKETS = len(SECONDS_BOUNDS) + 1
_shared: dict[Name, Name] = {}
MOST_SHARED = 50_000


class Words:
    """The first so many words as they are, all others as `other`: anybody may have made them up."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[tuple[str, ...]] = set()

    def __call__(self, *words: str) -> tuple[str, ...]:
        cut = tuple(word[:LONGEST_WORD] for word in words)
        if cut not in self._known and len(self._known) >= self._most:
            return (OTHER,) * len(words)
        self._known.add(cut)
        return cut


def flattened(figures: Figures) -> Sums:
    """One pod's counts by name, without those that are nothing."""
    sums: Sums = {}
    for name, count in _counts(figures):
        if count:
            _add(sums, _shared.setdefault(name, name) if len(_shared) < MOST_SHARED else name, count)
    return sums


def _add(sums: Sums, name: Name, count: float) -> None:
    sums[name] = min(sums.get(name, 0) + count, MOST)


def _counts(figures: Figures) -> Iterator[tuple[Name, float]]:
    versions, tools = Words(MOST_VERSIONS), Words(MOST_TOOLS)
    modules: dict[str, Words] = {}  # of each version its own: what is said of one hangs on no other that may end
    for number, counted in figures.versions.items():
        (version,) = versions(number)
        yield from _worded("requests", counted.requests, version)
        yield from _worded("errors", counted.errors, version)
        yield from _worded("feedback", counted.feedback, version)
        yield from _timed("latency", counted.latency, version)
        yield from _timed("first_token", counted.first_token, version)
        for lm in counted.lms:
            named = modules.setdefault(version, Words(MOST_MODULES))
            yield from _asked(lm, version, named(lm.lm, lm.module))
    yield from _worded("cache", figures.cache)
    yield from _worded("degraded", figures.degraded)
    lms = Words(MOST_WORDS)
    for name, timing in figures.lm_seconds.items():
        yield from _timed("lm_seconds", timing, *lms(name))
    for tool in figures.tools:
        yield from _worded("tool", tool.outcomes, *tools(tool.tool, tool.backend))


def _worded(kind: str, counts: Mapping[str, int], *about: str) -> Iterator[tuple[Name, float]]:
    words = Words(MOST_WORDS)
    for word, count in counts.items():
        yield (kind, *about, *words(word)), count


def _timed(kind: str, timing: Timing, *about: str) -> Iterator[tuple[Name, float]]:
    yield (f"{kind}_sum", *about), timing.seconds
    for number, count in enumerate(timing.buckets):
        yield (kind, *about, str(number)), count


def _asked(lm: LMFigures, version: str, module: tuple[str, ...]) -> Iterator[tuple[Name, float]]:
    calls = sum(lm.outcomes.values())
    for what, count in (("calls", calls), ("failed", calls - lm.outcomes.get("ok", 0))):
        yield ("lm", version, *module, what), count
    for what, number in (("input", lm.input_tokens), ("output", lm.output_tokens), ("cost", lm.cost_usd)):
        yield ("lm", version, *module, what), number
        yield ("spent", version, what), number


@dataclass(slots=True)
class _Pod:
    boot: str
    sums: Sums
    gauges: Gauges
    missed: int = 0


class Gauges(NamedTuple):
    """What is so at the moment."""

    in_flight: float = 0
    queued: float = 0
    breakers_open: float = 0
    rss_bytes: float = 0


@dataclass(slots=True)
class Meter:
    """What one program's pods counted, together."""

    _past: Sums = field(default_factory=dict)
    _pods: dict[str, _Pod] = field(default_factory=dict)
    _gone: dict[str, _Pod] = field(default_factory=dict)
    _names: Counter[Name] = field(default_factory=Counter)
    """How many pods count something, those that are gone among them."""

    def take(self, pod: str, figures: Figures) -> None:
        """What a pod says now."""
        sums, before = self._named(flattened(figures)), self._pods.get(pod) or self._gone.pop(pod, None)
        if before:
            self._forget(before.sums)
            self._keep(_lost(before.sums, sums if before.boot == figures.boot else {}))
        gauges = Gauges(figures.in_flight, figures.queued, figures.breaker_open, figures.rss_bytes)
        self._pods[pod] = _Pod(figures.boot, sums, gauges)

    def miss(self, pods: Iterable[str]) -> None:
        """These were asked and did not answer; what they counted stays counted."""
        for pod in pods:
            if pod in self._pods:
                self._pods[pod].missed += 1

    def stay(self, present: Collection[str]) -> None:
        """Only these pods are there; what others counted is kept."""
        for gone in self._pods.keys() - set(present):
            self._gone[gone] = self._pods.pop(gone)
        while len(self._gone) > MOST_GONE:
            sums = self._gone.pop(next(iter(self._gone))).sums
            self._forget(sums)
            self._keep(sums)

    def total(self) -> Sums:
        """All that was counted since this process looks."""
        total = dict(self._past)
        for pod in (*self._pods.values(), *self._gone.values()):
            for name, count in pod.sums.items():
                _add(total, name, count)
        return total

    def gauges(self) -> Gauges:
        """What is so now, over all pods that say so."""
        return Gauges(*map(sum, zip(Gauges(), *(pod.gauges for pod in self._heard()), strict=True)))

    def is_silent(self) -> bool:
        """Whether no pod says what is so now."""
        return not self._heard()

    def _heard(self) -> list[_Pod]:
        return [pod for pod in self._pods.values() if pod.missed < MOST_MISSED]

    def _named(self, counted: Sums) -> Sums:
        """What is to be held of a pod's counts, whose names are others in each pod if it likes."""
        sums: Sums = {}
        for name, count in counted.items():
            is_room = name in self._names or len(self._names) < MOST_NAMES
            _add(sums, name if is_room else _nameless(name), count)
        self._names.update(sums.keys())
        return sums

    def _forget(self, sums: Sums) -> None:
        for name in sums:
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]

    def _keep(self, sums: Mapping[Name, float]) -> None:
        for name, count in sums.items():
            if name[0] == "lm":
                name = ("lm", OTHER, *name[2:])  # of modules only sums over versions are shown
            _add(self._past, name if name in self._past or len(self._past) < MOST_NAMES else _nameless(name), count)


def _lost(before: Sums, now: Sums) -> Sums:
    """What a reader would miss: a count that is less than it was began anew."""
    return {name: count for name, count in before.items() if now.get(name, 0) < count}


KEPT = {*map(str, range(BUCKETS)), "caller", "calls", "failed", "input", "output", "cost"}


def _nameless(name: Name) -> Name:
    """The same of a version that nobody knows any more; buckets and kinds of tokens stay what they are."""
    last = name[-1] if len(name) > 2 and name[-1] in KEPT else OTHER
    return (name[0], *[OTHER] * (len(name) - 2), last)
