"""The snapshot that every decision is made from. Everything in it was read; nothing was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from despina.api.conditions import Reason
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.runs import OptimizationRun
from despina.api.status import Memory, ProgramStatus
from despina.desired.toolbox import ToolView
from despina.wire import EvaluationResult, Failure, HeldRevision, ModelRef, OptimizationResult, PodState, RuntimeConfig
from despina.wire.logs import LogFormat


def _split(key: Any) -> Any:
    return tuple(key.split("/", 1)) if isinstance(key, str) else key


ObjectKey = Annotated[tuple[str, str], BeforeValidator(_split), PlainSerializer("/".join)]
"""Kind and name; the namespace is the program's. In a file it is KIND/NAME, for JSON has no other keys than strings."""


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from being made or ready, as the API server knows it."""

    reason: str
    message: str


@dataclass(frozen=True)
class PodView:
    """One pod of the program."""

    name: str
    revision: str
    ready: bool = False
    ending: bool = False
    ip: str | None = None
    failure: Failure | None = None
    failures: int = 0
    """How often its container has given up."""
    trouble: Trouble | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    """The last order of each kind that this operator process gave it, with its subject."""
    report: PodState | None = None
    """What it said of itself a moment ago, where somebody listens."""
    was_heard: bool = False
    """Whether it had said something when this operator process last stopped listening to it."""
    refusal: str = ""
    """Why it took no order the last time; empty when it took one, or was given none."""
    read_keys: tuple[str, ...] = field(default=(), repr=False)
    """One of them, at least, lets it show what it says of itself."""

    def held(self, revision: str) -> HeldRevision | None:
        """What it said of a revision that it holds, or could not take in."""
        return self.report.held.get(revision) if self.report else None

    def has_been_told(self, order: str, subject: str = "") -> bool:
        """Whether an order need not be given again for now."""
        return self.told.get(kind_of(order)) == f"{order} {subject}"


def kind_of(order: str) -> str:
    """Orders of one kind take each other back."""
    return {"Activate": "Retire", "CloseBreaker": "OpenBreaker"}.get(order, order)


@dataclass(frozen=True)
class Loading:
    """A revision that was loaded into the processes of a Deployment, after the one they started with."""

    revision: str
    version: str
    config: RuntimeConfig
    at: float
    """When callers were sent there, in seconds since the epoch."""
    previous: RuntimeConfig | None = None
    """What served there before; its pods keep it for a while."""
    memory: Memory | None = None
    """The copy that went with that write."""


@dataclass(frozen=True)
class DeploymentView:
    """One Deployment of the program."""

    name: str
    revision: str
    """The label of its pods: the revision that they were made for."""
    version: str
    """The model version that it serves."""
    replicas: int = 0
    """What its scale asks for."""
    activated_at: float | None = None
    """When callers were first sent there, in seconds since the epoch; None if never."""
    retired_at: float | None = None
    """When callers were last sent elsewhere."""
    shape: Mapping[str, str] | None = None
    """What its pods were made for, part by part; None if nobody noted it."""
    config: RuntimeConfig | None = None
    """What its pods were made to run."""
    loading: Loading | None = None
    """What they run instead by now."""
    restarts: tuple[float, ...] = ()
    """When its pods were restarted because of the breaker."""
    restarted_by: str = ""
    """The last value of the restart annotation that was acted on."""
    size: int | None = None
    """How many pods it had when the operator scaled it to 0, where an autoscaler had set that."""
    trouble: Trouble | None = None
    """What keeps pods of it from being made at all."""

    @property
    def is_retired(self) -> bool:
        """Whether callers were sent elsewhere and have not come back since."""
        return self.retired_at is not None and self.retired_at >= (self.activated_at or 0)

    @property
    def serves(self) -> str:
        """The revision that its pods serve."""
        return self.loading.revision if self.loading else self.revision

    @property
    def configs(self) -> list[RuntimeConfig]:
        """All that its pods may hold."""
        loading = self.loading
        return [c for c in (self.config, loading and loading.config, loading and loading.previous) if c]

    @property
    def model(self) -> ModelRef | None:
        """The model version that its pods serve, as their configuration names it."""
        config = self.loading.config if self.loading else self.config
        return config.model if config else None


@dataclass(frozen=True)
class JobView:
    """The Job of an Evaluate gate."""

    name: str
    ended: bool = False
    result: EvaluationResult | None = None
    ip: str | None = None
    """Where its pod tells how far it is."""
    progress: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class OptimizationJobView:
    """The Job of an optimisation."""

    name: str
    run: OptimizationRun
    """As it was noted on the Job when it was made."""
    ended: bool = False
    result: OptimizationResult | None = None
    finished_at: float | None = None
    """When it had ended, in seconds since the epoch."""
    ip: str | None = None
    """Where its pod tells how far it is."""
    progress: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Vote:
    """What somebody said of one prediction."""

    at: float
    """When, in seconds since the epoch."""
    is_failure: bool


@dataclass(frozen=True)
class LabelsView:
    """What MLflow had of labels a minute ago, at most."""

    votes: tuple[Vote, ...] = ()
    """One a prediction, the latest last."""
    problem: str = ""
    """Why they could not be read; they are as they were before."""


@dataclass(frozen=True)
class Resolution:
    """What the registry said about the program's model."""

    version: str | None
    reason: Reason
    message: str = ""
    server: str = ""
    """The server that was asked, in its one spelling."""
    created: Mapping[str, int] = field(default_factory=dict)
    """When versions were made, in milliseconds since the epoch: of those that were asked for (the alias's, the pinned
    one, `rollout.rollbackTo`, modules' own) the ones whose registry tells. A number may be another version tomorrow."""

    @property
    def is_unknown(self) -> bool:
        """Whether the registry gave no answer, as opposed to a negative one."""
        return self.reason in (
            Reason.REGISTRY_UNREACHABLE,
            Reason.REGISTRY_DENIED,
            Reason.NOT_ASKED_YET,
            Reason.SECRET_NOT_FOUND,
        )


