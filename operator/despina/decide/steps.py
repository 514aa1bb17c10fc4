"""The actions that a decision comes to, in the order in which they must be carried out."""

from __future__ import annotations

import json
from collections.abc import Iterator

from despina.api.placement import PlacementProfile
from despina.api.program import BreakerStatus
from despina.api.revision import Revision, runtime_config
from despina.decide import breaker as breakers
from despina.decide.drift import has_drifted
from despina.decide.gates import Gates, abandoned, tracking_uri, unmirrored
from despina.decide.notes import Rollout, holds, previous, serves
from despina.decide.observed import DeploymentView, Observed, PodView
from despina.decide.plan import Action, Annotate, Apply, Create, Delete, Emit, Restart, Scale, Step, Tell
from despina.desired.config import build_config, build_generation, generation_name
from despina.desired.identity import build_service_account, service_account_name
from despina.desired.labels import (
    ACTIVATED_AT,
    INVALIDATE_CACHE,
    RESTART,
    RESTARTED_BY,
    RESTARTS,
    RETIRED_AT,
    program_labels,
    selector,
)
from despina.desired.network import build_service, preview_name
from despina.desired.scaling import build_hpa, build_pdb
from despina.desired.toolbox import build_toolbox, toolbox_name
from despina.desired.workload import build_deployment
from despina.wire import RuntimeConfig


def all_steps(r: Rollout, step: Step | None, gates: Gates, breaker: BreakerStatus | None) -> Iterator[Action]:
    """Everything to do now."""
    current = r.current
    if current is None:
        return
    yield from _identity(r)
    if r.candidate and step != "Paused":
        yield from _prepare(r, r.candidate)
    yield from gates.actions
    if r.candidate and step == "Promote":
        yield from _promote(r, r.candidate)
    elif r.blocked and r.is_at_target:
        yield from _go_back(r)
    else:
        yield from _serve(r, current)
    yield from _restarted(r, breaker)
    yield from _let_go(r)
    yield from _converged(r)
    yield from _released(r)
    yield from abandoned(r, gates)
    if not (gates.running and gates.running.type == "Shadow"):
        yield from unmirrored(r.o)
    yield from _agreed(r, breaker)
    yield from _forgotten(r)


def _identity(r: Rollout) -> Iterator[Action]:
    program = r.o.program
    account = program.spec.service_account
    labels, name = program_labels(program), service_account_name(program)
    yield from _applied(r.o, build_service_account(program, account, name, labels, profile_of(r.o)))
    yield from _toolbox(r.o)


def _toolbox(o: Observed) -> Iterator[Action]:
    """What pods know of their tools, and nothing once no revision uses any."""
    for document in build_toolbox(o.program, o.tools):
        yield from _applied(o, document)
    name = toolbox_name(o.program)
    yield from (Delete((kind, name)) for kind in ("Secret", "ConfigMap") if not o.tools and (kind, name) in o.objects)


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


def config_of(r: Rollout, revision: Revision) -> RuntimeConfig:
    """What pods run that serve a revision of the present spec."""
    program, defaults = r.o.program, r.o.defaults
    return runtime_config(
        program, revision, tracking_uri(program.spec.source.mlflow.tracking_uri, defaults), defaults.order_key
    )


def _made(r: Rollout, revision: Revision) -> Iterator[Action]:
    """A revision's own objects, made once: a later operator's builders must not restart what runs."""
    view = r.o.deployment(revision.base)
    if view is None:
        yield Create(build_config(r.o.program, revision, config_of(r, revision)))
        yield Create(build_deployment(r.o.program, revision, profile_of(r.o), r.o.defaults.runtime_image))
    elif view.serves != revision.hash:  # its pods were made for this revision and changed to another one since
        yield Apply(_generation(r, view, config_of(r, revision)))


def _generation(
    r: Rollout, view: DeploymentView, config: RuntimeConfig, before: RuntimeConfig | None = None
) -> dict[str, object]:
    return build_generation(r.o.program, view.name, view.revision, config, r.now, before)


def _scaled(r: Rollout, revision: Revision, size: int) -> Iterator[Action]:
    """A new Deployment has one pod, Kubernetes' default, until it is scaled."""
    view = r.o.deployment(revision.base)
    if (view.replicas if view else 1) != size:
        yield Scale(revision.deployment, size)


def _prepare(r: Rollout, candidate: Revision) -> Iterator[Action]:
    """Bring the candidate up beside the active revision or, under Recreate, after it."""
    if r.swaps:
        yield from _loaded(r, candidate)
        return
    if r.strategy[0] == "Recreate" and r.o.ready(candidate.base) < r.size:
        yield from _stop(r)
        if any(p.revision == r.o.active for p in r.o.pods):
            return
    if r.size > 0:
        yield from _made(r, candidate)
        yield from _scaled(r, candidate, r.size)
    yield from _applied(r.o, build_service(r.o.program, preview_name(r.o.program), candidate.base))


