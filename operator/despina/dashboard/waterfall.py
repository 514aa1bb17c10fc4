"""A trace as bars under one another: what began when within what, how long it took and what it cost (pure).

Spans are anybody's words: they may name parents that are not there or themselves, lie outside of what they are part of,
or end before they begin. Each stands there once all the same, within its row and within the frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from despina.dashboard import words
from despina.dashboard.written import Budget, Piece, pieces
from despina.wire import Trace, TraceSpan

PAGE_SPANS = 500
"""Of a trace, shown at a time; what is not on the screen of them is not laid out."""
GROUP_SPANS = 50
MOST_HOSTED = 2000
"""Spans of tools' hosts in one trace."""
DEEPEST_SHOWN = 12
MOST_FAILED = 10
"""Failures that are named above the bars."""
NARROWEST = 0.2
"""Percent of the frame: what took no time is seen, too."""
LONGEST_FACT = 200
TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
COST, OPERATION, TOOL = "despina.cost_usd", "gen_ai.operation.name", "gen_ai.tool.name"
SHOWN_ELSEWHERE = {*TOKENS, COST, "error.type", "mlflow.spanType"}
KINDS = {"chat": "LM", "execute_tool": "tool", "invoke_workflow": "program"}


class Placed(NamedTuple):
    """A span in the order in which they are shown."""

    span: TraceSpan
    depth: int
    host: str
    """The tool's pod that tells of it; empty for the program's own."""


class Bar(NamedTuple):
    """A span as it is shown."""

    number: int
    """Its place in the whole trace, from 0 on."""
    depth: int
    kind: str
    name: str
    host: str
    error: str
    start: str
    took: str
    x: str
    width: str
    tokens: str
    cost: str
    facts: list[tuple[str, str]]
    words: list[Piece]


class Link(NamedTuple):
    """Where in the trace something is."""

    number: int
    page: int
    """The number of the first span of its page."""
    text: str


class Waterfall(NamedTuple):
    """One page of a trace."""

    groups: list[list[Bar]]
    total: int
    begins: int
    """The number of the first one."""
    above: list[Link]
    """Within what the first one lies, where that is not on this page."""
    failed: list[Link]
    failures: int
    length: str
    is_short: bool
    """Whether something was left out, since it is long."""


def in_order(trace: Trace, hosted: Mapping[str, Sequence[TraceSpan]]) -> list[Placed]:
    """All spans, each behind what it lies in, and of several there the one that began first. Of tools' hosts only what
    lies in a span of the program's own."""
    own = [(span, "") for span in trace.spans]
    known = {span.id for span, _ in own}
    told = [(span, pod) for pod, spans in hosted.items() for span in spans if span.parent in known]
    spans = [*own, *told[:MOST_HOSTED]]
    by_id = {span.id: number for number, (span, _) in reversed(list(enumerate(spans)))}
    within: dict[int, list[int]] = {}
    for number, (span, _) in enumerate(spans):
        parent = by_id.get(span.parent, -1) if span.parent else -1
        within.setdefault(-1 if parent == number else parent, []).append(number)
    for numbers in within.values():
        numbers.sort(key=lambda number: spans[number][0].at)
    return [Placed(spans[number][0], depth, spans[number][1]) for number, depth in _walk(within, len(spans))]


def _walk(within: Mapping[int, Sequence[int]], count: int) -> Iterator[tuple[int, int]]:
    """Every number once, with its depth: also of those that lie in one another in a circle."""
    seen = bytearray(count)
    for root in (*within.get(-1, ()), *range(count)):
        waiting = [(root, 0)]
        while waiting:
            number, depth = waiting.pop()
            if seen[number]:
                continue
            seen[number] = 1
            yield number, depth
            waiting += [(child, depth + 1) for child in reversed(within.get(number, ()))]


def page_of(placed: Sequence[Placed], begins: int, only: int | None, shows_words: bool) -> Waterfall:
    """A page from this number on, or one span alone, with all of its words as far as they are let."""
    first, most = (begins, PAGE_SPANS) if only is None else (only, 1)
    first = min(max(first, 0), max(len(placed) - 1, 0))
    frame, budget = _frame(placed), Budget.of_page() if only is None else Budget.of_one()
    bars = [
        _bar(first + number, one, frame, budget, shows_words) for number, one in enumerate(placed[first : first + most])
    ]
    failed = [number for number, one in enumerate(placed) if one.span.error]
    return Waterfall(
        groups=[bars[i : i + GROUP_SPANS] for i in range(0, len(bars), GROUP_SPANS)],
        total=len(placed),
        begins=first,
        above=[_link(placed, number) for number in _above(placed, first)],
        failed=[_link(placed, number) for number in failed[:MOST_FAILED]],
        failures=len(failed),
        length=took(frame[1]),
        is_short=budget.is_over,
    )


