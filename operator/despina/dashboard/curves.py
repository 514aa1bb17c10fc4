"""Curves as SVG paths: numbers in, the `d` of a path out (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from despina.dashboard import words
from despina.dashboard.history import COARSE_SLOTS, FINE_SLOTS, History, peak

WIDTH, HEIGHT = 1000, 100
SPARK_POINTS = 60
RANGES = {"15m": ("fine", 90), "1h": ("fine", FINE_SLOTS), "24h": ("coarse", COARSE_SLOTS)}


class Chart(NamedTuple):
    """One picture: its paths by their series, and what stands at its top."""

    paths: dict[str, str]
    top: str


def path(values: Sequence[float], top: float, width: int = WIDTH, height: int = HEIGHT, digits: int = 1) -> str:
    """A line with gaps where nothing is known. Two pixels stay free at each edge, for the stroke."""
    return "".join(_steps(values, top or 1.0, width, height, digits))


def _steps(values: Sequence[float], top: float, width: int, height: int, digits: int) -> Iterator[str]:
    step, is_drawn = width / max(1, len(values) - 1), False
    for number, value in enumerate(values):
        if not math.isfinite(value):
            is_drawn = False
            continue
        y = height - 2 - min(1.0, value / top) * (height - 4)
        yield f"{'L' if is_drawn else 'M'}{number * step:.{digits}f} {y:.{digits}f}"
        if not is_drawn:
            yield "h0.5"  # a point of its own is seen
        is_drawn = True


def spark(history: History, name: str, now: float) -> str:
    """A row's small curve: the last ten minutes."""
    values = history.fine.series(name, SPARK_POINTS, now)
    return path(values, peak(values), 2 * (SPARK_POINTS - 1), 24, digits=0)


DRAWN = ("requests", "errors", "p50", "p95")


def remembered(history: History, span: str, now: float) -> Mapping[str, list[float]]:
    """The curves of a program's page over one of RANGES, out of its rings."""
    ring, count = RANGES[span]
    return {name: getattr(history, ring).series(name, count, now) for name in DRAWN}


def charts(series: Mapping[str, list[float]]) -> dict[str, Chart]:
    """The pictures of a program's page."""
    traffic, latency = peak(series["requests"], series["errors"]), peak(series["p50"], series["p95"])
    return {
        "traffic": Chart({n: path(series[n], traffic) for n in ("requests", "errors")}, f"{words.number(traffic)}/s"),
        "latency": Chart({n: path(series[n], latency) for n in ("p50", "p95")}, words.seconds(latency or math.nan)),
    }
