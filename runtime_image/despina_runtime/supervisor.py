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
Word = Literal["retire", "activate", "drain"]
ORDER_WORDS: dict[str, Word] = {"Retire": "retire", "Activate": "activate"}


@dataclass
class Worker:
    """One worker process."""

    config: RuntimeConfig
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_ready: bool = False

    @classmethod
    async def start(cls, config: RuntimeConfig, cache: Path, listen: socket.socket) -> Worker:
        """Start a process on a configuration, with the serving socket and one end of a control socket."""
        ours, theirs = socket.socketpair()
        path = Path(tempfile.mkdtemp(prefix="despina-")) / "config.json"
        path.write_text(config.model_dump_json())
        fds = (listen.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "despina_runtime.worker", str(path), str(cache), *map(str, fds)]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=fds)
        theirs.close()
        return cls(config, process, *await asyncio.open_connection(sock=ours))

    async def first_word(self) -> Failure | None:
        """Wait until the worker serves; the reason if it cannot."""
        line = await self.reader.readline()
        with contextlib.suppress(ValueError):
            self.is_ready = json.loads(line or b"{}").get("ready") is True
        if self.is_ready:
            return None
        await self.process.wait()
        try:
            return Failure.model_validate_json(line)
        except ValidationError:
            code = self.process.returncode
            return Failure(reason=FailureReason.LOAD_FAILED, message=f"the worker ended with code {code}")

    def say(self, word: Word) -> None:
        """One word; a worker that has gone meanwhile does not hear it."""
        if not self.writer.is_closing():
            self.writer.write(f"{word}\n".encode())


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
    listen = open_port(host, config.port)
    worker = await Worker.start(config, cache, listen)
    admin = await _serve_admin(config, worker, stop, open_port(host, admin_port))
    try:
        return await _live(worker, stop)
    finally:
        admin.cancel()


async def _serve_admin(
    config: RuntimeConfig, worker: Worker, stop: asyncio.Event, port: socket.socket
) -> asyncio.Task[None]:
    def obey(order: Order) -> None:
        worker.say(ORDER_WORDS[order.order])

    desk = OrderDesk(config.namespace, os.environ.get(POD_NAME_ENV, ""), config.order_key)
    app = build_admin(lambda: worker.is_ready and not stop.is_set(), desk, obey)
    return asyncio.create_task(make_server(app, 1).serve(sockets=[port]))


async def _live(worker: Worker, stop: asyncio.Event) -> int:
    """From start to end of a pod's only worker."""
    ended = asyncio.create_task(worker.process.wait())
    stopped = asyncio.create_task(stop.wait())
    first = asyncio.create_task(worker.first_word())
    await asyncio.wait([first, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not first.done():
        worker.process.kill()
        return 0
    failure = first.result()
    if failure:
        _leave_word(failure)
        return 1
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        log.error("Worker ended by itself code=%s", ended.result())
        return 1
    worker.say("drain")
    return await ended


def _leave_word(failure: Failure) -> None:
    """Tell the kubelet why, for the operator to read."""
    path = Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG))
    with contextlib.suppress(OSError):
        path.write_text(failure.model_dump_json())
