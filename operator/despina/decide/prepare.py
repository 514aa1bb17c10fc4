"""Bringing a version up: in pods of its own, or in the memory of those that run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from despina.api.placement import PlacementProfile
from despina.api.revision import Revision, runtime_config
from despina.decide.drift import applied
from despina.decide.observed import DeploymentView, Observed, PodView
from despina.decide.plan import Action, Annotate, Apply, Chain, Create, Scale, Tell
from despina.decide.situation import Situation
from despina.decide.sizing import scaled, without_hpa
from despina.decide.strategy import patience
from despina.desired.config import build_config, build_generation
from despina.desired.labels import SIZE
from despina.desired.network import build_service, preview_name
from despina.desired.workload import build_deployment
from despina.wire import RuntimeConfig


def config_of(r: Situation, revision: Revision) -> RuntimeConfig:
    """What pods run that serve a revision of the present spec."""
    own = r.o.defaults
    return runtime_config(
        r.o.program, revision, own.order_keys, read_key=r.o.read_key, ask_key=r.o.ask_key, log_format=own.log_format
    )


def made(r: Situation, revision: Revision) -> Iterator[Action]:
    """A revision's own objects, made once: a later operator's builders must not restart what runs."""
    view = r.o.deployment(revision.base)
    if view is None:
        config = config_of(r, revision)
        deployment = build_deployment(r.o.program, revision, profile_of(r.o), r.o.defaults.runtime_image, config)
        yield Chain((Create(build_config(r.o.program, revision, config)), Create(deployment)))
    elif view.serves != revision.hash:  # its pods were made for this revision and changed to another one since
        yield Apply(generation(r, view, config_of(r, revision)))


def generation(
    r: Situation, view: DeploymentView, config: RuntimeConfig, before: RuntimeConfig | None = None
) -> dict[str, Any]:
    """What a Deployment's pods are changed to, with what must be remembered of it."""
    return build_generation(r.o.program, view.name, view.revision, config, r.now, before, r.memory)


def prepare(r: Situation, candidate: Revision) -> Iterator[Action]:
    """Bring the candidate up beside the active revision or, under Recreate, after it."""
    if r.swaps:
        yield from _loaded(r, candidate)
        return
    if r.recreates and r.o.ready(candidate.base) < r.size:
        if _is_to_be_asked(r):
            return
        yield from _stop(r)
        if any(p.revision == r.o.active for p in r.o.pods):
            return
    view = r.o.deployment(candidate.base)
    yield from made(r, candidate)
    yield from scaled(candidate.deployment, view.replicas if view else None, r.size)
    yield from applied(r.o.objects, build_service(r.o.program, preview_name(r.o.program), candidate.base))


def put_off(r: Situation, candidate: Revision) -> Iterator[Action]:
    """No pods for it while the program runs none."""
    view = r.o.deployment(candidate.base)
    if view and view.revision != r.o.active:
        yield from scaled(view.name, view.replicas, 0)


def _loaded(r: Situation, candidate: Revision) -> Iterator[Action]:
    for pod in r.o.ready_pods(candidate.base):
        yield from take_in(pod, candidate.hash, config_of(r, candidate))


def take_in(pod: PodView, revision: str, config: RuntimeConfig) -> Iterator[Action]:
    """Have a pod load a revision beside what it serves, unless it does."""
    is_known = pod.report is not None and revision in pod.report.held
    if not is_known and not pod.has_been_told("Prepare", revision):
        yield Tell(pod, "Prepare", revision, config=config)


def _is_to_be_asked(r: Situation) -> bool:
    """Whether what serves must still say what callers depend on, before it ends; silence is not waited for for long."""
    is_compared = any(gate.type == "SchemaCompatibility" for gate in r.policy.gates)
    is_unknown = r.o.serving not in r.o.interfaces and r.o.ready(r.o.active) > 0
    return is_compared and is_unknown and r.clock.elapsed(r.now) < patience(r.policy)[0]


def _stop(r: Situation) -> Iterator[Action]:
    if r.active:
        yield from put_to_sleep(r, r.active)


def put_to_sleep(r: Situation, view: DeploymentView) -> Iterator[Action]:
    """No pods for now. The size that an autoscaler had found is noted, to begin with again."""
    yield from without_hpa(r.o.objects, view.name)
    if view.replicas and r.o.program.spec.autoscaling:
        yield Chain((Annotate(view.name, {SIZE: str(view.replicas)}), Scale(view.name, 0)))
    else:
        yield from scaled(view.name, view.replicas, 0)


def profile_of(o: Observed) -> PlacementProfile:
    """The node pool that the program runs on."""
    return o.defaults.profiles.get(o.program.spec.placement.profile, PlacementProfile())
