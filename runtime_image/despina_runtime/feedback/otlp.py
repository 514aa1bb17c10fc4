"""Predictions as traces: OTLP/JSON, with the attributes by which MLflow shows them (pure).

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
from pydantic_core import to_json

from despina.wire.predictions import trace_id_of
from despina_runtime.telemetry.executed import Executed, Span
from despina_runtime.telemetry.semconv import (
    INPUT_TOKENS,
    INPUTS,
    OUTPUT_TOKENS,
    OUTPUTS,
    PREDICTION,
    SPAN_TYPE,
    TYPES,
    Attributes,
    name_of,
    of_part,
)
from despina_runtime.telemetry.tree import is_own

OK, ERROR = 1, 2
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
    root = _id(trace_id, "root")
    facts: Attributes = {
        SPAN_TYPE: TYPES["module"],
        INPUTS: one.inputs,
        OUTPUTS: one.outputs,
        PREDICTION: one.origin,
        "despina.revision": one.revision,
        "despina.model_version": one.version,
        "despina.module": one.path,
        "despina.lm": one.lm,
        "despina.cost_usd": one.cost_usd,
        TRACEPARENT: one.traceparent,
        "despina.problem": one.problem,
        TRACE_ID: one.trace_id,
        INPUT_TOKENS: one.input_tokens or None,
        OUTPUT_TOKENS: one.output_tokens or None,
    }
    yield _span(trace_id, root, None, program, one.at, one.seconds, facts, one.problem)
    spans = [Span(*given) for given in one.spans]
    callers = {span.parent for span in spans}
    own = {number for number, span in enumerate(spans) if number in callers and is_own(one, span)}
    ids = [root if number in own else _id(trace_id, str(number)) for number in range(len(spans))]
    for number, span in enumerate(spans):
        if number in own:
            continue
        parent = ids[span.parent] if 0 <= span.parent < len(ids) else root
        name, facts, at = name_of(span), _facts(span), one.at + span.start
        error = str(facts.get("error.type") or "")
        yield _span(trace_id, ids[number], parent, name, at, span.seconds, facts, error)


def _facts(span: Span) -> Attributes:
    return of_part(span) | {INPUTS: span.facts.get("inputs"), OUTPUTS: span.facts.get("outputs")}


def _span(
    trace_id: str, span_id: str, parent: str | None, name: str, at: float, seconds: float, facts: Attributes, error: str
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": trace_id,
        "spanId": span_id,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(int(at * 1e9)),
        "endTimeUnixNano": str(int((at + seconds) * 1e9)),
        "attributes": _attributes(facts),
        "status": {"code": ERROR, "message": error} if error else {"code": OK},
    }
    return found | ({"parentSpanId": parent} if parent else {})


def _attributes(facts: Attributes) -> list[Any]:
    """Without those that say nothing; what is no plain value goes as JSON."""
    found = list[Any]()
    for fact in facts.items():
        if type(fact[1]) is str or type(fact[1]) is int:
            if fact[1] != "":
                found.append(KNOWN.get(fact) or _plain(*fact))
        elif fact[1] is not None:
            found.append({"key": fact[0], "value": {"stringValue": _json(fact[1])}})
    return found


def _plain(name: str, value: str | int) -> Any:
    found = {"key": name, "value": {"stringValue": value} if type(value) is str else {"intValue": str(value)}}
    if name in UNIQUE or len(str(value)) > LONGEST_KNOWN:
        return found
    if len(KNOWN) >= MOST_KNOWN:
        KNOWN.clear()
    KNOWN[name, value] = orjson.Fragment(orjson.dumps(found))
    return KNOWN[name, value]


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # for numbers that are longer than it knows
        return to_json(value, fallback=str, inf_nan_mode="null").decode()


def _id(trace_id: str, part: str) -> str:
    return hashlib.sha256(f"{trace_id} {part}".encode()).hexdigest()[:16]
