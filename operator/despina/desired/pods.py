"""The parts that all pods of Despina's have in common."""

from __future__ import annotations

from typing import Any

from despina.api.placement import PlacementProfile
from despina.api.pods import Accelerator, Placement, Resources

ADMIN = "admin"
MODELS_GIB, TEMPORARY_ROOM = 20, "5Gi"
"""A pod that writes more is evicted, and says why. A program that needs more says so in `podTemplate`."""
# Time for the process itself to end, on top of draining and of the longest request.
EXIT_SECONDS = 5

POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def probe(path: str, period: int, failures: int) -> dict[str, Any]:
    """A probe of the admin port."""
    return {
        "httpGet": {"path": path, "port": ADMIN},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def probes() -> dict[str, Any]:
    """Ready as soon as it says so; killed only when it says nothing for long."""
    return {
        "readinessProbe": probe("/readyz", period=2, failures=3),
        "livenessProbe": probe("/healthz", period=10, failures=3) | {"initialDelaySeconds": 10},
    }


def resources(asked: Resources, accelerator: Accelerator | None) -> dict[str, Any]:
    """CPU is always requested: the autoscaler's percentage is one of the request."""
    device = {accelerator.resource: str(accelerator.count)} if accelerator else {}
    limits = {**asked.limits, **device}
    return {"requests": {"cpu": "100m", **asked.requests}} | ({"limits": limits} if limits else {})


def accelerator_of(placement: Placement, profile: PlacementProfile) -> Accelerator | None:
    """The device that each pod gets: the manifest's, or the pool's."""
    return placement.accelerator or profile.accelerator


def placed(placement: Placement, profile: PlacementProfile) -> dict[str, Any]:
    """What leads pods to the nodes of a pool."""
    fields: dict[str, Any] = {
        "nodeSelector": {**profile.node_selector, **placement.node_selector},
        "tolerations": [t.dump() for t in (*profile.tolerations, *placement.tolerations)],
        "affinity": placement.affinity,
    }
    return {k: v for k, v in fields.items() if v}
