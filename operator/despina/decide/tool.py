"""From what stands of a tool to what shall be done, and to what its users are told: pure.

Callers find their own way (DNS, breakers); what is judged here is for people, but for one thing: a backend that offers
something else than the contract is excluded, and callers are told so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from despina.api.conditions import Reason
from despina.api.contract import differences, schema_digest, told
from despina.api.placement import PlacementProfile
from despina.api.pods import Placement
from despina.api.tool import Backend, BackendStatus, Tool, ToolStatus
from despina.decide.drift import applied
from despina.decide.observed import Defaults, ObjectKey, PodView, Trouble
from despina.decide.plan import Action, Apply, Delete
from despina.decide.sizing import asleep, sized
from despina.desired.labels import BACKEND, SHAPE, tool_labels
from despina.desired.overlay import overlay_problem
from despina.desired.scaling import build_hpa
from despina.desired.tool import (
    CONTAINER,
    build_account,
    build_backend,
    build_tokens,
    build_tool_service,
    hosted,
)
from despina.desired.toolbox import backend_url, contract_config, pods_service
from despina.wire import OfferedTool

State = Literal["Healthy", "Slow", "Unhealthy", "Excluded", "Unknown"]


@dataclass(frozen=True)
class Look:
    """What the operator's last looks at a backend gave."""

    offers: tuple[OfferedTool, ...] = ()
    """What it says it offers, each of its pods for itself; empty where it was not asked, or does not have the tool."""
    has_answered: bool = False
    others: tuple[str, ...] = ()
    """What it offers instead, where it does not have the tool."""
    failures: int = 0
    """Looks in a row that failed."""
    error: str = ""
    is_slow: bool = False
    is_unchecked: bool = False
    """It is there, but its contract was not asked for."""


@dataclass(frozen=True)
class ObservedTool:
    """Everything about one tool at one moment."""

    tool: Tool
    status: ToolStatus
    defaults: Defaults
    tokens: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """What callers may present, by their namespace; a second one is there while the operator's key is replaced."""
    objects: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict)
    """The tool's own objects."""
    pods: tuple[PodView, ...] = ()
    """Its pods; `revision` is their backend."""
    refused: Mapping[str, Trouble] = field(default_factory=dict)
    """Why no more pods are made, by backend."""
    looks: Mapping[str, Look] = field(default_factory=dict)
    """By backend."""
    used_by: tuple[str, ...] = ()

    def pods_of(self, backend: str) -> tuple[PodView, ...]:
        """The pods of one backend that are not ending."""
        return tuple(p for p in self.pods if p.revision == backend and not p.ending)

    def ready(self, backend: str) -> int:
        """How many of them are ready."""
        return sum(p.ready for p in self.pods_of(backend))


@dataclass(frozen=True)
class ToolPlan:
    """What shall be done for a tool, and how its backends stand."""

    actions: tuple[Action, ...]
    backends: tuple[BackendStatus, ...]
    problems: tuple[tuple[str, str], ...] = ()
    """Reasons and messages of what is wrong with the spec."""


def decide_tool(o: ObservedTool) -> ToolPlan:
    """The next step of one tool."""
    problems = {b.name: p for b in o.tool.spec.backends if (p := backend_problem(o, b))}
    return ToolPlan(
        actions=tuple(_steps(o, problems)),
        backends=tuple(backend_status(o, b, problems.get(b.name)) for b in o.tool.spec.backends),
        problems=tuple(problems.values()),
    )


def profile_of(o: ObservedTool, backend: Backend) -> PlacementProfile:
    """The node pool of a backend."""
    return o.defaults.profiles.get((backend.placement or Placement()).profile, PlacementProfile())


