"""A circuit breaker as a pure state machine: closed → open → half-open → closed. Time is handed in by a clock."""

from __future__ import annotations

import enum
import time
from collections import Counter, deque
from collections.abc import Callable

from despina.api.breaking import OK, must_open
from despina.wire import BreakerConfig

BUCKETS = 10


class State(enum.StrEnum):
    """The three states."""

    CLOSED = "Closed"
    OPEN = "Open"
    HALF_OPEN = "HalfOpen"


class Window:
    """What happened in the last `seconds`, by kind, in ten buckets."""

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._buckets: deque[tuple[int, Counter[str]]] = deque()

    def add(self, now: float, kind: str) -> None:
        """Count one result."""
        index = int(now / self._width)
        if not self._buckets or self._buckets[-1][0] != index:
            self._buckets.append((index, Counter()))
        self._buckets[-1][1][kind] += 1

    def counts(self, now: float) -> Counter[str]:
        """How many there were of each kind."""
        oldest = int(now / self._width) - BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            self._buckets.popleft()
        return sum((counter for _, counter in self._buckets), Counter())

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()


class Breaker:
    """Says whether a call may go, and learns from how calls went.

    `admit` gives a ticket, or None when the call must not go. Every ticket must be handed back: to `record` with the
    result, or to `release` when there is none (the caller was cancelled). A ticket from before the breaker last
    changed its state says nothing about the present and is not counted.
    """

    def __init__(self, config: BreakerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._window = Window(config.window_seconds)
        self._state = State.CLOSED
        self._era = 0
        self._opened_at = 0.0
        self._changed_at: float | None = None
        self._in_a_row = 0
        self._probes = 0
        self._passed = 0

    @property
    def state(self) -> State:
        """The state now; an open breaker becomes half-open with time alone."""
        if self._state is State.OPEN and self._clock() >= self._opened_at + self._config.open_seconds:
            self._enter(State.HALF_OPEN)
        return self._state

    @property
    def retry_after(self) -> float:
        """Seconds until it is worth asking again; at least 1."""
        return max(1.0, self._opened_at + self._config.open_seconds - self._clock())

    def admit(self) -> int | None:
        """A ticket for one call, or None."""
        if not self.is_admitting:
            return None
        if self._state is State.HALF_OPEN:
            self._probes += 1
        return self._era

    @property
    def is_admitting(self) -> bool:
        """Whether a call would get a ticket now."""
        state = self.state
        return state is State.CLOSED or (state is State.HALF_OPEN and self._probes < self._config.half_open_requests)

    def release(self, ticket: int) -> None:
        """Hand a ticket back without a result."""
        if ticket == self._era and self._state is State.HALF_OPEN:
            self._probes -= 1

    def record(self, ticket: int, kind: str = OK) -> None:
        """Hand a ticket back with the call's result: OK, or the kind of its failure."""
        if ticket != self._era:
            return
        if self._state is State.HALF_OPEN:
            self._record_probe(kind == OK)
        else:
            self._record_call(kind)

    @property
    def age(self) -> float | None:
        """Seconds since the last change of state; None when there was none."""
        return None if self._changed_at is None else self._clock() - self._changed_at

    @property
    def window(self) -> Counter[str]:
        """What the window holds, by kind."""
        return self._window.counts(self._clock())

    def force(self, state: State) -> None:
        """Be as the other workers of the same program are."""
        if state is not self.state:
            self._enter(state)

    def _record_probe(self, ok: bool) -> None:
        self._passed += ok
        if not ok:
            self._enter(State.OPEN)
        elif self._passed >= self._config.half_open_requests:
            self._enter(State.CLOSED)

    def _record_call(self, kind: str) -> None:
        now = self._clock()
        self._window.add(now, kind)
        self._in_a_row = 0 if kind == OK else self._in_a_row + 1
        if kind != OK and self._must_open(now):
            self._enter(State.OPEN)

    def _must_open(self, now: float) -> bool:
        limit = self._config.consecutive_failures
        if limit is not None and self._in_a_row >= limit:
            return True
        return must_open(self._config, self._window.counts(now))

    def _enter(self, state: State) -> None:
        self._state = state
        self._era += 1
        self._probes = self._passed = self._in_a_row = 0
        self._changed_at = self._clock()
        if state is State.OPEN:
            self._opened_at = self._changed_at
        if state is State.CLOSED:
            self._window.clear()
