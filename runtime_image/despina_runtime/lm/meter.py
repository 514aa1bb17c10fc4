"""What one request has cost so far: attempts, tokens, money, and where answers came from.

A request's meter is the key `meter` of `dspy.settings`. DSPy carries these into the threads that it starts
(`dspy.Parallel`, `Module.batch`, `dspy.asyncify`), and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import dspy

from despina.wire import LMConfig
from despina_runtime.telemetry.context import Context, Headers, span_id

MILLION = Decimal(1_000_000)
GRACE_SECONDS = 1.0
Lingering = Future[Any] | asyncio.Task[Any]
T = TypeVar("T")
Callers = Sequence[Any]
"""Modules, each called by the one before it, as DSPy knows them: a sequence of its own for each call of the last."""


class LMCall(NamedTuple):
    """One attempt at an LM."""

    lm: str
    model: str
    module: str
    began: float
    """By `time.perf_counter`."""
    seconds: float
    tokens: tuple[int, int]
    """Input and output, as the provider counted."""
    cost: str
    """In US dollars, as decimal digits; empty where no price is known."""
    error: str
    """The type of what was raised; empty for an answer."""
    callers: Callers = ()
    """The modules whose calls it was made in."""


class ToolCall(NamedTuple):
    """One attempt at a backend of a tool."""

    tool: str
    backend: str
    fate: str
    span_id: str
    began: float
    seconds: float
    callers: Callers = ()


@dataclass(slots=True)
class Meter:
    """The account of one request."""

    deadline: float
    """The event loop's time at which the request must have ended."""
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal | None = None
    pending: list[tuple[str, bytes]] = field(default_factory=list)
    """LM answers to keep once the whole request turned out well."""
    trace: Headers = ()
    """Headers of the caller's trace, for whoever is called on the way where it has no context of its own."""
    context: Context | None = None
    """Where it stands in that trace, if it is recorded."""

    waited_for: set[Future[Any]] = field(default_factory=set)
    """What threads of this request wait for."""
    is_closed: bool = False
    lingering: list[Lingering] = field(default_factory=list)
    """Threads that work on it or have worked, and whatever else would not end when it was told to."""
    failure: Exception | None = None
    """That of the last LM call that failed, which the program may have hidden in an exception of its own."""
    calls: list[LMCall] = field(default_factory=list)
    """All attempts, in the order in which they ended."""
    tools: list[ToolCall] = field(default_factory=list)
    """As many of tools."""
    is_by_hand: bool = False
    """A question by hand: nothing comes from caches or goes there, and the LMs' breakers learn nothing of it."""

    def wait(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
        """From a thread: what the work gives, on the event loop.

        Raises:
            TimeoutError: after the deadline; if the loop itself waits for this thread, somebody has to give up.
            concurrent.futures.CancelledError: nobody waits for the request any more.
        """
        return self._begin(work, loop).result(self.deadline - loop.time() + GRACE_SECONDS)

    async def join(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
        """From whichever event loop is running, as `asyncio.run` makes one in a thread: what the work gives on `loop`,
        to which connections belong."""
        if asyncio.get_running_loop() is loop:
            return await work
        return await asyncio.wrap_future(self._begin(work, loop))

    def _begin(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
        future = asyncio.run_coroutine_threadsafe(work, loop)
        self.waited_for.add(future)
        future.add_done_callback(self.waited_for.discard)
        if self.is_closed:
            future.cancel()
        return future

    def close(self) -> None:
        """Nobody waits for the request any more: what its threads ask for is not done. They cannot be stopped."""
        self.is_closed = True
        for future in tuple(self.waited_for):
            future.cancel()

    def spend(self, lm: LMConfig, module: str, usage: dict[str, Any], began: float) -> LMCall:
        """Book the usage of one answer to a question asked at `began`, also for a program that tracks it by DSPy's
        means."""
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        self.input_tokens += tokens[0]
        self.output_tokens += tokens[1]
        if tracker := dspy.settings.usage_tracker:
            tracker.add_usage(lm.model, usage)
        cost = price_of(lm, *tokens) if lm.price else None
        if cost is not None:
            self.cost = (self.cost or Decimal(0)) + cost
        return self.note(lm, module, began, tokens=tokens, cost="" if cost is None else format(cost, "f"))

    def note(
        self, lm: LMConfig, module: str, began: float, tokens: tuple[int, int] = (0, 0), cost: str = "", error: str = ""
    ) -> LMCall:
        """Write down an attempt that has ended."""
        seconds = time.perf_counter() - began
        callers = dspy.settings.caller_modules or ()
        self.calls.append(LMCall(lm.name, lm.model, module, began, seconds, tokens, cost, error, callers))
        return self.calls[-1]

    def passed_on(self) -> tuple[str, Headers]:
        """The name of a new span in which somebody else is called, and the headers by which he learns of it."""
        if self.context is None:
            return "", self.trace
        name = span_id()
        return name, self.context.headers(name)

    def note_tool(self, tool: str, backend: str, fate: str, name: str, began: float) -> None:
        """Write down an attempt at a tool that has ended; its span was called so."""
        callers = dspy.settings.caller_modules or ()
        self.tools.append(ToolCall(tool, backend, fate, name, began, time.perf_counter() - began, callers))


def price_of(lm: LMConfig, inputs: int, outputs: int) -> Decimal:
    """US dollars of so many tokens, exactly."""
    if lm.price is None:
        return Decimal(0)
    asked = Decimal(lm.price.input_per_million_usd), Decimal(lm.price.output_per_million_usd)
    return (inputs * asked[0] + outputs * asked[1]) / MILLION
