"""The DSPyTool kind: a typed function that programs call by name, and the places where it is executed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.config import JsonDict

from despina.api.base import (
    SHALLOW,
    Address,
    ApiModel,
    LabelMap,
    LongStr,
    NameStr,
    Owner,
    Preserved,
    Sentence,
    ShortStr,
    ToolName,
    UrlStr,
    Word,
    map_list,
    rule,
    rules,
)
from despina.api.conditions import Condition
from despina.api.contract import schema_problem
from despina.api.pods import Autoscaling, Placement, Resources, ServiceAccount
from despina.api.serving import SecretKeyRef

Percent = Annotated[int, Field(ge=1, le=100)]
UrlPath = Annotated[str, StringConstraints(pattern=r"^(/[-A-Za-z0-9._~/]*)?$", max_length=253)]
Millis = Annotated[int, Field(ge=1, le=3600000)]


OF_AN_OBJECT: JsonDict = {
    "x-kubernetes-preserve-unknown-fields": True,
    "properties": {"type": {"type": "string", "enum": ["object"]}},
    "required": ["type"],
}


class Contract(ApiModel):
    """What the tool takes and gives. `despina-runtime contract PACKAGE` prints that of a Python function."""

    name: ToolName
    """The tool's name where it is executed: that of a function, with - for _, or of an MCP server's tool."""
    description: Annotated[str, StringConstraints(max_length=1024)] = ""
    """What it does, in the words that an LM is told."""
    parameters: Annotated[dict[str, Any], SHALLOW, Field(json_schema_extra=OF_AN_OBJECT)]
    """The arguments, as a JSON Schema of type object."""
    returns: Preserved | None = None
    """The result, as JSON Schema; anything when left out."""
    version: Annotated[int, Field(ge=1)] = 1
    """Raised by you when the meaning changes."""
    idempotency: Literal["Idempotent", "NonIdempotent"] = "NonIdempotent"
    """Idempotent: a call may be made again when its answer was lost. NonIdempotent: a call that may have reached a
    backend is never made twice."""

    @model_validator(mode="after")
    def _of_an_object(self) -> Self:
        if self.parameters.get("type") != "object":
            raise ValueError("contract.parameters must be a JSON Schema of type object")
        return self

    @field_validator("parameters", "returns")
    @classmethod
    def _are_schemas(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        problem = schema_problem(schema) if schema is not None else None
        if problem:
            raise ValueError(f"must be a JSON Schema: {problem}")
        return schema


class HostDeployment(ApiModel):
    """Pods of Despina's tool host, made and kept by the operator."""

    image: LongStr | None = None
    """An image made FROM Despina's runtime, with your package; the operator's default when left out."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet pulls the image."""
    tool_packages: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=253)], ...],
        Field(min_length=1, max_length=16),
    ]
    """Python packages whose functions are tools, such as despina_runtime.tools.aws."""
    drain_seconds: Annotated[int, Field(ge=0, le=600)] = 10
    """How long a pod that was told to end keeps accepting, while routes to it disappear."""
    resources: Resources = Field(default_factory=Resources)
    """What each pod asks for and may use."""
    pod_template: Preserved | None = None
    """A partial PodTemplateSpec, merged last; the container is called `tool`."""


class BackendService(ApiModel):
    """A Service of the tool's namespace that answers as Despina's tool host does."""

    name: NameStr
    """Its name; where it is headless, each of its addresses is an endpoint of its own."""
    port: Annotated[int, Field(ge=1, le=65535)] = 80
    """Its port."""
    path: UrlPath = ""
    """What stands before /tools."""


class McpServer(ApiModel):
    """A server of the Model Context Protocol (https://modelcontextprotocol.io)."""

    url: UrlStr
    """Its endpoint."""
    transport: Literal["StreamableHTTP", "SSE"] = "StreamableHTTP"
    """How it is spoken to."""
    tool: ShortStr | None = None
    """The tool's name there; the contract's when left out."""


