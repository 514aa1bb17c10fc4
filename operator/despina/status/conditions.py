"""Merging new conditions into old ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from despina.api.conditions import Condition, ConditionStatus, ToolType, Type


@dataclass(frozen=True)
class Finding:
    """A condition as it was found now, before it is compared with what stood there."""

    type: Type | ToolType
    status: bool | None
    reason: str
    message: str = ""

    @property
    def condition_status(self) -> ConditionStatus:
        """True, False, or Unknown for None."""
        if self.status is None:
            return ConditionStatus.UNKNOWN
        return ConditionStatus.TRUE if self.status else ConditionStatus.FALSE


def merge(before: Iterable[Condition], findings: Iterable[Finding], generation: int, now: str) -> tuple[Condition, ...]:
    """The new conditions in the order of the findings; the transition time moves only with the status."""
    old = {c.type: c for c in before}
    return tuple(_merged(old.get(f.type), f, generation, now) for f in findings)


def _merged(old: Condition | None, found: Finding, generation: int, now: str) -> Condition:
    status = found.condition_status
    return Condition(
        type=found.type,
        status=status,
        reason=found.reason,
        message=found.message,
        last_transition_time=old.last_transition_time if old and old.status == status else now,
        observed_generation=generation,
    )
