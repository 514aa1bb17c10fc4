"""Traces as bars: in which order, within which frame, with which words, and what hostile ones may not do."""

from __future__ import annotations

import json
import math

import pytest

from despina.dashboard import words
from despina.dashboard.traces import line_of, when
from despina.dashboard.waterfall import (
    DEEPEST_SHOWN,
    MOST_FAILED,
    MOST_HOSTED,
    PAGE_SPANS,
    count,
    in_order,
    money,
    page_of,
    took,
    tools_in,
)
from despina.dashboard.written import Budget, Piece, pieces, readable
from despina.wire import Trace, TraceSpan, TraceSummary
from tests.support.page import HOSTILE, NOW
from tests.support.page_traces import a_name, a_span, a_trace, hosted_span

HOSTED = {"search-1": hosted_span().spans}


def bars(trace: Trace, hosted=None, begins: int = 0, only: int | None = None, shows_words: bool = True):
    fall = page_of(in_order(trace, hosted or {}), begins, only, shows_words)
    return fall, [bar for group in fall.groups for bar in group]


def tree(trace: Trace, hosted=None) -> list[tuple[str, int]]:
    return [(one.span.name, one.depth) for one in in_order(trace, hosted or {})]


def test_a_span_stands_behind_what_it_lies_in_and_so_does_the_tools_own():
    assert tree(a_trace(), HOSTED) == [
        ("POST /execute", 0),
        ("invoke_workflow qa", 1),
        ("classify", 2),
        ("chat openai/gpt-4o-mini", 3),
        ("chat openai/gpt-4o-mini", 3),
        ("execute_tool team-a/search", 2),
        ("execute_tool search", 3),
    ]


def test_a_bar_says_when_how_long_and_what_it_cost():
    fall, found = bars(a_trace(), HOSTED)
    assert (fall.total, fall.failures, fall.length) == (7, 1, "420 ms")
    assert [(link.number, link.text) for link in fall.failed] == [(3, "chat openai/gpt-4o-mini: timeout")]
    assert [bar.kind for bar in found] == ["request", "program", "module", "LM", "LM", "tool", "host"]
    chat = found[3]
    assert (chat.start, chat.took, chat.x, chat.width) == ("30 ms", "100 ms", "7.14", "23.81")
    assert (chat.tokens, chat.cost, chat.error) == ("412 + 31", "$0.0021", "timeout")
    assert ("in pod", "search-1") in found[6].facts
    assert found[0].words == [Piece("Inputs: question", "Which team?"), Piece("Outputs: answer", "billing")]


def test_without_the_right_there_are_no_words():
    fall, found = bars(a_trace(), HOSTED, shows_words=False)
    assert not any(bar.words for bar in found)
    assert "billing" not in repr(fall)


def spans(*parents: int | None) -> Trace:
    """A span for each of these parents, the first one's number being 0."""
    return a_trace(spans=tuple(a_span(number, parent) for number, parent in enumerate(parents)))


TREES = {
    "a chain": ((None, 0, 1, 2), [0, 1, 2, 3]),
    "one that lies in itself": ((None, 1, 0), [0, 1, 0]),
    "a circle of two": ((None, 2, 1), [0, 0, 1]),
    "all in a circle": ((2, 0, 1), [0, 1, 2]),
    "a parent that is nowhere": ((None, 77), [0, 0]),
    "nothing at all": ((), []),
}


@pytest.mark.parametrize(("parents", "depths"), TREES.values(), ids=TREES)
def test_every_span_stands_there_once(parents, depths):
    found = in_order(spans(*parents), {})
    assert len(found) == len({one.span.id for one in found}) == len(parents)
    assert sorted(one.depth for one in found) == sorted(depths)


def test_spans_of_one_name_stand_there_each():
    same = tuple(a_span(1, 0) for _ in range(3))
    assert tree(a_trace(spans=(a_span(0, None), *same))) == [("step 0", 0), *[("step 1", 1)] * 3]


