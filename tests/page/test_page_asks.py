"""Asking by hand in a browser: by a form, again from a trace, and what differs between versions; whatever pods say."""

from __future__ import annotations

import json
import time

import pytest

from despina.wire import Answered, Prompt, Prompts, Trace, TraceSpan
from tests.page.test_page_for_everybody import SCRIPT, found_by_axe
from tests.page.test_page_in_a_browser import POST, WIDE, sign_in, until_live
from tests.support.page import HOSTILE, a_candidate, a_manifest, figures
from tests.support.page_site import LOOKER, a_stage

PREVIOUS = {"revision": "rev6", "version": "6", "deployment": "qa-rev6"}
TRACE = "/p/team-a/qa/traces/rev7-x-1"


def interface(instructions: str = "Answer.", **more) -> bytes:
    fields = {
        "question": {"type": "string", "description": "What to answer"},
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
        "language": {"enum": ["en", "de"], "type": "string", "default": "de"},
        "short": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
    }
    inputs = {"type": "object", "required": ["question", "short"], "properties": fields | more}
    return json.dumps({"instructions": instructions, "inputs": inputs}).encode()


async def replay(tab, stage) -> None:
    """From the trace's page, of the candidate."""
    await tab.open(f"{stage.url}{TRACE}")
    await tab.page.select_option("#replay-revision", "rev8")
    await tab.page.click("#replay")


def furnish(stage):
    now = time.time()
    stage.add(a_manifest("qa", now=now, previous=PREVIOUS, **a_candidate("Gate", 60, now)), figures(100))
    hand = stage.hand
    hand.interfaces = {
        "rev6": interface(), "rev7": interface(), "rev8": interface("Answer well.", mood={"type": "string"})
    }  # fmt: skip
    hand.prompted = {
        name: Prompts(modules=(Prompt(path="answer", lm="main", instructions=f"As {name}", demo_count=2),))
        for name in ("rev6", "rev7", "rev8")
    }
    hand.answers = [
        Answered(status=200, said='{"answer": "since\\nit is so"}', id="rev8-x-2", version="8", cost_usd="0.002")
    ]
    root = TraceSpan(id="a" * 16, inputs='{"question": "why"}', outputs='{"answer": "because it is so"}')
    trace = Trace(id="rev7-x-1", version="7", status=200, spans=(root,), is_redacted=True)
    stage.holders.held["qa-0"] = [trace]


