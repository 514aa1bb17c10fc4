"""The contract between the operator and the pods it runs: one document down, one report up.

The operator writes a `RuntimeConfig` into a ConfigMap that the pod mounts; `despina-runtime serve -f`
makes the same document itself. A container that gives up leaves a `Failure` as its termination message,
so that the operator learns the reason from the pod object, without a network path to the pod.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

CONFIG_DIR = "/etc/despina"
GENERATION_DIR = "/etc/despina-generation"
CONFIG_FILE = "config.json"
SECRETS_DIR = "/etc/despina-secrets"
TOOLS_DIR = "/etc/despina-tools"
TOOLS_FILE = "tools.json"
TOOL_TOKENS_DIR = "/etc/despina-tool-tokens"
CACHE_DIR = "/var/lib/despina"
ADMIN_PORT = 8081
ORDERS_PATH = "/orders"
STATE_PATH = "/state"
INTERFACE_PATH = "/interface"
PROGRESS_PATH = "/progress"
TOOLS_PATH = "/tools"
MAX_ORDER_BYTES = 2**20
SIGNATURE_HEADER = "despina-signature"
"""Base64 of a signature of the body; of several, separated by commas, one must be by a key that the pod knows."""
VERSION_HEADER = "despina-model-version"
DEGRADED_HEADER = "despina-degraded"
FALLBACK_HEADER = "despina-fallback"
EXECUTED_HEADER = "despina-executed"
"""`no` in an answer of a tool that refused the call before it did anything, so that it may be made elsewhere."""
DRAINING_HEADER = "despina-draining"
"""`yes` in the answers of a tool host that was told to end: callers go elsewhere where they can."""
DEADLINE_HEADER = "despina-deadline-seconds"
"""How long the caller will wait, from when it sent the call."""
ENV_PREFIX = "DESPINA_"
POD_NAME_ENV = "DESPINA_POD_NAME"
EVALUATION_ENV = "DESPINA_EVALUATION"
TOOL_HOST_ENV = "DESPINA_TOOL_HOST"
TOOLS_FILE_ENV = "DESPINA_TOOLS_FILE"
TOOL_PACKAGES_ENV = "DESPINA_TOOL_PACKAGES"
SECRET_CHECK_ENV = "DESPINA_SECRET_"  # noqa: S105 - a variable's name
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_ENV = "DESPINA_TERMINATION_LOG"


ErrorClass = Literal["Program", "Upstream", "Timeout"]
"""Whose fault a failed request was, as far as a breaker cares; a caller's mistakes are nobody's."""


class Document(BaseModel):
    """A frozen document that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


NEVER = 101
"""An error rate in percent that cannot be reached."""


class BreakerConfig(Document):
    """When a breaker opens and how it closes again. A rate in percent over a sliding window of seconds."""

    error_rate_percent: int = 50
    window_seconds: int = 60
    min_requests: int = 20
    consecutive_failures: int | None = None
    open_seconds: int = 30
    half_open_requests: int = 3


class ProgramBreakerConfig(BreakerConfig):
    """The breaker in front of the whole program."""

    count_errors: tuple[ErrorClass, ...] = ("Program", "Upstream", "Timeout")
    falls_back: bool = True
    """Whether the fallback may answer while it is open."""


class Price(Document):
    """What a provider asks, as decimal strings: a manifest holds no floats."""

    input_per_million_usd: str = "0"
    output_per_million_usd: str = "0"


class LMConfig(Document):
    """One language model a program may call."""

    name: str
    model: str
    base_url: str | None = None
    api_key_file: str | None = None
    """A mounted file, re-read when it changes; the key itself is in no document of ours."""
    params: dict[str, Any] = Field(default_factory=dict)
    request_timeout_seconds: int = 30
    retries: int = 2
    adapter: Literal["Chat", "JSON"] = "Chat"
    structured_output: bool = False
    price: Price | None = None
    breaker: BreakerConfig | None = None


class RedisConfig(Document):
    """A Redis that all replicas share; its URL is a mounted file, for it may hold a password."""

    url_file: str
    key_prefix: str = "despina"
    ttl_seconds: int = 86400


class CacheConfig(Document):
    """The tiers of the cache; a size of 0 leaves a tier out."""

    process_entries: int = 10000
    process_ttl_seconds: int = 3600
    node_bytes: int = 0
    redis: RedisConfig | None = None
    scope: Literal["LM", "Program", "Both"] = "LM"
    single_flight: bool = True


class LimitsConfig(Document):
    """What one program accepts. Rates are the whole program's; the queue is one pod's."""

    requests_per_second: int | None = None
    burst: int | None = None
    max_queue: int = 256
    max_request_bytes: int = 2**20


