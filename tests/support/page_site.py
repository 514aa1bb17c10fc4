"""The page over fake sources: an API server that knows a few people, and pods that count what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from despina.cluster.reviews import Person
from despina.dashboard.access import Door, Viewer
from despina.dashboard.app import Site
from despina.dashboard.certificate import context
from despina.dashboard.polling import Poller
from despina.dashboard.traces import Traces
from despina.dashboard.world import World
from despina.sources.asking import Place
from despina.sources.figures import Counted
from despina.wire import Answered, Figures, HeldRevision, PodState, Prompts
from services import free_port
from tests.support.page import a_pod
from tests.support.page_traces import HOSTS, FakeHolders

ADMIN, LOOKER, STRANGER, READER = "admin-token", "looker-token", "stranger-token", "reader-token"
RIGHTS = {
    "ada": {(verb, team) for verb in ("get", "patch", "ask", "payloads", "feedback") for team in ("team-a", "team-b")},
    "rea": {("get", "team-a"), ("payloads", "team-a")},
    "lou": {("get", "team-a")},
    "sam": set(),
}
PEOPLE = {ADMIN: Person("ada", ("devs",)), LOOKER: Person("lou"), READER: Person("rea"), STRANGER: Person("sam")}


class FakeApi:
    """Knows PEOPLE and their RIGHTS, and notes what is patched by whom."""

    def __init__(self) -> None:
        self.rights = {name: set(rights) for name, rights in RIGHTS.items()}
        self.patches: list[tuple[str, tuple[str, str], Mapping[str, Any]]] = []
        self.asked = 0
        self.error: Exception | None = None

    async def person_of(self, token: str) -> Person | None:
        self.asked += 1
        if self.error:
            raise self.error
        return PEOPLE.get(token)

    async def may(self, person: Person, verb: str, namespace: str) -> bool:
        self.asked += 1
        if self.error:
            raise self.error
        return (verb, namespace) in self.rights.get(person.name, set())

    async def hosts(self, namespace: str, tool: str) -> list[tuple[str, str]]:
        return HOSTS.get((namespace, tool), [])

    async def patch(self, viewer: Viewer, key: tuple[str, str], body: Mapping[str, Any]) -> None:
        self.patches.append((viewer.token, key, body))


class FakePods:
    """Each pod counts what stands here for its program."""

    def __init__(self) -> None:
        self.counts: dict[str, Figures | None] = {}
        self.states: dict[str, PodState] = {}
        self.asked: dict[str, int] = {}

    async def figures(self, uid: str, namespace: str, pod: str, ip: str, tag: str = "") -> Counted | None:
        self.asked[uid] = self.asked.get(uid, 0) + 1
        found = self.counts.get(uid)
        return Counted(found) if found else None

    async def state(self, uid: str, namespace: str, pod: str, ip: str) -> PodState | None:
        return self.states.get(uid)


def a_reader(api: FakeApi, holders: FakeHolders | None = None) -> Traces:
    """Asks these pods for traces."""
    return Traces(holders or FakeHolders(), api)  # type: ignore[arg-type]


class FakeHand:
    """Pods that hold what stands here, and answer by hand what stands here; each question is noted."""

    def __init__(self, *revisions: str) -> None:
        held = {name: HeldRevision(phase="Ready") for name in revisions}
        self.holds: PodState | None = PodState(held=held)
        self.interfaces: dict[str, bytes] = {}
        self.prompted: dict[str, Prompts] = {}
        self.answers: list[Answered | Exception] = []
        self.asked: list[tuple[Place, str, str, float]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def state(self, place: Place) -> PodState | None:
        return self.holds

    async def interface(self, place: Place, revision: str) -> bytes:
        return self.interfaces.get(revision, b"")

    async def prompts(self, place: Place, revision: str) -> bytes:
        return self.prompted.get(revision, Prompts()).model_dump_json().encode()

    async def ask(self, place: Place, revision: str, inputs: str, seconds: float) -> Answered:
        self.asked.append((place, revision, inputs, seconds))
        await self.free.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Stage:
    """A running page, and what it is fed by."""

    def __init__(self, is_open: bool = False, proxy_secret: str = "", clock=time.time) -> None:
        self.api, self.pods, self.world = FakeApi(), FakePods(), World(clock)
        self.door = Door(self.api, time.monotonic, proxy_secret, is_open)
        self.holders, self.hand = FakeHolders(), FakeHand("rev7", "rev8", "rev6")
        traces = a_reader(self.api, self.holders)
        self.site = Site(self.world, self.door, self.api, traces, is_local=is_open, pods=self.hand)
        self.port, self.is_tls = free_port(), not is_open
        self.runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://localhost:{self.port}"

    def add(self, manifest: dict[str, Any], counts: Figures | None = None, pods: int = 1) -> None:
        """A program with pods that count this."""
        meta = manifest["metadata"]
        self.world.set_program(manifest)
        self.pods.counts[meta["uid"]] = counts
        for number in range(pods):
            self.world.set_pod(a_pod(f"{meta['name']}-{number}", meta["name"], meta["namespace"]))

    async def heard(self, *uids: str) -> None:
        """Wait until pods of these programs were asked."""
        async with asyncio.timeout(20):
            while not all(self.pods.asked.get(uid) for uid in uids):
                await asyncio.sleep(0.05)

    async def start(self) -> None:
        self.runner = web.AppRunner(self.site.app(), access_log=None, shutdown_timeout=0.5)
        await self.runner.setup()
        tls = context(None, None, ["localhost"]) if self.is_tls else None
        await web.TCPSite(self.runner, "localhost", self.port, ssl_context=tls, reuse_address=True).start()

    async def stop(self) -> None:
        """As if the process ended: streams break off."""
        if self.runner:
            await self.runner.cleanup()
            self.runner = None
        self.site.closing.clear()


@contextlib.asynccontextmanager
async def a_stage(**options: Any) -> AsyncIterator[Stage]:
    """A page that runs, and asks its pods."""
    stage = Stage(**options)
    poller = Poller(stage.world, stage.pods, stage.site.streams.watched)  # type: ignore[arg-type]
    asking = asyncio.create_task(poller.run())
    await stage.start()
    try:
        yield stage
    finally:
        asking.cancel()
        await poller.close()
        await stage.stop()