class Backend(ApiModel):
    """One place where the tool is executed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.deployment), has(self.service), has(self.url), has(self.mcp)].filter(x, x).size() == 1",
                "backends[]: set exactly one of deployment, service, url and mcp",
            ),
            rule(
                "!has(self.authSecretRef) || !has(self.deployment)",
                "backends[].authSecretRef: a deployment has a token of its own",
                ".authSecretRef",
            ),
            rule(
                "has(self.deployment) || !has(self.placement)",
                "backends[].placement belongs to a deployment",
                ".placement",
            ),
        )
    )

    name: Annotated[str, StringConstraints(max_length=20, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Its name within the tool."""
    deployment: HostDeployment | None = None
    """Pods that the operator makes."""
    service: BackendService | None = None
    """A Service that is there."""
    url: UrlStr | None = None
    """An address outside the cluster that answers as Despina's tool host does; /tools is added."""
    mcp: McpServer | None = None
    """An MCP server."""
    priority: Annotated[int, Field(ge=0, le=100)] = 0
    """With policy Priority, the least number goes first, and the next only when none of those is left."""
    weight: Annotated[int, Field(ge=0, le=100)] = 1
    """With policy Weighted, its share; 0 for none."""
    placement: Placement | None = None
    """Which nodes the pods of a deployment run on."""
    auth_secret_ref: SecretKeyRef | None = None
    """A bearer token that the backend asks for. It is handed to the programs that may use the tool."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if sum(x is not None for x in (self.deployment, self.service, self.url, self.mcp)) != 1:
            raise ValueError("backends[]: set exactly one of deployment, service, url and mcp")
        if self.auth_secret_ref and self.deployment:
            raise ValueError("backends[].authSecretRef: a deployment has a token of its own")
        if self.placement and not self.deployment:
            raise ValueError("backends[].placement belongs to a deployment")
        return self


class Routing(ApiModel):
    """Which backend gets a call, and when another one gets it next."""

    policy: Literal["Priority", "Weighted", "RoundRobin", "LeastInFlight"] = "Priority"
    """Priority: the endpoint with the fewest calls under way, of the backends that come first. Weighted: by the
    backends' weights. RoundRobin: each endpoint in turn. LeastInFlight: the endpoint with the fewest calls under
    way."""
    retry_on: Annotated[
        tuple[Literal["ConnectError", "Timeout", "Status5xx", "Status429"], ...], Field(max_length=4)
    ] = ("ConnectError",)
    """After what a call goes to another endpoint. ConnectError: no connection, or it broke; for a NonIdempotent tool
    only the first. Timeout and Status5xx are for Idempotent tools."""
    max_attempts: Annotated[int, Field(ge=1, le=5)] = 2
    """How many endpoints one call may reach. One where nobody listens, that refused the call before it did
    anything, or whose connection had been kept from an earlier call and broke does not count."""


class Concurrency(ApiModel):
    """How many calls are executed at a time."""

    max_in_flight: Annotated[int, Field(ge=1, le=10000)] = 64
    """In one pod of a deployment, and by one worker of a program at one endpoint."""
    queue_timeout_seconds: Annotated[int, Field(ge=0, le=600)] = 5
    """How long a call waits for its turn, or for pods that are being replaced, before it goes elsewhere or fails."""


class ToolBreaker(ApiModel):
    """When an endpoint is left alone for a while. Each worker of each program has its own view of each endpoint."""

    consecutive_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Failures in a row after which it is: no connection, no answer in time, or a 5xx. A 429 is none."""
    error_rate_percent: Percent | None = None
    """Also when this share of at least 20 calls within a minute failed."""
    slow_call_millis: Millis | None = None
    """From this on a call is slow: its endpoint is used only while no other is left. Slow is not down."""
    open_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long it is left alone."""
    half_open_requests: Annotated[int, Field(ge=1, le=100)] = 1
    """How many calls must then succeed."""


class Health(ApiModel):
    """How the operator looks at the backends. Callers do not wait for it: they have breakers."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.probe == 'Call' || !has(self.arguments)", "health.arguments belongs to probe Call", ".arguments"
        )
    )

    period_seconds: Annotated[int, Field(ge=5, le=3600)] = 30
    """How often."""
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 10
    """A backend that takes longer is Slow, which is not down."""
    failure_threshold: Annotated[int, Field(ge=1, le=100)] = 3
    """How many looks in a row must fail."""
    probe: Literal["Contract", "TCP", "Call"] = "Contract"
    """Contract: ask what it offers (GET /tools, or an MCP tools/list) and compare. TCP: only connect. Call: compare,
    then call it, which must be harmless."""
    arguments: Preserved | None = None
    """What probe Call calls it with."""


class ToolCache(ApiModel):
    """Results that are given again without a call."""

    ttl_seconds: Annotated[int, Field(ge=0, le=2592000)] = 0
    """How long, in the caller's cache; 0 for not at all. A program without a cache keeps nothing."""


class NamespaceSelector(ApiModel):
    """Namespaces by their labels."""

    match_labels: LabelMap
    """Labels that a namespace must carry."""


