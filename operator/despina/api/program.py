"""The DSPyProgram kind: what a user writes, and what the operator reports back."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from despina.api.base import (
    ApiModel,
    LongStr,
    NameStr,
    ObjectName,
    Owner,
    Preserved,
    ServerStr,
    ShortStr,
    ToolName,
    map_list,
    rule,
    rules,
)
from despina.api.feedback import Feedback
from despina.api.gates import Gate, PostPromotion
from despina.api.optimization import Optimization
from despina.api.pods import Autoscaling, Placement, Resources, ServiceAccount
from despina.api.serving import LM, Auth, Cache, Fallback, Limits, ProgramBreaker, Sessions, Toggle

NAME_LIMIT = 40  # leaves room for "-<hash8>" and for the pods' own suffix within 63 characters
NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_WORDS = f"metadata.name must be at most {NAME_LIMIT} characters of a-z, 0-9 and -, starting with a letter"


class SecretRef(ApiModel):
    """A Secret in the program's namespace."""

    name: ObjectName
    """The Secret's name."""


class MlflowSource(ApiModel):
    """A model in an MLflow registry, followed by alias or pinned by version."""

    model_config = ConfigDict(
        json_schema_extra=rule("has(self.alias) != has(self.version)", "set exactly one of alias and version")
    )

    model: ShortStr
    """The registered model's name."""
    alias: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    """The alias to follow: moving it in MLflow is a release."""
    version: Annotated[int, Field(ge=1)] | None = None
    """The version to pin, instead of following an alias."""
    tracking_uri: ServerStr | None = Field(default=None, alias="trackingURI")
    """The MLflow server; the operator's own when left out."""
    credentials_secret_ref: SecretRef | None = None
    """The program's own credentials for that server, for the operator and for the pods: a Secret with the keys
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN. When left out, the operator
    shows its own to its own server, and nothing to any other."""
    poll_period_seconds: Annotated[int, Field(ge=10, le=3600)] = 60
    """How often the alias is looked up, in seconds."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.alias is None) == (self.version is None):
            raise ValueError("set exactly one of alias and version")
        return self


class Source(ApiModel):
    """Where the program comes from."""

    mlflow: MlflowSource
    """An MLflow model registry."""


class Runtime(ApiModel):
    """How each pod runs the program."""

    model_config = ConfigDict(json_schema_extra=rule("self.port != 8081", "runtime.port: 8081 is the admin port"))

    image: LongStr | None = None
    """The runtime image; the operator's default when left out."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet pulls the image."""
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """How many requests one pod executes at a time; more wait in limits.maxQueue, within their deadline."""
    request_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """The deadline of one request, waiting included."""
    drain_seconds: Annotated[int, Field(ge=0, le=600)] = 30
    """How long a pod that was told to end keeps accepting, while routes to it disappear."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 8080
    """The container's serving port; the Service's is 80."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes per pod, behind one port; each holds the program once."""


ModulePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.\[\]'\"-]*$", max_length=253)]


class ModuleSource(ApiModel):
    """Where one module's compiled state comes from."""

    version: Annotated[int, Field(ge=1)]
    """A version of the same model."""


class Module(ApiModel):
    """One module of the program."""

    path: ModulePath
    """Its path within the program, such as `generate` or `steps[0]`; GET /modules lists them."""
    source: ModuleSource | None = None
    """Take its compiled state from another version, and leave the others alone."""
    lm: NameStr | None = None
    """The entry of lms that it asks, whatever a request chooses."""


class RecordedOutputs(ApiModel):
    """What one module gives while the program is tried out."""

    path: ModulePath
    """The module's path within the program, such as `generate` or `steps[0]`; GET /modules lists them."""
    values: Preserved
    """Values by the names of its outputs; the others are made up."""


class WarmUp(ApiModel):
    """How the program is tried out before it serves: each worker runs it once, and asks no LM and no tool. A program
    that raises on made-up values serves all the same; `status.active.remark` then says what it raised."""

    mode: Toggle = "Enabled"
    """Disabled: nothing is tried out. The first requests are slower then, an error that every request meets shows to
    callers, and a program with `aforward` that calls modules without await fails instead of running in threads."""
    outputs: Annotated[tuple[RecordedOutputs, ...], Field(max_length=32, json_schema_extra=map_list("path"))] = ()
    """Recorded outputs of modules, in place of made-up ones: for programs that ask more of them than types say."""


