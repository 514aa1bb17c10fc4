"""Scoring one version: what it is asked, what its answers are worth, and when it has cost too much.

The model's code runs in another process (`answering.py`), which gets inputs and gives outputs. It never sees what is
expected, does not count and cannot say the result. What remains its own word: which fields it takes, what its LM calls
cost, and a metric of its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from despina.wire import EvaluationConfig, RuntimeConfig
from despina_runtime.evaluation.apart import Below
from despina_runtime.evaluation.examples import CallersRow, Line, Row, Shape, Unusable, read_rows
from despina_runtime.evaluation.metrics import BUILT_IN
from despina_runtime.evaluation.subject import Said, Subject, fresh_folder

Outputs = dict[str, Any]
BuiltIn = Callable[[Mapping[str, Any], Mapping[str, Any]], float]
Metric = Callable[[Row, Outputs], Awaitable[tuple[float, Decimal]]]
"""What outputs are worth, and what it cost to find out, in US dollars."""
Start = Callable[..., Awaitable[Subject]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Scored:
    """What one version's answers are worth, row by row, from 0 to 1."""

    rows: tuple[Row, ...]
    scores: tuple[float, ...]
    failed: int
    """Rows that it could not answer."""
    cost: Decimal
    """In US dollars."""

    @property
    def percent(self) -> float:
        """The mean."""
        return 100 * sum(self.scores) / len(self.scores)


class Scorer:
    """Scores one version."""

    def __init__(self, model: Subject, shape: Shape, metric: Metric, runtime: RuntimeConfig, tell: Tell) -> None:
        self._model, self._shape, self._metric, self._runtime, self._tell = model, shape, metric, runtime, tell
        self._cost = Decimal(0)
        self._done = self._failed = 0
        self._last = ""

    async def run(self, rows: Sequence[Row], budget: Decimal | None) -> Scored:
        """The scores of all rows; raises Unusable, alone or in a group."""
        self._tell(f"0 of {len(rows)} examples")
        slots = asyncio.Semaphore(self._runtime.max_concurrency)

        async def one(row: Row) -> float:
            async with slots:
                score = await self._score(row, budget)
            self._done += 1
            self._tell(f"{self._done} of {len(rows)} examples")
            return score

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
        if self._failed == len(rows):
            raise Unusable(f"none of {len(rows)} examples was answered: {self._last}")
        return Scored(tuple(rows), tuple(task.result() for task in tasks), self._failed, self._cost)

    async def _score(self, row: Row, budget: Decimal | None) -> float:
        said = await self._model.ask({"inputs": row.inputs}, self._runtime.request_timeout_seconds)
        if said is not None:
            self._spend(said.cost, budget)
            if said.status == 422 and not isinstance(row, CallersRow):
                raise Unusable(f"an example does not fit the program's inputs: {said.detail}")
            if said.outputs is not None and self._shape.gives <= said.outputs.keys():
                score, cost = await self._metric(row, said.outputs)
                self._spend(cost, budget)
                return score
        self._failed, self._last = self._failed + 1, _problem(said)
        return 0.0

    def _spend(self, cost: Decimal, budget: Decimal | None) -> None:
        self._cost += cost
        if budget is not None and self._cost > budget:
            raise Unusable(f"it costs more than budgetUSD: {self._cost:.4f} USD after {self._done} examples")


def _problem(said: Said | None) -> str:
    if said is None:
        return "504 The program took too long"
    if said.outputs is not None:
        return "an answer lacks outputs"
    return f"{said.status} {said.title}"[:200]


async def score(
    config: EvaluationConfig, which: str, lines: Sequence[Line], cache: Path, tell: Tell, command: Sequence[str]
) -> Scored:
    """One version's scores on the examples; raises Unusable. No process of the version's outlives this."""
    runtime: RuntimeConfig = getattr(config, which)
    tell("loading")
    with fresh_folder(cache, runtime) as folder:
        async with subjects(command, folder) as start:
            model = await start(f"the {which}'s process", "model", config.tools)
            shape = await model.first_word()
            rows = read_rows(lines, shape, config.metric, config.max_examples)
            metric = await metric_of(config.metric, start, runtime.request_timeout_seconds)
            budget = Decimal(config.budget_usd) if config.budget_usd else None
            try:
                return await Scorer(model, shape, metric, runtime, tell).run(rows, budget)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None


@contextlib.asynccontextmanager
async def subjects(command: Sequence[str], folder: Path) -> AsyncIterator[Start]:
    """Starts processes in a folder; all of them, and whatever they started, end with the block."""
    below = Below()
    started: list[Subject] = []

    async def start(name: str, *role: str) -> Subject:
        started.append(await Subject.start(name, command, folder, *role))
        return started[-1]

    try:
        yield start
    finally:
        if not await below.end():
            raise Unusable("the processes that were scored could not be ended")
        for subject in started:
            await subject.close()


async def metric_of(name: str, start: Start, seconds: float) -> Metric:
    """A named metric is measured here; one of the model's code by a process that has that code."""
    if name in BUILT_IN:
        return functools.partial(_measured, BUILT_IN[name])
    judge = await start(f"the process of metric {name}", "judge", name)
    await judge.first_word()
    return functools.partial(_judged, judge, asyncio.Lock(), seconds)


async def _measured(metric: BuiltIn, row: Row, outputs: Outputs) -> tuple[float, Decimal]:
    try:
        return metric(row.expected, outputs), Decimal(0)
    except (TypeError, ValueError) as exc:
        raise Unusable(f"the metric raised {type(exc).__name__}: {exc}") from exc


async def _judged(
    judge: Subject, turn: asyncio.Lock, seconds: float, row: Row, outputs: Outputs
) -> tuple[float, Decimal]:
    question = {"inputs": row.inputs, "expected": row.expected, "outputs": outputs}
    async with turn:  # it judges one at a time, so that each has its own time
        said = await judge.ask(question, seconds)
    if said is None:
        raise Unusable("the metric took too long")
    if said.error is not None:
        raise Unusable(f"the metric raised {said.error}")
    if said.score is None or not 0 <= said.score <= 1:
        raise Unusable(f"the metric gave {said.score}, and not a number from 0 to 1")
    return said.score, said.cost
