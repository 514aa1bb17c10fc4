"""Blue/green and Recreate: from what is there to the next step towards what is wanted.

Level-triggered: each call looks at the whole snapshot and says what to do next, whatever was done before.
What is active is what the Service selects. The order of a change is fixed: make the new Deployment, size it
like the running one, wait until its pods stand ready behind the preview Service, turn the Service's selector
in one patch, move the autoscaler, and later let the old pods go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from despina.api.conditions import Reason
from despina.api.placement import PlacementProfile
from despina.api.program import Quarantined
from despina.api.revision import Revision, revision_of, runtime_config
from despina.decide.drift import has_drifted
from despina.decide.observed import DeploymentView, Observed
from despina.decide.plan import Action, Annotate, Apply, Create, Delete, Emit, Plan, Scale, Step, Tell
from despina.decide.quarantine import (
    LIMIT,
    entry_against,
    parse_timestamp,
    quarantine,
    still_quarantined,
)
from despina.desired.config import build_config
from despina.desired.identity import build_service_account
from despina.desired.labels import ACTIVATED_AT, INVALIDATE_CACHE, PROMOTE, RETIRED_AT
from despina.desired.network import build_service, preview_name
from despina.desired.overlay import overlay_problem
from despina.desired.scaling import build_hpa, build_pdb
from despina.desired.workload import build_deployment

HISTORY_LIMIT = 2  # old Deployments kept at size 0, so that `kubectl get deploy` can tell what ran before


@dataclass(frozen=True)
class Rollout:
    """One decision's working notes: the snapshot and what follows from it directly."""

    o: Observed
    now: float
    wanted: Revision | None
    blocked: Quarantined | None
    started_at: float

    @property
    def active(self) -> DeploymentView | None:
        return self.o.deployment(self.o.active)

    @property
    def candidate(self) -> Revision | None:
        """What is on its way beside the active revision."""
        if self.wanted is None or self.blocked or self.o.active in (None, self.wanted.hash):
            return None
        return self.wanted

    @property
    def current(self) -> Revision | None:
        """The revision that callers shall reach now: the active one, or the first one."""
        if self.o.active is None:
            return self.wanted
        if self.wanted and self.wanted.hash == self.o.active:
            return self.wanted
        view = self.active
        if view is None:  # somebody deleted the active Deployment: the wanted one is the best there is
            return None if self.blocked else self.wanted
        return Revision(hash=view.revision, version=view.version, deployment=view.name)

    @property
    def size(self) -> int:
        return wanted_size(self.o, self.active)


def wanted_size(o: Observed, active: DeploymentView | None) -> int:
    """How many pods the program needs: what runs now, within the autoscaler's bounds, or what was asked for."""
    spec = o.program.spec
    if spec.suspend:
        return 0
    if spec.autoscaling is None:
        return spec.replicas
    running = active.replicas if active else 0
    return min(max(spec.autoscaling.min_replicas, running), spec.autoscaling.max_replicas)


def decide(o: Observed, now: float) -> Plan:
    """The next step of one program."""
    problem = spec_problem(o)
    entries = still_quarantined(o)
    wanted = None if problem else wanted_revision(o)
    rollout = _notes(o, now, wanted, entries)
    failed = failure_of(rollout)
    actions: list[Action] = []
    if failed:
        entries = (*entries, failed)[-LIMIT:]
        actions.append(Emit("Warning", failed.reason, f"Version {failed.version} quarantined: {failed.message}"))
        rollout = _notes(o, now, wanted, entries)
    step = step_of(rollout)
    actions += _steps(rollout, step)
    starting = rollout.candidate is not None or _is_starting(rollout)
    return Plan(
        actions=tuple(actions),
        wanted=wanted,
        candidate=rollout.candidate,
        step=step,
        started_at=rollout.started_at if starting else None,
        quarantined=entries,
        blocked=rollout.blocked,
        problem=problem,
        again=again_after(rollout),
    )


