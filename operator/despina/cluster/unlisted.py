"""Own objects that no list has, for somebody took their labels away. They are found by their names and get their labels
back before anything is decided: without them, a decision would be about something else than what is there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from despina.api.base import is_object_name
from despina.api.program import Program
from despina.api.status import Memory, ProgramStatus
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import ClusterError
from despina.cluster.reading import is_owned, labels_of, mapping, notes_of, text
from despina.decide.observed import ObjectKey
from despina.desired.config import generation_name
from despina.desired.labels import MEMORY, REVISION, program_labels
from despina.desired.optimization import optimization_prefix

log = logging.getLogger(__name__)
Lists = Mapping[str, list[Document]]
MOST_OTHERS = 5
"""Beside what callers reach: anybody who may make a pod can give it the label of a revision."""


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
    """What leads callers, what has pods, what those were changed to, and what spends money: where it is in no list."""
    listed = {kind: {item["metadata"]["name"] for item in items} for kind, items in found.items()}
    known = [entry for entry in (status.active, status.previous, status.candidate) if entry]
    led = {f"{program.name}-{base}" for base in _selected(program, found["Service"])}
    reached = led | ({status.active.deployment} if status.active else set())
    others = {f"{program.name}-{labels_of(pod).get(REVISION, '')}" for pod in found["Pod"]} - reached
    changed = {entry.deployment for entry in known if entry.deployment != f"{program.name}-{entry.revision}"}
    changed |= led if _is_swapped(program, found["Service"]) else set()
    changed &= reached | others | listed["Deployment"]
    wanted: list[ObjectKey] = [("Deployment", name) for name in (*_names(reached), *_names(others)[:MOST_OTHERS])]
    wanted += [("ConfigMap", generation_name(name)) for name in _names(changed)]
    wanted += [("Service", program.name)] if reached or others or listed["Deployment"] else []
    wanted += _under_way(program, status)
    return [(kind, name) for kind, name in wanted if name not in listed[kind]]


def _under_way(program: Program, status: ProgramStatus) -> list[ObjectKey]:
    """The optimisation that goes on as far as is known: were it not seen, another one would begin beside it."""
    run = status.optimization.run if status.optimization else None
    is_named = run is not None and run.job.startswith(optimization_prefix(program)) and is_object_name(run.job)
    return [("Job", run.job)] if run and is_named and run.finished_at is None else []


def _own(program: Program, services: Iterable[Document]) -> list[Document]:
    """What leads callers to the program."""
    return [item for item in services if item["metadata"]["name"] == program.name]


def _selected(program: Program, services: Iterable[Document]) -> set[str]:
    """The label of the pods that callers reach."""
    own = _own(program, services)
    return {text(mapping(mapping(item.get("spec")).get("selector")).get(REVISION)) for item in own}


def _is_swapped(program: Program, services: Iterable[Document]) -> bool:
    """Whether the Service remembers that callers came to what they reach by a swap: the status may be lost."""
    memories = [Memory.parse(notes_of(item).get(MEMORY)) for item in _own(program, services)]
    bases = _selected(program, services)
    return any(m.promotion.revision not in bases for m in memories if m and m.promotion)


def _names(found: Iterable[str]) -> list[str]:
    """Those that can be a Deployment's, and have a generation."""
    return sorted(name for name in found if is_object_name(name) and is_object_name(generation_name(name)))


async def _labelled(cluster: Cluster, program: Program, kind: str, item: Document) -> Document:
    """The object with its labels, also where nobody lets them be written."""
    meta, labels = item["metadata"], program_labels(program)
    try:
        return await cluster.label(kind, program.namespace, meta["name"], meta["resourceVersion"], labels)
    except ClusterError as exc:
        log.info("Labels were not written back %s=%s/%s error=%s", kind, program.namespace, meta["name"], exc)
        return {**item, "metadata": meta | {"labels": labels_of(item) | labels}}
