"""Kept traces out to whoever collects them: OTLP by OpenTelemetry's own exporter, where its variables name an endpoint.

Nobody waits for it. Spans wait in the SDK's bounded queue, which a thread of its own sends from; what finds no room
there, and what is not taken at the other end in time, is counted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Any

from pydantic_core import to_json

from despina_runtime.telemetry import semconv
from despina_runtime.telemetry.dropped import drop
from despina_runtime.telemetry.tree import Node

ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
DISABLED, PROTOCOL = "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL"
LONGEST_VALUE = 2**16
"""Characters of an attribute."""
log = logging.getLogger(__name__)


def exporter_of(environment: Mapping[str, str], resource: Mapping[str, str]) -> Exporter | None:
    """Where spans go to; None where no variable says so, or they say what cannot be used: serving depends on none."""
    if environment.get(DISABLED, "").lower() == "true":
        return None
    if not (environment.get(ENDPOINT) or environment.get(TRACES_ENDPOINT)):
        return None
    if environment.get(PROTOCOL, "").startswith("grpc"):
        log.warning("%s=grpc is not offered: spans go out as http/protobuf", PROTOCOL)
    try:
        return Exporter(resource)
    except Exception as exc:
        log.error("Traces are not exported, for OTEL_* variables cannot be used error=%s", type(exc).__name__)
        return None


class Exporter:
    """One process's."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        """`resource`: what spans are of, such as `service.name`; the environment may say more, or otherwise."""
        # The SDK takes a while to import, and most pods have no use for it.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would say again and again is counted
        self._room = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "") or 2048)
        self._processor = BatchSpanProcessor(_counting(OTLPSpanExporter()), max_queue_size=self._room)
        self._queue = self._processor._batch_processor._queue
        self._resource = Resource(dict(resource)).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("despina", schema_url=semconv.SCHEMA_URL)
        self._span, self._context, self._flags = ReadableSpan, SpanContext, TraceFlags(TraceFlags.SAMPLED)
        self._kinds = {kind.name.lower(): kind for kind in SpanKind}
        self._ok, self._error, self._status = Status(StatusCode.UNSET), StatusCode.ERROR, Status

    def add(self, nodes: Sequence[Node], trace_id: str) -> None:
        """One trace's spans."""
        free = max(0, self._room - len(self._queue))
        if free < len(nodes):
            drop("traces", "queue_full", len(nodes))
            return
        trace = int(trace_id, 16)
        for node in nodes:
            self._processor.on_end(self._made(node, trace))

    def _made(self, node: Node, trace: int) -> Any:
        begin = int(node.at * 1e9)
        return self._span(
            node.name,
            context=self._named(trace, node.span_id, False),
            parent=self._named(trace, node.parent_id, True) if node.parent_id else None,
            resource=self._resource,
            attributes=_attributes(node),
            kind=self._kinds[node.kind],
            instrumentation_scope=self._scope,
            status=self._status(self._error, node.error) if node.error else self._ok,
            start_time=begin,
            end_time=begin + int(node.seconds * 1e9),
        )

    def _named(self, trace: int, span_id: str, is_remote: bool) -> Any:
        return self._context(trace, int(span_id, 16), is_remote, self._flags)

    def close(self, seconds: float) -> None:
        """Send what waits, for so long at most; the SDK would have its own 30 s."""
        closing = Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)
        drop("traces", "export_failed", len(self._queue))


def _attributes(node: Node) -> dict[str, Any]:
    said = {semconv.INPUTS: node.inputs, semconv.OUTPUTS: node.outputs}
    words = {name: _cut(to_json(value, inf_nan_mode="null").decode()) for name, value in said.items() if value}
    facts = {name: _plain(value) for name, value in node.attributes.items() if value is not None and value != ""}
    return facts | words


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE]


def _counting(exporter: Any) -> Any:
    """The same, with what it does not get there counted."""
    send = exporter.export

    def export(spans: Sequence[Any]) -> Any:
        is_there = False
        try:
            result = send(spans)
            is_there = result.name == "SUCCESS"
            return result
        finally:
            drop("traces", "export_failed", 0 if is_there else len(spans))

    exporter.export = export
    return exporter
