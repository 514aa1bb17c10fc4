"""Sums over pods of what they count, which never go back (pure).

What a pod no longer says (its container began anew, a version ended, it is gone) is kept as what was counted before.
Names are as good as always those of before, so that a pod's counts are an array beside the names, which all pods of a
program share.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import lt
from typing import NamedTuple

from despina.dashboard.flat import BUCKETS, PLACES, Name, Sums, add, flattened, places
from despina.wire import OTHER, Figures

MOST_NAMES = 4096
"""Of one program: of all its pods together, and of all that ended."""
MOST_GONE = 20
"""Pods of one program that are gone, and known again if they are back after all."""
MOST_MISSED = 3
"""Questions that a pod may leave open before what it said of the moment holds no longer."""


class Shape:
    """The names of what a pod counts."""

    __slots__ = ("names", "places")

    def __init__(self, names: tuple[Name, ...]) -> None:
        self.names, self.places = names, places(names)


@dataclass(slots=True)
class _Pod:
    boot: str
    shape: Shape
    counts: array[float]
    gauges: Gauges
    tag: str = ""
    missed: int = 0

    @property
    def sums(self) -> Sums:
        """What it counted, by name."""
        return dict(zip(self.shape.names, self.counts, strict=True))


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
    _past_curves: list[float] | None = None
    _pods: dict[str, _Pod] = field(default_factory=dict)
    _gone: dict[str, _Pod] = field(default_factory=dict)
    _names: Counter[Name] = field(default_factory=Counter)
    """How many pods count something, those that are gone among them."""
    _shape: Shape = field(default_factory=lambda: Shape(()))
    """The latest, for all pods that count the same."""

    def take(self, pod: str, figures: Figures, tag: str = "") -> None:
        """What a pod says now; `tag` stands for it the next time."""
        sums, before = flattened(figures), self._pods.get(pod) or self._gone.pop(pod, None)
        shape, counts = self._shaped(sums, before)
        if before:
            self._keep(_lost(before, figures.boot, shape, counts))
        gauges = Gauges(figures.in_flight, figures.queued, figures.breaker_open, figures.rss_bytes)
        self._pods[pod] = _Pod(figures.boot, shape, counts, gauges, tag)

    def _shaped(self, sums: Sums, before: _Pod | None) -> tuple[Shape, array[float]]:
        names = tuple(sums)
        if before and before.shape.names == names:
            return before.shape, array("d", sums.values())
        sums = self._named(sums)
        if before:
            self._forget(before.shape.names)
        if self._shape.names != (names := tuple(sums)):
            self._shape = Shape(names)
        return self._shape, array("d", sums.values())

    def same(self, pod: str, tag: str) -> bool:
        """A pod says what it said with this tag; whether it is known what that was."""
        known = self._pods.get(pod)
        if known is None or not tag or known.tag != tag:
            return False
        known.missed = 0
        return True

    def tag(self, pod: str) -> str:
        """What stands for that which a pod said last; empty where nothing does."""
        known = self._pods.get(pod)
        return known.tag if known else ""

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
            pod = self._gone.pop(next(iter(self._gone)))
            self._forget(pod.shape.names)
            self._keep(pod.sums)

    def total(self) -> Sums:
        """All that was counted since this process looks."""
        total = dict(self._past)
        for pod in self._all():
            for name, count in zip(pod.shape.names, pod.counts, strict=True):
                add(total, name, count)
        return total

    def curves(self) -> list[float]:
        """Of the total what curves are made of: SUMMED and the buckets of latency."""
        if self._past_curves is None:
            self._past_curves = _moved([0.0] * PLACES, places(self._past), [*self._past.values()])
        found = [*self._past_curves]
        for pod in self._all():
            _moved(found, pod.shape.places, pod.counts)
        return found

    def _all(self) -> list[_Pod]:
        return [*self._pods.values(), *self._gone.values()]

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
            add(sums, name if is_room else _nameless(name), count)
        self._names.update(sums.keys())
        return sums

    def _forget(self, names: Iterable[Name]) -> None:
        for name in names:
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]

    def _keep(self, sums: Mapping[Name, float]) -> None:
        self._past_curves = None if sums else self._past_curves
        for name, count in sums.items():
            if name[0] == "lm":
                name = ("lm", OTHER, *name[2:])  # of modules only sums over versions are shown
            add(self._past, name if name in self._past or len(self._past) < MOST_NAMES else _nameless(name), count)


def _moved(curves: list[float], where: Iterable[tuple[int, int]], counts: Sequence[float]) -> list[float]:
    for number, place in where:
        curves[place] += counts[number]
    return curves


def _lost(before: _Pod, boot: str, shape: Shape, counts: array[float]) -> Sums:
    """What a reader would miss: a count that is less than it was began anew."""
    if before.boot != boot:
        return before.sums
    if before.shape is shape and not any(map(lt, counts, before.counts)):
        return {}
    now = dict(zip(shape.names, counts, strict=True))
    return {name: count for name, count in before.sums.items() if now.get(name, 0) < count}


KEPT = {*map(str, range(BUCKETS)), "caller", "calls", "failed", "input", "output", "cost"}


def _nameless(name: Name) -> Name:
    """The same of a version that nobody knows any more; buckets and kinds of tokens stay what they are."""
    last = name[-1] if len(name) > 2 and name[-1] in KEPT else OTHER
    return (name[0], *[OTHER] * (len(name) - 2), last)
