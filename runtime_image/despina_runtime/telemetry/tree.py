"""A kept trace as spans, each with its id and the one that it lies in (pure)."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from despina_runtime.telemetry import semconv
from despina_runtime.telemetry.executed import Executed, Span

Kind = Literal["server", "internal", "client"]
TRACE_ID, SPAN_ID = re.compile(r"(?!0{32})[0-9a-f]{32}"), re.compile(r"(?!0{16})[0-9a-f]{16}")
LEAST_WAITED = 0.001
"""Seconds; the clock by which it is known for how long a request waited is no finer."""
IDS = 2**64


class Node(NamedTuple):
    """One span."""

    span_id: str
    parent_id: str
    kind: Kind
    name: str
    at: float
    """Seconds since the epoch."""
    seconds: float
    error: str
    """What kind of error it ended with; empty if it did not."""
    attributes: dict[str, Any]
    """Those that say nothing are None or empty."""
    inputs: Any = None
    outputs: Any = None


def tree(program: str, one: Executed) -> list[Node]:
    """A request's spans: the first is the request itself, and each stands behind the one that it lies in. Raises
    ValueError for what can be no trace."""
    if not TRACE_ID.fullmatch(one.trace_id) or not SPAN_ID.fullmatch(one.span_id):
        raise ValueError("no trace is called so")
    came, asked = one.at - one.waited, parent_of(one.traceparent)
    whole = one.seconds + one.waited
    name = f"POST {semconv.route_of(one.path)}"
    facts = semconv.of_request(program, one)
    root = Node(one.span_id, asked, "server", name, came, whole, one.problem, facts, one.inputs, one.outputs)
    found, number = [root], int(one.span_id, 16)
    if one.tier:
        return found
    if one.waited >= LEAST_WAITED:
        found.append(Node(_id(number + 1), one.span_id, "internal", "wait", came, one.waited, "", {}))
    name, facts = f"invoke_workflow {one.path or program}", semconv.of_program(program, one)
    own = Node(_id(number + 2), one.span_id, "internal", name, one.at, one.seconds, one.problem, facts)
    return [*found, own, *_parts(one, own, number + 3)]


def _parts(one: Executed, own: Node, first: int) -> list[Node]:
    """What happened within the program. The call of the program itself is its own span, and none beside it."""
    callers = {span.parent for span in one.spans}
    ids = [
        own.span_id if number in callers and is_own(one, span) else _id_of(span, first + number)
        for number, span in enumerate(one.spans)
    ]
    return [
        _part(one, span, span_id, ids[span.parent] if 0 <= span.parent < len(ids) else own.span_id)
        for span, span_id in zip(one.spans, ids, strict=True)
        if span_id != own.span_id
    ]


def is_own(one: Executed, span: Span) -> bool:
    """Whether a span, if others lie in it, is the call of what was asked for."""
    return span.kind == "module" and span.parent < 0 and span.name == one.path


def _id_of(span: Span, number: int) -> str:
    """A tool was told by what it is called; other spans' ids follow from the request's own."""
    told = span.facts.get("span_id", "") if span.kind == "tool" else ""
    return str(told) if told and SPAN_ID.fullmatch(told) else _id(number)


def _part(one: Executed, span: Span, span_id: str, parent_id: str) -> Node:
    facts = semconv.of_part(span)
    kind: Kind = "client" if span.kind == "lm" else "internal"
    said = span.facts.get("inputs"), span.facts.get("outputs")
    error = str(facts.get("error.type") or "")
    return Node(span_id, parent_id, kind, semconv.name_of(span), one.at + span.start, span.seconds, error, facts, *said)


def _id(number: int) -> str:
    return f"{number % IDS or 1:016x}"


def parent_of(traceparent: str) -> str:
    """The caller's span."""
    return traceparent.split("-")[2] if traceparent else ""
