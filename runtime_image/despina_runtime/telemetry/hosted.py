"""The traces that a tool host has kept: of each call one span, in its caller's trace, and no words of anybody."""

from __future__ import annotations

import time
from collections.abc import Iterable

from despina.wire import Trace, TraceSpan, TraceSummary
from despina_runtime.telemetry import semconv
from despina_runtime.telemetry.context import Context, begun
from despina_runtime.telemetry.export import Exporter
from despina_runtime.telemetry.keeping import Why, why_kept
from despina_runtime.telemetry.ring import Ring
from despina_runtime.telemetry.traces import span_of
from despina_runtime.telemetry.tree import Node


class HostedTraces:
    """One host's."""

    def __init__(self, exporter: Exporter | None = None) -> None:
        self._exporter = exporter
        self._ring = Ring()

    def take(self, tool: str, headers: Iterable[tuple[str, str]], seconds: float, status: int, problem: str) -> None:
        """A call that has ended just now: it is kept if its caller keeps the trace, or if it failed."""
        context = begun(headers, 0.0)
        if why := why_kept(status, False, context):
            self._keep(Node(
                context.span_id, context.parent_id, "server", f"execute_tool {tool}", time.time() - seconds, seconds,
                problem, semconv.of_hosted(tool, status, problem),
            ), context, tool, status, why)  # fmt: skip

    def _keep(self, node: Node, context: Context, tool: str, status: int, why: Why) -> None:
        found = TraceSummary(
            id=node.span_id,
            trace_id=context.trace_id,
            at=node.at,
            seconds=node.seconds,
            status=status,
            problem=node.error,
            module=tool,
            why=why,
        )
        self._ring.add(node.span_id, found, span_of(node).model_dump_json(exclude_defaults=True).encode())
        if self._exporter:
            self._exporter.add([node], context.trace_id)

    def find(self, trace_id: str) -> Trace | None:
        """All spans that are part of the trace of this id, as one trace. Nobody is told which there are: callers of all
        namespaces have theirs here."""
        found = [one for one in self._ring.after(0) if one.summary.trace_id == trace_id]
        spans = tuple(TraceSpan.model_validate_json(one.body) for one in found)
        return Trace(**dict(found[-1].summary), spans=spans) if found else None

    def close(self, seconds: float) -> None:
        """Export what can be in this time."""
        if self._exporter:
            self._exporter.close(seconds)
