"""Reading one program and everything that is its own, into the snapshot that decisions are made from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from despina.api.base import Owner
from despina.api.conditions import Reason
from despina.api.program import Program
from despina.api.status import Memory, ProgramStatus
from despina.cluster.client import Cluster, Document
from despina.cluster.reading import (
    as_far_as_readable,
    data_of,
    entries,
    is_owned,
    labels_of,
    labels_of_pods,
    mapping,
    moment,
    names_owner,
    notes_of,
    parsed,
    text,
)
from despina.cluster.unlisted import with_unlisted
from despina.decide.observed import DeploymentView, JobView, Loading, ObjectKey, PodView, Trouble
from despina.decide.quarantine import LAST_MOMENT
from despina.desired.config import AT, MEMORY_FILE, PREVIOUS_FILE, generation_name
from despina.desired.labels import (
    ACTIVATED_AT,
    CONFIG,
    EVALUATION,
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
from despina.wire import CONFIG_FILE, TOOLS_FILE, EvaluationResult, Failure, RuntimeConfig

OWNED = ("Deployment", "Service", "ServiceAccount", "HorizontalPodAutoscaler", "PodDisruptionBudget")
SERVICE_NAME = "kubernetes.io/service-name"
SHAPES = TypeAdapter(dict[str, str])
MOMENTS = TypeAdapter(tuple[Annotated[float, Field(ge=0, le=LAST_MOMENT)], ...])
RESULTS, CONFIGS = TypeAdapter(EvaluationResult), TypeAdapter(RuntimeConfig)
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
    status = read_status(manifest.get("status"))
    found = await with_unlisted(cluster, program, status, dict(zip(kinds, lists, strict=True)))
    objects = owned(found, program)
    service = objects.get(("Service", program.name), {})
    configs = {item["metadata"]["name"]: item for item in found["ConfigMap"] if is_owned(item, program)}
    deployments = _deployments(objects, configs)
    pods = tuple(_readable(pod_view(p), deployments) for p in found["Pod"])
    configured = [config for view in deployments for config in view.configs]
    caches = [program.spec.cache, *(config.cache for config in configured)]
    uses = [*program.spec.tools, *(use for config in configured for use in config.tools)]
    toolbox = toolbox_name(program)
    is_given = bool(uses) or any(c and c.redis for c in caches) or TOOLS_FILE in data_of(configs.get(toolbox))
    # The program's tokens and keys: read by name, for the operator may not list Secrets.
    tokens = await own_secret(cluster, program, toolbox) if is_given else {}
    return Live(
        program=program,
        status=status,
        deployments=deployments,
        pods=pods,
        active=text(mapping(mapping(service.get("spec")).get("selector")).get(REVISION)) or None,
        preview_ready=preview_ready(found["EndpointSlice"], preview_name(program), pods),
        objects=_compared(objects, configs) | tokens,
        configs=_parsed_configs(configs),
        versions=_versions(objects, configs),
        jobs=await _jobs(cluster, program, [j for j in found["Job"] if is_owned(j, program)]),
    )


def _readable(pod: PodView, deployments: Iterable[DeploymentView]) -> PodView:
    """The pod with the keys of all that it may have been started with."""
    keys = [config.read_key for view in deployments if view.revision == pod.revision for config in view.configs]
    return replace(pod, read_keys=tuple(dict.fromkeys(filter(None, keys))))


def _compared(objects: Mapping[ObjectKey, Document], configs: Mapping[str, Document]) -> dict[ObjectKey, Document]:
    """What is applied again when it is not as it should be; of ConfigMaps, those that change."""
    changing = {("ConfigMap", n): c for n, c in configs.items() if not c.get("immutable")}
    return {key: value for key, value in objects.items() if key[0] != "Deployment"} | changing


def _parsed_configs(configs: Mapping[str, Document]) -> dict[str, RuntimeConfig]:
    found = {n: parsed(CONFIGS, data_of(c).get(CONFIG_FILE)) for n, c in configs.items() if c.get("immutable")}
    return {name: config for name, config in found.items() if config}


def _versions(objects: Mapping[ObjectKey, Document], configs: Mapping[str, Document]) -> dict[ObjectKey, str]:
    """With these, a write that was decided on an older state of things is refused."""
    guarded = {key: item for key, item in objects.items() if key[0] in ("Deployment", "Service")}
    guarded |= {("ConfigMap", name): item for name, item in configs.items()}
    return {key: item["metadata"].get("resourceVersion", "") for key, item in guarded.items()}


async def own_secret(cluster: Cluster, owner: Owner, name: str) -> dict[ObjectKey, Document]:
    """A Secret, if it is its owner's."""
    found = await cluster.get("Secret", owner.namespace, name)
    return {("Secret", name): found} if found and is_owned(found, owner) else {}


