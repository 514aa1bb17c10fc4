"""Reading one program and everything that is its own, into the snapshot that decisions are made from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from despina.api.base import Owner
from despina.api.conditions import Reason
from despina.api.program import Program
from despina.api.status import Memory, ProgramStatus
from despina.cluster.client import Cluster, Document
from despina.decide.observed import DeploymentView, JobView, Loading, ObjectKey, PodView, Trouble
from despina.decide.quarantine import parse_timestamp
from despina.desired.config import AT, MEMORY_FILE, PREVIOUS_FILE, generation_name
from despina.desired.labels import (
    ACTIVATED_AT,
    EVALUATION,
    GATE,
    MODEL_VERSION,
    PROGRAM,
    RESTARTED_BY,
    RESTARTS,
    RETIRED_AT,
    REVISION,
    SHAPE,
    SIZE,
)
from despina.desired.network import preview_name
from despina.desired.overlay import CONTAINER
from despina.desired.toolbox import toolbox_name
from despina.wire import CONFIG_FILE, EvaluationResult, Failure, RuntimeConfig

OWNED = ("Deployment", "Service", "ServiceAccount", "HorizontalPodAutoscaler", "PodDisruptionBudget")
SERVICE_NAME = "kubernetes.io/service-name"
IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}


@dataclass(frozen=True)
class Live:
    """What stands in the cluster for one program."""

    program: Program
    status: ProgramStatus
    deployments: tuple[DeploymentView, ...]
    pods: tuple[PodView, ...]
    active: str | None
    preview_ready: Mapping[str, int]
    objects: Mapping[ObjectKey, Document]
    configs: Mapping[str, RuntimeConfig]
    versions: Mapping[ObjectKey, str]
    """The resourceVersions that were read, of what moves callers."""
    jobs: tuple[JobView, ...]


@dataclass(frozen=True)
class Unreadable:
    """A manifest that the API server accepted and this operator cannot parse."""

    manifest: Document
    message: str


async def read_manifest(cluster: Cluster, kind: str, namespace: str, name: str) -> Document | None:
    """A program or a tool as it stands; None if it is gone or going."""
    manifest = await cluster.get(kind, namespace, name)
    return None if manifest is None or manifest["metadata"].get("deletionTimestamp") else manifest


Parsed = TypeVar("Parsed", bound=Owner)


def parse(kind: type[Parsed], manifest: Document) -> Parsed | Unreadable:
    """A manifest as what it is, or what is wrong with it, field by field."""
    try:
        return kind.parse(manifest)
    except ValidationError as exc:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_url=False))
        return Unreadable(manifest, found)


async def observe(cluster: Cluster, program: Program, manifest: Document) -> Live:
    """Read all that belongs to a program. The reads are not one moment; the next pass evens that out."""
    labels = {PROGRAM: program.name}
    kinds = (*OWNED, "ConfigMap", "Job", "Pod", "EndpointSlice")
    lists = await asyncio.gather(*(cluster.list(kind, program.namespace, labels) for kind in kinds))
    found = dict(zip(kinds, lists, strict=True))
    objects = owned(found, program)
    service = objects.get(("Service", program.name), {})
    pods = tuple(pod_view(p) for p in found["Pod"])
    configs = {item["metadata"]["name"]: item for item in found["ConfigMap"] if is_owned(item, program)}
    return Live(
        program=program,
        status=read_status(manifest.get("status") or {}),
        deployments=tuple(deployment_view(d, configs) for (kind, _), d in objects.items() if kind == "Deployment"),
        pods=pods,
        active=((service.get("spec") or {}).get("selector") or {}).get(REVISION),
        preview_ready=preview_ready(found["EndpointSlice"], preview_name(program), pods),
        objects=_compared(objects, configs) | await _toolbox_secret(cluster, program, configs),
        configs=_readable(configs),
        versions=_versions(objects, configs),
        jobs=await _jobs(cluster, program, [j for j in found["Job"] if is_owned(j, program)]),
    )


def _compared(objects: Mapping[ObjectKey, Document], configs: Mapping[str, Document]) -> dict[ObjectKey, Document]:
    """What is applied again when it is not as it should be; of ConfigMaps, those that change."""
    changing = {("ConfigMap", n): c for n, c in configs.items() if not c.get("immutable")}
    return {key: value for key, value in objects.items() if key[0] != "Deployment"} | changing


def _readable(configs: Mapping[str, Document]) -> dict[str, RuntimeConfig]:
    found = {name: _config(item, CONFIG_FILE) for name, item in configs.items() if item.get("immutable")}
    return {name: config for name, config in found.items() if config}


def _versions(objects: Mapping[ObjectKey, Document], configs: Mapping[str, Document]) -> dict[ObjectKey, str]:
    """With these, a write that was decided on an older state of things is refused."""
    guarded = {key: item for key, item in objects.items() if key[0] in ("Deployment", "Service")}
    guarded |= {("ConfigMap", name): item for name, item in configs.items()}
    return {key: item["metadata"].get("resourceVersion", "") for key, item in guarded.items()}


async def _toolbox_secret(
    cluster: Cluster, program: Program, configs: Mapping[str, Document]
) -> dict[ObjectKey, Document]:
    """The program's tokens for its tools: read by name, for the operator may not list Secrets."""
    name = toolbox_name(program)
    return await own_secret(cluster, program, name) if program.spec.tools or name in configs else {}


