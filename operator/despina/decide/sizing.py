"""How many pods: by the autoscaler where there is one, else by the spec; never by both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from despina.api.program import ProgramSpec
from despina.api.tool import ToolSpec
from despina.decide.drift import applied
from despina.decide.observed import ObjectKey
from despina.decide.plan import Action, Delete, Scale

Objects = Mapping[ObjectKey, Any]


def asleep(spec: ProgramSpec | ToolSpec) -> str:
    """Why no pods are asked for; empty where some are."""
    if spec.suspend:
        return "spec.suspend is true"
    return "spec.replicas is 0" if spec.autoscaling is None and spec.replicas == 0 else ""


def sized(
    objects: Objects, deployment: str, running: int | None, size: int, hpa: dict[str, Any] | None
) -> Iterator[Action]:
    """Bring a Deployment to its size; `running` is None for one that is not there yet.

    An autoscaler does not wake a Deployment from 0, so that is done before it takes over, and again when somebody has
    scaled it down by hand.
    """
    if hpa is None or size == 0:
        yield from without_hpa(objects, deployment)
        yield from scaled(deployment, running, size)
        return
    if running == 0 or ("HorizontalPodAutoscaler", deployment) not in objects:
        yield from scaled(deployment, running, size)
    yield from applied(objects, hpa)


def scaled(deployment: str, running: int | None, size: int) -> Iterator[Action]:
    """A new Deployment has one pod, Kubernetes' default, until it is scaled."""
    if (1 if running is None else running) != size:
        yield Scale(deployment, size)


def without_hpa(objects: Objects, deployment: str) -> Iterator[Action]:
    """End the autoscaler of a Deployment."""
    key = ("HorizontalPodAutoscaler", deployment)
    if key in objects:
        yield Delete(key)
