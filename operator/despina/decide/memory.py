"""What must not be forgotten, and which annotations ask for something that was not done yet.

Two copies are kept, one in the status and one on what leads callers; the one with the highest number counts, whole. So
a status that was lost, damaged or not written in time takes nothing with it, and what moved callers is on record with
the same write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from despina.api.status import LAST_SERIAL, Memory, ProgramStatus, Promotion, Quarantined
from despina.decide.observed import Observed
from despina.desired.labels import ABORT, MEMORY, OPTIMIZE, PROMOTE, RESTART, RETRY

ASKING = {"promote": PROMOTE, "abort": ABORT, "retry": RETRY, "restart": RESTART, "optimize": OPTIMIZE}
LONGEST = 253


def recall(o: Observed) -> Memory | None:
    """The latest copy; None where nothing was ever noted, or all is lost."""
    service = o.objects.get(("Service", o.program.name)) or {}
    notes = (service.get("metadata") or {}).get("annotations") or {}
    copies = [Memory.parse(notes.get(MEMORY)), *(view.loading.memory for view in o.deployments if view.loading)]
    copies.append(_of_status(o.status))  # last, for it is read as far as it can be, and may have lost something
    return max((c for c in copies if c), key=lambda c: c.serial, default=None)


def _of_status(status: ProgramStatus) -> Memory | None:
    if not (status.serial or status.handled or status.model.quarantined):
        return None
    candidate = status.candidate
    rollout = status.rollout if candidate and status.rollout and status.rollout.id == candidate.revision else None
    return Memory(
        serial=max(1, status.serial),
        handled=status.handled,
        quarantined=status.model.quarantined,
        rollout_id=rollout.id if rollout else None,
        rollout_started_at=rollout.started_at if rollout else None,
        promotion=status.promotion,
    )


def asking(o: Observed) -> dict[str, str]:
    """The annotations that ask for something, by what they ask for."""
    notes = o.program.annotations
    return {kind: notes[name][:LONGEST] for kind, name in ASKING.items() if notes.get(name)}


def fresh(o: Observed, memory: Memory | None) -> Mapping[str, str]:
    """Those that were not acted on yet. Where no record is left, all that are there count as handled."""
    if memory is None:
        return {}
    return {kind: value for kind, value in asking(o).items() if memory.handled.get(kind) != value}


def handled(o: Observed, pending: Collection[str]) -> dict[str, str]:
    """The record after this pass, without what still waits for its moment. What was replaced or taken away is dropped,
    so that the same value may ask again."""
    return {kind: value for kind, value in asking(o).items() if kind not in pending}


def remembered(
    memory: Memory | None,
    handled: Mapping[str, str],
    quarantined: tuple[Quarantined, ...],
    rollout: tuple[str, str] | None,
    promotion: Promotion | None,
) -> Memory:
    """What is to be kept from now on; a new number if it differs from what was."""
    number = memory.serial if memory else 0
    after = Memory(
        serial=max(number, 1),
        handled=dict(handled),
        quarantined=quarantined,
        rollout_id=rollout[0] if rollout else None,
        rollout_started_at=rollout[1] if rollout else None,
        promotion=promotion,
    )
    return after if after == memory else after.model_copy(update={"serial": _next(number)})


def sent_along(memory: Memory, promotion: Promotion | None) -> Memory:
    """The copy that goes with the write that sends callers elsewhere. Its number is the higher one: it counts if, and
    only if, that write was made; the status says the same then."""
    if promotion is None:
        return memory
    return memory.model_copy(update={"serial": _next(memory.serial), "promotion": promotion})


def acted_on(memory: Memory, kind: str, value: str) -> Memory:
    """The record once that was done: another word may come before the next pass, and then this one again."""
    return memory.model_copy(update={"serial": _next(memory.serial), "handled": {**memory.handled, kind: value}})


def _next(number: int) -> int:
    """Nobody counts as far as the last number, but anybody can write it down. It is kept from then on, and of copies
    that have it the one on the Service counts, which is written in every pass that changes it."""
    return min(number + 1, LAST_SERIAL)
