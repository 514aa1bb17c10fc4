"""What a pod's supervisor decides: what a worker that comes must be told, and when another one is tried."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from despina.wire import BreakerReport, HeldRevision, ModelRef, Order, PodState, RuntimeConfig
from despina_runtime.process import worker
from despina_runtime.process.restarts import Ends, pause_seconds
from despina_runtime.process.state import merged
from despina_runtime.process.wanted import Wanted


def config(revision: str) -> RuntimeConfig:
    model = ModelRef(name="m", version=revision, tracking_uri="http://mlflow")
    return RuntimeConfig(namespace="ns", program="p", revision=revision, model=model)


def order(name: str, subject: str = "", **what) -> Order:
    if name == "Prepare":
        what["config"] = config(subject)
    return Order(order=name, subject=subject, namespace="ns", pod="p-1", boot="b", number=1, **what)


def holding(**phases: str) -> PodState:
    return PodState(held={name: HeldRevision(phase=phase) for name, phase in phases.items()})


SHADOW = {"revision": "b", "percent": 5}
PREPARE, COMMIT = order("Prepare", "b"), order("Commit", "b")
TABLE = {
    "at first only what it was started with": ([], holding(a="Ready"), "Commit a"),
    "what was prepared is there, and does not serve": ([PREPARE], holding(a="Ready", b="Ready"), "Commit a"),
    "what was committed serves": ([PREPARE, COMMIT], holding(a="Ready", b="Ready"), "Commit b"),
    "what was released is not held": (
        [PREPARE, COMMIT, order("Release", "a")], holding(a="Ready", b="Ready"), "Commit b, Release a",
    ),
    "what serves cannot be released": ([order("Release", "a")], holding(a="Ready"), "Commit a"),
    "a retired pod's worker is retired": ([order("Retire")], holding(a="Ready"), "Commit a, Retire"),
    "unless that was taken back": ([order("Retire"), order("Activate")], holding(a="Ready"), "Commit a"),
    "it mirrors": ([PREPARE, order("Shadow", shadow=SHADOW)], holding(a="Ready", b="Ready"), "Commit a, Shadow"),
    "unless that was taken back, too": ([order("Shadow", shadow=SHADOW), order("Shadow")], holding(a="Ready"), "Commit a"),
    "or another revision serves": (
        [PREPARE, order("Shadow", shadow=SHADOW), COMMIT], holding(a="Ready", b="Ready"), "Commit b",
    ),
    "a breaker that was opened is open": ([order("OpenBreaker")], holding(a="Ready"), "Commit a, OpenBreaker"),
    "one that was closed again is not": ([order("OpenBreaker"), order("CloseBreaker")], holding(a="Ready"), "Commit a"),
    "nor another revision's": ([PREPARE, order("OpenBreaker"), COMMIT], holding(a="Ready", b="Ready"), "Commit b"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", TABLE)
def test_a_worker_that_comes_is_told_what_makes_it_as_the_others_are(sentence):
    orders, worker, told = TABLE[sentence]
    wanted = Wanted(config("a"))
    for one in orders:
        wanted.take(one)
    pod = PodState(breakers=(BreakerReport(state="Open"),))
    assert ", ".join(f"{o.order} {o.subject}".strip() for o in wanted.to_join(worker, pod)) == told


def test_a_breaker_that_has_closed_by_itself_stays_closed():
    wanted = Wanted(config("a"))
    wanted.take(order("OpenBreaker"))
    told = wanted.to_join(holding(a="Ready"), PodState(breakers=(BreakerReport(state="Closed"),)))
    assert [o.order for o in told] == ["Commit"]


JOINS = {
    "it has not said anything": (holding(), holding(a="Ready", b="Ready"), False),
    "it lacks what serves": (holding(b="Ready"), holding(), False),
    "it lacks what the others hold": (holding(a="Ready"), holding(a="Ready", b="Ready"), False),
    "it loads what the others hold": (holding(a="Ready", b="Preparing"), holding(a="Ready", b="Ready"), False),
    "it holds all of it": (holding(a="Ready", b="Ready"), holding(a="Ready", b="Ready"), True),
    "they load as it does": (holding(a="Ready", b="Preparing"), holding(a="Ready", b="Preparing"), True),
    "they could not, either": (holding(a="Ready"), holding(a="Ready", b="Failed"), True),
    "it could not, and shall not serve it": (holding(a="Ready", b="Failed"), holding(a="Ready", b="Ready"), True),
    "what they hold is wanted no more": (holding(a="Ready"), holding(a="Ready", c="Ready"), True),
}


@pytest.mark.parametrize("sentence", JOINS)
def test_a_worker_that_comes_joins_when_it_holds_what_the_others_do(sentence):
    worker, pod, joins = JOINS[sentence]
    wanted = Wanted(config("a"))
    wanted.take(PREPARE)
    assert wanted.is_held(worker, pod) is joins


def test_it_loads_what_the_others_still_load_also_when_it_joins_before_they_do():
    wanted = Wanted(config("a"))
    wanted.take(PREPARE)
    pod = holding(a="Ready", b="Preparing")
    assert wanted.is_held(holding(a="Ready"), pod)
    told = [(o.order, o.config.revision if o.config else o.subject) for o in wanted.to_join(holding(a="Ready"), pod)]
    assert told == [("Prepare", "b"), ("Commit", "a")]


def test_it_loads_what_it_lacks():
    wanted = Wanted(config("a"))
    wanted.take(PREPARE)
    assert [o.config and o.config.revision for o in wanted.to_prepare(holding(a="Ready"))] == ["b"]


def test_a_try_that_failed_is_followed_by_others_after_pauses_that_grow_and_end_nowhere():
    assert [pause_seconds(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_seconds(10**9) == 60


def test_workers_that_end_five_times_within_a_minute_are_given_up():
    ends = Ends()
    assert [ends.are_too_many(at) for at in (0, 15, 30, 45)] == [False] * 4
    assert not ends.are_too_many(61)  # the first is forgotten
    assert ends.are_too_many(62)


def test_a_pod_says_how_many_workers_it_has_and_should_have():
    state = merged([holding(a="Ready")], 1.0, 2)
    assert (state.workers, state.wanted_workers) == (1, 2)


async def test_what_a_worker_was_told_to_load_is_heard_of_when_it_is_there(monkeypatch):
    """Callers wait for the new version; a look now and then would add its time."""
    monkeypatch.setattr(worker, "TELL_SECONDS", 3600)
    states, told = iter([holding(a="Preparing"), holding(a="Ready")]), asyncio.Queue()
    engine = SimpleNamespace(state=lambda: next(states), figures=dict, has_result=asyncio.Event())
    transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
    writer = SimpleNamespace(write=lambda line: told.put_nowait(json.loads(line)), transport=transport)
    telling = asyncio.create_task(worker._tell(writer, engine))
    async with asyncio.timeout(10):
        assert (await told.get())["state"]["held"]["a"]["phase"] == "Preparing"
        engine.has_result.set()
        assert (await told.get())["state"]["held"]["a"]["phase"] == "Ready"
    telling.cancel()
