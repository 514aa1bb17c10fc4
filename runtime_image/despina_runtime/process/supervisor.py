"""Process 1 of a pod, and the whole of `serve -f`: owns the ports, starts workers, passes words on.

It never imports dspy, so that it is up at once and answers probes whatever the program does. The serving
socket is opened here and inherited by the workers: while two of them run, the kernel hands each connection to
either, and when one ends no connection that waits is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead
from pydantic import ValidationError

from despina.wire import (
    ADMIN_PORT,
    POD_NAME_ENV,
    Failure,
    FailureReason,
    Order,
    PodState,
    RuntimeConfig,
)
from despina_runtime.http.server import EVERYWHERE, make_server, open_port
from despina_runtime.lines import LONGEST_LINE, next_line
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.state import merged
from despina_runtime.surroundings import leave_word, on_signals, prepare_environment

log = logging.getLogger(__name__)
ACKNOWLEDGE_SECONDS = 5.0
NUMBERS = itertools.count(1)
RESTARTS, RESTART_SECONDS = 5, 60.0
WORKERS = "workers"


@dataclass
class Worker:
    """One worker process."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_ready: bool = False
    state: PodState = field(default_factory=PodState)
    """What it last said of itself."""
    asked: dict[int, asyncio.Future[bool]] = field(default_factory=dict)

    @classmethod
    async def start(cls, config_file: Path, cache: Path, listen: socket.socket) -> Worker:
        """Start a process on a configuration, with the serving socket and one end of a control socket."""
        ours, theirs = socket.socketpair()
        fds = (listen.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "despina_runtime.process.worker", str(config_file), str(cache), *map(str, fds)]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=fds)
        theirs.close()
        return cls(process, *await asyncio.open_connection(sock=ours, limit=LONGEST_LINE))

    async def first_word(self) -> Failure | None:
        """Wait until the worker serves; the reason if it cannot."""
        line = await next_line(self.reader)
        with contextlib.suppress(ValueError):
            self.is_ready = json.loads(line or b"{}").get("ready") is True
        if self.is_ready:
            return None
        code = await self.process.wait()
        try:
            return Failure.model_validate_json(line)
        except ValidationError:
            return Failure(reason=FailureReason.LOAD_FAILED, message=f"the worker ended with code {code}")

    async def listen(self) -> None:
        """Take in what the worker says, until it ends; what it was asked by then is as good as done."""
        while line := await next_line(self.reader):
            said = json.loads(line)
            if "state" in said:
                self.state = PodState.model_validate(said["state"])
            if waiting := self.asked.pop(said.get("done", 0), None):
                waiting.set_result(said["ok"])
        for waiting in self.asked.values():
            waiting.set_result(True)

    def say(self, what: dict[str, object]) -> None:
        """One line; a worker that has gone meanwhile does not hear it."""
        if not self.writer.is_closing():
            self.writer.write(json.dumps(what).encode() + b"\n")

    async def ask(self, order: Order) -> bool:
        """An order; whether it was obeyed."""
        number = next(NUMBERS)
        waiting = self.asked[number] = asyncio.get_running_loop().create_future()
        self.say({"id": number, "order": order.model_dump(mode="json", exclude_none=True)})
        try:
            return await asyncio.wait_for(waiting, ACKNOWLEDGE_SECONDS)
        except TimeoutError:
            self.asked.pop(number, None)
            return False


