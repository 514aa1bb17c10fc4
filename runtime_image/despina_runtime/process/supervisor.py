"""Process 1 of a pod, and the whole of `serve -f`: owns the ports, starts workers, passes words on.

It never imports dspy, so that it is up at once and answers probes whatever the program does. The serving
socket is opened here and inherited by the workers: while two of them run, the kernel hands each connection to
either, and when one ends no connection that waits is lost.

A worker that ends, or whose event loop stands still for `SILENT_SECONDS`, is replaced. The other one loads apart from
those that serve; it begins to serve, and to be counted, when it is as they are (`wanted.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from despina.wire import (
    ADMIN_PORT,
    POD_IP_ENV,
    POD_NAME_ENV,
    Answered,
    Failure,
    FailureReason,
    Order,
    PodState,
    Question,
    RuntimeConfig,
    may_read,
)
from despina.wire.labels import Label
from despina.wire.predictions import pod_of
from despina_runtime.feedback.line import Wished
from despina_runtime.http.server import EVERYWHERE, make_server, open_port
from despina_runtime.lines import LONGEST_LINE, RECORDS, TRACED, next_line
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.asking import QuestionDesk, Questions, asking_routes
from despina_runtime.process.genai import ENABLED_ENV, genai
from despina_runtime.process.ledger import Ledger
from despina_runtime.process.news import News
from despina_runtime.process.restarts import Ends, pause_seconds
from despina_runtime.process.state import merged
from despina_runtime.process.wanted import Wanted
from despina_runtime.process.wishes import Wishes
from despina_runtime.surroundings import leave_word, on_signals, prepare_environment
from despina_runtime.telemetry.export import exporter_of
from despina_runtime.telemetry.prediction import Names, prepare, revision_in, shared_key
from despina_runtime.telemetry.traces import Traces

if TYPE_CHECKING:
    from despina_runtime.feedback.desk import FeedbackDesk

log = logging.getLogger(__name__)
T = TypeVar("T")
ACKNOWLEDGE_SECONDS = 5.0
NUMBERS = itertools.count(1)
WORKERS = "workers"
LOOK_SECONDS = 0.1
BEAT_SECONDS = 1.0
"""A worker says something at least as often, from its event loop."""
SILENT_SECONDS = 8.0
"""From then on it counts as hanging. A program may compute on the loop for a while, though all of its worker's requests
wait for it; and requests that compute may come one right after the other."""
HEAR_OUT_SECONDS = 1.0
LAST_SECONDS = 3.0
"""Of those that a pod has beyond its drain and its last request; the rest are for the process to end."""
AGAIN_SECONDS = 1.0
LATE_SECONDS = 5.0
"""Beyond its deadline, for whoever waits for an answer to a question by hand."""
JOIN_SECONDS = 600.0
"""A worker that takes another one's place has so long to load what it must."""


