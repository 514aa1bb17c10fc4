"""What an optimisation may spend: calls of LMs, money and seconds. None of them is overrun, not by one call.

A call is an attempt to ask a provider: retries, fallbacks and second tries are calls of their own. Before one is sent,
the most that it can cost is reserved, and what it did cost is booked afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from despina.wire import LMConfig

Clock = Callable[[], float]
LENGTHS = ("max_tokens", "max_completion_tokens")
"""Names under which a request says how many tokens its answer may have."""


class Exhausted(BaseException):
    """Nothing more may be spent. It is no `Exception`: three of DSPy's optimisers would take it for a wrong answer and
    return as if they had finished, others go on until ten have come."""


class Occupied(Exhausted):
    """Not now: it may be spent once a call under way has cost less than it can."""


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

    def __init__(self, limits: Limits, aside: int = 0, clock: Clock = time.monotonic) -> None:
        self._limits, self._aside, self._clock = limits, aside, clock
        self._lock = threading.Lock()
        self._calls, self._usd, self._dearest = 0, Decimal(0), Decimal(0)
        self._under_way = Decimal(0)
        self._began, self._aside_seconds = clock(), 0.0
        self.refusal = ""
        """Why the last call was refused that was."""

    def reserve(self, most: Decimal | None) -> None:
        """Take a call that can cost as much as that; None where nobody knows. Raises Exhausted and Occupied."""
        with self._lock:
            if why := self._why_not(most):
                self.refusal = why
                raise Exhausted(why)
            if self._lack(most, self._usd):
                raise Occupied("calls under way may cost all that is left")
            self._calls += 1
            self._usd += most or 0
            self._under_way += most or 0

    def _why_not(self, most: Decimal | None) -> str:
        limits = self._limits
        if self._calls + self._aside >= limits.calls:
            return f"{self._calls} of {limits.calls} LM calls are made, and {self._aside} are set aside"
        if self._clock() - self._began >= limits.seconds - self._aside_seconds:
            return f"{limits.seconds:g} seconds are over, but for {self._aside_seconds:.0f} that are set aside"
        if limits.usd is None:
            return ""
        if most is None:
            return "a call says no max_tokens, so nobody knows what it can cost"
        if self._lack(most, spent := self._usd - self._under_way):
            return f"{spent:f} of {limits.usd:f} USD are spent, and a call can cost {most:f}"
        return ""

    def _lack(self, most: Decimal | None, spent: Decimal) -> bool:
        """Whether a call can cost more than is left when so much is spent."""
        limit = self._limits.usd
        return limit is not None and spent + (most or 0) + self._aside * self._dearest > limit

    def settle(self, reserved: Decimal | None, cost: Decimal) -> None:
        """Book what a call did cost in place of what was reserved for it."""
        with self._lock:
            self._usd += cost - (reserved or 0)
            self._under_way -= reserved or 0
            self._dearest = max(self._dearest, cost)

    def begin(self, aside: int = 0, aside_seconds: float = 0.0) -> None:
        """A new part of the work: so much is set aside for later ones, and no call has been refused yet."""
        with self._lock:
            self._aside, self._aside_seconds, self.refusal = aside, aside_seconds, ""

    @property
    def spent(self) -> Spent:
        """So far."""
        with self._lock:
            return Spent(self._calls, self._usd, self._clock() - self._began, self._dearest)


def longest_of(params: Mapping[str, Any]) -> int | None:
    """How many tokens an answer may have; None if that is not said."""
    return max((int(params[name]) for name in LENGTHS if params.get(name)), default=None)


def check_sufficient(limits: Limits, calls: int, lms: Iterable[LMConfig]) -> None:
    """Raise Insufficient for a budget of which it is known beforehand that so many calls are too many for it."""
    if limits.calls < calls:
        raise Insufficient(f"{limits.calls} LM calls cannot be enough: it takes {calls} at least")
    if limits.usd is None:
        return
    unbounded = [lm.name for lm in lms if lm.price and longest_of(lm.params) is None]
    if unbounded:
        raise Insufficient(f"a budget of money needs params.max_tokens in lms[{', '.join(unbounded)}]")