def test_what_lies_deep_is_not_drawn_ever_further_in():
    found = in_order(spans(None, *range(9_999)), {})
    assert [one.depth for one in found[-2:]] == [9998, 9999]
    fall, shown = bars(spans(None, *range(9_999)), begins=9_500)
    assert {bar.depth for bar in shown} == {DEEPEST_SHOWN}
    assert len(fall.above) == DEEPEST_SHOWN


TIMES = {
    "within": (0.1, 0.2, "10.00", "20.00"),
    "before it began": (-5.0, 0.2, "0.00", "0.20"),
    "after it ended": (5.0, 0.2, "99.80", "0.20"),
    "longer than all": (0.5, 1e12, "50.00", "50.00"),
    "no time at all": (0.3, 0.0, "30.00", "0.20"),
    "at the end of all times": (2.0**53, 2.0**53, "99.80", "0.20"),
}


@pytest.mark.parametrize(("start", "seconds", "x", "width"), TIMES.values(), ids=TIMES)
def test_another_pods_clock_moves_no_bar_out_of_the_frame(start, seconds, x, width):
    trace = a_trace(spans=(a_span(0, None, seconds=1.0, at=NOW),))
    told = a_span(9, 0, at=NOW + start, seconds=seconds)
    bar = bars(trace, {"p": (told,)})[1][1]
    assert (float(bar.x), float(bar.width)) == pytest.approx((float(x), float(width)), abs=0.01)


def test_what_ends_before_it_begins_takes_no_time():
    (read,) = Trace.model_validate({"id": "x", "spans": [{"id": "a", "at": "1e400", "seconds": -3}]}).spans
    _, (bar,) = bars(a_trace(spans=(read,)))
    assert (bar.took, bar.x, bar.width) == ("0 ms", "0", "100")


def test_of_hosts_only_what_belongs_to_the_trace_is_shown_and_not_without_end():
    stranger = a_span(50, 40, name="of another trace")
    many = {"p": tuple(a_span(100 + n, 5, name="told") for n in range(2 * MOST_HOSTED)), "q": (stranger,)}
    names = [name for name, _ in tree(a_trace(), many)]
    assert names.count("told") == MOST_HOSTED
    assert "of another trace" not in names


def test_ten_thousand_spans_are_pages():
    trace = spans(None, *[0] * 9_999)
    fall, shown = bars(trace)
    assert (fall.total, len(shown), fall.begins) == (10_000, PAGE_SPANS, 0)
    fall, shown = bars(trace, begins=9_990)
    assert [bar.number for bar in shown] == list(range(9_990, 10_000))
    assert [link.text for link in fall.above] == ["step 0"]
    assert bars(trace, begins=10**8)[0].begins == 9_999
    assert [bar.number for bar in bars(trace, only=77)[1]] == [77]


def test_failures_are_counted_and_a_few_are_named():
    fall, _ = bars(a_trace(spans=tuple(a_span(n, None, error="timeout") for n in range(2_000))))
    assert (fall.failures, len(fall.failed), fall.failed[-1].page) == (2_000, MOST_FAILED, 0)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_words_stay_short_and_in_their_line(text):
    said = text.encode(errors="replace").decode()
    facts = {"gen_ai.usage.input_tokens": said, "despina.cost_usd": said, said: said, "gen_ai.tool.name": said}
    span = TraceSpan.model_validate({
        "id": said, "parent": said, "name": said, "error": said, "attributes": facts,
        "inputs": json.dumps({said: said}), "outputs": said,
    })  # fmt: skip
    trace = a_trace(spans=(span, span), problem=said, version=said, module=said, cost_usd=said)
    fall, found = bars(trace, {said: (span,)})
    for bar in found:
        for word in (bar.name, bar.error, bar.tokens, bar.cost, *fall.failed[0].text.splitlines()):
            assert len(word) <= 165
            assert word.isprintable()
        for piece in bar.words:
            assert len(piece.label) < 70
            assert all(letter.isprintable() or letter in "\n\t" for letter in piece.label + piece.text)
    line = line_of(trace)
    assert all(len(str(word)) <= 120 for word in line)
    assert len(repr(fall)) < 200_000


