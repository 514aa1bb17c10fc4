"""Nothing that axe finds, in every view, light and dark, wide and narrow; and as little to load as was promised."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from despina.dashboard.render import assets
from tests.page.test_page_in_a_browser import furnish, sign_in, until_live
from tests.support.page import a_manifest, an_event, figures
from tests.support.page_site import STRANGER, a_stage
from tools import CACHE

AXE = Path(os.environ.get("DESPINA_AXE", CACHE / "axe" / "package" / "axe.min.js"))
"""`make test` fetches it where there is npm."""
SCRIPT = AXE.read_text() if AXE.exists() else ""
CHECK = """async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).slice(0, 3).join(" ")}`)"""
MOST_KIB = 60


async def found_by_axe(tab) -> list[str]:
    await tab.page.evaluate(SCRIPT)
    return await tab.page.evaluate(CHECK)


@pytest.mark.skipif(not SCRIPT, reason="axe-core is not here: make test fetches it where there is npm")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(open_tab, scheme, width):
    async with a_stage() as stage:
        furnish(stage)
        stage.add(a_manifest("new", conditions=[], active=None, history=[]), pods=0)
        stage.world.add_note(an_event("RolledBack", "v6 again", type="Warning"))
        stage.pods.counts["uid-qa"] = figures(300)
        tab = await open_tab(width, scheme)
        await tab.open(f"{stage.url}/login")
        assert await found_by_axe(tab) == []
        await sign_in(tab, stage)
        for path in ("/", "/?q=nothing-like-that", "/p/team-a/qa", "/p/team-a/rag?range=24h", "/p/team-a/new"):
            await tab.open(stage.url + path)
            await until_live(tab)
            await tab.page.click("text=PromQL >> nth=0")
            assert await found_by_axe(tab) == [], path
        await tab.open(f"{stage.url}/p/team-a/qa")
        await tab.page.click("#act-restart-")
        assert await found_by_axe(tab) == []
        await tab.open(f"{stage.url}/p/none/none")
        assert await found_by_axe(tab) == []


@pytest.mark.skipif(not SCRIPT, reason="axe-core is not here: make test fetches it where there is npm")
async def test_axe_finds_nothing_where_nothing_is(open_tab):
    async with a_stage() as stage:
        tab = await open_tab()
        await sign_in(tab, stage, STRANGER)
        assert await found_by_axe(tab) == []


def test_there_is_little_to_load():
    loaded = [asset.body for name, asset in assets().items() if name.endswith((".js", ".css"))]
    assert sum(len(gzip.compress(body)) for body in loaded) < MOST_KIB * 1024


async def test_nobody_else_is_asked_for_anything(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        asked = []
        tab.page.on("request", lambda request: asked.append(request.url))
        await sign_in(tab, stage)
        await until_live(tab)
        await tab.open(f"{stage.url}/p/team-a/qa")
        await until_live(tab)
        assert {url.startswith(stage.url) for url in asked} == {True}
