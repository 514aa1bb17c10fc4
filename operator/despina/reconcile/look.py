"""A look at one program with a person's own rights: what a pass of the operator would see, as far as they reach.

Nothing is written, no Secret is read, and MLflow is not asked, whose credentials are the operator's. What is missing
for that is taken from the status and from what runs, and said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from despina.api.base import is_object_name
from despina.api.conditions import ConditionStatus, Reason, Type
from despina.api.placement import PlacementProfile
from despina.api.pods import Accelerator
from despina.api.program import Program
from despina.api.status import ProgramStatus
from despina.cluster.client import Document, Onlooker
from despina.cluster.errors import ClusterError, Gone, Refused, UnknownKind
from despina.cluster.observe import Live, Unreadable, observe, parse, read_manifest
from despina.cluster.tools import tools_of
from despina.decide.observed import (
    Defaults,
    JobView,
    Observed,
    OptimizationJobView,
    PodView,
    Resolution,
    kind_of,
)
from despina.decide.plan import Tell
from despina.decide.rollout import decide
from despina.decide.snapshot import Snapshot, snapshot_of
from despina.desired.labels import PROGRAM, REVISION
from despina.desired.overlay import CONTAINER
from despina.desired.tool import hosted
from despina.desired.toolbox import ToolView, build_toolbox, digests_in, token_file
from despina.reconcile.program import tool_keys, uses_redis
from despina.sources.outbox import ATTEMPTS
from despina.status.report import requested
from despina.wire import INTERFACE_PATH, STATE_PATH, PodState, reading

TOKEN = "a token"  # noqa: S105 - it stands for one


@dataclass(frozen=True)
class Part:
    """Something that was looked for, and what is to be said of it where it could not be seen."""

    seen: Any
    unseen: tuple[str, ...] = ()


async def look(cluster: Onlooker, namespace: str, name: str, now: float) -> Snapshot:
    """The snapshot, with what could not be seen; raises ClusterError."""
    live = await _live(cluster, namespace, name)
    deployments = await cluster.list("Deployment", namespace, {PROGRAM: name})
    pods, tools = await _pods(cluster, live), await _tools(cluster, live)
    redis_seal = TOKEN if uses_redis(live) else ""
    defaults, model = defaults_of(live, deployments), answer_of(live.program, live.status)
    o = Observed(
        program=live.program,
        status=live.status,
        defaults=defaults,
        model=model,
        deployments=live.deployments,
        pods=pods.seen,
        active=live.active,
        preview_ready=live.preview_ready,
        objects={**live.objects, **_toolbox(live.program, tools, redis_seal, digests_in(live.objects, live.program))},
        configs=live.configs,
        interfaces=await _interfaces(cluster, live, pods.seen),
        tools=tools.seen,
        redis_seal=redis_seal,
        read_key=next((c.read_key for view in live.deployments for c in view.configs), ""),
        ask_key=next((c.ask_key for view in live.deployments for c in view.configs), ""),
        jobs=tuple(_job(job, live.status) for job in live.jobs),
        optimizations=tuple(_optimization(job, live.status) for job in live.optimizations),
    )
    unseen = (_taken(defaults, model), *pods.unseen, *tools.unseen, *_uncounted(live.program))
    return snapshot_of(_as_told(o, now), now, unseen)


async def _live(cluster: Onlooker, namespace: str, name: str) -> Live:
    manifest = await read_manifest(cluster, Program.kind, namespace, name)
    if manifest is None:
        raise Gone(f"there is no DSPyProgram {name} in namespace {namespace}")
    program = parse(Program, manifest)
    if isinstance(program, Unreadable):
        raise Refused(f"the manifest of {name} cannot be read: {program.message}")
    return await observe(cluster, program, manifest)


def _taken(defaults: Defaults, model: Resolution) -> str:
    version = f"version {model.version}" if model.version else str(model.reason)
    server = f", MLflow at {defaults.tracking_uri}" if defaults.tracking_uri else ""
    return f"As the status and what runs have it: MLflow's answer ({version}), image {defaults.runtime_image}{server}."


def _uncounted(program: Program) -> tuple[str, ...]:
    """Labels are counted in MLflow, where a run may begin because of them."""
    text = "Labels were not counted, for MLflow was not asked: whether they would begin an optimisation is not known."
    triggers = program.spec.optimization.triggers if program.spec.optimization else ()
    return (text,) if any(trigger.type != "Schedule" for trigger in triggers) else ()


def defaults_of(live: Live, deployments: list[Document]) -> Defaults:
    """The operator's configuration, as far as what it made tells."""
    made = sorted(deployments, key=lambda d: (d["metadata"]["labels"].get(REVISION) == live.active, _age(d)))
    container = _container(made[-1]) if made else {}
    views = sorted(live.deployments, key=lambda view: view.revision == live.active)
    config = next((view.config for view in reversed(views) if view.config), None)
    return Defaults(
        runtime_image=container.get("image", "unknown"),
        tracking_uri=config.model.tracking_uri if config else None,
        profiles=_profiles(live, container),
        order_keys=config.order_keys if config else (),
        log_format=config.log_format if config else Defaults.log_format,
        cluster_domain=(live.status.url or "").partition(".svc.")[2] or Defaults.cluster_domain,
    )


