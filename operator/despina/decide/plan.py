"""What shall be done, and why: the output of every decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from despina.api.revision import Revision
from despina.api.status import BreakerStatus, GateStatus, Quarantined
from despina.decide.observed import ObjectKey, PodView
from despina.wire import OrderName, RuntimeConfig, ShadowConfig


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
class Restart:
    """Have a Deployment replace its pods, each after its successor is ready."""

    deployment: str
    at: float
    annotations: dict[str, str]
    """Noted on the Deployment in the same write."""


@dataclass(frozen=True)
class Delete:
    """Remove an object, and what belongs to it."""

    key: ObjectKey


@dataclass(frozen=True)
class Tell:
    """Give a pod an order. It may be lost: the pod's report shows whether it must be given again."""

    pod: PodView
    order: OrderName
    subject: str = ""
    config: RuntimeConfig | None = None
    inputs: Mapping[str, Any] | None = None
    shadow: ShadowConfig | None = None


@dataclass(frozen=True)
class Emit:
    """Write an Event on the program."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


StrategyName = Literal["HotSwap", "BlueGreen", "Recreate"]


@dataclass(frozen=True)
class Strategy:
    """How a version comes, and why so."""

    name: StrategyName
    reason: str


Action = Create | Apply | Scale | Annotate | Restart | Delete | Tell | Emit
Step = Literal["Prepare", "Gate", "AwaitPromotion", "Promote", "Watch", "Paused"]


@dataclass(frozen=True)
class Plan:
    """The next step of a program."""

    actions: tuple[Action, ...] = ()
    wanted: Revision | None = None
    """What spec and registry ask for; None when that cannot be known."""
    candidate: Revision | None = None
    """The wanted revision, while it is on its way."""
    step: Step | None = None
    strategy: Strategy | None = None
    """How the wanted revision comes; None where it serves already."""
    gates: tuple[GateStatus, ...] = ()
    """How the candidate did at the gates so far."""
    started_at: float | None = None
    """When the candidate's rollout, or the first start, began."""
    breaker: BreakerStatus | None = None
    """The program's breaker over all replicas."""
    remark: str = ""
    """What users should know of the version that they reach."""
    writes_status_first: bool = False
    """Whether what was decided must be on record before it is acted on."""
    listen: float | None = None
    """Seconds between looks at what the pods report; None: nobody needs to know."""
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
