"""Counting requests, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("despina_requests_total", "Answers given.", ["version", "status"])
SECONDS = Histogram("despina_request_seconds", "Time to answer.", ["version"])
IN_FLIGHT = Gauge("despina_in_flight_requests", "Requests being answered.", multiprocess_mode="livesum")