async def _jobs(cluster: Cluster, program: Program, found: list[Document]) -> tuple[JobView, ...]:
    """Ended ones stay for a day, so that all of their pods are asked for at once."""
    pods = await cluster.list("Pod", program.namespace, {EVALUATION: None}) if found else []
    return tuple(job_view(job, _made_by(job, pods)) for job in found)


def _made_by(job: Document, pods: list[Document]) -> list[Document]:
    """Of the pods with a Job's label, which anybody may put on a pod, those that the Job's controller made."""
    return [pod for pod in pods if names_owner(pod, job["metadata"]["uid"])]


def job_view(item: Document, pods: list[Document]) -> JobView:
    """An evaluation as decisions see it. A drained node leaves it several pods, one after the other."""
    endings = [found for kind in ("Complete", "Failed") if (found := _condition(item, kind))]
    newest_first = sorted(pods, key=lambda pod: text(pod["metadata"].get("creationTimestamp")), reverse=True)
    results = [r for r in map(_result, newest_first) if r]
    return JobView(
        name=item["metadata"]["name"],
        ended=bool(endings),
        result=results[0] if results else None,
        ip=next((ip for ip in map(_address, newest_first) if ip), None),
        trouble=next((t for t in (*map(_job_trouble, newest_first[:1]), *map(_ending, endings)) if t), ""),
    )


def _condition(item: Document, kind: str, status: str = "True") -> Document | None:
    """A condition of an object, if it stands at this."""
    found = entries(mapping(item.get("status")).get("conditions"))
    return next((c for c in found if c.get("type") == kind and c.get("status") == status), None)


def _address(pod: Document) -> str | None:
    """Where a pod can be asked that runs and is not about to end."""
    status = mapping(pod.get("status"))
    runs = status.get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    return text(status.get("podIP")) or None if runs else None


def _result(pod: Document) -> EvaluationResult | None:
    """A pod's last words.

    A score counts only from a process that ended well: the model that is scored runs beside it and can write where last
    words stand, but not end the process so. An error counts unless the pod was taken from its node: another one follows
    then.
    """
    ended = _program_ended(pod)
    found = parsed(RESULTS, text(ended.get("message")))
    if found is None or ended.get("exitCode") == 0:
        return found
    return found if found.error is not None and not _is_disrupted(pod) else None


def _program_ended(pod: Document) -> Document:
    """How the program's container ended."""
    containers = entries(mapping(pod.get("status")).get("containerStatuses"))
    return next((_ended(c, "state") for c in containers if c.get("name") == CONTAINER), {})


def _is_disrupted(pod: Document) -> bool:
    return _condition(pod, "DisruptionTarget") is not None


def _job_trouble(pod: Document) -> str:
    """What keeps a pod from starting, or how it ended."""
    trouble, ended = _trouble(mapping(pod.get("status"))), _program_ended(pod)
    if trouble:
        return f"{trouble.reason}: {trouble.message}"
    if _is_disrupted(pod):
        return "its pod was taken from its node, and another one follows"
    if ended.get("exitCode"):
        return f"{ended.get('reason') or 'Error'}: container {CONTAINER} ended with code {ended['exitCode']}"
    return ""


def _ending(condition: Document) -> str:
    failed = condition["type"] == "Failed"
    return f"{condition.get('reason', '')}: {condition.get('message', '')}" if failed else ""


def read_status(status: Any) -> ProgramStatus:
    """The status as an older or newer operator left it, as far as it can be read."""
    return as_far_as_readable(ProgramStatus, status) or ProgramStatus()


def owned(found: Mapping[str, list[Document]], owner: Owner) -> dict[ObjectKey, Document]:
    """Of what carries its labels, what is its owner's and kept as it should be."""
    return {
        (kind, item["metadata"]["name"]): {"kind": kind, **item, "metadata": _with_texts(item)}
        for kind in OWNED
        for item in found[kind]
        if is_owned(item, owner)
    }


def _with_texts(item: Document) -> Document:
    """Metadata whose labels and annotations are texts by names, as decisions take them to be."""
    return {**item["metadata"], "labels": labels_of(item), "annotations": notes_of(item)}


def _deployments(objects: Mapping[ObjectKey, Document], configs: Mapping[str, Document]) -> tuple[DeploymentView, ...]:
    found = (deployment_view(d, configs) for (kind, _), d in objects.items() if kind == "Deployment")
    return tuple(view for view in found if view)


