"""`/metrics`, as every port of a pod that has it answers."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.requests import Request
from starlette.responses import Response

OPEN = "application/openmetrics-text"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def metrics(request: Request, registry: CollectorRegistry = REGISTRY) -> Response:
    """In Prometheus' text format; in OpenMetrics, which alone has exemplars, to whoever takes it."""
    if OPEN in request.headers.get("accept", ""):
        text = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return Response(text, headers={"content-type": openmetrics.CONTENT_TYPE_LATEST})
    return Response(exposition.generate_latest(registry), headers={"content-type": PLAIN})
