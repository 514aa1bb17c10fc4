"""What the page counts: sums over pods, rates, percentiles and their history."""

from __future__ import annotations

import math

import pytest

from despina.dashboard.counting import MOST_GONE, MOST_NAMES, Gauges, Meter
from despina.dashboard.flat import BUCKETS, MOST_VERSIONS, flattened
from despina.dashboard.history import History, Ring
from despina.dashboard.rates import Look, Sample, between, looked, quantile
from despina.dashboard.story import modules
from despina.wire import MOST, MOST_MODULES, Figures, LMFigures, Timing, ToolFigures, VersionFigures


def said(requests: int, boot: str = "a", version: str = "1", **more) -> Figures:
    """A pod that answered so many requests, each in 0.15 to 0.2 s."""
    latency = Timing(buckets=(0,) * 8 + (requests,), seconds=0.18 * requests)
    counted = VersionFigures(requests={"200": requests}, latency=latency)
    return Figures(boot=boot, versions={version: counted}, **more)


STEPS = {
    "two pods are added up": ([("p", said(3)), ("q", said(4))], 7),
    "a pod that says the same again counts once": ([("p", said(3)), ("p", said(3))], 3),
    "a container that began anew has lost nothing": ([("p", said(3)), ("p", said(2, boot="b"))], 5),
    "nor one that counts more than it did before already": ([("p", said(3)), ("p", said(9, boot="b"))], 12),
    "a version that ended stays counted": ([("p", said(3)), ("p", said(2, version="2"))], 5),
    "what goes back without a new boot began anew": ([("p", said(9)), ("p", said(1))], 10),
}


@pytest.mark.parametrize(("steps", "count"), STEPS.values(), ids=STEPS)
def test_sums_never_go_back(steps, count):
    meter = Meter()
    for pod, figures in steps:
        meter.take(pod, figures)
    assert looked(0, meter).requests == count


def test_pods_that_are_gone_are_counted_and_hold_nothing():
    meter = Meter()
    meter.take("p", said(3, in_flight=2, queued=1, breaker_open=True))
    meter.take("q", said(1, in_flight=1))
    assert meter.gauges() == Gauges(3, 1, 1, 0)
    meter.stay({"q"})
    assert meter.gauges() == Gauges(1, 0, 0, 0)
    assert looked(0, meter).requests == 4


BACK = {
    "it goes on counting": (said(5), 5),
    "its container began anew meanwhile": (said(5, boot="b"), 8),
}


@pytest.mark.parametrize(("figures", "count"), BACK.values(), ids=BACK)
def test_a_pod_that_is_back_is_counted_once(figures, count):
    meter = Meter()
    meter.take("p", said(3))
    for _ in range(3):
        meter.stay(())
    assert looked(0, meter).requests == 3
    meter.take("p", figures)
    assert looked(0, meter).requests == count


def test_of_pods_that_are_gone_the_last_are_known_and_all_are_counted():
    meter = Meter()
    for number in range(3 * MOST_GONE):
        meter.take(f"p{number}", said(2))
        meter.stay(())
    assert looked(0, meter).requests == 6 * MOST_GONE
    assert len(meter._gone) == MOST_GONE


def of_modules(**calls: int) -> VersionFigures:
    return VersionFigures(lms=tuple(LMFigures(lm="l", module=m, outcomes={"ok": n}) for m, n in calls.items()))


MANY = {f"m{i}": of_modules(**{f"{i}-{n}": 1 for n in range(40)}) for i in range(MOST_VERSIONS)}
FORGOTTEN = {
    "modules of their own": (MANY, MOST_VERSIONS * 40),
    "the same module": ({"1": of_modules(a=100), "2": of_modules(a=7)}, 107),
}


@pytest.mark.parametrize(("versions", "calls"), FORGOTTEN.values(), ids=FORGOTTEN)
def test_versions_that_a_pod_forgets_stay_counted_once(versions, calls):
    meter = Meter()
    while versions:
        meter.take("p", Figures(boot="a", versions=versions))
        assert sum(int(part.words[2]) for part in modules(meter.total())) == calls
        versions = dict(list(versions.items())[1:])


def test_names_that_are_others_in_each_pod_end_somewhere_and_are_counted_all_the_same():
    meter = Meter()
    for number in range(100):
        words = {f"{number}-{n}": VersionFigures(requests={f"{number}-{s}": 1 for s in range(16)}) for n in range(3)}
        lms = {f"{number}-{n}": Timing(buckets=(1,) * BUCKETS) for n in range(16)}
        meter.take(f"p{number}", Figures(boot="a", versions=words, lm_seconds=lms))
    total = meter.total()
    assert len(total) < MOST_NAMES + 1000
    assert sum(n for name, n in total.items() if name[0] == "requests") == 100 * 48
    meter.stay(["p99"])
    known = [*meter._pods.values(), *meter._gone.values()]
    assert meter._names.keys() == {name for pod in known for name in pod.sums}
    assert sum(n for name, n in meter.total().items() if name[0] == "requests") == 100 * 48
    meter.take("fresh", said(3))
    assert meter.total()["requests", "1", "200"] == 3


