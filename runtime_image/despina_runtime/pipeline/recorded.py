"""Recording what is executed: what went in, what came out, and what modules and LMs did in between."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dspy
import orjson

from despina_runtime.lm.meter import LMCall
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.problem import Problem
from despina_runtime.telemetry.executed import Step as Traced
from despina_runtime.telemetry.prediction import Names
from despina_runtime.telemetry.recorder import Record, Recorder


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
        call.steps = []
        at, began = time.time(), time.perf_counter()
        try:
            answer = await self._then(call)
        except Problem as problem:
            self._take(call, None, problem, at, began)
            raise
        answer.origin = self._take(call, answer, None, at, began)
        return answer

    def _take(self, call: Call, answer: Answer | None, problem: Problem | None, at: float, began: float) -> str:
        """Its name. Names are made in the order in which they are recorded, by which the pod's disk finds them."""
        origin = self._names.origin()
        self._recorder(partial(self._record, origin, call, answer, problem, at, began, time.perf_counter()))
        return origin

    def _record(
        self,
        origin: str,
        call: Call,
        answer: Answer | None,
        problem: Problem | None,
        at: float,
        began: float,
        ended: float,
    ) -> Record:
        meter = call.meter
        counted = (
            origin,
            at,
            round(ended - began, 6),
            *self._which,
            problem.status if problem else 200,
            problem.type if problem else "",
            call.lm or "",
            meter.input_tokens,
            meter.output_tokens,
            "" if meter.cost is None else format(meter.cost, "f"),
            dict(call.trace).get("traceparent", ""),
            [_attempt(one, began) for one in meter.calls],
        )
        outputs = orjson.Fragment(answer.body) if answer else None
        return Record(counted, (orjson.Fragment(call.body), outputs, list(self._traced(call.steps or ()))))

    def _traced(self, steps: Sequence[Any]) -> Iterator[Traced]:
        """As DSPy traced them."""
        for predictor, inputs, outputs in steps:
            yield self._paths.get(id(predictor)) or type(predictor).__name__, inputs, dict(outputs)


def _attempt(call: LMCall, began: float) -> tuple[Any, ...]:
    """In the order of `Attempt`."""
    start, seconds = round(call.began - began, 6), round(call.seconds, 6)
    return call.lm, call.model, call.module, start, seconds, call.tokens, call.cost, call.error
