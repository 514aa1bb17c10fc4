"""What a tier of the cache fails at: each time a miss, counted, and said without repeating it for each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from prometheus_client import Counter

log = logging.getLogger(__name__)
FAILURES = Counter(
    "despina_cache_failures_total", "What a tier of the cache failed at; each time a miss.", ["tier", "error"]
)
QUIET_SECONDS = 60.0
DAMAGED = "damaged"


class Failures:
    """Those of one tier."""

    def __init__(self, tier: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._tier = tier
        self._clock = clock
        self._untold = 0
        self._quiet_until = float("-inf")

    def __call__(self, error: str) -> None:
        """Count one; the log gets a line once a minute at most."""
        FAILURES.labels(self._tier, error).inc()
        self._untold += 1
        if self._clock() >= self._quiet_until:
            log.warning("The cache failed, which is a miss tier=%s error=%s times=%d", self._tier, error, self._untold)
            self._untold, self._quiet_until = 0, self._clock() + QUIET_SECONDS
