"""What pods are told while they run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from despina.wire.base import Document
from despina.wire.config import RuntimeConfig

TrialTools = Literal["Refuse", "Execute"]
"""What becomes of NonIdempotent tools while a gate tries a version; the others are executed."""


class ShadowConfig(Document):
    """Which of the live requests are asked of a candidate too, and where it is."""

    revision: str
    percent: int
    tools: TrialTools = "Refuse"
    url: str | None = None
    """The candidate's address; None when this pod holds it."""


OrderName = Literal[
    "Retire", "Activate", "Invalidate", "Prepare", "Commit", "Release", "Try", "Shadow", "OpenBreaker", "CloseBreaker"
]


class Order(Document):
    """A signed instruction to one pod. Each says what shall be so, and may be given twice.

    `Retire`: answer on, each time with `Connection: close`, so that kept-alive callers reconnect to the
    new version. `Activate` takes that back. `Invalidate` empties the caches; `subject` is any word that changes from
    one time to the next, or `key:KEY` or `revision:REVISION` to drop only those answers.

    `Prepare` loads the revision of `config` beside the one that serves; `Commit` lets the held revision `subject`
    serve; `Release` frees it. `Try` asks a revision (`subject`: `REVISION:NAME`) for an answer to `inputs`, with tools
    as `tools` says; `Shadow` has it asked a part of the live requests, or ends that when `shadow` is left out.
    `OpenBreaker` and `CloseBreaker` make the program's breaker as the other pods' is.

    `pod` must be the receiver's name, `boot` its present life, and (`term`, `number`) later than those of the last
    order, so that an order can be replayed neither later nor elsewhere. No clock is asked: what comes next, the pod
    says (`OrdersReport`).
    """

    order: OrderName
    subject: str = Field(default="", max_length=253)
    config: RuntimeConfig | None = None
    inputs: dict[str, Any] | None = None
    tools: TrialTools = "Refuse"
    shadow: ShadowConfig | None = None
    namespace: str
    pod: str
    boot: str
    term: int = 0
    number: int