@dataclass(eq=False)
class Worker:
    """One worker process."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_ready: bool = False
    state: PodState = field(default_factory=PodState)
    """What it last said of itself."""
    asked: dict[int, asyncio.Future[bool]] = field(default_factory=dict)
    questions: dict[int, asyncio.Future[Answered | None]] = field(default_factory=dict)
    """Those by hand that it works on."""
    _answering: set[asyncio.Task[Any]] = field(default_factory=set)
    silent_seconds: float = 0.0
    """Counted where it is looked for: in seconds that the supervisor itself was awake."""

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
        """Wait until the worker can serve; the reason if it cannot."""
        line = await next_line(self.reader)
        with contextlib.suppress(ValueError):
            if json.loads(line or b"{}").get("loaded") is True:
                return None
        code = await self.process.wait()
        try:
            return Failure.model_validate_json(line)
        except ValidationError:
            return Failure(reason=FailureReason.LOAD_FAILED, message=f"the worker ended with code {code}")

    async def listen(
        self,
        heard: Callable[[], None],
        desk: FeedbackDesk | None,
        wish: Callable[[str], Wished],
        take: Callable[[bytes], None],
        ledger: Ledger,
    ) -> None:
        """Take in what the worker says, until it ends; what it was asked by then is as good as done."""
        while line := await next_line(self.reader):
            self.silent_seconds = 0.0
            if line.startswith((RECORDS, TRACED)):
                take(line)
                continue
            said = json.loads(line)
            if desk and "labels" in said:
                _task(self._store(desk, ledger, said), self._answering)
            if "wish" in said:
                self.say({"id": said["id"], "reply": wish(said["wish"])})
            if "figures" in said:
                ledger.take(self.process.pid, said["figures"])
            self.is_ready = self.is_ready or "ready" in said
            if "state" in said:
                self.state = PodState.model_validate(said["state"])
                heard()
            if "answered" in said and (question := self.questions.pop(said["id"], None)):
                _settle(question, Answered.model_validate(said["answered"]))
            if waiting := self.asked.pop(said.get("done", 0), None):
                waiting.set_result(said["ok"])
        for waiting in self.asked.values():
            waiting.set_result(True)
        for question in self.questions.values():
            _settle(question, None)

    async def _store(self, desk: FeedbackDesk, ledger: Ledger, said: dict[str, Any]) -> None:
        labels = [Label.model_validate(label) for label in said["labels"]]
        replies = await desk.store(labels)
        for label, reply in zip(labels, replies, strict=True):
            if reply.status == "Stored":
                ledger.label(revision_in(label.origin), label.label)
        self.say({"id": said["id"], "reply": [reply.model_dump() for reply in replies]})

    def say(self, what: dict[str, object]) -> None:
        """One line; a worker that has gone meanwhile does not hear it."""
        if not self.writer.is_closing():
            self.writer.write(json.dumps(what).encode() + b"\n")

    def tell(self, order: Order) -> int:
        """An order; the number by which the worker says what came of it."""
        number = next(NUMBERS)
        self.say({"id": number, "order": order.model_dump(mode="json", exclude_none=True)})
        return number

    async def ask(self, order: Order) -> bool:
        """An order; whether it was obeyed."""
        number = self.tell(order)
        waiting = self.asked[number] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(waiting, ACKNOWLEDGE_SECONDS)
        except TimeoutError:
            return False
        finally:
            self.asked.pop(number, None)

    async def answer(self, question: Question, seconds: float) -> Answered | None:
        """What becomes of a question by hand; None where it says nothing of it."""
        number = next(NUMBERS)
        waiting = self.questions[number] = asyncio.get_running_loop().create_future()
        self.say({"id": number, "question": question.revision, "inputs": question.inputs})
        try:
            return await asyncio.wait_for(waiting, seconds)
        except TimeoutError:
            return None
        finally:
            self.questions.pop(number, None)

    def kill(self) -> None:
        """End it at once, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Crew:
    """All workers of one configuration, on one socket.

    One that ends by itself is replaced while others serve; the crew ends when its only worker does, or when five ended
    within a minute.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        cache: Path,
        listen: socket.socket,
        desk: FeedbackDesk | None = None,
        wishes: Wishes | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._desk, self._wishes, self._traces = desk, wishes, traces
        self.ended = asyncio.Event()
        self._wanted = Wanted(config)
        self._file = cache / WORKERS / f"{config.revision}.json"
        self._cache, self._listen = cache, listen
        self._workers: list[Worker] = []
        self._watching: set[asyncio.Task[Any]] = set()
        self._listening: set[asyncio.Task[Any]] = set()
        self._coming: set[asyncio.Task[Any]] = set()
        self._ends = Ends()
        self._has_started = self._is_draining = False
        self._began = asyncio.get_running_loop().time()
        self.news = News(self.state)
        self.ledger = Ledger(self._wanted.versions)
        self._write_down()

    @property
    def config(self) -> RuntimeConfig:
        """What serves."""
        return self._wanted.committed

    @property
    def is_ready(self) -> bool:
        """Whether somebody serves: from when all did first, as long as one does."""
        return self._has_started and any(w.is_ready for w in self._workers)

    async def start(self) -> Failure | None:
        """Start all; the reason if one cannot serve."""
        coming = [_task(self._fill(), self._coming) for _ in range(self.config.workers)]
        failures = await asyncio.gather(*coming)
        if failure := next((f for f in failures if f), None):
            await self.kill()
            return failure
        _task(self._look(), self._watching)
        self._has_started = True
        return None

    async def _fill(self) -> Failure | None:
        """One more worker; the reason if it cannot serve."""
        worker = await Worker.start(self._file, self._cache, self._listen)
        self.ledger.begin(worker.process.pid)
        try:
            failure = await worker.first_word() or await self._bring(worker)
            if failure is None:
                self._join(worker)
            return failure
        finally:
            if worker not in self._workers:
                self.ledger.end(worker.process.pid)
                worker.kill()

    async def _bring(self, worker: Worker) -> Failure | None:
        """Have it load what the others hold, also what they are told to meanwhile; the reason if it cannot serve."""
        heard = self.news.look, self._desk, self._wish, self._take, self.ledger
        listening = _task(worker.listen(*heard), self._listening)
        while not self._wanted.is_held(worker.state, self.state()):
            if listening.done():
                return Failure(reason=FailureReason.LOAD_FAILED, message="the worker ended while it loaded")
            if failure := self._wanted.failure(worker.state):
                return failure
            if worker.state.held:
                for order in self._wanted.to_prepare(worker.state):
                    await worker.ask(order)
            await asyncio.sleep(LOOK_SECONDS)
        return self._wanted.failure(worker.state)

    def _take(self, line: bytes) -> None:
        """What a worker has executed, or answered again."""
        batch = line[len(RECORDS) :]
        if self._desk and line.startswith(RECORDS):
            self._desk.record(batch)
        if self._traces:
            self._traces.take(batch)

    def _wish(self, module: str) -> Wished:
        """A caller's request for an optimisation: its number, or why there is none."""
        if self._wishes is None:
            return "NoOperator"
        before = self._wishes.turn
        try:
            request = self._wishes.ask(module)
        except ValueError:  # what a worker says may be anything, for it runs a model's code
            return "Failed"
        if self._wishes.turn != before:
            asyncio.get_running_loop().call_at(self._wishes.turn, self.news.look)
        return request.number if request else "TooMany"

    def _join(self, worker: Worker) -> None:
        """It serves with the others. Nothing is waited for in between, so that no order can fall there: a later one
        reaches it as it does them."""
        for order in self._wanted.to_join(worker.state, self.state()):
            worker.tell(order)
        worker.say({"serve": True})
        self._workers.append(worker)
        self.news.look()
        _task(self._outlive(worker), self._watching)

    async def _look(self) -> None:
        """End workers that hang: nothing else would. While the supervisor itself is stopped, no time passes here."""
        while not self.ended.is_set():
            await asyncio.sleep(BEAT_SECONDS)
            for worker in self._workers:
                worker.silent_seconds += BEAT_SECONDS
                if worker.silent_seconds > SILENT_SECONDS:
                    log.error(
                        "Worker hung and is killed pid=%s silent_seconds=%.0f", worker.process.pid, SILENT_SECONDS
                    )
                    worker.kill()

    async def _outlive(self, worker: Worker) -> None:
        code = await worker.process.wait()
        self._workers.remove(worker)
        self.news.look()
        self.ledger.end(worker.process.pid)
        if not self._is_draining:
            log.error("Worker ended by itself code=%s", code)
            if self._ends.are_too_many(asyncio.get_running_loop().time()) or not self._workers:
                await self.kill()
            else:
                _task(self._replace(), self._coming)
        if not self._workers:
            self._give_up_replacing()
            if self._listening:  # what the last ones said before they ended
                await asyncio.wait(self._listening, timeout=HEAR_OUT_SECONDS)
            self.ended.set()

    async def _replace(self) -> None:
        """Fill one worker's place, however often that fails."""
        for failures in itertools.count(1):
            reason = await self._try_to_fill()
            if reason is None:
                return
            pause = pause_seconds(failures)
            log.error("Worker is not replaced reason=%s next_try_seconds=%.0f", reason, pause)
            await asyncio.sleep(pause)

    async def _try_to_fill(self) -> str | None:
        """The reason if that failed."""
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                failure = await self._fill()
        except Exception as exc:  # whatever the machine cannot do now, it may a moment later
            return f"{type(exc).__name__}: {exc}"
        return f"{failure.reason}: {failure.message}" if failure else None

    def _give_up_replacing(self) -> None:
        for task in self._coming:
            task.cancel()

    def drain(self) -> None:
        """Have all end when what they accepted is answered."""
        self._is_draining = True
        self._give_up_replacing()
        for worker in self._workers:
            worker.say({"drain": True})

    async def obey(self, order: Order) -> bool:
        """An order to all workers; whether all obeyed. A revision is committed only where all hold it.

        What is ordered shall be so from now on, whoever is there to hear it.
        """
        if order.order == "Commit" and not self._all_hold(order.subject):
            return False
        self.ledger.look()
        self._wanted.take(order)
        if order.order == "Commit":
            self._write_down()
        workers = self._workers[:1] if order.order == "Try" else self._workers
        obeyed = await asyncio.gather(*(w.ask(order) for w in workers))
        return bool(obeyed) and all(obeyed)

    def _write_down(self) -> None:
        """What serves, for a worker that takes another one's place: none shall read half of it."""
        half = self._file.with_suffix(".half")
        half.write_text(self.config.model_dump_json())
        half.replace(self._file)

    def _all_hold(self, revision: str) -> bool:
        held = [w.state.held.get(revision) for w in self._workers]
        return revision in self._wanted.known and bool(held) and all(h is not None and h.phase == "Ready" for h in held)

    def state(self) -> PodState:
        """All workers' states as one."""
        uptime = asyncio.get_running_loop().time() - self._began
        found = merged([w.state for w in self._workers], uptime, self.config.workers)
        told = {"optimize": self._wishes.told() if self._wishes else ()}
        return found.model_copy(update=told | ({"feedback": self._desk.report()} if self._desk else {}))

    async def answer(self, question: Question) -> Answered | None:
        """What becomes of a question by hand, by one of the workers that hold its revision; None where none does."""
        held = [w for w in self._workers if (h := w.state.held.get(question.revision)) and h.phase == "Ready"]
        known = self._wanted.known.get(question.revision)
        if not held or known is None:
            return None
        return await held[question.number % len(held)].answer(question, known.request_timeout_seconds + LATE_SECONDS)

    def told(self, folder: str, revision: str) -> bytes | None:
        """Of a held revision, as its workers left it: its interface as JSON Schema, or what its prompts are made of."""
        if revision not in self._wanted.known:
            return None
        try:
            return (self._cache / folder / f"{revision}.json").read_bytes()
        except FileNotFoundError:
            return None

    async def kill(self) -> None:
        """End all at once."""
        self._is_draining = True
        self._give_up_replacing()
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*(w.process.wait() for w in self._workers), *self._coming, return_exceptions=True)


