"""One executed request as plain data, handed over at its end."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic_core import from_json


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
    """What one request was, and what came of it. As JSON it is a list in this order."""

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


def read_executed(body: bytes) -> Executed:
    """From its JSON; what a later runtime wrote behind is left out."""
    return Executed(*from_json(body)[: len(Executed._fields)])
