"""The operator's metrics, and the port that serves them beside its health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from despina.api.status import ProgramStatus
from despina.status.figures import FAMILIES, Family, Figures, figures

RECONCILE_SECONDS = Histogram("despina_reconcile_seconds", "Time of one pass over one program.")
PASSES_FAILED = Counter("despina_reconcile_errors", "Passes that ended in an error, by kind of object.", ["kind"])
WRITES = Counter("despina_api_writes", "Writes that the API server took, by kind of object and verb.", ["kind", "verb"])
WRITES_REFUSED = Counter(
    "despina_writes_refused",
    "Writes that the API server refused, put off or did not answer, by kind of object and error.",
    ["kind", "error"],
)
QUEUE_DEPTH = Gauge("despina_queue_depth", "Programs that wait for a pass.")
MAX_LAG_SECONDS = 120.0
KINDS = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}


class Programs(Collector):
    """The metrics of programs, made when somebody asks for them, from what passes noted. They end with the program."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Figures] = {}

    def note(self, program: tuple[str, str], status: ProgramStatus) -> None:
        """A status that stands in the cluster: one that was read there, or was written."""
        self._known[program] = figures(status, self._known.get(program))

    def forget(self, program: tuple[str, str]) -> None:
        """A program that is gone."""
        self._known.pop(program, None)

    def collect(self) -> Iterator[Metric]:
        """All families, each with the series of all programs."""
        known = self._known.copy()  # in one step, for passes go on meanwhile in another thread
        return (_metric(family, known) for family in FAMILIES)


def _metric(family: Family, known: dict[tuple[str, str], Figures]) -> Metric:
    metric: GaugeMetricFamily | CounterMetricFamily = KINDS[family.kind](
        family.name, family.help, labels=("namespace", "program", *family.labels)
    )
    for program, said in known.items():
        for labels, value in family.rows(said):
            metric.add_metric((*program, *labels), value)
    return metric


PROGRAMS = Programs()
REGISTRY.register(PROGRAMS)


async def serve(port: int, lag: Callable[[], float]) -> web.AppRunner:
    """Serve /healthz, which fails when the queue stands still, and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        waited = lag()
        text = f"the most overdue program has waited {waited:.0f} s\n"
        return web.Response(text=text, status=200 if waited < MAX_LAG_SECONDS else 503)

    async def metrics(_: web.Request) -> web.Response:
        # In a thread: a thousand programs have tens of thousands of series, and passes must not wait for them.
        body = await asyncio.to_thread(generate_latest)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
