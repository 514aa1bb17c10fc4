"""Asking every program's pods: every ten seconds while anybody has a page open, every second those of what is on a
screen, and every thirty seconds while nobody has any."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from despina.dashboard.facts import Key
from despina.dashboard.world import Known, Pod, World
from despina.sources.figures import Asker

log = logging.getLogger(__name__)
EVERY_SECONDS, WATCHED_SECONDS, RESTING_SECONDS = 10.0, 1.0, 30.0
TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Watched:
    """What people look at now."""

    rows: Collection[Key] = ()
    pages: Collection[Key] = ()
    """Their pods are asked for their state, too."""
    anybody: bool = False
    """Whether any page is open; while none is, nobody misses figures that are ten seconds old."""


class Poller:
    """Asks, and passes on what is answered."""

    def __init__(self, world: World, asker: Asker, watched: Callable[[], Watched]) -> None:
        self._world = world
        self._asker = asker
        self._watched = watched
        self._every = EVERY_SECONDS
        self._asked: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._queue: list[tuple[float, Key]] = []
        """A heap of the same: of thousands of programs only those are looked at that are due."""
        self._asking: dict[Key, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            self._tick()
            await asyncio.sleep(TICK_SECONDS)

    def _tick(self) -> None:
        now, watched, programs = self._world.clock(), self._watched(), self._world.programs
        self._turn_to(EVERY_SECONDS if watched.anybody else RESTING_SECONDS, now)
        for key in programs.keys() - self._due.keys():
            self._plan(key, due_after(now, EVERY_SECONDS, hash(key)))
        for key in self._due.keys() - programs.keys():
            del self._due[key]
            self._asked.pop(key, None)
        while self._queue and self._queue[0][0] <= now:
            due, key = heapq.heappop(self._queue)
            if self._due.get(key) == due:
                self._begin(key, now, key in watched.pages)
        for key in {*watched.rows, *watched.pages}:
            if key in programs and self._asked.get(key, -math.inf) + WATCHED_SECONDS <= now:
                self._begin(key, now, key in watched.pages)

    def _turn_to(self, every: float, now: float) -> None:
        """Whoever opens a page after nobody had one sees no figures that are older than for others."""
        before, self._every = self._every, every
        if every < before:
            for key, due in self._due.items():
                self._plan(key, min(due, max(now, self._asked.get(key, now) + every)))

    def _plan(self, key: Key, due: float) -> None:
        if self._due.get(key) != due:
            self._due[key] = due
            heapq.heappush(self._queue, (due, key))

    def _begin(self, key: Key, now: float, with_state: bool) -> None:
        if key in self._asking:
            if self._due[key] <= now:
                self._plan(key, now + WATCHED_SECONDS)
            return
        self._asked[key] = now
        self._plan(key, due_after(now, self._every, hash(key)))
        task = asyncio.create_task(self._ask(key, self._world.programs[key], with_state), name=f"ask {key}")
        self._asking[key] = task
        task.add_done_callback(lambda _: self._asking.pop(key, None))

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


def due_after(now: float, every: float, place: int) -> float:
    """When a program is asked next: at its own second of every so many, so that after all were asked at once they are
    spread again; many in the same second, which is less work."""
    return now + every - (now - place % int(every)) % every
