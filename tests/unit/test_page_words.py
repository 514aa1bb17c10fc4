"""What the page says of programs: rows, what needs attention, lanes, tables, buttons and curves."""

from __future__ import annotations

import json
import math

import pytest

from despina.dashboard import story, words
from despina.dashboard.acts import Act, acts_of, patch_of, renewed
from despina.dashboard.counting import Gauges, Meter
from despina.dashboard.curves import charts, path, remembered, spark
from despina.dashboard.facts import Facts, facts_of, note_of, status_of
from despina.dashboard.history import History
from despina.dashboard.rates import Look, Sample
from despina.dashboard.rows import ICONS, in_order, row_of
from tests.support.page import HOSTILE, NOW, a_candidate, a_manifest, an_event, condition, figures, stamp

REFUSED = [condition("Ready"), condition("UpToDate", "False", "VersionQuarantined", "version 8: EvaluationFailed")]
BREAKER = {"state": "Open", "reason": "12 of 20 failed", "since": stamp(50)}
CALM = Gauges()
QUIET = Sample(*[0.0] * 8)


def seen(manifest, gauges=CALM, degraded=0.0, now=NOW):
    return row_of(facts_of(manifest), QUIET, gauges, degraded, now)


STATES = {
    "all is well": (a_manifest(), {}, "Ready", 0),
    "it is not ready": (a_manifest(conditions=[condition("Ready", "False", "NoReadyPods", "all crash")]), {}, "Not ready", 1),
    "its breaker is open": (a_manifest(breaker=BREAKER), {}, "Breaker open", 1),
    "a pod says that its breaker is open": (a_manifest(), {"gauges": Gauges(breakers_open=1)}, "Breaker open", 1),
    "probing": (a_manifest(breaker=BREAKER | {"state": "HalfOpen"}), {}, "Breaker half open", 1),
    "a version was refused": (a_manifest(conditions=REFUSED), {}, "Quarantined", 1),
    "a rollout goes on": (a_manifest(**a_candidate()), {}, "Rolling out", 0),
    "a rollout goes on for hours": (a_manifest(**a_candidate(ago=7200)), {}, "Rollout stuck", 1),
    "a rollout that ended is no rollout": (a_manifest(**a_candidate("Done", ago=7200)), {}, "Ready", 0),
    "a person is waited for": (a_manifest(**a_candidate("AwaitPromotion")), {}, "Held up", 1),
    "the deadline was missed": (
        a_manifest(conditions=[condition("Ready"), condition("Progressing", "False", "ProgressDeadlineExceeded")]), {}, "Rollout stuck", 1,
    ),
    "a fallback answers": (a_manifest(), {"degraded": 3.0}, "Degraded", 1),
    "suspended programs are not ready, and that is fine": (
        a_manifest(spec={"suspend": True}, conditions=[condition("Ready", "False", "Suspended")]), {}, "Suspended", 0,
    ),
    "new": (a_manifest(conditions=[], active=None, history=[]), {}, "Starting", 0),
    "no status at all": ({"metadata": {"name": "x", "namespace": "y"}, "status": [1]}, {}, "Starting", 0),
}  # fmt: skip


@pytest.mark.parametrize(("manifest", "more", "word", "needs"), STATES.values(), ids=STATES)
def test_states_in_words(manifest, more, word, needs):
    row = seen(manifest, **more)
    assert (row.state.word, len(row.needs)) == (word, needs)
    assert row.cells["icon"] == ICONS[row.state.level]
    assert row.cells["word"] == word


def test_the_worst_comes_first():
    rows = [
        seen(a_manifest("c", **a_candidate("AwaitPromotion"))),
        seen(a_manifest("z")),
        seen(a_manifest("a")),
        seen(a_manifest("b", breaker=BREAKER)),
        seen(a_manifest("d", conditions=[condition("Ready", "False", "NoReadyPods")], breaker=BREAKER)),
    ]
    assert [row.key[1] for row in in_order(rows)] == ["d", "b", "c", "a", "z"]
    assert [n.word for n in rows[-1].needs] == ["Not ready", "Breaker open"]


