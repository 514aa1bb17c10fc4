"""What passes over programs and over tools have in common: carrying actions out, and writing status."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from despina.api import API_VERSION
from despina.api.base import Owner
from despina.api.conditions import Condition, ConditionStatus, Reason, Type
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import Conflict, Gone, Refused
from despina.cluster.execute import execute
from despina.cluster.observe import Unreadable
from despina.decide.observed import ObjectKey
from despina.decide.plan import Action, Outcome, Tell
from despina.decide.quarantine import timestamp

log = logging.getLogger(__name__)
REFUSED_AGAIN_SECONDS = 30.0
CONFLICT_AGAIN_SECONDS = 0.2


def _no_pods(_: Tell) -> None:
    """Tools' pods take no orders."""


async def carry_out(
    actions: Iterable[Action],
    owner: Owner,
    objects: Mapping[ObjectKey, Any],
    cluster: Cluster,
    tell: Callable[[Tell], None] = _no_pods,
) -> tuple[Outcome, float | None]:
    """All actions in order. A refusal is told in the status; silence of the API server ends the pass.

    Returns how far it got, and when to look again, in seconds, if that is soon.
    """
    for action in actions:
        if isinstance(action, Tell):
            tell(action)
            continue
        log.info("Acted %s=%s/%s action=%s", owner.kind, owner.namespace, owner.name, _label(action))
        try:
            await execute(action, owner, objects, cluster)
        except Refused as exc:
            return Outcome(error=str(exc)[:1024]), REFUSED_AGAIN_SECONDS
        except (Conflict, Gone):
            return Outcome(), CONFLICT_AGAIN_SECONDS
    return Outcome(), None


async def write_status(cluster: Cluster, manifest: Document, status: Document) -> Document:
    """Write the status if it says anything new: at rest, nothing is written. The result is the manifest with it."""
    if status == manifest.get("status"):
        return manifest
    meta, kind = manifest["metadata"], manifest["kind"]
    document = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
        "status": status,
    }
    try:
        await cluster.apply_status(document)
    except Gone:
        log.info("It went away %s=%s/%s", kind, meta["namespace"], meta["name"])
    return {**manifest, "status": status}


async def report_unreadable(cluster: Cluster, manifest: Document, found: Unreadable, now: float) -> None:
    """A spec that passed an older CRD: what runs goes on, and the conditions say what to mend."""
    status: Document = manifest.get("status") or {}
    conditions: list[Document] = status.get("conditions") or []
    generation = manifest["metadata"].get("generation", 0)
    mark = Condition(
        type=Type.READY,
        status=ConditionStatus.FALSE,
        reason=Reason.INVALID_SPEC,
        message=found.message[:4096],
        last_transition_time=timestamp(now),
        observed_generation=generation,
    )
    old: Document = next((c for c in conditions if c["type"] == Type.READY), {})
    if (old.get("reason"), old.get("message")) == (mark.reason, mark.message):
        return
    rest = [c for c in conditions if c["type"] != Type.READY]
    await write_status(
        cluster, manifest, {**status, "conditions": [mark.dump(), *rest], "observedGeneration": generation}
    )


def _label(action: object) -> str:
    """An action for the log, without any document's content."""
    document = getattr(action, "document", None)
    if document:
        return f"{type(action).__name__}({document['kind']}/{document['metadata']['name']})"
    return str(action)
