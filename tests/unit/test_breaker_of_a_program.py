"""One breaker out of many: what opens it, whom that concerns, what closes it, and what a restart may do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from despina.api.serving import ProgramBreaker
from despina.api.status import BreakerStatus, ProgramStatus
from despina.decide.breaker import is_restarting, may_restart, merged, orders
from despina.decide.quarantine import timestamp
from despina.wire import BreakerReport, PodState
from tests.support.gen import a_deployment, a_program, hash_of, observed, pods, serving

NOW = 1_000_000.0
HOUR = 3600.0
PROGRAM = a_program(breaker={"minRequests": 10, "errorRatePercent": 50, "openSeconds": 30}, replicas=3)


SERVES, ANOTHER = hash_of(PROGRAM, "1"), hash_of(PROGRAM, "2")


def snapshot(
    *breakers: BreakerReport, before: BreakerStatus | None = None, uptime: float = 500.0, told=None, of: str = SERVES
):
    """Pods, each with what it says of the breaker of a revision."""
    fields = serving(PROGRAM, "1", len(breakers))
    views = pods(PROGRAM, "1", len(breakers), ready=True)
    fields["pods"] = tuple(
        type(p)(
            **{**p.__dict__, "report": PodState(revision=of, breakers=(b,), uptime_seconds=uptime), "told": told or {}}
        )
        for p, b in zip(views, breakers, strict=True)
    )
    return observed(PROGRAM, status=ProgramStatus(breaker=before), **fields)


def seen(state: str = "Closed", age: float | None = None, **window: int) -> BreakerReport:
    return BreakerReport(state=state, age_seconds=age, window=window)


def status(state: str, ago: float, of: str = SERVES) -> BreakerStatus:
    return BreakerStatus(revision=of, state=state, class_="Program", reason="why", since=timestamp(NOW - ago))


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


WHOSE = {
    # sentence: who serves where the breakers are, whose the state is; the state that comes of it, and what pods are told
    "it opened for what serves": (SERVES, SERVES, "Open", ["OpenBreaker"] * 2),
    "it opened for a version that was taken back": (SERVES, ANOTHER, "Closed", []),
    "it opened for a version that pods have not left yet": (ANOTHER, ANOTHER, "Closed", []),
    "pods have not come to what serves": (ANOTHER, SERVES, "Open", []),
}


@pytest.mark.parametrize("sentence", WHOSE)
def test_a_breaker_is_that_of_one_revision(sentence):
    of, opened_for, state, orders_given = WHOSE[sentence]
    o = snapshot(seen(), seen(), before=status("Open", 2, opened_for), of=of)
    found = merged(o, NOW)
    assert (found.revision, found.state) == (SERVES, state)
    assert [order for _, order in told(o)] == orders_given


def test_what_another_revision_counted_opens_nothing():
    assert merged(snapshot(seen("Open", 1, Program=50), of=ANOTHER), NOW) == BreakerStatus(revision=SERVES)


def test_without_a_breaker_there_is_nothing():
    assert merged(observed(a_program(), **serving(a_program(), "1")), NOW) is None


MERGED = {
    # sentence: workers' breakers, the state before and how long ago it changed; the state and how long ago it changed
    "exactly as many as it takes, exactly as bad": ([seen(ok=5, Program=5)], None, ("Open", 0)),
    "one better": ([seen(ok=6, Program=5)], None, ("Closed", None)),
    "all workers have opened by themselves, though few requests came": ([seen("Open", 1, Program=1)] * 2, None, ("Open", 0)),
    "nobody is there": ([], None, ("Closed", None)),
    "it closed a moment ago": ([seen("Closed", 1, Program=50)], ("Closed", 2), ("Closed", 2)),
    "it closed long enough ago": ([seen("Closed", 1, Program=50)], ("Closed", 3), ("Open", 0)),
    "it opened a moment ago and nobody has heard of it": ([seen()], ("Open", 2), ("Open", 2)),
    "it opened and nobody ever changed": ([seen()], ("Open", 3), ("Closed", 0)),
    "it opened and nobody is there any more": ([], ("Open", 300), ("Open", 300)),
    "it opened a moment ago and who changed last did so before": ([seen("Closed", 10)], ("Open", 2), ("Open", 2)),
    "it opened and who changed last did so before": ([seen("Closed", 10)], ("Open", 3), ("Closed", 0)),
    "a worker closed as it opened": ([seen("Closed", 2)], ("Open", 2), ("Closed", 0)),
    "a worker has closed since": ([seen("Closed", 1), seen("Open", 9)], ("Open", 2), ("Closed", 0)),
    "a worker is probing": ([seen("HalfOpen", 1), seen("Open", 9), seen()], ("Open", 40), ("HalfOpen", 0)),
    "they go on as before": ([seen("Open", 39)], ("Open", 40), ("Open", 40)),
    "they go on probing": ([seen("HalfOpen", 5)], ("HalfOpen", 6), ("HalfOpen", 6)),
}  # fmt: skip


@pytest.mark.parametrize("sentence", MERGED)
def test_merged(sentence):
    breakers, before, (state, ago) = MERGED[sentence]
    found = merged(snapshot(*breakers, before=status(*before) if before else None), NOW)
    assert (found.state, found.since) == (state, None if ago is None else timestamp(NOW - ago))
    if before and found.state != before[0] and before[0] != "Closed":
        assert (found.class_, found.reason) == ("Program", "why")


REASONS = {
    "of several kinds": ([seen(ok=4, Program=5, Timeout=2)], ("Program", "7 of 11 requests within 60 s failed, 5 of them: Program")),
    "of one": ([seen(Timeout=12)], ("Timeout", "12 of 12 requests within 60 s failed, 12 of them: Timeout")),
    "of which nobody remembers anything": ([seen("Open", 1)], ("Program", "0 of 0 requests within 60 s failed, 0 of them: Program")),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REASONS)
def test_the_reason_tells_the_figures(sentence):
    breakers, wanted = REASONS[sentence]
    found = merged(snapshot(*breakers), NOW)
    assert (found.class_, found.reason) == wanted


def test_only_ready_pods_count():
    o = snapshot(seen(Program=50))
    unready = tuple(replace(p, ready=False) for p in o.pods)
    silent = tuple(replace(p, report=None) for p in o.pods)
    assert [merged(replace(o, pods=p), NOW).state for p in (o.pods, unready, silent)] == ["Open", "Closed", "Closed"]


def test_restarts_of_the_last_hour_are_on_record():
    o = snapshot(seen(ok=1))
    (view,) = o.deployments
    view = replace(view, restarts=(NOW - HOUR, NOW - HOUR + 1, NOW - 5))
    assert merged(replace(o, deployments=(view,)), NOW).restarts_last_hour == 2
    assert merged(replace(o, deployments=()), NOW).restarts_last_hour == 0


ORDERS = {
    # sentence: all of them, what a worker says, its pod's uptime; the order
    "it has not heard that it is open": (("Open", 10), seen(), 500, "OpenBreaker"),
    "it was closed before": (("Open", 10), seen("Closed", 9.5), 500, "OpenBreaker"),
    "it has closed since": (("Open", 10), seen("Closed", 9), 500, None),
    "it is open": (("Open", 10), seen("Open", 20), 500, None),
    "it is probing": (("Open", 10), seen("HalfOpen", 20), 500, None),
    "it has not heard that it is closed": (("Closed", 10), seen("Open", 20), 500, "CloseBreaker"),
    "it was probing before": (("Closed", 10), seen("HalfOpen", 20), 500, "CloseBreaker"),
    "it is closed": (("Closed", 10), seen("Closed", 20), 500, None),
    "nobody is told to probe": (("HalfOpen", 10), seen("Open", 20), 500, None),
    "nor not to": (("HalfOpen", 10), seen("Closed", 20), 500, None),
    "its pod came later": (("Open", 10), seen(), 10, None),
    "its pod came just before": (("Open", 10), seen(), 11, "OpenBreaker"),
}


@pytest.mark.parametrize("sentence", ORDERS)
def test_orders(sentence):
    all_of_them, worker, uptime, order = ORDERS[sentence]
    breaker = status(*all_of_them)
    found = list(orders(snapshot(worker, uptime=uptime), breaker, NOW))
    assert [(t.order, t.subject) for t in found] == ([(order, breaker.since)] if order else [])


def test_a_breaker_that_is_none_or_never_changed_orders_nothing():
    o = snapshot(seen("Open", 5))
    assert list(orders(o, None, NOW)) == list(orders(o, BreakerStatus(), NOW)) == []


def test_pods_from_before_the_last_restart_are_still_being_restarted():
    o = snapshot(seen(), uptime=10)
    (view,) = o.deployments

    def restarting(*restarts: float, pods=o.pods) -> bool:
        return is_restarting(replace(o, pods=pods), replace(view, restarts=restarts), NOW)

    assert not restarting()
    assert not restarting(NOW - 10)
    assert restarting(NOW - 9)
    assert restarting(NOW - 9, NOW - 500)
    assert not restarting(NOW - 9, pods=tuple(replace(p, report=None) for p in o.pods))
    assert not restarting(NOW - 9, pods=tuple(replace(p, ready=False) for p in o.pods))


RESTARTS = {
    # sentence: class, on_open, restarts so many seconds ago, may
    "a program's fault is restarted": ("Program", None, (), True),
    "so is a hang": ("Timeout", None, (), True),
    "an outage of a provider is not": ("Upstream", None, (), False),
    "nor when the manifest does not want it": ("Program", ("Shed",), (), False),
    "not again within the back-off": ("Program", None, (30,), False),
    "but after it": ("Program", None, (61,), True),
    "and at its end": ("Program", None, (60,), True),
    "which doubles": ("Program", None, (200, 100), False),
    "and no more": ("Program", None, (200, 120), True),
    "up to the bound of an hour": ("Program", None, (3000, 2000, 1000), False),
    "and older ones do not count": ("Program", None, (4000, 3900, 3800), True),
}


@pytest.mark.parametrize("case", RESTARTS)
def test_restarts(case):
    kind, on_open, ago, may = RESTARTS[case]
    spec = ProgramBreaker(**({"on_open": on_open} if on_open else {}))
    view = a_deployment(PROGRAM, "1", restarts=tuple(NOW - s for s in ago))
    assert may_restart(spec, BreakerStatus(state="Open", class_=kind), view, NOW) is may


def test_a_closed_breaker_restarts_nobody_and_one_that_is_probing_may():
    view, spec = a_deployment(PROGRAM, "1"), ProgramBreaker()
    states = ("Closed", "HalfOpen", "Open")
    assert [may_restart(spec, BreakerStatus(state=s, class_="Program"), view, NOW) for s in states] == [
        False,
        True,
        True,
    ]


@given(st.lists(st.floats(0.5, 300), max_size=400))
def test_however_often_it_opens_restarts_within_an_hour_stay_under_the_bound(gaps):
    spec, now, done = ProgramBreaker(), 0.0, ()
    for gap in gaps:
        now += gap
        view = a_deployment(PROGRAM, "1", restarts=done)
        if may_restart(spec, BreakerStatus(state="Open", class_="Program"), view, now):
            done = (*done, now)
        assert sum(t > now - HOUR for t in done) <= spec.restart.max_per_hour
