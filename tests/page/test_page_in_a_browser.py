"""The page as a person sees it: live, by keyboard, on a phone, with what they may do and no more."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from despina.wire import ToolFigures
from tests.support.page import HOSTILE, a_candidate, a_manifest, an_event, condition, figures, stamp
from tests.support.page_site import ADMIN, LOOKER, STRANGER, a_stage

BREAKER = {"state": "Open", "reason": "12 of 20 failed"}


async def sign_in(tab, stage, token=ADMIN, to="/"):
    await tab.open(stage.url + to)
    await tab.page.fill("#token", token)
    await tab.page.click("text=Sign in >> nth=-1")
    await tab.page.wait_for_selector("#live")
    tab.complaints.clear()  # the form came with a 401, which the browser notes


async def until_live(tab):
    await tab.page.wait_for_selector('#live[data-level="ok"]')


def furnish(stage):
    now = time.time()
    stage.add(a_manifest("qa", now=now, **a_candidate("Gate", 60, now)), figures(100))
    stage.add(a_manifest("rag", now=now, breaker=BREAKER | {"since": stamp(50, now)}), figures(900, 300))
    stage.add(a_manifest("invoices", "team-b", now=now, conditions=[condition("Ready", "False", "NoReadyPods")]))
    stage.add(a_manifest("secret-plan", "team-z", now=now), figures(5))


async def test_what_needs_attention_comes_first_and_figures_are_live(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage)
        await until_live(tab)
        names = await tab.page.locator(".row .name a").all_inner_texts()
        assert names == ["invoices", "rag", "qa"]
        assert "Breaker open" in await tab.text(".needs")
        await stage.heard("uid-qa")
        stage.pods.counts["uid-qa"] = figures(400, 4)
        await tab.until_text('[data-key="team-a/qa"] [data-f=p95]', "ms$")
        stage.world.set_program(a_manifest("qa", breaker=BREAKER))
        await tab.page.wait_for_selector('[data-key="team-a/qa"][data-level="bad"] >> text=Breaker open')
        await tab.until_count(".needs li", 3)
        assert await tab.text("#said") == "team-a/qa: Breaker open"
        assert tab.complaints == []


async def test_another_namespaces_program_is_not_there(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, LOOKER)
        assert await tab.page.locator(".row .name a").all_inner_texts() == ["rag", "qa"]
        assert "invoices" not in await tab.page.content()
        for path in ("/p/team-b/invoices", "/p/team-z/secret-plan", "/p/team-a/none"):
            answer = await tab.page.goto(stage.url + path)
            assert answer.status == 404
        assert await tab.page.locator("h1").inner_text() == "404"


async def test_whoever_may_see_nothing_is_told_what_to_ask_for(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, STRANGER)
        assert await tab.page.locator(".row").count() == 0
        assert "get dspyprograms.despina.dev" in await tab.text("main")


async def test_a_wrong_token_is_told_and_a_right_one_leads_on(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await tab.open(f"{stage.url}/p/team-a/qa?range=1h")
        await tab.page.fill("#token", "wrong")
        await tab.page.keyboard.press("Enter")
        await tab.page.wait_for_selector("text=does not know this token")
        await tab.page.fill("#token", ADMIN)
        await tab.page.keyboard.press("Enter")
        await tab.page.wait_for_selector("#live")
        assert tab.page.url.endswith("/p/team-a/qa?range=1h")
        (cookie,) = await tab.page.context.cookies()
        assert cookie["name"] == "__Host-despina"
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
        assert ADMIN not in cookie["value"]
        await tab.page.click("text=Sign out")
        await tab.page.wait_for_selector("#token")
        answer = await tab.page.goto(stage.url)
        assert answer.status == 401


async def test_a_button_acts_with_the_persons_own_token(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.page.click("#act-abort-rev8")
        await tab.page.click("#sure-no")
        await tab.page.click("#act-abort-rev8")
        await tab.page.click("#sure-yes")
        await tab.page.wait_for_selector("text=Asked for: abort")
        patch = {"metadata": {"annotations": {"despina.dev/abort": "rev8"}}}
        assert stage.api.patches == [(ADMIN, ("team-a", "qa"), patch)]
        assert tab.complaints == []


POST = "([path, body]) => fetch(path, {method: 'POST', body: new URLSearchParams(body)}).then((a) => a.status)"


async def test_without_patch_there_is_no_button_and_a_post_is_refused(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, LOOKER, "/p/team-a/qa")
        await until_live(tab)
        assert await tab.page.locator("form[action$=act], dialog").count() == 0
        asked = ["/p/team-a/qa/act", {"act": "restart", "subject": ""}]
        assert await tab.page.evaluate(POST, asked) == 403
        assert stage.api.patches == []


async def test_a_lost_stream_says_since_when_and_comes_back(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage)
        await until_live(tab)
        await stage.stop()
        await tab.page.wait_for_selector('#live[data-level="warn"]')
        assert (await tab.text("#live")).split("stale since ")[1].count(":") == 2
        stage.world.set_program(a_manifest("qa", breaker=BREAKER))
        await stage.start()
        await until_live(tab)
        await tab.page.wait_for_selector('[data-key="team-a/qa"] >> text=Breaker open')


async def test_the_keyboard_is_enough(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage)
        await until_live(tab)
        focused = "document.activeElement.textContent"
        for key, name in (("j", "invoices"), ("j", "rag"), ("j", "qa"), ("j", "qa"), ("k", "rag")):
            await tab.page.keyboard.press(key)
            assert await tab.page.evaluate(focused) == name
        await tab.page.keyboard.press("/")
        await tab.page.keyboard.type("inv")
        assert await tab.page.locator(".row:visible .name a").all_inner_texts() == ["invoices"]
        await tab.page.keyboard.press("Escape")
        assert await tab.page.locator(".row:visible").count() == 3
        await tab.page.keyboard.press("j")
        await tab.page.keyboard.press("Enter")
        await tab.page.wait_for_selector("h1 >> text=invoices")
        await tab.page.keyboard.press("u")
        await tab.page.wait_for_selector("h1 >> text=Programs")


async def test_the_promql_beside_a_figure_is_copied_by_keyboard(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab(permissions=["clipboard-read", "clipboard-write"])
        await sign_in(tab, stage, to="/p/team-a/qa")
        await until_live(tab)
        await tab.page.focus(".promql summary >> nth=0")
        await tab.page.keyboard.press("Enter")
        await tab.page.focus("[data-copy] >> nth=0")
        await tab.page.keyboard.press("Enter")
        await tab.until_text("#said", "^Copied$")
        copied = await tab.page.evaluate("navigator.clipboard.readText()")
        assert copied == 'sum(rate(despina_requests_total{namespace="team-a",program="qa"}[2m]))'
        assert tab.complaints == []


async def test_a_page_is_made_anew_while_somebody_reads_it(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await until_live(tab)
        await tab.page.click(".lanes summary")
        await tab.page.focus("#act-restart-")
        stage.world.set_program(a_manifest("qa", **a_candidate("AwaitPromotion")))
        await tab.page.wait_for_selector("#act-promote-rev8")
        assert await tab.page.evaluate("document.activeElement.id") == "act-restart-"
        assert await tab.page.evaluate("document.querySelector('.lanes details').open")
        assert await tab.page.locator("[data-d=latency-p95]").get_attribute("d") is not None
        assert tab.complaints == []


WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def furnish_hostile(stage):
    """Every word that anybody may write, hostile in each way."""
    for number, text in enumerate(HOSTILE.values()):
        name = f"p{number}"
        said = text.encode(errors="replace").decode()
        candidate = a_candidate("Gate", name=text[:99], message=text)
        tools = [{"name": text[:200], "state": "Available", "message": text}]
        stage.add(
            a_manifest(
                name, breaker=BREAKER | {"reason": text}, tools=tools,
                conditions=[condition("Ready", "False", text[:99], text)], **candidate,
            ),
            figures(
                version=said, cache={said: 5}, degraded={said: 2},
                tools=(ToolFigures(tool=said, backend=said, outcomes={said: 1}),),
            ),
        )  # fmt: skip
        stage.world.add_note(an_event(text, text, program=name))
        stage.world.set_tool(
            {
                "metadata": {"namespace": "team-a", "name": text[:200]},
                "status": {"backends": [{"name": text, "message": text, "state": text}]},
            }
        )


@pytest.mark.parametrize("width", [1280, 390])
async def test_hostile_words_run_nothing_and_break_nothing(open_tab, width):
    async with a_stage() as stage:
        furnish_hostile(stage)
        tab = await open_tab(width)
        await tab.page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective))"
        )
        await sign_in(tab, stage)
        await until_live(tab)
        for path in ("/", *(f"/p/team-a/p{i}" for i in range(len(HOSTILE))), "/?q=<script>window.hacked=1</script>"):
            await tab.open(stage.url + path)
            await until_live(tab)
            assert await tab.page.evaluate("window.hacked") is None
            assert not await tab.page.evaluate(WIDE), path
            assert len(await tab.page.content()) < 300_000
        assert tab.complaints == []


@pytest.mark.parametrize("path", ["/", "/p/team-a/qa"])
async def test_a_phone_needs_no_sideways_scrolling(open_tab, path):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab(390)
        await sign_in(tab, stage, to=path)
        await until_live(tab)
        assert not await tab.page.evaluate(WIDE)


async def test_only_what_is_on_the_screen_is_asked_for_every_second(open_tab):
    async with a_stage() as stage:
        for number in range(150):
            stage.add(a_manifest(f"a{number:03}"), figures(10))
        tab = await open_tab()
        await sign_in(tab, stage)
        await until_live(tab)
        await tab.until_text(".row [data-f=requests]", "[0-9]")
        assert 0 < len(stage.site.streams.watched().rows) < 60
        await tab.page.evaluate("document.querySelector('[data-key=\"team-a/a149\"]').scrollIntoView()")
        await tab.until_text('[data-key="team-a/a149"] [data-f=requests]', "[0-9]")
        assert ("team-a", "a149") in stage.site.streams.watched().rows
        assert ("team-a", "a000") not in stage.site.streams.watched().rows


class Between:
    """Stands between a page and the server; each time that its parts are asked for, a test says what becomes of it."""

    def __init__(self) -> None:
        self.asked: list = []
        self.came = asyncio.Event()

    async def __call__(self, route) -> None:
        if route.request.resource_type == "document":
            await route.continue_()
            return
        self.asked.append(route)
        self.came.set()

    async def until(self, count: int):
        """The last of so many."""
        async with asyncio.timeout(20):
            while len(self.asked) < count:
                self.came.clear()
                await self.came.wait()
        return self.asked[count - 1]


@asynccontextmanager
async def a_change_on_its_way(open_tab):
    """A live list whose parts are made anew for a program that has come: the stage, the tab and what is between them."""
    async with a_stage() as stage:
        furnish(stage)
        tab, between = await open_tab(), Between()
        await sign_in(tab, stage)
        await until_live(tab)
        await tab.page.route(f"{stage.url}/", between)
        stage.world.set_program(a_manifest("one"))
        yield stage, tab, between


async def test_an_answer_that_was_overtaken_is_not_shown(open_tab):
    async with a_change_on_its_way(open_tab) as (stage, tab, between):
        slow = await between.until(1)
        old = await slow.fetch()
        stage.world.set_program(a_manifest("two"))
        await (await between.until(2)).continue_()
        await tab.page.wait_for_selector('[data-key="team-a/two"]')
        async with tab.page.expect_response(f"{stage.url}/"):
            await slow.fulfill(response=old)
        assert await tab.page.locator('[data-key="team-a/one"]').count() == 1
        assert await tab.page.locator('[data-key="team-a/two"]').count() == 1


@pytest.mark.parametrize("trouble", [{"status": 503}, {"status": 500}, None], ids=["busy", "broken", "cut off"])
async def test_a_page_that_could_not_be_made_anew_is_made_anew_soon(open_tab, trouble):
    async with a_change_on_its_way(open_tab) as (_, tab, between):
        first = await between.until(1)
        await (first.fulfill(**trouble) if trouble else first.abort())
        await (await between.until(2)).continue_()
        await tab.page.wait_for_selector('[data-key="team-a/one"]')


async def test_what_is_on_the_screen_is_told_again_if_that_was_refused(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab, between = await open_tab(), Between()
        await tab.page.route("**/view", between)
        await sign_in(tab, stage)
        await (await between.until(1)).fulfill(status=503)
        await (await between.until(2)).continue_()
        await tab.until_text('[data-key="team-a/qa"] [data-f=requests]', "[0-9]")
        assert ("team-a", "qa") in stage.site.streams.watched().rows
