"""The page of what is served without a cluster: everything is seen there, and nothing is changed."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient, TestServer

from despina.dashboard.app import Site
from despina.dashboard.local import Nobody, Window, show
from despina.dashboard.traces import Traces
from despina.dashboard.world import World
from tests.support.page import NOW, a_manifest
from tests.support.page_traces import FakeHolders, a_name, a_trace

PROGRAM = "/p/team-a/qa"


@pytest.fixture
async def client():
    world, holders = World(lambda: NOW), FakeHolders()
    show(world, a_manifest(spec={"feedback": {}}))
    holders.held["this-machine"] = [a_trace()]
    site = Site(world, Window(), Nobody(), Traces(holders, Nobody()), is_local=True)  # type: ignore[arg-type]
    async with TestClient(TestServer(site.app())) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/", "qa"),
        (PROGRAM, "v7"),
        (f"{PROGRAM}/traces", "sampled"),
        (f"{PROGRAM}/traces/{a_name()}", "Which team?"),
    ],
)
async def test_everything_is_seen(client, path, word):
    answer = await client.get(path)
    assert answer.status == 200
    assert word in await answer.text()


async def test_nothing_is_offered_that_nobody_can_do(client):
    text = await (await client.get(PROGRAM)).text()
    assert 'name="act"' not in text
    assert 'id="ask"' not in text
    text = await (await client.get(f"{PROGRAM}/traces/{a_name()}")).text()
    assert "<form" not in text
    assert "POST /feedback" in text
    assert "the verb" not in text


@pytest.mark.parametrize(
    ("path", "status"),
    [(f"{PROGRAM}/act", 403), (f"{PROGRAM}/traces/{a_name()}/mark", 403), (f"{PROGRAM}/ask", 404)],
)
async def test_nothing_is_changed(client, path, status):
    sent = {"act": "restart", "subject": "", "label": "failure"}
    assert (await client.post(path, data=sent)).status == status


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8088"])
async def test_a_page_of_others_is_not_answered(client, host):
    assert (await client.get(PROGRAM, headers={"Host": host})).status == 421
    origin = {"Origin": "http://evil.example"}
    assert (await client.post(f"{PROGRAM}/traces/{a_name()}/mark", data={}, headers=origin)).status == 403
