"""The program's breaker over all replicas: the pods count, and what they counted together decides.

Each worker's own breaker acts at once. Here their windows are added up: when the sum is too bad all are opened, and
what one worker's probes find out afterwards holds for all. A single worker that opens by itself is left to itself.

In a pod each revision has a breaker of its own, and so it is here: what opened for one says nothing about the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from despina.api.breaking import OK, must_open
from despina.api.serving import ProgramBreaker
from despina.api.serving import Restart as Bounds
from despina.api.status import BreakerStatus
from despina.decide.observed import DeploymentView, Observed, PodView
from despina.decide.plan import Tell
from despina.decide.quarantine import parse_timestamp, timestamp
from despina.wire import BreakerConfig, BreakerReport, OrderName

SETTLE_SECONDS = 3.0
HOUR = 3600.0


@dataclass(frozen=True)
class _Seen:
    """One worker's breaker at this moment."""

    pod: PodView
    report: BreakerReport
    changed_at: float
    """0.0 for one that was never anything but closed."""


def merged(o: Observed, now: float) -> BreakerStatus | None:
    """The breaker's state over all replicas; None where the manifest has none."""
    spec = o.program.spec.breaker
    if spec is None:
        return None
    before = o.status.breaker
    if before is None or before.revision != o.serving:
        before = BreakerStatus(revision=o.serving)
    seen = _seen(o, now)
    if before.state == "Closed":
        # Just after it closed, some workers have not heard of it yet and still hold what had opened it.
        is_settled = before.since is None or now - parse_timestamp(before.since, 0.0) >= SETTLE_SECONDS
        status = (_tripped(before, spec, seen, now) if is_settled else None) or before
    else:
        status = _settled(before, seen, now)
    active = o.deployment(o.active)
    return status.model_copy(update={"restarts_last_hour": len(restarts_within_hour(active, now))})


def _seen(o: Observed, now: float) -> list[_Seen]:
    return [
        _Seen(pod, report, now - report.age_seconds if report.age_seconds is not None else 0.0)
        for pod in o.ready_pods(o.active)
        if pod.report and pod.report.revision == o.serving
        for report in pod.report.breakers
    ]


def _tripped(before: BreakerStatus, spec: ProgramBreaker, seen: list[_Seen], now: float) -> BreakerStatus | None:
    counts: Counter[str] = sum((Counter(s.report.window) for s in seen), Counter())
    all_open = bool(seen) and all(s.report.state == "Open" for s in seen)
    config = BreakerConfig(**{name: getattr(spec, name) for name in BreakerConfig.model_fields})
    if not (all_open or must_open(config, counts)):
        return None
    failed = counts - Counter({OK: counts[OK]})
    kind, number = failed.most_common(1)[0] if failed else ("Program", 0)
    total = sum(counts.values())
    reason = f"{failed.total()} of {total} requests within {spec.window_seconds} s failed, {number} of them: {kind}"
    return _become(before.model_copy(update={"class_": kind, "reason": reason}), "Open", now)


def _settled(before: BreakerStatus, seen: list[_Seen], now: float) -> BreakerStatus:
    """Where the worker is whose breaker changed last; pods that came later than the trip say nothing about it."""
    since = parse_timestamp(before.since or timestamp(now), 0.0)
    changed = [s for s in seen if s.changed_at]
    if not changed:
        return before if now - since < SETTLE_SECONDS or not seen else _become(before, "Closed", now)
    latest = max(changed, key=lambda s: s.changed_at)
    if latest.report.state == "Closed" and latest.changed_at < since:
        return before if now - since < SETTLE_SECONDS else _become(before, "Closed", now)
    return _become(before, latest.report.state, now)


def _become(before: BreakerStatus, state: str, now: float) -> BreakerStatus:
    if state == before.state:
        return before
    return before.model_copy(update={"state": state, "since": timestamp(now)})


def orders(o: Observed, breaker: BreakerStatus | None, now: float) -> Iterator[Tell]:
    """What makes all replicas agree."""
    if breaker is None or breaker.since is None:
        return
    since = parse_timestamp(breaker.since, now)
    for seen in _seen(o, now):
        order = _order_for(seen, breaker, since, now)
        if order and not seen.pod.has_been_told(order, breaker.since):
            yield Tell(seen.pod, order, breaker.since)


def _order_for(seen: _Seen, breaker: BreakerStatus, since: float, now: float) -> OrderName | None:
    report = seen.pod.report
    is_older = report is not None and now - report.uptime_seconds < since
    if seen.changed_at >= since + 1 or not is_older:  # `since` has whole seconds
        return None
    if breaker.state == "Open" and seen.report.state == "Closed":
        return "OpenBreaker"
    if breaker.state == "Closed" and seen.report.state != "Closed":
        return "CloseBreaker"
    return None


def restarts_within_hour(view: DeploymentView | None, now: float) -> tuple[float, ...]:
    """When the breaker restarted the pods, lately."""
    return tuple(at for at in view.restarts if at > now - HOUR) if view else ()


def is_restarting(o: Observed, active: DeploymentView, now: float) -> bool:
    """Whether pods from before the last restart are still there."""
    last = max(active.restarts, default=0.0)
    return any(p.report and now - p.report.uptime_seconds < last for p in o.ready_pods(active.revision))


def may_restart(spec: ProgramBreaker, breaker: BreakerStatus, active: DeploymentView, now: float) -> bool:
    """Whether a restart is what the manifest wants, could help, and is within bounds. An outage of a provider never
    restarts a pod."""
    if breaker.state == "Closed" or breaker.class_ not in ("Program", "Timeout") or "Restart" not in spec.on_open:
        return False
    return not restart_left(restarts_within_hour(active, now), spec.restart, now)


def restart_left(done: Collection[float], bounds: Bounds, now: float) -> float:
    """Seconds until another restart is within bounds, after those of the last hour."""
    if len(done) >= bounds.max_per_hour:
        return max(0.0, sorted(done)[-bounds.max_per_hour] + HOUR - now)
    return max(0.0, max(done) + bounds.backoff_seconds * 2 ** (len(done) - 1) - now) if done else 0.0
