"""Listening to pods: whom, how often, what is remembered, and what wakes a program."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from despina.api.runs import OptimizationRun
from despina.decide.observed import JobView, OptimizationJobView, PodView
from despina.sources import reports as reports_module
from despina.sources.reports import AT_ONCE, BREATH_SECONDS, INTERFACES_ASKED, INTERFACES_KEPT, STALE_ROUNDS, Reports
from despina.wire import (
    SIGNATURE_HEADER,
    Counts,
    EvaluationResult,
    HeldRevision,
    OptimizationResult,
    PodState,
    reading,
)
from despina_runtime.process.news import News
from tests.support.drip import Drip

KEY = ("ns", "qa")
POD = PodView("qa-1", "abc", ready=True, ip="10.0.0.1")
READY = HeldRevision(phase="Ready")


ODD = {
    "a redirect to what is no address of a server": lambda: httpx.Response(302, headers={"location": "mailto:x"}),
    "a redirect": lambda: httpx.Response(302, headers={"location": "http://10.0.0.9/"}),
    "a byte now and then": lambda: httpx.Response(200, stream=Drip(b" ")),
    "more than anybody reads": lambda: httpx.Response(200, stream=Drip(b" " * 2**18)),
    "what is not compressed as it says": lambda: httpx.Response(200, headers={"content-encoding": "gzip"}, content=b"x"),
    "what nests without an end": lambda: httpx.Response(200, content=b"[" * 200000),
    "nothing": lambda: httpx.Response(200),
}  # fmt: skip


class Pods:
    """Answers for all pods' admin ports."""

    def __init__(self) -> None:
        self.state: PodState | None = PodState(revision="abc", held={"abc": READY})
        self.interface = {"inputs": {}}
        self.odd: Callable[[], httpx.Response] | None = None
        self.asked: list[str] = []
        self.signatures: set[str | None] = set()
        self.woken = 0
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self.reports = Reports(client, lambda _: setattr(self, "woken", self.woken + 1))

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        self.signatures.add(request.headers.get(SIGNATURE_HEADER))
        if self.odd:
            return self.odd()
        if self.state is None:
            raise httpx.ConnectError("no")
        if request.url.path.startswith("/interface"):
            return httpx.Response(200, json=self.interface)
        if request.url.path == "/progress":
            return httpx.Response(200, text="3 of 50")
        return httpx.Response(200, text=self.state.model_dump_json())


async def until(check) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.002)


@pytest.fixture
async def world():
    found = Pods()
    yield found
    await found.reports.close()


async def test_what_pods_say_is_known_and_news_wake_the_program(world):
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: world.reports.said(KEY))
    assert world.reports.said(KEY)["qa-1"].revision == "abc"
    await until(lambda: world.woken == 1)
    rounds = len(world.asked)
    await until(lambda: len(world.asked) > rounds + 2)
    assert world.woken == 1, "the same again is no news"
    world.state = PodState(revision="def", held={"def": READY})
    await until(lambda: world.woken == 2)


async def test_pods_are_asked_with_all_keys_that_they_may_have_been_started_with(world):
    pod = replace(POD, read_keys=("one", "two"))
    world.reports.listen(KEY, [pod], 0.01)
    await until(lambda: world.reports.said(KEY))
    pod = replace(pod, report=world.state)
    assert await world.reports.interfaces(KEY, [pod], ["abc"]) == {"abc": world.interface}
    assert world.signatures == {reading(["one", "two"], "ns", "qa-1")}


async def test_a_pod_that_falls_silent_is_forgotten_after_a_while(world):
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: world.reports.said(KEY))
    world.state = None
    rounds = len(world.asked)
    await until(lambda: not world.reports.said(KEY))
    assert len(world.asked) - rounds >= STALE_ROUNDS


async def test_nobody_is_asked_where_nobody_needs_to_know(world):
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: world.asked)
    world.reports.listen(KEY, [POD], None)
    assert world.reports.said(KEY) == {}
    world.reports.listen(KEY, [replace(POD, ending=True), PodView("qa-2", "abc")], 0.01)
    rounds = len(world.asked)
    await asyncio.sleep(0.05)
    assert len(world.asked) == rounds, "neither a pod that ends nor one without an address"


async def test_who_was_heard_is_known_until_they_are_listened_to_again(world):
    silent = replace(POD, name="qa-2", ip="10.0.0.2")
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: world.reports.said(KEY))
    for _ in range(2):  # the later passes of a program that is at rest
        world.reports.listen(KEY, [POD, silent], None)
        assert world.reports.heard(KEY) == {"qa-1"}
    world.reports.listen(KEY, [silent], None)
    assert world.reports.heard(KEY) == set(), "a pod that is gone"
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: world.reports.said(KEY))
    assert world.reports.heard(KEY) == set()