async def own_secret(cluster: Cluster, owner: Owner, name: str) -> dict[ObjectKey, Document]:
    """A Secret, if it is its owner's."""
    found = await cluster.get("Secret", owner.namespace, name)
    return {("Secret", name): found} if found and is_owned(found, owner) else {}


async def _jobs(cluster: Cluster, program: Program, found: list[Document]) -> tuple[JobView, ...]:
    pods = await asyncio.gather(
        *(cluster.list("Pod", program.namespace, {EVALUATION: j["metadata"]["name"]}) for j in found)
    )
    return tuple(job_view(job, mine) for job, mine in zip(found, pods, strict=True))


def job_view(item: Document, pods: list[Document]) -> JobView:
    """An evaluation as decisions see it. A drained node leaves it several pods, one after the other."""
    meta, status = item["metadata"], item.get("status") or {}
    labels = meta.get("labels") or {}
    endings = [
        c for c in status.get("conditions") or [] if c["type"] in ("Complete", "Failed") and c["status"] == "True"
    ]
    newest_first = sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", reverse=True)
    results = [r for r in map(_result, newest_first) if r]
    return JobView(
        name=meta["name"],
        ended=bool(endings),
        result=results[0] if results else None,
        ip=next((ip for ip in map(_address, newest_first) if ip), None),
        trouble=next((t for t in (*map(_job_trouble, newest_first[:1]), *map(_ending, endings)) if t), ""),
        revision=labels.get(REVISION, ""),
        gate=labels.get(GATE, ""),
        created_at=parse_timestamp(meta.get("creationTimestamp")) or None,
    )


def _address(pod: Document) -> str | None:
    """Where a pod can be asked that runs and is not about to end."""
    status = pod.get("status") or {}
    runs = status.get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    return status.get("podIP") if runs else None


def _result(pod: Document) -> EvaluationResult | None:
    """A pod's last words.

    A score counts only from a process that ended well: the model that is scored runs beside it and can write where last
    words stand, but not end the process so. An error counts unless the pod was taken from its node: another one follows
    then.
    """
    status = pod.get("status") or {}
    ended = _program_ended(status)
    try:
        found = EvaluationResult.model_validate_json(ended.get("message") or "")
    except ValidationError:
        return None
    if ended.get("exitCode") == 0:
        return found
    return found if found.error is not None and not _is_disrupted(status) else None


def _program_ended(status: Document) -> Document:
    """How the program's container ended."""
    for container in status.get("containerStatuses") or []:
        if container.get("name") == CONTAINER:
            ended: Document = (container.get("state") or {}).get("terminated") or {}
            return ended
    return {}


def _is_disrupted(status: Document) -> bool:
    return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in status.get("conditions") or [])


def _job_trouble(pod: Document) -> str:
    """What keeps a pod from starting, or how it ended."""
    status = pod.get("status") or {}
    trouble, ended = _trouble(status), _program_ended(status)
    if trouble:
        return f"{trouble.reason}: {trouble.message}"
    if _is_disrupted(status):
        return "its pod was taken from its node, and another one follows"
    if ended.get("exitCode"):
        return f"{ended.get('reason') or 'Error'}: container {CONTAINER} ended with code {ended['exitCode']}"
    return ""


def _ending(condition: Document) -> str:
    failed = condition["type"] == "Failed"
    return f"{condition.get('reason', '')}: {condition.get('message', '')}" if failed else ""


def read_status(status: Document) -> ProgramStatus:
    """The status as an older or newer operator left it; what cannot be read is made anew."""
    try:
        return ProgramStatus.model_validate(status)
    except ValidationError:
        return ProgramStatus()


def owned(found: Mapping[str, list[Document]], owner: Owner) -> dict[ObjectKey, Document]:
    """Of what carries its labels, what is its owner's and kept as it should be."""
    return {
        (kind, item["metadata"]["name"]): {"kind": kind, **item}
        for kind in OWNED
        for item in found[kind]
        if is_owned(item, owner)
    }


