"""Scoring one version on examples: `python -m despina_runtime.score candidate|baseline CACHE`, by the EvaluationConfig
in its environment.

Says JSON lines on standard output: `{"done": N, "of": M}` and, at the end, `{"result": EvaluationResult}`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import dspy
import orjson

from despina.wire import EVALUATION_ENV, DatasetConfig, EvaluationConfig, EvaluationResult, RuntimeConfig
from despina_runtime.cache.keys import canonical
from despina_runtime.engine import load_program
from despina_runtime.lm.client import LMs
from despina_runtime.pipeline.call import Call, Step
from despina_runtime.pipeline.corridor import Capacity, Corridors
from despina_runtime.problem import Problem
from despina_runtime.program.errors import ProgramError
from despina_runtime.program.fetch import Fetching
from despina_runtime.program.interface import Interface
from despina_runtime.tools.api import make_toolbox
from despina_runtime.tools.grid import Grid

log = logging.getLogger(__name__)
Metric = Callable[[dspy.Example, dspy.Prediction], float]
WORD = re.compile(r"\w+")


class Unusable(Exception):
    """The evaluation cannot give a score; the text says why."""


@dataclass(frozen=True)
class Row:
    """One example: what is asked, and what is expected."""

    inputs: dict[str, Any]
    expected: dict[str, Any]


def read_rows(lines: list[Mapping[str, Any]], interface: Interface, metric: str, limit: int) -> list[Row]:
    """Examples as they stand in a dataset, by the program's interface; raises Unusable.

    A named metric looks at the program's outputs only; one of the model's code may want to know more.
    """
    rows = [_row(line, set(interface.inputs.model_fields)) for line in lines[:limit]]
    if metric in BUILT_IN:
        outputs = interface.outputs.model_fields
        rows = [Row(row.inputs, {k: v for k, v in row.expected.items() if k in outputs}) for row in rows]
    if not rows:
        raise Unusable("the dataset holds no examples")
    for number, row in enumerate(rows, 1):
        missing = {n for n, f in interface.inputs.model_fields.items() if f.is_required()} - row.inputs.keys()
        if missing or not row.expected:
            lacks = ", ".join(sorted(missing)) or "expected outputs"
            raise Unusable(f"example {number} of the dataset has no {lacks}")
    return rows


def _row(line: Mapping[str, Any], inputs: set[str]) -> Row:
    if isinstance(line.get("inputs"), Mapping) and isinstance(line.get("expectations"), Mapping):
        return Row(dict(line["inputs"]), dict(line["expectations"]))
    return Row({k: v for k, v in line.items() if k in inputs}, {k: v for k, v in line.items() if k not in inputs})


def load_lines(dataset: DatasetConfig, tracking_uri: str) -> list[Mapping[str, Any]]:
    """A dataset's lines, wherever they are; raises Unusable."""
    try:
        if dataset.mlflow:
            return _of_mlflow(dataset.mlflow, tracking_uri)
        path = Path(dataset.file) if dataset.file else _download(dataset.uri or "", tracking_uri)
        lines = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except FileNotFoundError as exc:
        raise Unusable(f"the dataset's file {Path(exc.filename).name} is not there") from exc
    except orjson.JSONDecodeError as exc:
        raise Unusable(f"the dataset is not JSON Lines: {exc}") from exc
    if not all(isinstance(line, dict) for line in lines):
        raise Unusable("each line of the dataset must be a JSON object")
    return lines


def _of_mlflow(name: str, tracking_uri: str) -> list[Mapping[str, Any]]:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.genai.datasets import search_datasets

    mlflow.set_tracking_uri(tracking_uri)
    try:
        quoted = name.replace("'", "")
        found = next(iter(search_datasets(filter_string=f"name = '{quoted}'", max_results=1)), None)
    except MlflowException as exc:
        raise Unusable(f"MLflow dataset {name!r}: {exc.message}") from exc
    if found is None:
        raise Unusable(f"MLflow has no dataset {name!r}")
    rows: list[Mapping[str, Any]] = found.to_df()[["inputs", "expectations"]].to_dict("records")
    return rows


def _download(uri: str, tracking_uri: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(tracking_uri)
    try:
        path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=tempfile.mkdtemp()))
    except (MlflowException, OSError) as exc:
        raise Unusable(f"the dataset {uri} cannot be fetched: {type(exc).__name__}: {exc}") from exc
    if path.is_dir():
        raise Unusable(f"the dataset {uri} is a folder: name one file of JSON Lines")
    return path


