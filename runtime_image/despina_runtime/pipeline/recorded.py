"""Recording what is executed: what went in, what came out, and what modules, LMs and tools did in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import NoneType
from typing import Any, NamedTuple

import dspy
import orjson

from despina.wire.logs import ABOUT
from despina.wire.predictions import unsigned
from despina_runtime.lm.meter import Callers, LMCall, Meter, ToolCall
from despina_runtime.pipeline.call import Answer, Call, Traced
from despina_runtime.pipeline.call import Step as Then
from despina_runtime.problem import Problem
from despina_runtime.telemetry.context import USUAL_RATIO, Context, Headers, begun, trace_of
from despina_runtime.telemetry.executed import Step
from despina_runtime.telemetry.keeping import Slowest, why_kept
from despina_runtime.telemetry.prediction import Names
from despina_runtime.telemetry.recorder import Record, Recorder, written

NEVER_CHANGE = frozenset((str, int, float, bool, NoneType))
MOST_PARTS = 2048
"""Attempts at LMs that are recorded of one request, and as many at tools: a record must fit into a worker's line."""
MOST_KNOWN, LONGEST_KNOWN = 64, 16
"""Ways to an attempt that are kept, and modules on them."""
NO_WORDS = None, None, (), True


class Policy(NamedTuple):
    """What is recorded of one revision."""

    ratio: float = USUAL_RATIO
    """How many traces are kept that are nothing special."""
    is_all: bool = True
    """Whether predictions are recorded whose trace is not kept, and callers' words with them: for feedback."""
    seconds: float = 0.0
    """How long a request may take, by which its deadline tells when it came."""


ALL = Policy()


Ended = tuple[Any, ...]
"""What a record is made of, and no more: what a request held otherwise is free again when it ends. All else is found
out when it is written down, many at once, which takes half of the time."""


class Recorded:
    """Around the program, or one of its modules."""

    def __init__(
        self,
        recorder: Recorder,
        names: Names,
        program: dspy.Module,
        which: tuple[str, str, str],
        then: Then,
        policy: Policy = ALL,
    ) -> None:
        self._recorder, self._names, self._then, self._policy = recorder, names, then, policy
        self._which = which
        """Revision, version, and the module's path."""
        self._paths = {id(predictor): name for name, predictor in program.named_predictors()}
        self._modules = {id(module): _below(which[2], name) for name, module in program.named_sub_modules()}
        self._is_slow = Slowest()
        self._alone: dict[tuple[int, ...], tuple[Sequence[Any], Sequence[int]]] = {}
        """What `_placed` finds of a request that asked once, by the modules that called."""

    async def __call__(self, call: Call) -> Answer:
        """What follows; it is recorded whatever comes of it but the caller's leaving."""
        if self._policy.is_all:
            call.steps = []
        at, began, waited = time.time(), time.perf_counter(), self._waited(call)
        begun, own = self._names.begin()
        context = call.meter.context = context_of(call, self._policy.ratio, own)
        about = ABOUT.set({"revision": self._which[0], "trace_id": context.trace_id})
        try:
            answer = await self._then(call)
        except Problem as problem:
            call.origin = self._take(call, begun, None, problem, (at, began, waited), context)
            raise
        finally:
            ABOUT.reset(about)
        answer.origin = self._take(call, begun, answer, None, (at, began, waited), context)
        return answer

    def _waited(self, call: Call) -> float:
        """Seconds since it came."""
        if not self._policy.seconds:
            return 0.0
        return max(0.0, asyncio.get_running_loop().time() - call.deadline + self._policy.seconds)

    def _take(
        self, call: Call, begun: str, answer: Answer | None, problem: Problem | None,
        times: tuple[float, float, float], c: Context,
    ) -> str:  # fmt: skip
        """Its name. Names are made in the order in which they are recorded, by which the pod's disk finds them."""
        origin, meter, (at, began, waited), is_all = self._names.origin(begun), call.meter, times, self._policy.is_all
        status, kind = (problem.status, problem.type) if problem else (200, "")
        ended = time.perf_counter()
        why = None if is_all else why_kept(status, self._is_slow(ended - began + waited), c)
        if why == "":
            return origin
        body, outputs = (call.body, answer.body if answer else None) if is_all else (None, None)
        calls, tools = tuple(meter.calls[:MOST_PARTS]), tuple(meter.tools[:MOST_PARTS])
        steps = [self._traced(step) for step in call.steps] if call.steps else []
        told = origin, at, ended - began, began, status, kind, call.lm, call.trace, waited, c, why
        self._recorder(partial(self._record, told, calls, tools, _spent(meter), (body, outputs, steps)))
        return origin

    def _traced(self, step: Traced) -> Step:
        """As DSPy traced it. What the program can change after the answer is written down at once."""
        predictor, inputs, outputs = step
        return self._paths.get(id(predictor)) or type(predictor).__name__, _as_it_is(inputs), _as_it_is(outputs)

    def _record(
        self,
        told: Ended,
        calls: Sequence[LMCall],
        tools: Sequence[ToolCall],
        spent: tuple[int, int, str],
        words: tuple[bytes | None, bytes | None, Sequence[Step]],
    ) -> Record:
        origin, at, seconds, began, status, kind, lm, trace, waited, c, why = told
        if why is None:
            why = why_kept(status, self._is_slow(seconds + waited), c)
        modules, places = self._placed(calls, tools)
        attempts = [_attempt(one, began, place) for one, place in zip(calls, places, strict=False)]
        tried = (
            [_tool(one, began, place) for one, place in zip(tools, places[len(calls) :], strict=True)] if tools else ()
        )
        asked = (lm or "", *spent, trace_of(trace) if trace else "")
        ids = c.trace_id, c.span_id, ""
        counted = (
            origin, at, seconds, *self._which, status, kind, *asked, attempts, waited, *ids, modules, tried, why,
        )  # fmt: skip
        body, outputs, steps = words
        if body is None:
            return Record(counted, NO_WORDS)
        return Record(counted, (orjson.Fragment(body), orjson.Fragment(outputs) if outputs else None, steps))

    def _placed(self, calls: Sequence[LMCall], tools: Sequence[ToolCall]) -> tuple[Sequence[Any], Sequence[int]]:
        """The calls of modules, and in which of them each attempt was made, at LMs and then at tools."""
        if len(calls) != 1 or tools:
            tree = _Tree(self._modules)
            places = [tree.place(one.callers) for one in calls]
            return tree.calls, [*places, *(tree.place(one.callers) for one in tools)]
        modules = self._modules
        which = tuple([id(module) for module in calls[0].callers if id(module) in modules])
        return self._alone.get(which) or self._placed_alone(calls[0], which)

    def _placed_alone(self, call: LMCall, which: tuple[int, ...]) -> tuple[Sequence[Any], Sequence[int]]:
        tree = _Tree(self._modules)
        place = tree.place(call.callers)
        if len(which) <= LONGEST_KNOWN and len(self._alone) < MOST_KNOWN:
            self._alone[which] = tree.calls, (place,)
        return tree.calls, (place,)


