"""One worker: the revisions that it holds, which of them serves, and what runs beside the requests.

Revisions of equal code share one process: caches, sessions and capacity are the worker's, while program, LMs, corridor
and counts are each revision's own. Committing one is a single assignment; a request ends on the revision that it began
with, for it holds that revision's objects.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from despina.wire import (
    CERTAIN,
    FALLBACK_HEADER,
    TOOLS_HEADER,
    Answered,
    Failure,
    FailureReason,
    HeldRevision,
    Order,
    PodState,
    RuntimeConfig,
    ShadowConfig,
    TrialTools,
    TryReport,
)
from despina.wire.logs import FACTS
from despina_runtime.breaker import State
from despina_runtime.cache.failures import take as take_failures
from despina_runtime.cache.keys import canonical
from despina_runtime.cache.store import Store
from despina_runtime.feedback.line import Line
from despina_runtime.http.app import Service
from despina_runtime.http.asgi import Scope, Send
from despina_runtime.http.sessions import Sessions
from despina_runtime.lm.client import LMs
from despina_runtime.lm.target import KeyFile
from despina_runtime.memory import resident_bytes, settle
from despina_runtime.messages import Receive
from despina_runtime.pipeline.asked import answered, not_held
from despina_runtime.pipeline.call import Call
from despina_runtime.pipeline.corridor import Capacity, Corridors
from despina_runtime.pipeline.record import Record
from despina_runtime.pipeline.shadow import Ask, Shadow
from despina_runtime.problem import as_problem
from despina_runtime.program.fetch import fetch_beside, folder_of
from despina_runtime.program.load import Loaded, load
from despina_runtime.program.prompts import prompts_of
from despina_runtime.program.unservable import ProgramError
from despina_runtime.program.warmup import warm_up
from despina_runtime.telemetry.context import ratio_of
from despina_runtime.telemetry.counting import Counting, VersionCounts, add
from despina_runtime.telemetry.prediction import names_of
from despina_runtime.telemetry.recorder import Recorder
from despina_runtime.tools.api import make_toolbox, refusal_of, rehearsing
from despina_runtime.tools.grid import Grid

if TYPE_CHECKING:
    from despina_runtime.cache.redis import RedisTier

log = logging.getLogger(__name__)
T = TypeVar("T")
BUSY_SECONDS = 0.25
RSS_BYTES = 2**20
"""Memory is told in these: each request moves it a little."""
SECOND_TRY_SECONDS = 2.0
MEMBERS_SECONDS = 1.0
TRIES_KEPT = 8
INTERFACES, PROMPTS = "interfaces", "prompts"


def load_program(config: RuntimeConfig, cache: Path, running: Loaded | None = None) -> Loaded:
    """The program; raises ProgramError. What is told of it is left where the supervisor finds it."""
    with rehearsing(make_toolbox(config)):
        loaded = load(folder_of(config.model, cache), config, cache, running)
    told = {
        INTERFACES: json.dumps(loaded.interface.schema()),
        PROMPTS: prompts_of(loaded.program, config).model_dump_json(exclude_defaults=True),
    }
    for folder, text in told.items():
        (cache / folder).mkdir(parents=True, exist_ok=True)
        (cache / folder / f"{config.revision}.json").write_text(text, errors="replace")
    return loaded


async def try_out(loaded: Loaded, config: RuntimeConfig) -> Loaded:
    """The program after a first run on the event loop that will serve it: what it keeps belongs there. Raises
    ProgramError."""
    with rehearsing(make_toolbox(config)):
        return await warm_up(loaded, config.warm_up)


class Revision:
    """One revision in one worker, ready to serve. It is made on the event loop."""

    def __init__(
        self,
        loaded: Loaded,
        config: RuntimeConfig,
        store: Store | None,
        sessions: Sessions,
        capacity: Capacity,
        grid: Grid,
        recorders: tuple[Recorder, Recorder],
        line: Line,
        counts: VersionCounts,
    ) -> None:
        self.config = config
        self.loaded = loaded
        self.store = store
        self.lms = LMs(config, store, loaded.program, counts=counts)
        self.toolbox = make_toolbox(config)
        self.toolbox.serve(grid, store)
        recording = recorders[0], names_of(config), ratio_of(os.environ), recorders[1]
        self.corridors = Corridors(config, store, self.lms, capacity, self.toolbox, *recording, counts=counts)
        self.service = Service(loaded, config, self.corridors, sessions.beside(self.lms.names), line)
        self._trial = self.corridors.build_trial(loaded.program, loaded.is_async, loaded.interface)
        self._asked = self.corridors.build_asked(loaded.program, loaded.is_async, loaded.interface)
        self._questions = 0

    async def close(self) -> None:
        """Give connections back."""
        await self.service.close()
        await self.corridors.close()
        await self.lms.close()

    async def try_out(self, body: bytes, refusal: str) -> bytes:
        """The outputs for one body, past cache, limits and fallback, and without NonIdempotent tools where `refusal`
        says why; raises Problem."""
        deadline = asyncio.get_running_loop().time() + self.config.request_timeout_seconds
        call = Call(body, deadline, self.config.lm)
        call.refusal = refusal
        return (await self._trial(call)).body

    async def answer(self, body: bytes) -> Answered:
        """What becomes of a question by hand; until then it is not freed."""
        self._questions += 1
        try:
            return await answered(self._asked, body, self.config, names_of(self.config).signed)
        finally:
            self._questions -= 1

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits for an answer of it."""
        return self.service.is_busy or self._questions > 0


