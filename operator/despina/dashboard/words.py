"""Numbers and moments as people read them (pure)."""

from __future__ import annotations

import datetime
import math

from despina.status.why import printable

NOTHING = "\N{EN DASH}"
LONGEST = 300


def shown(text: str, longest: int = LONGEST) -> str:
    """What somebody wrote, in one line and not without end; nothing in it turns the text around."""
    line = printable(text[: 4 * longest])
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def number(value: float) -> str:
    """A count or a rate with as many digits as tell something, such as 0.42, 12.3 and 14k."""
    if not math.isfinite(value):
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def seconds(value: float) -> str:
    """A latency, such as 85 ms and 1.2 s."""
    if not math.isfinite(value):
        return NOTHING
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def share(value: float) -> str:
    """A part of 1 in percent."""
    return NOTHING if not math.isfinite(value) else f"{100 * value:.{0 if value in (0, 1) else 1}f} %"


def dollars(value: float) -> str:
    """An amount of money."""
    if not math.isfinite(value):
        return NOTHING
    return f"${value:.2f}" if value >= 0.01 or value == 0 else f"${value:.4f}"


def ratio(part: float, whole: float) -> float:
    """One number by another; NaN where there is none of it."""
    return part / whole if whole else math.nan


def clock(at: float) -> str:
    """A moment of this day, or of another one with its date; UTC, as the cluster's own."""
    return datetime.datetime.fromtimestamp(at, tz=datetime.UTC).strftime("%d %b %H:%M UTC") if at else NOTHING
