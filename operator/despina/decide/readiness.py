"""Whether a version can be sent callers."""

from __future__ import annotations

from despina.api.revision import Revision
from despina.decide.observed import DeploymentView, Observed
from despina.decide.situation import Situation, holds, is_whole, serves
from despina.desired.labels import REVISION


def is_prepared(r: Situation, candidate: Revision) -> bool:
    """Whether callers can be sent to a revision.

    In new pods, it must stand ready in the preview Service's endpoints, which shows that the network knows them; pods
    that served before have shown that already. In running pods, callers must be led to them (somebody may have changed
    what the Service selects), and all of their workers run: one that is on its way has yet to take it in.
    """
    if not has_come_up(r, candidate):
        return False
    if r.swaps:
        return _leads_to(r.o) == candidate.base and all(map(is_whole, r.o.ready_pods(candidate.base)))
    view = r.o.deployment(candidate.base)
    has_served = view is not None and view.activated_at is not None
    return has_served or r.o.preview_ready.get(candidate.base, 0) >= r.size


def has_come_up(r: Situation, candidate: Revision) -> bool:
    """Whether a revision has done its part: its pods are ready, or all that run hold it."""
    o, pods = r.o, r.o.ready_pods(candidate.base)
    if r.swaps:
        return bool(pods) and all(holds(p, candidate.hash) for p in pods)
    view = o.deployment(candidate.base)
    return view is not None and len(pods) >= r.size and is_converged(o, view, candidate)


def _leads_to(o: Observed) -> str | None:
    service = o.objects.get(("Service", o.program.name)) or {}
    found: str | None = service.get("spec", {}).get("selector", {}).get(REVISION)
    return found


def is_converged(o: Observed, view: DeploymentView, revision: Revision) -> bool:
    """Whether all ready pods of a Deployment serve a revision, which is a question only after they were changed."""
    return view.serves == revision.hash and (view.loading is None or do_all_say(o, view))


def do_all_say(o: Observed, view: DeploymentView) -> bool:
    """Whether all ready pods of a Deployment serve what it says, by their own word."""
    return all(serves(p, view.serves) for p in o.ready_pods(view.revision))
