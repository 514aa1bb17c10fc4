"""One caller's word on one answer, as it comes (pure)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from despina.wire.labels import LONGEST_REASON, LONGEST_SOURCE, Label, Word
from despina.wire.predictions import Prediction

MOST_LABELS = 256
"""In one request."""


class Given(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prediction_id: Annotated[str, Field(max_length=256)]
    """As the header `despina-prediction-id` named it."""
    label: Word
    """Whether the answer was right."""
    reason: Annotated[str, Field(max_length=LONGEST_REASON)] = ""
    """Why, in words."""
    expected: dict[str, Any] | None = None
    """What the outputs should have been; some of them, or all."""
    source: Annotated[str, Field(max_length=LONGEST_SOURCE)] = ""
    """Who says so, by the caller's own account."""

    def on(self, prediction: Prediction, at: float, is_trusted: bool) -> Label:
        """As it is kept."""
        more = {"reason": self.reason, "expected": self.expected, "source": self.source, "is_trusted": is_trusted}
        return Label.on(prediction, self.label, at, **more)