def test_a_row_says_what_the_figures_are():
    sample = Sample(2.5, 0.1, 0.085, 1.25, 0.2, 12345.0, 3.6, 4)
    score = {"jobs": 1, "job": "j", "scorePercent": "81.2500001"}
    score.pop("jobs")
    manifest = a_manifest(
        **a_candidate("Done", result="Passed", score=score),
        active={"revision": "rev8", "version": "8", "deployment": "d"},
    )
    cells = row_of(facts_of(manifest), sample, Gauges(), 0, NOW).cells
    assert cells | {"icon": "", "word": ""} == {
        "icon": "", "word": "", "version": "v8", "step": "", "requests": "2.50", "p50": "85 ms", "p95": "1.2 s",
        "errors": "4.0 %", "cached": "20.0 %", "tokens": "12.3k", "cost": "$3.60", "score": "81.3 %",
    }  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_words_are_one_short_line(text):
    manifest = a_manifest(conditions=[condition("Ready", "False", text, text)], breaker=BREAKER | {"reason": text})
    said = [n.text for n in seen(manifest).needs]
    assert said
    for line in (*said, words.shown(text)):
        assert len(line) <= 420
        assert line.isprintable()


def test_a_document_can_be_had_again():
    manifest = a_manifest()
    facts = facts_of(manifest)
    assert isinstance(facts, Facts)
    assert facts.document == manifest
    assert len(facts.packed) < len(json.dumps(manifest))


NOTES = [note_of(e)[1] for e in (
    an_event("BreakerOpened", "12 of 20", ago=500), an_event("BreakerClosed", ago=300),
    an_event("GatePassed", "Gate smoke: fine", ago=100), an_event("RolledBack", "v6 again", ago=200, type="Warning"),
)]  # fmt: skip
RUN = {
    "job": "j", "trigger": "Failures", "baseVersion": "7", "budgetLMCalls": 9, "startedAt": stamp(800),
    "finishedAt": stamp(700), "reason": "Better", "candidateVersion": "8", "costUSD": "0.12",
}  # fmt: skip


def test_lanes_tell_what_happened_in_the_span():
    gate = {"result": "Failed", "finishedAt": stamp(20), "message": "61 %, at least 80 %"}
    manifest = a_manifest(**a_candidate(**gate), breaker=BREAKER, optimization={"run": RUN})
    found = {lane.title: lane.marks for lane in story.lanes(status_of(manifest), NOTES, "15m", NOW)}
    assert list(found) == ["Versions", "Gates", "Rollbacks", "Breaker", "Optimisation"]
    assert [(m.word, m.start, m.width) for m in found["Versions"]] == [("v7", 0.0, 100.0)]
    assert [(m.word, m.icon) for m in found["Gates"]] == [("GatePassed", "✓"), ("score", "✕")]
    assert [(m.word, round(m.start), round(m.width)) for m in found["Breaker"]] == [("Open", 44, 22), ("Open", 94, 6)]
    assert [(m.word, round(m.start), round(m.width)) for m in found["Optimisation"]] == [("Better", 11, 11)]
    day = {lane.title: lane.marks for lane in story.lanes(status_of(manifest), [], "24h", NOW)}
    assert [m.word for m in day["Versions"]] == ["v6", "v7"]


def test_nothing_happened_is_no_lane():
    assert story.lanes(status_of({"status": {}}), [], "1h", NOW) == []


def test_marks_stay_within_their_lane():
    history = [{"revision": "r", "version": "1", "activatedAt": stamp(-900), "trigger": "Alias", "outcome": "Serving"}]
    assert story.lanes(status_of(a_manifest(history=history)), [], "1h", NOW) == []
    note = note_of(an_event("RolledBack", ago=0))[1]
    (lane,) = story.lanes(status_of({"status": {}}), [note], "1h", NOW)
    assert lane.marks[0].start + lane.marks[0].width <= 100


def counted(**more):
    meter = Meter()
    meter.take("p", figures(**more))
    return meter.total()


def test_versions_stand_side_by_side():
    manifest = a_manifest(**a_candidate(result="Passed", score={"job": "j", "scorePercent": "90.0"}))
    active, candidate = story.sides(status_of(manifest), counted())
    assert active.figures["Requests"] == "102"
    assert active.figures["Errors"] == "2.0 %"
    assert active.figures["Tokens a request"] == "902"
    assert active.figures["Cost of 1,000 requests"] == "$3.92"
    assert candidate.figures["Score"] == "90.0 %"
    assert candidate.figures["Errors"] == words.NOTHING


