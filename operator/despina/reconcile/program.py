"""One pass over one program: observe, decide, execute, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from despina.api import GROUP
from despina.api.conditions import Reason
from despina.api.credentials import Credentials, server_of
from despina.api.program import Program
from despina.api.revision import experiment_of, named_versions, tool_uses
from despina.cluster.client import Cluster, Document
from despina.cluster.credentials import Lacking, mlflow_credentials
from despina.cluster.errors import ClusterError, Refused
from despina.cluster.observe import Live, Unreadable, observe, parse, read_manifest, read_status
from despina.cluster.reading import notes_of
from despina.cluster.tools import Mint, tools_of
from despina.decide.gates import watched_since
from despina.decide.observed import Defaults, LabelsView, Observed, PodView, Resolution
from despina.decide.plan import Action, MoveAlias, Tag, Tell
from despina.decide.rollout import decide
from despina.reconcile.carry import CONFLICT_AGAIN_SECONDS, Carrier, report_failure, report_unreadable, write_status
from despina.reconcile.queue import Key
from despina.reconcile.tool import ROTATION_SECONDS
from despina.sources.keys import ask_key, read_key
from despina.sources.labels import Labels
from despina.sources.marks import Marks
from despina.sources.mlflow import Registry
from despina.sources.reports import Reports
from despina.sources.runtime_admin import Orders
from despina.status.report import report
from despina.telemetry import PASSES_FAILED, PROGRAMS, RECONCILE_SECONDS
from despina.wire import RuntimeConfig
from despina.wire.logs import ABOUT

log = logging.getLogger(__name__)


class Access(NamedTuple):
    """What MLflow said of the program's model, and who asks it."""

    model: Resolution
    credentials: Credentials | None
    """The program's own; None where the operator asks as itself."""


