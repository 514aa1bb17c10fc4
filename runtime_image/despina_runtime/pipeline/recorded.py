"""Recording what is executed: what went in, what came out, and what modules, LMs and tools did in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any, NamedTuple

import dspy
import orjson

from despina.wire.logs import ABOUT
from despina_runtime.lm.meter import Callers, LMCall, ToolCall
from despina_runtime.pipeline.call import Answer, Call, Traced
from despina_runtime.pipeline.call import Step as Then
from despina_runtime.problem import Problem
from despina_runtime.telemetry.context import USUAL_RATIO, Context, Headers, begun, trace_of
from despina_runtime.telemetry.executed import Step
from despina_runtime.telemetry.keeping import Slowest, Why, why_kept
from despina_runtime.telemetry.prediction import Names, unsigned
from despina_runtime.telemetry.recorder import Record, Recorder, written

NEVER_CHANGE = frozenset((str, int, float, bool, NoneType))
MOST_PARTS = 2048
"""Attempts at LMs that are recorded of one request, and as many at tools: a record must fit into a worker's line."""
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
    body: bytes | None
    outputs: bytes | None
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    calls: tuple[LMCall, ...]
    tools: tuple[ToolCall, ...]
    steps: list[Step]
    waited: float
    context: Context
    why: Why


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
            self._take(call, begun, None, problem, (at, began, waited), context)
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
        origin, meter, (at, began, waited) = self._names.origin(begun), call.meter, times
        status, kind = (problem.status, problem.type) if problem else (200, "")
        ended = time.perf_counter()
        why = why_kept(status, self._is_slow(ended - began + waited), c)
        if not why and not self._policy.is_all:
            return origin
        words = (call.body, answer.body if answer else None) if self._policy.is_all else (None, None)
        parts = tuple(meter.calls[:MOST_PARTS]), tuple(meter.tools[:MOST_PARTS])
        spent = meter.input_tokens, meter.output_tokens, meter.cost, *parts
        steps = [self._traced(step) for step in call.steps or ()]
        asked = call.lm, call.trace, *words
        known: Any = (origin, at, began, ended, status, kind, *asked, *spent, steps, waited, c, why)
        found = _Ended(*known)
        self._recorder(partial(self._record, found))
        return origin

    def _traced(self, step: Traced) -> Step:
        """As DSPy traced it. What the program can change after the answer is written down at once."""
        predictor, inputs, outputs = step
        return self._paths.get(id(predictor)) or type(predictor).__name__, _as_it_is(inputs), _as_it_is(outputs)

    def _record(self, e: _Ended) -> Record:
        tree = _Tree(self._modules)
        attempts = [_attempt(one, e.began, tree.place(one.callers)) for one in e.calls]
        tools = [_tool(one, e.began, tree.place(one.callers)) for one in e.tools]
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
            attempts,
            e.waited,
            e.context.trace_id,
            e.context.span_id,
            "",
            tree.calls,
            tools,
            e.why,
        )
        if e.body is None:
            return Record(counted, NO_WORDS)
        outputs = orjson.Fragment(e.outputs) if e.outputs is not None else None
        return Record(counted, (orjson.Fragment(e.body), outputs, e.steps))


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


def _as_it_is(values: Mapping[str, Any]) -> Any:
    found = values if type(values) is dict else dict(values)
    return found if NEVER_CHANGE.issuperset(map(type, found.values())) else written(found)


def _attempt(call: LMCall, began: float, within: int) -> tuple[Any, ...]:
    """In the order of `Attempt`."""
    lm, model, module, at, *rest, _ = call
    return lm, model, module, at - began, *rest, within


def _tool(call: ToolCall, began: float, within: int) -> tuple[Any, ...]:
    """In the order of `ToolAttempt`."""
    *which, at, seconds, _ = call
    return *which, at - began, seconds, within
