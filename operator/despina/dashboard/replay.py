"""A trace's answer beside that of another version to the same inputs (pure)."""

from __future__ import annotations

from typing import NamedTuple

from despina.dashboard import words
from despina.dashboard.answers import Shown, cost, outputs_of, read, shown_answer
from despina.dashboard.quoted import Piece, Pieces, compared
from despina.wire import Answered, Trace
from despina.wire.predictions import unsigned

ABSENT: Pieces = (Piece(words.NOTHING),)
MODULE = "This trace is of one module alone, which no version can be asked for by hand."
NO_INPUTS = (
    "This trace holds no inputs: spec.feedback.payloads says what is kept of them, and what is very long is not."
)


class Recorded(NamedTuple):
    """What a trace holds of its request."""

    id: str
    """Its name, without what lets its bearer label it."""
    version: str
    status: int
    inputs: str
    """As JSON."""
    outputs: dict[str, str]
    """As people read them."""
    figures: dict[str, str]
    is_redacted: bool
    problem: str = ""
    """Why it cannot be asked again; empty where it can."""


class Line(NamedTuple):
    """One thing of both answers."""

    name: str
    before: Pieces
    after: Pieces
    differs: bool


class Beside(NamedTuple):
    """Both answers."""

    lines: list[Line]
    figures: list[tuple[str, str, str]]
    answer: Shown
    """The second one."""

    @property
    def differing(self) -> int:
        """How many outputs differ."""
        return sum(line.differs for line in self.lines)


def recorded_of(trace: Trace) -> Recorded:
    """What there is to ask again."""
    root = trace.spans[0] if trace.spans else None
    inputs, outputs = (root.inputs, root.outputs) if root else ("", "")
    is_whole = isinstance(read(inputs), dict)
    problem = MODULE if trace.module else "" if is_whole else NO_INPUTS
    spent = (trace.input_tokens, trace.output_tokens, trace.cost_usd)
    figures = _figures(trace.status, trace.version, trace.seconds, *spent)
    found = outputs_of(read(outputs)) if outputs else {}
    version = words.shown(trace.version, 20)
    return Recorded(unsigned(trace.id), version, trace.status, inputs, found, figures, trace.is_redacted, problem)


def beside(recorded: Recorded, answered: Answered) -> Beside:
    """Both answers, output by output, with what differs marked."""
    new = outputs_of(read(answered.said)) if answered.status == 200 else {}
    lines = [
        _line(name, recorded.outputs.get(name), new.get(name)) for name in dict.fromkeys((*recorded.outputs, *new))
    ]
    spent = answered.input_tokens, answered.output_tokens, answered.cost_usd
    figures = _figures(answered.status, answered.version, answered.seconds, *spent)
    pairs = [(name, recorded.figures[name], said) for name, said in figures.items()]
    return Beside(lines, pairs, shown_answer(answered))


def _line(name: str, before: str | None, after: str | None) -> Line:
    if before is None or after is None:
        return Line(name, (Piece(before),) if before else ABSENT, (Piece(after),) if after else ABSENT, True)
    return Line(name, *compared(before, after), before != after)


def _figures(status: int, version: str, seconds: float, given: int, made: int, spent: str) -> dict[str, str]:
    return {
        "Version": f"v{words.shown(version, 20)}" if version else words.NOTHING,
        "Status": str(status),
        "Took": words.seconds(seconds),
        "Tokens in": words.number(given),
        "Tokens out": words.number(made),
        "Cost": cost(spent),
    }
