"""Putting the page together and running it until it is told to stop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import math
import re
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from despina.cluster import reviews
from despina.cluster.client import Cluster
from despina.cluster.reading import mapping, text
from despina.cluster.reviews import Person
from despina.cluster.watching import Followed, follow
from despina.dashboard.access import Door, Viewer
from despina.dashboard.app import Site
from despina.dashboard.certificate import context
from despina.dashboard.facts import Key, address_of
from despina.dashboard.polling import Poller
from despina.dashboard.traces import Traces
from despina.dashboard.world import World
from despina.desired.labels import PROGRAM, TOOL
from despina.settings import DashboardSettings
from despina.sources.asking import ByHand
from despina.sources.figures import Asker
from despina.sources.keys import READ_ROOT, READ_ROOT_BEFORE
from despina.sources.prometheus import Prometheus
from despina.sources.traces import TraceAsker

log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
STOP_SECONDS = 2.0
ROOTS_SECONDS = 5.0
LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""What a tool can be called."""
ABOUT_PROGRAMS = "involvedObject.kind=DSPyProgram"


class ApiServer:
    """What the page asks the API server for on behalf of people."""

    def __init__(self, cluster: Cluster, namespaces: Collection[str] = ()) -> None:
        """`namespaces`: those whose tools may be looked for."""
        self._cluster, self._namespaces = cluster, namespaces

    async def person_of(self, token: str) -> Person | None:
        """Whose token it is."""
        return await reviews.person_of(self._cluster, token)

    async def may(self, person: Person, verb: str, namespace: str) -> bool:
        """Whether they may do this with DSPyPrograms."""
        return await reviews.may(self._cluster, person, verb, namespace)

    async def hosts(self, namespace: str, tool: str) -> list[tuple[str, str]]:
        """Names and addresses of a tool's pods."""
        if namespace not in self._namespaces or not LABEL.fullmatch(tool):
            return []
        found = await self._cluster.list("Pod", namespace, {TOOL: tool})
        return [(text(mapping(one.get("metadata")).get("name")), ip) for one in found if (ip := address_of(one))]

    async def patch(self, viewer: Viewer, key: Key, body: Mapping[str, Any]) -> None:
        """Change a program with the viewer's own rights; on an open page these are the process' own."""
        if viewer.is_local:
            await self._cluster.patch_program(*key, dict(body))
            return
        theirs = self._cluster.of_caller(viewer.token)
        try:
            await theirs.patch_program(*key, dict(body))
        finally:
            await theirs.close()


async def run(settings: DashboardSettings, is_open: bool = False) -> None:
    """Run until SIGTERM or SIGINT. `is_open`: whoever reaches the page sees and does everything, on loopback alone."""
    world = World(time.time)
    watched = followed(world, settings.namespaces)
    cluster = await Cluster.connect(watches=len(watched))
    api = ApiServer(cluster, settings.namespaces)
    door = Door(api, time.monotonic, settings.proxy_secret, is_open)
    roots = await read_roots(settings, cluster)
    tls = None if is_open else context(settings.tls_certificate, settings.tls_key, settings.names)
    try:
        async with (
            Asker(roots) as asker,
            TraceAsker(roots) as tracer,
            ByHand(roots) as by_hand,
            contextlib.AsyncExitStack() as stack,
        ):
            await stack.enter_async_context(with_past(world, settings))
            site = Site(world, door, api, Traces(tracer, api), is_local=is_open, pods=by_hand)
            await stack.enter_async_context(served(site, settings, is_open, tls))
            poller = Poller(world, asker, site.streams.watched)
            works = [poller.run(), *(follow(cluster, what) for what in watched)]
            await until_told(works)
            await poller.close()
    finally:
        await cluster.close()


async def until_told(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it until SIGTERM or SIGINT; what ends before raises why."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    tasks = [asyncio.create_task(work) for work in works]
    told = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([*tasks, told], return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, told):
        task.cancel()
    for ended in done:
        ended.result()


@contextlib.asynccontextmanager
async def with_past(world: World, settings: DashboardSettings) -> AsyncIterator[None]:
    """Curves from Prometheus for as long as this lasts, where one is named. Raises OSError for credentials that are
    none."""
    if not settings.prometheus_url:
        yield
        return
    async with Prometheus(settings.prometheus_url, settings.prometheus_credentials) as source:
        world.past.source = source
        yield
        await world.past.close()


@contextlib.asynccontextmanager
async def served(
    site: Site, settings: DashboardSettings, is_open: bool, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    """The port, for as long as this lasts."""
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # anybody can send what is no HTTP, again and again
    runner = web.AppRunner(site.app(), access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    host = LOOPBACK if is_open else None
    await web.TCPSite(runner, host, settings.port, ssl_context=tls).start()
    log.info("Started address=%s://%s:%d", "https" if tls else "http", host or "*", settings.port)
    try:
        yield
    finally:
        await runner.cleanup()


def followed(world: World, namespaces: list[str]) -> list[Followed]:
    """Everything that is watched."""
    kinds: list[tuple[str, Callable[..., None], Callable[..., None], Callable[..., None], dict[str, str]]] = [
        ("DSPyProgram", world.set_programs, world.set_program, world.drop_program, {}),
        ("DSPyTool", world.set_tools, world.set_tool, world.drop_tool, {}),
        ("Pod", world.set_pods, world.set_pod, world.drop_pod, {"label_selector": PROGRAM}),
        ("Event", world.set_notes, world.add_note, world.drop_note, {"field_selector": ABOUT_PROGRAMS}),
    ]
    return [
        Followed(kind, name, partial(each, name), one, gone, partial(world.said, f"{kind} {name}"), params)
        for name in namespaces
        for kind, each, one, gone, params in kinds
    ]


async def read_roots(settings: DashboardSettings, cluster: Cluster) -> Callable[[], tuple[str, ...]]:
    """What programs' read keys are made of: from the mounted Secret, as it is at each moment; where none is mounted,
    as on a laptop, from the cluster, once."""
    if settings.read_keys:
        return Mounted(settings.read_keys, time.monotonic)
    data = (await cluster.get("Secret", settings.namespace, settings.read_secret) or {}).get("data") or {}
    found = tuple(base64.b64decode(data[name]).decode() for name in (READ_ROOT, READ_ROOT_BEFORE) if name in data)
    return lambda: found


class Mounted:
    """Roots in a folder, which Kubernetes renews; read anew every few seconds, and not for each pod that is asked."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder, self._clock = folder, clock
        self._read: tuple[str, ...] = ()
        self._read_at = -math.inf

    def __call__(self) -> tuple[str, ...]:
        """Those at the moment, the present one first."""
        if not self._read or self._clock() - self._read_at >= ROOTS_SECONDS:
            texts = [_text_of(self._folder / name) for name in (READ_ROOT, READ_ROOT_BEFORE)]
            self._read, self._read_at = tuple(filter(None, texts)), self._clock()
        return self._read


def _text_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
