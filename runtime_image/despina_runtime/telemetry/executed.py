"""One executed request as plain data, handed over at its end.

A worker writes it down as two JSON lists, a *record*: what was counted, and, behind `WORDS`, what callers wrote and
were told. Most records are never read: neither to hide something in them, nor to be delivered.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from despina_runtime.paths import ways

WORDS, END = b"\x1f", b"\x1e"
"""Between a record's two lists, and between two records: no JSON holds these bytes."""
NO_WORDS = b"[null,null,[],true]"
"""In the place of words that are not kept."""


class Span(NamedTuple):
    """A part of it: a module's call, or one attempt at an LM or at a tool."""

    kind: str
    """`module`, `lm` or `tool`."""
    name: str
    """The module's path, empty for the program itself; the LM's name, or the tool's."""
    start: float
    """Seconds after the request's start; a module's call is as long as what it called."""
    seconds: float
    facts: dict[str, Any]
    """inputs and outputs of a module; model, module, input_tokens, output_tokens, cost_usd, error of an LM; backend,
    fate and span_id of a tool."""
    parent: int = -1
    """Which of the request's spans called it; -1 for the request itself."""


class Executed(NamedTuple):
    """What one request was, and what came of it."""

    origin: str
    """Its name without a MAC; see `prediction.py`."""
    at: float
    """Seconds since the epoch at its start."""
    seconds: float
    revision: str
    version: str
    path: str
    """The module that was asked for by itself; empty for the program."""
    status: int
    problem: str
    """Why there are no outputs, as the problem document's type says; empty if there are."""
    lm: str
    input_tokens: int
    output_tokens: int
    cost_usd: str
    """In decimal digits; empty where no price is known."""
    traceparent: str
    inputs: Any
    outputs: Any
    spans: list[Any]
    """Each as `Span`."""
    is_redacted: bool = False
    """Whether something of the callers' words was left out."""
    waited: float = 0.0
    """Seconds before its start that it spent in the pod: while the cache was asked, and in the queue."""
    trace_id: str = ""
    """Of the trace that it is a part of, with its caller and whomever it called; empty where none is known."""
    span_id: str = ""
    tier: str = ""
    """Of the cache, for an answer that was given again; empty for one that was made."""
    why: str = ""
    """Why its trace is kept, as `keeping.Why`."""


class Attempt(NamedTuple):
    """One attempt at an LM, as a record holds it."""

    lm: str
    model: str
    module: str
    start: float
    seconds: float
    tokens: Sequence[int]
    cost_usd: str
    error: str
    within: int = -1
    """Which of the record's calls of modules made it."""


class ToolAttempt(NamedTuple):
    """One attempt at a backend of a tool, as a record holds it."""

    tool: str
    backend: str
    fate: str
    """How it ended, as `routing.Fate`."""
    span_id: str
    """What the backend was told that it was called by."""
    start: float
    seconds: float
    within: int = -1


class ModuleCall(NamedTuple):
    """A module's call within which something was asked, as a record holds it; callers stand before those they call."""

    path: str
    within: int


Step = tuple[str, Any, Any]
"""A predictor's path, its inputs and its outputs, as a record holds them."""


def origin_of(record: bytes) -> str:
    """Whose record it is. Raises ValueError."""
    if not record.startswith(b'["'):
        raise ValueError("no record")
    return record[2 : record.index(b'"', 2)].decode()


def is_kept(record: bytes) -> bool:
    """Whether a record is one whose trace is kept; it is not read for that."""
    head = record.partition(WORDS)[0]
    return head.endswith(b'"]') and not head.endswith(b',""]')


def read_executed(record: bytes) -> Executed:
    """All of a record. Raises ValueError or TypeError for what is none."""
    head, _, words = record.partition(WORDS)
    found = from_json(head)
    counted, attempts, more = found[:COUNTED], found[COUNTED], found[COUNTED + 1 :]
    waited, trace_id, span_id, tier, calls, tools, why = more or NO_MORE
    inputs, outputs, steps, *is_redacted = from_json(words)
    attempts = [Attempt(*attempt) for attempt in attempts]
    tools = [ToolAttempt(*tool) for tool in tools]
    calls = [ModuleCall(*call) for call in calls]
    spans = [*_modules(steps, calls, [*attempts, *tools]), *map(_attempt, attempts), *map(_tool, tools)]
    is_less = bool(is_redacted and is_redacted[0])
    known: Any = (*counted, inputs, outputs, spans, is_less, waited, trace_id, span_id, tier, why)
    return Executed(*known)


