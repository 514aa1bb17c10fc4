"""What all documents are made of: they refuse what they do not know, and what pods count is bounded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema


class Document(BaseModel):
    """A frozen document that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SECONDS_BOUNDS = (
    0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60,
)  # fmt: skip
"""Upper bounds of the latency histograms in reports, in seconds; one more bucket holds what took longer."""
MOST = 2**53
"""What a float still counts exactly."""

MOST_NAMED = 256
"""Of anything that a pod's document names or lists, where nothing else is said; pods of ours name far fewer."""


def _bounded(number: float) -> float:
    """What pods say is added up and divided; no number of theirs may break that."""
    return min(max(number, 0), MOST) if number == number else 0  # NaN is not equal to itself


def _known(histogram: tuple[int, ...]) -> tuple[int, ...]:
    """Without buckets that there are none of."""
    return histogram[: len(SECONDS_BOUNDS) + 1]


def _named(text: str | None) -> str | None:
    """Without what can be no id: it only leads people, and must not cost a document."""
    return text if text is not None and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) else None


class _Bounded:
    """Draws numbers into their bounds. Those that are within, as nearly all are, take no call of Python's."""

    def __init__(self, within: core_schema.CoreSchema, kind: Literal["int", "float"]) -> None:
        self._within, self._kind = within, kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        others = core_schema.no_info_after_validator_function(_bounded, handler(source))
        written = core_schema.simple_ser_schema(self._kind)
        return core_schema.union_schema([self._within, others], mode="left_to_right", serialization=written)


Count = Annotated[int, _Bounded(core_schema.int_schema(ge=0, le=MOST), "int")]
Histogram = Annotated[tuple[Count, ...], AfterValidator(_known)]
"""How many took how long; see SECONDS_BOUNDS."""
RunId = Annotated[str | None, AfterValidator(_named)]
"""A run of MLflow."""
Amount = Annotated[float, _Bounded(core_schema.float_schema(ge=0, le=MOST), "float")]
Score = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""What is out of bounds is refused, and not drawn into them: the least ones mean most."""
Points = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
"""A difference of two percentages."""


class Report(Document):
    """A document that pods send: a newer one may say more than this operator knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def added(histograms: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Histograms over equal bounds as one; an empty one counts nothing."""
    return tuple(sum(bucket) for bucket in zip_longest(*histograms, fillvalue=0))
