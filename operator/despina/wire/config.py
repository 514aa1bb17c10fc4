"""What a program's pods are told to run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from despina.wire.base import Document

ErrorClass = Literal["Program", "Upstream", "Timeout"]
"""Whose fault a failed request was, as far as a breaker cares; a caller's mistakes are nobody's."""
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
    seal_file: str | None = None
    """The keys, one a line, by which the program's pods know what they wrote there; the first is for writing."""


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


class WarmUpConfig(Document):
    """How the program is tried out before it serves."""

    is_enabled: bool = True
    outputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Recorded ones, by the module's path and the output's name; the others are made up."""


class ContractConfig(Document):
    """What a tool takes and gives, as JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any]
    returns: dict[str, Any] | None = None
    version: int = 1
    idempotent: bool = False


class FeedbackConfig(Document):
    """What is recorded of predictions, and where that and what callers say of them goes."""

    payloads: Literal["None", "Redacted", "Full"] = "Redacted"
    """What of callers' words is kept."""
    redacted_fields: tuple[str, ...] = ()
    redacted_patterns: tuple[str, ...] = ()
    sample_percent: int = 10
    """How many predictions are delivered that nobody speaks of."""
    label_within_seconds: int = 604800
    spool_bytes: int = 2**30
    experiment: str = ""
    """Of the program's MLflow server."""
    folder: str = ""
    """Where files are written in its place."""
    trusted_token_file: str | None = None
    """A mounted file; who shows what it holds is trusted."""


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
    warm_up: WarmUpConfig = WarmUpConfig()
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
    feedback: FeedbackConfig | None = None
    optimize_requests: bool = False
    """Whether callers may ask for an optimisation: `PodState.optimize` says so then."""
    auth_token_file: str | None = None
    """A mounted file that holds the bearer token callers must present; re-read when it changes."""
    session_ttl_seconds: int = 86400
    order_keys: tuple[str, ...] = ()
    """Base64 of Ed25519 public keys. An order must be signed with one of them; without any, orders are refused."""
    log_format: Literal["text", "json"] = "text"
    """How the pod's processes log, where the environment does not say it."""
    read_key: str = Field(default="", repr=False)
    """Who reads the pod's state must sign with it; without one, everybody may."""
    ask_key: str = ""
    """Base64 of an Ed25519 public key. A question by hand must be signed with it; without one, nobody asks any."""

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model version that is needed: the program's own, and those of modules."""
        versions = dict.fromkeys([self.model.version, *(m.version for m in self.modules if m.version)])
        return tuple(self.model.model_copy(update={"version": version}) for version in versions)
