"""How a program is served: its language models, caches, limits, breakers and fallbacks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from despina.api.base import ApiModel, DataKey, NameStr, ObjectName, Preserved, ShortStr, UrlStr, rule

Toggle = Literal["Enabled", "Disabled"]
SECRET_MARKS = ("api_key", "apikey", "secret", "password", "authorization", "access_key", "session_token")


class SecretKeyRef(ApiModel):
    """One key of a Secret in the program's namespace."""

    name: ObjectName
    """The Secret's name."""
    key: DataKey
    """The key within the Secret."""


class Breaker(ApiModel):
    """When a breaker opens, and how it closes again."""

    error_rate_percent: Annotated[int, Field(ge=1, le=100)] = 50
    """Opens when this share of the window's calls failed."""
    window_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """The length of the sliding window."""
    min_requests: Annotated[int, Field(ge=1, le=100000)] = 20
    """How many calls the window must hold before the rate means anything."""
    consecutive_failures: Annotated[int, Field(ge=1, le=100000)] | None = None
    """Opens after so many failures in a row, whatever the rate."""
    open_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long it stays open before it lets probes through."""
    half_open_requests: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many probes must succeed to close it."""


class Restart(ApiModel):
    """How often pods are restarted to heal a program."""

    max_per_hour: Annotated[int, Field(ge=1, le=60)] = 3
    """More restarts within an hour are not tried."""
    backoff_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """The shortest time between two restarts; it doubles with each one within the hour."""


class ProgramBreaker(Breaker):
    """The breaker in front of the program. Each worker of each pod has its own and acts at once; the operator adds all
    of their counts up and has all of them agree."""

    count_errors: Annotated[
        tuple[Literal["Program", "Upstream", "Timeout"], ...], Field(min_length=1, max_length=3)
    ] = (
        "Program",
        "Upstream",
        "Timeout",
    )
    """Which failures count; a caller's own mistakes never do."""
    on_open: Annotated[
        tuple[Literal["Fallback", "Rollback", "Restart", "Shed"], ...], Field(min_length=1, max_length=4)
    ] = ("Fallback", "Rollback", "Restart", "Shed")
    """What happens when it opens. Callers get the first they can of Fallback (`fallback` answers) and Shed (503 with
    Retry-After). The operator does the first it can of Rollback (while a new version is watched) and Restart (one pod
    at a time, each after its successor; only for failures of class Program or Timeout)."""
    restart: Restart = Field(default_factory=Restart)
    """How often pods are restarted."""


DecimalStr = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$", max_length=20)]


class Price(ApiModel):
    """What the provider asks, for the cost in headers and metrics."""

    input_per_million_usd: DecimalStr = Field(default="0", alias="inputPerMillionUSD")
    """US dollars per million prompt tokens, such as "0.15"."""
    output_per_million_usd: DecimalStr = Field(default="0", alias="outputPerMillionUSD")
    """US dollars per million completion tokens."""


class LM(ApiModel):
    """A language model that the program may call."""

    name: NameStr
    """The name that `lm` refers to."""
    model: ShortStr
    """The model as DSPy names it, such as openai/gpt-4o-mini."""
    base_url: UrlStr | None = Field(default=None, alias="baseURL")
    """An OpenAI-compatible endpoint (vLLM, Ollama, llama.cpp) instead of the provider's own."""
    api_key_secret_ref: SecretKeyRef | None = None
    """The API key; mounted as a file and re-read when it changes."""
    params: Preserved = Field(default_factory=dict)
    """Parameters of each call, such as temperature and max_tokens."""
    request_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """The time one call may take."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a call is retried after a provider's 429 or 5xx, or a broken connection, within the deadline."""
    adapter: Literal["Chat", "JSON"] = "Chat"
    """How prompts are written and answers read: DSPy's ChatAdapter or JSONAdapter."""
    structured_output: Toggle = "Disabled"
    """Enabled: with the JSON adapter, ask for the signature's JSON Schema as response format."""
    price: Price | None = None
    """What the provider asks, for the cost in headers and metrics."""
    breaker: Breaker | None = None
    """Stops asking this LM for a while when it fails; `fallbacks` go on."""

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        """What stands in a manifest is in Git, in etcd and in a ConfigMap."""
        for name in self.params:
            if any(mark in name.lower() for mark in SECRET_MARKS):
                raise ValueError(f"params.{name}: keep secrets out of manifests, use apiKeySecretRef")
        return self