def _settle(question: asyncio.Future[Answered | None], answered: Answered | None) -> None:
    """Unless nobody waits for it any more."""
    if not question.done():
        question.set_result(answered)


def _task(work: Coroutine[Any, Any, T], among: set[asyncio.Task[Any]]) -> asyncio.Task[T]:
    """A task that is kept for as long as it runs: the loop alone would not."""
    task = asyncio.create_task(work)
    among.add(task)
    task.add_done_callback(among.discard)
    return task


def prepare_folder(cache: Path) -> None:
    """Where workers find their configuration. It is in the cache and always has the same name: so the temporary
    directory stays as it was, and what a killed process left here goes when the next one starts."""
    folder = cache / WORKERS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


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
    told = asyncio.create_task(_moment_of(stop))
    desk, traces = telemetry_of(config, cache, admin_port)
    if desk:
        desk.start()
    crew = Crew(config, cache, open_port(host, config.port), desk, Wishes(asyncio.get_running_loop().time), traces)
    traces.boot = crew.ledger.boot
    admin = _serve_admin(crew, stop, open_port(host, admin_port), desk, traces)
    try:
        return await _live(crew, stop)
    finally:
        admin.cancel()
        await close_telemetry(desk, traces, _left(config, told))


async def _moment_of(stop: asyncio.Event) -> float:
    await stop.wait()
    return asyncio.get_running_loop().time()