def _notes(o: Observed, now: float, wanted: Revision | None, entries: tuple[Quarantined, ...]) -> Rollout:
    blocked = entry_against(wanted, entries) if wanted else None
    if blocked and wanted and wanted.hash == o.active:
        blocked = None  # what callers already reach is never taken from them by an entry in a list
    running = o.status.rollout
    started = parse_timestamp(running.started_at) if running and wanted and running.id == wanted.hash else now
    return Rollout(o, now, wanted, blocked, started)


def spec_problem(o: Observed) -> tuple[str, str] | None:
    """Why the spec cannot be built, as a reason and a message that names the field."""
    spec, profiles = o.program.spec, o.defaults.profiles
    if spec.placement.profile != "default" and spec.placement.profile not in profiles:
        valid = ", ".join(sorted({*profiles, "default"}))
        return (
            Reason.UNKNOWN_PROFILE,
            f"spec.placement.profile: {spec.placement.profile!r} is not one of {valid}",
        )
    problem = overlay_problem(spec.pod_template) if spec.pod_template is not None else None
    return (Reason.INVALID_POD_TEMPLATE, problem) if problem else None


def wanted_revision(o: Observed) -> Revision | None:
    """What is asked for. While the registry is silent, what is under way goes on, and else what runs."""
    version = o.model.version or (_last_known(o) if o.model.is_unknown else None)
    return revision_of(o.program, version) if version else None


def _last_known(o: Observed) -> str | None:
    under_way = o.deployment(o.status.rollout.id) if o.status.rollout else None
    view = under_way or o.deployment(o.active)
    return view.version if view else None


def failure_of(r: Rollout) -> Quarantined | None:
    """Why the candidate must be given up, if it must.

    A first version is never given up: nothing better serves, and its pods try again by themselves.
    """
    if r.candidate is None:
        return None
    failure = next((p.failure for p in r.o.pods_of(r.candidate.hash) if p.failure), None)
    if failure:
        return quarantine(r.o, r.candidate, failure.reason, failure.message, r.now)
    limit = r.o.program.spec.rollout.blue_green.progress_deadline_seconds
    if r.now - r.started_at < limit or step_of(r) != "Prepare":
        return None
    trouble = next((p.trouble for p in r.o.pods_of(r.candidate.hash) if p.trouble), None)
    why = f": {trouble.reason}: {trouble.message}" if trouble else ""
    message = f"not ready within {limit} s{why}"
    return quarantine(r.o, r.candidate, Reason.PROGRESS_DEADLINE_EXCEEDED, message, r.now)


def step_of(r: Rollout) -> Step | None:
    """Where the candidate stands."""
    if r.candidate is None:
        return None
    if not is_prepared(r.o, r.candidate, r.size):
        return "Prepare"
    policy = r.o.program.spec.rollout.blue_green.auto_promotion
    promoted = r.o.program.annotations.get(PROMOTE) == r.candidate.hash
    return "Promote" if policy == "Enabled" or promoted else "AwaitPromotion"


def is_prepared(o: Observed, candidate: Revision, size: int) -> bool:
    """Whether callers can be sent to a revision.

    A new one must stand ready in the preview Service's endpoints, which shows that the network knows its pods.
    One that served before and was kept warm has shown that already.
    """
    view = o.deployment(candidate.hash)
    if size == 0:
        return True
    if view is None or o.ready(candidate.hash) < size:
        return False
    return view.activated_at is not None or o.preview_ready.get(candidate.hash, 0) >= size


def _is_starting(r: Rollout) -> bool:
    return r.candidate is None and r.wanted is not None and r.size > 0 and r.o.ready(r.wanted.hash) == 0


