"""What walks the corridor: a call goes in, an answer comes out or a Problem is raised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from despina_runtime.lm.meter import Meter
from despina_runtime.messages import Receive

Emit = Callable[[str, dict[str, str]], Awaitable[None]]
"""Told what happens while an answer is made: an event's name and data, `delta` {field, text} or `status` {message}."""

Traced = tuple[Any, Mapping[str, Any], Any]
"""A predictor, its inputs and its prediction, as DSPy traces them."""


class Call:
    """One request. Its defaults stand on the class, so that a cached answer pays for three assignments."""

    lm: str | None
    temperature: float | None = None
    may_ask_others = True
    """False for a request that is itself another program's fallback: two programs must not pass it to and fro."""
    trace: tuple[tuple[str, str], ...] = ()
    """Headers of the caller's trace."""
    is_traced = False
    """Whether the caller keeps its trace, or wants it kept here."""
    emit: Emit | None = None
    """Set when the caller wants the answer as it grows."""
    refusal = ""
    """Why no NonIdempotent tool may be executed for it; empty for a caller's request."""
    inputs: Mapping[str, Any] = MappingProxyType({})
    """The body as the program's inputs, once it was parsed."""
    receive: Receive | None = None
    """Where the caller's leaving is heard of; None where somebody else listens, or nobody can leave."""
    origin: str | None = None
    """Where it failed, the name by which that was recorded."""
    steps: list[Traced] | None = None
    """Where predictors leave what they were given and gave; None where nobody records."""
    _meter: Meter | None = None

    def __init__(self, body: bytes, deadline: float, lm: str | None = None) -> None:
        self.body = body
        self.deadline = deadline
        """The event loop's time at which it must have been answered."""
        self.lm = lm

    @property
    def meter(self) -> Meter:
        """The request's account; one that is answered at once never needs it."""
        if self._meter is None:
            self._meter = Meter(self.deadline, trace=self.trace)
        return self._meter


@dataclass(slots=True)
class Answer:
    """The outputs as JSON, and where they came from."""

    body: bytes
    tier: str | None = None
    """The cache's tier; None for an answer that was made."""
    key: str | None = None
    """The name it is cached under."""
    degraded: str | None = None
    """Why this is not the program's own answer."""
    headers: list[tuple[bytes, bytes]] | None = None
    """What this answer's headers were, where it is given again."""
    collapsed: bool = False
    """Whether another request at the same time had it made."""
    origin: str | None = None
    """The name of the prediction that it is, where predictions are recorded."""


class Rejected(Exception):
    """What the program gave does not fit its signature, by output field."""

    def __init__(self, fields: Mapping[str, str], kind: str = "unfit") -> None:
        super().__init__("; ".join(fields.values()))
        self.fields = fields
        self.kind = kind


class Step(Protocol):
    """One door of the corridor; it holds the next."""

    async def __call__(self, call: Call) -> Answer:
        """The answer, or a Problem."""
        ...
