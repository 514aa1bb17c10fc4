"""Counting requests, for Prometheus."""

from __future__ import annotations

from bisect import bisect_left

from prometheus_client import Counter, Gauge, Histogram

from despina_runtime import compat

REQUESTS = Counter("despina_requests_total", "Answers given.", ["version", "status"])
SECONDS = Histogram("despina_request_seconds", "Time to answer.", ["version"])
IN_FLIGHT = Gauge("despina_in_flight_requests", "Requests being answered.", multiprocess_mode="livesum")
HITS = Counter("despina_cache_answers_total", "Answers by the cache's tier; `none` for those that were made.", ["tier"])
DEGRADED = Counter("despina_degraded_answers_total", "Answers of a fallback, by what had failed.", ["problem"])
BREAKER_OPEN = Gauge("despina_breaker_open", "1 while a program's breaker is open.", multiprocess_mode="livemax")
WORKER_RSS = Gauge("despina_worker_rss_bytes", "Resident memory of one worker.", multiprocess_mode="liveall")


class Record:
    """Counts what one version answered.

    Prometheus' counters of several processes live in mapped files; touching six of them costs as much as a cached
    answer. So requests are counted in plain integers, and `flush` hands the sums over a few times a second.
    """

    def __init__(self, version: str) -> None:
        self.in_flight = 0
        self._version = version
        self._counts: dict[tuple[int, str | None], int] = {}
        self._seconds = SECONDS.labels(version)
        self._bounds = compat.bounds_of(self._seconds)
        self._buckets = [0] * len(self._bounds)
        self._sum = 0.0

    def __call__(self, status: int, seconds: float, tier: str | None = None) -> None:
        """One answer: its HTTP status, how long it took, and the cache's tier if it came from there."""
        what = (status, tier)
        self._counts[what] = self._counts.get(what, 0) + 1
        self._buckets[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def flush(self) -> None:
        """Hand the sums over."""
        if not self._counts:
            return
        for (status, tier), count in self._counts.items():
            REQUESTS.labels(self._version, str(status)).inc(count)
            if status == 200:
                HITS.labels(tier or "none").inc(count)
        compat.observe_together(self._seconds, self._buckets, self._sum)
        self._counts.clear()
        self._buckets, self._sum = [0] * len(self._bounds), 0.0
