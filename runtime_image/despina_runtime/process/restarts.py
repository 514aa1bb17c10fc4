"""Whether and when the place of a worker that ended is filled again (pure): times are handed in."""

from __future__ import annotations

MOST, WITHIN_SECONDS = 5, 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


class Ends:
    """When workers ended by themselves."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def are_too_many(self, now: float) -> bool:
        """Take in that one ended now; whether it was the fifth within a minute, so that another one would, too."""
        self._times = [*(t for t in self._times if t > now - WITHIN_SECONDS), now]
        return len(self._times) >= MOST


def pause_seconds(failures: int) -> float:
    """How long to wait after so many tries in a row that failed: 1, 2, 4, … seconds, and never more than a minute."""
    doublings = min(failures - 1, 16)
    return min(FIRST_PAUSE_SECONDS * float(2**doublings), LONGEST_PAUSE_SECONDS)
