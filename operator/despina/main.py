"""Putting the operator together and running it until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import time

import httpx
import kopf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.cluster.client import Cluster
from despina.handlers.events import build_registry
from despina.reconcile.program import Reconciler
from despina.reconcile.queue import Queue
from despina.settings import Settings
from despina.sources.mlflow import Registry
from despina.sources.reports import Reports
from despina.sources.runtime_admin import Orders
from despina.telemetry import QUEUE_DEPTH, serve

log = logging.getLogger(__name__)
REGISTRY_TIMEOUT_SECONDS = 10.0
ORDER_TIMEOUT_SECONDS = 6.0
REPORT_TIMEOUT_SECONDS = 1.0
KEY = "ed25519"


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    cluster = await Cluster.connect()
    orders = await _orders(settings, cluster)
    reconcilers: list[Reconciler] = []
    queue = Queue(lambda key: reconcilers[0](key), settings.workers)
    reports = Reports(httpx.AsyncClient(timeout=REPORT_TIMEOUT_SECONDS), queue.add)
    registry = Registry(_registry_client(settings), queue.add)
    reconcilers.append(Reconciler(cluster, registry, orders, reports, settings.defaults(orders.public_key)))
    QUEUE_DEPTH.set_function(lambda: queue.depth)
    health = await serve(settings.health_port, lambda: queue.lag)
    log.info("Started namespaces=%s", ",".join(settings.namespaces))
    tasks = [asyncio.create_task(queue.run()), asyncio.create_task(_watch(settings, queue, stop))]
    try:
        await asyncio.wait([*tasks, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        stop.set()
        await asyncio.wait([tasks[1]], timeout=10)
        for task in tasks:
            task.cancel()
        await registry.close()
        await reports.close()
        await health.cleanup()
        await cluster.close()


async def _watch(settings: Settings, queue: Queue, stop: asyncio.Event) -> None:
    await kopf.operator(
        registry=build_registry(queue.add),
        namespaces=settings.namespaces,
        standalone=True,
        identity="despina",  # its default looks up a user name, and a pod's user has none
        stop_flag=stop,
    )


async def _orders(settings: Settings, cluster: Cluster) -> Orders:
    """The orders' key is kept in a Secret of the operator's namespace, made at the first start."""
    fresh = Ed25519PrivateKey.generate().private_bytes_raw()
    stored = await cluster.ensure_secret(settings.namespace, settings.order_secret, {KEY: fresh})
    key = Ed25519PrivateKey.from_private_bytes(stored[KEY])
    return Orders(httpx.AsyncClient(timeout=ORDER_TIMEOUT_SECONDS), key, time.time)


def _registry_client(settings: Settings) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {settings.tracking_token}"} if settings.tracking_token else {}
    auth = None
    if settings.tracking_username and settings.tracking_password:
        auth = httpx.BasicAuth(settings.tracking_username, settings.tracking_password)
    return httpx.AsyncClient(timeout=REGISTRY_TIMEOUT_SECONDS, headers=headers, auth=auth)
