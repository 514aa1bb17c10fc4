"""Traces as a person reads them: what took how long, what was said, and that it was wrong."""

from __future__ import annotations

import json

import pytest

from despina.wire import TraceSpan
from tests.page.test_page_for_everybody import SCRIPT, found_by_axe
from tests.page.test_page_in_a_browser import POST, WIDE, sign_in, until_live
from tests.support.page import HOSTILE, NOW, a_manifest
from tests.support.page_site import LOOKER, READER, a_stage
from tests.support.page_traces import TRACE_ID, a_name, a_span, a_trace, hosted_span

NAME = a_name().rpartition("-")[0]
LIST, ONE = "/p/team-a/qa/traces", f"/p/team-a/qa/traces/{NAME}"
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
WIDTHS = pytest.mark.parametrize("width", [1280, 390])
LOG_VIOLATIONS = "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective))"
OPENED = """() => { const at = performance.getEntriesByType("navigation")[0], drawn = performance.getEntriesByType("paint");
  return [at.domContentLoadedEventEnd, Math.max(...drawn.map((one) => one.startTime)),
    document.querySelectorAll(".span").length]; }"""


def furnish(stage) -> None:
    stage.add(a_manifest("qa", spec={"feedback": {}}))
    stage.holders.held["qa-0"] = [a_trace(1), a_trace(2, why="error", status=502, problem="upstream")]
    stage.holders.parts["10.0.0.9"] = hosted_span()


async def test_from_a_program_to_what_was_wrong_and_to_a_mark(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await until_live(tab)
        assert stage.holders.asked == [], "pods are asked when somebody opens the list"
        await tab.page.click("#traces-open")
        await tab.until_count("[data-list] tbody tr", 2)
        assert "502 upstream" in await tab.text("[data-list] tbody tr:first-child")
        await tab.page.click(f'a[href="{ONE}"]')
        await tab.until_count(".span", 7)
        assert await tab.text(".failed") == "✕ chat openai/gpt-4o-mini: timeout"
        await tab.page.click("#s0 summary")
        assert await tab.text("#s0 pre") == "Which team?"
        assert await tab.page.locator("#s0 pre").count() == 2
        await tab.page.check("#mark-failure")
        await tab.page.fill("#reason", "it was a refund")
        await tab.page.fill("#expected", '{"colour": 1}')
        await tab.page.click("#mark-it")
        await tab.until_text("#unfit", "colour is no output; outputs are answer, score")
        assert await tab.page.input_value("#reason") == "it was a refund"
        tab.complaints.clear()  # a 422 is noted by the browser
        await tab.page.fill("#expected", '{"answer": "refunds"}')
        await tab.page.click("#mark-it")
        await tab.until_text(".banner", "Marked as failure")
        ((_, label),) = stage.holders.labels
        assert (label.prediction, label.source, label.expected) == (a_name(), "ada", {"answer": "refunds"})
        assert tab.complaints == []


@pytest.mark.parametrize(("token", "words"), [(LOOKER, False), (READER, True)])
async def test_without_the_verbs_words_and_the_form_are_not_there(open_tab, token, words):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, token, "/p/team-a/qa")
        await tab.open(stage.url + ONE)
        assert await tab.page.locator("form[action$=mark]").count() == 0
        assert "the verb feedback on dspyprograms.despina.dev in team-a" in await tab.text("main")
        assert ("Which team?" in await tab.page.content()) == words
        assert await tab.page.locator("#no-words >> text=payloads").count() == (not words)
        assert await tab.page.evaluate(POST, [f"{ONE}/mark", {"label": "failure"}]) == 403
        assert stage.holders.labels == []