def _left(config: RuntimeConfig, told: asyncio.Task[float]) -> float:
    """Seconds until the kubelet ends the container; hardly any where that ends by itself and starts again with all that
    is on its disk."""
    if not told.done():
        return AGAIN_SECONDS
    since = asyncio.get_running_loop().time() - told.result()
    return max(AGAIN_SECONDS, config.drain_seconds + config.request_timeout_seconds + LAST_SECONDS - since)


def telemetry_of(config: RuntimeConfig, cache: Path, admin_port: int) -> tuple[FeedbackDesk | None, Traces]:
    """Where feedback goes to, if the manifest wants it, and what holds the pod's traces."""
    pod = pod_of(os.environ.get(POD_IP_ENV, ""), admin_port)
    prepare(cache, pod)
    names = Names(shared_key(config), config.revision, pod)
    resource = {"service.name": config.program, "service.namespace": config.namespace}
    resource |= {"service.instance.id": os.environ.get(POD_NAME_ENV, "")}  # the version changes while it runs
    traces = Traces(config, names.signed, exporter=exporter_of(os.environ, resource))
    if config.feedback is None:
        return None, traces
    from despina_runtime.feedback.desk import FeedbackDesk  # its client takes a while to import

    desk = FeedbackDesk(config, config.feedback, cache, pod)
    desk.on_spoken = traces.mark
    return desk, traces


async def close_telemetry(desk: FeedbackDesk | None, traces: Traces | None, seconds: float) -> None:
    """Bring out what can be in this time. The desk ends first, for what it writes last speaks of traces."""
    if desk:
        await desk.close(max(AGAIN_SECONDS, seconds - AGAIN_SECONDS))
    if traces:
        await traces.close(AGAIN_SECONDS)


def _serve_admin(
    crew: Crew, stop: asyncio.Event, port: socket.socket, desk: FeedbackDesk | None, traces: Traces
) -> asyncio.Task[None]:
    config = crew.config
    here = config.namespace, os.environ.get(POD_NAME_ENV, "")
    is_reader = partial(may_read, config.read_key, *here)
    questions = Questions(QuestionDesk(*here, config.ask_key, crew.ledger.boot), crew.answer)
    app = build_admin(
        lambda: crew.is_ready and not stop.is_set(),
        OrderDesk(*here, config.order_keys, crew.ledger.boot),
        crew.obey,
        crew.state,
        crew.news,
        partial(crew.told, "interfaces"),
        is_reader,
        desk,
        crew.ledger.figures,
        [partial(genai, lambda: crew.config.lms)] if os.environ.get(ENABLED_ENV) == "1" else [],
        traces,
        asking_routes(questions, partial(crew.told, "prompts"), is_reader),
    )
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
