"""The page of what is served without a cluster: who may look, from where, and that nobody acts."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient, TestServer

from despina.dashboard.app import Site
from despina.dashboard.local import Nobody, Window, show
from despina.dashboard.world import World
from tests.support.page import NOW, a_manifest
from tests.support.page_site import FakeApi, a_reader

PAGE = "/p/team-a/qa"


@pytest.fixture
async def client():
    world = World(lambda: NOW)
    show(world, a_manifest("qa"))
    site = Site(world, Window(), Nobody(), a_reader(FakeApi()), is_local=True)
    async with TestClient(TestServer(site.app())) as found:
        yield found


@pytest.mark.parametrize("path", ["/", PAGE, f"{PAGE}/traces"])
async def test_whoever_is_on_this_machine_sees_the_program(client, path):
    answer = await client.get(path)
    assert answer.status == 200
    assert "qa" in await answer.text()


ACTS = {
    "a button": ("act", {"act": "restart"}, 403),
    "a question": ("ask", {}, 404),
    "a replay": ("traces/x-1/replay", {}, 404),
    "a mark": ("traces/x-1/mark", {"label": "success"}, 403),
}


@pytest.mark.parametrize(("path", "sent", "status"), ACTS.values(), ids=ACTS)
async def test_nobody_acts(client, path, sent, status):
    assert (await client.post(f"{PAGE}/{path}", data=sent)).status == status


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8088"])
async def test_a_page_of_others_is_not_answered(client, host):
    assert (await client.get(PAGE, headers={"Host": host})).status == 421
    origin = {"Origin": "http://evil.example"}
    assert (await client.post(f"{PAGE}/traces/x-1/mark", data={}, headers=origin)).status == 403
