"""Why a version must be given up: before callers reach it, or after."""

from __future__ import annotations

from collections.abc import Mapping

from despina.api.conditions import Reason
from despina.api.revision import Revision
from despina.api.status import BreakerStatus, Quarantined
from despina.decide.gates import REASONS, Gates
from despina.decide.quarantine import quarantine
from despina.decide.readiness import has_come_up
from despina.decide.situation import Situation, holds, revision_in
from despina.decide.strategy import NOT_IN_THIS_PROCESS
from despina.decide.versions import is_same
from despina.decide.watch import breach_of, counts_of, watch_left
from despina.wire import CERTAIN

ENOUGH = 2
"""So often must a start fail, where another try might do better."""


def failure_of(r: Situation, requests: Mapping[str, str]) -> Quarantined | None:
    """Why the candidate must be given up, if it must.

    A first version is never given up, nor one beside which nothing stands: nothing better serves, and its pods try
    again by themselves.
    """
    candidate = r.candidate
    if candidate is None or r.active is None:
        return None
    if requests.get("abort") == candidate.hash:
        return listed(r, candidate, Reason.ABORTED, "the annotation despina.dev/abort names it")
    if r.is_held_up:
        return None
    said = _swap_failure(r, candidate) if r.swaps else _start_failure(r, candidate)
    if said:
        return listed(r, candidate, *said)
    limit = r.policy.blue_green.progress_deadline_seconds
    if r.clock.elapsed(r.now) < limit or has_come_up(r, candidate):
        return None  # what else it waits for is not its fault: a Service that cannot be written, say
    message = f"not ready within {limit} s{_trouble(r, candidate)}"
    return listed(r, candidate, Reason.PROGRESS_DEADLINE_EXCEEDED, message)


def listed(r: Situation, revision: Revision, reason: str, message: str) -> Quarantined:
    """A new entry. Where the version before it was the same, the spec is at fault, not the version."""
    active, back = r.active, r.retreat
    before = None
    if revision.hash != r.o.serving:
        before = revision_in(r.o, active).model if active else None
    elif back:
        before = back.revision.model
    is_the_specs_fault = before is not None and is_same(before, revision.model)
    return quarantine(revision, reason, message, r.now, is_the_specs_fault)


def _start_failure(r: Situation, candidate: Revision) -> tuple[str, str] | None:
    """What a pod of the candidate's own said when it gave up; where another try might do better, at the second time."""
    failing = [p for p in r.o.pods_of(candidate.base) if p.failure]
    certain = next((p.failure for p in failing if p.failure and p.failure.reason in CERTAIN), None)
    often = sum(max(1, p.failures) for p in failing) >= ENOUGH
    found = certain or (failing[0].failure if often else None)
    return (found.reason, found.message) if found else None


def _swap_failure(r: Situation, candidate: Revision) -> tuple[str, str] | None:
    """What a pod said that could not take the candidate in: it ends the swap for all."""
    for pod in r.o.pods_of(candidate.base):
        held = pod.held(candidate.hash)
        if held and held.failure:
            asked = held.failure.reason in NOT_IN_THIS_PROCESS
            advice = "; set spec.rollout.strategy to Auto or BlueGreen" if asked else ""
            return held.failure.reason, f"{pod.name}: {held.failure.message}{advice}"
    return None


def _trouble(r: Situation, candidate: Revision) -> str:
    if r.swaps:
        missing = [p.name for p in r.o.ready_pods(candidate.base) if not holds(p, candidate.hash)]
        return f": {', '.join(missing)} did not take it in" if missing else ""
    view = r.o.deployment(candidate.base)
    trouble = next((p.trouble for p in r.o.pods_of(candidate.base) if p.trouble), view.trouble if view else None)
    pool = f"pool {r.o.program.spec.placement.profile}: " if trouble and trouble.reason == Reason.UNSCHEDULABLE else ""
    return f": {trouble.reason}: {pool}{trouble.message}" if trouble else ""


def stopped_at(r: Situation, gates: Gates) -> Quarantined | None:
    """The gate that the candidate did not pass."""
    failed = gates.failed
    if failed is None or r.candidate is None:
        return None
    return listed(r, r.candidate, REASONS[failed.type], f"gate {failed.name}: {failed.message}")


def relapse(r: Situation, breaker: BreakerStatus | None) -> Quarantined | None:
    """Why the version that callers have just been sent to must be taken back."""
    if r.active is None or not watch_left(r):
        return None
    breach, reached = breach_of(r), revision_in(r.o, r.active)
    if breach and r.policy.post_promotion.action == "Rollback":
        return listed(r, reached, Reason.WATCH_FAILED, breach)
    if breaker and _trips_while_watched(r, breaker):
        return listed(r, reached, Reason.BREAKER_OPEN, breaker.reason)
    return None


def remark(r: Situation) -> str:
    """What was found while watching, where nothing shall be done about it."""
    return (breach_of(r) or "") if r.policy.post_promotion.action == "None" else ""


def _trips_while_watched(r: Situation, breaker: BreakerStatus) -> bool:
    spec = r.o.program.spec.breaker
    if spec is None or breaker.state != "Open" or "Rollback" not in spec.on_open:
        return False
    counts = counts_of(r.o, r.o.serving or "")
    return 2 * counts.outage <= counts.failed
