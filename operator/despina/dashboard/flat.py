"""A pod's figures as numbers by name (pure), and which of the eight curves each of them moves.

This is done for each pod every few seconds, so a name that was made before is taken from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from despina.wire import MOST, MOST_MODULES, OTHER, SECONDS_BOUNDS, Figures, LMFigures, Timing, VersionFigures

Name = tuple[str, ...]
"""What is counted, such as `("requests", VERSION, STATUS)`."""
Sums = dict[Name, float]
MOST_VERSIONS, MOST_TOOLS, MOST_WORDS = 4, 64, 16
"""Of one pod; what comes behind is counted as `other`."""
LONGEST_WORD = 100
BUCKETS = len(SECONDS_BOUNDS) + 1
CALLERS = "caller"
"""The class of errors that are the callers' own: they are no fault of the program."""
MADE = "none"
"""The cache's tier of answers that were made."""
SUMMED = ("requests", "errors", "hits", "answers", "tokens", "cost", "degraded")
"""What curves are made of, beside the buckets of latency."""
PLACES = len(SUMMED) + BUCKETS
ASKED = ("calls", "failed", "input", "output", "cost")
MOST_KNOWN = 4096
_shared: dict[Name, Name] = {}
MOST_SHARED = 50_000


class Words:
    """The first so many words as they are, all others as `other`: anybody may have made them up."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[tuple[str, ...]] = set()

    def __call__(self, *words: str) -> tuple[str, ...]:
        cut = tuple([word[:LONGEST_WORD] for word in words])
        if cut not in self._known:
            if len(self._known) >= self._most:
                return (OTHER,) * len(words)
            self._known.add(cut)
        return cut


def flattened(figures: Figures) -> Sums:
    """One pod's counts by name, without those that are nothing."""
    sums: Sums = {}
    versions, tools, lms = Words(MOST_VERSIONS), Words(MOST_TOOLS), Words(MOST_WORDS)
    modules: dict[str, Words] = {}  # of each version its own: what is said of one hangs on no other that may end
    for number, counted in figures.versions.items():
        (version,) = versions(number)
        _version(sums, version, counted, modules.setdefault(version, Words(MOST_MODULES)))
    _worded(sums, ("cache",), figures.cache)
    _worded(sums, ("degraded",), figures.degraded)
    for name, timing in figures.lm_seconds.items():
        _timed(sums, ("lm_seconds", *lms(name)), timing)
    for tool in figures.tools:
        _worded(sums, ("tool", *tools(tool.tool, tool.backend)), tool.outcomes)
    return sums


def _version(sums: Sums, version: str, counted: VersionFigures, named: Words) -> None:
    _worded(sums, ("requests", version), counted.requests)
    _worded(sums, ("errors", version), counted.errors)
    _worded(sums, ("feedback", version), counted.feedback)
    _timed(sums, ("latency", version), counted.latency)
    _timed(sums, ("first_token", version), counted.first_token)
    spent = [0.0, 0.0, 0.0]
    for lm in counted.lms:
        counts = _asked(lm)
        _numbered(sums, _asked_names(version, named(lm.lm, lm.module)), counts)
        spent = [a + b for a, b in zip(spent, counts[2:], strict=True)]
    _numbered(sums, _spent_names(version), spent)


def _worded(sums: Sums, about: Name, counts: Mapping[str, int]) -> None:
    words = Words(MOST_WORDS) if len(counts) > MOST_WORDS else None
    for word, count in counts.items():
        if count:
            name = (*about, *words(word)) if words else (*about, word[:LONGEST_WORD])
            name = _shared.get(name) or _made(name)
            sums[name] = min(sums[name] + count if name in sums else count, MOST)


def _timed(sums: Sums, about: Name, timing: Timing) -> None:
    if timing.seconds:
        add(sums, _made((f"{about[0]}_sum", *about[1:])), timing.seconds)
    if timing.buckets:
        _numbered(sums, _buckets(about), timing.buckets)


def _asked(lm: LMFigures) -> tuple[float, ...]:
    """Of one module, what ASKED says."""
    calls = sum(lm.outcomes.values())
    return calls, calls - lm.outcomes.get("ok", 0), lm.input_tokens, lm.output_tokens, lm.cost_usd


def _numbered(sums: Sums, names: Sequence[Name], counts: Sequence[float]) -> None:
    for name, count in zip(names, counts, strict=False):
        if count:
            sums[name] = min(sums[name] + count if name in sums else count, MOST)


def add(sums: Sums, name: Name, count: float) -> None:
    """So much more of it, within what can be counted."""
    sums[name] = min(sums[name] + count, MOST) if name in sums else min(count, MOST)


def _made(name: Name) -> Name:
    """One tuple for all programs that count something of this name."""
    return _shared.setdefault(name, name) if len(_shared) < MOST_SHARED else _shared.get(name, name)


@lru_cache(MOST_KNOWN)
def _buckets(about: Name) -> tuple[Name, ...]:
    return tuple((*about, str(number)) for number in range(BUCKETS))


@lru_cache(MOST_KNOWN)
def _asked_names(version: str, module: Name) -> tuple[Name, ...]:
    return tuple(("lm", version, *module, what) for what in ASKED)


@lru_cache(MOST_KNOWN)
def _spent_names(version: str) -> tuple[Name, ...]:
    return tuple(("spent", version, what) for what in ASKED[2:])


def places(names: Iterable[Name]) -> tuple[tuple[int, int], ...]:
    """Of each name that moves a curve, its place among the names and its place among SUMMED and the buckets."""
    return tuple((number, place) for number, name in enumerate(names) for place in _places(name))


def _places(name: Name) -> tuple[int, ...]:
    match name:
        case ("requests", _, _):
            return (SUMMED.index("requests"),)
        case ("errors", _, kind) if kind != CALLERS:
            return (SUMMED.index("errors"),)
        case ("latency", _, bucket):
            return (len(SUMMED) + int(bucket),)
        case ("cache", tier):
            return (SUMMED.index("answers"), *((SUMMED.index("hits"),) if tier != MADE else ()))
        case ("spent", _, what):
            return (SUMMED.index("cost" if what == "cost" else "tokens"),)
        case ("degraded", _):
            return (SUMMED.index("degraded"),)
    return ()
