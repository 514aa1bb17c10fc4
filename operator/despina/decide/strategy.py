"""How a version changes: in the running processes, beside them, or in their place; and why so."""

from __future__ import annotations

from collections.abc import Mapping

from despina.api.conditions import Reason
from despina.api.program import Rollout
from despina.api.revision import Revision, shape_of
from despina.decide.observed import Observed
from despina.decide.plan import Strategy
from despina.decide.situation import is_whole, still_there
from despina.wire import FailureReason

MOST_PATIENCE_SECONDS = 20
REFUSED = "pods take no orders"
NOT_IN_THIS_PROCESS = {FailureReason.CODE_CHANGED, FailureReason.NOT_SWAPPABLE}


def patience(policy: Rollout) -> tuple[float, float]:
    """For how many seconds of the time to become ready pods may be silent, and no room be found, until another way is
    taken. Each leaves time for that other way."""
    half = policy.blue_green.progress_deadline_seconds / 2
    return min(MOST_PATIENCE_SECONDS, half), half


def choose(o: Observed, wanted: Revision, waited: float) -> Strategy:
    """The strategy of a change that has used up `waited` seconds to become ready. What was once found impossible is not
    tried again for the same revision."""
    asked = o.program.spec.rollout.strategy
    there = still_there(o, wanted.hash)
    if there and there.replicas and there.activated_at:
        return Strategy("BlueGreen", "its pods are still there")
    active = o.deployment(o.active)
    if active and active.revision == wanted.hash and asked != "Recreate" and not refusal_of(o):
        return Strategy("HotSwap", "its pods were made for it")  # no others could be made under their name
    if asked in ("BlueGreen", "Recreate"):
        return Strategy(asked, "spec.rollout.strategy")
    if asked == "HotSwap":
        return _refused(o, wanted) or Strategy("HotSwap", "spec.rollout.strategy")
    return _without_room(o, wanted, waited) or _automatic(o, wanted, waited)


def _refused(o: Observed, wanted: Revision) -> Strategy | None:
    """New pods, where the running ones take no orders, or took none when this change began."""
    before, why = o.status.rollout, refusal_of(o)
    if before and before.id == wanted.hash and before.strategy_reason.startswith(REFUSED):
        return Strategy("BlueGreen", before.strategy_reason)
    return Strategy("BlueGreen", f"{REFUSED}: {why}") if why else None


def refusal_of(o: Observed) -> str:
    """Which pods that callers reach take no orders of this operator, and why; empty where none is known to."""
    active = o.deployment(o.active)
    theirs, ours = active.config.order_keys if active and active.config else None, o.defaults.order_keys
    if active and theirs is not None and ours and not set(theirs) & set(ours):
        return f"{active.name} was made for another operator's key"
    return next((f"{pod.name}: {pod.refusal}" for pod in o.ready_pods(o.active) if pod.refusal), "")


def _automatic(o: Observed, wanted: Revision, waited: float) -> Strategy:
    before = o.status.rollout
    if before and before.id == wanted.hash and before.strategy in ("BlueGreen", "Recreate"):
        return Strategy("Recreate" if before.strategy == "Recreate" else "BlueGreen", before.strategy_reason)
    why = why_not_in_place(o, wanted)
    if why is None and waited >= patience(o.program.spec.rollout)[0]:
        why = _held_up(o)
    return Strategy("BlueGreen", why) if why else Strategy("HotSwap", "only compiled state, LMs or modules changed")


def why_not_in_place(o: Observed, wanted: Revision) -> str | None:
    """Why the running processes cannot take a revision in; None when they can, as far as is known."""
    active = o.deployment(o.active)
    if active is None or not o.ready(o.active):
        return "no pod is ready that could take it in"
    if active.shape is None:
        return "the running pods were made by an earlier Despina"
    if refusal := refusal_of(o):
        return f"{REFUSED}: {refusal}"
    changed = _changed(active.shape, shape_of(o.program, wanted.model, o.defaults.runtime_image))
    if changed:
        return f"{', '.join(changed)} changed"
    for pod in o.pods_of(o.active):
        held = pod.held(wanted.hash)
        if held and held.failure and held.failure.reason in NOT_IN_THIS_PROCESS:
            return f"{held.failure.reason}: {held.failure.message}"
    return None


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(part for part in before.keys() | now.keys() if before.get(part) != now.get(part))


def _held_up(o: Observed) -> str | None:
    """What keeps the running pods from taking a revision in, though they could."""
    pods = o.ready_pods(o.active)
    if any(pod.report is None for pod in pods):
        return "pods do not answer on their admin port"
    return next((f"{pod.name} lacks workers" for pod in pods if not is_whole(pod)), None)


def _without_room(o: Observed, wanted: Revision, waited: float) -> Strategy | None:
    """Recreate, where the new pods wait for a device that the old ones hold and nobody brings another."""
    resource = _device(o)
    if resource is None or waited < patience(o.program.spec.rollout)[1]:
        return None
    troubles = [p.trouble for p in o.pods_of(wanted.base) if p.trouble and p.trouble.reason == Reason.UNSCHEDULABLE]
    if any(f"Insufficient {resource}" in t.message for t in troubles):
        return Strategy("Recreate", f"no node has a free {resource}")
    return None


def _device(o: Observed) -> str | None:
    placement = o.program.spec.placement
    profile = o.defaults.profiles.get(placement.profile)
    accelerator = placement.accelerator or (profile.accelerator if profile else None)
    return accelerator.resource if accelerator else None