@dataclass(frozen=True)
class Defaults:
    """What the operator's configuration adds to a program's spec."""

    runtime_image: str
    tracking_uri: str | None = None
    profiles: Mapping[str, PlacementProfile] = field(default_factory=dict)
    order_keys: tuple[str, ...] = ()
    """The public halves of the operator's keys, the current one first."""
    cluster_domain: str = "cluster.local"
    log_format: LogFormat = "text"


@dataclass(frozen=True)
class Observed:
    """Everything about one program at one moment."""

    program: Program
    status: ProgramStatus
    defaults: Defaults
    model: Resolution
    deployments: tuple[DeploymentView, ...] = ()
    pods: tuple[PodView, ...] = ()
    active: str | None = None
    """The pods that the active Service selects, by their label."""
    preview_ready: Mapping[str, int] = field(default_factory=dict)
    """Ready endpoints of the preview Service, by revision."""
    objects: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict)
    """The live ServiceAccount, Services, budget and autoscalers that are the program's own."""
    configs: Mapping[str, RuntimeConfig] = field(default_factory=dict)
    """What revisions' pods were made to run, by the name of Deployment and ConfigMap."""
    interfaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What revisions take and give, as their pods say."""
    jobs: tuple[JobView, ...] = ()
    """Evaluations."""
    optimizations: tuple[OptimizationJobView, ...] = ()
    labels: LabelsView | None = None
    """None where nothing depends on them, or they were not asked for yet."""
    mark_trouble: str = ""
    """Why an alias could not be moved, or a version tagged, the last time."""
    tools: tuple[ToolView, ...] = ()
    """The tools of all revisions that are still around."""
    redis_seal: str = field(default="", repr=False)
    """The keys of what the program's pods write into a Redis, one a line; empty where none uses one."""
    read_key: str = field(default="", repr=False)
    """By which new pods know who may read what they say of themselves."""
    ask_key: str = ""
    """And by which they know who may ask them by hand."""

    def deployment(self, base: str | None) -> DeploymentView | None:
        """The Deployment whose pods carry this label."""
        return next((d for d in self.deployments if d.revision == base), None)

    @property
    def serving(self) -> str | None:
        """The revision that callers reach."""
        view = self.deployment(self.active)
        return view.serves if view else self.active

    def pods_of(self, base: str | None) -> tuple[PodView, ...]:
        """The pods with this label that are not ending."""
        return tuple(p for p in self.pods if p.revision == base and not p.ending)

    def ready_pods(self, base: str | None) -> tuple[PodView, ...]:
        """Those that are ready."""
        return tuple(p for p in self.pods_of(base) if p.ready)

    def ready(self, base: str | None) -> int:
        """How many pods with this label are ready."""
        return len(self.ready_pods(base))