async def test_a_version_is_asked_by_a_form(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.page.click("#ask")
        await tab.page.click("text=Candidate v8")
        assert await tab.page.input_value("#i-f1") == "3"
        assert await tab.page.locator("#i-f2 option:checked").inner_text() == '"de"'
        await tab.page.fill("#i-f0", "why\nnot")
        await tab.page.fill("#i-f4", "[1,")
        await tab.page.click("#send")
        await tab.page.wait_for_selector("#i-f4-error >> text=This is no JSON")
        assert await tab.page.get_attribute("#i-f3", "aria-invalid") == "true"
        assert await tab.page.input_value("#i-f0") == "why\nnot"
        assert stage.hand.asked == []
        await tab.page.select_option("#i-f3", label="true")
        await tab.page.fill("#i-f4", '["x"]')
        await tab.page.get_by_label("question").press("End")
        await tab.page.click("#send")
        await tab.page.wait_for_selector("#answer >> text=since")
        ((_, revision, inputs, _),) = stage.hand.asked
        assert revision == "rev8"
        assert json.loads(inputs) == {
            "question": "why\nnot", "count": 3, "language": "de", "short": True, "tags": ["x"]
        }  # fmt: skip
        assert "$0.0020" in await tab.text("#answer")
        assert await tab.page.get_attribute("#trace", "href") == "/p/team-a/qa/traces/rev8-x-2"
        assert tab.complaints == []


async def test_without_the_verb_there_is_no_form_and_a_post_is_refused(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, LOOKER, "/p/team-a/qa")
        await until_live(tab)
        assert await tab.page.locator("#ask").count() == 0
        for path in ("/p/team-a/qa/ask", "/p/team-a/qa/traces/rev7-x-1/replay"):
            assert await tab.page.evaluate(POST, [path, {"revision": "rev8", "f0": "x"}]) == 403
        assert (await tab.page.goto(f"{stage.url}/p/team-a/qa/ask")).status == 403
        assert stage.hand.asked == []


async def test_what_differs_comes_to_a_page_that_is_open(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.page.wait_for_selector('[data-part=diffs] >> text="input mood"')
        said = await tab.text("[data-part=diffs]")
        assert "Active v7 → Candidate v8" in said
        assert "Schema: callers give and get the same." in said
        assert await tab.page.locator("[data-part=diffs] ins").first.text_content() == " well"
        assert tab.complaints == []


async def test_a_trace_is_asked_again_of_another_version(open_tab):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab()
        await sign_in(tab, stage, to="/p/team-a/qa")
        await replay(tab, stage)
        await tab.page.wait_for_selector("#answer >> text=1 of 1 outputs differ")
        assert "because" in await tab.page.locator("del").first.inner_text()
        await tab.page.select_option("#replay-revision", "rev6")
        await tab.page.click("#replay")
        await tab.page.wait_for_selector("h1 >> text=Previous v6")
        assert [asked[1] for asked in stage.hand.asked] == ["rev8", "rev6"]
        assert tab.complaints == []


@pytest.mark.skipif(not SCRIPT, reason="axe-core is not here: make test fetches it where there is npm")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(open_tab, scheme, width):
    async with a_stage() as stage:
        furnish(stage)
        tab = await open_tab(width, scheme)
        await sign_in(tab, stage, to="/p/team-a/qa")
        await tab.page.wait_for_selector('[data-part=diffs] >> text="input mood"')
        found = {"program": await found_by_axe(tab)}
        await tab.open(f"{stage.url}/p/team-a/qa/ask?revision=rev8")
        found["form"] = await found_by_axe(tab)
        await tab.page.click("#send")
        await tab.page.wait_for_selector("#wrong")
        found["mistakes"] = await found_by_axe(tab)
        await tab.page.select_option("#i-f3", label="true")
        await tab.page.click("#send")
        await tab.page.wait_for_selector("#answer")
        found["answer"] = await found_by_axe(tab)
        assert not await tab.page.evaluate(WIDE)
        await replay(tab, stage)
        await tab.page.wait_for_selector("#answer >> text=outputs differ")
        found["replay"] = await found_by_axe(tab)
        assert not await tab.page.evaluate(WIDE)
        stage.hand.holds = None
        await tab.open(f"{stage.url}/p/team-a/qa/ask")
        found["nobody"] = await found_by_axe(tab)
        assert {key: faults for key, faults in found.items() if faults} == {}


def furnish_hostile(stage, word: str) -> None:
    said = word.encode(errors="replace").decode()
    hand = stage.hand
    own = {"type": "string", "description": said, "default": said, "title": said}
    choice = {"enum": [said, said * 2], "description": said}
    hand.interfaces["rev8"] = interface(said, **{said: own, "choice": choice, "loop": {"$ref": "#/$defs/A"}})
    hand.prompted["rev8"] = Prompts(modules=(Prompt(path=said, lm=said, instructions=said, demos=(said,)),))
    hand.answers = [Answered(status=200, said=json.dumps({word: word}), version=said, id=said[:50], cost_usd=said)]
    problem = json.dumps({"title": word, "detail": word, "errors": [{"field": "question", "message": word}]})
    hand.answers.append(Answered(status=422, said=problem))
    outputs = json.dumps({said: said})
    root = TraceSpan(id="a" * 16, inputs='{"question": "x"}', outputs=outputs)
    stage.holders.held["qa-0"] = [Trace(id="rev7-x-1", version=said, spans=(root,))]


@pytest.mark.parametrize("width", [1280, 390])
async def test_hostile_words_run_nothing_and_break_nothing(open_tab, width):
    async with a_stage() as stage:
        tab = await open_tab(width)
        await tab.page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective))"
        )
        await sign_in(tab, stage)
        for number, word in enumerate(HOSTILE.values()):
            furnish(stage)
            furnish_hostile(stage, word)
            stage.add(a_manifest("qa", previous=PREVIOUS, **a_candidate("Gate")) | {"metadata": {
                "name": "qa", "namespace": "team-a", "uid": f"uid-{number}", "resourceVersion": "1"}}, figures(5))  # fmt: skip
            await tab.open(f"{stage.url}/p/team-a/qa")
            await tab.page.wait_for_selector("[data-part=diffs] >> text=changed")
            await sound(tab)
            for _ in range(2):
                await tab.open(f"{stage.url}/p/team-a/qa/ask?revision=rev8")
                await sound(tab)
                await tab.page.select_option("#i-f3", label="true")
                await tab.page.click("#send")
                await tab.page.wait_for_selector("#answer")
                await sound(tab)
            await replay(tab, stage)
            await tab.page.wait_for_selector("#answer")
            await sound(tab)
        assert tab.complaints == []


async def sound(tab) -> None:
    assert await tab.page.evaluate("window.hacked") is None
    assert not await tab.page.evaluate(WIDE), tab.page.url
    assert len(await tab.page.content()) < 300_000
