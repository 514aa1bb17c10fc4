"""What an optimisation may spend: calls of LMs, money and seconds. None of them is overrun, not by one call.

A call is an attempt to ask a provider: retries, fallbacks and second tries are calls of their own. Before it is sent,
the most that it can cost is reserved: its `max_tokens`, and no more input tokens than the request has bytes. What
it did cost is booked when its answer has come; of one that may have been answered unseen, the whole reservation. What
a provider charges beyond the tokens that it was allowed (an image that is named by its address), it cannot know.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
from dspy.utils.exceptions import LMError

from despina.wire import LMConfig
from despina_runtime.lm.meter import price_of
from despina_runtime.lm.openai_compatible import Completion, Emit
from despina_runtime.lm.target import Client

Clock = Callable[[], float]
LENGTHS = ("max_tokens", "max_completion_tokens")
"""Names under which a request says how many tokens its answer may have."""


class Exhausted(BaseException):
    """Nothing more may be spent. It is no `Exception`: three of DSPy's optimisers would take it for a wrong answer and
    return as if they had finished, others go on until ten have come."""


class Insufficient(ValueError):
    """A budget that cannot be enough; the text says what would be."""


@dataclass(frozen=True)
class Limits:
    """The most that may be spent."""

    calls: int
    seconds: float
    usd: Decimal | None = None


@dataclass(frozen=True)
class Spent:
    """What was spent; of calls under way, what is reserved."""

    calls: int = 0
    usd: Decimal = Decimal(0)
    seconds: float = 0.0
    dearest: Decimal = Decimal(0)
    """The most that one call has cost, in US dollars."""


class Budget:
    """An account for many threads.

    `aside` calls are kept for later; so is the money for them, as if each were as dear as the dearest one so far.
    """

    def __init__(self, limits: Limits, aside: int = 0, before: Spent = Spent(), clock: Clock = time.monotonic) -> None:
        self._limits, self._aside, self._clock = limits, aside, clock
        self._lock = threading.Lock()
        self._calls, self._usd, self._dearest = before.calls, before.usd, before.dearest
        self._began = clock() - before.seconds
        self._closed = ""

    def reserve(self, most: Decimal | None) -> None:
        """Take a call that can cost as much as that; None where nobody knows. Raises Exhausted."""
        with self._lock:
            if why := self._closed or self._why_not(most):
                raise Exhausted(why)
            self._calls += 1
            self._usd += most or 0

    def _why_not(self, most: Decimal | None) -> str:
        limits = self._limits
        if self._calls + self._aside >= limits.calls:
            return f"{self._calls} of {limits.calls} LM calls are made, and {self._aside} are set aside"
        if self._clock() - self._began >= limits.seconds:
            return f"{limits.seconds:g} seconds are over"
        if limits.usd is None:
            return ""
        if most is None:
            return "a call says no max_tokens, so nobody knows what it can cost"
        if self._usd + most + self._aside * self._dearest > limits.usd:
            return f"{self._usd:f} of {limits.usd:f} USD are spent, and a call can cost {most:f}"
        return ""

    def settle(self, reserved: Decimal | None, cost: Decimal) -> None:
        """Book what a call did cost in place of what was reserved for it."""
        with self._lock:
            self._usd += cost - (reserved or 0)
            self._dearest = max(self._dearest, cost)

    def close(self, why: str) -> None:
        """No call is made from now on."""
        with self._lock:
            self._closed = why

    @property
    def spent(self) -> Spent:
        """So far."""
        with self._lock:
            return Spent(self._calls, self._usd, self._clock() - self._began, self._dearest)

    def guard(self, lm: LMConfig, client: Client) -> Client:
        """The client of an LM, which asks this account before each attempt."""
        return _Accounted(self, lm, client)


class _Accounted:
    """A client whose attempts are paid for."""

    def __init__(self, budget: Budget, lm: LMConfig, client: Client) -> None:
        self._budget, self._lm, self._client = budget, lm, client

    async def complete(
        self, messages: list[dict[str, Any]], params: dict[str, Any], key: str | None, emit: Emit | None
    ) -> Completion:
        """One attempt; raises Exhausted instead."""
        reserved = most_of(self._lm, messages, params)
        self._budget.reserve(reserved)
        cost = reserved or Decimal(0)  # whatever becomes of it, unless the provider says
        try:
            completion = await self._client.complete(messages, params, key, emit)
            cost = cost_of(self._lm, completion.usage, cost)
        except LMError as exc:
            cost = Decimal(0) if exc.status is not None else cost
            raise
        finally:
            self._budget.settle(reserved, cost)
        return completion

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()


def most_of(lm: LMConfig, messages: Iterable[Any], params: Mapping[str, Any]) -> Decimal | None:
    """The most that a call can cost, in US dollars; None where its answer may have any length."""
    if lm.price is None:
        return Decimal(0)
    longest = next((params[name] for name in LENGTHS if params.get(name)), None)
    if longest is None:
        return None
    request = orjson.dumps([messages, params], default=str)
    return price_of(lm, len(request), int(longest) * int(params.get("n") or 1))


def cost_of(lm: LMConfig, usage: Mapping[str, Any], otherwise: Decimal) -> Decimal:
    """What an answer cost by the provider's count, where there is one."""
    if not usage:
        return otherwise
    counted = (max(0, int(usage.get(kind) or 0)) for kind in ("prompt_tokens", "completion_tokens"))
    return price_of(lm, *counted)


def check_sufficient(limits: Limits, calls: int, lms: Iterable[LMConfig]) -> None:
    """Raise Insufficient for a budget of which it is known beforehand that so many calls are too many for it."""
    if limits.calls < calls:
        raise Insufficient(f"{limits.calls} LM calls cannot be enough: it takes {calls} at least")
    if limits.usd is None:
        return
    unbounded = [lm.name for lm in lms if most_of(lm, [], lm.params) is None]
    if unbounded:
        raise Insufficient(f"a budget of money needs params.max_tokens in lms[{', '.join(unbounded)}]")