def test_tables_tell_of_modules_cache_tools_and_feedback():
    sums = counted()
    assert [m.words[:3] for m in story.modules(sums)] == [("answer", "gpt", "102"), ("classify", "gpt", "102")]
    assert [c.words for c in story.cache(sums)] == [("none", "80", "80.0 %"), ("memory", "20", "20.0 %")]
    assert [f.words for f in story.failures(sums)] == [("upstream", "2")]
    assert [f.words for f in story.feedback(sums)] == [("v7", "failure", "2"), ("v7", "success", "5")]
    use = {"name": "search", "state": "Available"}
    backends = [
        {"name": "local", "state": "Excluded", "message": "another contract"},
        {"name": "far", "state": "Healthy"},
    ]
    found = story.tools(status_of(a_manifest(tools=[use])), {"search": {"status": {"backends": backends}}}, sums)
    assert [(t.words[:3], t.words[4:], t.icon) for t in found] == [
        (("search", "", "Available"), (words.NOTHING, words.NOTHING), "✓"),
        (("", "local", "Excluded"), ("101", "1.0 %"), "✕"),
        (("", "far", "Healthy"), ("0", words.NOTHING), "✓"),
    ]
    assert story.runs(status_of(a_manifest(optimization={"run": RUN})))[0].words[2:] == ("Better", "", "v8", "$0.12")


ROLLING = a_candidate("AwaitPromotion")
QUARANTINED = {"model": {"quarantined": [{"version": "8", "reason": "x", "at": stamp(1)}]}}
PREVIOUS = {"previous": {"revision": "rev6", "version": "6", "deployment": "d"}}
BUTTONS = {
    "whatever serves can be restarted": (a_manifest(), ["restart"]),
    "a candidate that waits": (a_manifest(**ROLLING), ["promote rev8", "abort rev8", "restart"]),
    "one that is gated": (a_manifest(**a_candidate()), ["abort rev8", "restart"]),
    "a version in quarantine": (a_manifest(**QUARANTINED), ["retry 8", "restart"]),
    "one to go back to": (a_manifest(**PREVIOUS), ["rollback 6", "restart"]),
    "gone back already": (a_manifest(spec={"rollout": {"rollbackTo": 6}}, **PREVIOUS), ["rollback none", "restart"]),
    "a cache and an optimisation": (a_manifest(spec={"cache": {}, "optimization": {"a": 1}}), ["restart", "optimise"]),
}  # fmt: skip


@pytest.mark.parametrize(("manifest", "names"), BUTTONS.values(), ids=BUTTONS)
def test_buttons_that_make_sense(manifest, names):
    found = acts_of(manifest, status_of(manifest))
    assert [f"{act.name} {act.subject}".strip() for act in found] == names


PATCHES = {
    "a word of its own": (Act("promote", "rev8", "", ""), {"metadata": {"annotations": {"despina.dev/promote": "rev8"}}}),
    "anything new": (Act("restart", "", "", ""), {"metadata": {"annotations": {"despina.dev/restart": "page-1790000000"}}}),
    "the spec": (Act("rollback", "6", "", ""), {"spec": {"rollout": {"rollbackTo": 6}}}),
    "the spec, back": (Act("rollback", "none", "", ""), {"spec": {"rollout": {"rollbackTo": None}}}),
}  # fmt: skip


@pytest.mark.parametrize(("act", "patch"), PATCHES.values(), ids=PATCHES)
def test_what_a_button_writes(act, patch):
    assert patch_of(act, NOW) == patch


def test_a_word_that_stands_there_is_taken_away_first():
    retry = Act("retry", "8", "", "")
    assert renewed(retry, {}) is None
    assert renewed(retry, {"despina.dev/retry": "7"}) is None
    assert renewed(retry, {"despina.dev/retry": "8"}) == {"metadata": {"annotations": {"despina.dev/retry": None}}}
    assert renewed(Act("restart", "", "", ""), {"despina.dev/restart": ""}) is None
    assert renewed(Act("rollback", "6", "", ""), {}) is None


NUMBERS = {
    0: "0",
    0.123: "0.12",
    3: "3",
    12.34: "12.3",
    123.4: "123",
    12345: "12.3k",
    2_500_000: "2.5M",
    math.nan: words.NOTHING,
    math.inf: words.NOTHING,
}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items(), ids=map(str, NUMBERS))
def test_numbers(value, text):
    assert words.number(value) == text


def test_curves_have_gaps_and_stay_in_their_frame():
    assert path([], 1) == ""
    assert path([math.nan, math.nan], 1) == ""
    assert path([0, 5, math.nan, 10], 10, 30, 24, digits=0) == "M0 22h0.5L10 12M30 2h0.5"
    assert path([1, 1], 0, 30, 24) == "M0.0 2.0h0.5L30.0 2.0"
    history = History()
    for second in range(0, 400, 10):
        history.look(Look(NOW + second, requests=second * 2.0, errors=second / 10, latency=(second,) * 23))
    found = charts(remembered(history, "15m", NOW + 390))
    assert found["traffic"].top == "2/s"
    assert found["latency"].paths["p95"].startswith("M")
    assert spark(history, "requests", NOW + 390).count("M") == 1
    assert charts(remembered(History(), "24h", NOW))["latency"].top == words.NOTHING
