"""The process that holds the program: load, warm up, serve, drain. The supervisor starts it.

It speaks JSON lines on its control socket: `{"loaded": true}` when it can serve, or the `Failure` that says why not;
then `{"state": PodState}` whenever that changes, and at least once a second, so that silence tells of an event loop
that stands still; `{"figures": Figures}` with what it counted since it said so last, twice a second at most;
`{"done": ID, "ok": ...}` for what it was told; `{"ready": true}` when it serves; and for its
callers `{"id": ID, "labels": ...}` and `{"id": ID, "wish": MODULE}`, which `{"id": ID, "reply": ...}` answers. It hears
`{"id": ID, "order": Order}`; `{"id": ID, "question": REVISION, "inputs": JSON}`, which it answers by `{"id": ID,
"answered": Answered}`; `{"serve": true}`, before which it takes no connections; and `{"drain": true}`.

Nothing heavy is imported before the model's files are being fetched.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from despina.wire import Order, RuntimeConfig
from despina.wire.logs import LOG_FORMAT_ENV, set_up
from despina_runtime.http.server import Server, make_server
from despina_runtime.lines import LONGEST_LINE, RECORDS, TRACED, next_line
from despina_runtime.memory import settle
from despina_runtime.problem import place_of
from despina_runtime.program.fetch import Fetching
from despina_runtime.program.unservable import ProgramError

if TYPE_CHECKING:
    from despina_runtime.engine import Engine

log = logging.getLogger(__name__)
TELL_SECONDS = 0.1
MOST_UNREAD = 2**24
"""Bytes that may wait for the supervisor."""
FIGURES_EVERY = 5
"""So many looks: what is counted is told."""
TELL_ANYWAY = 10
"""After so many looks the state is told though it is the same."""


def main(config_path: str, cache: str, listen_fd: str, control_fd: str) -> int:
    """Run until told to drain."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    config = RuntimeConfig.model_validate_json(Path(config_path).read_bytes())
    set_up(os.environ.get(LOG_FORMAT_ENV) or config.log_format, program=config.program, revision=config.revision)
    control = socket.socket(fileno=int(control_fd))
    fetching = Fetching(config_path, config, Path(cache))
    from despina_runtime.engine import Engine, load_program, try_out

    try:
        fetching.result()
        loaded = [load_program(config, Path(cache))]

        async def make() -> Engine:
            # It is handed over: a name for it here would keep it when its revision is released.
            return Engine(await try_out(loaded.pop(), config), config, Path(cache))

        uvloop.run(_serve(make, config, int(listen_fd), control))
    except ProgramError as exc:
        log.error("Cannot serve reason=%s message=%s", exc.failure.reason, exc)
        control.sendall(exc.failure.model_dump_json().encode() + b"\n")
        return 1
    # Threads that a request left behind at its deadline must not keep the process.
    logging.shutdown()
    os._exit(0)


async def _serve(
    make: Callable[[], Awaitable[Engine]], config: RuntimeConfig, listen_fd: int, control: socket.socket
) -> None:
    asyncio.get_running_loop().set_exception_handler(_tell_the_kind)
    threading.excepthook = _tell_the_threads_kind
    engine = await make()
    await engine.start()
    settle()
    # A request leaves few cycles behind, so that the young generation need not be looked through every twenty requests.
    gc.set_threshold(10_000, 10, 10)
    server = make_server(engine, config.request_timeout_seconds, config.request_timeout_seconds)
    reader, writer = await asyncio.open_connection(sock=control, limit=LONGEST_LINE)
    _say(writer, {"loaded": True})
    engine.line.connect(lambda said: _say(writer, said))
    joined = asyncio.Event()
    beside = [
        asyncio.create_task(_obey(reader, writer, engine, server, joined, config.drain_seconds)),
        asyncio.create_task(_tell(writer, engine)),
        asyncio.create_task(_hand_over(writer, engine)),
    ]
    await joined.wait()
    serving = asyncio.create_task(server.serve(sockets=[socket.socket(fileno=listen_fd)]))
    while not server.started:
        await asyncio.sleep(0.005)
    log.info("Serving program=%s version=%s", config.program, engine.current.config.model.version)
    _say(writer, {"ready": True})
    await serving
    for task in beside:
        task.cancel()
    _hand_over_now(writer, engine)
    _tell_figures(writer, engine)
    with suppress(ConnectionError):  # the supervisor may have gone first
        await writer.drain()
    await engine.stop()


