"""What the operator reports of a DSPyProgram: its status."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from despina.api.base import ApiModel, LongStr, ShortStr, map_list
from despina.api.conditions import Condition


class RevisionStatus(ApiModel):
    """One version as it stands in the cluster."""

    revision: ShortStr
    """The digest of what was asked for."""
    version: ShortStr
    """The model version."""
    deployment: ShortStr
    """The Deployment's name."""
    ready_replicas: int = 0
    """Pods that are Ready."""
    loaded: Annotated[str, StringConstraints(max_length=32)] | None = None
    """How many ready pods hold it, such as 2/3, where it is loaded beside another."""


class Quarantined(ApiModel):
    """A version that failed and is not tried again until the alias returns to it or someone says so."""

    version: ShortStr
    """The model version."""
    revision: ShortStr | None = None
    """Set when the spec, not the version, was at fault: an edit of the spec lifts it."""
    reason: ShortStr
    """Why it failed, in one word."""
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    """Why it failed."""
    at: ShortStr
    """When it failed."""
    retried: ShortStr | None = None
    """The retry annotation that this entry has already had."""


class ModelStatus(ApiModel):
    """What the registry answered."""

    requested: Annotated[str, StringConstraints(max_length=600)] = ""
    """What the spec asks for, as models:/NAME@ALIAS or models:/NAME/VERSION."""
    resolved_version: ShortStr | None = None
    """The version it stands for now."""
    quarantined: Annotated[tuple[Quarantined, ...], Field(max_length=20)] = ()
    """Versions that failed."""


class GateStatus(ApiModel):
    """How a candidate did at one gate."""

    name: ShortStr
    """The gate's name."""
    type: ShortStr
    """Its type."""
    result: Literal["Running", "Passed", "Failed"]
    """How far it is."""
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    """The figures, or what is wrong."""
    started_at: ShortStr
    """When it began."""
    finished_at: ShortStr | None = None
    """When it was decided."""


class RolloutStatus(ApiModel):
    """The change of version under way."""

    id: ShortStr
    """The revision it leads to."""
    strategy: ShortStr
    """How it is done: HotSwap, BlueGreen or Recreate."""
    strategy_reason: Annotated[str, StringConstraints(max_length=1024)] = ""
    """Why this strategy."""
    step: ShortStr
    """Where it stands: Prepare, Gate, AwaitPromotion, Promote, Watch or Paused."""
    gates: Annotated[tuple[GateStatus, ...], Field(max_length=8, json_schema_extra=map_list("name"))] = ()
    """The gates so far."""
    started_at: ShortStr
    """When it began."""


class BreakerStatus(ApiModel):
    """The program's breaker over all replicas."""

    state: Literal["Closed", "Open", "HalfOpen"] = "Closed"
    """Closed: executing. Open: not executing. HalfOpen: probing."""
    class_: ShortStr | None = Field(default=None, alias="class")
    """Whose fault most failures were: Program, Upstream or Timeout."""
    reason: Annotated[str, StringConstraints(max_length=1024)] = ""
    """The figures that opened it, and what is done about it."""
    since: ShortStr | None = None
    """When it last changed."""
    restarts_last_hour: int = 0
    """Restarts that it caused."""


class ToolUseStatus(ApiModel):
    """A tool that the program may call, as it stands."""

    name: ShortStr
    """The name that the program calls it by."""
    state: Literal["Available", "Unavailable", "NotFound", "NotAllowed"]
    """Whether calls can succeed, and why not."""
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    """What to do about it."""


class HistoryEntry(ApiModel):
    """A version that callers reached."""

    revision: ShortStr
    """The digest of what was asked for."""
    version: ShortStr
    """The model version."""
    activated_at: ShortStr
    """When callers were sent there."""
    trigger: ShortStr
    """Why: Alias, Spec or Rollback."""
    outcome: ShortStr
    """Serving, Superseded or RolledBack."""


class ProgramStatus(ApiModel):
    """What the operator observed."""

    observed_generation: int = 0
    """The generation of the spec that this status is about."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=map_list("type"))] = ()
    """Ready, Available, UpToDate, Progressing, ModelResolved, RefsResolved, BreakerClosed."""
    url: LongStr | None = None
    """The address within the cluster."""
    preview_url: LongStr | None = Field(default=None, alias="previewURL")
    """The address of the version that is being prepared."""
    replicas: int = 0
    """Pods of the active version."""
    ready_replicas: int = 0
    """Ready pods of the active version."""
    selector: Annotated[str, StringConstraints(max_length=1024)] = ""
    """The active pods, for the scale subresource."""
    model: ModelStatus = Field(default_factory=ModelStatus)
    """What the registry answered."""
    active: RevisionStatus | None = None
    """The version that callers reach."""
    candidate: RevisionStatus | None = None
    """The version that is being prepared."""
    previous: RevisionStatus | None = None
    """The version before, while it is kept warm."""
    rollout: RolloutStatus | None = None
    """The change of version under way."""
    breaker: BreakerStatus | None = None
    """The program's breaker over all replicas."""
    tools: Annotated[tuple[ToolUseStatus, ...], Field(max_length=32, json_schema_extra=map_list("name"))] = ()
    """The tools that the program may call."""
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=10)] = ()
    """The versions that callers reached, the latest last."""
