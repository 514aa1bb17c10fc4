"""The contract between the operator and the pods it runs: one document down, one report up.

The operator writes a `RuntimeConfig` into a ConfigMap that the pod mounts; `despina-runtime serve -f`
makes the same document itself. A container that gives up leaves a `Failure` as its termination message,
so that the operator learns the reason from the pod object, without a network path to the pod.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CONFIG_DIR = "/etc/despina"
CONFIG_FILE = "config.json"
SECRETS_DIR = "/etc/despina-secrets"
CACHE_DIR = "/var/lib/despina"
ADMIN_PORT = 8081
ORDERS_PATH = "/orders"
SIGNATURE_HEADER = "despina-signature"
VERSION_HEADER = "despina-model-version"
DEGRADED_HEADER = "despina-degraded"
FALLBACK_HEADER = "despina-fallback"
ENV_PREFIX = "DESPINA_"
POD_NAME_ENV = "DESPINA_POD_NAME"
SECRET_CHECK_ENV = "DESPINA_SECRET_"  # noqa: S105 - a variable's name
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_ENV = "DESPINA_TERMINATION_LOG"


ErrorClass = Literal["Program", "Upstream", "Timeout"]
"""Whose fault a failed request was, as far as a breaker cares; a caller's mistakes are nobody's."""


class Document(BaseModel):
    """A frozen document that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    on_open: tuple[Literal["Fallback", "Shed"], ...] = ("Fallback", "Shed")


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


class RuntimeConfig(Document):
    """What one pod shall run. Immutable for the life of a revision."""

    namespace: str
    program: str
    revision: str
    model: ModelRef
    lms: tuple[LMConfig, ...] = ()
    lm: str | None = None
    fallbacks: tuple[str, ...] = ()
    """LMs to ask, in order, when the chosen one fails."""
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
    order_key: str | None = None
    """Base64 of the Ed25519 public key that orders must be signed with; without one, orders are refused."""


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


class Order(Document):
    """A signed instruction to one pod.

    `Retire`: answer on, each time with `Connection: close`, so that kept-alive callers reconnect to the
    new version. `Activate` takes that back. `Invalidate` empties the caches; `subject` is any word that changes from
    one time to the next, or `key:KEY` or `revision:REVISION` to drop only those answers.

    `issued_at` (seconds since the epoch) must grow from order to
    order and `pod` must be the receiver's name, so that an order can be replayed neither later nor elsewhere.
    """

    order: Literal["Retire", "Activate", "Invalidate"]
    subject: str = Field(default="", max_length=253)
    namespace: str
    pod: str
    issued_at: float
