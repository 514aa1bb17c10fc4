"""Carrying out a plan, action by action, in its order; the first refusal ends the pass."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

from despina.api import API_VERSION
from despina.api.base import Owner
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import Conflict, Refused
from despina.cluster.observe import is_owned
from despina.decide.observed import ObjectKey
from despina.decide.plan import Action, Annotate, Apply, Create, Delete, Emit, Restart, Scale
from despina.desired.labels import RESTARTED_AT


async def execute(action: Action, owner: Owner, objects: Mapping[ObjectKey, Any], cluster: Cluster) -> None:
    """One write. Orders to pods are not the API server's business and are left to `sources`."""
    namespace = owner.namespace
    match action:
        case Create(document):
            await _create(document, owner, cluster)
        case Apply(document):
            await _apply(document, owner, objects, cluster)
        case Scale(deployment, replicas):
            await cluster.scale(namespace, deployment, replicas)
        case Annotate(deployment, annotations):
            await cluster.annotate(namespace, deployment, annotations)
        case Restart(deployment, at, notes):
            await cluster.restart(namespace, deployment, {RESTARTED_AT: repr(at)}, notes)
        case Delete((kind, name)):
            await cluster.delete(kind, namespace, name)
        case Emit():
            await emit(action, owner, cluster)


async def _create(document: Document, owner: Owner, cluster: Cluster) -> None:
    """An earlier pass may have made it and been cut off before the next step; that is as good."""
    try:
        await cluster.create(document)
    except Conflict:
        await _refuse_if_foreign(document, owner, cluster)


async def _apply(document: Document, owner: Owner, objects: Mapping[ObjectKey, Any], cluster: Cluster) -> None:
    """Apply, but never over an object of the same name that is somebody else's."""
    if (document["kind"], document["metadata"]["name"]) not in objects:
        await _refuse_if_foreign(document, owner, cluster)
    await cluster.apply(document)


async def _refuse_if_foreign(document: Document, owner: Owner, cluster: Cluster) -> None:
    kind, name = document["kind"], document["metadata"]["name"]
    found = await cluster.get(kind, owner.namespace, name)
    if found is not None and not is_owned(found, owner):
        raise Refused(f"{kind} {owner.namespace}/{name} exists and is not this {owner.kind}'s: rename one of them")


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
