"""What the operator reports of a DSPyProgram: its status."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from despina.api.base import Address, ApiModel, Sentence, Word, map_list
from despina.api.conditions import Condition
from despina.api.runs import OptimizationStatus
from despina.wire import SECONDS_BOUNDS, Counts, EvaluationResult


class RevisionStatus(ApiModel):
    """One version as it stands in the cluster."""

    revision: Word
    """The digest of what was asked for."""
    version: Word
    """The model version."""
    deployment: Word
    """The Deployment's name."""
    ready_replicas: int = 0
    """Pods that are Ready."""
    loaded: Word | None = None
    """How many ready pods hold it, such as 2/3, where it is loaded beside another."""
    created_at: int | None = None
    """When the model version was made, in milliseconds since the epoch, as its registry says."""
    source: Word | None = None
    """Digest of the version's server, model, number and making."""
    remark: Sentence | None = None
    """What its pods say of it though they can serve it, such as that trying it out told nothing."""


class Quarantined(ApiModel):
    """A version that failed and is not tried again until the alias returns to it or someone says so."""

    version: Word
    """The model version."""
    revision: Word | None = None
    """Set when the spec, not the version, was at fault: an edit of the spec lifts it."""
    reason: Word
    """Why it failed, in one word."""
    message: Sentence = ""
    """Why it failed."""
    at: Word
    """When it failed."""
    source: Word | None = None
    """Digest of the version's server, model, number and making: a model made anew is not meant."""


QuarantinedVersions = Annotated[tuple[Quarantined, ...], Field(max_length=20)]


class ModelStatus(ApiModel):
    """What the registry answered."""

    requested: Sentence = ""
    """What the spec asks for, as models:/NAME@ALIAS or models:/NAME/VERSION."""
    resolved_version: Word | None = None
    """The version it stands for now."""
    quarantined: QuarantinedVersions = ()
    """Versions that failed."""


class Score(ApiModel):
    """What an evaluation found: it outlives its Job, so that it is not paid for again. A status holds no floats."""

    job: Word
    """The Job, whose name says what was computed."""
    score_percent: Word | None = None
    """The candidate's mean score."""
    baseline_percent: Word | None = None
    """That of the version that serves, if it was scored."""
    examples: int = 0
    """How many were asked."""
    failed: int = 0
    """How many of them the candidate could not answer."""
    cost_usd: Word = Field(default="0", alias="costUSD")
    """What it cost."""
    gain_low_percent: Word | None = None
    """The lower end of the 95 % interval of what it scores more than the version that serves, in points."""
    gain_high_percent: Word | None = None
    """Its upper end."""
    p: Word | None = None
    """How probable so much gain is, or more, if both versions are equally good."""
    run: Word | None = None
    """The run on the program's MLflow server that holds the scores example by example."""
    error: Sentence | None = None
    """Why there is no score."""

    @classmethod
    def of(cls, job: str, result: EvaluationResult) -> Self:
        """A result as it stands in a status."""
        found = {name: repr(v) if isinstance(v, float) else v for name, v in result.model_dump().items()}
        return cls(job=job, **found)

    def result(self) -> EvaluationResult | None:
        """The inverse; None for one that somebody damaged."""
        try:
            return EvaluationResult.model_validate(self.model_dump(exclude={"job"}))
        except ValidationError:
            return None


class GateStatus(ApiModel):
    """How a candidate did at one gate."""

    name: Word
    """The gate's name."""
    type: Word
    """Its type."""
    result: Literal["Running", "Passed", "Failed"]
    """How far it is."""
    message: Sentence = ""
    """The figures, or what is wrong."""
    started_at: Word
    """When it began."""
    finished_at: Word | None = None
    """When it was decided."""
    since: Word | None = None
    """Since when its time runs; nothing while it is held up."""
    spent_seconds: int = 0
    """What its time-out has used up before."""
    settings: Word | None = None
    """A digest of the settings that it was judged by, without the time-out: with others it is judged again."""
    score: Score | None = None
    """What the Job of an Evaluate gate found: other thresholds are compared with it, too."""


class RolloutStatus(ApiModel):
    """The change of version under way."""

    id: Word
    """The revision it leads to."""
    strategy: Word
    """How it is done: HotSwap, BlueGreen or Recreate."""
    strategy_reason: Sentence = ""
    """Why this strategy."""
    step: Word
    """Where it stands: Prepare, Gate, AwaitPromotion, Promote, Watch, Refused, Paused or Suspended; or how it ended:
    Done, Failed, RolledBack or Abandoned."""
    gates: Annotated[tuple[GateStatus, ...], Field(max_length=8, json_schema_extra=map_list("name"))] = ()
    """The gates so far."""
    started_at: Word
    """When it began."""
    since: Word | None = None
    """Since when the time to become ready runs; nothing while it stands still."""
    spent_seconds: int = 0
    """What the deadline for becoming ready has used up before."""
    message: Sentence = ""
    """What was found out about it in the end."""


class BreakerStatus(ApiModel):
    """The breaker of the version that serves, over all replicas."""

    revision: Word | None = None
    """Whose it is: one that opened for another version says nothing about this one."""
    state: Literal["Closed", "Open", "HalfOpen"] = "Closed"
    """Closed: executing. Open: not executing. HalfOpen: probing."""
    class_: Word | None = Field(default=None, alias="class")
    """Whose fault most failures were: Program, Upstream or Timeout."""
    reason: Sentence = ""
    """The figures that opened it, and what is done about it."""
    since: Word | None = None
    """When it last changed."""
    restarts_last_hour: int = 0
    """Restarts that it caused."""


