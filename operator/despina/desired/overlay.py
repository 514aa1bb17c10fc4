"""Merging `spec.podTemplate` over the pod template that Despina builds, and saying what it may not touch."""

from __future__ import annotations

from typing import Any

from despina.desired.labels import (
    BACKEND,
    EVALUATION,
    MANAGED_BY,
    MODEL_VERSION,
    OPTIMIZATION,
    PROGRAM,
    REVISION,
    TOOL,
)
from despina.wire import ENV_PREFIX

CONTAINER = "program"
OWN_LABELS = (MANAGED_BY, PROGRAM, REVISION, MODEL_VERSION, TOOL, BACKEND, EVALUATION, OPTIMIZATION)
OWN_FIELDS = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "command", "args")
# The lists that Kubernetes itself merges by one key; every other list is replaced as a whole.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
}


def overlay(base: Any, patch: Any, field: str = "") -> Any:
    """`base` with `patch` laid over it; neither is changed."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {k: overlay(base[k], v, k) if k in base else v for k, v in patch.items()}
    if field in MERGE_KEYS and isinstance(base, list) and isinstance(patch, list):
        return _by_key(base, patch, MERGE_KEYS[field])
    return patch


def _by_key(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    patches = {item.get(key): item for item in patch}
    merged = [overlay(item, patches.pop(item.get(key), {})) for item in base]
    return merged + list(patches.values())


def overlay_problem(patch: Any, field: str = "spec.podTemplate", container: str = CONTAINER) -> str | None:
    """Why a podTemplate cannot be used, naming the field; None when it can."""
    if not isinstance(patch, dict):
        return f"{field} must be an object"
    problem = _shape_problem(patch) or _labels_problem(patch) or _container_problem(patch, container)
    return f"{field}{problem}" if problem else None


def _shape_problem(patch: dict[str, Any]) -> str | None:
    for field in patch:
        if field not in ("metadata", "spec"):
            return f".{field} is not part of a pod template: use metadata and spec"
        if not isinstance(patch[field], dict):
            return f".{field} must be an object"
    spec = patch.get("spec", {})
    for field, key in (("containers", "name"), ("initContainers", "name"), ("volumes", "name")):
        items = spec.get(field, [])
        if not isinstance(items, list) or any(not isinstance(i, dict) or not i.get(key) for i in items):
            return f".spec.{field} must be a list of objects with a {key}"
    return None


def _labels_problem(patch: dict[str, Any]) -> str | None:
    taken = [label for label in patch.get("metadata", {}).get("labels") or {} if label in OWN_LABELS]
    return f".metadata.labels: {taken[0]} is Despina's own" if taken else None


def _container_problem(patch: dict[str, Any], name: str) -> str | None:
    for container in patch.get("spec", {}).get("containers", []):
        if container["name"] != name:
            continue
        where = f".spec.containers[{name}]"
        for field in OWN_FIELDS:
            if field in container:
                return f"{where}.{field} is Despina's own"
        for env in container.get("env") or []:
            if str(env.get("name", "")).startswith(ENV_PREFIX):
                return f"{where}.env: {env['name']} is Despina's own"
    return None