def _above(placed: Sequence[Placed], first: int) -> list[int]:
    """The spans that the first one of a page lies in, outermost first; of many the last few."""
    found, depth = list[int](), placed[first].depth if placed else 0
    for number in range(first - 1, -1, -1):
        if placed[number].depth < depth:
            found.append(number)
            depth = placed[number].depth
        if not depth or len(found) >= DEEPEST_SHOWN:
            break
    return found[::-1]


def _link(placed: Sequence[Placed], number: int) -> Link:
    span = placed[number].span
    text = f"{words.shown(span.name, 80)}: {words.shown(span.error, 80)}" if span.error else words.shown(span.name, 80)
    return Link(number, number // PAGE_SPANS * PAGE_SPANS, text)


def _frame(placed: Iterable[Placed]) -> tuple[float, float]:
    """When the request began, and how long it was, or what is part of it. Clocks of other pods say nothing of that."""
    own = [one.span for one in placed if not one.host]
    if not own:
        return 0.0, 0.0
    begins = own[0].at
    return begins, max(own[0].seconds, *(span.at + span.seconds - begins for span in own))


def _bar(number: int, one: Placed, frame: tuple[float, float], budget: Budget, shows_words: bool) -> Bar:
    span, facts = one.span, one.span.attributes
    x, width = _within(span.at - frame[0], span.seconds, frame[1])
    return Bar(
        number=number,
        depth=min(one.depth, DEEPEST_SHOWN),
        kind=_kind(one),
        name=words.shown(span.name, 120),
        host=words.shown(one.host, 80),
        error=words.shown(span.error, 80),
        start=took(span.at - frame[0]),
        took=took(span.seconds),
        x=x,
        width=width,
        tokens=" + ".join(count(facts[name]) for name in TOKENS if name in facts),
        cost=money(facts.get(COST, "")),
        facts=[(budget.cut(k, LONGEST_FACT), budget.cut(v, LONGEST_FACT)) for k, v in _facts(one)],
        words=[*pieces("Inputs", span.inputs, budget), *pieces("Outputs", span.outputs, budget)] if shows_words else [],
    )


def _facts(one: Placed) -> list[tuple[str, str]]:
    own = [("span", one.span.id), *([("in pod", one.host)] if one.host else [])]
    return [*own, *((k, v) for k, v in one.span.attributes.items() if k not in SHOWN_ELSEWHERE)]


def _kind(one: Placed) -> str:
    if one.host:
        return "host"
    return "request" if one.span.kind == "server" else KINDS.get(one.span.attributes.get(OPERATION, ""), "module")


def _within(start: float, seconds: float, length: float) -> tuple[str, str]:
    """Where a bar lies and how wide it is, in percent of the frame, and never out of it."""
    if length <= 0:
        return "0", "100"
    x = min(max(100 * start / length, 0.0), 100 - NARROWEST)
    width = min(max(100 * (start + seconds) / length - x, NARROWEST), 100 - x)
    return f"{x:.2f}", f"{width:.2f}"


def took(seconds: float) -> str:
    """A time, as exact as it matters: 0.42 ms, 12 ms, 1.25 s."""
    if not math.isfinite(seconds) or abs(seconds) >= 1e7:
        return words.NOTHING
    size = abs(seconds)
    if size >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if size >= 0.00995 or size == 0 else f"{seconds * 1000:.2f} ms"


def count(text: str) -> str:
    """A number of tokens."""
    return words.number(float(text)) if text.isascii() and text.isdecimal() and len(text) < 16 else words.NOTHING


def money(text: str) -> str:
    """What something cost, in decimal digits; empty where nobody knows."""
    try:
        return words.dollars(float(text)) if text else ""
    except ValueError:
        return words.NOTHING


def tools_in(trace: Trace) -> list[tuple[str, str]]:
    """Namespaces and names of the tools that were called."""
    named = (span.attributes.get(TOOL, "").split("/") for span in trace.spans if span.kind != "server")
    return list(dict.fromkeys((parts[0], parts[1]) for parts in named if len(parts) == 2))
