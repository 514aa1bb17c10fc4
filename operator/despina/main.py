"""Putting the operator together and running it until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping

import httpx
import kopf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.api.credentials import NOBODY
from despina.cluster.client import Cluster
from despina.cluster.errors import ClusterError
from despina.handlers.events import build_registry
from despina.reconcile.clock import SteadyClock
from despina.reconcile.program import Reconciler
from despina.reconcile.queue import Key, Queue
from despina.reconcile.tool import ToolReconciler
from despina.reconcile.uses import Uses
from despina.settings import Settings
from despina.sources.keys import CURRENT, minter, read_keys, read_roots
from despina.sources.labels import Labels
from despina.sources.marks import Marks
from despina.sources.mlflow import Registry
from despina.sources.probes import Probes
from despina.sources.reports import Reports
from despina.sources.runtime_admin import ORDER_SECONDS, Orders
from despina.sources.tracking import Tracking, make_client
from despina.telemetry import QUEUE_DEPTH, serve

log = logging.getLogger(__name__)
RECURSION_LIMIT = 25_000
"""An API server takes documents that are nested 10,000 levels deep, and copying one takes two frames a level. Python's
own limit would have one program's manifest end the watching of all. In 8 MiB, as main and other threads have, there is
room for more than twice as many."""
REGISTRY_TIMEOUT_SECONDS = 10.0
REPORT_TIMEOUT_SECONDS = 1.0
PROBE_TIMEOUT = httpx.Timeout(60, connect=3)  # the manifest says how long a look may take, within this


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    cluster = await Cluster.connect()
    keys = await signing_keys(settings, cluster)
    clock = SteadyClock()
    mint, uses = minter(keys), Uses()
    await hand_out_reading(settings, cluster, read_roots(mint))
    reconcilers: list[Reconciler] = []
    queue = Queue(lambda key: reconcilers[0](key), settings.workers)
    tool_reconcilers: list[ToolReconciler] = []
    tool_queue = Queue(lambda key: tool_reconcilers[0](key), settings.workers)
    orders_client = make_client(ORDER_SECONDS)
    orders = Orders(orders_client, keys, queue.add, time.monotonic)
    probes = Probes(make_client(PROBE_TIMEOUT), tool_queue.add)
    defaults = settings.defaults(orders.public_keys)
    reports = Reports(make_client(REPORT_TIMEOUT_SECONDS), queue.add)
    registry = make_registry(settings, queue.add)
    labels, marks = Labels(registry.tracking, queue.add), Marks(registry.tracking, queue.add, clock)
    reconcilers.append(Reconciler(cluster, registry, labels, marks, orders, reports, defaults, mint, clock, clock()))
    tool_reconcilers.append(ToolReconciler(cluster, probes, uses, mint, defaults, settings.namespaces, clock))
    QUEUE_DEPTH.set_function(lambda: queue.depth + tool_queue.depth)
    health = await serve(settings.health_port, lambda: max(queue.lag, tool_queue.lag))
    log.info("Started namespaces=%s", ",".join(settings.namespaces))
    watching = kopf_operator(settings, build_registry(queue.add, tool_queue.add, uses), stop)
    tasks = [asyncio.create_task(work) for work in (watching, queue.run(), tool_queue.run())]
    try:
        await asyncio.wait([*tasks, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        stop.set()
        await asyncio.wait([tasks[0]], timeout=10)
        for task in tasks:
            task.cancel()
        await labels.close()
        await marks.close()
        await registry.close()
        await orders.close()
        await reports.close()
        await probes.close()
        await health.cleanup()
        await cluster.close()


async def kopf_operator(settings: Settings, registry: kopf.OperatorRegistry, stop: asyncio.Event) -> None:
    """Watch until told to stop."""
    await kopf.operator(
        registry=registry,
        namespaces=settings.namespaces,
        standalone=True,
        identity="despina",  # its default looks up a user name, and a pod's user has none
        stop_flag=stop,
    )


async def signing_keys(settings: Settings, cluster: Cluster) -> tuple[Ed25519PrivateKey, ...]:
    """The keys of the orders, the current one first: they are kept in a Secret of the operator's namespace, where a
    start that finds no current one puts a new one."""
    fresh = {CURRENT: Ed25519PrivateKey.generate().private_bytes_raw()}
    found = await cluster.ensure_secret(
        settings.namespace, settings.order_secret, fresh, lambda data: bool(read_keys(data))
    )
    return read_keys(found)


async def hand_out_reading(settings: Settings, cluster: Cluster, roots: Mapping[str, bytes]) -> None:
    """Leave in a Secret what the page reads programs' pods with, and which orders nothing."""
    try:
        await cluster.ensure_secret(
            settings.namespace, settings.read_secret, roots, lambda data: roots.items() <= data.items()
        )
    except ClusterError as exc:  # programs do not wait for a page
        log.warning("The page cannot read pods error=%s", exc)


def make_registry(settings: Settings, wake: Callable[[Key], None]) -> Registry:
    """The registries that programs follow; the operator's credentials are for its own server."""
    own = settings.tracking_credentials
    if own != NOBODY and own.problem:
        log.warning("MLflow is asked without credentials: there is neither a token, nor a user name with a password")
    tracking = Tracking(make_client(REGISTRY_TIMEOUT_SECONDS), settings.tracking_uri, own)
    return Registry(tracking, wake, most_waiting=max(1, settings.workers - 2))
