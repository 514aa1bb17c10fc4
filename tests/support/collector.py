"""A collector of traces: OTLP over HTTP, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import gzip
import threading
from contextlib import contextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services import free_port


class Collector:
    """What it was sent."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.spans: list = []
        self.headers: list[dict[str, str]] = []
        self.services: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        sent = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        self.headers.append(dict(request.headers))
        for resource in sent.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(body=b"", content_type="application/x-protobuf")

    def named(self, name: str) -> list:
        return [span for span in list(self.spans) if span.name == name]


@contextmanager
def collector():
    """Listens while the block lasts."""
    found, loop = Collector(), asyncio.new_event_loop()

    async def serve() -> None:
        app = web.Application()
        app.add_routes([web.post("/v1/traces", found.take)])
        runners.append(runner := web.AppRunner(app, shutdown_timeout=0.1))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(found.url.rpartition(":")[2])).start()
        up.set()

    up, runners = threading.Event(), []
    loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield found
    finally:
        asyncio.run_coroutine_threadsafe(runners[0].cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
