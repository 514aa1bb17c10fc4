"""What a tool's own pods are made of: for each backend that is a deployment, a Deployment, a headless Service, a
ServiceAccount, a budget and an autoscaler; and for all of them a Service, and the Secret with the tokens of those who
may call."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from despina.api.placement import PlacementProfile
from despina.api.pods import Placement
from despina.api.revision import digest
from despina.api.tool import Backend, HostDeployment, Tool
from despina.desired.identity import build_service_account
from despina.desired.labels import BACKEND, SHAPE, TOOL, metadata, tool_labels
from despina.desired.overlay import overlay
from despina.desired.pods import (
    ADMIN,
    CONTAINER_SECURITY,
    EXIT_SECONDS,
    POD_SECURITY,
    ROLLING,
    TEMPORARY_ROOM,
    accelerator_of,
    placed,
    probes,
    resources,
)
from despina.desired.scaling import build_pdb
from despina.desired.toolbox import HOST_PORT, contract_config, pods_service
from despina.wire import (
    ADMIN_PORT,
    POD_NAME_ENV,
    TOOL_HOST_ENV,
    TOOL_TOKENS_DIR,
    ToolHostConfig,
)

CONTAINER = "tool"


def tokens_name(tool: Tool) -> str:
    """The Secret with the tokens of those who may call."""
    return f"{tool.name}-callers"


def account_name(tool: Tool, backend: Backend) -> str:
    """The ServiceAccount of one backend's pods: the user's choice, or one of their own, for pools differ in roles."""
    return tool.spec.service_account.name or pods_service(tool, backend)


def build_tokens(tool: Tool, tokens: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The tokens that the tool's pods accept, by the namespace of those who present them. No namespace has a dot in its
    name."""
    ends = ("", ".previous")
    found = {name + end: t for name, known in tokens.items() for end, t in zip(ends, known, strict=False)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(tool, tokens_name(tool), tool_labels(tool)),
        "data": {name: base64.b64encode(token.encode()).decode() for name, token in sorted(found.items())},
    }


def build_tool_service(tool: Tool) -> dict[str, Any]:
    """One address for all of the tool's own pods, for those who look nothing up themselves."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(tool, tool.name, tool_labels(tool)),
        "spec": {
            "type": "ClusterIP",
            "selector": {TOOL: tool.name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def build_backend(
    tool: Tool, backend: Backend, host: HostDeployment, profile: PlacementProfile, default_image: str
) -> list[dict[str, Any]]:
    """The objects of one backend, in the order in which they are made; neither its account nor its autoscaler, of which
    there may be none."""
    labels, name = tool_labels(tool, backend.name), pods_service(tool, backend)
    return [
        build_headless(tool, backend),
        build_pdb(tool, name, labels, pods_of(tool, backend)),
        build_host(tool, backend, host, profile, default_image),
    ]


def build_account(tool: Tool, backend: Backend, profile: PlacementProfile) -> dict[str, Any] | None:
    """The account of one backend's pods. One that all share has no backend's label."""
    account = tool.spec.service_account
    labels = tool_labels(tool, None if account.name else backend.name)
    return build_service_account(tool, account, account_name(tool, backend), labels, profile)


def pods_of(tool: Tool, backend: Backend) -> dict[str, str]:
    """What selects the pods of one backend."""
    return {TOOL: tool.name, BACKEND: backend.name}


def build_headless(tool: Tool, backend: Backend) -> dict[str, Any]:
    """The name that stands for all ready pods of a backend: its registry is the cluster's DNS."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(tool, pods_service(tool, backend), tool_labels(tool, backend.name)),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": pods_of(tool, backend),
            "ports": [{"name": "http", "port": HOST_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def shape_of_host(tool: Tool, backend: Backend, profile: PlacementProfile) -> str:
    """Changes exactly when the pods must be made anew. The default image is no part of it: a new operator restarts
    nobody."""
    spec = tool.spec
    own = backend.dump() | {"priority": 0, "weight": 1}  # those are their callers' business
    parts = [own, contract_config(tool).model_dump(), profile.dump(), spec.service_account.dump()]
    limits = [spec.timeout_seconds, spec.concurrency.max_in_flight, spec.concurrency.queue_timeout_seconds]
    return digest([parts, limits])


def build_host(
    tool: Tool, backend: Backend, host: HostDeployment, profile: PlacementProfile, default_image: str
) -> dict[str, Any]:
    """The Deployment, without `replicas`: its size goes through the scale subresource alone."""
    labels = tool_labels(tool, backend.name)
    template = {
        "metadata": {"labels": dict(labels)},
        "spec": _pod_spec(tool, backend, host, profile, default_image),
    }
    notes = {SHAPE: shape_of_host(tool, backend, profile)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(tool, pods_service(tool, backend), labels) | {"annotations": notes},
        "spec": {
            "selector": {"matchLabels": pods_of(tool, backend)},
            "strategy": ROLLING,
            "template": overlay(template, host.pod_template or {}),
        },
    }


def host_config(tool: Tool, host: HostDeployment) -> ToolHostConfig:
    """The document that the pods run by."""
    return ToolHostConfig(
        tool=tool.name,
        contract=contract_config(tool),
        packages=host.tool_packages,
        port=HOST_PORT,
        max_in_flight=tool.spec.concurrency.max_in_flight,
        queue_timeout_seconds=tool.spec.concurrency.queue_timeout_seconds,
        timeout_seconds=tool.spec.timeout_seconds,
        drain_seconds=host.drain_seconds,
        tokens_dir=TOOL_TOKENS_DIR,
    )


def _pod_spec(
    tool: Tool, backend: Backend, host: HostDeployment, profile: PlacementProfile, default_image: str
) -> dict[str, Any]:
    placement = backend.placement or Placement()
    container = {
        "name": CONTAINER,
        "image": host.image or default_image,
        "imagePullPolicy": host.image_pull_policy,
        "args": ["tools"],
        "env": [
            {"name": POD_NAME_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": TOOL_HOST_ENV, "value": _verbatim(host_config(tool, host).model_dump_json(exclude_defaults=True))},
        ],
        "ports": [{"name": "http", "containerPort": HOST_PORT}, {"name": ADMIN, "containerPort": ADMIN_PORT}],
        **probes(),
        "resources": resources(host.resources, accelerator_of(placement, profile)),
        "securityContext": dict(CONTAINER_SECURITY),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            {"name": "callers", "mountPath": TOOL_TOKENS_DIR, "readOnly": True},
        ],
    }
    return {
        "serviceAccountName": account_name(tool, backend),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": host.drain_seconds + tool.spec.timeout_seconds + EXIT_SECONDS,
        "securityContext": dict(POD_SECURITY),
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": TEMPORARY_ROOM}},
            {"name": "callers", "secret": {"secretName": tokens_name(tool)}},
        ],
    } | placed(placement, profile)


def _verbatim(text: str) -> str:
    """A variable's value so that the kubelet, which reads `$$` as `$` and replaces `$(NAME)`, gives just this text."""
    return text.replace("$", "$$")


def hosted(tool: Tool) -> Iterable[tuple[Backend, HostDeployment]]:
    """The backends that the operator makes pods for."""
    return [(b, b.deployment) for b in tool.spec.backends if b.deployment]
