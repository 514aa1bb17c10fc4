"""Running a version's code for an optimisation: `python -m despina_runtime.optimization.working ROLE FD FOLDER WORD`.

As `model` and `judge` it does what an evaluation's processes do; as `optimizer` it optimises the program by the task in
its folder, and says what it has found as often as it is asked. Each call of an LM is asked for first (`paying.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import dspy
import orjson

from despina.wire import RuntimeConfig
from despina_runtime.cache.keys import as_json
from despina_runtime.evaluation.answering import Metric, answering, judging, line_of, metric_named, run_process
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.evaluation.metrics import BUILT_IN
from despina_runtime.lines import LONGEST_LINE, next_line
from despina_runtime.lm.client import LMs
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.target import Guard
from despina_runtime.optimization.budget import Exhausted
from despina_runtime.optimization.optimizers import Best, Run, UnknownOptimizer, optimize, optimizer
from despina_runtime.optimization.paying import guard_of
from despina_runtime.optimization.task import News, Task, TaskRow
from despina_runtime.program.interface import Interface, by_name
from despina_runtime.program.load import Loaded
from despina_runtime.tools.api import make_toolbox
from despina_runtime.tools.grid import Grid

log = logging.getLogger(__name__)
REFUSAL = "it is NonIdempotent, and an optimisation executes it only where it was told so"
POLL_SECONDS = 1.0
"""After which it answers also if there is nothing new."""


class Optimizing:
    """One run of an optimiser, in a thread beside the event loop that makes its calls."""

    def __init__(self, loaded: Loaded, config: RuntimeConfig, task: Task, guard: Guard) -> None:
        self._loaded, self._config, self._task = loaded, config, task
        self._lms = LMs(config, None, loaded.program, guard)
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._run = Run(
            program=loaded.program,
            names=task.names,
            trainset=_examples(task.train, loaded.interface, task.metric),
            valset=_examples(task.validation, loaded.interface, task.metric),
            metric=metric_of(task.metric, loaded.interface),
            seed=task.optimizer.seed,
            threads=config.max_concurrency,
        )

    def check(self) -> None:
        """Raise Unusable where it cannot begin."""
        if not hasattr(type(self._loaded.program), "forward"):
            raise Unusable("DSPy's optimisers call `forward`, and the program has only `aforward`")
        try:
            optimizer(self._run, self._task.optimizer.name, self._task.optimizer.params)
        except UnknownOptimizer as exc:
            raise Unusable(str(exc)) from exc

    async def work(self) -> None:
        """Optimise; the last news is the end."""
        meter = Meter(self._loop.time() + self._task.seconds + self._config.request_timeout_seconds)
        toolbox = make_toolbox(self._config)
        toolbox.serve(Grid(), None)
        if self._task.tools == "Refuse":
            toolbox = toolbox.refusing(REFUSAL)
        own, asked = self._lms.context(self._config.lm, None), self._task.optimizer
        with dspy.context(meter=meter, toolbox=toolbox, **own):
            ended = await asyncio.to_thread(optimize, self._run, asked.name, asked.params, self._tell)
        await self._news.put(News(ended=ended))

    def _tell(self, best: Best) -> None:
        """From the optimiser's thread."""
        self._loop.call_soon_threadsafe(self._news.put_nowait, News(state=best.state, score=best.score))

    async def news(self) -> News:
        """What is new, or nothing after a while."""
        try:
            return await asyncio.wait_for(self._news.get(), POLL_SECONDS)
        except TimeoutError:
            return News()


def _examples(rows: tuple[TaskRow, ...], interface: Interface, metric: str) -> list[dspy.Example]:
    """Rows as DSPy takes them, without those that another version of the program must have been asked."""
    gives = interface.outputs.model_fields
    found = []
    for row in rows:
        expected = {k: v for k, v in row.expected.items() if k in gives or metric not in BUILT_IN}
        try:
            inputs = by_name(interface.inputs.model_validate(row.inputs))
        except ValueError:
            continue
        if expected:
            found.append(dspy.Example(**{**expected, **inputs}).with_inputs(*inputs))
    return found


def metric_of(name: str, interface: Interface) -> Metric:
    """A metric as DSPy calls it; raises Unusable."""
    if name not in BUILT_IN:
        return metric_named(name)
    measure, gives = BUILT_IN[name], list(interface.outputs.model_fields)

    def measured(example: Any, prediction: Any, trace: Any = None) -> float:
        expected = {field: as_json(example[field]) for field in gives if field in example}
        return measure(expected, {field: as_json(prediction.get(field)) for field in gives})

    return measured


async def optimizing(loaded: Loaded, config: RuntimeConfig, control: socket.socket, folder: Path) -> None:
    """Optimise, and say what is new as often as it is asked, until nobody asks any more."""
    own = Optimizing(loaded, config, Task.read(folder), guard_of(folder))
    own.check()
    reader, writer = await asyncio.open_connection(sock=control, limit=LONGEST_LINE)
    writer.write(line_of({"interface": loaded.interface.schema()}))
    working = asyncio.create_task(own.work())
    while line := await next_line(reader):
        news = await own.news()
        writer.write(line_of({"id": orjson.loads(line)["id"], "outputs": news.model_dump()}))
    working.cancel()
    os._exit(0)  # its thread cannot be stopped


def main(role: str, fd: str, folder: str, word: str) -> None:
    """Load the version and do what the role says."""
    own = Path(folder)

    async def work(loaded: Loaded, config: RuntimeConfig, control: socket.socket) -> None:
        if role == "optimizer":
            await optimizing(loaded, config, control, own)
        else:
            serve = judging if role == "judge" else answering
            await serve(loaded, config, control, word, guard_of(own))

    try:
        run_process(fd, folder, work)
    except (Exhausted, BaseExceptionGroup) as exc:
        log.error("Ended error=%r", exc)  # whoever asked knows that the budget ended
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