def backend_problem(o: ObservedTool, backend: Backend) -> tuple[str, str] | None:
    """Why a backend's pods cannot be made, as a reason and a message that names the field."""
    profile, profiles = (backend.placement or Placement()).profile, o.defaults.profiles
    where = f"spec.backends[{backend.name}]"
    if profile != "default" and profile not in profiles:
        valid = ", ".join(sorted({*profiles, "default"}))
        return Reason.UNKNOWN_PROFILE, f"{where}.placement.profile: {profile!r} is not one of {valid}"
    if backend.deployment and (contradiction := _account_problem(o, backend)):
        return Reason.INVALID_SPEC, contradiction
    patch = backend.deployment.pod_template if backend.deployment else None
    problem = overlay_problem(patch, f"{where}.deployment.podTemplate", CONTAINER) if patch is not None else None
    return (Reason.INVALID_POD_TEMPLATE, problem) if problem else None


def _steps(o: ObservedTool, problems: Mapping[str, Any]) -> Iterator[Action]:
    if hosted(o.tool):
        yield from _applied(o, build_tokens(o.tool, o.tokens))
        yield from _applied(o, build_tool_service(o.tool))
    able = [(backend, host) for backend, host in hosted(o.tool) if backend.name not in problems]
    yield from _accounts(o, [backend for backend, _ in able])
    for backend, host in able:
        profile = profile_of(o, backend)
        for document in build_backend(o.tool, backend, host, profile, o.defaults.runtime_image):
            yield from _applied(o, document)
        yield from _sized(o, backend)
    yield from _pruned(o)


def _accounts(o: ObservedTool, backends: list[Backend]) -> Iterator[Action]:
    """One that all share is made once, with what the pools of all of them give it: else each would undo another's."""
    shared = PlacementProfile(service_account_annotations=_given(o, [backend for backend, _ in hosted(o.tool)]))
    is_shared = bool(o.tool.spec.service_account.name)
    for backend in backends[:1] if is_shared else backends:
        if document := build_account(o.tool, backend, shared if is_shared else profile_of(o, backend)):
            yield from _applied(o, document)


def _given(o: ObservedTool, backends: Iterable[Backend]) -> dict[str, str]:
    """The annotations that backends' pools give a ServiceAccount, such as the role of a cloud."""
    pools = [profile_of(o, backend).service_account_annotations for backend in backends]
    return {name: text for pool in reversed(pools) for name, text in pool.items()}


def _account_problem(o: ObservedTool, backend: Backend) -> str:
    """What contradicts itself where backends share an account."""
    account, before = o.tool.spec.service_account, [b for b, _ in hosted(o.tool)]
    others, own = _given(o, before[: before.index(backend)]), profile_of(o, backend).service_account_annotations
    shared = (own.keys() & others.keys()) - account.annotations.keys()  # what the spec says counts for all
    unlike = sorted(name for name in shared if own[name] != others[name])
    if not (account.name and account.create == "Enabled" and unlike):
        return ""
    return f"spec.serviceAccount.name: backend {backend.name} needs another {unlike[0]} on it than a backend before"


def _applied(o: ObservedTool, document: dict[str, Any]) -> Iterator[Action]:
    """Apply what is not as it should be. A Deployment is compared by its note alone: the default image of a new
    operator comes with the next change."""
    live = o.objects.get((document["kind"], document["metadata"]["name"]))
    if document["kind"] == "Deployment":
        shape = document["metadata"]["annotations"][SHAPE]
        if live is None or (live["metadata"].get("annotations") or {}).get(SHAPE) != shape:
            yield Apply(document)
    else:
        yield from applied(o.objects, document)


def _sized(o: ObservedTool, backend: Backend) -> Iterator[Action]:
    spec, name = o.tool.spec, pods_service(o.tool, backend)
    live = o.objects.get(("Deployment", name))
    running = live["spec"].get("replicas", 1) if live else None
    size = 0 if spec.suspend else spec.autoscaling.within(running or 0) if spec.autoscaling else spec.replicas
    hpa = build_hpa(o.tool, spec.autoscaling, name, tool_labels(o.tool, backend.name)) if spec.autoscaling else None
    yield from sized(o.objects, name, running, size, hpa)


