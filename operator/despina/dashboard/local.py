"""The page of the one program that `despina-runtime serve -f --admin-port` serves on this machine: there is no cluster,
so nobody is asked who looks, and there is nothing that a button could write to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from despina.cluster.errors import Refused
from despina.dashboard.access import LOOK, Door, Viewer
from despina.dashboard.app import Site
from despina.dashboard.facts import Document, Key, facts_of
from despina.dashboard.polling import Poller
from despina.dashboard.run import LOOPBACK, served, until_told
from despina.dashboard.trace_pages import PAYLOADS
from despina.dashboard.traces import Traces
from despina.dashboard.world import World
from despina.desired.labels import PROGRAM
from despina.settings import DashboardSettings
from despina.sources.figures import Asker
from despina.sources.traces import TraceAsker

LOOK_SECONDS = 1.0
SOURCE = "despina-runtime serve -f"
POD = "this-machine"


class Nobody:
    """Knows no person and writes nothing: nobody can get so far."""

    async def person_of(self, token: str) -> NoReturn:
        """Nobody signs in."""
        raise Refused("there is no cluster")

    async def may(self, *_: Any) -> NoReturn:
        """Nobody is somebody."""
        raise Refused("there is no cluster")

    async def hosts(self, namespace: str, tool: str) -> list[tuple[str, str]]:
        """Where tools run is not known here."""
        return []

    async def patch(self, viewer: Viewer, key: Key, body: Mapping[str, Any]) -> NoReturn:
        """Nobody writes."""
        raise Refused("there is no cluster")


class Window(Door):
    """Everybody looks in; nobody acts."""

    def __init__(self) -> None:
        super().__init__(Nobody(), time.monotonic, is_open=True)

    async def acts(self, viewer: Viewer, namespace: str) -> bool:
        """A manifest in a file is edited there, and an alias is moved in MLflow."""
        return False

    async def may(self, viewer: Viewer, verb: str, namespace: str) -> bool:
        """What callers wrote is on this machine; labels are given at the program's own port."""
        return verb in (LOOK, PAYLOADS)


def no_keys() -> tuple[str, ...]:
    """Nothing is signed here."""
    return ()


async def run_local(settings: DashboardSettings, port: int) -> None:
    """Show what is served beside this admin port until SIGTERM or SIGINT."""
    world = World(time.time)
    async with Asker(no_keys, port) as asker, TraceAsker(no_keys, port) as tracer:
        site = Site(world, Window(), Nobody(), Traces(tracer, Nobody()), is_local=True)
        async with served(site, settings, True, None):
            poller = Poller(world, asker, site.streams.watched)
            await until_told([poller.run(), look(world, asker)])
            await poller.close()


async def look(world: World, asker: Asker) -> None:
    """Once a second, for ever; what is the same as before changes nothing."""
    last: Document | None = None
    while True:
        found = await asker.program(LOOPBACK)
        world.said(SOURCE, found is not None)
        if found is not None and found != last:
            show(world, found)
            last = found
        await asyncio.sleep(LOOK_SECONDS)


def show(world: World, program: Document) -> None:
    """A program, and the one pod that it has. Whatever else was shown is there no more."""
    namespace, name = facts_of(program).key
    for other in {known[0] for known in world.programs} - {namespace}:
        world.set_programs(other, [])
    world.set_programs(namespace, [program])
    labels, ready = {PROGRAM: name}, [{"type": "Ready", "status": "True"}]
    world.set_pods(
        namespace,
        [
            {
                "metadata": {"name": POD, "namespace": namespace, "labels": labels},
                "status": {"phase": "Running", "podIP": LOOPBACK, "conditions": ready},
            }
        ],
    )
