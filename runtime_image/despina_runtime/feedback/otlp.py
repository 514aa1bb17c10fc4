"""Predictions as traces: OTLP/JSON, with the attributes by which MLflow shows them (pure).

They are the spans of `telemetry/tree.py`, with the same ids: what a pod or a tool's host exports of a trace and what is
delivered here come together in MLflow. https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from pydantic_core import to_json

from despina.wire.predictions import trace_id_of
from despina_runtime.telemetry.executed import Executed, Span
from despina_runtime.telemetry.protobuf import ERROR, KINDS
from despina_runtime.telemetry.semconv import INPUTS, OUTPUTS, PREDICTION, Attributes
from despina_runtime.telemetry.tree import SPAN_ID, Node, tree

OK = 1
TRACEPARENT, TRACE_ID = "despina.traceparent", "despina.trace_id"
UNIQUE = {PREDICTION, TRACEPARENT, TRACE_ID}
MOST_KNOWN, LONGEST_KNOWN = 2048, 64
"""Attributes that are kept as they are written, and characters of their texts: most are the same in each trace."""
KNOWN: dict[tuple[str, Any], orjson.Fragment] = {}


def traces(program: str, namespace: str, executed: Iterable[Executed]) -> Mapping[str, Any]:
    """A request for `/v1/traces` of all of these."""
    resource = {"service.name": program, "service.namespace": namespace}
    spans = [span for one in executed for span in _spans(program, one)]
    scope = {"scope": {"name": "despina"}, "spans": spans}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}]}


def unrecorded(origin: str, at: float) -> Executed:
    """What stands in the place of a prediction of which nothing is known but its name."""
    return Executed(
        origin, at, 0.0, origin.partition("-")[0], "", "", 0, "unrecorded", "", 0, 0, "", "", None, None, []
    )


def _spans(program: str, one: Executed) -> Iterator[dict[str, Any]]:
    trace_id = trace_id_of(one.origin)
    for node in _nodes(program, one, trace_id):
        yield _span(trace_id, node)


def _nodes(program: str, one: Executed, trace_id: str) -> Sequence[Node]:
    """A prediction's own trace. One that was a part of its caller's, or of no trace that is known, begins here, and
    says of which it was."""
    one = one._replace(spans=[Span(*span) for span in one.spans])
    if one.trace_id == trace_id and SPAN_ID.fullmatch(one.span_id):
        return tree(program, one)
    span_id = hashlib.sha256(trace_id.encode()).hexdigest()[:16]
    root, *parts = tree(program, one._replace(trace_id=trace_id, span_id=span_id, traceparent=""))
    whole = {TRACE_ID: one.trace_id, TRACEPARENT: one.traceparent}
    was_executed = one.seconds or one.spans
    return [root._replace(attributes=root.attributes | whole), *(parts if was_executed else ())]


def _span(trace_id: str, node: Node) -> dict[str, Any]:
    words = {INPUTS: node.inputs, OUTPUTS: node.outputs}
    found: dict[str, Any] = {
        "traceId": trace_id,
        "spanId": node.span_id,
        "name": node.name,
        "kind": KINDS[node.kind],
        "startTimeUnixNano": str(int(node.at * 1e9)),
        "endTimeUnixNano": str(int((node.at + node.seconds) * 1e9)),
        "attributes": _attributes(node.attributes | {name: _json(said) for name, said in words.items()}),
        "status": {"code": ERROR, "message": node.error} if node.error else {"code": OK},
    }
    return found | ({"parentSpanId": node.parent_id} if node.parent_id else {})


def _attributes(facts: Attributes) -> list[Any]:
    """Without those that say nothing."""
    found = list[Any]()
    for fact in facts.items():
        if type(fact[1]) is str or type(fact[1]) is int:
            if fact[1] != "":
                found.append(KNOWN.get(fact) or _plain(*fact))
        elif fact[1] is not None:
            found.append({"key": fact[0], "value": _value(fact[1])})
    return found


def _plain(name: str, value: str | int) -> Any:
    found = {"key": name, "value": {"stringValue": value} if type(value) is str else {"intValue": str(value)}}
    if name in UNIQUE or len(str(value)) > LONGEST_KNOWN:
        return found
    if len(KNOWN) >= MOST_KNOWN:
        KNOWN.clear()
    KNOWN[name, value] = orjson.Fragment(orjson.dumps(found))
    return KNOWN[name, value]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _attributes(value)}}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _json(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # for numbers that are longer than it knows
        return to_json(value, fallback=str, inf_nan_mode="null").decode()
