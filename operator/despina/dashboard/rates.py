"""What happened between two looks: rates, shares and percentiles (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from despina.dashboard.counting import Meter
from despina.dashboard.flat import BUCKETS, SUMMED, Sums
from despina.wire import SECONDS_BOUNDS


class Look(NamedTuple):
    """A program's sums at one moment, as far as its curves need them."""

    at: float
    requests: float = 0
    errors: float = 0
    hits: float = 0
    answers: float = 0
    """From the cache, and all that were looked up there."""
    tokens: float = 0
    cost: float = 0
    degraded: float = 0
    latency: tuple[float, ...] = ()
    in_flight: float = 0


class Sample(NamedTuple):
    """The eight curves at one moment; NaN where there is nothing to say."""

    requests: float = math.nan
    """A second."""
    errors: float = math.nan
    """A second, without the callers' own."""
    p50: float = math.nan
    """Seconds."""
    p95: float = math.nan
    cached: float = math.nan
    """Share of answers from the cache, 0 to 1."""
    tokens: float = math.nan
    """A minute."""
    cost: float = math.nan
    """US dollars an hour."""
    in_flight: float = math.nan


def looked(at: float, meter: Meter) -> Look:
    """A look at what a program's pods counted."""
    found = meter.curves()
    summed = dict(zip(SUMMED, found, strict=False))
    return Look(at, **summed, latency=tuple(found[len(SUMMED) :]), in_flight=meter.gauges().in_flight)


def between(then: Look, now: Look) -> Sample:
    """What happened from one look to another; nothing where no time passed."""
    seconds = now.at - then.at
    if seconds <= 0:
        return Sample()
    grown = less(then.latency, now.latency)
    answers = max(0.0, now.answers - then.answers)
    return Sample(
        requests=max(0.0, now.requests - then.requests) / seconds,
        errors=max(0.0, now.errors - then.errors) / seconds,
        p50=quantile(grown, 0.5),
        p95=quantile(grown, 0.95),
        cached=max(0.0, now.hits - then.hits) / answers if answers else math.nan,
        tokens=max(0.0, now.tokens - then.tokens) / seconds * 60,
        cost=max(0.0, now.cost - then.cost) / seconds * 3600,
        in_flight=now.in_flight,
    )


def less(then: Sequence[float], now: Sequence[float]) -> list[float]:
    """A histogram's growth."""
    before = [*then, *[0.0] * (len(now) - len(then))]
    return [max(0.0, b - a) for a, b in zip(before, now, strict=False)]


def quantile(histogram: Sequence[float], share: float) -> float:
    """In seconds, drawn straight within its bucket, as Prometheus does; NaN without any. What took longer than the last
    bound counts as that."""
    total = sum(histogram)
    if not total:
        return math.nan
    rank, seen = share * total, 0.0
    for number, count in enumerate(histogram):
        if count and seen + count >= rank:
            return _within(number, (rank - seen) / count)
        seen += count
    return SECONDS_BOUNDS[-1]


def _within(bucket: int, share: float) -> float:
    if bucket >= len(SECONDS_BOUNDS):
        return float(SECONDS_BOUNDS[-1])
    low = SECONDS_BOUNDS[bucket - 1] if bucket else 0.0
    return low + (SECONDS_BOUNDS[bucket] - low) * share


def timed(sums: Sums, kind: str, matches: Callable[[tuple[str, ...]], bool]) -> list[float]:
    """A histogram out of sums: of those whose words in between fulfil something."""
    found = [0.0] * BUCKETS
    for name, count in sums.items():
        if name[0] == kind and matches(name[1:-1]):
            found[int(name[-1])] += count
    return found