class FallbackConfig(Document):
    """What answers when the program cannot: fixed outputs, or another program's address."""

    response: dict[str, Any] | None = None
    url: str | None = None


class ModelRef(Document):
    """One version of one registered model."""

    name: str
    version: str
    tracking_uri: str
    created_at: int | None = None
    """When the version was made, in milliseconds since the epoch, where the server tells. With the other three it is
    the version's identity: numbers come again when a model is made anew."""


class ModuleConfig(Document):
    """One module of the program that goes its own way."""

    path: str
    lm: str | None = None
    """The entry of `lms` that it always asks."""
    version: str | None = None
    """The version of the same model that its compiled state comes from."""


class ToolUse(Document):
    """A tool by the name that the program calls it by."""

    name: str
    tool: str
    """Its key in `ToolsConfig.tools`: NAMESPACE/NAME."""
    timeout_seconds: int | None = None
    """The most that one call may take, with all its attempts."""


class ContractConfig(Document):
    """What a tool takes and gives, as JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any]
    returns: dict[str, Any] | None = None
    version: int = 1
    idempotent: bool = False


class ToolBackend(Document):
    """One place where a tool is executed."""

    name: str
    kind: Literal["Http", "Mcp", "Local"] = "Http"
    url: str = ""
    """Of the host that answers `POST /tools/NAME/execute`, or of an MCP server; with Local, a Python package."""
    is_headless: bool = False
    """Whether each address that the host name stands for is an endpoint of its own."""
    tool: str = ""
    """The tool's name there."""
    transport: Literal["StreamableHTTP", "SSE"] = "StreamableHTTP"
    priority: int = 0
    weight: int = 1
    token_file: str | None = None
    excluded: str = ""
    """Why it must not be used; empty when it may."""


class ToolBreakerConfig(BreakerConfig):
    """The breaker of each endpoint of a tool, in each worker that calls it."""

    slow_call_millis: int | None = None
    """From this on an endpoint is slow: used only where no other is left."""


RetryOn = Literal["ConnectError", "Timeout", "Status5xx", "Status429"]
RoutingPolicy = Literal["Priority", "Weighted", "RoundRobin", "LeastInFlight"]


class ToolConfig(Document):
    """Everything that a caller needs to know of one tool."""

    contract: ContractConfig | None = None
    """None while there is no such tool that may be called."""
    missing: str = ""
    """Why there is none."""
    backends: tuple[ToolBackend, ...] = ()
    service: ToolBackend | None = None
    """All of the tool's own pods behind one address that the cluster keeps up to date sooner than names: for calls that
    found nobody where they looked."""
    policy: RoutingPolicy = "Priority"
    retry_on: tuple[RetryOn, ...] = ("ConnectError",)
    max_attempts: int = 2
    """Those that may have reached somebody."""
    timeout_seconds: int = 30
    """Of one attempt."""
    max_in_flight: int = 64
    queue_timeout_seconds: int = 5
    breaker: ToolBreakerConfig = ToolBreakerConfig()
    cache_ttl_seconds: int = 0


class ToolsConfig(Document):
    """All tools that a program's pods may call. It changes while they run; they read it again."""

    tools: dict[str, ToolConfig] = Field(default_factory=dict)


class ToolHostConfig(Document):
    """What one pod of a tool's backend shall host."""

    tool: str
    contract: ContractConfig | None = None
    """What callers were promised; without one, all tools of the packages are hosted."""
    packages: tuple[str, ...]
    """Python packages whose functions are tools."""
    port: int = 8080
    max_in_flight: int = 64
    queue_timeout_seconds: int = 5
    timeout_seconds: int = 30
    drain_seconds: int = 10
    tokens_dir: str | None = None
    """Files, each with a token that one namespace's callers present; without a folder, no token is asked for."""


class RuntimeConfig(Document):
    """What one pod shall run. Immutable for the life of a revision."""

    namespace: str
    program: str
    revision: str
    model: ModelRef
    mlflow_credentials_dir: str | None = None
    """Mounted files named as MLflow's client names its variables, read again whenever something is fetched; without a
    folder, the environment has them."""
    lms: tuple[LMConfig, ...] = ()
    lm: str | None = None
    fallbacks: tuple[str, ...] = ()
    """LMs to ask, in order, when the chosen one fails."""
    modules: tuple[ModuleConfig, ...] = ()
    tools: tuple[ToolUse, ...] = ()
    allow_pickle: bool = False
    workers: int = 1
    replicas: int = 1
    """How many pods share the program's rate limit where no Redis counts them."""
    max_concurrency: int = 16
    request_timeout_seconds: int = 60
    drain_seconds: int = 30
    port: int = 8080
    cache: CacheConfig | None = None
    limits: LimitsConfig = LimitsConfig()
    breaker: ProgramBreakerConfig | None = None
    fallback: FallbackConfig | None = None
    auth_token_file: str | None = None
    """A mounted file that holds the bearer token callers must present; re-read when it changes."""
    session_ttl_seconds: int = 86400
    order_keys: tuple[str, ...] = ()
    """Base64 of Ed25519 public keys. An order must be signed with one of them; without any, orders are refused."""

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model version that is needed: the program's own, and those of modules."""
        versions = dict.fromkeys([self.model.version, *(m.version for m in self.modules if m.version)])
        return tuple(self.model.model_copy(update={"version": version}) for version in versions)