async def test_who_was_told_to_load_something_is_expected_to_say_something_since(world):
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: world.reports.said(KEY))
    world.reports.listen(KEY, [POD], None)
    world.reports.expect(KEY, "qa-1")
    assert world.reports.expected(KEY) == {"qa-1"}
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: not world.reports.expected(KEY))
    world.reports.expect(KEY, "qa-1")
    world.reports.listen(KEY, [], None)
    assert world.reports.expected(KEY) == set(), "a pod that is gone"


async def test_listening_that_ended_begins_anew(world):
    world.reports.listen(KEY, [POD], 0.01)
    task = world.reports._listeners[KEY].tasks["qa-1"]
    task.cancel()
    await asyncio.wait([task])
    world.reports.listen(KEY, [POD], 0.01)
    await until(lambda: world.reports.said(KEY))


PROGRESS = {
    "3 of 50": httpx.Response(200, content=b"3 of 50"),
    "1 of 2": httpx.Response(200, headers={"content-type": "text/plain; charset=undefined"}, content=b"1 of 2"),
    "\ufffd": httpx.Response(200, content=b"\xc3"),
    "x" * 200: httpx.Response(200, content=b"x" * 999),
    "": httpx.Response(500, content=b"x"),
}


OVER = {JobView: EvaluationResult(), OptimizationJobView: OptimizationResult()}


def an_optimization(name: str, **fields: Any) -> OptimizationJobView:
    run = OptimizationRun(
        job=name, trigger="t", base_version="1", base_revision="r", labels_until=0, budget_lm_calls=9, started_at=""
    )
    return OptimizationJobView(name, run, **fields)


@pytest.mark.parametrize("ip", ["10.0.0.1", "fd00::1"])
@pytest.mark.parametrize("wanted", PROGRESS)
@pytest.mark.parametrize("kind", [JobView, an_optimization])
async def test_whatever_a_job_says_of_its_progress_ends_no_pass(wanted, ip, kind):
    reports = Reports(httpx.AsyncClient(transport=httpx.MockTransport(lambda _: PROGRESS[wanted])), print)
    (job,) = await reports.with_progress([kind("x", ip=ip)])
    assert job == kind("x", ip=ip, progress=wanted)
    (over,) = await reports.with_progress([replace(job, result=OVER[type(job)])])
    assert over.progress == "", "what ended has nobody who could be asked"
    await reports.close()


@pytest.fixture
def soon(monkeypatch):
    """Nobody waits long."""
    monkeypatch.setattr("despina.sources.answers.ANSWER_SECONDS", 0.05)
    monkeypatch.setattr("despina.sources.reports.ANSWER_SECONDS", 0.05)


@pytest.mark.parametrize("case", ODD)
async def test_an_odd_answer_is_none_and_ends_nothing(world, soon, case):
    world.odd = ODD[case]
    pods = [replace(POD, report=PodState(held={"abc": READY}))]
    async with asyncio.timeout(2):
        assert await world.reports.interfaces(KEY, pods, ["abc"]) == {}
        jobs = await world.reports.with_progress([JobView("x", ip="10.0.0.1")] * 50)
        assert {job.progress.strip("[") for job in jobs} == {""}
        world.reports.listen(KEY, [POD], 0.01)
        rounds = len(world.asked)
        await until(lambda: len(world.asked) > rounds + 1)
    assert world.reports.said(KEY) == {}
    world.odd = None
    await until(lambda: world.reports.said(KEY))
    assert await world.reports.interfaces(KEY, pods, ["abc"]) == {"abc": {"inputs": {}}}


async def test_a_pass_asks_for_few_interfaces_and_for_revisions_alone(world):
    names = ["a\nb", "../state", "x" * 70000, "\x7f", "", *(f"r{n}" for n in range(2 * INTERFACES_ASKED))]
    pods = [replace(POD, report=PodState(held=dict.fromkeys(names, READY)))]
    await world.reports.interfaces(KEY, pods, names)
    assert world.asked == [f"/interface/r{n}" for n in range(INTERFACES_ASKED)]
    assert len(await world.reports.interfaces(KEY, pods, names)) == 2 * INTERFACES_ASKED


async def test_many_pods_that_drip_hold_a_pass_no_longer_than_one(world, soon):
    world.odd = ODD["a byte now and then"]
    pods = [replace(POD, report=PodState(held={"abc": READY, "def": READY})) for _ in range(50)]
    async with asyncio.timeout(1):
        assert await world.reports.interfaces(KEY, pods, ["abc", "def"]) == {}


