"""Tools: where programs find them, what hosts run, and what they offer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from despina.wire.base import Document, Report
from despina.wire.config import BreakerConfig, ContractConfig


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
