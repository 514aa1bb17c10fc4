"""A cluster of the mind: carries out plans, lets pods start, load, fail and answer, and forgets nothing.

It plays the API server, the Deployment and endpoint controllers, the kubelet, and the runtime in each pod, as far as a
rollout sees them. What pods say of themselves reaches the operator only when `listen` happens, and orders may be lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from despina.api.program import Program
from despina.api.status import ProgramStatus
from despina.decide.observed import DeploymentView, Loading, Observed, PodView, Resolution, kind_of
from despina.decide.plan import Annotate, Apply, Create, Delete, Outcome, Plan, Restart, Scale, Tell
from despina.decide.rollout import decide
from despina.desired.config import AT, PREVIOUS_FILE
from despina.desired.labels import (
    ACTIVATED_AT,
    GENERATION_OF,
    MODEL_VERSION,
    RESTARTED_BY,
    RESTARTS,
    RETIRED_AT,
    REVISION,
    SHAPE,
)
from despina.status.report import report
from despina.wire import (
    CONFIG_FILE,
    BreakerReport,
    Counts,
    Failure,
    FailureReason,
    HeldRevision,
    PodState,
    RuntimeConfig,
    TryReport,
)
from tests.support.gen import DEFAULTS, found

BROKEN = Failure(reason=FailureReason.LOAD_FAILED, message="broken")
OTHER_CODE = Failure(reason=FailureReason.CODE_CHANGED, message="changed: program.py")
INTERFACE = {"inputs": {"properties": {}}, "outputs": {"properties": {}}}


@dataclass
class Runtime:
    """What really is the case in one pod."""

    base: str
    started_at: float
    config: RuntimeConfig | None = None
    held: dict[str, tuple[RuntimeConfig, Failure | None]] = field(default_factory=dict)
    tries: dict[str, TryReport] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    breaker: str = "Closed"
    breaker_at: float | None = None
    window: dict[str, int] = field(default_factory=dict)

    def say(self, now: float) -> PodState:
        held = {
            name: HeldRevision(phase="Failed" if failure else "Ready", failure=failure)
            for name, (_, failure) in self.held.items()
        }
        age = None if self.breaker_at is None else now - self.breaker_at
        return PodState(
            revision=self.config.revision if self.config else "",
            held=held,
            counts=self.counts,
            breakers=(BreakerReport(state=self.breaker, age_seconds=age, window=self.window),),
            tries=self.tries,
            uptime_seconds=now - self.started_at,
        )


@dataclass
class Simulator:
    """The world, one step at a time."""

    program: Program
    broken: frozenset[str] = frozenset()
    """Versions that cannot be loaded."""
    other_code: frozenset[str] = frozenset()
    """Versions whose code differs from the others'."""
    erring: frozenset[str] = frozenset()
    """Versions that fail once callers reach them."""
    failing_gate: frozenset[str] = frozenset()
    """Versions that a gate stops."""
    alias: str = "1"
    registry_up: bool = True
    loses_orders: bool = False
    failing: str | None = None
    """The class of failure that every request meets now."""
    now: float = 1000.0
    deployments: dict[str, DeploymentView] = field(default_factory=dict)
    configs: dict[str, RuntimeConfig] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    runtimes: dict[str, Runtime] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, int] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    status: ProgramStatus = field(default_factory=ProgramStatus)
    restarts: list[float] = field(default_factory=list)
    promoted_in_quarantine: list[str] = field(default_factory=list)
    names: int = 0

    def observed(self) -> Observed:
        model: Resolution = found(self.alias if self.registry_up else None)
        held = {name for r in self.runtimes.values() for name, (_, failure) in r.held.items() if failure is None}
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
            interfaces=dict.fromkeys(held, INTERFACE),
        )

    @property
    def serving(self) -> str | None:
        return self.observed().serving

    def operate(self, stop_after: int | None = None) -> Plan:
        """One pass of the operator, which may be killed after some of its actions, before the status is written."""
        o = self.observed()
        plan = decide(o, self.now)
        if plan.writes_status_first:
            self.status = report(o, plan, Outcome(), self.now)
        before = self.serving
        for number, action in enumerate(plan.actions):
            if number == stop_after:
                break
            self.carry_out(action)
        else:
            self.status = report(o, plan, Outcome(), self.now)
        self._check_promotion(before, o, plan)
        return plan

    def _check_promotion(self, before: str | None, o: Observed, plan: Plan) -> None:
        after = self.serving
        view = next((d for d in self.deployments.values() if d.serves == after), None)
        listed = {(q.version, q.revision) for q in plan.quarantined}
        if before != after and view and {(view.version, None), (view.version, after)} & listed:
            self.promoted_in_quarantine.append(view.version)

    def carry_out(self, action: Any) -> None:
        match action:
            case Create(document) | Apply(document):
                self._store(document)
            case Scale(name, replicas):
                self.deployments[name] = replace(self.deployments[name], replicas=replicas)
            case Annotate(name, notes):
                self.note(name, notes)
            case Restart(name, at, notes):
                self.note(name, notes)
                self.restarts.append(at)
                base = self.deployments[name].revision
                for pod in [p for p in self.pods.values() if p.revision == base]:
                    self._start(pod.name, self.deployments[name])
            case Tell():
                self._tell(action)
            case Delete((kind, name)):
                self.objects.pop((kind, name), None)
                if kind == "Deployment":
                    del self.deployments[name]

    def _store(self, document: dict[str, Any]) -> None:
        kind, meta = document["kind"], document["metadata"]
        name = meta["name"]
        if kind == "ConfigMap" and GENERATION_OF in meta["labels"]:
            owner = name.removesuffix("-generation")
            self.deployments[owner] = self._loaded(self.deployments[owner], document["data"])
        elif kind == "ConfigMap":
            self.configs[name] = RuntimeConfig.model_validate_json(document["data"][CONFIG_FILE])
        elif kind == "Deployment":
            labels, notes = meta["labels"], meta["annotations"]
            view = DeploymentView(
                name, labels[REVISION], labels[MODEL_VERSION], 1,
                shape=json.loads(notes[SHAPE]), config=self.configs[name],
            )  # fmt: skip
            self.deployments.setdefault(name, view)
        else:
            self.objects[kind, name] = document
            if kind == "Service":
                self.services[name] = document["spec"]["selector"][REVISION]

    @staticmethod
    def _loaded(view: DeploymentView, data: dict[str, str]) -> DeploymentView:
        config = RuntimeConfig.model_validate_json(data[CONFIG_FILE])
        before = RuntimeConfig.model_validate_json(data[PREVIOUS_FILE]) if PREVIOUS_FILE in data else None
        loading = Loading(config.revision, config.model.version, config, float(data[AT]), before)
        return replace(view, loading=loading, version=loading.version)

    def _tell(self, tell: Tell) -> None:
        pod = self.pods.get(tell.pod.name)
        if pod is None:
            return
        self.pods[pod.name] = replace(pod, told={**pod.told, kind_of(tell.order): f"{tell.order} {tell.subject}"})
        runtime = self.runtimes[pod.name]
        if self.loses_orders or not pod.ready:
            return
        match tell.order:
            case "Prepare" if tell.config and tell.subject not in runtime.held:
                runtime.held[tell.subject] = (tell.config, self._load(tell.config, runtime))
            case "Commit" if runtime.held.get(tell.subject, (None, BROKEN))[1] is None:
                runtime.config = runtime.held[tell.subject][0]
            case "Release" if runtime.config and tell.subject != runtime.config.revision:
                runtime.held.pop(tell.subject, None)
            case "Try":
                config = runtime.held.get(tell.subject.partition(":")[0])
                fails = config is not None and config[0].model.version in self.failing_gate
                runtime.tries[tell.subject] = TryReport(ok=not fails)
            case "OpenBreaker" | "CloseBreaker":
                self._set_breaker(runtime, "Open" if tell.order == "OpenBreaker" else "Closed")

    def _load(self, config: RuntimeConfig, runtime: Runtime) -> Failure | None:
        if config.model.version in self.broken:
            return BROKEN
        running = runtime.config.model.version if runtime.config else ""
        differs = (config.model.version in self.other_code) != (running in self.other_code)
        return OTHER_CODE if differs else None

    def _set_breaker(self, runtime: Runtime, state: str) -> None:
        if runtime.breaker != state:
            runtime.breaker, runtime.breaker_at = state, self.now
            runtime.window = {} if state == "Closed" else runtime.window

    def note(self, name: str, notes: dict[str, str]) -> None:
        view = self.deployments[name]
        self.deployments[name] = replace(
            view,
            activated_at=float(notes.get(ACTIVATED_AT, view.activated_at or 0)) or None,
            retired_at=float(notes.get(RETIRED_AT, view.retired_at or 0)) or None,
            restarts=tuple(json.loads(notes[RESTARTS])) if RESTARTS in notes else view.restarts,
            restarted_by=notes.get(RESTARTED_BY, view.restarted_by),
        )

    def _start(self, name: str, view: DeploymentView) -> None:
        """A new process: it runs what its Deployment's generation says, as far as its node has heard of it."""
        config = view.loading.config if view.loading else view.config
        self.pods[name] = PodView(name, view.revision, ready=self.pods[name].ready if name in self.pods else False,
                                  ip="10.0.0.1")  # fmt: skip
        self.runtimes[name] = Runtime(
            view.revision, self.now, config, {config.revision: (config, None)} if config else {}
        )

    def autoscale(self, replicas: int) -> None:
        """The autoscaler's doing, where the operator has made one."""
        for view in self.deployments.values():
            if ("HorizontalPodAutoscaler", view.name) in self.objects and view.replicas:
                self.deployments[view.name] = replace(view, replicas=replicas)

    def control(self) -> None:
        """The Deployment controller: as many pods as asked for."""
        for view in self.deployments.values():
            mine = [p for p in self.pods.values() if p.revision == view.revision]
            for pod in mine[view.replicas :]:
                del self.pods[pod.name]
            for _ in range(view.replicas - len(mine)):
                self.names += 1
                self._start(f"pod-{self.names}", view)
        known = {d.revision for d in self.deployments.values()}
        self.pods = {n: p for n, p in self.pods.items() if p.revision in known}
        self.runtimes = {n: r for n, r in self.runtimes.items() if n in self.pods}

    def start_pods(self) -> None:
        """The kubelet: each pod becomes ready, or fails where its version is broken."""
        for name, pod in self.pods.items():
            config = self.runtimes[name].config
            is_broken = config is not None and config.model.version in self.broken
            self.pods[name] = replace(pod, ready=not is_broken, failure=BROKEN if is_broken else None)

    def crash(self) -> None:
        """One pod loses its readiness, and its process what it held."""
        for name, pod in self.pods.items():
            if pod.ready:
                view = next(d for d in self.deployments.values() if d.revision == pod.revision)
                self._start(name, view)
                self.pods[name] = replace(self.pods[name], ready=False)
                return

    def forget_generation(self) -> None:
        """A pod starts on a node that has not heard of the latest generation."""
        for name, pod in self.pods.items():
            view = next((d for d in self.deployments.values() if d.revision == pod.revision), None)
            if view and view.config and view.loading:
                self.runtimes[name] = Runtime(
                    view.revision, self.now, view.config, {view.config.revision: (view.config, None)}
                )
                return

    def publish(self) -> None:
        """The endpoint controller catches up on the preview Service."""
        preview = self.services.get(f"{self.program.name}-preview")
        ready = sum(p.ready for p in self.pods.values() if p.revision == preview)
        self.endpoints = {preview: ready} if preview and ready else {}

    def serve(self) -> None:
        """Callers ask the active pods: versions that err do so, the others answer."""
        for name, pod in self.pods.items():
            runtime = self.runtimes[name]
            if pod.revision != self.services.get(self.program.name) or not pod.ready or runtime.config is None:
                continue
            if self.failing:
                runtime.window = {self.failing: 30}
                self._set_breaker(runtime, "Open")
                continue
            if runtime.breaker != "Closed" and self.now - (runtime.breaker_at or 0) >= 30:
                self._set_breaker(runtime, "Closed")
            errs = runtime.config.model.version in self.erring
            before = runtime.counts.get(runtime.config.revision, Counts())
            more = {"program": before.program + 30} if errs else {"ok": before.ok + 30}
            runtime.counts[runtime.config.revision] = before.model_copy(update=more)

    def listen(self) -> None:
        """What pods say reaches the operator; what they did not obey by now may be said again."""
        for name, pod in self.pods.items():
            said = self.runtimes[name].say(self.now) if pod.ready else None
            told = {k: v for k, v in pod.told.items() if k in ("Retire", "Invalidate")}
            self.pods[name] = replace(pod, report=said, told=told)

    def ready(self, base: str | None) -> int:
        return sum(p.ready for p in self.pods.values() if p.revision == base)
