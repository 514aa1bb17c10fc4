"""Reading tools: one with everything that is its own, and those that a program uses, as its namespace may see them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from despina.api.program import Program
from despina.api.serving import SecretKeyRef
from despina.api.tool import Tool, ToolStatus
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import Refused
from despina.cluster.observe import OWNED, own_secret, owned, read_manifest, refusal
from despina.cluster.pods import pod_view
from despina.cluster.reading import as_far_as_readable, labels_of
from despina.decide.observed import ObjectKey, PodView, Trouble
from despina.desired.labels import BACKEND, REVISION, TOOL
from despina.desired.tool import hosted, tokens_name
from despina.desired.toolbox import ToolView, token_file

Mint = Callable[[str, str], tuple[str, ...]]
"""Makes the tokens by which a tool knows callers of a namespace: given the tool's uid and the namespace. They present
the first one; a second one is there while the operator's key is replaced."""


@dataclass(frozen=True)
class LiveTool:
    """What stands in the cluster for one tool."""

    status: ToolStatus
    objects: Mapping[ObjectKey, Document]
    pods: tuple[PodView, ...]
    refused: Mapping[str, Trouble]
    """Why no more pods of a backend are made."""


async def observe_tool(cluster: Cluster, tool: Tool, manifest: Document) -> LiveTool:
    """Read all that belongs to a tool."""
    labels = {TOOL: tool.name}
    kinds = (*OWNED, "Pod")
    lists = await asyncio.gather(*(cluster.list(kind, tool.namespace, labels) for kind in kinds))
    found = dict(zip(kinds, lists, strict=True))
    objects = owned(found, tool)
    return LiveTool(
        status=read_tool_status(manifest.get("status")),
        objects=objects | await own_secret(cluster, tool, tokens_name(tool)),
        pods=tuple(pod_view(_by_backend(p)) for p in found["Pod"]),
        refused=_refused(objects),
    )


def _refused(objects: Mapping[ObjectKey, Document]) -> dict[str, Trouble]:
    found = {labels_of(d).get(BACKEND, ""): refusal(d) for (kind, _), d in objects.items() if kind == "Deployment"}
    return {backend: trouble for backend, trouble in found.items() if trouble}


def _by_backend(pod: Document) -> Document:
    """A pod whose backend stands where a program's has its revision."""
    labels = labels_of(pod)
    return {**pod, "metadata": {**pod["metadata"], "labels": labels | {REVISION: labels.get(BACKEND, "")}}}


def read_tool_status(status: Any) -> ToolStatus:
    """The status as an older or newer operator left it, as far as it can be read."""
    return as_far_as_readable(ToolStatus, status) or ToolStatus()


async def callers_of(cluster: Cluster, tool: Tool, watched: Iterable[str]) -> list[str]:
    """The namespaces whose programs may call a tool, of those that the operator watches."""
    names = sorted({tool.namespace, *watched})
    allowed = await asyncio.gather(*(is_allowed(cluster, tool, name) for name in names))
    return [name for name, may in zip(names, allowed, strict=True) if may]


async def is_allowed(cluster: Cluster, tool: Tool, namespace: str) -> bool:
    """Whether programs of a namespace may call a tool; those of its own always may."""
    access = tool.spec.access.allowed_namespaces
    if namespace == tool.namespace or access.from_ == "All":
        return True
    if access.from_ == "Same" or access.selector is None:
        return False
    labels = await cluster.namespace_labels(namespace)
    return all(labels.get(k) == v for k, v in access.selector.match_labels.items())


async def tools_of(cluster: Cluster, program: Program, keys: Iterable[str], mint: Mint) -> tuple[ToolView, ...]:
    """The tools of these keys (NAMESPACE/NAME), in their order."""
    return tuple(await asyncio.gather(*(_view(cluster, program, key, mint) for key in sorted(set(keys)))))


async def _view(cluster: Cluster, program: Program, key: str, mint: Mint) -> ToolView:
    namespace, _, name = key.partition("/")
    try:
        manifest = await read_manifest(cluster, Tool.kind, namespace, name)
    except Refused:
        return ToolView(key, trouble=("NotAllowed", f"the operator does not watch namespace {namespace}"))
    if manifest is None:
        return ToolView(key, trouble=("NotFound", f"there is no DSPyTool {key}"))
    try:
        tool = Tool.parse(manifest)
    except ValidationError as exc:
        return ToolView(key, trouble=("NotFound", f"DSPyTool {key} cannot be read: {exc.error_count()} fields"))
    if not await is_allowed(cluster, tool, program.namespace):
        text = f"DSPyTool {key} does not allow namespace {program.namespace} (spec.access.allowedNamespaces)"
        return ToolView(key, trouble=("NotAllowed", text))
    status = read_tool_status(manifest.get("status"))
    return ToolView(key, tool, status, tokens=await _tokens(cluster, program, tool, mint))


async def _tokens(cluster: Cluster, program: Program, tool: Tool, mint: Mint) -> dict[str, str]:
    """What programs of this namespace present: to the tool's own pods, and to backends with tokens of theirs."""
    tokens: dict[str, str] = {}
    if hosted(tool):
        tokens[token_file(tool.key)] = mint(tool.uid, program.namespace)[0]
    for backend in tool.spec.backends:
        if backend.auth_secret_ref and (token := await secret_value(cluster, tool.namespace, backend.auth_secret_ref)):
            tokens[token_file(tool.key, backend.name)] = token
    return tokens


async def secret_value(cluster: Cluster, namespace: str, ref: SecretKeyRef) -> str | None:
    """One key of a Secret; None if it is not there."""
    found: dict[str, Any] = await cluster.get("Secret", namespace, ref.name) or {}
    encoded = (found.get("data") or {}).get(ref.key)
    return base64.b64decode(encoded).decode(errors="replace").strip() if encoded else None