def _tell_the_kind(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Of an error that nobody takes, as of a task that a program began and forgot. Its text may be a caller's words."""
    exc = context.get("exception")
    if exc is None:
        log.error("%s", context["message"])
    else:
        log.error("%s error=%s\n%s", context["message"], type(exc).__name__, place_of(exc))


def _tell_the_threads_kind(what: threading.ExceptHookArgs) -> None:
    place = place_of(what.exc_value) if what.exc_value else ""
    log.error("A thread of the program's ended error=%s\n%s", what.exc_type.__name__, place)


def _say(writer: asyncio.StreamWriter, what: object) -> None:
    writer.write(json.dumps(what).encode() + b"\n")


async def _tell(writer: asyncio.StreamWriter, engine: Engine) -> None:
    """The worker's state, whenever it is another one, and now and then as a sign of life."""
    before = None
    for look in itertools.count():
        state = engine.state().model_dump(mode="json", exclude_defaults=True)
        if state != before or look % TELL_ANYWAY == 0:
            _say(writer, {"state": state})
        if look % FIGURES_EVERY == 0:
            _tell_figures(writer, engine)
        before = state
        engine.has_result.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(TELL_SECONDS):
                await engine.has_result.wait()


def _tell_figures(writer: asyncio.StreamWriter, engine: Engine) -> None:
    """What was counted; while nobody reads, it is added up here."""
    if writer.transport.get_write_buffer_size() <= MOST_UNREAD and (figures := engine.figures()):
        _say(writer, {"figures": figures})


async def _hand_over(writer: asyncio.StreamWriter, engine: Engine) -> None:
    """What was executed, a few times a second."""
    while True:
        _hand_over_now(writer, engine)
        await asyncio.sleep(TELL_SECONDS)


def _hand_over_now(writer: asyncio.StreamWriter, engine: Engine) -> None:
    engine.recorder.hand_over(partial(_records, writer, RECORDS))
    engine.traced.hand_over(partial(_records, writer, TRACED))


def _records(writer: asyncio.StreamWriter, kind: bytes, batch: bytes) -> bool:
    """A line of its own kind: the supervisor's event loop does not read it. A body's line breaks are white space."""
    if writer.transport.get_write_buffer_size() > MOST_UNREAD:
        return False
    writer.write(kind + batch.replace(b"\n", b" ") + b"\n")
    return True


async def _obey(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    engine: Engine,
    server: Server,
    joined: asyncio.Event,
    drain_seconds: int,
) -> None:
    """Follow the supervisor's words; its end is an order to drain."""
    answering = set[asyncio.Task[None]]()
    while line := await next_line(reader):
        said = json.loads(line)
        if "drain" in said:
            break
        if "serve" in said:
            joined.set()
        elif "reply" in said:
            engine.line.heard(said["id"], said["reply"])
        elif "question" in said:
            answering.add(task := asyncio.create_task(_answer(engine, writer, said)))
            task.add_done_callback(answering.discard)
        else:
            ok = await _carry_out(engine, said["order"])
            _say(writer, {"done": said["id"], "ok": ok, "state": engine.state().model_dump(mode="json")})
    if not joined.is_set():
        os._exit(0)  # the supervisor has gone before anybody could be served
    engine.retire(True)
    await asyncio.sleep(drain_seconds)
    await server.end()


async def _answer(engine: Engine, writer: asyncio.StreamWriter, said: dict[str, Any]) -> None:
    """Somebody's question by hand, beside the requests."""
    answered = await engine.answer(said["question"], said["inputs"].encode(errors="replace"))
    _say(writer, {"id": said["id"], "answered": answered.model_dump(mode="json", exclude_defaults=True)})


async def _carry_out(engine: Engine, order: object) -> bool:
    """Whether an order was obeyed. One that cannot be must not keep later ones, or the worker's end, from coming."""
    try:
        return await engine.obey(Order.model_validate(order))
    except Exception:
        log.exception("Order could not be carried out")
        return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