def _steps(r: Rollout, step: Step | None) -> Iterator[Action]:
    """The actions in the order in which they must be carried out."""
    current = r.current
    if current is None:
        return
    yield from _identity(r)
    if r.candidate:
        yield from _prepare(r, r.candidate)
    if r.candidate and step == "Promote":
        yield from _promote(r, r.candidate)
    else:
        yield from _serve(r, current)
    yield from _let_go(r)
    yield from _forgotten(r)


def _identity(r: Rollout) -> Iterator[Action]:
    account = build_service_account(r.o.program, profile_of(r.o))
    yield from _applied(r.o, account)


def profile_of(o: Observed) -> PlacementProfile:
    """The node pool that the program runs on."""
    return o.defaults.profiles.get(o.program.spec.placement.profile, PlacementProfile())


def _applied(o: Observed, document: dict[str, object] | None) -> Iterator[Action]:
    """Apply an object unless it already says what it should: at rest, nothing is written."""
    if document is None:
        return
    key = (str(document["kind"]), str(document["metadata"]["name"]))  # type: ignore[index]
    if has_drifted(o.objects.get(key), document):
        yield Apply(document)


def _made(r: Rollout, revision: Revision) -> Iterator[Action]:
    """A revision's own objects, made once: a later operator's builders must not restart what runs."""
    if r.o.deployment(revision.hash) is None:
        config = runtime_config(r.o.program, revision, tracking_uri(r.o), r.o.defaults.order_key)
        yield Create(build_config(r.o.program, revision, config))
        yield Create(build_deployment(r.o.program, revision, profile_of(r.o), r.o.defaults.runtime_image))


def tracking_uri(o: Observed) -> str:
    """The registry that the program's pods load from."""
    return o.program.spec.source.mlflow.tracking_uri or o.defaults.tracking_uri or ""


def _scaled(r: Rollout, revision: Revision, size: int) -> Iterator[Action]:
    """A new Deployment has one pod, Kubernetes' default, until it is scaled."""
    view = r.o.deployment(revision.hash)
    if (view.replicas if view else 1) != size:
        yield Scale(revision.deployment, size)


def _prepare(r: Rollout, candidate: Revision) -> Iterator[Action]:
    """Bring the candidate up beside the active revision or, under Recreate, after it."""
    if r.o.program.spec.rollout.strategy == "Recreate" and not is_prepared(r.o, candidate, r.size):
        yield from _stop(r)
        if any(p.revision == r.o.active for p in r.o.pods):
            return
    if r.size > 0:
        yield from _made(r, candidate)
        yield from _scaled(r, candidate, r.size)
    yield from _applied(r.o, build_service(r.o.program, preview_name(r.o.program), candidate.hash))


def _stop(r: Rollout) -> Iterator[Action]:
    if r.active:
        yield from _without_hpa(r, r.active.name)
        if r.active.replicas:
            yield Scale(r.active.name, 0)


def _promote(r: Rollout, candidate: Revision) -> Iterator[Action]:
    """Send callers to the candidate: one patch of one selector."""
    if r.size == 0:
        yield from _made(r, candidate)
        yield from _scaled(r, candidate, 0)
    yield Apply(build_service(r.o.program, r.o.program.name, candidate.hash))
    yield Annotate(candidate.deployment, {ACTIVATED_AT: repr(r.now)})
    yield Emit("Normal", "Promoted", f"Version {candidate.version} takes the requests")


def _serve(r: Rollout, current: Revision) -> Iterator[Action]:
    """Keep the revision that callers reach as the spec wants it."""
    program = r.o.program
    if r.wanted and current.hash == r.wanted.hash:
        if r.size > 0 or r.o.active is None:
            yield from _made(r, current)
        yield from _applied(r.o, build_service(program, preview_name(program), current.hash))
    yield from _applied(r.o, build_service(program, program.name, current.hash))
    yield from _applied(r.o, build_pdb(program, current.hash))
    if not _is_stopped_for_recreate(r):
        yield from _sized(r, current)
    yield from _activated(r, current)


