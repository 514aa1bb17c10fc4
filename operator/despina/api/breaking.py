"""When a breaker opens: one rule for a worker's own counts and for those of all replicas together."""

from __future__ import annotations

from collections.abc import Mapping

from despina.wire import BreakerConfig

OK = "ok"


def must_open(config: BreakerConfig, counts: Mapping[str, int]) -> bool:
    """Whether so many results, by kind (OK, or the kind of a failure), are too many failures."""
    total = sum(counts.values())
    failed = total - counts.get(OK, 0)
    return failed > 0 and total >= config.min_requests and failed * 100 >= total * config.error_rate_percent