def is_owned(item: Document, owner: Owner) -> bool:
    """Whether an object is its owner's, by reference: a label can be anybody's."""
    owners = item["metadata"].get("ownerReferences") or []
    return any(one["uid"] == owner.uid for one in owners)


def deployment_view(item: Document, configs: Mapping[str, Document]) -> DeploymentView:
    """A Deployment as decisions see it, with what its pods were made to run and what they were changed to."""
    meta = item["metadata"]
    notes = meta.get("annotations") or {}
    loading = _loading(configs.get(generation_name(meta["name"])))
    return DeploymentView(
        name=meta["name"],
        revision=meta["labels"][REVISION],
        version=loading.version if loading else meta["labels"].get(MODEL_VERSION, ""),
        shape=_json(notes.get(SHAPE)),
        config=_config(configs.get(meta["name"]), CONFIG_FILE),
        loading=loading,
        restarts=tuple(_json(notes.get(RESTARTS)) or ()),
        restarted_by=notes.get(RESTARTED_BY, ""),
        size=int(size) if (size := notes.get(SIZE, "")).isdecimal() and len(size) < 5 else None,
        replicas=item["spec"].get("replicas", 1),
        activated_at=_number(notes.get(ACTIVATED_AT)),
        retired_at=_number(notes.get(RETIRED_AT)),
    )


def _loading(item: Document | None) -> Loading | None:
    config = _config(item, CONFIG_FILE)
    if item is None or config is None:
        return None
    at = _number(item["data"].get(AT)) or 0.0
    memory = Memory.parse(item["data"].get(MEMORY_FILE))
    return Loading(config.revision, config.model.version, config, at, _config(item, PREVIOUS_FILE), memory)


def _config(item: Document | None, key: str) -> RuntimeConfig | None:
    """A configuration as it was written; None for one that this operator cannot read."""
    try:
        return RuntimeConfig.model_validate_json(((item or {}).get("data") or {}).get(key, ""))
    except ValidationError:
        return None


def _json(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def pod_view(item: Document) -> PodView:
    """A pod as decisions see it."""
    meta, status = item["metadata"], item.get("status") or {}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
    failure = None if ready else _failure(status)
    return PodView(
        name=meta["name"],
        revision=meta["labels"].get(REVISION, ""),
        ready=ready,
        ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        ip=status.get("podIP"),
        failure=failure,
        failures=max((_failures(c) for c in _containers(status)), default=0),
        trouble=None if ready or failure else _trouble(status),
    )


def _containers(status: Document) -> list[Document]:
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _failures(container: Document) -> int:
    """How often it has ended, this time included."""
    return int(container.get("restartCount") or 0) + ("terminated" in (container.get("state") or {}))


def _failure(status: Document) -> Failure | None:
    """What the program's container said when it last gave up."""
    for container in _containers(status):
        for state in ("state", "lastState"):
            ended = (container.get(state) or {}).get("terminated") or {}
            failure = Failure.parse(ended.get("message"))
            if failure:
                return failure
    return None


def _trouble(status: Document) -> Trouble | None:
    """What the scheduler or the kubelet says."""
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Trouble(Reason.UNSCHEDULABLE, condition.get("message", ""))
    return next((t for t in map(_container_trouble, _containers(status)) if t), None)


def _container_trouble(container: Document) -> Trouble | None:
    waiting: dict[str, Any] = (container.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason"), waiting.get("message", "")
    if reason in IMAGE_REASONS:
        return Trouble(Reason.IMAGE_NOT_PULLED, f"{container.get('image')}: {message}")
    if reason == "CreateContainerConfigError":
        return Trouble(Reason.SECRET_NOT_FOUND, message)
    if reason == "CrashLoopBackOff":
        ended = (container.get("lastState") or {}).get("terminated") or {}
        code = ended.get("exitCode")
        return Trouble(Reason.CRASHED, f"container {container['name']} ended with code {code}; see its log")
    return None


def preview_ready(slices: list[Document], service: str, pods: tuple[PodView, ...]) -> dict[str, int]:
    """Ready endpoints of the preview Service, by the revision of the pod behind each."""
    revision_of = {pod.name: pod.revision for pod in pods}
    seen: dict[str, set[str]] = {}
    for item in slices:
        if (item["metadata"].get("labels") or {}).get(SERVICE_NAME) != service:
            continue
        for endpoint in item.get("endpoints") or []:
            pod = (endpoint.get("targetRef") or {}).get("name")
            if pod in revision_of and (endpoint.get("conditions") or {}).get("ready"):
                seen.setdefault(revision_of[pod], set()).add(pod)
    return {revision: len(names) for revision, names in seen.items()}