class ToolUseStatus(ApiModel):
    """A tool that the program may call, as it stands."""

    name: Word
    """The name that the program calls it by."""
    state: Literal["Available", "Unavailable", "NotFound", "NotAllowed"]
    """Whether calls can succeed, and why not."""
    message: Sentence = ""
    """What to do about it."""


class HistoryEntry(ApiModel):
    """A version that callers reached."""

    revision: Word
    """The digest of what was asked for."""
    version: Word
    """The model version."""
    activated_at: Word
    """When callers were sent there."""
    trigger: Word
    """Why: Alias, Spec or Rollback."""
    outcome: Word
    """Serving, Superseded or RolledBack."""
    created_at: int | None = None
    """When the model version was made, in milliseconds since the epoch, as its registry says."""
    source: Word | None = None
    """Digest of the version's server, model, number and making."""


class Tally(ApiModel):
    """What all pods had counted of one version, together; see `wire.Counts`."""

    ok: int = 0
    """Answered."""
    program: int = 0
    """Failed as the program's own fault."""
    upstream: int = 0
    """Failed as an LM's fault."""
    timeout: int = 0
    """Not answered in time."""
    outage: int = 0
    """Those of upstream where no LM could be reached."""
    seconds: Annotated[tuple[int, ...], Field(max_length=64)] = ()
    """Executions by how long they took."""
    cost: Word = "0"
    """In US dollars."""

    @classmethod
    def of(cls, counts: Counts) -> Tally:
        """Counts as they stand in a status, which holds no floats."""
        same = {name: getattr(counts, name) for name in ("ok", "program", "upstream", "timeout", "outage")}
        return cls(**same, seconds=counts.seconds[: len(SECONDS_BOUNDS) + 1], cost=f"{counts.cost_usd:.6f}")

    def counts(self) -> Counts:
        """The inverse."""
        return Counts(**self.model_dump(exclude={"cost"}), cost_usd=_number(self.cost))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class Promotion(ApiModel):
    """The moment when callers were last sent elsewhere, and what had been counted by then."""

    revision: Word
    """Where they were sent."""
    at: Word
    """When, in seconds since the epoch."""
    returns: bool = False
    """Whether it had served before: the way back is not watched."""
    base: Tally = Field(default_factory=Tally)
    """What it had counted before callers came."""
    before: Tally = Field(default_factory=Tally)
    """What the version before it had counted since callers came there."""


LAST_SERIAL = 2**53
Handled = Annotated[dict[str, Word], Field(max_length=8)]


class Memory(ApiModel):
    """What must not be forgotten. It stands in the status and, once more, on the object that leads callers, and goes
    into the very write that sends them elsewhere; the copy with the highest number counts."""

    serial: Annotated[int, Field(ge=1, le=LAST_SERIAL)]
    """Grows with each change, up to its bound."""
    handled: Handled = Field(default_factory=dict)
    """The values of annotations that ask for something, as far as they were acted on: each acts once."""
    quarantined: QuarantinedVersions = ()
    """Versions that failed."""
    rollout_id: Word | None = None
    """The revision that the change under way leads to."""
    rollout_started_at: Word | None = None
    """When that change began."""
    promotion: Promotion | None = None
    """Where callers were last sent."""

    @classmethod
    def parse(cls, text: object) -> Memory | None:
        """A copy as it was written; None for one that cannot be read."""
        try:
            return cls.model_validate_json(text if isinstance(text, str) else "")
        except ValidationError:
            return None

    def text(self) -> str:
        """The copy's form in an annotation."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True)


class ProgramStatus(ApiModel):
    """What the operator observed."""

    observed_generation: int = 0
    """The generation of the spec that this status is about."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=map_list("type"))] = ()
    """Ready, Available, UpToDate, Progressing, ModelResolved, RefsResolved, OrdersAccepted, BreakerClosed,
    FeedbackDelivered, OptimizationHealthy and Reconciled."""
    url: Address | None = None
    """The address within the cluster."""
    cluster_ips: Annotated[tuple[Word, ...], Field(max_length=2)] = Field(default=(), alias="clusterIPs")
    """The Service's addresses: asked for again should somebody delete it, for callers know them."""
    preview_url: Address | None = Field(default=None, alias="previewURL")
    """The address of the version that is being prepared."""
    replicas: int = 0
    """Pods of the active version."""
    ready_replicas: int = 0
    """Ready pods of the active version."""
    selector: Sentence = ""
    """The active pods, for the scale subresource."""
    model: ModelStatus = Field(default_factory=ModelStatus)
    """What the registry answered."""
    active: RevisionStatus | None = None
    """The version that callers reach."""
    candidate: RevisionStatus | None = None
    """The version that is being prepared."""
    previous: RevisionStatus | None = None
    """The version that callers would be sent back to, or else the one that they left last, while it is kept."""
    rollout: RolloutStatus | None = None
    """The change of version under way."""
    breaker: BreakerStatus | None = None
    """The program's breaker over all replicas."""
    tools: Annotated[tuple[ToolUseStatus, ...], Field(max_length=32, json_schema_extra=map_list("name"))] = ()
    """The tools that the program may call."""
    optimization: OptimizationStatus | None = None
    """Optimisations, where the spec has any."""
    step: Word | None = None
    """What is under way: the rollout's step while there is one, else how far an optimisation is, else how the last
    rollout ended."""
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=10)] = ()
    """The versions that callers reached, the latest last."""
    serial: Annotated[int, Field(ge=0, le=LAST_SERIAL)] = 0
    """Counts the changes of quarantine, handled and promotion, of which a copy stands on the active Service."""
    handled: Handled = Field(default_factory=dict)
    """The values of annotations that ask for something, as far as they were acted on: each acts once."""
    promotion: Promotion | None = None
    """Where callers were last sent, and what had been counted by then."""
