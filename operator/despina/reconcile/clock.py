"""The time that decisions count in: the wall's, but for its jumps.

A clock that is set forward by minutes would end deadlines and watches that have hardly begun; one that is set back
would keep them from ending. So time goes on as the machine's monotonic clock does, and whatever the wall differs by is
made up for slowly, a tenth of a second in each second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PULL = 0.1


class SteadyClock:
    """Seconds since the epoch, always growing."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._last, self._now = monotonic(), wall()

    def __call__(self) -> float:
        """The time now."""
        last, self._last = self._last, self._monotonic()
        passed = self._last - last
        behind = self._wall() - (self._now + passed)
        self._now += passed + max(-PULL * passed, min(PULL * passed, behind))
        return self._now
