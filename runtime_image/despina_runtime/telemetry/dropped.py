"""What of a pod's telemetry got lost in this process, and why: nobody who serves waits for any of it."""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import Literal

Signal = Literal["traces"]
Reason = Literal["queue_full", "export_failed", "unreadable", "too_long", "busy"]
_COUNTS: Counter[tuple[Signal, Reason]] = Counter()
_COUNTING = Lock()
"""What exports, and what reads traces, are threads of their own."""


def drop(signal: Signal, reason: Reason, count: int = 1) -> None:
    """Count what is lost: of traces, whole ones or, where they are exported, spans."""
    if count:
        with _COUNTING:
            _COUNTS[signal, reason] += count


def dropped() -> dict[str, dict[str, int]]:
    """All so far, by signal and then by reason: `despina_telemetry_dropped_total`."""
    found: dict[str, dict[str, int]] = {}
    with _COUNTING:
        counts = dict(_COUNTS)
    for (signal, reason), count in counts.items():
        found.setdefault(signal, {})[reason] = count
    return found