class Engine:
    """All revisions of one worker."""

    def __init__(self, loaded: Loaded, config: RuntimeConfig, cache: Path) -> None:
        self._cache = cache
        self._redis = _redis(config)
        self._capacity = Capacity(config)
        self._loader = ThreadPoolExecutor(4, "loader")  # the program's own threads may all be busy
        self.recorder, self.line = Recorder(), Line()
        self.traced = Recorder()
        """Of what was given again, which is no prediction of its own, and whose callers asked for its trace."""
        self._counting, self._gauges = Counting(), dict[str, Any]()
        self._released: list[Record] = []
        """Of revisions that have requests to end."""
        self._grid = Grid(self._counting.tools)
        self._first_store = Store(config, cache, self._redis) if config.cache else None
        self._sessions = Sessions(cache, config.session_ttl_seconds, self._redis, [])
        self._held: dict[str, Revision] = {}
        self._others: dict[str, HeldRevision] = {}
        self._preparing: dict[str, tuple[asyncio.Task[None], threading.Event]] = {}
        self._tries: dict[str, TryReport] = {}
        self.has_result = asyncio.Event()
        """Something that an order began has come to its end, and its result is in the state."""
        self._is_retired = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._beside: list[asyncio.Task[None]] = []
        self.current = self._held[config.revision] = self._revision(loaded, config)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI entry point; not a coroutine itself, for that would cost each request another one."""
        return self.current.service(scope, receive, send)

    def _revision(self, loaded: Loaded, config: RuntimeConfig) -> Revision:
        beside = self.current.store if self._held else self._first_store
        store = beside.beside(config) if beside else None
        counts = self._counting.begin(config.model.version)
        shared = self._sessions, self._capacity, self._grid, (self.recorder, self.traced), self.line
        try:
            return Revision(loaded, config, store, *shared, counts)
        except Exception:
            self._counting.end(config.model.version)
            raise

    async def start(self) -> None:
        """Begin what runs beside the requests."""
        asyncio.get_running_loop().set_default_executor(self._capacity.threads)
        await self._follow_epochs()
        self._beside = [asyncio.create_task(work) for work in (self._follow(), self._share())]

    async def obey(self, order: Order) -> bool:
        """Carry out an order of the operator's; what takes long only begins here. False: it could not be done."""
        match order.order:
            case "Retire" | "Activate":
                self.retire(order.order == "Retire")
            case "Invalidate":
                await self._invalidate(order.subject)
            case "Prepare" if order.config:
                self._prepare(order.config)
            case "Commit":
                return self._commit(order.subject)
            case "Release":
                self._release(order.subject)
            case "Try":
                self._try(order.subject, order.inputs or {}, refusal_of(order.tools, "smoke"))
            case "Shadow":
                self._shadow(order.shadow)
            case "OpenBreaker" | "CloseBreaker":
                self._force_breaker(State.OPEN if order.order == "OpenBreaker" else State.CLOSED)
        return True

    def retire(self, is_retired: bool) -> None:
        """Whether each answer asks its caller to connect anew."""
        self._is_retired = is_retired
        self.current.service.is_retired = is_retired

    def _prepare(self, config: RuntimeConfig) -> None:
        """Begin to load a revision beside the others, unless it is here or on its way."""
        name = config.revision
        known = self._others.get(name)
        if name in self._held or (known and known.phase == "Preparing"):
            return
        self._others[name] = HeldRevision(phase="Preparing")
        unwanted = threading.Event()
        self._preparing[name] = (asyncio.create_task(self._load_beside(config, unwanted)), unwanted)

    async def _load_beside(self, config: RuntimeConfig, unwanted: threading.Event) -> None:
        """In a thread, for files are fetched and code of the program's runs; but for its first run."""
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._fetch_and_load, config, unwanted
            )
            loaded = await try_out(loaded, config)
            revision = self._revision(loaded, config)
        except ProgramError as exc:
            self._refuse(config, exc.failure)
        except Unwanted:
            self._others.pop(config.revision, None)
        except Exception as exc:
            log.exception("Cannot hold revision=%s", config.revision)
            message = f"{type(exc).__name__}: {exc}"[:1024]
            self._refuse(config, Failure(reason=FailureReason.LOAD_FAILED, message=message))
        else:
            if unwanted.is_set():
                self._leaving(revision)
            else:
                self._held[config.revision] = revision
            self._others.pop(config.revision, None)
        finally:
            self._preparing.pop(config.revision, None)
            self.has_result.set()

    def _refuse(self, config: RuntimeConfig, failure: Failure) -> None:
        log.warning("Cannot hold revision=%s reason=%s message=%s", config.revision, failure.reason, failure.message)
        self._others[config.revision] = HeldRevision(phase="Failed", failure=failure)

    def _fetch_and_load(self, config: RuntimeConfig, unwanted: threading.Event) -> Loaded:
        def sleep(seconds: float) -> None:
            if unwanted.wait(seconds):
                raise Unwanted

        def load_once() -> Loaded:
            fetch_beside(config, self._cache, sleep)
            return load_program(config, self._cache, self.current.loaded)

        return twice(load_once, sleep)

    def _commit(self, name: str) -> bool:
        """From now on requests begin on this revision."""
        if name not in self._held:
            return False
        before, self.current = self.current, self._held[name]
        self.current.service.is_retired = self._is_retired
        if before is not self.current:
            before.service.shadow = None
            FACTS["revision"] = name
            log.info("Committed revision=%s version=%s", name, self.current.config.model.version)
        return True

    def _release(self, name: str) -> None:
        """Free a revision that does not serve; its last requests end first."""
        if name == self.current.config.revision:
            return
        self._others.pop(name, None)
        if name in self._preparing:
            self._preparing[name][1].set()
        if revision := self._held.pop(name, None):
            self._leaving(revision)

    def _leaving(self, revision: Revision) -> None:
        """Free it when its last request has ended; until then it counts."""
        record, version = revision.service.record, revision.config.model.version
        self._released.append(record)
        self._later(self._let_go(_free(revision), record, version))

    async def _let_go(self, freeing: Awaitable[None], record: Record, version: str) -> None:
        try:
            await freeing
        finally:
            self._released.remove(record)
            self._counting.end(version)

    def _try(self, subject: str, inputs: dict[str, Any], refusal: str) -> None:
        if subject not in self._tries:
            while len(self._tries) >= TRIES_KEPT:
                self._tries.pop(next(iter(self._tries)))
            self._later(self._ask(subject, canonical(inputs), refusal))

    async def _ask(self, subject: str, body: bytes, refusal: str) -> None:
        revision = self._held.get(subject.partition(":")[0])
        if revision is None:
            return
        try:
            await revision.try_out(body, refusal)
        except Exception as exc:
            problem = as_problem(exc)
            text = f"{problem.status} {problem.title}" + (f": {problem.detail}" if problem.detail else "")
            self._tries[subject] = TryReport(ok=False, message=text[:1024])
        else:
            self._tries[subject] = TryReport(ok=True, message="answered")
        self.has_result.set()

    async def answer(self, revision: str, body: bytes) -> Answered:
        """What becomes of a question by hand to a revision."""
        held = self._held.get(revision)
        return await held.answer(body) if held else not_held()

    def _shadow(self, config: ShadowConfig | None) -> None:
        service = self.current.service
        if service.shadow and config and service.shadow.config == config:
            return
        if service.shadow:
            service.shadow.close()
        service.shadow = Shadow(config, self._asker(config)) if config else None

    def _asker(self, config: ShadowConfig) -> Ask:
        if config.url:
            return _Elsewhere(config.url, config.tools, self.current.config).ask
        refusal = refusal_of(config.tools, "shadow")

        async def ask(body: bytes) -> bytes | None:
            candidate = self._held.get(config.revision)
            return await candidate.try_out(body, refusal) if candidate else None

        return ask

    def _force_breaker(self, state: State) -> None:
        if guard := self.current.corridors.guard:
            guard.force(state)

    async def _invalidate(self, subject: str) -> None:
        for store in self._stores():
            await store.invalidate(subject)

    def _stores(self) -> list[Store]:
        return [r.store for r in self._held.values() if r.store]

    async def _follow_epochs(self) -> None:
        for store in self._stores():
            await store.follow()

    async def _follow(self) -> None:
        if self._redis:
            await self._redis.watch(self._follow_epochs)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def state(self) -> PodState:
        """What this worker says of itself."""
        guard, shadow = self.current.corridors.guard, self.current.service.shadow
        name = self.current.config.revision
        ready = {r: _as_told(held.loaded) for r, held in self._held.items()}
        return PodState(
            revision=name,
            held=self._others | ready,
            counts={n: r.corridors.tally.report() for n, r in self._held.items() if r.corridors.tally},
            breakers=(guard.report(),) if guard else (),
            tries=self._tries,
            shadow=shadow.report() if shadow else None,
        )

    def figures(self) -> dict[str, Any]:
        """What was counted since they were taken last, and what is now, as `Figures`; empty if nothing has changed."""
        guard = self.current.corridors.guard
        gauges = {
            "in_flight": sum(r.in_flight for r in (*self._released, *(h.service.record for h in self._held.values()))),
            "queued": self._capacity.slots.waiting,
            "breaker_open": guard is not None and guard.report().state != State.CLOSED.value,
            "rss_bytes": resident_bytes() // RSS_BYTES * RSS_BYTES,
        }
        counted = self._counting.take()
        if failures := take_failures():
            counted["cache_failures"] = failures
        if dropped := self._dropped():
            counted["dropped"] = dropped
        if not counted and gauges == self._gauges:
            return {}
        self._gauges = gauges
        return counted | gauges

    def _dropped(self) -> dict[str, dict[str, int]]:
        """What is lost since this was asked last. Without feedback, what is recorded are traces and nothing else."""
        recorded, traces = self.recorder.take_dropped(), self.traced.take_dropped()
        if self.current.config.feedback is None:
            add(traces, recorded)
            recorded = {}
        return {signal: lost for signal, lost in (("predictions", recorded), ("traces", traces)) if lost}

    async def _share(self) -> None:
        """The rate limit is the whole program's: each worker has its part, by the workers that Redis sees."""
        if not (self._redis and self._capacity.bucket):
            return
        while True:
            members = await self._redis.count_members(MEMBERS_SECONDS * 3)
            if members:
                self._capacity.bucket.share = 1 / members
            await asyncio.sleep(MEMBERS_SECONDS)

    async def stop(self) -> None:
        """Give everything back; what does not let go within a second ends with the process."""
        for task in (*self._beside, *self._tasks):
            task.cancel()
        for _, unwanted in self._preparing.values():
            unwanted.set()
        await asyncio.wait(self._beside, timeout=1)
        self._capacity.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                for revision in self._held.values():
                    await revision.close()
                await self._grid.close()
                if self._first_store:
                    await self._first_store.close()
        self._sessions.close()


