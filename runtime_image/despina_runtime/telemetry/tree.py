"""A kept trace as spans, each with its id and the one that it lies in (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    found = [root]
    if one.tier:
        return found
    if one.waited >= LEAST_WAITED:
        found.append(Node(_id(one, 1), one.span_id, "internal", "wait", came, one.waited, "", {}))
    name, facts = f"invoke_workflow {one.path or program}", semconv.of_program(program, one)
    own = Node(_id(one, 2), one.span_id, "internal", name, one.at, one.seconds, one.problem, facts)
    return [*found, own, *_parts(one, own)]


def _parts(one: Executed, own: Node) -> list[Node]:
    """What happened within the program. The call of the program itself is its own span, and none beside it."""
    ids = [_id_of(one, number, span, own) for number, span in enumerate(one.spans)]
    return [
        _part(one, span, ids[number], ids[span.parent] if 0 <= span.parent < len(ids) else own.span_id)
        for number, span in enumerate(one.spans)
        if ids[number] != own.span_id
    ]


def _id_of(one: Executed, number: int, span: Span, own: Node) -> str:
    if span.kind == "tool" and SPAN_ID.fullmatch(span.facts["span_id"]):
        return str(span.facts["span_id"])
    is_own = span.kind == "module" and span.parent < 0 and span.name == one.path and _has_parts(one.spans, number)
    return own.span_id if is_own else _id(one, 3 + number)


def _has_parts(spans: Sequence[Span], number: int) -> bool:
    return any(span.parent == number for span in spans)


def _part(one: Executed, span: Span, span_id: str, parent_id: str) -> Node:
    facts = semconv.of_part(span)
    kind: Kind = "client" if span.kind == "lm" else "internal"
    said = span.facts.get("inputs"), span.facts.get("outputs")
    error = str(facts.get("error.type") or "")
    return Node(span_id, parent_id, kind, semconv.name_of(span), one.at + span.start, span.seconds, error, facts, *said)


def _id(one: Executed, number: int) -> str:
    """Ids of a request's own spans follow from the first."""
    return f"{((int(one.span_id, 16) + number) % IDS) or 1:016x}"


def parent_of(traceparent: str) -> str:
    """The caller's span."""
    return traceparent.split("-")[2] if traceparent else ""
