"""Watching a version that callers have just been sent to, against the one before it.

Both are counted from when callers were sent there: what a version did before, as a candidate or in an earlier life, is
not held against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from despina.api.gates import PostPromotion
from despina.api.revision import Revision
from despina.api.status import Promotion, Tally
from despina.decide.observed import Observed
from despina.decide.situation import Situation, has_served
from despina.wire import SECONDS_BOUNDS, Counts


def promoted(r: Situation, target: Revision | None) -> Promotion | None:
    """What to note when callers are sent to a revision."""
    if target is None:
        return None
    return Promotion(
        revision=target.hash,
        at=repr(r.now),
        returns=r.is_left or has_served(r.o, target),
        base=Tally.of(counts_of(r.o, target.hash)),
        before=Tally.of(_since_promotion(r)),
    )


def watch_left(r: Situation) -> float:
    """Seconds for which the active revision is still watched; 0 when there is nothing to go back to, and for one that
    callers were sent back to."""
    found = r.promotion
    if found is None or found.returns or r.retreat is None:
        return 0.0
    seconds = r.policy.post_promotion.watch_seconds
    return min(max(0.0, promoted_at(found) + seconds - r.now), seconds)


def promoted_at(promotion: Promotion) -> float:
    """When callers were sent there."""
    try:
        at = float(promotion.at)
    except ValueError:
        return 0.0
    return at if math.isfinite(at) else 0.0


def breach_of(r: Situation) -> str | None:
    """Why the active revision must be taken back; None when it does well, as far as is known."""
    if r.promotion is None or not watch_left(r):
        return None
    return judge(r.policy.post_promotion, _since_promotion(r), r.promotion.before.counts())


def summary(r: Situation) -> str:
    """What to say of a watch that is over and saw too little to judge."""
    found = r.promotion
    policy, seen = r.policy.post_promotion, _since_promotion(r).executed
    if found is None or found.returns or r.now < promoted_at(found) + policy.watch_seconds:
        return ""
    if policy.watch_seconds == 0 or seen >= policy.min_requests:
        return ""
    return f"only {seen} of {policy.min_requests} requests within {policy.watch_seconds} s: nothing was judged"


def _since_promotion(r: Situation) -> Counts:
    """What callers had from the version that serves, since they were sent there."""
    counted = counts_of(r.o, r.o.serving or "")
    return counted.since(r.promotion.base.counts()) if r.promotion else counted


def counts_of(o: Observed, revision: str) -> Counts:
    """What all pods counted for one revision, together."""
    reports = (pod.report for pod in o.pods if pod.report)
    return Counts.total(r.counts[revision] for r in reports if revision in r.counts)


def judge(policy: PostPromotion, now: Counts, then: Counts) -> str | None:
    """The first limit that is passed, in words."""
    if now.executed < policy.min_requests:
        return None
    return _errors(policy, now, then) or _latency(policy, now, then) or _cost(policy, now, then)


def error_rate(counts: Counts) -> float:
    """Failed executions in percent, without those where no LM could be reached."""
    judged = counts.executed - counts.outage
    return 100 * (counts.failed - counts.outage) / judged if judged > 0 else 0.0


def _errors(policy: PostPromotion, now: Counts, then: Counts) -> str | None:
    rate, before = error_rate(now), error_rate(then)
    if rate <= policy.max_error_rate_percent or rate <= before:
        return None
    limit = policy.max_error_rate_percent
    return f"{rate:.1f} % of {now.executed} requests failed, {before:.1f} % before; at most {limit} %"


def p95_millis(seconds: Iterable[int]) -> float | None:
    """The bucket's upper bound in which the 95th percentile lies; None without any."""
    buckets = list(seconds)
    rank, seen = 0.95 * sum(buckets), 0
    for bound, count in zip((*SECONDS_BOUNDS, SECONDS_BOUNDS[-1]), buckets, strict=False):
        seen += count
        if count and seen >= rank:
            return bound * 1000
    return None


def _latency(policy: PostPromotion, now: Counts, then: Counts) -> str | None:
    limit = policy.max_p95_latency_millis
    found, before = p95_millis(now.seconds), p95_millis(then.seconds)
    if limit is None or found is None or found <= limit or (before is not None and found <= before):
        return None
    was = f"{before:.0f} ms" if before else "unknown"
    return f"the 95th percentile is {found:.0f} ms, {was} before; at most {limit} ms"


def _cost(policy: PostPromotion, now: Counts, then: Counts) -> str | None:
    limit = policy.max_cost_increase_percent
    if limit is None or not then.executed or not then.cost_usd:
        return None
    found, before = now.cost_usd / now.executed, then.cost_usd / then.executed
    if found <= before * (1 + limit / 100):
        return None
    return f"a request costs {found:.6f} USD, {before:.6f} before; at most {limit} % more"
