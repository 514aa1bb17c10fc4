"""What is recorded of predictions, and where that and what callers say of them goes."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from despina.api.base import ApiModel, LongStr, ShortStr, rule
from despina.api.serving import SecretKeyRef

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/-]*$", max_length=512)]


class Redaction(ApiModel):
    """What Redacted hides beside e-mail addresses, card numbers, IBANs, keys, tokens and passwords."""

    fields: Annotated[tuple[ShortStr, ...], Field(max_length=64)] = ()
    """Names of fields, at any depth; their values are hidden whole."""
    patterns: Annotated[tuple[LongStr, ...], Field(max_length=32)] = ()
    """Regular expressions of Python's; what they find in texts is hidden."""

    @model_validator(mode="after")
    def _are_patterns(self) -> Self:
        for number, pattern in enumerate(self.patterns):
            try:
                re.compile(pattern)
            except re.error as exc:
                raise ValueError(f"patterns[{number}] is no regular expression: {exc}") from None
        return self


class MlflowSink(ApiModel):
    """Traces and assessments of the program's MLflow server."""

    experiment: ShortStr | None = None
    """The experiment's name; NAMESPACE/NAME of the program when left out. It is made if it is not there."""


class JsonLinesSink(ApiModel):
    """Files of JSON Lines, one for each pod."""

    folder: AbsolutePath
    """Where a volume of `podTemplate` is mounted."""


class FeedbackSink(ApiModel):
    """Where predictions and labels go; the program's MLflow server when left out."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "!(has(self.mlflow) && has(self.jsonLines))", "feedback.sink: set one of mlflow and jsonLines, not both"
        )
    )

    mlflow: MlflowSink | None = None
    """An experiment."""
    json_lines: JsonLinesSink | None = None
    """A folder."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if self.mlflow and self.json_lines:
            raise ValueError("feedback.sink: set one of mlflow and jsonLines, not both")
        return self


class Feedback(ApiModel):
    """Record predictions, and take what callers say of them (`POST /feedback`)."""

    payloads: Literal["None", "Redacted", "Full"] = "Redacted"
    """What is kept of what callers write and are told: nothing, what no rule hides, or all of it."""
    redaction: Redaction = Field(default_factory=Redaction)
    """What Redacted hides."""
    sample_percent: Annotated[int, Field(ge=0, le=100)] = 10
    """How many predictions are delivered that nobody speaks of. What is spoken of always is."""
    label_within_seconds: Annotated[int, Field(ge=60, le=31536000)] = 604800
    """How long predictions are kept to be spoken of, as long as their pod lives."""
    spool_size_limit: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,6}(Ki|Mi|Gi)$", max_length=10)] = "1Gi"
    """How much of that each pod keeps on its disk, labels in half of it; the oldest goes first."""
    sink: FeedbackSink = Field(default_factory=FeedbackSink)
    """Where it all goes."""
    trusted_secret_ref: SecretKeyRef | None = None
    """A token: labels that come with it in the header `despina-feedback-token` are trusted."""
