"""Asking every program's pods: every ten seconds, and every second those of programs that somebody looks at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from despina.dashboard.facts import Key
from despina.dashboard.world import Known, Pod, World
from despina.sources.figures import Asker

log = logging.getLogger(__name__)
EVERY_SECONDS, WATCHED_SECONDS = 10.0, 1.0
TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Watched:
    """What people look at now."""

    rows: Collection[Key] = ()
    pages: Collection[Key] = ()
    """Their pods are asked for their state, too."""


class Poller:
    """Asks, and passes on what is answered."""

    def __init__(self, world: World, asker: Asker, watched: Callable[[], Watched]) -> None:
        self._world = world
        self._asker = asker
        self._watched = watched
        self._due: dict[Key, float] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            self._tick()
            await asyncio.sleep(TICK_SECONDS)

    def _tick(self) -> None:
        now, watched, programs = self._world.clock(), self._watched(), self._world.programs
        for key in self._due.keys() - programs.keys():
            del self._due[key]
        for key, known in programs.items():
            period = WATCHED_SECONDS if key in watched.rows or key in watched.pages else EVERY_SECONDS
            due = self._due.setdefault(key, now + hash(key) % 1000 / 1000 * EVERY_SECONDS)
            if due - EVERY_SECONDS + period > now or key in self._asking:
                continue
            self._due[key] = now + EVERY_SECONDS
            task = asyncio.create_task(self._ask(key, known, key in watched.pages), name=f"ask {key}")
            self._asking[key] = task
            task.add_done_callback(lambda _, key=key: self._asking.pop(key, None))  # type: ignore[misc]

    async def _ask(self, key: Key, known: Known, with_state: bool) -> None:
        pods, uid, tag = list(known.pods.values()), known.facts.uid, known.meter.tag
        asked = [self._asker.figures(uid, key[0], pod.name, pod.ip, tag(pod.name)) for pod in pods]
        said = dict(zip((pod.name for pod in pods), await asyncio.gather(*asked), strict=True))
        figures = {pod: counted.figures if counted else None for pod, counted in said.items()}
        self._world.heard(key, uid, figures, {pod: counted.tag for pod, counted in said.items() if counted})
        if with_state:
            await asyncio.gather(*(self._ask_state(key, uid, pod) for pod in pods))

    async def _ask_state(self, key: Key, uid: str, pod: Pod) -> None:
        self._world.told(key, pod.name, await self._asker.state(uid, key[0], pod.name, pod.ip))

    async def close(self) -> None:
        """Ask nobody any more."""
        for task in list(self._asking.values()):
            task.cancel()