def _age(deployment: Document) -> str:
    return str(deployment["metadata"].get("creationTimestamp", ""))


def _container(deployment: Document) -> Document:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return next((c for c in containers if c["name"] == CONTAINER), {})


def _profiles(live: Live, container: Document) -> Mapping[str, PlacementProfile]:
    """The pool that the manifest names; or those that there are, where the operator has said so in refusing another."""
    refused = next((c.message for c in live.status.conditions if c.reason == Reason.UNKNOWN_PROFILE), "")
    there = refused.partition(" is not one of ")[2]
    if there:
        return dict.fromkeys(there.split(", "), PlacementProfile())
    limits = (container.get("resources") or {}).get("limits") or {}
    device = next((Accelerator(resource=name) for name in limits if "/" in name), None)
    return {live.program.spec.placement.profile: PlacementProfile(accelerator=device)}


def answer_of(program: Program, status: ProgramStatus) -> Resolution:
    """What MLflow said when the operator last wrote the status."""
    condition = next((c for c in status.conditions if c.type == Type.MODEL_RESOLVED), None)
    if condition is None or status.model.requested != requested(program):
        return Resolution(None, Reason.NOT_ASKED_YET, "the operator has not said yet what MLflow answers")
    if condition.status == ConditionStatus.TRUE:
        return Resolution(status.model.resolved_version, Reason.MODEL_FOUND, created=_created(status))
    known = condition.reason in set(Reason)
    return Resolution(None, Reason(condition.reason) if known else Reason.NOT_ASKED_YET, condition.message)


def _created(status: ProgramStatus) -> dict[str, int]:
    """When versions were made, as far as the status remembers."""
    noted = (*status.history, status.active, status.previous, status.candidate)
    return {one.version: one.created_at for one in noted if one and one.created_at is not None}


async def _pods(cluster: Onlooker, live: Live) -> Part:
    """The pods with what they say of themselves."""
    heard = await asyncio.gather(*(_heard(cluster, live.program.namespace, pod) for pod in live.pods))
    silent = [said.unseen[0] for said in heard if said.unseen]
    text = f"{len(silent)} of {len(heard)} pods were not heard, so what they hold and count is not known: "
    return Part(_refusing([said.seen for said in heard], live), (f"{text}{silent[0]}.",) if silent else ())


def _refusing(pods: list[PodView], live: Live) -> tuple[PodView, ...]:
    """That pods take no orders the operator alone knows, and says of one that callers reach."""
    marks = (c for c in live.status.conditions if c.type == Type.ORDERS_ACCEPTED and c.status == ConditionStatus.FALSE)
    said = next((c.message.partition("; ")[0] for c in marks), "")
    there = [p for p in pods if p.ready and p.revision == live.active]
    one = next((p for p in there if said.startswith(f"{p.name}: ")), there[0] if there else None)
    return tuple(replace(p, refusal=said.removeprefix(f"{p.name}: ")) if p is one else p for p in pods)


