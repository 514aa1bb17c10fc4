"""When labels, or the clock, ask for an optimisation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from despina.api.optimization import Trigger
from despina.decide.observed import Vote
from despina.decide.triggers import asks, next_moment, wilson_low

NOW = 1_800_000_000.0
DAY = 86400.0


def votes(failures: int, successes: int, at: float = NOW - 60) -> tuple[Vote, ...]:
    return tuple(Vote(at, is_failure) for is_failure in [True] * failures + [False] * successes)


def trigger(**settings) -> Trigger:
    return Trigger.model_validate({"name": "it", **settings})


@pytest.mark.parametrize(
    ("failures", "labels", "is_over"),
    [(9, 50, True), (8, 50, False), (26, 200, False), (27, 200, True), (0, 200, False), (1, 1, True), (0, 0, False)],
)
def test_a_rate_is_over_a_threshold_only_if_chance_hardly_explains_it(failures, labels, is_over):
    assert (wilson_low(failures, labels) > 0.10) is is_over


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bound_is_below_the_rate_and_grows_with_failures(figures):
    failures, labels = figures
    low = wilson_low(failures, labels)
    assert 0 <= low <= failures / labels + 1e-12
    assert failures == labels or low < wilson_low(failures + 1, labels)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (votes(9, 41), "9 of 50 labels are failures, which is surely more than 0.10 of all answers"),
        (votes(8, 42), ""),
        (votes(40, 9), ""),  # of 50 that it takes
        (votes(9, 41, NOW - 2 * DAY), ""),  # too old
    ],
)
def test_failures(given, why):
    found = asks(trigger(type="FailureRate", failureRate={}), given, 0.0, NOW)
    assert found == (f"it: {why}" if why else "")


def test_settings_of_a_failure_rate_may_be_left_out():
    assert asks(trigger(type="FailureRate"), votes(9, 41), 0.0, NOW)


@pytest.mark.parametrize(("number", "why"), [(10, "it: 10 new labels"), (9, "")])
def test_labels(number, why):
    assert asks(trigger(type="Labels", labels={"count": 10}), votes(0, number), 0.0, NOW) == why


def test_a_schedule_counts_from_the_last_run():
    nightly = trigger(type="Schedule", schedule="0 3 * * *")
    three = next_moment("0 3 * * *", NOW)
    assert three % DAY == 3 * 3600
    assert asks(nightly, (), NOW, three - 1) == ""
    assert asks(nightly, (), NOW, three) == "it: the schedule 0 3 * * *"
    assert asks(nightly, (), NOW, three + 5000) != ""  # also late
    assert asks(nightly, (), three, three + 5000) == ""  # and once


@pytest.mark.parametrize("schedule", ["", "0 3 * *", "* * * * * *", "61 3 * * *", "0 0 30 2 *", "hourly", "x" * 300])
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(ValidationError, match="schedule"):
        trigger(type="Schedule", schedule=schedule)


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "Labels"},
        {"type": "Schedule"},
        {"type": "Labels", "labels": {"count": 1}, "schedule": "0 3 * * *"},
        {"type": "Schedule", "schedule": "0 3 * * *", "failureRate": {}},
        {"type": "FailureRate", "failureRate": {"threshold": "10"}},
    ],
)
def test_settings_belong_to_their_type(settings):
    with pytest.raises(ValidationError):
        trigger(**settings)