def metric_named(name: str) -> Metric:
    """A metric by its name, or `package.module:function` of the model's code; raises Unusable."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise Unusable(f"metric {name}: {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise Unusable(f"metric {name} is not a function")
    return lambda example, prediction: float(found(example, prediction))


def _pairs(example: dspy.Example, prediction: dspy.Prediction) -> list[tuple[str, str]]:
    expected = example.labels().toDict()
    return [(_text(value), _text(prediction.get(name))) for name, value in expected.items()]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else canonical(value).decode()


def exact_match(example: dspy.Example, prediction: dspy.Prediction) -> float:
    """1.0 when every expected field is equal."""
    return float(all(expected == found for expected, found in _pairs(example, prediction)))


def contains(example: dspy.Example, prediction: dspy.Prediction) -> float:
    """1.0 when every expected text stands somewhere in its field."""
    return float(all(expected.lower() in found.lower() for expected, found in _pairs(example, prediction)))


def f1(example: dspy.Example, prediction: dspy.Prediction) -> float:
    """The mean over the expected fields of the F1 of words, as in SQuAD."""
    scores = [_f1(expected, found) for expected, found in _pairs(example, prediction)]
    return sum(scores) / len(scores)


def _f1(expected: str, found: str) -> float:
    wanted, given = Counter(WORD.findall(expected.lower())), Counter(WORD.findall(found.lower()))
    common = (wanted & given).total()
    return 2 * common / (wanted.total() + given.total()) if common else 0.0


BUILT_IN: dict[str, Metric] = {"ExactMatch": exact_match, "Contains": contains, "F1": f1}


class Scorer:
    """One version's score."""

    def __init__(
        self, step: Step, interface: Interface, metric: Metric, config: RuntimeConfig, budget: str | None
    ) -> None:
        self._step, self._interface, self._metric, self._config = step, interface, metric, config
        self._budget = Decimal(budget) if budget else None
        self._cost = Decimal(0)
        self._done = self._failed = 0
        self._last: Problem | None = None

    async def run(self, rows: list[Row]) -> EvaluationResult:
        """The mean of all rows' scores, in percent."""
        _say({"done": 0, "of": len(rows)})
        slots = asyncio.Semaphore(self._config.max_concurrency)

        async def one(row: Row) -> float:
            async with slots:
                score = await self._score(row)
            self._done += 1
            _say({"done": self._done, "of": len(rows)})
            return score

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
        scores = [task.result() for task in tasks]
        if self._last and self._failed == len(rows):
            raise Unusable(f"none of {len(rows)} examples was answered: {self._last.status} {self._last.title}")
        percent = 100 * sum(scores) / len(scores)
        return EvaluationResult(
            score_percent=percent, examples=len(rows), failed=self._failed, cost_usd=float(self._cost)
        )

    async def _score(self, row: Row) -> float:
        deadline = asyncio.get_running_loop().time() + self._config.request_timeout_seconds
        call = Call(canonical(row.inputs), deadline, self._config.lm)
        try:
            answer = await self._step(call)
        except Problem as problem:
            if problem.status == 422:
                raise Unusable(f"an example does not fit the program's inputs: {problem.detail}") from None
            self._failed, self._last = self._failed + 1, problem
            return 0.0
        finally:
            self._spend(call)
        return self._measure(row, orjson.loads(answer.body))

    def _spend(self, call: Call) -> None:
        self._cost += call.meter.cost or 0
        if self._budget is not None and self._cost > self._budget:
            raise Unusable(f"it costs more than budgetUSD: {self._cost:.4f} USD after {self._done} examples")

    def _measure(self, row: Row, outputs: dict[str, Any]) -> float:
        example = dspy.Example(**row.inputs, **row.expected).with_inputs(*row.inputs)
        values = dict(self._interface.outputs.model_validate(outputs))
        try:
            return float(self._metric(example, dspy.Prediction(**values)))
        except Exception as exc:  # whatever a user's metric raises
            raise Unusable(f"the metric raised {type(exc).__name__}: {exc}") from exc


def _say(what: object) -> None:
    sys.stdout.write(orjson.dumps(what).decode() + "\n")
    sys.stdout.flush()


async def score(config: EvaluationConfig, which: str, cache: Path) -> EvaluationResult:
    """One version's score on the examples; raises Unusable or ProgramError."""
    runtime: RuntimeConfig = getattr(config, which)
    loaded = await asyncio.to_thread(load_program, runtime, cache)
    lines = load_lines(config.dataset, runtime.model.tracking_uri)
    rows = read_rows(lines, loaded.interface, config.metric, config.max_examples)
    capacity = Capacity(runtime, trials=runtime.max_concurrency)
    toolbox = make_toolbox(runtime)
    toolbox.serve(Grid(), None)
    corridors = Corridors(runtime, None, LMs(runtime, None, loaded.program), capacity, toolbox)
    step = corridors.build_trial(loaded.program, loaded.is_async, loaded.interface)
    scorer = Scorer(step, loaded.interface, metric_named(config.metric), runtime, config.budget_usd)
    try:
        return await scorer.run(rows)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def main(which: str, cache: str) -> int:
    """Score, and say the result."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = EvaluationConfig.model_validate_json(os.environ[EVALUATION_ENV])
    runtime: RuntimeConfig = getattr(config, which)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(runtime.model_dump_json())
            file.flush()
            Fetching(file.name, runtime, Path(cache)).result()
        result = asyncio.run(score(config, which, Path(cache)))
    except (Unusable, ProgramError) as exc:
        result = EvaluationResult(error=str(exc)[:1024])
    _say({"result": result.model_dump(mode="json")})
    sys.stdout.flush()
    os._exit(0)  # threads that a request left behind at its deadline must not keep the process


if __name__ == "__main__":
    main(*sys.argv[1:])
