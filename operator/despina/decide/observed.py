"""The snapshot that every decision is made from. Everything in it was read; nothing was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from despina.api.conditions import Reason
from despina.api.placement import PlacementProfile
from despina.api.program import Program, ProgramStatus
from despina.wire import Failure

ObjectKey = tuple[str, str]
"""Kind and name; the namespace is the program's."""


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from being ready, as the API server knows it."""

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
    trouble: Trouble | None = None
    told: Literal["Retire", "Activate"] | None = None
    """The last order that this operator process gave it."""
    forgot: str | None = None
    """The subject of the last `Invalidate` that this operator process gave it."""


@dataclass(frozen=True)
class DeploymentView:
    """One revision's Deployment."""

    name: str
    revision: str
    version: str
    replicas: int = 0
    """What its scale asks for."""
    activated_at: float | None = None
    """When callers were first sent there, in seconds since the epoch; None if never."""
    retired_at: float | None = None
    """When callers were last sent elsewhere."""

    @property
    def is_retired(self) -> bool:
        """Whether callers were sent elsewhere and have not come back since."""
        return self.retired_at is not None and self.retired_at >= (self.activated_at or 0)


@dataclass(frozen=True)
class Resolution:
    """What the registry said about the program's model."""

    version: str | None
    reason: Reason
    message: str = ""

    @property
    def is_unknown(self) -> bool:
        """Whether the registry gave no answer, as opposed to a negative one."""
        return self.reason in (Reason.REGISTRY_UNREACHABLE, Reason.REGISTRY_DENIED, Reason.NOT_ASKED_YET)


@dataclass(frozen=True)
class Defaults:
    """What the operator's configuration adds to a program's spec."""

    runtime_image: str
    tracking_uri: str | None = None
    profiles: Mapping[str, PlacementProfile] = field(default_factory=dict)
    order_key: str | None = None
    cluster_domain: str = "cluster.local"


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
    """The revision that the active Service selects."""
    preview_ready: Mapping[str, int] = field(default_factory=dict)
    """Ready endpoints of the preview Service, by revision."""
    objects: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict)
    """The live ServiceAccount, Services, budget and autoscalers that are the program's own."""

    def deployment(self, revision: str | None) -> DeploymentView | None:
        """The Deployment of a revision, if there is one."""
        return next((d for d in self.deployments if d.revision == revision), None)

    def pods_of(self, revision: str | None) -> tuple[PodView, ...]:
        """The pods of a revision that are not ending."""
        return tuple(p for p in self.pods if p.revision == revision and not p.ending)

    def ready(self, revision: str | None) -> int:
        """How many pods of a revision are ready."""
        return sum(p.ready for p in self.pods_of(revision))