class Again:
    """Records that an answer was given again, where its caller asks for the trace. It is no prediction of its own."""

    def __init__(self, recorder: Recorder, which: tuple[str, str, str], policy: Policy) -> None:
        self._recorder, self._which, self._policy = recorder, which, policy

    def __call__(self, call: Call, answer: Answer, name: bytes, seconds: float) -> None:
        """One that was answered under this name, so many seconds after it came; of one that was made, nothing."""
        if tier := answer.tier or ("flight" if answer.collapsed else ""):
            words = (call.body, answer.body) if self._policy.is_all else None
            asked = unsigned(name.decode()), time.time() - seconds, seconds, call.lm or "", call.trace, tier, words
            self._recorder(partial(self._record, *asked))

    def _record(
        self,
        name: str,
        at: float,
        seconds: float,
        lm: str,
        trace: Headers,
        tier: str,
        words: tuple[bytes, bytes] | None,
    ) -> Record:
        context = begun(trace, 0.0)
        spent = 0, 0, ""
        told = trace_of(trace), (), 0.0, context.trace_id, context.span_id, tier, (), (), "asked"
        counted = (name, at, seconds, *self._which, 200, "", lm, *spent, *told)
        return Record(counted, (*map(orjson.Fragment, words), ()) if words else NO_WORDS)


def context_of(call: Call, ratio: float, own: str) -> Context:
    """Where a request stands in its caller's trace, or in its own of this id."""
    found = begun(call.trace, ratio, own)
    return found._replace(is_asked=True) if call.is_traced else found


class _Tree:
    """The calls of modules within which a request's attempts were made. DSPy tells the calls of the innermost apart; of
    those around it only the modules are known, and so each is the last call of its module there."""

    def __init__(self, paths: Mapping[int, str]) -> None:
        self.calls: list[tuple[str, int]] = []
        """Each as `ModuleCall`."""
        self._paths = paths
        self._known: dict[int, int] = {}
        self._last: dict[tuple[int, ...], int] = {}
        self._unnamed: set[int] = set()
        """Calls that are only known to be around others."""

    def place(self, callers: Callers) -> int:
        """Which call made an attempt; -1 for none that is known."""
        modules = tuple(id(module) for module in callers if id(module) in self._paths)
        if not modules or id(callers) in self._known:
            return self._known.get(id(callers), -1)
        found = self._last.get(modules, -1)
        if found in self._unnamed:
            self._unnamed.discard(found)
        else:
            found = self._add(modules)
        self._known[id(callers)] = found
        return found

    def _add(self, modules: tuple[int, ...]) -> int:
        around = modules[:-1]
        if around and around not in self._last:
            self._unnamed.add(self._add(around))
        self.calls.append((self._paths[modules[-1]], self._last.get(around, -1)))
        self._last[modules] = len(self.calls) - 1
        return self._last[modules]


def _below(path: str, name: str) -> str:
    """The path of a module that DSPy calls so within the one at a path."""
    return f"{path}.{name.removeprefix('self').lstrip('.')}".strip(".")


def _spent(meter: Meter) -> tuple[int, int, str]:
    return meter.input_tokens, meter.output_tokens, "" if meter.cost is None else format(meter.cost, "f")


def _as_it_is(values: Mapping[str, Any]) -> Any:
    found = values if type(values) is dict else dict(values.items())
    return found if NEVER_CHANGE.issuperset(map(type, found.values())) else written(found)


def _attempt(call: LMCall, began: float, within: int) -> tuple[Any, ...]:
    """In the order of `Attempt`."""
    lm, model, module, at, seconds, tokens, cost, error, _ = call
    return lm, model, module, at - began, seconds, tokens, cost, error, within


def _tool(call: ToolCall, began: float, within: int) -> tuple[Any, ...]:
    """In the order of `ToolAttempt`."""
    *which, at, seconds, _ = call
    return *which, at - began, seconds, within
