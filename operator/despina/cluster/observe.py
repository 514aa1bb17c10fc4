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
from despina.cluster.jobs import jobs_of
from despina.cluster.pods import pod_view
from despina.cluster.reading import (
    as_far_as_readable,
    condition,
    data_of,
    entries,
    is_owned,
    labels_of,
    labels_of_pods,
    mapping,
    moment,
    notes_of,
    parsed,
    text,
)
from despina.cluster.unlisted import with_unlisted
from despina.decide.observed import (
    DeploymentView,
    JobView,
    Loading,
    ObjectKey,
    OptimizationJobView,
    PodView,
    Trouble,
)
from despina.decide.quarantine import LAST_MOMENT
from despina.desired.config import AT, MEMORY_FILE, PREVIOUS_FILE, generation_name
from despina.desired.labels import (
    ACTIVATED_AT,
    CONFIG,
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
from despina.desired.toolbox import toolbox_name
from despina.wire import CONFIG_FILE, TOOLS_FILE, RuntimeConfig

OWNED = ("Deployment", "Service", "ServiceAccount", "HorizontalPodAutoscaler", "PodDisruptionBudget")
SERVICE_NAME = "kubernetes.io/service-name"
SHAPES = TypeAdapter(dict[str, str])
MOMENTS = TypeAdapter(tuple[Annotated[float, Field(ge=0, le=LAST_MOMENT)], ...])
CONFIGS = TypeAdapter(RuntimeConfig)


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
    optimizations: tuple[OptimizationJobView, ...]


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
    jobs, optimizations = await jobs_of(cluster, program, [j for j in found["Job"] if is_owned(j, program)])
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
        jobs=jobs,
        optimizations=optimizations,
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
    refused = condition(item, "ReplicaFailure")
    return Trouble(Reason.PODS_REFUSED, text(refused.get("message"))) if refused else None


def _loading(item: Document | None) -> Loading | None:
    data = data_of(item)
    config = parsed(CONFIGS, data.get(CONFIG_FILE))
    if config is None:
        return None
    at, previous = moment(data.get(AT)) or 0.0, parsed(CONFIGS, data.get(PREVIOUS_FILE))
    return Loading(config.revision, config.model.version, config, at, previous, Memory.parse(data.get(MEMORY_FILE)))


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
