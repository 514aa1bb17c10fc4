"""Process 1 of a pod, and the whole of `serve -f`: owns the ports, starts workers, passes words on.

It never imports dspy, so that it is up at once and answers probes whatever the program does. The serving
socket is opened here and inherited by the workers: while two of them run, the kernel hands each connection to
either, and when one ends no connection that waits is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client.multiprocess import mark_process_dead
from pydantic import ValidationError

from despina.wire import (
    ADMIN_PORT,
    POD_NAME_ENV,
    SECRET_CHECK_ENV,
    TERMINATION_LOG,
    TERMINATION_LOG_ENV,
    Failure,
    FailureReason,
    Order,
    RuntimeConfig,
)
from despina_runtime.admin import OrderDesk, build_admin
from despina_runtime.server import make_server

log = logging.getLogger(__name__)
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's Service and the kubelet reach it by the pod's own address
Word = Literal["retire", "activate", "drain", "invalidate"]
ORDER_WORDS: dict[str, Word] = {"Retire": "retire", "Activate": "activate", "Invalidate": "invalidate"}
ACKNOWLEDGE_SECONDS = 5.0
RESTARTS, RESTART_SECONDS = 5, 60.0


@dataclass
class Worker:
    """One worker process."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_ready: bool = False

    @classmethod
    async def start(cls, config_file: Path, cache: Path, listen: socket.socket) -> Worker:
        """Start a process on a configuration, with the serving socket and one end of a control socket."""
        ours, theirs = socket.socketpair()
        fds = (listen.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "despina_runtime.worker", str(config_file), str(cache), *map(str, fds)]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=fds)
        theirs.close()
        return cls(process, *await asyncio.open_connection(sock=ours))

    async def first_word(self) -> Failure | None:
        """Wait until the worker serves; the reason if it cannot."""
        line = await self.reader.readline()
        with contextlib.suppress(ValueError):
            self.is_ready = json.loads(line or b"{}").get("ready") is True
        if self.is_ready:
            return None
        code = await self.process.wait()
        try:
            return Failure.model_validate_json(line)
        except ValidationError:
            return Failure(reason=FailureReason.LOAD_FAILED, message=f"the worker ended with code {code}")

    def say(self, word: Word, subject: str = "") -> None:
        """One word; a worker that has gone meanwhile does not hear it."""
        if not self.writer.is_closing():
            self.writer.write(json.dumps({"word": word, "subject": subject}).encode() + b"\n")

    async def ask(self, word: Word, subject: str) -> bool:
        """One word that is answered when it has been obeyed; True also of a worker that has gone."""
        self.say(word, subject)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                await self.reader.readline()
                return True
        return False


class Crew:
    """All workers of one configuration, on one socket.

    One that ends by itself is replaced while others serve; the crew ends when its only worker does, or when five ended
    within a minute.
    """

    def __init__(self, config: RuntimeConfig, cache: Path, listen: socket.socket) -> None:
        self.config = config
        self.ended = asyncio.Event()
        self._file = Path(tempfile.mkdtemp(prefix="despina-")) / "config.json"
        self._file.write_text(config.model_dump_json())
        self._cache, self._listen = cache, listen
        self._workers: list[Worker] = []
        self._watching: set[asyncio.Task[None]] = set()
        self._ends: list[float] = []
        self._has_started = self._is_draining = self._is_retired = False

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
        task = asyncio.create_task(self._outlive(worker))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _outlive(self, worker: Worker) -> None:
        code = await worker.process.wait()
        self._workers.remove(worker)
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
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
        if self._is_retired:
            worker.say("retire")
        return True

    def say(self, word: Word) -> None:
        """One word to all."""
        self._is_draining = self._is_draining or word == "drain"
        self._is_retired = word == "retire"
        for worker in self._workers:
            worker.say(word)

    async def ask(self, word: Word, subject: str) -> bool:
        """One word to all; whether all obeyed."""
        return all(await asyncio.gather(*(w.ask(word, subject) for w in self._workers)))

    async def kill(self) -> None:
        """End all at once."""
        self._is_draining = True
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
        await asyncio.gather(*(w.process.wait() for w in self._workers))


def open_port(host: str, port: int) -> socket.socket:
    """The serving socket. It listens only once a worker is ready: until then, callers are refused at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listen = socket.socket(family, socket.SOCK_STREAM)
    listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listen.bind((host, port))
    listen.set_inheritable(True)
    return listen


def prepare_environment() -> None:
    """What every worker inherits; keys that only make the kubelet check a Secret go no further."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="despina-metrics-"))
    for name in [n for n in os.environ if n.startswith(SECRET_CHECK_ENV)]:
        del os.environ[name]


def on_signals(stop: asyncio.Event) -> None:
    """Set an event on SIGTERM and SIGINT."""
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)


async def serve_pod(config: RuntimeConfig, cache: Path, host: str = EVERYWHERE, admin_port: int = ADMIN_PORT) -> int:
    """Serve one configuration until SIGTERM, then drain. The result is the exit code."""
    prepare_environment()
    stop = asyncio.Event()
    on_signals(stop)
    crew = Crew(config, cache, open_port(host, config.port))
    admin = _serve_admin(crew, stop, open_port(host, admin_port))
    try:
        return await _live(crew, stop)
    finally:
        admin.cancel()


def _serve_admin(crew: Crew, stop: asyncio.Event, port: socket.socket) -> asyncio.Task[None]:
    async def obey(order: Order) -> bool:
        word = ORDER_WORDS[order.order]
        if word == "invalidate":
            return await crew.ask(word, order.subject)
        crew.say(word)
        return True

    desk = OrderDesk(crew.config.namespace, os.environ.get(POD_NAME_ENV, ""), crew.config.order_key)
    app = build_admin(lambda: crew.is_ready and not stop.is_set(), desk, obey)
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
        _leave_word(failure)
        return 1
    ended = asyncio.create_task(crew.ended.wait())
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        return 1
    crew.say("drain")
    await ended
    return 0


def _leave_word(failure: Failure) -> None:
    """Tell the kubelet why, for the operator to read."""
    path = Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG))
    with contextlib.suppress(OSError):
        path.write_text(failure.model_dump_json())
