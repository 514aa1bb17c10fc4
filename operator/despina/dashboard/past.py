"""A program's curves out of Prometheus, where there is one: kept for a few seconds, asked for while somebody looks.

Nobody waits for it but the first who opens a page, and that not for long. While it does not answer, the page's own
rings are shown, and since when.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from despina.dashboard import promql
from despina.dashboard.curves import RANGES
from despina.dashboard.facts import Key
from despina.dashboard.history import COARSE_SECONDS, FINE_SECONDS
from despina.sources.prometheus import NoPast, Points

log = logging.getLogger(__name__)
Curves = Mapping[str, list[float]]
KEPT_SECONDS = 10.0
"""For so long curves are shown as they are, and for so long nobody is asked who did not answer."""
LONGEST_SHOWN = 60.0
"""Curves that could not be asked for anew give way to the rings then."""
MOST_KEPT = 256
"""Programs' curves; each takes up to 12 KB."""
FIRST_SECONDS = 1.5
"""That a page waits for its first curves."""


class Source(Protocol):
    """Prometheus."""

    async def curve(self, query: str, start: float, end: float, step: float) -> Points:
        """Raises NoPast."""


@dataclass(slots=True)
class _Kept:
    asked_at: float = -math.inf
    curves: Curves | None = None
    made_at: float = -math.inf
    asking: asyncio.Task[None] | None = None


@dataclass
class Past:
    """The curves of all programs that are looked at; without a source, none."""

    source: Source | None
    clock: Callable[[], float]
    silent_since: float = 0.0
    """Since when Prometheus does not answer; 0 while it does."""
    _kept: dict[tuple[Key, str], _Kept] = field(default_factory=dict)

    def curves(self, key: Key, span: str) -> Curves | None:
        """Those over one of RANGES, or None: then the rings say it. They are asked for anew when they are old."""
        if self.source is None:
            return None
        kept, now = self._kept.pop((key, span), None) or _Kept(), self.clock()
        self._kept[key, span] = kept  # the last one that was looked at
        if kept.asking is None and now - kept.asked_at >= KEPT_SECONDS and not self._is_full():
            kept.asked_at, kept.asking = now, asyncio.create_task(self._ask(self.source, kept, key, span))
        return kept.curves if now - kept.made_at < LONGEST_SHOWN else None

    async def first(self, key: Key, span: str) -> None:
        """Wait until there are curves, or for a moment."""
        if self.curves(key, span) is None and self.source and (task := self._kept[key, span].asking):
            await asyncio.wait([task], timeout=FIRST_SECONDS)

    def _is_full(self) -> bool:
        """Whether too many are kept whose answers are awaited; the oldest of the others go."""
        idle = [name for name, kept in self._kept.items() if kept.asking is None]
        for name in idle[: max(len(self._kept) - MOST_KEPT, 0)]:
            del self._kept[name]
        return len(self._kept) > MOST_KEPT

    async def _ask(self, source: Source, kept: _Kept, key: Key, span: str) -> None:
        step, count = step_of(span)
        end = self.clock() // step * step
        queries = promql.curves(key, promql.window_of(span))
        try:
            said = await asyncio.gather(
                *(source.curve(q, end - step * (count - 1), end, step) for q in queries.values())
            )
            kept.curves = {n: placed(p, end, step, count) for n, p in zip(queries, said, strict=True)}
            kept.made_at, self.silent_since = self.clock(), 0.0
        except NoPast as exc:
            self.silent_since = self.silent_since or self.clock()
            log.warning("Prometheus gave no answer program=%s/%s error=%s", *key, exc)
        finally:
            kept.asking = None

    async def close(self) -> None:
        """Ask for nothing any more."""
        tasks = [kept.asking for kept in self._kept.values() if kept.asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def step_of(span: str) -> tuple[float, int]:
    """Seconds between two points of a time span's curves, and how many there are: those of the rings."""
    ring, count = RANGES[span]
    return (FINE_SECONDS if ring == "fine" else COARSE_SECONDS), count


def placed(points: Points, end: float, step: float, count: int) -> list[float]:
    """Points at their places, the last one at the end; NaN where there is none."""
    found = [math.nan] * count
    for at, value in points:
        if math.isfinite(at) and 0 <= (place := count - 1 - round((end - at) / step)) < count:
            found[place] = value if math.isfinite(value) and value >= 0 else math.nan
    return found