async def test_an_interface_is_asked_for_once(world):
    pods = [replace(POD, report=PodState(held={"abc": READY}))]
    for _ in range(2):
        assert await world.reports.interfaces(KEY, pods, ["abc", "unknown"]) == {"abc": {"inputs": {}}}
    assert world.asked == ["/interface/abc"]


@pytest.mark.parametrize("other", [("another", "qa"), ("ns", "another")])
async def test_an_interface_is_its_programs_own(world, other):
    """Two programs' revisions may have one name, and one of them may have been made to."""
    pods = [replace(POD, report=PodState(held={"abc": READY}))]
    await world.reports.interfaces(KEY, pods, ["abc"])
    world.interface = {"inputs": {"forged": {}}}
    assert await world.reports.interfaces(other, pods, ["abc"]) == {"abc": world.interface}
    assert await world.reports.interfaces(KEY, pods, ["abc"]) == {"abc": {"inputs": {}}}


async def test_interfaces_are_forgotten_with_their_program_and_kept_while_nobody_listens(world):
    pods = [replace(POD, report=PodState(held={"abc": READY}))]
    await world.reports.interfaces(KEY, pods, ["abc"])
    world.reports.listen(KEY, pods, None)
    await world.reports.interfaces(KEY, pods, ["abc"])
    assert len(world.asked) == 1
    world.reports.forget(KEY)
    await world.reports.interfaces(KEY, pods, ["abc"])
    assert len(world.asked) == 2


async def test_of_a_programs_many_interfaces_the_latest_are_kept(world):
    names = [f"r{n}" for n in range(INTERFACES_KEPT + 1)]
    pods = [replace(POD, report=PodState(held=dict.fromkeys(names, READY)))]
    for name in names:
        await world.reports.interfaces(KEY, pods, [name])
    asked = len(world.asked)
    await world.reports.interfaces(KEY, pods, names[1:])
    assert len(world.asked) == asked
    await world.reports.interfaces(KEY, pods, names[:1])
    assert len(world.asked) == asked + 1


def test_counts_alone_are_no_news_but_failures_that_have_doubled_are():
    quiet = PodState(revision="abc", counts={"abc": Counts(ok=1, program=2)}, uptime_seconds=1, number=3)

    def failed(program: int) -> PodState:
        return quiet.model_copy(update={"counts": {"abc": Counts(ok=9, program=program)}, "uptime_seconds": 2})

    assert quiet.facts() == failed(2).facts() == failed(3).facts()
    assert quiet.facts() != failed(4).facts()
    assert quiet.facts() != quiet.model_copy(update={"held": {"def": READY}}).facts()
    assert quiet.facts() != quiet.model_copy(update={"workers": 1}).facts()


async def test_a_pod_that_waits_with_its_answer_is_heard_at_once_and_seldom_asked():
    said = PodState(revision="abc", number=7)
    news, asked = News(lambda: said), []
    news.number = 7

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        await news.after(int(request.url.params["after"]), float(request.url.params["wait"]))
        return httpx.Response(200, text=said.model_copy(update={"number": news.number}).model_dump_json())

    reports = Reports(httpx.AsyncClient(transport=httpx.MockTransport(answer)), lambda _: None)
    reports.listen(KEY, [POD], 60)
    await until(lambda: len(asked) == 2)
    assert asked == [{"after": "0", "wait": "25.0"}, {"after": "7", "wait": "25.0"}]
    said = PodState(revision="def", number=7)
    news.tell()
    await until(lambda: reports.said(KEY)["qa-1"].revision == "def")
    await until(lambda: len(asked) == 3)
    assert asked[-1]["after"] == "8"
    reports.listen(KEY, [POD], 30)
    await until(lambda: len(asked) == 4)
    await reports.close()


async def test_a_pod_that_has_news_without_end_is_not_asked_without_end(world):
    numbers = itertools.count(1)
    world.odd = lambda: httpx.Response(200, text=PodState(number=next(numbers)).model_dump_json())
    world.reports.listen(KEY, [POD], 60)
    began = asyncio.get_running_loop().time()
    await until(lambda: len(world.asked) > 2 * AT_ONCE)
    assert asyncio.get_running_loop().time() - began >= 2 * AT_ONCE * BREATH_SECONDS - 0.01


async def test_what_a_pod_says_in_quick_succession_is_heard_at_once(world, monkeypatch):
    monkeypatch.setattr(reports_module, "BREATH_SECONDS", 60)
    said = itertools.chain(range(1, AT_ONCE + 1), itertools.repeat(AT_ONCE))
    world.odd = lambda: httpx.Response(200, text=PodState(number=next(said)).model_dump_json())
    world.reports.listen(KEY, [POD], 60)
    await until(lambda: len(world.asked) == AT_ONCE)
