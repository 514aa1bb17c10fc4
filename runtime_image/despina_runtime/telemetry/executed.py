"""One executed request as plain data, handed over at its end.

A worker writes it down as two JSON lists, a *record*: what was counted, and, behind `WORDS`, what callers wrote and
were told. Most records are never read: neither to hide something in them, nor to be delivered.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

WORDS, END = b"\x1f", b"\x1e"
"""Between a record's two lists, and between two records: no JSON holds these bytes."""
NO_WORDS = b"[null,null,[],true]"
"""In the place of words that are not kept."""


class Span(NamedTuple):
    """A part of it: a module's call, or one attempt at an LM."""

    kind: str
    """`module` or `lm`."""
    name: str
    """The module's path, or the LM's name."""
    start: float
    """Seconds after the request's start; of a module's call, those of the request's LM calls say more."""
    seconds: float
    facts: dict[str, Any]
    """inputs and outputs of a module; model, module, input_tokens, output_tokens, cost_usd, error of an LM."""


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


Step = tuple[str, Any, Any]
"""A predictor's path, its inputs and its outputs, as a record holds them."""


def origin_of(record: bytes) -> str:
    """Whose record it is. Raises ValueError."""
    if not record.startswith(b'["'):
        raise ValueError("no record")
    return record[2 : record.index(b'"', 2)].decode()


def read_executed(record: bytes) -> Executed:
    """All of a record. Raises ValueError or TypeError for what is none."""
    head, _, words = record.partition(WORDS)
    *counted, attempts = from_json(head)
    inputs, outputs, steps, *is_redacted = from_json(words)
    attempts = [Attempt(*attempt) for attempt in attempts]
    spans = [*_modules(steps, attempts), *map(_attempt, attempts)]
    return Executed(*[*counted, inputs, outputs, spans, *is_redacted])


def _modules(steps: Sequence[Step], attempts: Sequence[Attempt]) -> Iterator[Span]:
    """Predictors in the order in which they ended. When one ran is known by the LM's answers to it, in their order;
    where a cache had the answer, it took no time."""
    answers: dict[str, deque[Attempt]] = defaultdict(deque)
    for attempt in attempts:
        if not attempt.error:
            answers[attempt.module].append(attempt)
    last = 0.0
    for path, inputs, outputs in steps:
        answer = answers[path].popleft() if answers[path] else None
        start, seconds = (answer.start, answer.seconds) if answer else (last, 0.0)
        last = start + seconds
        yield Span("module", path, start, seconds, {"inputs": inputs, "outputs": outputs})


def _attempt(a: Attempt) -> Span:
    facts = {"model": a.model, "module": a.module, "input_tokens": a.tokens[0], "output_tokens": a.tokens[1]}
    return Span("lm", a.lm, a.start, a.seconds, facts | {"cost_usd": a.cost_usd, "error": a.error})
