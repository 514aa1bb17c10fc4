"""Reading one program and everything that is its own, into the snapshot that decisions are made from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from despina.api.conditions import Reason
from despina.api.program import Program, ProgramStatus
from despina.cluster.client import Cluster, Document
from despina.decide.observed import DeploymentView, ObjectKey, PodView, Trouble
from despina.desired.labels import ACTIVATED_AT, MODEL_VERSION, PROGRAM, RETIRED_AT, REVISION
from despina.desired.network import preview_name
from despina.wire import Failure

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


@dataclass(frozen=True)
class Unreadable:
    """A manifest that the API server accepted and this operator cannot parse."""

    manifest: Document
    message: str


async def read_manifest(cluster: Cluster, namespace: str, name: str) -> Document | None:
    """The program as it stands; None if it is gone or going."""
    manifest = await cluster.get("DSPyProgram", namespace, name)
    return None if manifest is None or manifest["metadata"].get("deletionTimestamp") else manifest


def parse(manifest: Document) -> Program | Unreadable:
    """A manifest as a Program, or what is wrong with it, field by field."""
    try:
        return Program.parse(manifest)
    except ValidationError as exc:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_url=False))
        return Unreadable(manifest, found)


async def observe(cluster: Cluster, program: Program, manifest: Document) -> Live:
    """Read all that belongs to a program. The reads are not one moment; the next pass evens that out."""
    labels = {PROGRAM: program.name}
    kinds = (*OWNED, "Pod", "EndpointSlice")
    lists = await asyncio.gather(*(cluster.list(kind, program.namespace, labels) for kind in kinds))
    found = dict(zip(kinds, lists, strict=True))
    objects = {
        (kind, item["metadata"]["name"]): {"kind": kind, **item}
        for kind in OWNED
        for item in found[kind]
        if is_owned(item, program)
    }
    service = objects.get(("Service", program.name), {})
    pods = tuple(pod_view(p) for p in found["Pod"])
    return Live(
        program=program,
        status=read_status(manifest.get("status") or {}),
        deployments=tuple(deployment_view(d) for (kind, _), d in objects.items() if kind == "Deployment"),
        pods=pods,
        active=((service.get("spec") or {}).get("selector") or {}).get(REVISION),
        preview_ready=preview_ready(found["EndpointSlice"], preview_name(program), pods),
        objects={key: value for key, value in objects.items() if key[0] != "Deployment"},
    )


def read_status(status: Document) -> ProgramStatus:
    """The status as an older or newer operator left it; what cannot be read is made anew."""
    try:
        return ProgramStatus.model_validate(status)
    except ValidationError:
        return ProgramStatus()


def is_owned(item: Document, program: Program) -> bool:
    """Whether an object is this program's, by owner reference: a label can be anybody's."""
    owners = item["metadata"].get("ownerReferences") or []
    return any(owner["uid"] == program.uid for owner in owners)


def deployment_view(item: Document) -> DeploymentView:
    """A Deployment as decisions see it."""
    meta = item["metadata"]
    notes = meta.get("annotations") or {}
    return DeploymentView(
        name=meta["name"],
        revision=meta["labels"][REVISION],
        version=meta["labels"].get(MODEL_VERSION, ""),
        replicas=item["spec"].get("replicas", 1),
        activated_at=_number(notes.get(ACTIVATED_AT)),
        retired_at=_number(notes.get(RETIRED_AT)),
    )


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
        trouble=None if ready or failure else _trouble(status),
    )


def _containers(status: Document) -> list[Document]:
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


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
