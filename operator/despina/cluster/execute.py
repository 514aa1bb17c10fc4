"""Carrying out one action of a plan."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

from despina.api import API_VERSION
from despina.api.base import Owner
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import Conflict, Refused
from despina.cluster.reading import is_owned, labels_of
from despina.decide.observed import ObjectKey
from despina.decide.plan import Action, Annotate, Apply, Create, Delete, Emit, Restart, Scale
from despina.desired.labels import RESTARTED_AT

Versions = dict[ObjectKey, str]
"""The resourceVersions that a pass has seen, kept up to date as it writes: what it decided on may be out of date, and
the API server refuses its writes then."""
Objects = Mapping[ObjectKey, Any]
ABSENT = "1"
"""The version of what is not there: an API server makes what it does not have, whatever version is given, and no object
has this one, for etcd's first write is its second."""


async def execute(action: Action, owner: Owner, objects: Objects, versions: Versions, cluster: Cluster) -> None:
    """One write. Orders to pods and what a model registry is told are not the API server's business, and are left to
    `sources`."""
    match action:
        case Create(document):
            await _create(document, owner, cluster)
        case Apply(document):
            await _apply(document, owner, objects, versions, cluster)
        case Scale() | Annotate() | Restart():
            await _change(action, owner, versions, cluster)
        case Delete((kind, name)):
            await cluster.delete(kind, owner.namespace, name, versions.get((kind, name)))
        case Emit():
            await emit(action, owner, cluster)


async def _change(action: Scale | Annotate | Restart, owner: Owner, versions: Versions, cluster: Cluster) -> None:
    key = ("Deployment", action.deployment)
    where = (owner.namespace, action.deployment, versions.get(key))
    match action:
        case Scale():
            after = await cluster.scale(*where, action.replicas)
        case Annotate():
            after = await cluster.annotate(*where, action.annotations)
        case Restart():
            after = await cluster.restart(*where, {RESTARTED_AT: repr(action.at)}, action.annotations)
    versions[key] = after["metadata"].get("resourceVersion", "")


async def _create(document: Document, owner: Owner, cluster: Cluster) -> None:
    """An earlier pass may have made it and been cut off before the next step; that is as good, if it can be seen."""
    try:
        await cluster.create(document)
    except Conflict:
        found = await _refuse_if_foreign(document, owner, cluster)
        if found is None or await _labelled(document, found, owner, cluster):
            raise  # a quota, say, was counted anew at the same time; or the next pass sees it


async def _apply(document: Document, owner: Owner, objects: Objects, versions: Versions, cluster: Cluster) -> None:
    """Apply, but never over an object of the same name that is somebody else's, nor over one that came meanwhile.

    One of our own that lost its labels was not seen, and may hold what must not be forgotten: it gets its labels back,
    and the next pass decides upon it.
    """
    key = (document["kind"], document["metadata"]["name"])
    seen = versions.get(key) or (None if key in objects else ABSENT)
    try:
        after = await _applied(_at(document, seen), cluster)
    except Conflict:
        if seen != ABSENT:
            raise
        found = await _refuse_if_foreign(document, owner, cluster)
        if found is not None:
            await _labelled(document, found, owner, cluster)
        raise
    versions[key] = after["metadata"].get("resourceVersion", "")


async def _labelled(document: Document, found: Document, owner: Owner, cluster: Cluster) -> bool:
    """Give an object its labels back, by which lists have it; whether any were missing."""
    labels, name = labels_of(document), document["metadata"]["name"]
    if labels.items() <= labels_of(found).items():
        return False
    await cluster.label(document["kind"], owner.namespace, name, found["metadata"]["resourceVersion"], labels)
    return True


def _at(document: Document, version: str | None) -> Document:
    """The document, to be written over this version only."""
    meta = document["metadata"] | ({"resourceVersion": version} if version else {})
    return {**document, "metadata": meta}


async def _applied(document: Document, cluster: Cluster) -> Document:
    """A Service that was deleted gets its addresses back, unless somebody else has them by now."""
    try:
        return await cluster.apply(document)
    except Refused:
        spec = document.get("spec", {})
        if document["kind"] != "Service" or "clusterIPs" not in spec:
            raise
        spec = {name: value for name, value in spec.items() if name not in ("clusterIP", "clusterIPs")}
        return await cluster.apply({**document, "spec": spec})


async def _refuse_if_foreign(document: Document, owner: Owner, cluster: Cluster) -> Document | None:
    kind, name = document["kind"], document["metadata"]["name"]
    found = await cluster.get(kind, owner.namespace, name)
    if found is not None and not is_owned(found, owner):
        raise Refused(f"{kind} {owner.namespace}/{name} exists and is not this {owner.kind}'s: rename one of them")
    return found


async def emit(event: Emit, owner: Owner, cluster: Cluster) -> None:
    """An Event on the object that it is about."""
    now = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{owner.name}.{uuid.uuid4().hex[:16]}", "namespace": owner.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": owner.kind,
                "name": owner.name,
                "namespace": owner.namespace,
                "uid": owner.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": "despina"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
    )