class ToolRef(ApiModel):
    """A DSPyTool."""

    name: NameStr
    """Its name."""
    namespace: NameStr | None = None
    """Its namespace, where it must allow the program's; the program's own when left out."""


class UsedTool(ApiModel):
    """A tool that the program may call."""

    name: ToolName
    """The name that the program calls it by: `execute_tool("NAME", ...)`."""
    ref: ToolRef
    """The DSPyTool that is called."""
    policy: Literal["Required", "Optional"] = "Optional"
    """Required: no new version is begun, and the program is not Ready, while the tool is missing. Optional: calls of it
    fail, and nothing else."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """The most that one call may take, with all its attempts; the request's own deadline when left out."""


class BlueGreen(ApiModel):
    """How a new version takes over from the running one."""

    auto_promotion: Toggle = "Enabled"
    """Disabled: wait, ready, for the annotation despina.dev/promote: "<revision>"."""
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86400)] = 600
    """How long a new version may take to become ready before it is quarantined."""
    scale_down_delay_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """How long the old version is kept warm after the switch."""
    abort_scale_down_delay_seconds: Annotated[int, Field(ge=0, le=86400)] = 30
    """How long a version that failed is kept, to be looked at."""


class Rollout(ApiModel):
    """How versions change."""

    strategy: Literal["Auto", "HotSwap", "BlueGreen", "Recreate"] = "Auto"
    """HotSwap loads a version beside the old one in the same processes, where only compiled state, LMs or modules
    changed. BlueGreen starts new pods beside the old. Recreate stops the old ones first. Auto takes the first that
    can."""
    blue_green: BlueGreen = Field(default_factory=BlueGreen)
    """The delays of a change; they hold for every strategy."""
    gates: Annotated[tuple[Gate, ...], Field(max_length=8, json_schema_extra=map_list("name"))] = ()
    """What a prepared version must pass before callers reach it, in this order."""
    post_promotion: PostPromotion = Field(default_factory=PostPromotion)
    """How a new version is watched once callers reach it."""
    state: Literal["Active", "Paused"] = "Active"
    """Paused: nothing new is begun, and what is under way stops where it is."""
    rollback_to: Annotated[int, Field(ge=1)] | None = None
    """A model version to serve whatever the alias says, until this is taken out again."""
    revision_history_limit: Annotated[int, Field(ge=0, le=2)] = 2
    """How many Deployments of earlier versions are kept at size 0."""


class Security(ApiModel):
    """What a program may do that could harm, and who may call it."""

    pickle: Literal["Deny", "Allow"] = "Deny"
    """Allow: load what mlflow.dspy.log_model wrote, which runs code from the artefact while unpickling."""
    auth: Auth = Field(default_factory=Auth)
    """Who may call."""


OPTIMIZATION_RULES = (
    (
        "!has(self.optimization) || (has(self.feedback) && self.feedback.payloads != 'None'"
        " && !(has(self.feedback.sink) && has(self.feedback.sink.jsonLines)))",
        "optimization needs feedback that keeps payloads and goes to MLflow",
    ),
    (
        "!has(self.optimization) || !has(self.source.mlflow.alias) || self.source.mlflow.alias != 'candidate'",
        "optimization gives the alias candidate to what it finds: let source.mlflow.alias be another one",
    ),
    (
        "!has(self.optimization) || !has(self.optimization.promotion) || self.optimization.promotion.mode != 'Auto'"
        " || has(self.source.mlflow.alias)",
        "optimization.promotion.mode Auto moves source.mlflow.alias, and there is none",
    ),
)


