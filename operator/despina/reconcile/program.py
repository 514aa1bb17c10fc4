"""One pass over one program: observe, decide, execute, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from despina.api import API_VERSION
from despina.api.conditions import Condition, ConditionStatus, Reason, Type
from despina.api.program import ProgramStatus
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import Conflict, Gone, Refused
from despina.cluster.execute import execute
from despina.cluster.observe import Live, Unreadable, observe, parse, read_manifest, read_status
from despina.decide.observed import Defaults, Observed, PodView
from despina.decide.plan import Outcome, Plan, Tell
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.reconcile.queue import Key
from despina.sources.mlflow import Registry
from despina.sources.reports import Reports
from despina.sources.runtime_admin import Orders
from despina.status.report import report
from despina.telemetry import BREAKER_STATE, RECONCILE_SECONDS

log = logging.getLogger(__name__)
REFUSED_AGAIN_SECONDS = 30.0
CONFLICT_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class Reconciler:
    """What a pass needs; calling it makes one."""

    cluster: Cluster
    registry: Registry
    orders: Orders
    reports: Reports
    defaults: Defaults
    clock: Callable[[], float] = time.time

    async def __call__(self, key: Key) -> float | None:
        """Take the next step; the result is when to look again, in seconds, though nothing happens."""
        with RECONCILE_SECONDS.time():
            return await self._pass(key)

    async def _pass(self, key: Key) -> float | None:
        namespace, name = key
        manifest = await read_manifest(self.cluster, namespace, name)
        if manifest is None:
            self.registry.forget(key)
            self.orders.told(key, ())
            self.reports.forget(key)
            return None
        program = parse(manifest)
        if isinstance(program, Unreadable):
            await self._report_unreadable(manifest, program)
            return None
        live = await observe(self.cluster, program, manifest)
        observed = await self._snapshot(key, live)
        plan = decide(observed, self.clock())
        if plan.writes_status_first:
            manifest = await self._write_status(manifest, report(observed, plan, Outcome(), self.clock()))
        outcome, again = await self._carry_out(plan, live)
        await self._write_status(manifest, report(observed, plan, outcome, self.clock()))
        self.reports.listen(key, live.pods, plan.listen)
        _measure(key, plan)
        return min((t for t in (plan.again, again) if t is not None), default=None)

    async def _snapshot(self, key: Key, live: Live) -> Observed:
        told = self.orders.told(key, [p.name for p in live.pods])
        said = self.reports.said(key)
        pods = tuple(replace(p, told=told.get(p.name, {}), report=said.get(p.name)) for p in live.pods)
        source = live.program.spec.source.mlflow
        return Observed(
            program=live.program,
            status=live.status,
            defaults=self.defaults,
            model=await self.registry.resolve(key, source, self.defaults.tracking_uri),
            deployments=live.deployments,
            pods=pods,
            active=live.active,
            preview_ready=live.preview_ready,
            objects=live.objects,
            interfaces=await self._interfaces(live, pods),
            jobs=tuple([replace(job, progress=await self.reports.progress(job)) for job in live.jobs]),
        )

    async def _interfaces(self, live: Live, pods: tuple[PodView, ...]) -> Mapping[str, Mapping[str, Any]]:
        """Only where a gate compares them."""
        if not any(g.type == "SchemaCompatibility" for g in live.program.spec.rollout.gates):
            return {}
        held = {name for p in pods if p.report for name, h in p.report.held.items() if h.phase == "Ready"}
        return await self.reports.interfaces(pods, sorted(held))

    async def _carry_out(self, plan: Plan, live: Live) -> tuple[Outcome, float | None]:
        """All actions in order. A refusal is told in the status; silence of the API server ends the pass."""
        for action in plan.actions:
            if isinstance(action, Tell):
                key = (live.program.namespace, live.program.name)
                self.orders.tell(key, action)
                continue
            log.info("Acted program=%s/%s action=%s", live.program.namespace, live.program.name, _label(action))
            try:
                await execute(action, live, self.cluster)
            except Refused as exc:
                return Outcome(error=str(exc)[:1024]), REFUSED_AGAIN_SECONDS
            except (Conflict, Gone):
                return Outcome(), CONFLICT_AGAIN_SECONDS
        return Outcome(), None

    async def _write_status(self, manifest: Document, status: ProgramStatus) -> Document:
        """Write the status if it says anything new: at rest, nothing is written. The result is the manifest with it."""
        document = status.dump()
        if document == manifest.get("status"):
            return manifest
        meta = manifest["metadata"]
        try:
            await self.cluster.apply_status(
                {
                    "apiVersion": API_VERSION,
                    "kind": "DSPyProgram",
                    "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
                    "status": document,
                }
            )
        except Gone:
            log.info("Program went away program=%s/%s", meta["namespace"], meta["name"])
        return {**manifest, "status": document}

    async def _report_unreadable(self, manifest: Document, found: Unreadable) -> None:
        """A spec that passed an older CRD: what runs goes on, and the conditions say what to mend."""
        status = read_status(manifest.get("status") or {})
        generation = manifest["metadata"].get("generation", 0)
        mark = Condition(
            type=Type.READY,
            status=ConditionStatus.FALSE,
            reason=Reason.INVALID_SPEC,
            message=found.message[:4096],
            last_transition_time=timestamp(self.clock()),
            observed_generation=generation,
        )
        old = next((c for c in status.conditions if c.type == Type.READY), None)
        if old and (old.reason, old.message) == (mark.reason, mark.message):
            return
        rest = tuple(c for c in status.conditions if c.type != Type.READY)
        update = {"conditions": (mark, *rest), "observed_generation": generation}
        await self._write_status(manifest, status.model_copy(update=update))


def _measure(key: Key, plan: Plan) -> None:
    """The breaker over all replicas, for alerts."""
    if plan.breaker:
        for state in ("Closed", "Open", "HalfOpen"):
            BREAKER_STATE.labels(*key, state).set(plan.breaker.state == state)


def _label(action: object) -> str:
    """An action for the log, without any document's content."""
    document = getattr(action, "document", None)
    if document:
        return f"{type(action).__name__}({document['kind']}/{document['metadata']['name']})"
    return str(action)
