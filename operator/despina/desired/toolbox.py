"""What a program's pods need to know of the tools that they may call: a ConfigMap, and a Secret with the tokens.

Both change while the pods run. They hold every tool that a revision uses which is still around, so that taking a tool
out of the spec does not take it from the version that still serves.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from despina.api.program import Program
from despina.api.tool import Backend, Tool, ToolStatus
from despina.desired.labels import metadata, program_labels
from despina.wire import (
    DIGESTS_FILE,
    NEVER,
    REDIS_SEAL,
    TOOL_TOKENS_DIR,
    TOOLS_FILE,
    ContractConfig,
    ToolBackend,
    ToolBreakerConfig,
    ToolConfig,
    ToolsConfig,
)

HOST_PORT = 8080
DIGESTS = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class ToolView:
    """One tool that a program uses, as its namespace may see it."""

    key: str
    """NAMESPACE/NAME."""
    tool: Tool | None = None
    status: ToolStatus = field(default_factory=ToolStatus)
    trouble: tuple[str, str] | None = None
    """Why it cannot be called: NotFound or NotAllowed, and what to do."""
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Bearer tokens, by the file that holds them."""


def toolbox_name(program: Program) -> str:
    """The name of both."""
    return f"{program.name}-tools"


def token_file(key: str, backend: str | None = None) -> str:
    """The file with the token of a tool's own pods, or of one backend elsewhere."""
    return ".".join([*key.split("/"), *([backend] if backend else [])])


def build_toolbox(
    program: Program, views: tuple[ToolView, ...], redis_seal: str = "", digests: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The ConfigMap and the Secret, each where there is anything to put into it."""
    tokens = {name: token for view in views for name, token in view.tokens.items()}
    tokens |= {REDIS_SEAL: redis_seal} if redis_seal else {}
    config = ToolsConfig(tools={view.key: tool_config(view) for view in views})
    data = {TOOLS_FILE: config.model_dump_json(exclude_defaults=True)} if views or redis_seal else {}
    data |= {DIGESTS_FILE: json.dumps(digests, sort_keys=True)} if digests else {}
    encoded = {name: base64.b64encode(token.encode()).decode() for name, token in sorted(tokens.items())}
    meta = metadata(program, toolbox_name(program), program_labels(program))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": encoded}
    given = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": dict(meta), "data": data}
    return [*([secret] if views or redis_seal else []), *([given] if data else [])]


def digests_in(objects: Mapping[tuple[str, str], Mapping[str, Any]], program: Program) -> dict[str, str]:
    """What revisions were when they were first loaded, as far as it can be read."""
    data = (objects.get(("ConfigMap", toolbox_name(program))) or {}).get("data") or {}
    try:
        return DIGESTS.validate_json(data.get(DIGESTS_FILE) or "{}")
    except ValueError:
        return {}


def tool_config(view: ToolView) -> ToolConfig:
    """One tool as its callers see it."""
    if view.tool is None or view.trouble:
        return ToolConfig(missing=": ".join(view.trouble or ("NotFound", view.key)))
    spec, excluded = view.tool.spec, {b.name: b.message for b in view.status.backends if b.state == "Excluded"}
    return ToolConfig(
        contract=contract_config(view.tool),
        backends=tuple(_backend(view, b, excluded.get(b.name, "")) for b in spec.backends),
        service=_service(view, view.tool),
        policy=spec.routing.policy,
        retry_on=spec.routing.retry_on,
        max_attempts=spec.routing.max_attempts,
        timeout_seconds=spec.timeout_seconds,
        max_in_flight=spec.concurrency.max_in_flight,
        queue_timeout_seconds=spec.concurrency.queue_timeout_seconds,
        breaker=_breaker(view.tool),
        cache_ttl_seconds=spec.cache.ttl_seconds,
    )


def contract_config(tool: Tool) -> ContractConfig:
    """The contract, as hosts and callers know it."""
    contract = tool.spec.contract
    return ContractConfig(
        name=contract.name,
        description=contract.description,
        parameters=contract.parameters,
        returns=contract.returns,
        version=contract.version,
        idempotent=contract.idempotency == "Idempotent",
    )


def _breaker(tool: Tool) -> ToolBreakerConfig:
    breaker = tool.spec.breaker
    return ToolBreakerConfig(
        error_rate_percent=breaker.error_rate_percent or NEVER,
        consecutive_failures=breaker.consecutive_failures,
        open_seconds=breaker.open_seconds,
        half_open_requests=breaker.half_open_requests,
        slow_call_millis=breaker.slow_call_millis,
    )


def _backend(view: ToolView, backend: Backend, excluded: str) -> ToolBackend:
    tool = view.tool
    assert tool is not None  # noqa: S101 - asked for by tool_config first
    name = token_file(view.key, None if backend.deployment else backend.name)
    return ToolBackend(
        name=backend.name,
        kind="Mcp" if backend.mcp else "Http",
        url=backend_url(tool, backend),
        is_headless=backend.deployment is not None or backend.service is not None,
        tool=(backend.mcp.tool if backend.mcp else None) or tool.spec.contract.name,
        transport=backend.mcp.transport if backend.mcp else "StreamableHTTP",
        priority=backend.priority,
        weight=backend.weight,
        token_file=f"{TOOL_TOKENS_DIR}/{name}" if name in view.tokens else None,
        excluded=excluded,
    )


def _service(view: ToolView, tool: Tool) -> ToolBackend | None:
    if not any(b.deployment for b in tool.spec.backends):
        return None
    return ToolBackend(
        name="service",
        url=f"http://{tool.name}.{tool.namespace}.svc",
        tool=tool.spec.contract.name,
        token_file=f"{TOOL_TOKENS_DIR}/{token_file(view.key)}",
    )


def pods_service(tool: Tool, backend: Backend) -> str:
    """The headless Service, and the Deployment, of one backend."""
    return f"{tool.name}-{backend.name}"


def backend_url(tool: Tool, backend: Backend) -> str:
    """Where a backend is. The name is short of the cluster's domain, which callers need not know."""
    if backend.deployment:
        return f"http://{pods_service(tool, backend)}.{tool.namespace}.svc:{HOST_PORT}"
    if backend.service:
        service = backend.service
        return f"http://{service.name}.{tool.namespace}.svc:{service.port}{service.path}"
    return str(backend.mcp.url if backend.mcp else backend.url)