class ProcessCache(ApiModel):
    """The fastest tier, in each worker's memory."""

    max_entries: Annotated[int, Field(ge=0, le=1000000)] = 10000
    """How many answers it holds; one above 8 KiB counts as several. 0 leaves the tier out."""
    ttl_seconds: Annotated[int, Field(ge=1, le=2592000)] = 3600
    """How long an answer is kept."""


class NodeCache(ApiModel):
    """A tier that all workers of a pod share, on its disk; it outlives a container's restart."""

    type: Literal["None", "EmptyDir"] = "None"
    """EmptyDir: use the pod's own volume."""
    size_limit: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,6}(Ki|Mi|Gi)$", max_length=10)] = "1Gi"
    """How large it may grow; when full it starts anew."""


class RedisCache(ApiModel):
    """A tier that all replicas share. Redis may be slow or down: that is a miss, never an error."""

    url_secret_ref: SecretKeyRef
    """The URL, such as redis://:password@host:6379/0."""
    key_prefix: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]{1,63}$", max_length=63)] = "despina"
    """What every key begins with."""
    ttl_seconds: Annotated[int, Field(ge=1, le=2592000)] = 86400
    """How long an answer is kept."""


class Cache(ApiModel):
    """Answers that are given again without asking. Errors and unusable answers are never kept."""

    process: ProcessCache = Field(default_factory=ProcessCache)
    """The fastest tier, in each worker's memory."""
    node: NodeCache = Field(default_factory=NodeCache)
    """A tier that all workers of a pod share."""
    redis: RedisCache | None = None
    """A tier that all replicas share."""
    key_scope: Literal["LM", "Program", "Both"] = "LM"
    """LM: calls of language models, kept across versions. Program: whole answers, kept for one revision."""
    single_flight: Toggle = "Enabled"
    """Enabled: of identical questions at one time, one is executed and all get its answer."""


class Limits(ApiModel):
    """What the program accepts before it says no."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "!has(self.burst) || has(self.requestsPerSecond)", "limits.burst needs limits.requestsPerSecond", ".burst"
        )
    )

    requests_per_second: Annotated[int, Field(ge=1, le=1000000)] | None = None
    """For the whole program; each worker has an equal share. More is answered with 429 and Retry-After."""
    burst: Annotated[int, Field(ge=1, le=1000000)] | None = None
    """How many may come at once; one second's worth when left out."""
    max_queue: Annotated[int, Field(ge=0, le=100000)] = 256
    """How many requests of one pod may wait for runtime.maxConcurrency; more get 503 and Retry-After."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=67108864)] = 1048576
    """The largest request body, in bytes; a larger one gets 413."""

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("limits.burst needs limits.requestsPerSecond")
        return self


class ProgramRef(ApiModel):
    """Another DSPyProgram in the same namespace."""

    name: NameStr
    """Its name."""


class Fallback(ApiModel):
    """What answers, marked as degraded, when the program cannot."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "has(self.response) != has(self.programRef)", "fallback: set exactly one of response and programRef"
        )
    )

    response: Preserved | None = None
    """Fixed outputs; they must fit the program's signature."""
    program_ref: ProgramRef | None = None
    """Another program, asked with the same inputs."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.response is None) == (self.program_ref is None):
            raise ValueError("fallback: set exactly one of response and programRef")
        return self


class Sessions(ApiModel):
    """Variables that callers set once for many requests (PUT /sessions/ID/variables)."""

    affinity: Literal["None", "ClientIP"] = "None"
    """ClientIP: the Service sends a caller to the same pod each time. Needed only without cache.redis."""
    ttl_seconds: Annotated[int, Field(ge=60, le=2592000)] = 86400
    """How long variables are kept."""


class Auth(ApiModel):
    """Who may call."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "(self.type == 'BearerSecret') == has(self.secretRef)",
            "security.auth: secretRef belongs to type BearerSecret, and only to it",
        )
    )

    type: Literal["None", "BearerSecret"] = "None"
    """BearerSecret: callers send `Authorization: Bearer TOKEN`."""
    secret_ref: SecretKeyRef | None = None
    """The token; re-read when it changes."""

    @model_validator(mode="after")
    def _with_secret(self) -> Self:
        if (self.type == "BearerSecret") != (self.secret_ref is not None):
            raise ValueError("security.auth: secretRef belongs to type BearerSecret, and only to it")
        return self