def _pruned(o: ObservedTool) -> Iterator[Action]:
    """What belongs to a backend that is no more."""
    present = {backend.name for backend, _ in hosted(o.tool)}
    shared = ("ServiceAccount", o.tool.spec.service_account.name)  # it may have been one backend's before
    for key, live in o.objects.items():
        backend = (live["metadata"].get("labels") or {}).get(BACKEND)
        if backend is not None and backend not in present and key != shared:
            yield Delete(key)


def backend_status(o: ObservedTool, backend: Backend, problem: tuple[str, str] | None) -> BackendStatus:
    """How one backend stands."""
    look = o.looks.get(backend.name, Look())
    state, reason, message = _judged(o, backend, look, problem)
    offered = _offered(o.tool, look)
    return BackendStatus(
        name=backend.name,
        state=state,
        reason=reason,
        message=message,
        endpoint=backend_url(o.tool, backend),
        ready_replicas=o.ready(backend.name) if backend.deployment else None,
        schema_digest=schema_digest(offered.parameters, offered.returns) if offered else "",
    )


def _judged(o: ObservedTool, backend: Backend, look: Look, problem: tuple[str, str] | None) -> tuple[State, str, str]:
    if problem:
        return "Unhealthy", *problem
    if backend.deployment and not o.ready(backend.name):
        return "Unhealthy", *why_not_ready(o, backend)
    if look.failures >= o.tool.spec.health.failure_threshold:
        return "Unhealthy", Reason.UNREACHABLE, look.error
    found = offer_problem(o.tool, look)
    if found:
        return "Excluded", *found
    offered = _offered(o.tool, look)
    if offered and offered.problem:
        return "Unhealthy", offered.problem.reason, offered.problem.message
    if look.is_slow:
        return "Slow", Reason.SLOW, f"a look took longer than {o.tool.spec.health.timeout_seconds} s"
    if look.is_unchecked:
        return "Healthy", Reason.REACHABLE, "it is there; its contract was not asked for"
    return ("Healthy", "", "") if look.has_answered else ("Unknown", Reason.NOT_ASKED_YET, look.error)


def offer_problem(tool: Tool, look: Look) -> tuple[str, str] | None:
    """How what a backend offers differs from the contract."""
    if not look.has_answered or look.is_unchecked:
        return None
    offered = _offered(tool, look)
    if offered is None:
        offers = ", ".join(look.others) or "nothing"
        return Reason.TOOL_NOT_OFFERED, f"it has no tool {tool.spec.contract.name}; it has {offers}"
    found = _differences(tool, offered)
    return (Reason.CONTRACT_MISMATCH, told(found)) if found else None


def _offered(tool: Tool, look: Look) -> OfferedTool | None:
    """The offer that fits best: while pods are replaced, some may still offer what was agreed on before."""
    return min(look.offers, key=lambda offer: len(_differences(tool, offer)), default=None)


def _differences(tool: Tool, offered: OfferedTool) -> list[str]:
    return differences(contract_config(tool), offered.parameters, offered.returns)


def why_not_ready(o: ObservedTool, backend: Backend) -> tuple[str, str]:
    """Why a backend has no ready pod, as far as its pods tell."""
    if sleeps := asleep(o.tool.spec):
        return Reason.SUSPENDED, sleeps
    for pod in o.pods_of(backend.name):
        if pod.trouble:
            pool = (backend.placement or Placement()).profile
            where = f"pool {pool}: " if pod.trouble.reason == Reason.UNSCHEDULABLE else ""
            return pod.trouble.reason, f"{where}{pod.trouble.message}"
    refused = o.refused.get(backend.name)
    if refused:
        return refused.reason, refused.message
    return Reason.NO_READY_PODS, "no pod is ready yet"