class FailureReason(enum.StrEnum):
    """Why a pod could not serve its revision."""

    LOAD_FAILED = "LoadFailed"
    ARTIFACT_MISSING = "ArtifactMissing"
    ARTIFACT_CORRUPT = "ArtifactCorrupt"
    REQUIREMENTS_MISSING = "RequirementsMissing"
    PICKLE_DENIED = "PickleDenied"
    SIGNATURE_UNKNOWN = "SignatureUnknown"
    WARMUP_FAILED = "WarmupFailed"
    FALLBACK_INVALID = "FallbackInvalid"
    UNKNOWN_MODULE = "UnknownModule"
    CODE_CHANGED = "CodeChanged"
    """Another version's code or requirements differ from what this process has imported."""
    NOT_SWAPPABLE = "NotSwappable"
    """The artefact does not separate state from code, so that a process cannot change from it or to it."""


CERTAIN = frozenset(
    {
        FailureReason.ARTIFACT_CORRUPT,
        FailureReason.REQUIREMENTS_MISSING,
        FailureReason.PICKLE_DENIED,
        FailureReason.SIGNATURE_UNKNOWN,
        FailureReason.FALLBACK_INVALID,
        FailureReason.UNKNOWN_MODULE,
        FailureReason.CODE_CHANGED,
        FailureReason.NOT_SWAPPABLE,
    }
)
"""Reasons that no second try can change; the others may pass."""


class Failure(Document):
    """What a container says when it gives up; at most 4 KiB, the kubelet's limit."""

    reason: FailureReason
    message: str = Field(max_length=1024)

    @classmethod
    def parse(cls, text: str | None) -> Failure | None:
        """Read a termination message; None for anything that is not ours."""
        try:
            return cls.model_validate_json(text or "")
        except ValidationError:
            return None


class ShadowConfig(Document):
    """Which of the live requests are asked of a candidate too, and where it is."""

    revision: str
    percent: int
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
    serve; `Release` frees it. `Try` asks a revision (`subject`: `REVISION:NAME`) for an answer to `inputs`; `Shadow`
    has it asked a part of the live requests, or ends that when `shadow` is left out. `OpenBreaker` and `CloseBreaker`
    make the program's breaker as the other pods' is.

    `pod` must be the receiver's name, `boot` its present life, and (`term`, `number`) later than those of the last
    order, so that an order can be replayed neither later nor elsewhere. No clock is asked: what comes next, the pod
    says (`OrdersReport`).
    """

    order: OrderName
    subject: str = Field(default="", max_length=253)
    config: RuntimeConfig | None = None
    inputs: dict[str, Any] | None = None
    shadow: ShadowConfig | None = None
    namespace: str
    pod: str
    boot: str
    term: int = 0
    number: int


SECONDS_BOUNDS = (
    0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60,
)  # fmt: skip
"""Upper bounds of the latency histograms in reports, in seconds; one more bucket holds what took longer."""


MOST = 2**53
"""What a float still counts exactly."""


def _bounded(number: float) -> float:
    """What pods say is added up and divided; no number of theirs may break that."""
    return min(max(number, 0), MOST) if number == number else 0  # NaN is not equal to itself


def _known(histogram: tuple[int, ...]) -> tuple[int, ...]:
    """Without buckets that there are none of."""
    return histogram[: len(SECONDS_BOUNDS) + 1]


Count = Annotated[int, AfterValidator(_bounded)]
Histogram = Annotated[tuple[Count, ...], AfterValidator(_known)]
"""How many took how long; see SECONDS_BOUNDS."""
Amount = Annotated[float, AfterValidator(_bounded)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class Report(Document):
    """A document that pods send: a newer one may say more than this operator knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Counts(Report):
    """How one revision's executions went in one pod since it was loaded there; cached answers are not among them."""

    ok: Count = 0
    caller: Count = 0
    """Refused as the caller's own mistakes."""
    program: Count = 0
    upstream: Count = 0
    timeout: Count = 0
    outage: Count = 0
    """Those of `upstream` where no LM could be reached, so that the version is not at fault."""
    seconds: Histogram = ()
    """Executions by how long they took."""
    cost_usd: Amount = 0.0

    @property
    def executed(self) -> int:
        """All but the callers' mistakes."""
        return self.ok + self.program + self.upstream + self.timeout

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Several workers', or pods', counts as one."""
        known = list(parts)
        sums = {f: sum(getattr(c, f) for c in known) for f in cls.model_fields if f != "seconds"}
        return cls(**sums, seconds=added([c.seconds for c in known]))

    def since(self, base: Counts) -> Counts:
        """What came after `base`; pods that ended meanwhile took their counts with them, so nothing is below 0."""
        less = {f: max(0, getattr(self, f) - getattr(base, f)) for f in type(self).model_fields if f != "seconds"}
        buckets = zip_longest(self.seconds, base.seconds, fillvalue=0)
        return Counts(**less, seconds=tuple(max(0, now - then) for now, then in buckets))


def added(histograms: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Histograms over equal bounds as one; an empty one counts nothing."""
    return tuple(sum(bucket) for bucket in zip_longest(*histograms, fillvalue=0))


