"""One caller's word on one answer (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from despina_runtime.telemetry.prediction import Prediction, trace_id_of

LONGEST_LABEL = 2**16
"""Bytes of one label as JSON."""
MOST_LABELS = 256
"""In one request."""
LONGEST_FORWARDED = 2**20
"""Bytes that one pod gives another at once. The longest label fits, also where each letter of it was hidden."""
DEEPEST = 32
"""Levels of lists and objects in what was expected, and in inputs and outputs of which a row is made. What is deeper
can be read here, and not by all who read it later."""


def is_deep(value: Any) -> bool:
    """Whether a JSON value has more levels than that."""
    level = [value]
    for _ in range(DEEPEST):
        level = [one for each in level for one in _within(each)]
    return bool(level)


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class Given(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prediction_id: Annotated[str, Field(max_length=256)]
    """As the header `despina-prediction-id` named it."""
    label: Literal["success", "failure"]
    """Whether the answer was right."""
    reason: Annotated[str, Field(max_length=4096)] = ""
    """Why, in words."""
    expected: dict[str, Any] | None = None
    """What the outputs should have been; some of them, or all."""
    source: Annotated[str, Field(max_length=128)] = ""
    """Who says so, by the caller's own account."""


class Label(BaseModel):
    """What is kept of it: a label given again replaces the one before, since it has the same prediction."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prediction: str
    """The name of the answer that it is about."""
    origin: str
    """The prediction whose answer that was."""
    pod: str
    """Who made it."""
    trace_id: str
    at: Annotated[float, Field(allow_inf_nan=False)]
    """When it was given, in seconds since the epoch; the latest counts."""
    label: Literal["success", "failure"]
    reason: str = ""
    expected: dict[str, Any] | None = None
    source: str = ""
    is_trusted: bool = False
    """Whether whoever gave it showed the program's credential for labels."""

    @classmethod
    def of(cls, given: Given, prediction: Prediction, at: float, is_trusted: bool) -> Label:
        """A label as it is kept."""
        return cls(
            prediction=prediction.name,
            origin=prediction.origin,
            pod=prediction.pod,
            trace_id=trace_id_of(prediction.origin),
            at=at,
            label=given.label,
            reason=given.reason,
            expected=given.expected,
            source=given.source,
            is_trusted=is_trusted,
        )


Status = Literal["Stored", "Gone", "Failed"]
"""Stored: it is on disk. Gone: what it is about is not kept any more. Failed: it could not be stored."""


class Reply(BaseModel):
    """What became of one."""

    prediction_id: str
    status: Status
