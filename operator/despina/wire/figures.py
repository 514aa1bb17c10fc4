"""What a pod counts, for people and for Prometheus: `GET /figures` on its admin port, read with the read key.

Whole counts since the container began, so that a reader who missed some answers has lost nothing; with another `boot`
they begin anew. What is counted of a version ends a while after its last answer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from despina.wire.base import MOST_NAMED, SECONDS_BOUNDS, Amount, Count, Histogram, Report

FIGURES_PATH = "/figures"
MOST_MODULES = 64
"""Of one version; all others are counted together."""
OTHER = "other"
Counted = Annotated[dict[str, Count], Field(max_length=MOST_NAMED)]


class Timing(Report):
    """How long something took."""

    buckets: Histogram = ()
    """Over SECONDS_BOUNDS."""
    seconds: Amount = 0.0
    """All together."""


class Exemplar(Report):
    """One request that took about so long."""

    kind: Literal["trace_id", "prediction_id"]
    """`trace_id` where its caller sent one; a prediction's name stands here without its MAC, so that nobody can label
    it."""
    name: str = Field(pattern=r"^[0-9a-z~-]{1,110}$")
    seconds: Amount
    at: Amount
    """When it ended, in seconds since the epoch."""


class LMFigures(Report):
    """What one module of a version asked of one LM."""

    lm: str
    module: str = ""
    outcomes: Counted = Field(default_factory=dict)
    """Attempts: `ok`, or the kind of error."""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: Amount = 0.0


class ToolFigures(Report):
    """What was asked of one backend of a tool, whichever version asked."""

    tool: str
    backend: str
    outcomes: Counted = Field(default_factory=dict)
    """Attempts by their fate."""


class VersionFigures(Report):
    """What one version of the program did."""

    requests: Counted = Field(default_factory=dict)
    """Answers by HTTP status."""
    errors: Counted = Field(default_factory=dict)
    """By class: `caller`, `program`, `upstream`, `timeout`, `overload` (refused for want of room or by a breaker),
    `internal` (the runtime's own)."""
    latency: Timing = Timing()
    exemplars: dict[Annotated[int, Field(ge=0, le=len(SECONDS_BOUNDS))], Exemplar] = Field(default_factory=dict)
    """A recent request in each of the buckets of `latency`, by the bucket's number."""
    first_token: Timing = Timing()
    """Of streams: until their first chunk."""
    queue: Timing = Timing()
    """How long executions waited for a slot."""
    lms: tuple[LMFigures, ...] = Field(default=(), max_length=2048)
    feedback: Counted = Field(default_factory=dict)
    """Labels by value: `success`, `failure`."""


class Figures(Report):
    """What one pod counted."""

    boot: str = Field(default="", max_length=64)
    """A word that its supervisor made up at its start."""
    versions: dict[str, VersionFigures] = Field(default_factory=dict, max_length=16)
    """By the number of the version in the registry."""
    in_flight: Count = 0
    queued: Count = 0
    cache: Counted = Field(default_factory=dict)
    """Answers by the cache's tier; `none` for those that were made."""
    degraded: Counted = Field(default_factory=dict)
    """Answers of a fallback, by what had failed."""
    lm_seconds: dict[str, Timing] = Field(default_factory=dict, max_length=MOST_NAMED)
    """Attempts, by LM."""
    lm_tokens: dict[str, Counted] = Field(default_factory=dict, max_length=MOST_NAMED)
    """What providers counted, of all versions: by LM, then `input` and `output`."""
    tools: tuple[ToolFigures, ...] = Field(default=(), max_length=1024)
    tool_seconds: dict[str, Timing] = Field(default_factory=dict, max_length=MOST_NAMED)
    """Calls with all their attempts, by tool."""
    other_feedback: Counted = Field(default_factory=dict)
    """Labels by value, on predictions of versions that the pod no longer has."""
    cache_failures: dict[str, Counted] = Field(default_factory=dict, max_length=MOST_NAMED)
    """What a tier of the cache failed at: by tier, then by error."""
    dropped: dict[str, Counted] = Field(default_factory=dict, max_length=MOST_NAMED)
    """What was to be told of the pod and is not: by signal (`predictions`, `traces`, `figures`), then by
    reason."""
    breaker_open: bool = False
    rss_bytes: Count = 0
    """Of all workers."""
    worker_rss_bytes: Counted = Field(default_factory=dict)
    """Of each, by its process id."""
