"""Whether a version can be sent callers."""

from __future__ import annotations

from despina.api.revision import Revision
from despina.decide.observed import DeploymentView, Observed
from despina.decide.situation import Situation, holds, serves
from despina.desired.labels import REVISION


def is_prepared(r: Situation, candidate: Revision) -> bool:
    """Whether callers can be sent to a revision.

    In new pods, it must stand ready in the preview Service's endpoints, which shows that the network knows them; pods
    that served before have shown that already. In running pods, all that are ready must hold it, and callers must be
    led to them: somebody may have changed what the Service selects.
    """
    o, pods = r.o, r.o.ready_pods(candidate.base)
    if r.swaps:
        return bool(pods) and all(holds(p, candidate.hash) for p in pods) and _leads_to(o) == candidate.base
    view = o.deployment(candidate.base)
    if view is None or len(pods) < r.size or not is_converged(o, view, candidate):
        return False
    return view.activated_at is not None or o.preview_ready.get(candidate.base, 0) >= r.size


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
