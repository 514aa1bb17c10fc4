"""What shall be done, and why: the output of every decision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from despina.api.revision import Revision
from despina.api.runs import OptimizationStatus
from despina.api.status import BreakerStatus, GateStatus, Memory, Quarantined
from despina.decide.observed import ObjectKey, PodView
from despina.wire import OrderName, RuntimeConfig, ShadowConfig, TrialTools


@dataclass(frozen=True)
class Create:
    """Make an object that is never changed afterwards."""

    document: dict[str, Any]


@dataclass(frozen=True)
class Apply:
    """Server-side apply."""

    document: dict[str, Any]
    memory: Memory | None = None
    """What is on record with this write, and must be in the status, too, once it is made."""


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
    memory: Memory | None = None
    """What must be in the status once it is made."""


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
    tools: TrialTools = "Refuse"
    shadow: ShadowConfig | None = None


@dataclass(frozen=True)
class MoveAlias:
    """Have the program's alias mean another version, in MLflow, if it still means `base` and was never moved there by
    us before. It may be lost: where the alias is shows whether it must be given again."""

    version: str
    base: str


@dataclass(frozen=True)
class Tag:
    """Write on a model version what became of it, in MLflow. It may be given again."""

    version: str
    name: str
    value: str


@dataclass(frozen=True)
class Emit:
    """Write an Event on the program, after the status. In a chain it tells of the link before it, and is written only
    if that was carried out."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def each(actions: Iterable[Action]) -> Iterator[Action]:
    """All actions, those in chains among them."""
    for action in actions:
        if isinstance(action, Chain):
            yield from each(action.actions)
        else:
            yield action


StrategyName = Literal["HotSwap", "BlueGreen", "Recreate"]


@dataclass(frozen=True)
class Strategy:
    """How a version comes, and why so."""

    name: StrategyName
    reason: str


@dataclass(frozen=True)
class Chain:
    """Actions that are of use only after those before them: a refusal ends the chain, and nothing else."""

    actions: tuple[Action, ...]


Action = Create | Apply | Scale | Annotate | Restart | Delete | Tell | MoveAlias | Tag | Emit | Chain
Step = Literal["Prepare", "Gate", "AwaitPromotion", "Promote", "Watch", "Refused", "Paused", "Suspended"]


@dataclass(frozen=True)
class Clock:
    """Time that is used up: it stands while a person or the spec holds things up."""

    spent: float = 0.0
    since: float | None = None

    def elapsed(self, now: float) -> float:
        """Seconds used up; a clock that was set back uses up nothing."""
        return self.spent + (max(0.0, now - self.since) if self.since is not None else 0.0)

    def running(self, now: float) -> Clock:
        """The same, going on."""
        return Clock(self.spent, now if self.since is None else min(self.since, now))

    def stopped(self, now: float) -> Clock:
        """The same, standing still."""
        return Clock(self.elapsed(now))


@dataclass(frozen=True)
class Plan:
    """The next step of a program."""

    actions: tuple[Action, ...] = ()
    """What to do before the status is written, callers first."""
    events: tuple[Emit, ...] = ()
    """What to say after it, beside what chains say of their writes."""
    memory: Memory | None = None
    """What must not be forgotten, whatever can be written."""
    target: Revision | None = None
    """Where callers are sent in this pass."""
    asked: Revision | None = None
    """What spec and registry ask for; None when that cannot be known."""
    wanted: Revision | None = None
    """What is worked towards: what is asked for, or, while that is in quarantine, what serves with the present spec."""
    candidate: Revision | None = None
    """The wanted revision, while it is on its way."""
    step: Step | None = None
    strategy: Strategy | None = None
    """How the wanted revision comes; None where it serves already."""
    ends_first: bool = False
    """Whether what serves ends before the candidate begins."""
    gates: tuple[GateStatus, ...] = ()
    """How the candidate did at the gates so far."""
    refusal: str = ""
    """Why it cannot pass them as the manifest is: with step Refused."""
    started_at: float | None = None
    """When the candidate's rollout, or the first start, began."""
    clock: Clock = field(default_factory=Clock)
    """How much of the time to become ready is used up."""
    breaker: BreakerStatus | None = None
    """The program's breaker over all replicas."""
    remark: str = ""
    """What users should know of the version that they reach."""
    optimization: OptimizationStatus | None = None
    """Where optimisations stand."""
    listen: float | None = None
    """Seconds between looks at what the pods report; None: nobody needs to know."""
    quarantined: tuple[Quarantined, ...] = ()
    blocked: Quarantined | None = None
    """Why what is asked for is not tried."""
    stuck: Quarantined | None = None
    """Why what serves is not tried with the present spec, while what is asked for is in quarantine."""
    problem: tuple[str, str] | None = None
    """Reason and message of what is wrong with the spec."""
    again: float | None = None
    """Seconds until the next look, whatever was written; None: when something happens."""
    soon: float | None = None
    """The same, where all was written that was to be: the next step follows from it."""

    @property
    def steps(self) -> tuple[Action, ...]:
        """All actions one by one, and what is said after them."""
        return (*sorted(each(self.actions), key=lambda action: isinstance(action, Emit)), *self.events)


@dataclass(frozen=True)
class Outcome:
    """How far a plan got."""

    error: str | None = None
    """The first refusal of the API server."""
    silence: str | None = None
    """The first write that it did not answer, or put off."""
    recorded: Memory | None = None
    """What is to be on record because of what was written: that callers were sent elsewhere, or pods restarted."""
