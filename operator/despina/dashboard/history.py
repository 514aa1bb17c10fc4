"""What a program did in the last hour and the last day, in rings that never grow (pure)."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Sequence
from itertools import chain, repeat

from despina.dashboard.rates import Look, Sample, between

SERIES = len(Sample._fields)
FINE_SECONDS, FINE_SLOTS = 10, 360
COARSE_SECONDS, COARSE_SLOTS = 300, 288
WINDOW_SECONDS = 10.0
"""Over which the present rates are counted."""
MOST_LOOKS = 16
LONGEST_BETWEEN = 45.0
"""Seconds: slots between two looks that are no farther apart had what happened between these. While nobody has a page
open one look follows another after 30; what pods that were silent for longer did in which slot, nobody knows."""


class Ring:
    """One sample for each slot of time; those that nobody wrote are NaN."""

    __slots__ = ("_latest", "_values", "seconds", "slots")

    def __init__(self, seconds: int, slots: int) -> None:
        self.seconds, self.slots = seconds, slots
        self._values = array("f", repeat(math.nan, slots * SERIES))
        self._latest = -1

    def put(self, at: float, sample: Sequence[float], skipped: Sequence[float] = Sample()) -> None:
        """The sample that ends now, and what those slots had that nobody wrote since the latest; a clock that goes back
        writes nothing."""
        slot = int(at // self.seconds)
        if slot < self._latest:
            return
        first = self._latest + 1 if self._latest >= 0 else slot
        for between_them in range(max(first, slot - self.slots + 1), slot):
            self._write(between_them, skipped)
        self._write(slot, sample)
        self._latest = slot

    def _write(self, slot: int, sample: Sequence[float]) -> None:
        start = slot % self.slots * SERIES
        self._values[start : start + SERIES] = array("f", sample)

    def series(self, name: str, count: int, now: float) -> list[float]:
        """One curve: the last so many slots, the present one last."""
        number, oldest = Sample._fields.index(name), (self._latest + 1) % self.slots
        known = self._values[number::SERIES]
        ordered = [*known[oldest:], *known[:oldest]]
        ahead = min(max(0, int(now // self.seconds) - self._latest), self.slots)
        return [*ordered[ahead:], *repeat(math.nan, ahead)][-count:]


class History:
    """A program's curves, and what it does at the moment."""

    __slots__ = ("_coarse_from", "_fine_from", "_looks", "coarse", "fine")

    def __init__(self) -> None:
        self.fine, self.coarse = Ring(FINE_SECONDS, FINE_SLOTS), Ring(COARSE_SECONDS, COARSE_SLOTS)
        self._looks: deque[Look] = deque(maxlen=MOST_LOOKS)
        self._fine_from: Look | None = None
        self._coarse_from: Look | None = None

    def look(self, look: Look) -> None:
        """Note one look, the latest of all."""
        while len(self._looks) > 1 and look.at - self._looks[1].at >= WINDOW_SECONDS:
            self._looks.popleft()
        before = self._looks[-1] if self._looks else None
        self._looks.append(look)
        self._fine_from = self._noted(self.fine, self._fine_from, before, look)
        self._coarse_from = self._noted(self.coarse, self._coarse_from, before, look)

    def _noted(self, ring: Ring, since: Look | None, before: Look | None, look: Look) -> Look:
        """Where the slot that is being written began; `before` is the look before this one."""
        if since is None:
            return look
        if before and look.at - before.at <= LONGEST_BETWEEN and _slots(ring, before, look) > 1:
            grown = between(before, look)  # and not since the slot of `before` began, which has its own
            ring.put(look.at, grown, grown)
        else:
            ring.put(look.at, between(since, look))
        return look if _slots(ring, since, look) > 0 else since

    def forget_present(self) -> None:
        """Nobody says what happens at the moment; the curves stay."""
        self._looks.clear()

    def present(self) -> Sample:
        """What happens at the moment; nothing before a second look."""
        return between(self._looks[0], self._looks[-1]) if len(self._looks) > 1 else Sample()

    def degraded(self) -> float:
        """Answers of a fallback within the window."""
        return max(0.0, self._looks[-1].degraded - self._looks[0].degraded) if self._looks else 0.0


def _slots(ring: Ring, then: Look, now: Look) -> int:
    return int(now.at // ring.seconds - then.at // ring.seconds)


def finite(values: Sequence[float]) -> list[float]:
    """Those that say something."""
    return [value for value in values if math.isfinite(value)]


def peak(*curves: Sequence[float]) -> float:
    """The highest of all points, or 0."""
    return max(chain.from_iterable(map(finite, curves)), default=0.0)
