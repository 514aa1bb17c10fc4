"""Which endpoint gets a call, and when a call may be made again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from despina_runtime.tools.routing import Fate, View, choose, may_try_again

POLICIES = ("Priority", "Weighted", "RoundRobin", "LeastInFlight")
views = st.builds(
    View,
    priority=st.integers(0, 2),
    weight=st.integers(0, 3),
    in_flight=st.integers(0, 5),
    last_used=st.integers(0, 9),
    is_open=st.booleans(),
    is_limited=st.booleans(),
    is_slow=st.booleans(),
    is_leaving=st.booleans(),
)


@pytest.mark.parametrize(
    ("policy", "given", "chosen"),
    [
        ("Priority", [View(priority=1), View(priority=0, in_flight=9)], 1),
        ("Priority", [View(priority=1), View(priority=0, is_open=True)], 0),
        ("Priority", [View(priority=1), View(priority=0, is_slow=True)], 0),
        ("Priority", [View(priority=0, is_slow=True)], 0),
        ("Priority", [View(in_flight=2), View(in_flight=1)], 1),
        ("LeastInFlight", [View(in_flight=2), View(priority=5, in_flight=1)], 1),
        ("LeastInFlight", [View(last_used=7), View(last_used=3)], 1),
        ("RoundRobin", [View(last_used=7, in_flight=0), View(last_used=3, in_flight=9)], 1),
        ("Weighted", [View(weight=0), View(weight=1)], 1),
        ("Weighted", [View(weight=0)], None),
        ("Weighted", [View(weight=0), View(weight=1, is_slow=True)], 1),
        ("Weighted", [View(weight=0), View(weight=1, is_leaving=True)], 1),
        ("Weighted", [View(weight=9, is_leaving=True), View(weight=1)], 1),
        ("LeastInFlight", [View(is_leaving=True), View(in_flight=9)], 1),
        ("Priority", [View(is_leaving=True), View(in_flight=9)], 1),
        ("Priority", [View(is_leaving=True), View(priority=1)], 0),
        ("Priority", [View(is_limited=True)], None),
        ("RoundRobin", [], None),
    ],
)
def test_choice(policy, given, chosen):
    assert choose(policy, given, 0.5) == chosen


@given(st.sampled_from(POLICIES), st.lists(views, max_size=6), st.floats(0, 1, exclude_max=True))
def test_whoever_is_chosen_is_up_and_not_slow_while_another_is_not(policy, given, chance):
    index = choose(policy, given, chance)
    usable = [v for v in given if not v.is_open and not v.is_limited and (v.weight or policy != "Weighted")]
    if index is None:
        assert not usable
        return
    assert given[index] in usable
    assert not given[index].is_slow or all(v.is_slow for v in usable)


def test_weights_are_kept():
    counted = [choose("Weighted", [View(weight=3), View(weight=1)], n / 400) for n in range(400)]
    assert counted.count(0) == 300


REPEATS = {Fate.BROKEN, Fate.STALE, Fate.TIMEOUT, Fate.ERROR}
ALL = ("ConnectError", "Timeout", "Status5xx", "Status429")


@pytest.mark.parametrize("fate", list(Fate))
def test_a_call_that_may_have_been_executed_is_never_made_again_unless_that_is_safe(fate):
    assert not (fate in REPEATS and may_try_again(fate, False, ALL, 0, 5))
    for retry_on in itertools.combinations(ALL, 1):
        assert not (fate in REPEATS and may_try_again(fate, False, retry_on, 0, 5))


@pytest.mark.parametrize(
    ("fate", "retry_on", "attempts", "again"),
    [
        (Fate.UNREACHED, ("ConnectError",), 1, True),
        (Fate.UNREACHED, (), 1, False),
        (Fate.BROKEN, ("ConnectError",), 1, True),
        (Fate.STALE, ("ConnectError",), 1, True),
        (Fate.STALE, (), 0, False),
        (Fate.TIMEOUT, ("ConnectError",), 1, False),
        (Fate.TIMEOUT, ("Timeout",), 1, True),
        (Fate.ERROR, ("Status5xx",), 1, True),
        (Fate.LIMITED, ("Status429",), 1, True),
        (Fate.LIMITED, (), 1, False),
        (Fate.REFUSED, (), 9, True),
        (Fate.INVALID, ALL, 0, False),
        (Fate.DONE, ALL, 0, False),
    ],
)
def test_again_for_an_idempotent_tool(fate, retry_on, attempts, again):
    assert may_try_again(fate, True, retry_on, attempts, 2) is again
