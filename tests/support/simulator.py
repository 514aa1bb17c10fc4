"""A cluster of the mind: carries out plans, lets pods become ready or fail, and forgets nothing.

It plays the API server, the Deployment and endpoint controllers and the kubelet, as far as a rollout sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from despina.api.program import Program, ProgramStatus
from despina.decide.observed import DeploymentView, Observed, PodView, Resolution
from despina.decide.plan import Annotate, Apply, Create, Delete, Outcome, Plan, Scale, Tell
from despina.decide.rollout import decide
from despina.desired.labels import ACTIVATED_AT, MODEL_VERSION, RETIRED_AT, REVISION
from despina.status.report import report
from despina.wire import Failure, FailureReason
from tests.support.gen import DEFAULTS, found

BROKEN = Failure(reason=FailureReason.LOAD_FAILED, message="broken")


@dataclass
class Simulator:
    """The world, one step at a time."""

    program: Program
    broken: frozenset[str] = frozenset()
    """Versions whose pods fail."""
    alias: str = "1"
    registry_up: bool = True
    now: float = 1000.0
    deployments: dict[str, DeploymentView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, int] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    status: ProgramStatus = field(default_factory=ProgramStatus)
    served: list[tuple[str, int]] = field(default_factory=list)
    names: int = 0

    def observed(self) -> Observed:
        model: Resolution = found(self.alias if self.registry_up else None)
        return Observed(
            program=self.program,
            status=self.status,
            defaults=DEFAULTS,
            model=model,
            deployments=tuple(self.deployments.values()),
            pods=tuple(self.pods.values()),
            active=self.services.get(self.program.name),
            preview_ready=dict(self.endpoints),
            objects=dict(self.objects),
        )

    def operate(self, stop_after: int | None = None) -> Plan:
        """One pass of the operator, which may be killed after some of its actions, before the status is written."""
        o = self.observed()
        plan = decide(o, self.now)
        for number, action in enumerate(plan.actions):
            if number == stop_after:
                return plan
            self.carry_out(action)
        self.status = report(o, plan, Outcome(), self.now)
        return plan

    def carry_out(self, action: Any) -> None:
        match action:
            case Create(document) if document["kind"] == "Deployment":
                labels = document["metadata"]["labels"]
                view = DeploymentView(document["metadata"]["name"], labels[REVISION], labels[MODEL_VERSION], 1)
                self.deployments.setdefault(view.name, view)
            case Apply(document):
                name = document["metadata"]["name"]
                self.objects[document["kind"], name] = document
                if document["kind"] == "Service":
                    self.services[name] = document["spec"]["selector"][REVISION]
            case Scale(name, replicas):
                self.deployments[name] = replace(self.deployments[name], replicas=replicas)
            case Annotate(name, notes):
                self.note(name, notes)
            case Tell(pod, order, subject):
                if pod.name in self.pods:
                    told = {"forgot": subject} if order == "Invalidate" else {"told": order}
                    self.pods[pod.name] = replace(self.pods[pod.name], **told)
            case Delete((kind, name)):
                self.objects.pop((kind, name), None)
                if kind == "Deployment":
                    del self.deployments[name]

    def note(self, name: str, notes: dict[str, str]) -> None:
        view = self.deployments[name]
        self.deployments[name] = replace(
            view,
            activated_at=float(notes.get(ACTIVATED_AT, view.activated_at or 0)) or None,
            retired_at=float(notes.get(RETIRED_AT, view.retired_at or 0)) or None,
        )

    def control(self) -> None:
        """The Deployment controller: as many pods as asked for."""
        for view in self.deployments.values():
            mine = [p for p in self.pods.values() if p.revision == view.revision]
            for pod in mine[view.replicas :]:
                del self.pods[pod.name]
            for _ in range(view.replicas - len(mine)):
                self.names += 1
                self.pods[f"pod-{self.names}"] = PodView(f"pod-{self.names}", view.revision, ip="10.0.0.1")
        known = {d.revision for d in self.deployments.values()}
        self.pods = {n: p for n, p in self.pods.items() if p.revision in known}

    def start_pods(self) -> None:
        """The kubelet: each pod becomes ready, or fails where its version is broken."""
        version = {d.revision: d.version for d in self.deployments.values()}
        for name, pod in self.pods.items():
            is_broken = version.get(pod.revision) in self.broken
            self.pods[name] = replace(pod, ready=not is_broken, failure=BROKEN if is_broken else None)

    def crash(self) -> None:
        """One pod loses its readiness."""
        for name, pod in self.pods.items():
            if pod.ready:
                self.pods[name] = replace(pod, ready=False)
                return

    def publish(self) -> None:
        """The endpoint controller catches up on the preview Service."""
        preview = self.services.get(f"{self.program.name}-preview")
        ready = sum(p.ready for p in self.pods.values() if p.revision == preview)
        self.endpoints = {preview: ready} if preview and ready else {}

    def ready(self, revision: str | None) -> int:
        return sum(p.ready for p in self.pods.values() if p.revision == revision)
