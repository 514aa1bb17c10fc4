"""Running a version's code for an evaluation: `python -m despina_runtime.evaluation.answering ROLE FD FOLDER WORD`.

As `model` it answers what it is asked, and WORD says whether NonIdempotent tools are executed for that (`Execute`); as
`judge` it has the metric WORD of the version's code judge answers. It speaks JSON
lines on the socket FD (`subject.py` is the other end), and FOLDER is its own: configuration, files, temporary files.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

import dspy
import orjson

from despina.wire import RuntimeConfig
from despina.wire.logs import LOG_FORMAT_ENV, set_up
from despina_runtime.cache.keys import canonical
from despina_runtime.engine import load_program, try_out
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.evaluation.subject import CONFIG
from despina_runtime.lines import LONGEST_LINE, next_line
from despina_runtime.lm.client import LMs
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.target import Guard, unguarded
from despina_runtime.pipeline.call import Call, Step
from despina_runtime.pipeline.corridor import Capacity, Corridors
from despina_runtime.problem import Problem, unexpected
from despina_runtime.program.fetch import Fetching
from despina_runtime.program.interface import Interface, by_name
from despina_runtime.program.load import Loaded
from despina_runtime.program.unservable import ProgramError
from despina_runtime.tools.api import make_toolbox, refusal_of
from despina_runtime.tools.grid import Grid

Document = Mapping[str, Any]
Metric = Callable[[dspy.Example, dspy.Prediction], Any]


def line_of(what: Document) -> bytes:
    """One line of what is said."""
    return orjson.dumps(what) + b"\n"


async def answer(
    loaded: Loaded, config: RuntimeConfig, control: socket.socket, refusal: str, guard: Guard = unguarded
) -> None:
    """Answer questions, many at a time, until nobody asks any more; raises ProgramError."""
    loaded = await try_out(loaded, config)
    reader, writer = await asyncio.open_connection(sock=control, limit=LONGEST_LINE)
    step = _step(loaded, config, guard)
    writer.write(line_of({"interface": loaded.interface.schema()}))
    async with asyncio.TaskGroup() as group:
        while line := await next_line(reader):
            group.create_task(_answer(step, config, refusal, orjson.loads(line), writer))


def _step(loaded: Loaded, config: RuntimeConfig, guard: Guard) -> Step:
    """The program without cache, limits and fallback."""
    toolbox = make_toolbox(config)
    toolbox.serve(Grid(), None)
    capacity = Capacity(config, trials=config.max_concurrency)
    corridors = Corridors(config, None, LMs(config, None, loaded.program, guard), capacity, toolbox)
    return corridors.build_trial(loaded.program, loaded.is_async, loaded.interface)


async def _answer(
    step: Step, config: RuntimeConfig, refusal: str, question: Document, writer: asyncio.StreamWriter
) -> None:
    deadline = asyncio.get_running_loop().time() + config.request_timeout_seconds
    call = Call(canonical(question["inputs"]), deadline, config.lm)
    call.refusal = refusal
    said: dict[str, Any] = {"id": question["id"]}
    try:
        said["outputs"] = orjson.loads((await step(call)).body)
    except Exception as exc:
        problem = exc if isinstance(exc, Problem) else unexpected(exc)
        said |= {"status": problem.status, "title": problem.title, "detail": problem.detail}
    writer.write(line_of({**said, "cost": str(call.meter.cost or 0)}))


def metric_named(name: str) -> Metric:
    """`package.module:function`; raises Unusable."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise Unusable(f"metric {name}: {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise Unusable(f"metric {name} is not a function")
    return found  # type: ignore[no-any-return]


async def judge(
    loaded: Loaded, config: RuntimeConfig, metric: Metric, control: socket.socket, guard: Guard = unguarded
) -> None:
    """Judge answers, one at a time, until nobody asks any more. A metric may ask the version's LMs, too."""
    reader, writer = await asyncio.open_connection(sock=control, limit=LONGEST_LINE)
    lms = LMs(config, None, loaded.program, guard)
    writer.write(line_of({"interface": {"inputs": {}, "outputs": {}}}))
    while line := await next_line(reader):
        meter = Meter(asyncio.get_running_loop().time() + config.request_timeout_seconds)
        with dspy.context(meter=meter, **lms.context(config.lm, None)):
            said = await asyncio.to_thread(_judge, loaded.interface, metric, orjson.loads(line))
        writer.write(line_of({**said, "cost": str(meter.cost or 0)}))


def _judge(interface: Interface, metric: Metric, question: Document) -> Document:
    inputs = question["inputs"]
    try:
        example = dspy.Example(**{**question["expected"], **inputs}).with_inputs(*inputs)
        prediction = dspy.Prediction(**by_name(interface.outputs.model_validate(question["outputs"])))
        return {"id": question["id"], "score": float(metric(example, prediction))}
    except Exception as exc:  # whatever a user's metric raises
        return {"id": question["id"], "error": f"{type(exc).__name__}: {exc}"}


def main(role: str, fd: str, folder: str, word: str) -> None:
    """Load the version and do what the role says."""
    work = judging if role == "judge" else answering
    run_process(fd, folder, lambda loaded, config, control: work(loaded, config, control, word))


Work = Callable[[Loaded, RuntimeConfig, socket.socket], Coroutine[Any, Any, None]]


def run_process(fd: str, folder: str, work: Work) -> NoReturn:
    """Load the version that a folder is for, and do the work; what is wrong with it is said on the socket."""
    set_up(os.environ.get(LOG_FORMAT_ENV))
    control, cache = socket.socket(fileno=int(fd)), Path(folder)
    config = RuntimeConfig.model_validate_json((cache / CONFIG).read_bytes())
    try:
        Fetching(str(cache / CONFIG), config, cache).result()
        asyncio.run(work(load_program(config, cache), config, control))
    except (Unusable, ProgramError) as exc:
        control.sendall(line_of({"failure": str(exc)}))
    sys.stdout.flush()
    os._exit(0)  # threads that a request left behind at its deadline must not keep the process


async def judging(
    loaded: Loaded, config: RuntimeConfig, control: socket.socket, word: str, guard: Guard = unguarded
) -> None:
    """Have the metric of that name judge."""
    await judge(loaded, config, metric_named(word), control, guard)


async def answering(
    loaded: Loaded, config: RuntimeConfig, control: socket.socket, word: str, guard: Guard = unguarded
) -> None:
    """Answer; the word says what becomes of NonIdempotent tools."""
    refusal = refusal_of("Execute" if word == "Execute" else "Refuse", "evaluate")
    await answer(loaded, config, control, refusal, guard)


if __name__ == "__main__":
    main(*sys.argv[1:])
