"""Recording what is executed: what went in, what came out, and what modules and LMs did in between."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import dspy
import orjson
from pydantic_core import to_json

from despina_runtime.lm.meter import LMCall
from despina_runtime.pipeline.call import Answer, Call, Step, Traced
from despina_runtime.problem import Problem
from despina_runtime.telemetry.executed import Executed, Span
from despina_runtime.telemetry.prediction import Names
from despina_runtime.telemetry.recorder import Recorder


class Recorded:
    """Around the program, or one of its modules."""

    def __init__(
        self, recorder: Recorder, names: Names, program: dspy.Module, which: tuple[str, str, str], then: Step
    ) -> None:
        self._recorder, self._names, self._then = recorder, names, then
        self._which = which
        """Revision, version, and the module's path."""
        self._paths = {id(predictor): name for name, predictor in program.named_predictors()}

    async def __call__(self, call: Call) -> Answer:
        """What follows; it is recorded whatever comes of it but the caller's leaving."""
        call.origin, call.steps = self._names.origin(), []
        at, began = time.time(), time.perf_counter()
        answer, problem = None, None
        try:
            answer = await self._then(call)
            answer.origin = call.origin
            return answer
        except Problem as exc:
            problem = exc
            raise
        finally:
            if answer or problem:
                self._take(call, answer, problem, at, began)

    def _take(self, call: Call, answer: Answer | None, problem: Problem | None, at: float, began: float) -> None:
        meter = call.meter
        self._recorder(
            Executed(
                call.origin or "",
                at,
                time.perf_counter() - began,
                *self._which,
                problem.status if problem else 200,
                problem.type if problem else "",
                call.lm or "",
                meter.input_tokens,
                meter.output_tokens,
                "" if meter.cost is None else format(meter.cost, "f"),
                dict(call.trace).get("traceparent", ""),
                orjson.Fragment(call.body),
                orjson.Fragment(answer.body) if answer else None,
                [
                    *map(tuple, self._modules(call.steps or (), meter.calls, began)),
                    *map(tuple, _attempts(meter.calls, began)),
                ],
            )
        )

    def _modules(self, steps: Sequence[Traced], calls: Sequence[LMCall], began: float) -> Iterator[Span]:
        """Predictors in the order in which they ended. When one ran is known by the LM's answers to it, in their
        order; where a cache had the answer, it took no time."""
        answers = {path: iter([c for c in calls if c.module == path and not c.error]) for path in self._paths.values()}
        last = began
        for predictor, inputs, outputs in steps:
            path = self._paths.get(id(predictor), "")
            call = next(answers.get(path, iter(())), None)
            start, seconds = (call.began - began, call.seconds) if call else (last - began, 0.0)
            last = began + start + seconds
            facts = {"inputs": _written(inputs), "outputs": _written(dict(outputs))}
            yield Span("module", path or type(predictor).__name__, start, seconds, facts)


def _attempts(calls: Sequence[LMCall], began: float) -> Iterator[Span]:
    for call in calls:
        facts = {"model": call.model, "module": call.module, "input_tokens": call.tokens[0]}
        facts |= {"output_tokens": call.tokens[1], "cost_usd": call.cost, "error": call.error}
        yield Span("lm", call.lm, call.began - began, call.seconds, facts)


def _written(values: Any) -> orjson.Fragment:
    """As JSON, whatever DSPy's types or a program's own are in it."""
    return orjson.Fragment(to_json(values, fallback=str, inf_nan_mode="constants", serialize_unknown=True))
