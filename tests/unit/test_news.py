"""Waiting for a pod's state to become another."""

from __future__ import annotations

import asyncio
from functools import partial

import httpx
import pytest
from httpx import ASGITransport

from despina.wire import FIGURES_PATH, INTERFACE_PATH, SIGNATURE_HEADER, STATE_PATH, Counts, PodState, may_read, reading
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.news import News


class Pod:
    """One pod's admin port."""

    def __init__(self, read_key: str = "") -> None:
        self.state = PodState(revision="abc", counts={"abc": Counts(ok=1)})
        self.news = News(lambda: self.state)
        desk = OrderDesk("ns", "qa-1", (), "boot")
        is_reader = partial(may_read, read_key, "ns", "qa-1")
        app = build_admin(lambda: True, desk, None, lambda: self.state, self.news, lambda _: b"{}", is_reader)
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


SIGNATURES = {
    "by the key": (reading(["key"], "ns", "qa-1"), 200),
    "by several, of which it knows one": (reading(["old", "key"], "ns", "qa-1"), 200),
    "none": ("", 403),
    "by another key": (reading(["other"], "ns", "qa-1"), 403),
    "by no key": (reading([""], "ns", "qa-1"), 403),
    "for another pod": (reading(["key"], "ns", "qa-2"), 403),
    "for another namespace": (reading(["key"], "other", "qa-1"), 403),
    "no text of a signature": ("\u00ff, ,", 403),
}


@pytest.mark.parametrize("path", [STATE_PATH, FIGURES_PATH, f"{INTERFACE_PATH}/abc"])
@pytest.mark.parametrize("sentence", SIGNATURES)
async def test_only_who_has_a_pods_key_reads_what_it_says(sentence, path):
    signature, status = SIGNATURES[sentence]
    pod = Pod("key")
    answer = await pod.client.get(path, headers={SIGNATURE_HEADER: signature.encode("latin-1")})
    assert answer.status_code == status
    assert ("read key" in answer.text) is (status == 403)
    for open_path in ("/healthz", "/readyz", "/metrics"):
        assert (await pod.client.get(open_path)).status_code == 200
    await pod.client.aclose()


async def test_a_pod_without_a_key_shows_itself_to_everybody(pod):
    for signature in ("", "x"):
        assert (await pod.client.get(STATE_PATH, headers={SIGNATURE_HEADER: signature})).status_code == 200