@dataclass(frozen=True)
class Reconciler:
    """What a pass needs; calling it makes one."""

    cluster: Cluster
    registry: Registry
    labels: Labels
    marks: Marks
    orders: Orders
    reports: Reports
    defaults: Defaults
    mint: Mint
    clock: Callable[[], float] = time.time
    began: float = 0.0
    """When this process did, by the same clock."""
    conflicts: dict[Key, int] = field(default_factory=dict)
    """Of each program, in how many of the last passes the API server had something else than was read."""

    async def __call__(self, key: Key) -> float | None:
        """Take the next step; the result is when to look again, in seconds, though nothing happens."""
        ABOUT.set({"namespace": key[0], "program": key[1]})
        with RECONCILE_SECONDS.time(), PASSES_FAILED.labels(Program.kind).count_exceptions():
            return await self._pass(key)

    async def _pass(self, key: Key) -> float | None:
        namespace, name = key
        manifest = await read_manifest(self.cluster, Program.kind, namespace, name)
        if manifest is None:
            self.registry.forget(key)
            self.labels.forget(key)
            self.marks.forget(key)
            self.orders.told(key, ())
            self.reports.forget(key)
            self.conflicts.pop(key, None)
            PROGRAMS.forget(key)
            return None
        PROGRAMS.note(key, read_status(manifest.get("status")))  # also where the pass comes to nothing
        program = parse(Program, manifest)
        if isinstance(program, Unreadable):
            await report_unreadable(self.cluster, manifest, program, self.clock())
            return None
        try:
            return await self._step(key, program, manifest)
        except ClusterError as exc:
            reason = Reason.REJECTED if isinstance(exc, Refused) else Reason.API_UNAVAILABLE
            await report_failure(self.cluster, manifest, reason, str(exc), self.clock())
            raise
        except Exception as exc:
            text = f"{type(exc).__name__}; the operator's log has more"
            await report_failure(self.cluster, manifest, Reason.OPERATOR_ERROR, text, self.clock())
            raise

    async def _step(self, key: Key, program: Program, manifest: Document) -> float | None:
        live = await observe(self.cluster, program, manifest)
        access = await self.access(key, program)
        observed = await self._snapshot(key, live, access)
        plan = decide(observed, self.clock())
        orders, writes = split(plan.actions)
        for order in orders:  # before anything is waited for: pods that load a version begin a write's time earlier
            self._tell(key, order)
        if writes and live.versions and not await self._is_as_read(manifest):
            return CONFLICT_AGAIN_SECONDS
        carrier = Carrier(
            program,
            live.objects,
            self.cluster,
            partial(self._tell, key),
            dict(live.versions),
            partial(self._mark, key, program, access),
            conflicts=self.conflicts.get(key, 0),
        )
        await carrier.carry_out(writes)
        self.conflicts[key] = carrier.conflicts + 1 if carrier.is_outdated else 0
        status = report(observed, plan, carrier.outcome, self.clock())
        late = await write_status(self.cluster, manifest, status.dump())
        await carrier.say(() if late == CONFLICT_AGAIN_SECONDS else plan.events)  # what is not on record is said again
        self.reports.listen(key, live.pods, plan.listen)
        if late is None:  # else the next pass finds the same again, and it would count twice
            PROGRAMS.note(key, status)
        reads_secrets = observed.tools or program.spec.source.mlflow.credentials_secret_ref
        rotation = ROTATION_SECONDS if reads_secrets else None
        # What shall follow at once follows from what was written: where that was refused, it is tried again when it may
        # have become possible. Moments (a watch, a deadline) come whatever is refused, so that a bad version does not
        # stay because something else cannot be written.
        soon = plan.soon if carrier.again is None and late is None else None
        waits = (plan.again, soon, carrier.again, late, self.orders.again(key), rotation)
        return min((t for t in waits if t is not None), default=None)

    async def _is_as_read(self, manifest: Document) -> bool:
        """Whether the manifest is what it was before its objects were read: else they may answer to a word in it that
        this pass does not know, as where another operator is at work, too."""
        meta = manifest["metadata"]
        now = await read_manifest(self.cluster, Program.kind, meta["namespace"], meta["name"])
        return now is not None and _said(now) == _said(manifest)

    def _tell(self, key: Key, tell: Tell) -> None:
        if tell.order == "Prepare":
            self.reports.expect(key, tell.pod.name)
        self.orders.tell(key, tell)

    def _mark(self, key: Key, program: Program, access: Access, mark: MoveAlias | Tag) -> None:
        source = program.spec.source.mlflow
        self.marks.do(key, mark, access.model.server, source.model, source.alias or "", access.credentials)

    async def _snapshot(self, key: Key, live: Live, access: Access) -> Observed:
        told = self.orders.told(key, [p.name for p in live.pods])
        said, heard, refusals = self.reports.said(key), self.reports.heard(key), self.orders.refusals(key)
        # Where this process stood still, an order is forgotten before anything was heard of it.
        old = {name for name in self.reports.expected(key) if "Prepare" not in told.get(name, {})}
        pods = tuple(
            replace(
                p,
                told=told.get(p.name, {}),
                report=said.get(p.name) if p.name not in old else None,
                was_heard=p.name in heard - old,
                refusal=refusals.get(p.name, ""),
            )
            for p in live.pods
        )
        return Observed(
            program=live.program,
            status=watched_since(live.status, self.began),
            defaults=self.defaults,
            model=access.model,
            deployments=live.deployments,
            pods=pods,
            active=live.active,
            preview_ready=live.preview_ready,
            objects=live.objects,
            configs=live.configs,
            interfaces=await self._interfaces(key, live, pods),
            tools=await tools_of(self.cluster, live.program, tool_keys(live), self.mint),
            redis_seal="\n".join(self.mint(live.program.uid, live.program.namespace)) if uses_redis(live) else "",
            read_key=read_key(self.mint, live.program.uid, live.program.namespace),
            ask_key=ask_key(self.mint, live.program.uid, live.program.namespace),
            jobs=await self.reports.with_progress(live.jobs),
            optimizations=await self.reports.with_progress(live.optimizations),
            labels=self._votes(key, live.program, access),
            mark_trouble=self.marks.trouble(key),
        )

    def _votes(self, key: Key, program: Program, access: Access) -> LabelsView | None:
        """Only where something depends on them."""
        feedback = program.spec.feedback
        if program.spec.optimization is None or feedback is None or not access.model.server:
            self.labels.forget(key)
            return None
        return self.labels.look(key, access.model.server, experiment_of(program, feedback), access.credentials)

    async def access(self, key: Key, program: Program) -> Access:
        """What the program's model is now, asked with the program's own credentials where it brings some."""
        source, default = program.spec.source.mlflow, self.defaults.tracking_uri
        try:
            credentials = await mlflow_credentials(self.cluster, program)
        except Lacking as exc:
            self.registry.forget(key)
            server = server_of(source.tracking_uri or default or "")
            return Access(Resolution(None, exc.reason, str(exc), server), None)
        model = await self.registry.resolve(key, source, default, named_versions(program), credentials)
        return Access(model, credentials)

    async def _interfaces(self, key: Key, live: Live, pods: tuple[PodView, ...]) -> Mapping[str, Mapping[str, Any]]:
        """Only where a gate compares them."""
        if not any(g.type == "SchemaCompatibility" for g in live.program.spec.rollout.gates):
            return {}
        held = {name for p in pods if p.report for name, h in p.report.held.items() if h.phase == "Ready"}
        return await self.reports.interfaces(key, pods, sorted(held))


def _said(manifest: Document) -> tuple[Any, ...]:
    """What a pass goes by. What others note there, again and again perhaps, must not keep it from a rollback."""
    words = {name: text for name, text in notes_of(manifest).items() if name.startswith(f"{GROUP}/")}
    return manifest["metadata"].get("uid"), manifest["metadata"].get("generation"), words, manifest.get("status")


def split(actions: Iterable[Action]) -> tuple[list[Tell], list[Action]]:
    """Orders that follow from nothing that is yet to be written, and everything else."""
    listed = list(actions)
    return [a for a in listed if isinstance(a, Tell)], [a for a in listed if not isinstance(a, Tell)]


def tool_keys(live: Live) -> set[str]:
    """The tools of the spec, and of every revision whose pods are still around."""
    return {use.tool for use in tool_uses(live.program)} | {use.tool for c in _running(live) for use in c.tools}


def uses_redis(live: Live) -> bool:
    """Whether the spec names a Redis, or a revision whose pods are still around."""
    caches = (live.program.spec.cache, *(c.cache for c in _running(live)))
    return any(cache and cache.redis for cache in caches)


def _running(live: Live) -> list[RuntimeConfig]:
    return [c for d in live.deployments if d.replicas for c in d.configs]
