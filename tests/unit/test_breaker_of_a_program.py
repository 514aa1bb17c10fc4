"""One breaker out of many: what opens it, whom that concerns, what closes it, and what a restart may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from despina.api.serving import ProgramBreaker
from despina.api.status import BreakerStatus, ProgramStatus
from despina.decide.breaker import HOUR, may_restart, merged, orders
from despina.decide.quarantine import timestamp
from despina.wire import BreakerReport, PodState
from tests.support.gen import a_deployment, a_program, observed, pods, serving

NOW = 1_000_000.0
PROGRAM = a_program(breaker={"minRequests": 10, "errorRatePercent": 50, "openSeconds": 30}, replicas=3)


def snapshot(*breakers: BreakerReport, before: BreakerStatus | None = None, uptime: float = 500.0, told=None):
    fields = serving(PROGRAM, "1", len(breakers))
    views = pods(PROGRAM, "1", len(breakers), ready=True)
    fields["pods"] = tuple(
        type(p)(**{**p.__dict__, "report": PodState(breakers=(b,), uptime_seconds=uptime), "told": told or {}})
        for p, b in zip(views, breakers, strict=True)
    )
    return observed(PROGRAM, status=ProgramStatus(breaker=before), **fields)


def seen(state: str = "Closed", age: float | None = None, **window: int) -> BreakerReport:
    return BreakerReport(state=state, age_seconds=age, window=window)


def status(state: str, ago: float) -> BreakerStatus:
    return BreakerStatus(state=state, class_="Program", reason="why", since=timestamp(NOW - ago))


def told(o) -> list[tuple[str, str]]:
    return [(t.pod.name.rpartition("-")[2], t.order) for t in orders(o, merged(o, NOW), NOW)]


def test_no_single_pod_has_seen_enough_but_all_together_have():
    few = seen(ok=2, Program=3)
    assert merged(snapshot(few), NOW).state == "Closed"
    o = snapshot(few, few, few)
    found = merged(o, NOW)
    assert (found.state, found.class_) == ("Open", "Program")
    assert found.reason.startswith("9 of 15 requests within 60 s failed")
    assert told(o) == [("0", "OpenBreaker"), ("1", "OpenBreaker"), ("2", "OpenBreaker")]


def test_one_bad_pod_is_left_to_itself():
    o = snapshot(seen("Open", 1.0, Program=12), seen(ok=50), seen(ok=50))
    assert merged(o, NOW).state == "Closed"
    assert told(o) == []


def test_the_class_is_that_of_most_failures():
    assert merged(snapshot(seen(Upstream=8, Program=2)), NOW).class_ == "Upstream"


def test_what_one_workers_probes_find_out_holds_for_all():
    before = status("Open", 40)
    still = snapshot(seen("HalfOpen", 5), seen("HalfOpen", 6), seen("Open", 39), before=before)
    assert merged(still, NOW).state == "HalfOpen"
    closed = snapshot(seen("HalfOpen", 5), seen("Closed", 1), seen("Open", 39), before=before)
    assert merged(closed, NOW).state == "Closed"
    assert told(closed) == [("0", "CloseBreaker"), ("2", "CloseBreaker")]
    again = snapshot(seen("HalfOpen", 5), seen("Open", 1), seen("Closed", 20), before=before)
    assert merged(again, NOW).state == "Open"


def test_it_does_not_open_again_from_what_others_still_remember():
    o = snapshot(seen("Closed", 1), seen("HalfOpen", 5, Program=50), before=status("Closed", 1))
    assert merged(o, NOW).state == "Closed"


def test_pods_that_came_after_the_trip_are_not_opened_and_end_it():
    o = snapshot(seen(), seen(), before=status("Open", 20), uptime=5)
    assert merged(o, NOW).state == "Closed"
    assert told(o) == []


def test_an_order_on_its_way_is_not_given_again():
    before = status("Open", 1)
    sent = {"OpenBreaker": f"OpenBreaker {before.since}"}
    assert told(snapshot(seen(), seen(), before=before, told=sent)) == []


def test_without_a_breaker_there_is_nothing():
    assert merged(observed(a_program(), **serving(a_program(), "1")), NOW) is None


RESTARTS = {
    # sentence: class, on_open, restarts so many seconds ago, may
    "a program's fault is restarted": ("Program", None, (), True),
    "so is a hang": ("Timeout", None, (), True),
    "an outage of a provider is not": ("Upstream", None, (), False),
    "nor when the manifest does not want it": ("Program", ("Shed",), (), False),
    "not again within the back-off": ("Program", None, (30,), False),
    "but after it": ("Program", None, (61,), True),
    "which doubles": ("Program", None, (200, 100), False),
    "up to the bound of an hour": ("Program", None, (3000, 2000, 1000), False),
    "and older ones do not count": ("Program", None, (4000, 3900, 3800), True),
}


@pytest.mark.parametrize("case", RESTARTS)
def test_restarts(case):
    kind, on_open, ago, may = RESTARTS[case]
    spec = ProgramBreaker(**({"on_open": on_open} if on_open else {}))
    view = a_deployment(PROGRAM, "1", restarts=tuple(NOW - s for s in ago))
    assert may_restart(spec, BreakerStatus(state="Open", class_=kind), view, NOW) is may


@given(st.lists(st.floats(0.5, 300), max_size=400))
def test_however_often_it_opens_restarts_within_an_hour_stay_under_the_bound(gaps):
    spec, now, done = ProgramBreaker(), 0.0, ()
    for gap in gaps:
        now += gap
        view = a_deployment(PROGRAM, "1", restarts=done)
        if may_restart(spec, BreakerStatus(state="Open", class_="Program"), view, now):
            done = (*done, now)
        assert sum(t > now - HOUR for t in done) <= spec.restart.max_per_hour