async def test_the_keyboard_leads_through_a_trace(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.page.focus("#traces-open")
        await tab.page.keyboard.press("Enter")
        await tab.until_count("[data-list] tbody tr", 2)
        await tab.open(stage.url + LIST)
        for key in ("j", "j"):
            await tab.page.keyboard.press(key)
        await tab.page.keyboard.press("Enter")
        await tab.until_count(".span", 7)
        for key in ("j", "j", "k", "j", "j", "j"):
            await tab.page.keyboard.press(key)
        await tab.page.keyboard.press("Enter")
        assert await tab.page.locator("#s3 details[open]").count() == 1
        await tab.page.keyboard.press("u")
        await tab.page.wait_for_selector("h1 >> text=Traces of")


@pytest.mark.parametrize("spans", [10_000])
async def test_a_trace_of_many_spans_opens_within_a_second(open_tab, spans):
    facts = {"gen_ai.usage.input_tokens": "40", "gen_ai.usage.output_tokens": "2", "despina.cost_usd": "0.001"}
    words = json.dumps({"question": "Which team?"})
    many = tuple(
        a_span(n, None if n == 0 else (n - 1) // 4, at=NOW + n / 1e5, attributes=facts, inputs=words)
        for n in range(spans)
    )
    async with a_stage() as stage:
        furnish(stage)
        stage.holders.held["qa-0"] = [a_trace(1, many)]
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.open(stage.url + ONE)
        loaded, painted, shown = await tab.page.evaluate(OPENED)
        print(f"\n{spans} spans: {shown} of them loaded after {loaded:.0f} ms, painted after {painted:.0f} ms")
        assert shown == 500
        assert max(loaded, painted) < 1000
        await tab.page.click("text=Spans after")
        await tab.until_text(".spans .dim", "^501 to 1000 of 10000$")
        assert await tab.page.locator("text=Within").count() == 1
        await tab.open(f"{stage.url}{ONE}?from=9500#s9999")
        assert await tab.page.locator("#s9999:target").count() == 1


def a_hostile_trace(text: str, number: int):
    said = text.encode(errors="replace").decode()
    facts = {"gen_ai.operation.name": said, "gen_ai.tool.name": said, "despina.cost_usd": said, said: said}
    span = {"parent": said, "name": said, "error": said, "attributes": facts, "outputs": said}
    spans = (
        TraceSpan.model_validate(span | {"id": "a", "parent": "b", "at": -1, "seconds": -5, "inputs": json.dumps({said: said})}),
        TraceSpan.model_validate(span | {"id": "b", "parent": "a", "at": 1e300, "seconds": 1e300, "inputs": json.dumps([said])}),
        TraceSpan.model_validate(span | {"id": "b", "parent": "b", "at": NOW, "inputs": json.dumps([{"role": said, "content": said}])}),
        *(a_span(n, n - 1, name=said) for n in range(30)),
    )  # fmt: skip
    return a_trace(number, spans, problem=said, version=said, module=said, lm=said, why=said, cost_usd=said, at=2.0**53)


@WIDTHS
async def test_hostile_traces_run_nothing_and_break_nothing(open_tab, width):
    async with a_stage() as stage:
        furnish(stage)
        stage.holders.held["qa-0"] = [a_hostile_trace(text, n) for n, text in enumerate(HOSTILE.values())]
        tab = await open_tab(width)
        await tab.page.add_init_script(LOG_VIOLATIONS)
        await sign_in(tab, stage, to="/p/team-a/qa")
        await until_live(tab)
        traces = [a_name(number).rpartition("-")[0] for number in range(len(HOSTILE))]
        for path in (LIST, *(f"{LIST}/{name}" for name in traces), *(f"{LIST}/{name}?span=0" for name in traces)):
            await tab.open(stage.url + path)
            await tab.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert await tab.page.evaluate("window.hacked") is None
            assert not await tab.page.evaluate(WIDE), path
            assert len(await tab.page.content()) < 1_500_000
        await tab.open(f"{stage.url}/p/team-a/qa")
        await until_live(tab)
        await tab.page.click("#traces-open")
        await tab.until_count("[data-list] tbody tr", len(HOSTILE))
        assert await tab.page.evaluate("window.hacked") is None
        assert not await tab.page.evaluate(WIDE)
        assert tab.complaints == []


@pytest.mark.skipif(not SCRIPT, reason="axe-core is not here: make test fetches it where there is npm")
@WIDTHS
@SCHEMES
async def test_axe_finds_nothing_on_traces(open_tab, scheme, width):
    async with a_stage() as stage:
        furnish(stage)
        stage.add(a_manifest("new", spec={"feedback": {}}))
        tab = await open_tab(width, scheme)
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.page.click("#traces-open")
        await tab.until_count("[data-list] tbody tr", 2)
        assert await found_by_axe(tab) == []
        for path in (LIST, f"{LIST}?why=slow", "/p/team-a/new/traces", ONE, f"{ONE}?span=0"):
            await tab.open(stage.url + path)
            await tab.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert await found_by_axe(tab) == [], path
            assert not await tab.page.evaluate(WIDE), path


async def test_a_trace_by_its_own_id_leads_to_the_same(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.open(f"{stage.url}{LIST}/{TRACE_ID}")
        await tab.until_count(".span", 7)
