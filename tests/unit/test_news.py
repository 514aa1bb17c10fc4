"""Waiting for a pod's state to become another."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from httpx import ASGITransport

from despina.wire import STATE_PATH, Counts, PodState
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.news import News


class Pod:
    """One pod's admin port."""

    def __init__(self) -> None:
        self.state = PodState(revision="abc", counts={"abc": Counts(ok=1)})
        self.news = News(lambda: self.state)
        desk = OrderDesk("ns", "qa-1", (), "boot")
        app = build_admin(lambda: True, desk, None, lambda: self.state, self.news, lambda _: None)
        self.client = httpx.AsyncClient(transport=ASGITransport(app), base_url="http://pod")

    async def ask(self, **query: object) -> httpx.Response:
        return await self.client.get(STATE_PATH, params=query)


@pytest.fixture
async def pod():
    made = Pod()
    made.news.look()
    yield made
    await made.client.aclose()


async def test_a_state_is_told_at_once_to_whoever_does_not_know_it(pod):
    async with asyncio.timeout(5):
        for query in ({}, {"after": 0, "wait": 25}, {"after": 9, "wait": 25}, {"after": 1}, {"wait": 0}):
            assert (await pod.ask(**query)).json()["number"] == 1


async def test_what_has_not_changed_is_told_when_the_time_is_over(pod):
    answer = await pod.ask(after=1, wait=0.01)
    assert answer.json()["number"] == 1


async def test_whoever_waits_hears_of_what_a_decision_could_depend_on_and_of_nothing_else(pod):
    asking = asyncio.create_task(pod.ask(after=1, wait=25))
    await asyncio.sleep(0.02)
    pod.state = PodState(revision="abc", counts={"abc": Counts(ok=50)}, uptime_seconds=4)
    pod.news.look()
    await asyncio.sleep(0.02)
    assert not asking.done()
    pod.state = PodState(revision="def")
    pod.news.look()
    async with asyncio.timeout(5):
        assert (await asking).json()["revision"] == "def"


@pytest.mark.parametrize("query", [{"after": -1}, {"after": "x"}, {"wait": 26}, {"wait": "nan"}, {"wait": -1}])
async def test_who_asks_for_what_cannot_be_is_told_so(pod, query):
    answer = await pod.ask(**query)
    assert answer.status_code == 400
    assert "wait" in answer.text