def twice(load_once: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """With a second try, unless the reason of the first one's failure is certain: for the pods' word is final."""
    try:
        return load_once()
    except (ProgramError, OSError) as exc:
        if isinstance(exc, ProgramError) and exc.failure.reason in CERTAIN:
            raise
        log.warning("The revision is tried once more error=%s", exc)
    sleep(SECOND_TRY_SECONDS)
    return load_once()


def _as_told(loaded: Loaded) -> HeldRevision:
    return HeldRevision(phase="Ready", digest=loaded.digest, remark=loaded.remark)


class Unwanted(Exception):
    """Nobody waits for this revision any more."""


class _Elsewhere:
    """A candidate in other pods, behind the preview Service."""

    def __init__(self, url: str, tools: TrialTools, config: RuntimeConfig) -> None:
        self._url = url
        self._headers = {"content-type": "application/json", FALLBACK_HEADER: "1", TOOLS_HEADER: tools}
        self._token = KeyFile(config.auth_token_file)
        self._timeout = aiohttp.ClientTimeout(total=config.request_timeout_seconds)
        self._client: aiohttp.ClientSession | None = None

    async def ask(self, body: bytes) -> bytes | None:
        """The candidate's outputs; None for anything but a 200."""
        self._client = self._client or aiohttp.ClientSession(timeout=self._timeout)
        token = self._token.read()
        headers = self._headers | ({"authorization": f"Bearer {token}"} if token else {})
        try:
            async with self._client.post(self._url, data=body, headers=headers) as response:
                return await response.read() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None


async def _close(revision: Revision) -> None:
    """When its last request has ended."""
    while revision.is_busy:
        await asyncio.sleep(BUSY_SECONDS)
    await revision.close()


async def _free(revision: Revision) -> None:
    """Close it, and have its memory back."""
    await _close(revision)
    del revision
    settle()


def _redis(config: RuntimeConfig) -> RedisTier | None:
    if not (config.cache and config.cache.redis):
        return None
    url = KeyFile(config.cache.redis.url_file).read()
    if not url:
        log.error("The Redis URL's file is missing or empty file=%s", config.cache.redis.url_file)
        return None
    from despina_runtime.cache.redis import RedisTier  # only those who use it pay for its import

    if config.cache.redis.seal_file is None:
        return RedisTier(config, config.cache.redis, url)
    file = KeyFile(config.cache.redis.seal_file)
    return RedisTier(config, config.cache.redis, url, lambda: (file.read() or "").encode().split())