class ProgramSpec(ApiModel):
    """What a user asks for."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.lm) || self.lms.exists(l, l.name == self.lm)",
                "lm must be the name of an entry of lms",
                ".lm",
            ),
            rule(
                "!has(self.fallbacks) || self.fallbacks.all(f, self.lms.exists(l, l.name == f))",
                "fallbacks must be names of entries of lms",
                ".fallbacks",
            ),
            rule(
                "!has(self.modules) || self.modules.all(m, !has(m.lm) || self.lms.exists(l, l.name == m.lm))",
                "modules[].lm must be names of entries of lms",
                ".modules",
            ),
            *(rule(cel, message, ".optimization") for cel, message in OPTIMIZATION_RULES),
        )
    )

    source: Source
    """Where the program comes from."""
    runtime: Runtime = Field(default_factory=Runtime)
    """How each pod runs the program."""
    lms: Annotated[tuple[LM, ...], Field(max_length=16, json_schema_extra=map_list("name"))] = ()
    """The language models that the program may call."""
    lm: NameStr | None = None
    """The language model in use; the first of lms when left out."""
    fallbacks: Annotated[tuple[NameStr, ...], Field(max_length=8)] = ()
    """Entries of lms to ask, in order, when the chosen one fails."""
    modules: Annotated[tuple[Module, ...], Field(max_length=32, json_schema_extra=map_list("path"))] = ()
    """Modules of the program that go their own way."""
    warm_up: WarmUp = Field(default_factory=WarmUp)
    """How the program is tried out before it serves."""
    cache: Cache | None = None
    """Give answers again without asking; nothing is kept when left out."""
    limits: Limits = Field(default_factory=Limits)
    """What the program accepts before it says no."""
    breaker: ProgramBreaker | None = None
    """Stop executing for a while when too much fails."""
    fallback: Fallback | None = None
    """What answers when the program cannot."""
    sessions: Sessions = Field(default_factory=Sessions)
    """Variables that callers set once for many requests."""
    feedback: Feedback | None = None
    """Record predictions, and take what callers say of them; nothing is recorded when left out."""
    optimization: Optimization | None = None
    """Make better versions from what callers say; nothing is tried when left out."""
    tools: Annotated[tuple[UsedTool, ...], Field(max_length=32, json_schema_extra=map_list("name"))] = ()
    """The tools that the program may call, by the names that it calls them by."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """The number of pods; ignored when autoscaling is set."""
    autoscaling: Autoscaling | None = None
    """Scale by load between two bounds."""
    placement: Placement = Field(default_factory=Placement)
    """Which nodes the pods run on."""
    resources: Resources = Field(default_factory=Resources)
    """What each pod asks for and may use."""
    pod_template: Preserved | None = None
    """A partial PodTemplateSpec, merged last: containers and env by name."""
    service_account: ServiceAccount = Field(default_factory=ServiceAccount)
    """The identity of the pods."""
    rollout: Rollout = Field(default_factory=Rollout)
    """How versions change."""
    security: Security = Field(default_factory=Security)
    """What a program may do that could harm."""
    suspend: bool = False
    """True: run no pods, keep everything else."""

    @model_validator(mode="after")
    def _lm_exists(self) -> Self:
        names = [lm.name for lm in self.lms]
        if self.lm is not None and self.lm not in names:
            raise ValueError(f"lm must be the name of an entry of lms ({', '.join(names) or 'there is none'})")
        if not {*self.fallbacks} <= {*names}:
            raise ValueError("fallbacks must be names of entries of lms")
        if not {m.lm for m in self.modules if m.lm} <= {*names}:
            raise ValueError("modules[].lm must be names of entries of lms")
        return self

    @model_validator(mode="after")
    def _can_be_optimized(self) -> Self:
        if self.optimization is None:
            return self
        feedback, alias = self.feedback, self.source.mlflow.alias
        checks = (
            feedback is not None and feedback.payloads != "None" and feedback.sink.json_lines is None,
            alias != "candidate",
            self.optimization.promotion.mode != "Auto" or alias is not None,
        )
        for is_met, (_, message) in zip(checks, OPTIMIZATION_RULES, strict=True):
            if not is_met:
                raise ValueError(message)
        return self


class Program(Owner):
    """A DSPyProgram as the operator knows it: the parsed spec and the metadata that matters."""

    kind: ClassVar[str] = "DSPyProgram"
    spec: ProgramSpec

    @model_validator(mode="after")
    def _falls_back_elsewhere(self) -> Self:
        fallback = self.spec.fallback
        if fallback and fallback.program_ref and fallback.program_ref.name == self.name:
            raise ValueError("spec.fallback.programRef must name another program")
        return self
