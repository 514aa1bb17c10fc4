"""The breaker, retries, rate limit and price: pure decisions over time that is handed in."""

from __future__ import annotations

import pytest
from dspy.utils.exceptions import LMAuthError, LMInvalidRequestError, LMRateLimitError, LMServerError, LMTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from despina.wire import BreakerConfig, LMConfig, Price
from despina_runtime.breaker import Breaker, State
from despina_runtime.lm.meter import price_of
from despina_runtime.lm.retry import BASE_SECONDS, MAX_SECONDS, delay, is_outage, is_retryable, next_delay
from despina_runtime.pipeline.admission import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker(**config) -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(
        BreakerConfig(**{"min_requests": 4, "window_seconds": 10, "open_seconds": 5, **config}), clock
    ), clock


def call(b: Breaker, ok: bool) -> bool:
    ticket = b.admit()
    if ticket is None:
        return False
    b.record(ticket, "ok" if ok else "failed")
    return True


def test_it_opens_at_the_rate_and_not_before_enough_calls():
    b, _ = breaker()
    for ok in (False, False, False):
        call(b, ok)
    assert b.state is State.CLOSED  # three of at least four
    call(b, True)
    assert b.state is State.CLOSED  # a success opens nothing
    call(b, False)
    assert b.state is State.OPEN
    assert b.admit() is None
    assert b.retry_after == 5.0


def test_old_results_leave_the_window():
    b, clock = breaker()
    for _ in range(3):
        call(b, False)
    clock.now += 11
    for ok in (True, True, True, False):
        call(b, ok)
    assert b.state is State.CLOSED


def test_failures_in_a_row_open_it_whatever_the_rate():
    b, _ = breaker(min_requests=1000, consecutive_failures=3)
    for ok in (False, False, True, False, False):
        call(b, ok)
    assert b.state is State.CLOSED
    call(b, False)
    assert b.state is State.OPEN


def test_half_open_lets_so_many_probes_through_and_closes_when_all_succeed():
    b, clock = breaker(half_open_requests=2, consecutive_failures=1)
    call(b, False)
    clock.now += 5
    assert b.state is State.HALF_OPEN
    first, second = b.admit(), b.admit()
    assert first is not None
    assert second is not None
    assert b.admit() is None
    b.record(first)
    assert b.state is State.HALF_OPEN
    b.record(second)
    assert b.state is State.CLOSED


def test_a_probe_that_fails_opens_it_again_and_one_that_is_cancelled_makes_room():
    b, clock = breaker(half_open_requests=1, consecutive_failures=1)
    call(b, False)
    clock.now += 5
    ticket = b.admit()
    assert b.admit() is None
    b.release(ticket)
    assert call(b, False)
    assert b.state is State.OPEN


def test_a_result_from_before_the_last_change_counts_for_nothing():
    b, clock = breaker(half_open_requests=1, consecutive_failures=1)
    slow = b.admit()
    call(b, False)
    clock.now += 5
    assert b.state is State.HALF_OPEN
    b.record(slow)
    assert b.state is State.HALF_OPEN


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 4), st.booleans()), max_size=200))
def test_whatever_happens_it_recovers(steps):
    b, clock = breaker(half_open_requests=2)
    for ok, seconds, is_cancelled in steps:
        clock.now += seconds
        ticket = b.admit()
        if ticket is not None:
            b.release(ticket) if is_cancelled else b.record(ticket, "ok" if ok else "failed")
        assert (b.admit() is None) <= (b.state is not State.CLOSED)
    # Whoever holds a ticket hands it back; then time and successes close it.
    fresh, clock = breaker(half_open_requests=2, consecutive_failures=1)
    call(fresh, False)
    clock.now += 5
    assert call(fresh, True)
    assert call(fresh, True)
    assert fresh.state is State.CLOSED


@pytest.mark.parametrize(
    ("exc", "retryable", "outage"),
    [
        (LMServerError("x"), True, True),
        (LMTimeoutError("x"), True, True),
        (LMRateLimitError("x"), True, False),
        (LMAuthError("x"), False, False),
        (LMInvalidRequestError("x"), False, False),
        (ValueError("x"), False, False),
    ],
)
def test_what_is_tried_again_and_what_a_breaker_counts(exc, retryable, outage):
    assert (is_retryable(exc), is_outage(exc)) == (retryable, outage)


@given(st.integers(1, 10), st.floats(0, 0.999), st.none() | st.floats(0, 120))
def test_the_wait_honours_retry_after_and_stays_bounded(attempt, jitter, retry_after):
    wait = delay(attempt, LMRateLimitError("x", retry_after=retry_after), jitter)
    assert wait >= (retry_after or 0)
    assert wait <= max(retry_after or 0, min(MAX_SECONDS, BASE_SECONDS * 2 ** (attempt - 1)))


def test_no_retry_beyond_the_bound_or_the_deadline():
    error = LMServerError("x", retry_after=2.0)
    assert next_delay(1, 2, error, 0.5, remaining=10) == 2.0
    assert next_delay(3, 2, error, 0.5, remaining=10) is None
    assert next_delay(1, 2, error, 0.5, remaining=2.0) is None
    assert next_delay(1, 2, LMAuthError("x"), 0.5, remaining=10) is None


def test_the_bucket_gives_a_burst_then_its_rate():
    clock = Clock()
    bucket = TokenBucket(10, 20, 0.5, clock)  # a half of 10 a second, in bursts of 20
    assert [bucket.take() for _ in range(10)] == [0.0] * 10
    assert bucket.take() == pytest.approx(0.2)
    clock.now += 0.2
    assert bucket.take() == 0.0
    assert bucket.take() > 0


@given(st.lists(st.floats(0, 0.5), min_size=50, max_size=300))
def test_the_bucket_never_gives_more_than_rate_and_burst(waits):
    clock = Clock()
    bucket = TokenBucket(5, 8, 1.0, clock)
    given_out = 0
    for wait in waits:
        clock.now += wait
        given_out += bucket.take() == 0.0
    assert given_out <= 8 + 5 * sum(waits) + 1


def test_cost_is_exact():
    lm = LMConfig(name="m", model="openai/x", price=Price(input_per_million_usd="0.15", output_per_million_usd="0.6"))
    assert str(price_of(lm, 1000, 100)) == "0.00021"
