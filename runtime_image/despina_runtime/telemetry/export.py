"""Kept traces out to whoever collects them: OTLP by OpenTelemetry's own exporter, where its variables name an endpoint.

Nobody waits for it. Spans wait in the SDK's bounded queue, which a thread of its own sends from; what finds no room
there, and what is not taken at the other end in time, is counted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from threading import Lock, Thread
from typing import Any, NamedTuple

from despina_runtime.telemetry.dropped import drop
from despina_runtime.telemetry.protobuf import request, span
from despina_runtime.telemetry.tree import Node

ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
DISABLED, PROTOCOL, QUEUE = "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_BSP_MAX_QUEUE_SIZE"
USUAL_QUEUE, MOST_BYTES, AT_ONCE = 2048, 2**25, 256
"""Traces that may wait, their bytes, and how many of them are sent together."""
log = logging.getLogger(__name__)


def exporter_of(environment: Mapping[str, str], resource: Mapping[str, str]) -> Exporter | None:
    """Where spans go to; None where no variable says so, or they say what cannot be used: serving depends on none.

    `resource`: what spans are of, such as `service.name`; the environment may say more, or otherwise.
    """
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


class Waiting(NamedTuple):
    """A trace in the SDK's queue, which takes it for a span and asks whether it is sampled."""

    context: Any
    written: bytes
    spans: int


class Exporter:
    """One process's."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        # The SDK takes a while to import, and most pods have no use for it.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanContext, TraceFlags

        from despina_runtime.telemetry.answers import Brief

        for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would say again and again is counted
        self._room = int(os.environ.get(QUEUE, "") or USUAL_QUEUE)
        self._exporter, self._waiting, self._bytes = OTLPSpanExporter(session=Brief()), 0, 0
        self._counting = Lock()
        self._resource = Resource(dict(resource)).merge(OTELResourceDetector().detect()).attributes
        self._context = SpanContext(1, 1, False, TraceFlags(TraceFlags.SAMPLED))
        self._processor = BatchSpanProcessor(self, self._room, max_export_batch_size=min(AT_ONCE, self._room))  # type: ignore[arg-type]

    def add(self, nodes: Sequence[Node], trace_id: str) -> None:
        """One trace's spans, all or none of them. Raises ValueError or struct.error for what can be none."""
        written = b"".join([span(node, trace_id) for node in nodes])
        with self._counting:
            has_room = self._waiting < self._room and self._bytes + len(written) <= MOST_BYTES
            if has_room:
                self._waiting += 1
                self._bytes += len(written)
        if not has_room:
            drop("traces", "queue_full", len(nodes))
            return
        self._processor.on_end(Waiting(self._context, written, len(nodes)))  # type: ignore[arg-type]

    def export(self, batch: Sequence[Waiting]) -> None:
        """Send some; the SDK's thread calls it. They are written already, and so go past the exporter's own encoder."""
        is_there = False
        try:
            is_there = self._exporter._client.export(request(self._resource, [one.written for one in batch])).success
        finally:
            with self._counting:
                self._waiting -= len(batch)
                self._bytes -= sum(len(one.written) for one in batch)
            drop("traces", "export_failed", 0 if is_there else sum(one.spans for one in batch))

    def shutdown(self) -> None:
        """End what is under way; the SDK calls it, too."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def close(self, seconds: float) -> None:
        """Send what waits, for so long at most; the SDK would have its own 30 s."""
        closing = Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            self.shutdown()
