"""What a watch finds, and why a version is given up: figure by figure, word by word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from despina.api.gates import PostPromotion
from despina.api.revision import revision_of
from despina.api.status import BreakerStatus, GateStatus, Memory, Promotion, Tally
from despina.decide.failure import failure_of, relapse, remark, stopped_at
from despina.decide.gates import Gates
from despina.decide.observed import Observed, PodView, Trouble
from despina.decide.plan import Clock, Strategy
from despina.decide.quarantine import timestamp
from despina.decide.situation import Situation
from despina.decide.watch import breach_of, counts_of, judge, p95_millis, promoted, summary, watch_left
from despina.wire import (
    SECONDS_BOUNDS,
    Counts,
    Failure,
    HeldRevision,
    PodState,
)
from tests.support.gen import a_deployment, a_program, config_of, hash_of, pods, ref
from tests.support.situations import NOW, P, at, beside

HOT = Strategy("HotSwap", "so")
ONE, TWO = revision_of(P, ref("1")), revision_of(P, ref("2"))


def histogram(seconds: float, count: int) -> tuple[int, ...]:
    return tuple(count if bound == seconds else 0 for bound in (*SECONDS_BOUNDS, 0))


# Watching


def noted(revision: str = ONE.hash, ago: float = 100.0, **more: Any) -> Memory:
    """Callers were sent to version 1 a while ago."""
    return Memory(serial=1, promotion=Promotion(**{"revision": revision, "at": repr(NOW - ago), **more}))


LEFT = {"activated_at": 2.0, "retired_at": 5.0}


def watched(
    memory: Memory | None, rollout: dict | None = None, counts: Counts | None = None, **changes: Any
) -> Situation:
    """Version 1 serves, and 2 is warm."""
    program = a_program(rollout=rollout or {}, **changes)
    o = beside(program, "1", two=LEFT)
    one = hash_of(program, "1")
    if memory and memory.promotion.revision == ONE.hash:
        memory = memory.model_copy(update={"promotion": memory.promotion.model_copy(update={"revision": one})})
    if counts:
        o = replace(o, pods=tuple(replace(p, report=PodState(counts={one: counts})) for p in o.pods))
    return at(o, memory, strategy=None)


WATCHED = {
    "within its time": (watched(noted()), 200.0),
    "at its end": (watched(noted(ago=300)), 0.0),
    "after it": (watched(noted(ago=301)), 0.0),
    "a clock was set back": (watched(noted(ago=-500)), 300.0),
    "as long as asked for": (watched(noted(), {"postPromotion": {"watchSeconds": 150}}), 50.0),
    "not at all, where nothing is to be watched": (watched(noted(), {"postPromotion": {"watchSeconds": 0}}), 0.0),
    "nothing is noted": (watched(None), 0.0),
    "callers were sent elsewhere": (watched(noted("x")), 0.0),
    "a return": (watched(noted(returns=True)), 0.0),
    "a note that is damaged": (watched(Memory(serial=1, promotion=Promotion(revision=ONE.hash, at="yesterday"))), 0.0),
    "nothing to go back to": (at(beside(), noted(), strategy=None), 0.0),
}


@pytest.mark.parametrize("sentence", WATCHED)
def test_how_long_a_version_is_watched(sentence):
    r, wanted = WATCHED[sentence]
    assert watch_left(r) == wanted


FAST, SLOW = histogram(0.1, 100), histogram(2, 100)
P95, DEAR = {"maxP95LatencyMillis": 500}, {"maxCostIncreasePercent": 20}
BREACHES = {
    "as many fail as may": ({}, Counts(ok=90, program=10), Counts(), None),
    "one more": ({}, Counts(ok=89, program=11), Counts(ok=100), "11.0 % of 100 requests failed, 0.0 % before; at most 10 %"),
    "of all kinds": (
        {}, Counts(ok=80, program=5, timeout=6, upstream=9), Counts(ok=99, program=1), "20.0 % of 100 requests failed, 1.0 % before; at most 10 %"),
    "as many as before": ({}, Counts(ok=80, program=20), Counts(ok=8, program=2), None),
    "fewer than before": ({}, Counts(ok=80, program=20), Counts(ok=7, program=3), None),
    "more than before": ({}, Counts(ok=80, program=20), Counts(ok=81, program=19), "20.0 % of 100 requests failed, 19.0 % before; at most 10 %"),
    "as few as can be judged": ({}, Counts(program=20), Counts(), "100.0 % of 20 requests failed, 0.0 % before; at most 10 %"),
    "too few": ({}, Counts(program=19), Counts(), None),
    "callers' own mistakes are none": ({}, Counts(ok=19, caller=50), Counts(), None),
    "no LM could be reached": ({}, Counts(ok=10, upstream=90, outage=90), Counts(), None),
    "no LM could be reached, and some failed": (
        {}, Counts(ok=5, program=5, upstream=90, outage=90), Counts(), "50.0 % of 100 requests failed, 0.0 % before; at most 10 %"),
    "nothing but outages": ({}, Counts(upstream=50, outage=50), Counts(), None),
    "slow": (P95, Counts(ok=100, seconds=SLOW), Counts(ok=1, seconds=FAST), "the 95th percentile is 2000 ms, 100 ms before; at most 500 ms"),
    "slow, and nobody knows how it was": (P95, Counts(ok=100, seconds=SLOW), Counts(), "the 95th percentile is 2000 ms, unknown before; at most 500 ms"),
    "slow as before": (P95, Counts(ok=100, seconds=SLOW), Counts(ok=1, seconds=SLOW), None),
    "as slow as may be": ({"maxP95LatencyMillis": 2000}, Counts(ok=100, seconds=SLOW), Counts(), None),
    "slow, and nobody minds": ({}, Counts(ok=100, seconds=SLOW), Counts(ok=1, seconds=FAST), None),
    "nobody knows how slow": (P95, Counts(ok=100), Counts(ok=1, seconds=FAST), None),
    "dear": (DEAR, Counts(ok=100, cost_usd=2), Counts(ok=100, cost_usd=1), "a request costs 0.020000 USD, 0.010000 before; at most 20 % more"),
    "as dear as may be": (DEAR, Counts(ok=100, cost_usd=120), Counts(ok=100, cost_usd=100), None),
    "dear, and nobody minds": ({}, Counts(ok=100, cost_usd=2), Counts(ok=100, cost_usd=1), None),
    "dear, where nothing was paid": (DEAR, Counts(ok=100, cost_usd=2), Counts(ok=100), None),
    "dear, where nothing was asked": (DEAR, Counts(ok=100, cost_usd=2), Counts(cost_usd=1), None),
    "failing is told before slow": (
        P95, Counts(ok=50, program=50, seconds=SLOW), Counts(), "50.0 % of 100 requests failed, 0.0 % before; at most 10 %"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BREACHES)
def test_breaches(sentence):
    policy, now, then, wanted = BREACHES[sentence]
    assert judge(PostPromotion.model_validate(policy), now, then) == wanted


PERCENTILES = {
    "nothing": ([], None),
    "nothing in any bucket": ([0] * 23, None),
    "just in the first": ([95, 5], 5),
    "just in the second": ([94, 6], 10),
    "in the last, which has no bound": ([0] * 22 + [1], 60000),
    "an empty bucket is none": ([0, 0, 7], 20),
}


@pytest.mark.parametrize("sentence", PERCENTILES)
def test_percentiles(sentence):
    buckets, wanted = PERCENTILES[sentence]
    assert p95_millis(buckets) == wanted


def test_all_pods_count_together_and_only_for_the_revision():
    r = watched(noted(), counts=Counts(ok=5))
    assert counts_of(r.o, ONE.hash).ok == 20
    assert counts_of(r.o, "x") == Counts()
    silent = replace(r.o, pods=(replace(r.o.pods[0], report=None), *r.o.pods[1:]))
    assert counts_of(silent, ONE.hash).ok == 15


FAILING = Counts(ok=10, program=30)
BASE = Tally(ok=40, program=120)
FOUND = {
    "what came since is judged": (
        watched(noted(), counts=FAILING),
        "75.0 % of 160 requests failed, 0.0 % before; at most 10 %",
    ),
    "what was before is not": (watched(noted(base=BASE), counts=FAILING), None),
    "beside the version before": (watched(noted(before=Tally(ok=1, program=9)), counts=FAILING), None),
    "after its time nothing is": (watched(noted(ago=301), counts=FAILING), None),
    "nothing is noted": (watched(None, counts=FAILING), None),
}


@pytest.mark.parametrize("sentence", FOUND)
def test_what_a_watch_finds(sentence):
    r, wanted = FOUND[sentence]
    assert breach_of(r) == wanted
    assert remark(r) == ""
    if wanted:
        entry = relapse(r, None)
        assert (entry.version, entry.revision, entry.reason, entry.message) == ("1", None, "WatchFailed", wanted)
    else:
        assert relapse(r, None) is None


def test_what_a_watch_finds_is_only_a_remark_where_nothing_shall_be_done():
    only_said = watched(noted(), {"postPromotion": {"action": "None"}}, FAILING)
    assert remark(only_said) == "75.0 % of 160 requests failed, 0.0 % before; at most 10 %"
    assert relapse(only_said, None) is None
    assert remark(watched(noted(), {"postPromotion": {"action": "None"}})) == ""


SUMMARIES = {
    "too few came": (watched(noted(ago=300), counts=Counts(ok=4, caller=9)), "only 16 of 20 requests within 300 s: nothing was judged"),
    "nobody came": (watched(noted(ago=300)), "only 0 of 20 requests within 300 s: nothing was judged"),
    "enough came": (watched(noted(ago=300), counts=Counts(ok=5)), ""),
    "too few came since": (watched(noted(ago=300, base=Tally(ok=1)), counts=Counts(ok=5)), "only 19 of 20 requests within 300 s: nothing was judged"),
    "it is not over": (watched(noted()), ""),
    "it was a return": (watched(noted(ago=300, returns=True)), ""),
    "nothing was to be watched": (watched(noted(), {"postPromotion": {"watchSeconds": 0}}), ""),
    "nothing is noted": (watched(None), ""),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SUMMARIES)
def test_what_is_said_of_a_watch_that_saw_too_little(sentence):
    r, wanted = SUMMARIES[sentence]
    assert summary(r) == wanted


def test_what_is_noted_when_callers_are_sent_somewhere():
    r = watched(noted(base=Tally(ok=15)), counts=Counts(ok=5))
    assert promoted(r, None) is None
    o = replace(
        r.o,
        pods=tuple(
            replace(p, report=PodState(counts={ONE.hash: Counts(ok=5), TWO.hash: Counts(ok=2)})) for p in r.o.pods
        ),
    )
    new = promoted(replace(r, o=replace(o, deployments=(o.deployments[0], a_deployment(P, "2")))), TWO)
    assert new == Promotion(
        revision=TWO.hash, at=repr(NOW), returns=False, base=Tally.of(Counts(ok=8)), before=Tally.of(Counts(ok=5))
    )
    assert promoted(r, TWO).returns, "callers were there before"


BREAKING = {"breaker": {}}
LENIENT = {"postPromotion": {"minRequests": 1000}}
OPEN = BreakerStatus(state="Open", class_="Program", reason="9 of 9", since=timestamp(NOW - 100))
ALL_OUT = Counts(upstream=3, outage=2)
TRIPS = {
    "it trips": (watched(noted(), counts=Counts(program=1), **BREAKING), OPEN, True),
    "it is probing": (watched(noted(), **BREAKING), OPEN.model_copy(update={"state": "HalfOpen"}), False),
    "it is closed": (watched(noted(), **BREAKING), BreakerStatus(), False),
    "there is none": (watched(noted()), OPEN, False),
    "nobody knows": (watched(noted(), **BREAKING), None, False),
    "it shall not lead back": (watched(noted(), breaker={"onOpen": ["Shed"]}), OPEN, False),
    "most failures are outages": (watched(noted(), counts=ALL_OUT, **BREAKING), OPEN, False),
    "half of the failures are outages": (watched(noted(), counts=Counts(program=1, timeout=1, upstream=2, outage=2), rollout=LENIENT, **BREAKING), OPEN, True),
    "nobody watches": (watched(noted(ago=301), **BREAKING), OPEN, False),
}  # fmt: skip


@pytest.mark.parametrize("sentence", TRIPS)
def test_a_breaker_that_trips_while_a_version_is_watched_leads_back(sentence):
    r, breaker, leads_back = TRIPS[sentence]
    entry = relapse(r, breaker)
    assert (entry and (entry.version, entry.reason, entry.message)) == (
        ("1", "BreakerOpen", "9 of 9") if leads_back else None
    )


def test_an_edit_of_the_spec_that_does_badly_is_the_specs_fault():
    """The same version serves with another spec: callers go back to it with the one before."""
    edited = a_program(resources={"requests": {"cpu": "2"}})
    r = watched(noted(), counts=FAILING)
    old = a_deployment(edited, "1", **LEFT)
    ready = pods(edited, "1", ready=True)
    r = replace(r, o=replace(r.o, deployments=(r.o.deployments[0], old), pods=r.o.pods + ready))
    assert relapse(r, None).revision == ONE.hash


# Giving up


def failure(reason: str = "LoadFailed") -> Failure:
    return Failure(reason=reason, message="boom")


def trying(o: Observed, used_up: float = 0.0, requests: dict | None = None, **changes: Any) -> tuple[str, str] | None:
    entry = failure_of(at(o, clock=Clock(used_up), **changes), requests or {})
    return entry and (entry.reason, entry.message)


def taking_in(*phases: HeldRevision | None) -> Observed:
    """Version 1 serves, and its pods are to take 2 in."""
    o = beside()
    reports = [PodState(held={TWO.hash: h} if h else {}) for h in phases]
    blue = tuple(replace(p, report=r) for p, r in zip(pods(P, "1", len(phases), ready=True), reports, strict=True))
    return replace(o, deployments=o.deployments[:1], pods=blue)


HELD, LOADING = HeldRevision(phase="Ready"), HeldRevision(phase="Preparing")
CODE = HeldRevision(phase="Failed", failure=failure("CodeChanged"))
BOOM = HeldRevision(phase="Failed", failure=failure())
LATE, ONCE = {"ready": False}, {"ready": False, "failure": failure()}
FULL = Trouble("Unschedulable", "0/1 nodes are available")
DEADLINE = "ProgressDeadlineExceeded"
POD = f"qa-{ONE.hash}"
PAUSED = a_program(rollout={"state": "Paused"})
FAILURES: dict[str, tuple[tuple[str, str] | None, tuple[str, str] | None]] = {
    "it becomes ready": (trying(beside(**LATE)), None),
    "there is none": (trying(beside(), wanted=None), None),
    "one that could not start may try again": (trying(replace(beside(**ONCE), pods=beside(**ONCE).pods[:3])), None),
    "two that could not start": (trying(beside(**ONCE)), ("LoadFailed", "boom")),
    "one that could not start twice": (
        trying(replace(beside(**ONCE, failures=2), pods=beside(**ONCE, failures=2).pods[:3])), ("LoadFailed", "boom")),
    "one that no try will start": (
        trying(replace(beside(), pods=beside(ready=False, failure=failure("PickleDenied")).pods[:3])), ("PickleDenied", "boom")),
    "one that is ending says nothing": (trying(beside(**ONCE, ending=True, failures=5)), None),
    "what serves cannot start again": (trying(replace(beside(), pods=pods(P, "1", 2, failure=failure(), failures=5))), None),
    "a second before its deadline": (trying(beside(**LATE), 599), None),
    "at its deadline": (trying(beside(**LATE), 600), (DEADLINE, "not ready within 600 s")),
    "at its deadline, but ready": (trying(replace(beside(), preview_ready={TWO.hash: 1}), 600), None),
    "at its deadline, ready, but unknown to the network": (trying(beside(), 600), None),
    "at its deadline, taken in, but nobody is led there": (trying(taking_in(HELD, HELD), 600, strategy=HOT), None),
    "at its deadline, without a node": (
        trying(beside(**LATE, trouble=FULL), 600), (DEADLINE, "not ready within 600 s: Unschedulable: pool default: 0/1 nodes are available")),
    "at its deadline, without an image": (
        trying(beside(**LATE, trouble=Trouble("ImageNotPulled", "no such image")), 600),
        (DEADLINE, "not ready within 600 s: ImageNotPulled: no such image")),
    "held up, whatever its deadline": (trying(beside(PAUSED, **LATE), 600), None),
    "held up, whatever its pods say": (trying(beside(PAUSED, **ONCE), 0), None),
    "held up, and ended by a person": (
        trying(beside(PAUSED), requests={"abort": TWO.hash}), ("Aborted", "the annotation despina.dev/abort names it")),
    "ended by a person": (trying(beside(), requests={"abort": TWO.hash}), ("Aborted", "the annotation despina.dev/abort names it")),
    "another ended by a person": (trying(beside(**LATE), requests={"abort": "x"}), None),
    "running pods take it in": (trying(taking_in(HELD, LOADING, None), strategy=HOT), None),
    "a running pod could not": (trying(taking_in(HELD, BOOM), strategy=HOT), ("LoadFailed", f"{POD}-1: boom")),
    "a running pod never can": (
        trying(taking_in(HELD, CODE), strategy=HOT),
        ("CodeChanged", f"{POD}-1: boom; set spec.rollout.strategy to Auto or BlueGreen")),
    "running pods did not in time": (
        trying(taking_in(HELD, LOADING, None), 600, strategy=HOT), (DEADLINE, f"not ready within 600 s: {POD}-1, {POD}-2 did not take it in")),
    "no running pods in time": (trying(replace(taking_in(HELD), pods=()), 600, strategy=HOT), (DEADLINE, "not ready within 600 s")),
}  # fmt: skip


@pytest.mark.parametrize("sentence", FAILURES)
def test_why_a_candidate_is_given_up(sentence):
    said, wanted = FAILURES[sentence]
    assert said == wanted


def test_a_new_version_is_at_fault_and_an_edit_of_the_spec_is_the_specs():
    assert failure_of(at(beside(**ONCE)), {}).revision is None
    edited = a_program(resources={"requests": {"cpu": "2"}})
    o = beside(edited, "1", **LATE)
    view = replace(o.deployments[0], name="qa-x", revision="x", config=config_of(P, "1"))
    pod = PodView("new", hash_of(edited, "1"), failure=failure("PickleDenied"))
    o = replace(o, active="x", deployments=(view,), pods=(pod, PodView("x", "x", ready=True)))
    entry = failure_of(at(o), {})
    assert (entry.version, entry.revision) == ("1", hash_of(edited, "1"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Smoke", "SmokeFailed"),
        ("SchemaCompatibility", "SchemaIncompatible"),
        ("Evaluate", "EvaluationFailed"),
        ("Shadow", "ShadowFailed"),
    ],
)
def test_a_gate_that_is_not_passed_ends_a_version(kind, reason):
    state = GateStatus(name="g", type=kind, result="Failed", message="it said 7", started_at="t")
    entry = stopped_at(at(beside()), Gates((state,)))
    assert (entry.version, entry.reason, entry.message) == ("2", reason, "gate g: it said 7")
    assert stopped_at(at(beside()), Gates()) is None
    assert stopped_at(at(beside(), wanted=None), Gates((state,))) is None
