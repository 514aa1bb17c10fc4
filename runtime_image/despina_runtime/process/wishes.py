"""What callers asked a pod to have optimised. The pod itself can begin nothing: the operator reads its state.

A request is a wish and no job. What became of a wish the pod does not know; so whoever asks for the same module again
gets a later number, which takes the earlier one's place: two that nobody acted on yet are one, and one that comes after
a run is a new one. A number wakes the operator. Therefore there are new ones once a second at most, and what is asked
within a second of the same wish has that one's number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from despina.wire import OptimizeRequest

MOST = 16
"""As many are told, and as many may wait to be."""
APART_SECONDS = 1.0


@dataclass(frozen=True)
class _Wish:
    request: OptimizeRequest
    at: float
    """From when on it is told."""


class Wishes:
    """One pod's, of all of its workers' callers, for as long as its container lives."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.turn = -math.inf
        """The last moment at which there is news; it may be still to come."""
        self._clock = clock
        self._numbers = itertools.count(1)
        self._wishes: list[_Wish] = []
        """By their numbers: those that are told, then those that wait."""

    def ask(self, module: str) -> OptimizeRequest | None:
        """The request that stands for this one; None if too many wait. Raises ValueError for what can be no path."""
        now = self._clock()
        last = next((w for w in reversed(self._wishes) if w.request.module == module), None)
        if last and now < last.at + APART_SECONDS:
            return last.request
        if sum(w.at > now for w in self._wishes) >= MOST:
            return None
        request = OptimizeRequest(number=next(self._numbers), module=module)
        self._forget_what_is_not_told(now)
        self._wishes.append(_Wish(request, self._next_turn(now)))
        return request

    def told(self) -> tuple[OptimizeRequest, ...]:
        """What stands in the pod's state now: of each module the last, the latest last."""
        now = self._clock()
        last = {w.request.module: w.request for w in self._wishes if w.at <= now}
        return tuple(sorted(last.values(), key=lambda request: request.number)[-MOST:])

    def _forget_what_is_not_told(self, now: float) -> None:
        told = self.told()
        self._wishes = [w for w in self._wishes if w.at > now or w.request in told]

    def _next_turn(self, now: float) -> float:
        """With those that wait already, or else a second after those before."""
        if self.turn <= now:
            self.turn = max(now, self.turn + APART_SECONDS)
        return self.turn
