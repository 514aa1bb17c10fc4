"""What a tier of the cache fails at: each time a miss, counted, and said without repeating it for each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
QUIET_SECONDS = 60.0
DAMAGED = "damaged"


_new: dict[str, dict[str, int]] = {}


def take() -> dict[str, dict[str, int]]:
    """Those of this process that are new since they were taken last: by tier, then by error."""
    found = {tier: dict(errors) for tier, errors in _new.items()}
    _new.clear()
    return found


class Failures:
    """Those of one tier."""

    def __init__(self, tier: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._tier = tier
        self._clock = clock
        self._untold = 0
        self._quiet_until = float("-inf")

    def __call__(self, error: str) -> None:
        """Count one; the log gets a line once a minute at most."""
        errors = _new.setdefault(self._tier, {})
        errors[error] = errors.get(error, 0) + 1
        self._untold += 1
        if self._clock() >= self._quiet_until:
            log.warning("The cache failed, which is a miss tier=%s error=%s times=%d", self._tier, error, self._untold)
            self._untold, self._quiet_until = 0, self._clock() + QUIET_SECONDS
