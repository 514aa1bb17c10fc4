"""Which versions callers reached, in what order, and why they came and went."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from despina.api.revision import source_digest
from despina.api.status import HistoryEntry, Quarantined
from despina.decide.observed import Observed
from despina.decide.quarantine import TAKEN_BACK
from despina.decide.versions import model_of
from despina.wire import ModelRef

LIMIT = 10
SERVING = "Serving"


def history(o: Observed, entries: Collection[Quarantined], now: str) -> tuple[HistoryEntry, ...]:
    """The list with what callers reach now as its last entry. `entries` tell which versions had to be taken back."""
    before = o.status.history
    view = o.deployment(o.active)
    if view is None or (before and before[-1].revision == view.serves):
        return before
    model = model_of(o, view)
    entry = HistoryEntry(
        revision=view.serves,
        activated_at=now,
        trigger=_trigger(o, model.version, entries),
        outcome=SERVING,
        **identity(model),
    )
    return (*before[:-1], *(_ended(last, entries) for last in before[-1:]), entry)[-LIMIT:]


def identity(model: ModelRef) -> dict[str, Any]:
    """What a record says of a version, so that it is found again by it."""
    return {"version": model.version, "created_at": model.created_at, "source": source_digest(model)}


def _trigger(o: Observed, version: str, entries: Collection[Quarantined]) -> str:
    last = o.status.history[-1] if o.status.history else None
    if o.program.spec.rollout.rollback_to is not None or (last and _is_taken_back(last, entries)):
        return "Rollback"
    if last and last.version == version:
        return "Spec"
    return "Alias" if o.program.spec.source.mlflow.alias else "Spec"


def _ended(entry: HistoryEntry, entries: Collection[Quarantined]) -> HistoryEntry:
    outcome = "RolledBack" if _is_taken_back(entry, entries) else "Superseded"
    return entry.model_copy(update={"outcome": outcome})


def _is_taken_back(entry: HistoryEntry, entries: Collection[Quarantined]) -> bool:
    return any(
        q.version == entry.version and q.revision in (None, entry.revision) and q.reason in TAKEN_BACK for q in entries
    )
