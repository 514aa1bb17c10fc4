"""The Deployment of one revision."""

from __future__ import annotations

import json
from typing import Any

from despina.api.placement import PlacementProfile
from despina.api.pods import Accelerator, Placement
from despina.api.program import Program
from despina.api.revision import Revision, secret_refs, shape_of
from despina.desired.config import generation_name
from despina.desired.identity import service_account_name
from despina.desired.labels import RESTART, RESTARTED_BY, SHAPE, metadata, revision_labels, selector
from despina.desired.overlay import CONTAINER, overlay
from despina.wire import (
    ADMIN_PORT,
    CACHE_DIR,
    CONFIG_DIR,
    CONFIG_FILE,
    GENERATION_DIR,
    POD_NAME_ENV,
    SECRET_CHECK_ENV,
    SECRETS_DIR,
)

# Time for the process itself to end, on top of draining and of the longest request.
EXIT_SECONDS = 5


def build_deployment(
    program: Program, revision: Revision, profile: PlacementProfile, default_image: str
) -> dict[str, Any]:
    """The Deployment, without `replicas`: its size goes through the scale subresource alone.

    A field that was applied once and left out later falls back to its default, so an operator that applied
    `replicas` and then handed it to an autoscaler would scale a busy program to one pod.
    """
    labels = revision_labels(program, revision)
    template = {
        "metadata": {"labels": dict(labels)},
        "spec": _pod_spec(program, revision, profile, default_image),
    }
    restarted = program.annotations.get(RESTART)
    notes = {SHAPE: json.dumps(shape_of(program, default_image))} | ({RESTARTED_BY: restarted} if restarted else {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(program, revision.deployment, labels) | {"annotations": notes},
        "spec": {
            "selector": {"matchLabels": selector(program, revision.hash)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": overlay(template, program.spec.pod_template or {}),
        },
    }


def _pod_spec(program: Program, revision: Revision, profile: PlacementProfile, default_image: str) -> dict[str, Any]:
    args = ["serve", "--config", f"{CONFIG_DIR}/{CONFIG_FILE}"]
    accelerator = _accelerator(program, profile)
    container = build_container(program, args, default_image, accelerator) | _serving(program)
    container["volumeMounts"] += [
        {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
        {"name": "generation", "mountPath": GENERATION_DIR, "readOnly": True},
    ]
    spec = build_pod_spec(program, [container])
    generation = {"name": generation_name(revision.deployment), "optional": True}
    spec["volumes"] += [
        {"name": "config", "configMap": {"name": revision.deployment}},
        {"name": "generation", "configMap": generation},
    ]
    return spec | _placement(program.spec.placement, profile)


def build_pod_spec(program: Program, containers: list[dict[str, Any]]) -> dict[str, Any]:
    """What all pods have that run a program: an identity, no rights, its Secrets, and room to write."""
    runtime = program.spec.runtime
    return {
        "serviceAccountName": service_account_name(program),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": runtime.drain_seconds + runtime.request_timeout_seconds + EXIT_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": [
            {"name": "cache", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            *(
                {"name": f"secret-{i}", "secret": {"secretName": s, "optional": True}}
                for i, s in enumerate(_secrets(program))
            ),
        ],
    }


def _serving(program: Program) -> dict[str, Any]:
    return {
        "ports": [
            {"name": "http", "containerPort": program.spec.runtime.port},
            {"name": "admin", "containerPort": ADMIN_PORT},
        ],
        "readinessProbe": _probe("/readyz", period=2, failures=3),
        "livenessProbe": _probe("/healthz", period=10, failures=3) | {"initialDelaySeconds": 10},
    }


def build_container(
    program: Program, args: list[str], default_image: str, accelerator: Accelerator | None = None
) -> dict[str, Any]:
    """The runtime, with its Secrets and room to write."""
    runtime = program.spec.runtime
    return {
        "name": CONTAINER,
        "image": runtime.image or default_image,
        "imagePullPolicy": runtime.image_pull_policy,
        "args": args,
        "env": [
            {"name": POD_NAME_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *_secret_checks(program),
        ],
        "resources": _resources(program, accelerator),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "volumeMounts": [
            {"name": "cache", "mountPath": CACHE_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            *(
                {"name": f"secret-{i}", "mountPath": f"{SECRETS_DIR}/{s}", "readOnly": True}
                for i, s in enumerate(_secrets(program))
            ),
        ],
    }


def _probe(path: str, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "admin"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _resources(program: Program, accelerator: Accelerator | None) -> dict[str, Any]:
    """CPU is always requested: the autoscaler's percentage is one of the request."""
    resources = program.spec.resources
    device = {accelerator.resource: str(accelerator.count)} if accelerator else {}
    limits = {**resources.limits, **device}
    return {"requests": {"cpu": "100m", **resources.requests}} | ({"limits": limits} if limits else {})


def _secrets(program: Program) -> list[str]:
    return sorted({ref.name for ref in secret_refs(program)})


def _secret_checks(program: Program) -> list[dict[str, Any]]:
    """Variables that make the kubelet say on the pod which Secret is missing; for a volume it only logs an Event.

    The runtime drops them at its start and reads the mounted files, which follow a rotation.
    """
    return [
        {"name": f"{SECRET_CHECK_ENV}{i}", "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
        for i, ref in enumerate(secret_refs(program))
    ]


def _accelerator(program: Program, profile: PlacementProfile) -> Accelerator | None:
    return program.spec.placement.accelerator or profile.accelerator


def _placement(placement: Placement, profile: PlacementProfile) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "nodeSelector": {**profile.node_selector, **placement.node_selector},
        "tolerations": [t.dump() for t in (*profile.tolerations, *placement.tolerations)],
        "affinity": placement.affinity,
    }
    return {k: v for k, v in fields.items() if v}