async def _heard(cluster: Onlooker, namespace: str, pod: PodView) -> Part:
    if pod.ip is None or pod.ending:
        return Part(pod)
    try:
        said = PodState.model_validate(await _read(cluster, namespace, pod, STATE_PATH))
    except ClusterError as exc:
        return Part(pod, (str(exc),))
    except ValueError:
        return Part(pod, (f"pod {pod.name} does not answer like Despina's runtime",))
    return Part(replace(pod, report=said))


async def _read(cluster: Onlooker, namespace: str, pod: PodView, path: str) -> Document:
    return await cluster.pod_says(namespace, pod.name, path, reading(pod.read_keys, namespace, pod.name))


async def _interfaces(cluster: Onlooker, live: Live, pods: Iterable[PodView]) -> Mapping[str, Mapping[str, Any]]:
    """Only where a gate compares them."""
    if not any(gate.type == "SchemaCompatibility" for gate in live.program.spec.rollout.gates):
        return {}
    holders = {name: p for p in pods if p.report for name, h in p.report.held.items() if h.phase == "Ready"}
    namespace, found = live.program.namespace, {}
    for revision, pod in holders.items():
        if not is_object_name(revision):  # it would be part of a path that is asked for with a person's rights
            continue
        try:
            found[revision] = await _read(cluster, namespace, pod, f"{INTERFACE_PATH}/{revision}")
        except (ClusterError, ValueError):
            continue  # the gate then waits, in words
    return found


def _job(job: JobView, status: ProgramStatus) -> JobView:
    """An evaluation, with how far it was when the operator last said so."""
    gates = status.rollout.gates if status.rollout else ()
    said = next((g.message for g in gates if g.type == "Evaluate" and g.result == "Running"), "")
    return replace(job, progress="" if job.ended else said)


def _optimization(job: OptimizationJobView, status: ProgramStatus) -> OptimizationJobView:
    """The same of an optimisation."""
    run = status.optimization.run if status.optimization else None
    return replace(job, progress=run.progress if run and run.job == job.name and not job.ended else "")


async def _tools(cluster: Onlooker, live: Live) -> Part:
    parts = await asyncio.gather(*(_tool(cluster, live.program, key) for key in sorted(tool_keys(live))))
    return Part(tuple(part.seen for part in parts), tuple(text for part in parts for text in part.unseen))


async def _tool(cluster: Onlooker, program: Program, key: str) -> Part:
    namespace, _, name = key.partition("/")
    try:
        await cluster.get("DSPyTool", namespace, name)
        (view,) = await tools_of(cluster, program, [key], lambda _uid, _namespace: (TOKEN,))
    except (Refused, UnknownKind) as exc:
        return Part(ToolView(key), (f"DSPyTool {key} was not seen, and is taken to be as it should be: {exc}.",))
    return Part(replace(view, tokens=_tokens(view)))


def _tokens(view: ToolView) -> dict[str, str]:
    """Something in the place of each token that there should be."""
    if view.tool is None or view.trouble:
        return {}
    own = {token_file(view.key): TOKEN} if hosted(view.tool) else {}
    backends = [b.name for b in view.tool.spec.backends if b.auth_secret_ref]
    return own | {token_file(view.key, name): TOKEN for name in backends}


def _toolbox(
    program: Program, tools: Part, redis_seal: str, digests: Mapping[str, str]
) -> dict[tuple[str, str], Document]:
    """What was not read is taken to be as it should be: the Secret, and what would be made of tools not seen."""
    unread = ("Secret", "ConfigMap") if tools.unseen else ("Secret",)
    made = build_toolbox(program, tools.seen, redis_seal, digests)
    return {(d["kind"], d["metadata"]["name"]): d for d in made if d["kind"] in unread}


def _as_told(o: Observed, now: float) -> Observed:
    """Orders that no report shows are given once; that they were is known to the operator alone, and assumed here."""
    orders = [a for a in decide(o, now).steps if isinstance(a, Tell) and a.order in ATTEMPTS]
    told = {(a.pod.name, kind_of(a.order)): f"{a.order} {a.subject}" for a in orders}

    def of(pod: PodView) -> Mapping[str, str]:
        return {kind: what for (name, kind), what in told.items() if name == pod.name}

    return replace(o, pods=tuple(replace(p, told=of(p)) for p in o.pods))