def _loaded(r: Rollout, candidate: Revision) -> Iterator[Action]:
    for pod in r.o.ready_pods(candidate.base):
        yield from _take_in(pod, candidate.hash, config_of(r, candidate))


def _take_in(pod: PodView, revision: str, config: RuntimeConfig) -> Iterator[Action]:
    """Have a pod load a revision beside what it serves, unless it does."""
    is_known = pod.report is not None and revision in pod.report.held
    if not is_known and not pod.has_been_told("Prepare", revision):
        yield Tell(pod, "Prepare", revision, config=config)


def _stop(r: Rollout) -> Iterator[Action]:
    if r.active:
        yield from _without_hpa(r, r.active.name)
        if r.active.replicas:
            yield Scale(r.active.name, 0)


def _promote(r: Rollout, candidate: Revision) -> Iterator[Action]:
    """Send callers to the candidate: one write, of a selector or of a generation."""
    if r.swaps and r.active:
        before = r.active.loading.config if r.active.loading else r.active.config
        yield Apply(_generation(r, r.active, config_of(r, candidate), before))
        yield from _committed(r.o.ready_pods(candidate.base), candidate.hash)
    else:
        yield from _flipped(r, candidate)
    yield Emit("Normal", "Promoted", f"Version {candidate.version} takes the requests ({r.strategy[0]})")


def _flipped(r: Rollout, revision: Revision) -> Iterator[Action]:
    if r.size == 0:
        yield from _made(r, revision)
        yield from _scaled(r, revision, 0)
    yield Apply(build_service(r.o.program, r.o.program.name, revision.base))
    yield Annotate(revision.deployment, {ACTIVATED_AT: repr(r.now)})


def _committed(pods: tuple[PodView, ...], revision: str) -> Iterator[Action]:
    for pod in pods:
        if holds(pod, revision) and not pod.has_been_told("Commit", revision):
            yield Tell(pod, "Commit", revision)


def _go_back(r: Rollout) -> Iterator[Action]:
    """Send callers back to the version before: one write, since it stands ready."""
    before = previous(r.o)
    if before is None or r.active is None or r.blocked is None:
        return
    if before.config:
        yield Apply(_generation(r, r.active, before.config))
        yield from _committed(r.o.ready_pods(before.revision.base), before.revision.hash)
    else:
        yield from _flipped(r, before.revision)
    text = (
        f"Version {before.revision.version} takes the requests again: version {r.blocked.version} {r.blocked.message}"
    )
    yield Emit("Warning", "RolledBack", text)


def _serve(r: Rollout, current: Revision) -> Iterator[Action]:
    """Keep the revision that callers reach as the spec wants it."""
    program = r.o.program
    if r.wanted and current.hash == r.wanted.hash:
        if r.size > 0 or r.o.active is None:
            yield from _made(r, current)
        yield from _applied(r.o, build_service(program, preview_name(program), current.base))
    yield from _applied(r.o, build_service(program, program.name, current.base))
    yield from _applied(r.o, build_pdb(program, program.name, program_labels(program), selector(program, current.base)))
    if not _is_stopped_for_recreate(r):
        yield from _sized(r, current)
    yield from _activated(r, current)


def _is_stopped_for_recreate(r: Rollout) -> bool:
    return r.candidate is not None and r.strategy[0] == "Recreate"


def _sized(r: Rollout, current: Revision) -> Iterator[Action]:
    """By the autoscaler where there is one, else by the spec; never by both.

    An autoscaler does not wake a Deployment from 0, so that is done before it takes over.
    """
    autoscaling = r.o.program.spec.autoscaling
    if autoscaling is None or r.size == 0:
        yield from _without_hpa(r, current.deployment)
        yield from _scaled(r, current, r.size)
        return
    program = r.o.program
    hpa = build_hpa(program, autoscaling, current.deployment, program_labels(program))
    if (hpa["kind"], current.deployment) not in r.o.objects:
        yield from _scaled(r, current, r.size)
    yield from _applied(r.o, hpa)


def _without_hpa(r: Rollout, deployment: str) -> Iterator[Action]:
    key = ("HorizontalPodAutoscaler", deployment)
    if key in r.o.objects:
        yield Delete(key)


def _activated(r: Rollout, current: Revision) -> Iterator[Action]:
    """Note since when callers are sent there, and take back an order to retire."""
    view = r.o.deployment(current.base)
    if view and r.o.active == current.base and (view.activated_at is None or view.is_retired):
        yield Annotate(view.name, {ACTIVATED_AT: repr(r.now)})
    if view and view.retired_at is not None:
        yield from (Tell(p, "Activate") for p in r.o.pods_of(current.base) if not p.has_been_told("Activate"))


def _others(r: Rollout) -> list[DeploymentView]:
    """Deployments that callers shall not reach, the newest first."""
    keep = {r.current.base if r.current else None, r.o.active, r.candidate.base if r.candidate else None}
    rest = [d for d in r.o.deployments if d.revision not in keep]
    return sorted(rest, key=lambda d: d.retired_at or r.now, reverse=True)