def deployment_view(item: Document, configs: Mapping[str, Document]) -> DeploymentView | None:
    """A Deployment as decisions see it, with what its pods were made to run and what they were changed to.

    What its pods are labelled with counts, for that cannot be changed. None where they have no revision: nobody can say
    what it runs, and no Service selects it by that.
    """
    name, labels, notes = item["metadata"]["name"], labels_of(item) | labels_of_pods(item), notes_of(item)
    if not labels.get(REVISION):
        return None
    loading = _loading(configs.get(generation_name(name)))
    return DeploymentView(
        name=name,
        revision=labels[REVISION],
        version=loading.version if loading else labels.get(MODEL_VERSION, ""),
        shape=parsed(SHAPES, notes.get(SHAPE)),
        config=parsed(CONFIGS, data_of(configs.get(name)).get(CONFIG_FILE)) or parsed(CONFIGS, notes.get(CONFIG)),
        loading=loading,
        restarts=parsed(MOMENTS, notes.get(RESTARTS)) or (),
        restarted_by=notes.get(RESTARTED_BY, ""),
        size=int(size) if (size := notes.get(SIZE, "")).isdecimal() and len(size) < 5 else None,
        replicas=item["spec"].get("replicas", 1),
        trouble=refusal(item),
        activated_at=moment(notes.get(ACTIVATED_AT)),
        retired_at=moment(notes.get(RETIRED_AT)),
    )


def refusal(item: Document) -> Trouble | None:
    """What the API server says to a Deployment's pods, where it takes no more of them."""
    refused = _condition(item, "ReplicaFailure")
    return Trouble(Reason.PODS_REFUSED, text(refused.get("message"))) if refused else None


def _loading(item: Document | None) -> Loading | None:
    data = data_of(item)
    config = parsed(CONFIGS, data.get(CONFIG_FILE))
    if config is None:
        return None
    at, previous = moment(data.get(AT)) or 0.0, parsed(CONFIGS, data.get(PREVIOUS_FILE))
    return Loading(config.revision, config.model.version, config, at, previous, Memory.parse(data.get(MEMORY_FILE)))


def pod_view(item: Document) -> PodView:
    """A pod as decisions see it."""
    meta, status = item["metadata"], mapping(item.get("status"))
    ready = _condition(item, "Ready") is not None
    failure = None if ready else _failure(status)
    return PodView(
        name=meta["name"],
        revision=labels_of(item).get(REVISION, ""),
        ready=ready,
        ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        ip=text(status.get("podIP")) or None,
        failure=failure,
        failures=max((_failures(c) for c in _containers(status)), default=0),
        trouble=None if ready or failure else _trouble(status),
    )


def _containers(status: Document) -> list[Document]:
    return [*entries(status.get("initContainerStatuses")), *entries(status.get("containerStatuses"))]


def _ended(container: Document, state: str) -> Document:
    """How a container ended that stands in this state."""
    return mapping(mapping(container.get(state)).get("terminated"))


def _failures(container: Document) -> int:
    """How often it has ended, this time included: a restart is counted only when it begins, after a wait."""
    count, state = container.get("restartCount"), mapping(container.get("state"))
    has_ended = "terminated" in state or "terminated" in mapping(container.get("lastState"))
    return (count if isinstance(count, int) else 0) + (has_ended and "running" not in state)


def _failure(status: Document) -> Failure | None:
    """What the program's container said when it last gave up."""
    ended = (_ended(container, state) for container in _containers(status) for state in ("state", "lastState"))
    said = (Failure.parse(text(end.get("message"))) for end in ended)
    return next((failure for failure in said if failure), None)


def _trouble(status: Document) -> Trouble | None:
    """What the scheduler or the kubelet says."""
    unscheduled = _condition({"status": status}, "PodScheduled", "False")
    if unscheduled:
        return Trouble(Reason.UNSCHEDULABLE, text(unscheduled.get("message")))
    return next((t for t in map(_container_trouble, _containers(status)) if t), None)


def _container_trouble(container: Document) -> Trouble | None:
    waiting = mapping(mapping(container.get("state")).get("waiting"))
    reason, message = text(waiting.get("reason")), text(waiting.get("message"))
    if reason in IMAGE_REASONS:
        return Trouble(Reason.IMAGE_NOT_PULLED, f"{container.get('image')}: {message}")
    if reason == "CreateContainerConfigError":
        return Trouble(Reason.SECRET_NOT_FOUND, message)
    if reason == "CrashLoopBackOff":
        code = _ended(container, "lastState").get("exitCode")
        return Trouble(Reason.CRASHED, f"container {container.get('name')} ended with code {code}; see its log")
    return None


def preview_ready(slices: list[Document], service: str, pods: tuple[PodView, ...]) -> dict[str, int]:
    """Ready endpoints of the preview Service, by the revision of the pod behind each."""
    revision_of = {pod.name: pod.revision for pod in pods}
    seen: dict[str, set[str]] = {}
    for item in slices:
        if labels_of(item).get(SERVICE_NAME) != service:
            continue
        for endpoint in entries(item.get("endpoints")):
            pod = text(mapping(endpoint.get("targetRef")).get("name"))
            if pod in revision_of and mapping(endpoint.get("conditions")).get("ready"):
                seen.setdefault(revision_of[pod], set()).add(pod)
    return {revision: len(names) for revision, names in seen.items()}
