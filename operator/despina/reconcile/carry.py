"""What passes over programs and over tools have in common: carrying actions out, and writing status."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from despina.api import API_VERSION
from despina.api.base import Owner
from despina.api.conditions import Condition, ConditionStatus, Reason, Type
from despina.api.status import Memory
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import ClusterError, Conflict, Gone, Refused
from despina.cluster.execute import execute
from despina.cluster.observe import Unreadable
from despina.cluster.reading import entries, mapping
from despina.decide.observed import ObjectKey
from despina.decide.plan import Action, Apply, Chain, Create, Delete, Emit, MoveAlias, Outcome, Restart, Tag, Tell
from despina.decide.quarantine import timestamp
from despina.telemetry import WRITES_REFUSED

log = logging.getLogger(__name__)
REFUSED_AGAIN_SECONDS = 30.0
SILENT_AGAIN_SECONDS = 5.0
CONFLICT_AGAIN_SECONDS = 0.2


def _nobody(_: Tell | MoveAlias | Tag) -> None:
    """Tools' pods take no orders, and tools have no model."""


@dataclass
class Carrier:
    """Carries actions out. What is refused, put off or out of date is noted and keeps nothing else from happening, but
    for the rest of its own chain, and for whatever is of a kind that the API server does not answer for now. What is to
    be said is kept until the status is written."""

    owner: Owner
    objects: Mapping[ObjectKey, Any]
    cluster: Cluster
    tell: Callable[[Tell], None] = _nobody
    """Takes orders to pods."""
    versions: dict[ObjectKey, str] = field(default_factory=dict)
    mark: Callable[[MoveAlias | Tag], None] = _nobody
    """Takes what is to be written into the model registry."""
    error: str | None = None
    silence: str | None = None
    again: float | None = None
    conflicts: int = 0
    """In how many passes in a row, until now, the API server had something else than this operator had read."""
    is_outdated: bool = False
    recorded: Memory | None = None
    _to_say: list[Emit] = field(default_factory=list)
    _silent: set[str] = field(default_factory=set)

    async def carry_out(self, actions: Iterable[Action]) -> bool:
        """All of them, in their order; whether each went well."""
        done = [await self._try(action) for action in actions]
        return all(done)

    async def say(self, events: Iterable[Emit]) -> None:
        """Write the Events of what was carried out, and these. One that cannot be written is counted and never more."""
        for event in (*self._to_say, *events):
            await self._write(event)
        self._to_say.clear()

    async def _try(self, action: Action) -> bool:
        if isinstance(action, Chain):
            for link in action.actions:
                if not await self._try(link):
                    return False
            return True
        if isinstance(action, Tell):
            self.tell(action)
            return True
        if isinstance(action, MoveAlias | Tag):
            self.mark(action)
            return True
        if isinstance(action, Emit):
            self._to_say.append(action)
            return True
        return await self._write(action)

    async def _write(self, action: Action) -> bool:
        kind = kind_of_write(action)
        if kind in self._silent:
            return False
        owner = self.owner
        log.info("Acted %s=%s/%s action=%s", owner.kind, owner.namespace, owner.name, _label(action))
        try:
            await execute(action, owner, self.objects, self.versions, self.cluster)
        except ClusterError as exc:
            WRITES_REFUSED.labels(kind, type(exc).__name__).inc()
            if not isinstance(action, Emit):
                self._note(exc, kind)
            return False
        if isinstance(action, Apply | Restart) and action.memory:
            self.recorded = action.memory
        return True

    def _note(self, exc: ClusterError, kind: str) -> None:
        match exc:
            case Conflict() | Gone():
                self.is_outdated = True
                self._soon(min(CONFLICT_AGAIN_SECONDS * 2.0 ** min(self.conflicts, 10), REFUSED_AGAIN_SECONDS))
            case Refused():
                self.error = self.error or str(exc)[:1024]
                self._soon(REFUSED_AGAIN_SECONDS)
            case _:
                self.silence = self.silence or str(exc)[:1024]
                self._silent.add(kind)
                self._soon(SILENT_AGAIN_SECONDS)

    def _soon(self, seconds: float) -> None:
        self.again = min(self.again or seconds, seconds)

    @property
    def outcome(self) -> Outcome:
        """How far the plan got."""
        return Outcome(self.error, self.silence, self.recorded)


def kind_of_write(action: Action) -> str:
    """What the API server may be silent about, or refuse, by itself."""
    match action:
        case Create(document) | Apply(document):
            return str(document["kind"])
        case Delete((kind, _)):
            return kind
        case Emit():
            return "Event"
    return "Deployment"


async def write_status(cluster: Cluster, manifest: Document, status: Document) -> float | None:
    """Write the status if it says anything new: at rest, nothing is written. Returns when to try again, in seconds, if
    it was not taken; a manifest that changed meanwhile is looked at again."""
    if status == manifest.get("status"):
        return None
    meta, kind = manifest["metadata"], manifest["kind"]
    identity = {"name": meta["name"], "namespace": meta["namespace"], "resourceVersion": meta.get("resourceVersion")}
    document = {"apiVersion": API_VERSION, "kind": kind, "metadata": identity, "status": status}
    try:
        await cluster.apply_status(document)
    except Gone:
        log.info("It went away %s=%s/%s", kind, meta["namespace"], meta["name"])
    except Conflict:
        return CONFLICT_AGAIN_SECONDS
    except ClusterError as exc:
        WRITES_REFUSED.labels(f"{kind}/status", type(exc).__name__).inc()
        log.warning("Status was not written %s=%s/%s error=%s", kind, meta["namespace"], meta["name"], exc)
        return REFUSED_AGAIN_SECONDS if isinstance(exc, Refused) else SILENT_AGAIN_SECONDS
    return None


async def report_failure(cluster: Cluster, manifest: Document, reason: Reason, message: str, now: float) -> None:
    """A pass that could not be made: what runs goes on, and a condition says what is the matter."""
    await _mark(cluster, manifest, Type.RECONCILED, reason, message, now)


async def report_unreadable(cluster: Cluster, manifest: Document, found: Unreadable, now: float) -> None:
    """A spec that passed an older CRD: what runs goes on, and the conditions say what to mend."""
    await _mark(cluster, manifest, Type.READY, Reason.INVALID_SPEC, found.message, now)


async def _mark(cluster: Cluster, manifest: Document, kind: Type, reason: Reason, message: str, now: float) -> None:
    """One condition is False; the rest of the status stays as it is."""
    status = mapping(manifest.get("status"))
    conditions = entries(status.get("conditions"))
    generation = manifest["metadata"].get("generation", 0)
    old: Document = next((c for c in conditions if c.get("type") == kind), {})
    mark = Condition(
        type=kind,
        status=ConditionStatus.FALSE,
        reason=reason,
        message=message,
        last_transition_time=timestamp(now),
        observed_generation=generation,
    )
    if (old.get("reason"), old.get("message")) == (mark.reason, mark.message):
        return
    rest = [c for c in conditions if c.get("type") != kind]
    seen = {"observedGeneration": generation} if kind == Type.READY else {}
    await write_status(cluster, manifest, {**status, **seen, "conditions": [mark.dump(), *rest]})


def _label(action: object) -> str:
    """An action for the log, without any document's content."""
    document = getattr(action, "document", None)
    if document:
        return f"{type(action).__name__}({document['kind']}/{document['metadata']['name']})"
    return str(action)
