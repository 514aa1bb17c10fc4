"""How many pods: by the autoscaler where there is one, else by the spec; never by both."""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.revision import Revision
from despina.decide.drift import applied
from despina.decide.plan import Action, Delete, Scale
from despina.decide.situation import Situation
from despina.desired.labels import (
    program_labels,
)
from despina.desired.scaling import build_hpa


def sized(r: Situation, current: Revision) -> Iterator[Action]:
    """By the autoscaler where there is one, else by the spec; never by both.

    An autoscaler does not wake a Deployment from 0, so that is done before it takes over.
    """
    autoscaling = r.o.program.spec.autoscaling
    if autoscaling is None or r.size == 0:
        yield from without_hpa(r, current.deployment)
        yield from scaled(r, current, r.size)
        return
    program = r.o.program
    hpa = build_hpa(program, autoscaling, current.deployment, program_labels(program))
    if (hpa["kind"], current.deployment) not in r.o.objects:
        yield from scaled(r, current, r.size)
    yield from applied(r.o, hpa)


def scaled(r: Situation, revision: Revision, size: int) -> Iterator[Action]:
    """A new Deployment has one pod, Kubernetes' default, until it is scaled."""
    view = r.o.deployment(revision.base)
    if (view.replicas if view else 1) != size:
        yield Scale(revision.deployment, size)


def without_hpa(r: Situation, deployment: str) -> Iterator[Action]:
    key = ("HorizontalPodAutoscaler", deployment)
    if key in r.o.objects:
        yield Delete(key)
