"""The pod template of everything that runs a program, and the Deployment of one revision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from despina.api.placement import PlacementProfile
from despina.api.pods import Accelerator
from despina.api.program import Program
from despina.api.revision import Revision, secret_refs, shape_of, size
from despina.desired.config import dump, generation_name
from despina.desired.identity import service_account_name
from despina.desired.labels import CONFIG, RESTART, RESTARTED_BY, SHAPE, metadata, revision_labels, selector
from despina.desired.overlay import CONTAINER, overlay
from despina.desired.pods import (
    ADMIN,
    CONTAINER_SECURITY,
    EXIT_SECONDS,
    MODELS_GIB,
    POD_SECURITY,
    ROLLING,
    TEMPORARY_ROOM,
    accelerator_of,
    placed,
    probes,
    resources,
)
from despina.desired.toolbox import toolbox_name
from despina.wire import (
    ADMIN_PORT,
    CACHE_DIR,
    CONFIG_DIR,
    CONFIG_FILE,
    GENERATION_DIR,
    POD_IP_ENV,
    POD_NAME_ENV,
    SECRET_CHECK_ENV,
    SECRETS_DIR,
    TOOL_TOKENS_DIR,
    TOOLS_DIR,
    RuntimeConfig,
)


def build_deployment(
    program: Program, revision: Revision, profile: PlacementProfile, default_image: str, config: RuntimeConfig
) -> dict[str, Any]:
    """The Deployment, without `replicas`: its size goes through the scale subresource alone.

    A field that was applied once and left out later falls back to its default, so an operator that applied
    `replicas` and then handed it to an autoscaler would scale a busy program to one pod. What its pods run is noted on
    it, so that a ConfigMap that somebody deletes can be made again whatever the spec says by then.
    """
    labels = revision_labels(program, revision)
    template = build_template(program, profile, default_image, _serving(program, revision, labels))
    restarted = program.annotations.get(RESTART)
    shape = json.dumps(shape_of(program, revision.model, default_image))
    notes = {SHAPE: shape, CONFIG: dump(config)} | ({RESTARTED_BY: restarted} if restarted else {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(program, revision.deployment, labels) | {"annotations": notes},
        "spec": {
            "selector": {"matchLabels": selector(program, revision.hash)},
            "strategy": ROLLING,
            "template": template,
        },
    }


@dataclass(frozen=True)
class PodParts:
    """What one workload's pods have of their own, beside what all pods have that run a program."""

    labels: Mapping[str, str]
    container: Mapping[str, Any]
    """Fields of the program's container."""
    env: tuple[dict[str, Any], ...] = ()
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()


def build_template(program: Program, profile: PlacementProfile, default_image: str, parts: PodParts) -> dict[str, Any]:
    """The pod template of everything that runs a program, with the user's own laid over it."""
    placement = program.spec.placement
    container = {**build_container(program, default_image, accelerator_of(placement, profile)), **parts.container}
    container["env"] += parts.env
    container["volumeMounts"] += parts.mounts
    spec = build_pod_spec(program, [container]) | placed(placement, profile)
    spec["volumes"] += parts.volumes
    template = {"metadata": {"labels": dict(parts.labels)}, "spec": spec}
    return overlay(template, program.spec.pod_template or {})  # type: ignore[no-any-return]


def _serving(program: Program, revision: Revision, labels: Mapping[str, str]) -> PodParts:
    generation = {"name": generation_name(revision.deployment), "optional": True}
    address = {"name": POD_IP_ENV, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return PodParts(
        env=(address,) if program.spec.feedback else (),
        labels=labels,
        container={
            "args": ["serve", "--config", f"{CONFIG_DIR}/{CONFIG_FILE}"],
            "ports": [
                {"name": "http", "containerPort": program.spec.runtime.port},
                {"name": ADMIN, "containerPort": ADMIN_PORT},
            ],
            **probes(),
        },
        volumes=(
            {"name": "config", "configMap": {"name": revision.deployment}},
            {"name": "generation", "configMap": generation},
        ),
        mounts=(
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "generation", "mountPath": GENERATION_DIR, "readOnly": True},
        ),
    )


def build_pod_spec(program: Program, containers: list[dict[str, Any]]) -> dict[str, Any]:
    """What all pods have that run a program: an identity, no rights, its Secrets, and room to write."""
    runtime = program.spec.runtime
    return {
        "serviceAccountName": service_account_name(program),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service called mlflow-tracking would set MLflow's own variables
        "terminationGracePeriodSeconds": runtime.drain_seconds + runtime.request_timeout_seconds + EXIT_SECONDS,
        "securityContext": dict(POD_SECURITY),
        "containers": containers,
        "volumes": [
            {"name": "cache", "emptyDir": {"sizeLimit": _room(program)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": TEMPORARY_ROOM}},
            # Always there, so that a program gets its first tool without new pods.
            {"name": "tools", "configMap": {"name": toolbox_name(program), "optional": True}},
            {"name": "tool-tokens", "secret": {"secretName": toolbox_name(program), "optional": True}},
            *(volume for volume, _ in _mounted_secrets(program)),
        ],
    }


def _room(program: Program) -> str:
    """For models, and the cache on the pod's disk: whatever else is written there must not fill the node's."""
    node = program.spec.cache.node if program.spec.cache else None
    cached = size(node.size_limit) if node and node.type == "EmptyDir" else 0
    spooled = size(program.spec.feedback.spool_size_limit) if program.spec.feedback else 0
    return f"{MODELS_GIB + math.ceil((cached + spooled) / 2**30)}Gi"


def build_container(program: Program, default_image: str, accelerator: Accelerator | None = None) -> dict[str, Any]:
    """The runtime, with its Secrets and room to write."""
    runtime = program.spec.runtime
    return {
        "name": CONTAINER,
        "image": runtime.image or default_image,
        "imagePullPolicy": runtime.image_pull_policy,
        "env": [
            {"name": POD_NAME_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *_secret_checks(program),
        ],
        "resources": resources(program.spec.resources, accelerator),
        "securityContext": dict(CONTAINER_SECURITY),
        "terminationMessagePath": "/dev/termination-log",
        "volumeMounts": [
            {"name": "cache", "mountPath": CACHE_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            {"name": "tools", "mountPath": TOOLS_DIR, "readOnly": True},
            {"name": "tool-tokens", "mountPath": TOOL_TOKENS_DIR, "readOnly": True},
            *(mount for _, mount in _mounted_secrets(program)),
        ],
    }


def secrets_of(program: Program) -> list[str]:
    """The names of the Secrets that the manifest refers to."""
    own = program.spec.source.mlflow.credentials_secret_ref
    return sorted({ref.name for ref in secret_refs(program)} | ({own.name} if own else set()))


def mounted_secret(volume: str, secret: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Secret as a volume of the pod, and its place in the program's container."""
    return (
        {"name": volume, "secret": {"secretName": secret, "optional": True}},
        {"name": volume, "mountPath": f"{SECRETS_DIR}/{secret}", "readOnly": True},
    )


def _mounted_secrets(program: Program) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [mounted_secret(f"secret-{i}", name) for i, name in enumerate(secrets_of(program))]


def _secret_checks(program: Program) -> list[dict[str, Any]]:
    """Variables that make the kubelet say on the pod which Secret is missing; for a volume it only logs an Event.

    The runtime drops them at its start and reads the mounted files, which follow a rotation.
    """
    return [
        {"name": f"{SECRET_CHECK_ENV}{i}", "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
        for i, ref in enumerate(secret_refs(program))
    ]
