"""What shall be done, and why: the output of every decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from despina.api.program import Quarantined
from despina.api.revision import Revision
from despina.decide.observed import ObjectKey, PodView


@dataclass(frozen=True)
class Create:
    """Make an object that is never changed afterwards."""

    document: dict[str, Any]


@dataclass(frozen=True)
class Apply:
    """Server-side apply."""

    document: dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """Set a Deployment's size through its scale subresource."""

    deployment: str
    replicas: int


@dataclass(frozen=True)
class Annotate:
    """Note a moment on a Deployment."""

    deployment: str
    annotations: dict[str, str]


@dataclass(frozen=True)
class Delete:
    """Remove an object, and what belongs to it."""

    key: ObjectKey


@dataclass(frozen=True)
class Tell:
    """Give a pod an order; best effort, for nothing depends on it but comfort and the freshness of caches."""

    pod: PodView
    order: Literal["Retire", "Activate", "Invalidate"]
    subject: str = ""
    """What an `Invalidate` is about."""


@dataclass(frozen=True)
class Emit:
    """Write an Event on the program."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Create | Apply | Scale | Annotate | Delete | Tell | Emit
Step = Literal["Prepare", "AwaitPromotion", "Promote"]


@dataclass(frozen=True)
class Plan:
    """The next step of a program."""

    actions: tuple[Action, ...] = ()
    wanted: Revision | None = None
    """What spec and registry ask for; None when that cannot be known."""
    candidate: Revision | None = None
    """The wanted revision, while it is on its way."""
    step: Step | None = None
    started_at: float | None = None
    """When the candidate's rollout, or the first start, began."""
    quarantined: tuple[Quarantined, ...] = ()
    blocked: Quarantined | None = None
    """Why the wanted revision is not tried."""
    problem: tuple[str, str] | None = None
    """Reason and message of what is wrong with the spec."""
    again: float | None = None
    """Seconds until the next look; None: when something happens."""


@dataclass(frozen=True)
class Outcome:
    """How far a plan got."""

    error: str | None = None
    """The first refusal of the API server; what came after it was not tried."""