class AllowedNamespaces(ApiModel):
    """Whose programs may call the tool."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "(self.from == 'Selector') == has(self.selector)",
            "access.allowedNamespaces: selector belongs to from Selector, and only to it",
        )
    )

    from_: Literal["Same", "All", "Selector"] = Field(default="Same", alias="from")
    """Same: those of its own namespace. All: those of all namespaces that the operator watches."""
    selector: NamespaceSelector | None = None
    """Which namespaces."""

    @model_validator(mode="after")
    def _with_selector(self) -> Self:
        if (self.from_ == "Selector") != (self.selector is not None):
            raise ValueError("access.allowedNamespaces: selector belongs to from Selector, and only to it")
        return self


class Access(ApiModel):
    """Who may call the tool."""

    allowed_namespaces: AllowedNamespaces = Field(default_factory=AllowedNamespaces)
    """Whose programs may."""


AGAIN = (
    "routing.retryOn: Timeout and Status5xx need contract.idempotency Idempotent, for the call may have been executed"
)
KEPT = "cache.ttlSeconds needs contract.idempotency Idempotent"


class ToolSpec(ApiModel):
    """What a user asks for."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.contract.idempotency == 'Idempotent'"
                " || !self.routing.retryOn.exists(r, r == 'Timeout' || r == 'Status5xx')",
                AGAIN,
                ".routing",
            ),
            rule("self.contract.idempotency == 'Idempotent' || self.cache.ttlSeconds == 0", KEPT, ".cache"),
        )
    )

    contract: Contract
    """What the tool takes and gives. A backend that says otherwise is not used."""
    backends: Annotated[tuple[Backend, ...], Field(min_length=1, max_length=8, json_schema_extra=map_list("name"))]
    """Where it is executed."""
    routing: Routing = Field(default_factory=Routing)
    """Which backend gets a call."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """The time of one attempt; the caller's deadline may be sooner."""
    concurrency: Concurrency = Field(default_factory=Concurrency)
    """How many calls are executed at a time."""
    breaker: ToolBreaker = Field(default_factory=ToolBreaker)
    """When an endpoint is left alone for a while."""
    health: Health = Field(default_factory=Health)
    """How the operator looks at the backends."""
    cache: ToolCache = Field(default_factory=ToolCache)
    """Results that are given again."""
    access: Access = Field(default_factory=Access)
    """Who may call the tool."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """The number of pods of each deployment; ignored when autoscaling is set."""
    autoscaling: Autoscaling | None = None
    """Scale each deployment by load between two bounds."""
    service_account: ServiceAccount = Field(default_factory=ServiceAccount)
    """The identity of the pods."""
    suspend: bool = False
    """True: run no pods, keep everything else."""

    @model_validator(mode="after")
    def _safe_to_repeat(self) -> Self:
        if self.contract.idempotency == "Idempotent":
            return self
        if {"Timeout", "Status5xx"} & set(self.routing.retry_on):
            raise ValueError(AGAIN)
        if self.cache.ttl_seconds:
            raise ValueError(KEPT)
        return self


class BackendStatus(ApiModel):
    """One backend as it stands."""

    name: Word
    """Its name."""
    state: Literal["Healthy", "Slow", "Unhealthy", "Excluded", "Unknown"]
    """Slow: it answers, but late. Excluded: it offers something else than the contract. Unknown: nothing was seen of it
    yet."""
    reason: Word = ""
    """Why it is not Healthy, in one word."""
    message: Sentence = ""
    """What is wrong and what to do."""
    endpoint: Address = ""
    """Where it is."""
    ready_replicas: int | None = None
    """Ready pods of a deployment."""
    schema_digest: Word = ""
    """Changes exactly when what it says it takes and gives changes."""


class ToolStatus(ApiModel):
    """What the operator observed."""

    observed_generation: int = 0
    """The generation of the spec that this status is about."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=map_list("type"))] = ()
    """Ready, Available, ContractVerified, BackendsHealthy."""
    url: Address | None = None
    """The address of its deployments within the cluster."""
    backends: Annotated[tuple[BackendStatus, ...], Field(max_length=8, json_schema_extra=map_list("name"))] = ()
    """Its backends."""
    healthy_backends: Word = ""
    """How many backends are used, such as 1/2."""
    contract: Word = ""
    """Verified, Mismatch or Unknown."""
    used_by: Annotated[tuple[Word, ...], Field(max_length=20)] = ()
    """Programs that list it, as NAMESPACE/NAME."""
    replicas: int = 0
    """Pods of its deployments."""
    ready_replicas: int = 0
    """Ready pods."""
    selector: Sentence = ""
    """Its pods, for the scale subresource."""


class Tool(Owner):
    """A DSPyTool as the operator knows it: the parsed spec and the metadata that matters."""

    kind: ClassVar[str] = "DSPyTool"
    spec: ToolSpec

    @property
    def key(self) -> str:
        """Its name everywhere, as NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"