Part = Attempt | ToolAttempt
Time = tuple[float, float]
"""From when until when, in seconds after the request's start."""
COUNTED = 13
LONGEST_PATH = 1024
"""Characters by which a caller is looked for: whoever runs a model's code may say longer ones."""
NO_MORE = 0.0, "", "", "", (), (), ""


def _modules(steps: Sequence[Step], calls: Sequence[ModuleCall], parts: Sequence[Part]) -> Iterator[Span]:
    """Calls of modules, and then predictors of which no call is known, each in the order in which they ended: what they
    were given and gave stands in the steps, in that order, too."""
    said: dict[str, deque[Step]] = defaultdict(deque)
    for step in steps:
        said[step[0]].append(step)
    for call, (start, end) in zip(calls, _times(calls, parts), strict=True):
        step = said[call.path].popleft() if said[call.path] else (call.path, None, None)
        yield _module(step, start, end - start, call.within)
    if left := {id(step) for uncalled in said.values() for step in uncalled}:
        rest = [step for step in steps if id(step) in left]
        yield from _uncalled(rest, calls, [one for one in parts if isinstance(one, Attempt)])


def _times(calls: Sequence[ModuleCall], parts: Sequence[Part]) -> list[Time]:
    """When each call ran: while what it called did."""
    found: list[Time | None] = [None] * len(calls)
    for part in parts:
        if 0 <= part.within < len(calls):
            found[part.within] = _both(found[part.within], (part.start, part.start + part.seconds))
    for number in reversed(range(len(calls))):
        time, caller = found[number], calls[number].within
        if caller >= number:
            raise ValueError("a module was called before its caller")
        if time and caller >= 0:
            found[caller] = _both(found[caller], time)
    return [time or (0.0, 0.0) for time in found]


def _both(one: Time | None, other: Time) -> Time:
    """From the first moment of both to the last."""
    return (min(one[0], other[0]), max(one[1], other[1])) if one else other


def _uncalled(steps: Sequence[Step], calls: Sequence[ModuleCall], attempts: Sequence[Attempt]) -> Iterator[Span]:
    """Predictors that asked nobody, since a cache had the answer, and took no time; or of which only the LM's answers
    are known, in their order."""
    answers: dict[str, deque[Attempt]] = defaultdict(deque)
    for attempt in attempts:
        if not attempt.error and attempt.within < 0:
            answers[attempt.module].append(attempt)
    last, owners = 0.0, {call.path: n for n, call in enumerate(calls)}
    for step in steps:
        answer = answers[step[0]].popleft() if answers[step[0]] else None
        start, seconds = (answer.start, answer.seconds) if answer else (last, 0.0)
        last = start + seconds
        yield _module(step, start, seconds, _owner(step[0], owners))


def _owner(path: str, owners: Mapping[str, int]) -> int:
    """The last call of the innermost module that a path lies in."""
    around = (owners[way] for way in reversed(ways(path[:LONGEST_PATH])) if way in owners)
    return next(around, owners.get("", -1))


def _module(step: Step, start: float, seconds: float, within: int) -> Span:
    path, inputs, outputs = step
    return Span("module", path, start, seconds, {"inputs": inputs, "outputs": outputs}, within)


def _attempt(a: Attempt) -> Span:
    facts = {"model": a.model, "module": a.module, "input_tokens": a.tokens[0], "output_tokens": a.tokens[1]}
    return Span("lm", a.lm, a.start, a.seconds, facts | {"cost_usd": a.cost_usd, "error": a.error}, a.within)


def _tool(t: ToolAttempt) -> Span:
    facts = {"backend": t.backend, "fate": t.fate, "span_id": t.span_id}
    return Span("tool", t.tool, t.start, t.seconds, facts, t.within)
