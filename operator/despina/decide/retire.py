"""Letting go of what callers left: warm for a while, then gone."""

from __future__ import annotations

from collections.abc import Iterator

from despina.decide.observed import DeploymentView, PodView
from despina.decide.plan import Action, Annotate, Delete, Scale, Tell
from despina.decide.situation import Situation, serves
from despina.desired.config import generation_name
from despina.desired.labels import (
    RETIRED_AT,
)


def others(r: Situation) -> list[DeploymentView]:
    """Deployments that callers shall not reach, the newest first."""
    back = r.retreat.revision.base if r.is_left and r.retreat else None  # where callers are sent in this very pass
    keep = {r.current.base if r.current else None, r.o.active, r.candidate.base if r.candidate else None, back}
    rest = [d for d in r.o.deployments if d.revision not in keep]
    return sorted(rest, key=lambda d: d.retired_at or r.now, reverse=True)


def let_go(r: Situation) -> Iterator[Action]:
    """Retire what callers left, keep it warm for a while, then let its pods go."""
    yield from _without_autoscalers(r)
    for position, view in enumerate(others(r)):
        if not view.is_retired:  # a clock may have been set back since
            yield Annotate(view.name, {RETIRED_AT: repr(max(r.now, view.activated_at or 0.0))})
        if view.activated_at is not None:
            yield from (Tell(p, "Retire") for p in r.o.pods_of(view.revision) if not p.has_been_told("Retire"))
        if remaining(r, view) <= 0 and view.replicas:
            yield Scale(view.name, 0)
        if position >= r.policy.revision_history_limit and not view.replicas:
            yield from _deleted(view)


def _without_autoscalers(r: Situation) -> Iterator[Action]:
    """Only what callers reach is scaled by load, whatever became of the others' Deployments."""
    scaled = {r.current.deployment if r.current else None, r.active.name if r.active else None} if r.size else set()
    for kind, name in r.o.objects:
        if kind == "HorizontalPodAutoscaler" and name not in scaled:
            yield Delete((kind, name))


def _deleted(view: DeploymentView) -> Iterator[Action]:
    yield Delete(("Deployment", view.name))
    yield Delete(("ConfigMap", view.name))
    if view.loading:
        yield Delete(("ConfigMap", generation_name(view.name)))


def remaining(r: Situation, view: DeploymentView) -> float:
    """Seconds until a Deployment that callers left may be scaled down."""
    policy = r.policy.blue_green
    served = view.activated_at is not None
    delay = policy.scale_down_delay_seconds if served else policy.abort_scale_down_delay_seconds
    no_room = r.o.program.spec.suspend or r.policy.strategy == "Recreate"
    since = view.retired_at if view.is_retired and view.retired_at is not None else r.now
    return 0 if no_room else min(since + delay - r.now, delay)  # a clock may have been set back


def retention_left(r: Situation, view: DeploymentView) -> float | None:
    """Seconds for which the pods keep the revision before in memory; None when they keep none."""
    if view.loading is None or view.loading.previous is None or not view.replicas:
        return None
    delay = r.policy.blue_green.scale_down_delay_seconds
    left = min(view.loading.at + delay - r.now, delay)  # a clock may have been set back
    return left if left > 0 else None


def released(r: Situation) -> Iterator[Action]:
    """Have pods free what nobody goes back to or on to."""
    for view in r.o.deployments:
        keep = _kept(r, view)
        for pod in r.o.ready_pods(view.revision):
            spare = _spare(pod, view, keep)
            yield from (Tell(pod, "Release", name) for name in spare[:1] if not pod.has_been_told("Release", name))


def is_released(r: Situation) -> bool:
    """Whether no pod says that it holds more than it should, or serves something else; one that is not ready now may be
    in a moment."""
    there = [(pod, v) for v in r.o.deployments for pod in r.o.pods_of(v.revision)]
    said = [(pod, v) for pod, v in there if pod.report]
    return not any(_spare(pod, v, _kept(r, v)) or not serves(pod, v.serves) for pod, v in said)


def _kept(r: Situation, view: DeploymentView) -> set[str]:
    keep = {view.serves}
    if view.loading and view.loading.previous and retention_left(r, view) is not None:
        keep.add(view.loading.previous.revision)
    if r.candidate and r.swaps and r.candidate.base == view.revision:
        keep.add(r.candidate.hash)
    return keep


def _spare(pod: PodView, view: DeploymentView, keep: set[str]) -> list[str]:
    is_settled = pod.report is not None and pod.report.revision == view.serves
    return sorted(pod.report.held.keys() - keep) if pod.report and is_settled else []
