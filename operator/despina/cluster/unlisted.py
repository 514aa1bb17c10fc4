"""Own objects that no list has, for somebody took their labels away. They are found by their names and get their labels
back before anything is decided: without them, a decision would be about something else than what is there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from despina.api.base import is_object_name
from despina.api.program import Program
from despina.api.status import ProgramStatus
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import ClusterError
from despina.cluster.reading import is_owned, labels_of, mapping, text
from despina.decide.observed import ObjectKey
from despina.desired.config import generation_name
from despina.desired.labels import MODEL_VERSION, REVISION, program_labels

log = logging.getLogger(__name__)
Lists = Mapping[str, list[Document]]
MOST_DEPLOYMENTS = 5
"""Anybody who may make a pod can give it the label of a revision."""


async def with_unlisted(cluster: Cluster, program: Program, status: ProgramStatus, found: Lists) -> Lists:
    """The lists, with what should be there and was not found; one such thing may name another."""
    asked: set[ObjectKey] = set()
    while keys := [key for key in missing(program, status, found) if key not in asked]:
        asked |= set(keys)
        for kind, name in keys:
            item = await cluster.get(kind, program.namespace, name)
            if item and is_owned(item, program):
                found = {**found, kind: [*found[kind], await _labelled(cluster, program, kind, item)]}
    return found


def missing(program: Program, status: ProgramStatus, found: Lists) -> list[ObjectKey]:
    """What leads callers, what has pods, and what those were changed to: where it is in no list."""
    listed = {kind: {item["metadata"]["name"] for item in items} for kind, items in found.items()}
    known = [entry for entry in (status.active, status.previous) if entry]
    revisions = {labels_of(pod).get(REVISION, "") for pod in found["Pod"]} | _selected(program, found["Service"])
    deployments = {f"{program.name}-{revision}" for revision in revisions} | {entry.deployment for entry in known[:1]}
    changed = {entry.deployment for entry in known if entry.deployment != f"{program.name}-{entry.revision}"}
    wanted: list[ObjectKey] = [("Deployment", name) for name in _first(deployments - listed["Deployment"])]
    wanted += [("ConfigMap", generation_name(name)) for name in _first(changed & (deployments | listed["Deployment"]))]
    wanted += [("Service", program.name)] if deployments or listed["Deployment"] else []
    return [(kind, name) for kind, name in wanted if name not in listed[kind]]


def _selected(program: Program, services: Iterable[Document]) -> set[str]:
    """The revision whose pods callers reach."""
    own = (item for item in services if item["metadata"]["name"] == program.name)
    return {text(mapping(mapping(item.get("spec")).get("selector")).get(REVISION)) for item in own}


def _first(names: Iterable[str]) -> list[str]:
    return sorted(filter(is_object_name, names))[:MOST_DEPLOYMENTS]


async def _labelled(cluster: Cluster, program: Program, kind: str, item: Document) -> Document:
    """The object with its labels, also where nobody lets them be written."""
    meta, labels = item["metadata"], program_labels(program)
    if kind == "Deployment":  # its pods have the same, and there they cannot be changed
        of_pods = labels_of(mapping(mapping(item.get("spec")).get("template")))
        labels |= {name: of_pods[name] for name in (REVISION, MODEL_VERSION) if name in of_pods}
    try:
        return await cluster.label(kind, program.namespace, meta["name"], meta["resourceVersion"], labels)
    except ClusterError as exc:
        log.info("Labels were not written back %s=%s/%s error=%s", kind, program.namespace, meta["name"], exc)
        return {**item, "metadata": meta | {"labels": labels_of(item) | labels}}