def test_names_that_pods_make_up_end_somewhere():
    lms = tuple(LMFigures(lm="l", module=f"m{i}", outcomes={"ok": 1, "x" * 10**5: 2}, cost_usd=0.5) for i in range(500))
    tools = tuple(ToolFigures(tool=f"t{i}", backend="b", outcomes={f"o{n}": 1 for n in range(100)}) for i in range(500))
    versions = {str(i): VersionFigures(requests={str(s): 1 for s in range(200)}, lms=lms) for i in range(16)}
    sums = flattened(Figures(versions=versions, tools=tools, cache={f"c{i}": 1 for i in range(200)}))
    assert sum(n for name, n in sums.items() if name[0] == "requests") == 16 * 200
    assert sum(n for name, n in sums.items() if name[:1] == ("lm",) and name[-1] == "calls") == 16 * 500 * 3
    assert len({name[1] for name in sums if name[0] == "requests"}) == MOST_VERSIONS + 1
    assert len({name[2:4] for name in sums if name[0] == "lm"}) == MOST_MODULES + 1
    assert len(sums) < 3500
    assert max(len(word) for name in sums for word in name) <= 100


def test_a_pod_that_lies_for_long_takes_no_room():
    meter = Meter()
    for i in range(3000):
        meter.take("p", said(2**60, boot=str(i), version=f"{i}"))
    total = meter.total()
    assert len(total) < MOST_NAMES + 100
    assert max(total.values()) <= MOST


THEN = Look(100.0, requests=10, latency=(0.0,) * 23)
BETWEEN = {
    "a rate is by the second, tokens by the minute, cost by the hour": (
        Look(110.0, requests=30, errors=1, tokens=100, cost=0.01, hits=1, answers=4, in_flight=5, latency=(0.0,) * 23),
        {"requests": 2.0, "errors": 0.1, "tokens": 600.0, "cost": 3.6, "cached": 0.25, "in_flight": 5.0},
    ),
    "nothing is below nothing": (Look(110.0, requests=3, latency=(0.0,) * 23), {"requests": 0.0}),
    "without time there is nothing to say": (Look(100.0, requests=30), {"requests": math.nan}),
    "without requests nothing took any time": (Look(110.0, requests=10), {"p95": math.nan, "cached": math.nan}),
}


@pytest.mark.parametrize(("now", "found"), BETWEEN.values(), ids=BETWEEN)
def test_rates_between_two_looks(now, found):
    sample = between(THEN, now)._asdict()
    assert {name: sample[name] for name in found} == pytest.approx(found, nan_ok=True)


QUANTILES = {
    "none without any": ((), 0.5, math.nan),
    "none of empty buckets": ((0, 0), 0.5, math.nan),
    "drawn straight within the bucket": ((0, 10), 0.5, 0.0075),
    "the last of all": ((0, 10, 10), 1.0, 0.02),
    "from the first bucket's start": ((4,), 0.25, 0.00125),
    "what took longer than the last bound counts as that": ((0,) * 22 + (5,), 0.95, 60.0),
}


@pytest.mark.parametrize(("histogram", "share", "found"), QUANTILES.values(), ids=QUANTILES)
def test_quantiles(histogram, share, found):
    assert quantile(histogram, share) == pytest.approx(found, nan_ok=True)


def a_sample(requests: float) -> Sample:
    return Sample(requests=requests)


def test_a_ring_holds_the_latest_and_tells_gaps():
    ring = Ring(10, 4)
    for at in (0, 10, 40):
        ring.put(at, a_sample(at))
    assert ring.series("requests", 4, 45) == pytest.approx([10, math.nan, math.nan, 40], nan_ok=True)
    assert ring.series("requests", 9, 65) == pytest.approx([math.nan, 40, math.nan, math.nan], nan_ok=True)
    ring.put(20, a_sample(7))  # a clock that goes back
    assert ring.series("requests", 2, 45) == pytest.approx([math.nan, 40], nan_ok=True)
    ring.put(10**6, a_sample(1))
    assert ring.series("requests", 4, 10**6) == pytest.approx([math.nan] * 3 + [1], nan_ok=True)


def test_a_history_tells_what_is_now_and_what_was():
    history = History()
    for second in range(0, 700, 10):
        history.look(Look(float(second), requests=second * 2.0, latency=(0.0,) * 23))
    assert history.present().requests == pytest.approx(2.0)
    assert history.fine.series("requests", 3, 690) == pytest.approx([2, 2, 2])
    assert history.coarse.series("requests", 2, 690) == pytest.approx([2, 2])


def test_looks_at_every_second_make_the_same_curves():
    history = History()
    for second in range(61):
        history.look(Look(float(second), requests=second * 3.0, latency=(0.0,) * 23))
    assert history.present().requests == pytest.approx(3.0)
    assert history.fine.series("requests", 5, 60) == pytest.approx([3] * 5)


def test_before_a_second_look_nothing_is_claimed():
    history = History()
    history.look(Look(5.0, requests=1e6))
    assert math.isnan(history.present().requests)
