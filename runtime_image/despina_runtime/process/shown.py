"""What is served without a cluster, told as an operator would tell of it: a manifest with a status (pure)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from despina.api import API_VERSION
from despina.api.conditions import Condition, ConditionStatus, Reason, Type
from despina.api.program import Program
from despina.api.status import HistoryEntry, ModelStatus, ProgramStatus, Quarantined, RevisionStatus
from despina.wire import Failure

UID = "without-a-cluster"
SERVING = "Serving"
LONGEST_HISTORY = 10


def stamp(at: float) -> str:
    """A moment as manifests have it."""
    return datetime.datetime.fromtimestamp(at, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def switched(
    history: Sequence[HistoryEntry], revision: str, version: str, trigger: str, at: float
) -> list[HistoryEntry]:
    """What callers reached so far, and from now on."""
    before = [entry.model_copy(update={"outcome": "Superseded"}) for entry in history]
    entry = HistoryEntry(revision=revision, version=version, activated_at=stamp(at), trigger=trigger, outcome=SERVING)
    return [*before, entry][-LONGEST_HISTORY:]


def quarantined(version: str, failure: Failure, at: float) -> Quarantined:
    """A version that cannot be served."""
    return Quarantined(version=version, reason=failure.reason, message=failure.message, at=stamp(at))


def document(
    program: Program, history: Sequence[HistoryEntry], failed: Quarantined | None, problem: str, began: float
) -> dict[str, Any]:
    """The manifest with its status. `problem`: why it is not known which version is meant, if it is not."""
    last = history[-1] if history else None
    since = last.activated_at if last else stamp(began)
    told = [_ready(last, problem), _resolved(problem), *([_up_to_date(failed)] if last else [])]
    status = ProgramStatus(
        conditions=tuple(Condition(**one, last_transition_time=since) for one in told),
        replicas=1,
        ready_replicas=1 if last else 0,
        model=ModelStatus(quarantined=(failed,) if failed else ()),
        active=RevisionStatus(revision=last.revision, version=last.version, deployment=UID) if last else None,
        history=tuple(history),
    )
    return {
        "apiVersion": API_VERSION,
        "kind": Program.kind,
        "metadata": {"name": program.name, "namespace": program.namespace, "uid": UID},
        "spec": program.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "status": status.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }


def _ready(last: HistoryEntry | None, problem: str) -> dict[str, Any]:
    if last:
        said = ConditionStatus.TRUE, Reason.SERVING, f"version {last.version} serves"
    else:
        said = ConditionStatus.FALSE, Reason.STARTING, problem or "the first version is loaded"
    return _condition(Type.READY, *said)


def _resolved(problem: str) -> dict[str, Any]:
    if problem:
        return _condition(Type.MODEL_RESOLVED, ConditionStatus.UNKNOWN, Reason.REGISTRY_UNREACHABLE, problem)
    return _condition(Type.MODEL_RESOLVED, ConditionStatus.TRUE, Reason.MODEL_FOUND, "")


def _up_to_date(failed: Quarantined | None) -> dict[str, Any]:
    if failed is None:
        return _condition(Type.UP_TO_DATE, ConditionStatus.TRUE, Reason.UP_TO_DATE, "")
    message = f"version {failed.version} is not served: {failed.reason}: {failed.message}"
    return _condition(Type.UP_TO_DATE, ConditionStatus.FALSE, Reason.VERSION_QUARANTINED, message)


def _condition(kind: Type, status: ConditionStatus, reason: Reason, message: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}
