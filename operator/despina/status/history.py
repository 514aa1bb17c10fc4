"""Which versions callers reached, in what order, and why they came and went."""

from __future__ import annotations

from despina.api.status import HistoryEntry
from despina.decide.observed import Observed
from despina.decide.quarantine import TAKEN_BACK

LIMIT = 10
SERVING = "Serving"


def history(o: Observed, now: str) -> tuple[HistoryEntry, ...]:
    """The list with what callers reach now as its last entry."""
    before = o.status.history
    view = o.deployment(o.active)
    if view is None or (before and before[-1].revision == view.serves):
        return before
    entry = HistoryEntry(
        revision=view.serves, version=view.version, activated_at=now, trigger=_trigger(o, view.version), outcome=SERVING
    )
    return (*before[:-1], *(_ended(o, last) for last in before[-1:]), entry)[-LIMIT:]


def _trigger(o: Observed, version: str) -> str:
    last = o.status.history[-1] if o.status.history else None
    if o.program.spec.rollout.rollback_to is not None or (last and _is_taken_back(o, last)):
        return "Rollback"
    if last and last.version == version:
        return "Spec"
    return "Alias" if o.program.spec.source.mlflow.alias else "Spec"


def _ended(o: Observed, entry: HistoryEntry) -> HistoryEntry:
    outcome = "RolledBack" if _is_taken_back(o, entry) else "Superseded"
    return entry.model_copy(update={"outcome": outcome})


def _is_taken_back(o: Observed, entry: HistoryEntry) -> bool:
    return any(q.version == entry.version and q.reason in TAKEN_BACK for q in o.status.model.quarantined)
