"""Listening to pods and telling them: whom, how often, what is remembered, and what wakes a program."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.decide.observed import PodView
from despina.decide.plan import Tell
from despina.sources.reports import STALE_ROUNDS, Reports, facts
from despina.sources.runtime_admin import FORGET_SECONDS, Orders
from despina.wire import SIGNATURE_HEADER, Counts, HeldRevision, PodState

KEY = ("ns", "qa")
POD = PodView("qa-1", "abc", ready=True, ip="10.0.0.1")
READY = HeldRevision(phase="Ready")


class Pods:
    """Answers for all pods' admin ports."""

    def __init__(self) -> None:
        self.state: PodState | None = PodState(revision="abc", held={"abc": READY})
        self.asked: list[str] = []
        self.woken = 0
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self.reports = Reports(client, lambda _: setattr(self, "woken", self.woken + 1))

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.state is None:
            raise httpx.ConnectError("no")
        if request.url.path.startswith("/interface"):
            return httpx.Response(200, json={"inputs": {}})
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


async def test_an_interface_is_asked_for_once(world):
    pods = [replace(POD, report=PodState(held={"abc": READY}))]
    for _ in range(2):
        assert await world.reports.interfaces(pods, ["abc", "unknown"]) == {"abc": {"inputs": {}}}
    assert world.asked == ["/interface/abc"]


def test_counts_alone_are_no_news():
    quiet = PodState(revision="abc", counts={"abc": Counts(ok=1)}, uptime_seconds=1)
    assert facts(quiet) == facts(quiet.model_copy(update={"counts": {"abc": Counts(ok=9)}, "uptime_seconds": 2}))
    assert facts(quiet) != facts(quiet.model_copy(update={"held": {"def": READY}}))


async def test_orders_are_signed_in_turn_and_given_again_when_forgotten():
    taken, now, key = [], [1000.0], Ed25519PrivateKey.generate()

    def take(request: httpx.Request) -> httpx.Response:
        key.public_key().verify(base64.b64decode(request.headers[SIGNATURE_HEADER]), request.content)
        taken.append(json.loads(request.content))
        now[0] += 0.001
        return httpx.Response(200)

    orders = Orders(httpx.AsyncClient(transport=httpx.MockTransport(take)), key, lambda: now[0])
    for order, subject in (("Prepare", "def"), ("Commit", "def"), ("Retire", "")):
        orders.tell(KEY, Tell(POD, order, subject, inputs={"a": 1} if order == "Prepare" else None))
    await until(lambda: len(taken) == 3)
    assert [o["issued_at"] for o in taken] == sorted({o["issued_at"] for o in taken})
    assert (taken[0]["pod"], taken[0]["namespace"], taken[0]["inputs"]) == ("qa-1", "ns", {"a": 1})
    told = replace(POD, told=orders.told(KEY, ["qa-1"])["qa-1"])
    assert told.has_been_told("Prepare", "def")
    assert not told.has_been_told("Prepare", "other")
    now[0] += FORGET_SECONDS + 1
    later = replace(POD, told=orders.told(KEY, ["qa-1"])["qa-1"])
    assert not later.has_been_told("Commit", "def"), "its report must show it by now"
    assert later.has_been_told("Retire"), "no report shows it"
    assert not later.has_been_told("Activate")
    assert orders.told(KEY, ["another"]) == {}
