"""The traces that a pod has kept: `GET /traces` on its admin port, and `GET /traces/ID` for one.

Both are read with the read key; a tool host has no list, and shows everybody the trace whose id he knows. Which are
kept is decided in the pod when a request has ended. A list holds no word of callers; one trace has what
`feedback.payloads` lets be kept, with what is hidden hidden already.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from despina.wire.base import MOST, Amount, Count, Report

TRACES_PATH = "/traces"
"""With `?after=NUMBER` those that came after the one of that number."""
TRACE_HEADER = "despina-trace"
"""`keep` in a request whose trace its caller wants kept, as the flag of a sampled `traceparent` says, too."""
LONGEST_NAME, LONGEST_TEXT = 256, 2**18
MOST_TRACES, MOST_SPANS, MOST_FACTS = 500, 10_000, 64
ID = re.compile(r"[0-9a-z~-]{0,128}")
NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _name(text: str) -> str:
    """In one line, and no longer than somebody reads."""
    text = text[:LONGEST_NAME]
    return text if text.isprintable() else NOT_SHOWN.sub(" ", text)


def _text(text: str) -> str:
    return text[:LONGEST_TEXT]


def _moment(at: float) -> float:
    return min(max(at, 0.0), MOST) if at == at else 0.0  # NaN is not equal to itself


def _id(text: str) -> str:
    return text if ID.fullmatch(text) else ""


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_text)]
"""A JSON value as it is written: what callers nest without an end breaks no reader of the rest."""
Id = Annotated[str, AfterValidator(_id)]
Moment = Annotated[float, AfterValidator(_moment)]
"""Seconds since the epoch."""


class TraceSummary(Report):
    """One trace in a list."""

    number: Count = 0
    """By which a later list goes on."""
    id: Id
    """The prediction's name, by which it is asked for and labelled; on a tool host, the span's."""
    trace_id: Id = ""
    """Of the whole trace; other pods may have kept parts of it."""
    at: Moment = 0.0
    seconds: Amount = 0.0
    status: Count = 0
    problem: Name = ""
    version: Name = ""
    revision: Name = ""
    module: Name = ""
    """The path that was asked for by itself, empty for the whole program; on a tool host, the tool."""
    lm: Name = ""
    tier: Name = ""
    """Of the cache that the answer came from; empty for one that was made."""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: Name = ""
    """In decimal digits; empty where no price is known."""
    why: Name = ""
    """Why it was kept: `error`, `asked`, `slow`, `sampled`, or `marked`, which is afterwards."""


class TraceList(Report):
    """What a pod holds."""

    boot: Name = ""
    """A word that its supervisor made up at its start: numbers begin anew with another one."""
    number: Count = 0
    """Of the last trace; what to ask `after` the next time."""
    traces: tuple[TraceSummary, ...] = Field(default=(), max_length=MOST_TRACES)
    """The oldest first."""


class TraceSpan(Report):
    """A part of a trace."""

    id: Id
    parent: Id = ""
    """The span that it lies in; of the first, the caller's, if he said one."""
    kind: Literal["server", "internal", "client"] = "internal"
    name: Name = ""
    at: Moment = 0.0
    seconds: Amount = 0.0
    error: Name = ""
    """What kind of error it ended with; empty if it did not."""
    attributes: dict[Name, Name] = Field(default_factory=dict, max_length=MOST_FACTS)
    """By OpenTelemetry's names."""
    inputs: Text = ""
    """As JSON; empty where they are not kept."""
    outputs: Text = ""


class Trace(TraceSummary):
    """One trace, as far as this pod knows it."""

    spans: tuple[TraceSpan, ...] = Field(default=(), max_length=MOST_SPANS)
    """The first is the request itself."""
    spans_left_out: Count = 0
    """There were so many more."""
    is_redacted: bool = False
    """Whether something of what callers wrote was left out."""
