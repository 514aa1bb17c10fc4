"""Recording what is executed: what went in, what came out, and what modules and LMs did in between."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any, NamedTuple

import dspy
import orjson

from despina_runtime.lm.meter import LMCall
from despina_runtime.pipeline.call import Answer, Call, Traced
from despina_runtime.pipeline.call import Step as Then
from despina_runtime.problem import Problem
from despina_runtime.telemetry.executed import Step
from despina_runtime.telemetry.prediction import Names, trace_of
from despina_runtime.telemetry.recorder import Record, Recorder, written

NEVER_CHANGE = frozenset((str, int, float, bool, NoneType))


class _Ended(NamedTuple):
    """All that a record is made of, and no more: what a request held otherwise is free again when it ends."""

    origin: str
    at: float
    began: float
    ended: float
    status: int
    problem: str
    lm: str | None
    trace: tuple[tuple[str, str], ...]
    body: bytes
    outputs: bytes | None
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    calls: tuple[LMCall, ...]
    steps: list[Step]


class Recorded:
    """Around the program, or one of its modules."""

    def __init__(
        self, recorder: Recorder, names: Names, program: dspy.Module, which: tuple[str, str, str], then: Then
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
        origin, meter = self._names.origin(), call.meter
        status, kind = (problem.status, problem.type) if problem else (200, "")
        asked = call.lm, call.trace, call.body, answer.body if answer else None
        spent = meter.input_tokens, meter.output_tokens, meter.cost, tuple(meter.calls)
        steps = [self._traced(step) for step in call.steps or ()]
        ended = _Ended(origin, at, began, time.perf_counter(), status, kind, *asked, *spent, steps)
        self._recorder(partial(self._record, ended))
        return origin

    def _traced(self, step: Traced) -> Step:
        """As DSPy traced it. What the program can change after the answer is written down at once."""
        predictor, inputs, outputs = step
        return self._paths.get(id(predictor)) or type(predictor).__name__, _as_it_is(inputs), _as_it_is(outputs)

    def _record(self, e: _Ended) -> Record:
        counted = (
            e.origin,
            e.at,
            e.ended - e.began,
            *self._which,
            e.status,
            e.problem,
            e.lm or "",
            e.input_tokens,
            e.output_tokens,
            "" if e.cost is None else format(e.cost, "f"),
            trace_of(e.trace),
            [_attempt(one, e.began) for one in e.calls],
        )
        outputs = orjson.Fragment(e.outputs) if e.outputs is not None else None
        return Record(counted, (orjson.Fragment(e.body), outputs, e.steps))


def _as_it_is(values: Mapping[str, Any]) -> Any:
    found = values if type(values) is dict else dict(values)
    return found if NEVER_CHANGE.issuperset(map(type, found.values())) else written(found)


def _attempt(call: LMCall, began: float) -> tuple[Any, ...]:
    """In the order of `Attempt`."""
    lm, model, module, at, *rest = call
    return lm, model, module, at - began, *rest
