"""`/metrics`, as every port of a pod that has it answers."""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess
from starlette.requests import Request
from starlette.responses import Response


def metrics(_: Request, own: CollectorRegistry | None = None) -> Response:
    """All processes' metrics in Prometheus' text format; and `own`, of a process that has no file among theirs."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    text = generate_latest(registry) + (generate_latest(own) if own else b"")
    return Response(text, media_type=CONTENT_TYPE_LATEST)