def _let_go(r: Rollout) -> Iterator[Action]:
    """Retire what callers left, keep it warm for a while, then let its pods go."""
    for position, view in enumerate(_others(r)):
        yield from _without_hpa(r, view.name)
        if not view.is_retired:
            yield Annotate(view.name, {RETIRED_AT: repr(r.now)})
        if view.activated_at is not None:
            yield from (Tell(p, "Retire") for p in r.o.pods_of(view.revision) if not p.has_been_told("Retire"))
        if remaining(r, view) <= 0 and view.replicas:
            yield Scale(view.name, 0)
        if position >= r.o.program.spec.rollout.revision_history_limit and not view.replicas:
            yield from _deleted(view)


def _deleted(view: DeploymentView) -> Iterator[Action]:
    yield Delete(("Deployment", view.name))
    yield Delete(("ConfigMap", view.name))
    if view.loading:
        yield Delete(("ConfigMap", generation_name(view.name)))


def remaining(r: Rollout, view: DeploymentView) -> float:
    """Seconds until a Deployment that callers left may be scaled down."""
    policy = r.o.program.spec.rollout.blue_green
    served = view.activated_at is not None
    delay = policy.scale_down_delay_seconds if served else policy.abort_scale_down_delay_seconds
    no_room = r.o.program.spec.suspend or r.o.program.spec.rollout.strategy == "Recreate"
    since = view.retired_at if view.is_retired and view.retired_at is not None else r.now
    return 0 if no_room else since + delay - r.now


def _converged(r: Rollout) -> Iterator[Action]:
    """Have every pod of a Deployment serve what its generation says: one that came half-way is brought up to it."""
    for view in r.o.deployments:
        if view.loading is None:
            continue
        late = [p for p in r.o.ready_pods(view.revision) if p.report is not None and not serves(p, view.serves)]
        for pod in late:
            yield from _take_in(pod, view.serves, view.loading.config)
        yield from _committed(tuple(late), view.serves)


def retention_left(r: Rollout, view: DeploymentView) -> float | None:
    """Seconds for which the pods keep the revision before in memory; None when they keep none."""
    if view.loading is None or view.loading.previous is None or not view.replicas:
        return None
    left = view.loading.at + r.o.program.spec.rollout.blue_green.scale_down_delay_seconds - r.now
    return left if left > 0 else None


def _released(r: Rollout) -> Iterator[Action]:
    """Have pods free what nobody goes back to or on to."""
    for view in r.o.deployments:
        keep = {view.serves}
        if view.loading and view.loading.previous and retention_left(r, view) is not None:
            keep.add(view.loading.previous.revision)
        if r.candidate and r.swaps and r.candidate.base == view.revision:
            keep.add(r.candidate.hash)
        for pod in r.o.ready_pods(view.revision):
            if pod.report and pod.report.revision == view.serves:
                spare = sorted(pod.report.held.keys() - keep)
                yield from (Tell(pod, "Release", name) for name in spare[:1] if not pod.has_been_told("Release", name))


def _restarted(r: Rollout, breaker: BreakerStatus | None) -> Iterator[Action]:
    """Restart the active pods: because a user says so, or because the breaker is open and that may heal it."""
    asked = r.o.program.annotations.get(RESTART, "")[:253]
    if r.active is None or r.candidate is not None:
        return
    if asked and asked != r.active.restarted_by:
        yield Restart(r.active.name, r.now, {RESTARTED_BY: asked})
        yield Emit("Normal", "Restarted", "The annotation despina.dev/restart asks for it")
        return
    spec = r.o.program.spec.breaker
    is_busy = (r.blocked is not None and r.is_at_target) or breakers.is_restarting(r.o, r.active, r.now)
    if spec and breaker and not is_busy and breakers.may_restart(spec, breaker, r.active, r.now):
        done = [*breakers.restarts_within_hour(r.active, r.now), r.now]
        yield Restart(r.active.name, r.now, {RESTARTS: json.dumps(done)})
        yield Emit("Warning", "Restarted", f"The breaker is open: {breaker.reason}")


def _agreed(r: Rollout, breaker: BreakerStatus | None) -> Iterator[Action]:
    """Have all replicas' breakers be as the merged one, and say so when it changes."""
    before = r.o.status.breaker
    was = before.state if before else "Closed"
    if breaker and breaker.state == "Open" and was == "Closed":
        yield Emit("Warning", "BreakerOpened", breaker.reason)
    if breaker and breaker.state == "Closed" and was != "Closed":
        yield Emit("Normal", "BreakerClosed", "Requests are executed again")
    yield from breakers.orders(r.o, breaker, r.now)


def _forgotten(r: Rollout) -> Iterator[Action]:
    """Have every pod empty its cache, once for each value of the annotation. A pod that is told twice does it once."""
    subject = r.o.program.annotations.get(INVALIDATE_CACHE, "")[:253]
    if subject:
        yield from (
            Tell(p, "Invalidate", subject)
            for p in r.o.pods
            if p.ready and not p.ending and not p.has_been_told("Invalidate", subject)
        )