class Crew:
    """All workers of one configuration, on one socket.

    One that ends by itself is replaced while others serve; the crew ends when its only worker does, or when five ended
    within a minute.
    """

    def __init__(self, config: RuntimeConfig, cache: Path, listen: socket.socket) -> None:
        self.config = config
        self.ended = asyncio.Event()
        self._file = cache / WORKERS / f"{config.revision}.json"
        self._file.write_text(config.model_dump_json())
        self._cache, self._listen = cache, listen
        self._workers: list[Worker] = []
        self._watching: set[asyncio.Task[None]] = set()
        self._ends: list[float] = []
        self._has_started = self._is_draining = False
        self._retired: Order | None = None
        self._known = {config.revision: config}
        self._began = asyncio.get_running_loop().time()

    @property
    def is_ready(self) -> bool:
        """Whether somebody serves: from when all did first, as long as one does."""
        return self._has_started and any(w.is_ready for w in self._workers)

    async def start(self) -> Failure | None:
        """Start all; the reason if one cannot serve."""
        self._workers = [await self._launch() for _ in range(self.config.workers)]
        failures = await asyncio.gather(*(w.first_word() for w in self._workers))
        failure = next((f for f in failures if f), None)
        if failure:
            await self.kill()
            return failure
        for worker in self._workers:
            self._watch(worker)
        self._has_started = True
        return None

    async def _launch(self) -> Worker:
        return await Worker.start(self._file, self._cache, self._listen)

    def _watch(self, worker: Worker) -> None:
        for work in (self._outlive(worker), worker.listen()):
            task = asyncio.create_task(work)
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)

    async def _outlive(self, worker: Worker) -> None:
        code = await worker.process.wait()
        self._workers.remove(worker)
        mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]  # or its gauges would count on
        if not self._is_draining:
            log.error("Worker ended by itself code=%s", code)
            if await self._replace():
                return
        if not self._workers:
            self.ended.set()

    async def _replace(self) -> bool:
        """Whether another worker serves instead."""
        now = asyncio.get_running_loop().time()
        self._ends = [*(t for t in self._ends if t > now - RESTART_SECONDS), now]
        if not self._workers or len(self._ends) >= RESTARTS:
            await self.kill()
            return False
        worker = await self._launch()
        failure = await worker.first_word()
        if failure or self._is_draining:
            log.error("Worker is not replaced reason=%s", failure.reason if failure else "draining")
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            return False
        self._workers.append(worker)
        self._watch(worker)
        if self._retired:
            await worker.ask(self._retired)
        return True

    def drain(self) -> None:
        """Have all end when what they accepted is answered."""
        self._is_draining = True
        for worker in self._workers:
            worker.say({"drain": True})

    async def obey(self, order: Order) -> bool:
        """An order to all workers; whether all obeyed. A revision is committed only where all hold it."""
        match order.order:
            case "Prepare" if order.config:
                self._known[order.config.revision] = order.config
            case "Commit" if not self._all_hold(order.subject):
                return False
            case "Retire" | "Activate":
                self._retired = order if order.order == "Retire" else None
        workers = self._workers[:1] if order.order == "Try" else self._workers
        obeyed = all(await asyncio.gather(*(w.ask(order) for w in workers)))
        if obeyed and order.order == "Commit":
            self.config = self._known[order.subject]
            self._file.write_text(self.config.model_dump_json())  # for a worker that takes another one's place
        return obeyed

    def _all_hold(self, revision: str) -> bool:
        held = [w.state.held.get(revision) for w in self._workers]
        return revision in self._known and bool(held) and all(h is not None and h.phase == "Ready" for h in held)

    def state(self) -> PodState:
        """All workers' states as one."""
        uptime = asyncio.get_running_loop().time() - self._began
        return merged([w.state for w in self._workers], uptime)

    def interface(self, revision: str) -> bytes | None:
        """A held revision's interface as JSON Schema, as its workers left it."""
        if revision not in self._known:
            return None
        try:
            return (self._cache / "interfaces" / f"{revision}.json").read_bytes()
        except FileNotFoundError:
            return None

    async def kill(self) -> None:
        """End all at once."""
        self._is_draining = True
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
        await asyncio.gather(*(w.process.wait() for w in self._workers))


def prepare_folder(cache: Path) -> None:
    """Where workers find their configuration and leave their metrics. It is in the cache and always has the same name:
    so the temporary directory stays as it was, and what a killed process left here goes when the next one starts."""
    folder = cache / WORKERS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def latest(config: RuntimeConfig, generation: Path) -> RuntimeConfig:
    """What a pod that starts shall run: the revision that its fellows were changed to, if they were."""
    try:
        found = RuntimeConfig.model_validate_json(generation.read_bytes())
    except FileNotFoundError:
        return config
    except (OSError, ValidationError) as exc:
        log.error("The generation cannot be read, so the Deployment's own revision starts error=%s", type(exc).__name__)
        return config
    return found


async def serve_pod(config: RuntimeConfig, cache: Path, host: str = EVERYWHERE, admin_port: int = ADMIN_PORT) -> int:
    """Serve one configuration until SIGTERM, then drain. The result is the exit code."""
    prepare_environment()
    prepare_folder(cache)
    stop = asyncio.Event()
    on_signals(stop)
    crew = Crew(config, cache, open_port(host, config.port))
    admin = _serve_admin(crew, stop, open_port(host, admin_port))
    try:
        return await _live(crew, stop)
    finally:
        admin.cancel()


def _serve_admin(crew: Crew, stop: asyncio.Event, port: socket.socket) -> asyncio.Task[None]:
    config, boot = crew.config, secrets.token_hex(8)
    desk = OrderDesk(config.namespace, os.environ.get(POD_NAME_ENV, ""), config.order_keys, boot)
    app = build_admin(lambda: crew.is_ready and not stop.is_set(), desk, crew.obey, crew.state, crew.interface)
    return asyncio.create_task(make_server(app, 1).serve(sockets=[port]))


async def _live(crew: Crew, stop: asyncio.Event) -> int:
    """From start to end of a pod's workers."""
    stopped = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(crew.start())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await crew.kill()
        return 0
    if failure := starting.result():
        leave_word(failure.model_dump_json())
        return 1
    ended = asyncio.create_task(crew.ended.wait())
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        return 1
    crew.drain()
    await ended
    return 0
