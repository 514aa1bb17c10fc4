"""The HorizontalPodAutoscaler and the PodDisruptionBudget of the active revision."""

from __future__ import annotations

from typing import Any

from despina.api.base import Owner
from despina.api.pods import Autoscaling
from despina.desired.labels import metadata


def build_hpa(owner: Owner, autoscaling: Autoscaling, deployment: str, labels: dict[str, str]) -> dict[str, Any]:
    """The autoscaler of one Deployment, named like it: there is at most one, on the active revision."""
    cpu = {
        "type": "Resource",
        "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": autoscaling.cpu_utilization_percent},
        },
    }
    behavior = {"behavior": autoscaling.behavior} if autoscaling.behavior else {}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(owner, deployment, labels),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": [cpu, *autoscaling.metrics],
            **behavior,
        },
    }


def build_pdb(owner: Owner, name: str, labels: dict[str, str], chosen: dict[str, str]) -> dict[str, Any]:
    """At most one chosen pod at a time may be evicted; pods that are not ready never hold up a node's drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, name, labels),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": chosen},
        },
    }
