"""`/metrics`, as every port of a pod that has it answers."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from despina_runtime.telemetry.dropped import dropped

OPEN = "application/openmetrics-text"
DROPPED = "What was to be told of the pod and is not."
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def metrics(request: Request, registry: CollectorRegistry = REGISTRY) -> Response:
    """In Prometheus' text format; in OpenMetrics, which alone has exemplars, to whoever takes it."""
    if OPEN in request.headers.get("accept", ""):
        text = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return Response(text, headers={"content-type": openmetrics.CONTENT_TYPE_LATEST})
    return Response(exposition.generate_latest(registry), headers={"content-type": PLAIN})


class Dropped(Collector):
    """What of this process' telemetry got lost, for one that has no figures."""

    def collect(self) -> Iterator[Metric]:
        """A counter."""
        found = CounterMetricFamily("despina_telemetry_dropped", DROPPED, labels=["signal", "reason"])
        for signal, reasons in dropped().items():
            for reason, count in reasons.items():
                found.add_metric([signal, reason], count)
        yield found

    def describe(self) -> tuple[Metric, ...]:
        """Nothing beforehand."""
        return ()
