"""The operator's metrics, and the port that serves them beside its health."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

RECONCILE_SECONDS = Histogram("despina_reconcile_seconds", "Time of one pass over one program.")
PASSES_FAILED = Counter("despina_reconcile_errors", "Passes that ended in an error, by kind of object.", ["kind"])
WRITES_REFUSED = Counter(
    "despina_writes_refused",
    "Writes that the API server refused, put off or did not answer, by kind of object and error.",
    ["kind", "error"],
)
QUEUE_DEPTH = Gauge("despina_queue_depth", "Programs that wait for a pass.")
BREAKER_STATE = Gauge(
    "despina_program_breaker_state",
    "1 for the state of a program's breaker over all replicas.",
    ["namespace", "program", "state"],
)
BREAKER_STATES = ("Closed", "Open", "HalfOpen")
MAX_LAG_SECONDS = 120.0


def measure_breaker(program: tuple[str, str], state: str | None) -> None:
    """The breaker of a program over all replicas, for alerts; None for a program that has none, or is gone."""
    for each in BREAKER_STATES:
        if state is None:
            BREAKER_STATE.remove(*program, each)
        else:
            BREAKER_STATE.labels(*program, each).set(state == each)


async def serve(port: int, lag: Callable[[], float]) -> web.AppRunner:
    """Serve /healthz, which fails when the queue stands still, and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        waited = lag()
        text = f"the most overdue program has waited {waited:.0f} s\n"
        return web.Response(text=text, status=200 if waited < MAX_LAG_SECONDS else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