class BreakerReport(Report):
    """The program's breaker in one worker."""

    state: Literal["Closed", "Open", "HalfOpen"] = "Closed"
    age_seconds: Amount | None = None
    """Since its last change; None when it was never anything but closed."""
    window: dict[str, Count] = Field(default_factory=dict)
    """What it has counted: `ok`, and failures by class."""


class HeldRevision(Report):
    """A revision that a pod holds beside others."""

    phase: Literal["Preparing", "Ready", "Failed"]
    failure: Failure | None = None
    digest: str = ""
    """Of the compiled state that was loaded."""


class TryReport(Report):
    """How a `Try` went."""

    ok: bool
    message: str = Field(default="", max_length=1024)


class ShadowReport(Report):
    """How a candidate did on mirrored requests, beside what callers got."""

    revision: str
    mirrored: Count = 0
    dropped: Count = 0
    """Not mirrored, since too many were under way."""
    failed: Count = 0
    agreed: Count = 0
    """Equal outputs."""
    live_seconds: Histogram = ()
    seconds: Histogram = ()


class OrdersReport(Report):
    """The last order that a pod took: the next one names the same `boot` and is later. It is also the body of a 409."""

    boot: str = Field(default="", max_length=64)
    """A word that its process made up at its start; empty where no orders are taken."""
    term: int = 0
    number: int = 0


class PodState(Report):
    """What one pod says of itself on its admin port: what it holds, what it serves, and how that goes."""

    revision: str = ""
    """The revision that serves; empty while its workers differ."""
    held: dict[str, HeldRevision] = Field(default_factory=dict)
    counts: dict[str, Counts] = Field(default_factory=dict)
    breakers: tuple[BreakerReport, ...] = ()
    """One for each worker."""
    tries: dict[str, TryReport] = Field(default_factory=dict)
    shadow: ShadowReport | None = None
    uptime_seconds: Amount = 0.0
    workers: Count = 0
    """How many serve; fewer than are wanted while one that ended is not replaced yet."""
    wanted_workers: Count = 0
    """How many should; 0 where the pod does not say."""
    orders: OrdersReport = OrdersReport()


class DatasetConfig(Document):
    """Where an evaluation's examples are; one of the three is set."""

    mlflow: str | None = None
    file: str | None = None
    uri: str | None = None


class EvaluationConfig(Document):
    """What an evaluation Job shall do."""

    candidate: RuntimeConfig
    baseline: RuntimeConfig | None = None
    """Scored on the same examples, to compare with."""
    dataset: DatasetConfig
    metric: str
    max_examples: int
    budget_usd: str | None = None


class EvaluationResult(Report):
    """What it found, as its container's termination message."""

    score_percent: Score | None = None
    baseline_percent: Score | None = None
    examples: Count = 0
    failed: Count = 0
    """Examples that the candidate could not answer; they score 0."""
    cost_usd: Score = 0.0
    error: str | None = None
    """Why there is no score."""


class ToolProblemReport(Report):
    """Why a tool that is there cannot do its work."""

    reason: str = Field(max_length=64)
    message: str = Field(default="", max_length=1024)


class OfferedTool(Report):
    """One tool of a host, by its own account."""

    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    returns: dict[str, Any] | None = None
    problem: ToolProblemReport | None = None


class HostReport(Report):
    """What a tool host offers: the answer to `GET /tools`."""

    tools: dict[str, OfferedTool] = Field(default_factory=dict)