def _is_stopped_for_recreate(r: Rollout) -> bool:
    return r.candidate is not None and r.o.program.spec.rollout.strategy == "Recreate"


def _sized(r: Rollout, current: Revision) -> Iterator[Action]:
    """By the autoscaler where there is one, else by the spec; never by both.

    An autoscaler does not wake a Deployment from 0, so that is done before it takes over.
    """
    autoscaling = r.o.program.spec.autoscaling
    if autoscaling is None or r.size == 0:
        yield from _without_hpa(r, current.deployment)
        yield from _scaled(r, current, r.size)
        return
    hpa = build_hpa(r.o.program, autoscaling, current.deployment)
    if (hpa["kind"], current.deployment) not in r.o.objects:
        yield from _scaled(r, current, r.size)
    yield from _applied(r.o, hpa)


def _without_hpa(r: Rollout, deployment: str) -> Iterator[Action]:
    key = ("HorizontalPodAutoscaler", deployment)
    if key in r.o.objects:
        yield Delete(key)


def _activated(r: Rollout, current: Revision) -> Iterator[Action]:
    """Note since when callers are sent there, and take back an order to retire."""
    view = r.o.deployment(current.hash)
    if view and r.o.active == current.hash and (view.activated_at is None or view.is_retired):
        yield Annotate(view.name, {ACTIVATED_AT: repr(r.now)})
    if view and view.retired_at is not None:
        yield from (Tell(p, "Activate") for p in r.o.pods_of(current.hash) if p.told != "Activate")


def _others(r: Rollout) -> list[DeploymentView]:
    """Deployments that callers shall not reach, the newest first."""
    keep = {r.current.hash if r.current else None, r.o.active, r.candidate.hash if r.candidate else None}
    rest = [d for d in r.o.deployments if d.revision not in keep]
    return sorted(rest, key=lambda d: d.retired_at or r.now, reverse=True)


def _let_go(r: Rollout) -> Iterator[Action]:
    """Retire what callers left, keep it warm for a while, then let its pods go."""
    for position, view in enumerate(_others(r)):
        yield from _without_hpa(r, view.name)
        if not view.is_retired:
            yield Annotate(view.name, {RETIRED_AT: repr(r.now)})
        if view.activated_at is not None:
            yield from (Tell(p, "Retire") for p in r.o.pods_of(view.revision) if p.told != "Retire")
        if remaining(r, view) <= 0 and view.replicas:
            yield Scale(view.name, 0)
        if position >= HISTORY_LIMIT and not view.replicas:
            yield Delete(("Deployment", view.name))
            yield Delete(("ConfigMap", view.name))


def _forgotten(r: Rollout) -> Iterator[Action]:
    """Have every pod empty its cache, once for each value of the annotation. A pod that is told twice does it once."""
    subject = r.o.program.annotations.get(INVALIDATE_CACHE, "")[:253]
    if subject:
        yield from (
            Tell(p, "Invalidate", subject) for p in r.o.pods if p.ready and not p.ending and p.forgot != subject
        )


def remaining(r: Rollout, view: DeploymentView) -> float:
    """Seconds until a Deployment that callers left may be scaled down."""
    policy = r.o.program.spec.rollout.blue_green
    served = view.activated_at is not None
    delay = policy.scale_down_delay_seconds if served else policy.abort_scale_down_delay_seconds
    no_room = r.o.program.spec.suspend or r.o.program.spec.rollout.strategy == "Recreate"
    since = view.retired_at if view.is_retired and view.retired_at is not None else r.now
    return 0 if no_room else since + delay - r.now


def again_after(r: Rollout) -> float | None:
    """When to look again though nothing happens: at the next deadline."""
    waits = [remaining(r, view) for view in _others(r) if view.replicas]
    if r.candidate:
        deadline = r.o.program.spec.rollout.blue_green.progress_deadline_seconds
        waits.append(r.started_at + deadline - r.now)
    return max(0.05, min(waits)) if waits else None
