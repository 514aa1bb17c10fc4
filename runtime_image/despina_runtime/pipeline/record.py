"""Counting requests, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("despina_requests_total", "Answers given.", ["version", "status"])
SECONDS = Histogram("despina_request_seconds", "Time to answer.", ["version"])
IN_FLIGHT = Gauge("despina_in_flight_requests", "Requests being answered.", multiprocess_mode="livesum")
HITS = Counter("despina_cache_answers_total", "Answers by the cache's tier; `none` for those that were made.", ["tier"])
DEGRADED = Counter("despina_degraded_answers_total", "Answers of a fallback, by what had failed.", ["problem"])
BREAKER_OPEN = Gauge(
    "despina_breaker_open", "1 while the program's breaker is not closed.", multiprocess_mode="livemax"
)
WORKER_RSS = Gauge("despina_worker_rss_bytes", "Resident memory of one worker.", multiprocess_mode="liveall")


class Record:
    """Counts what one version answered. Children of labels are looked up once, for a hit takes microseconds."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._by_status: dict[int, Counter] = {}
        self._by_tier: dict[str, Counter] = {}
        self._seconds = SECONDS.labels(version)

    def __call__(self, status: int, seconds: float, tier: str | None = None) -> None:
        """One answer: its HTTP status, how long it took, and the cache's tier if it came from there."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = REQUESTS.labels(self._version, str(status))
        counter.inc()
        self._seconds.observe(seconds)
        if status == 200:
            self._tier(tier or "none").inc()

    def _tier(self, name: str) -> Counter:
        counter = self._by_tier.get(name)
        if counter is None:
            counter = self._by_tier[name] = HITS.labels(name)
        return counter
