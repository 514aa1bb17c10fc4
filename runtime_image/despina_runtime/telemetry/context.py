"""Where a request stands among others' traces: W3C's context, read from a caller and written for whoever is called.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Headers = tuple[tuple[str, str], ...]
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
LONGEST_STATE = 512
"""Characters of a `tracestate` that are passed on; a longer one is not."""
PARENT, STATE = "traceparent", "tracestate"
SAMPLED = 1
WHOLE = 2**64
USUAL_RATIO = 0.1
SAMPLER, RATIO = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"


class Context(NamedTuple):
    """One request's."""

    trace_id: str
    """32 hexadecimal digits: the caller's, or the request's own."""
    span_id: str
    """16: the request's own span."""
    parent_id: str = ""
    """The caller's span; empty without one."""
    is_asked: bool = False
    """Whether the caller keeps this trace, and so wants it kept here."""
    is_chosen: bool = False
    """Whether it is one in so many by its id, as in every pod."""
    state: str = ""
    """What others want to be passed on with it."""

    def headers(self, span_id: str) -> Headers:
        """For whoever is called within a span of this request."""
        flags = SAMPLED if self.is_asked or self.is_chosen else 0
        found = ((PARENT, f"00-{self.trace_id}-{span_id}-{flags:02x}"),)
        return (*found, (STATE, self.state)) if self.state else found


def trace_of(headers: Iterable[tuple[str, str]]) -> str:
    """The caller's own trace, if it is one and no other text."""
    found = dict(headers).get(PARENT, "")
    return found if TRACEPARENT.fullmatch(found) else ""


def begun(headers: Iterable[tuple[str, str]], ratio: float, own: str = "") -> Context:
    """That of a request that has begun, whose caller sent these headers. `own`: the id of the trace that begins with it
    if its caller has none; a new one when left out."""
    fresh = f"{random.getrandbits(192) | 1:048x}"  # nothing depends on that nobody can guess it
    given = dict(headers) if headers else {}
    found = TRACEPARENT.fullmatch(given[PARENT]) if PARENT in given else None
    if found is None:
        trace_id = own or fresh[:32]
        return Context(trace_id, fresh[32:], is_chosen=is_chosen(trace_id, ratio))
    trace_id, parent_id, flags = found.groups()
    state = given.get(STATE, "")
    state = state if len(state) <= LONGEST_STATE and state.isprintable() else ""
    is_asked = bool(int(flags, 16) & SAMPLED)
    return Context(trace_id, fresh[32:], parent_id, is_asked, is_chosen(trace_id, ratio), state)


def is_sampled(traceparent: str) -> bool:
    """Whether a caller who sent this keeps the trace."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found is not None and bool(int(found[3], 16) & SAMPLED)


def span_id() -> str:
    """A new one."""
    return f"{random.getrandbits(64) | 1:016x}"


def is_chosen(trace_id: str, ratio: float) -> bool:
    """Whether a trace is among so many of all, by the rule of OpenTelemetry's TraceIdRatioBased."""
    return int(trace_id[16:], 16) < ratio * WHOLE


def ratio_of(environment: Mapping[str, str]) -> float:
    """How many traces are kept that are nothing special, by OpenTelemetry's variables; what cannot be read there says
    nothing."""
    sampler = environment.get(SAMPLER, "")
    if sampler.endswith(("always_on", "always_off")):
        return float(sampler.endswith("on"))
    try:
        found = float(environment.get(RATIO, USUAL_RATIO))
    except ValueError:
        return USUAL_RATIO
    return found if 0 <= found <= 1 else USUAL_RATIO