def test_the_words_of_a_page_are_cut_and_those_of_one_span_are_whole():
    long = json.dumps({"question": "x" * 200_000})
    trace = a_trace(spans=tuple(a_span(n, None, inputs=long, outputs=long) for n in range(400)))
    fall, _ = bars(trace)
    assert fall.is_short
    assert len(repr(fall)) < 2**20
    fall, (bar,) = bars(trace, only=7)
    assert not fall.is_short
    assert [len(piece.text) for piece in bar.words] == [200_000, 200_000]


READABLE = {
    "lines stay": ("a\n\tb", "a\n\tb"),
    "what turns text around is written out": ("a\u202eb\u2066", "a\\u202eb\\u2066"),
    "so is what a terminal obeys": ("\x1b[31m\r\x00", "\\u001b[31m\\u000d\\u0000"),
    "and half a letter": ("\ud800", "\\ud800"),
    "spaces are spaces": ("a\u00a0b", "a b"),
    "other scripts stay": ("שלום 你好", "שלום 你好"),
}


@pytest.mark.parametrize(("text", "shown"), READABLE.values(), ids=READABLE)
def test_what_was_written_is_readable(text, shown):
    assert readable(text) == shown


PIECES = {
    "nothing": ("", []),
    "fields": ('{"a": "x\\ny", "b": [1]}', [("N: a", "x\ny"), ("N: b", "[\n 1\n]")]),
    "messages": ('[{"role": "user", "content": "hi"}]', [("N: user", "hi")]),
    "something else": ('["a"]', [("N", '[\n "a"\n]')]),
    "an empty object": ("{}", [("N", "{}")]),
    "no JSON": ("<b>", [("N", "<b>")]),
    "nested without end": ("[" * 3000, [("N", "[" * 3000)]),
    "a number without end": ("9" * 4000, [("N", "9" * 4000)]),
    "roles that are none": ('[{"role": [], "content": {}}]', [("N: []", "{}")]),
}


@pytest.mark.parametrize(("document", "found"), PIECES.values(), ids=PIECES)
def test_values_are_read_field_by_field(document, found):
    found_now = [(piece.label, piece.text) for piece in pieces("N", document, Budget.of_page())]
    if document == "9" * 4000:
        found_now = [(label, text.strip()) for label, text in found_now]
    assert found_now == found


NUMBERS = {
    "tokens": (count("412"), "412"),
    "no tokens": (count("-1"), words.NOTHING),
    "more digits than a number has": (count("9" * 40), words.NOTHING),
    "digits of another script": (count("٣"), words.NOTHING),
    "money": (money("0.5"), "$0.50"),
    "no price": (money(""), ""),
    "no money": (money("free"), words.NOTHING),
    "no sum": (money("nan"), words.NOTHING),
    "a moment": (when(NOW), "21 Sep 14:13:20 UTC"),
    "no moment": (when(2.0**53), words.NOTHING),
    "never": (when(0.0), words.NOTHING),
    "short": (took(0.00042), "0.42 ms"),
    "long": (took(12.345), "12.35 s"),
    "before": (took(-0.02), "-20 ms"),
    "no time": (took(math.nan), words.NOTHING),
    "for ever": (took(2.0**53), words.NOTHING),
}


@pytest.mark.parametrize(("found", "text"), NUMBERS.values(), ids=NUMBERS)
def test_figures_of_spans(found, text):
    assert found == text


def test_a_line_of_the_list_names_nothing_that_can_be_labelled():
    line = line_of(TraceSummary(id=a_name(7), status=502, problem="upstream", why="marked", at=NOW, seconds=1.5))
    assert line.name == a_name(7).rpartition("-")[0]
    assert (line.outcome, line.level, line.is_marked, line.took) == ("502 upstream", "bad", True, "1.50 s")


def test_tools_are_those_that_were_called_each_once():
    called = [
        a_span(n, 0, attributes={"gen_ai.tool.name": name}) for n, name in enumerate(("a/b", "a/b", "x", "c/d/e"))
    ]
    assert tools_in(a_trace(spans=tuple(called))) == [("a", "b")]
