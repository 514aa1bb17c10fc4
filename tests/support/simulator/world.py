"""A cluster of the mind: what there is, and one round of everybody's doing.

The real operator works on it (`operator.py`), on an API server in memory (`api.py`). What is modelled around it is small:
MLflow's answers and what versions are like (`registry.py`), the processes in pods (`runtime.py`), and the controllers of
Kubernetes (`nature.py`). What people and misfortune may do is in `events.py`, what must hold at all times in `truth.py`, and
schedules of events in `schedule.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from despina.api import API_VERSION
from despina.api.program import Program
from despina.api.revision import revision_of
from despina.api.status import Memory
from despina.decide.observed import Defaults
from despina.decide.plan import Tell
from despina.desired.config import generation_name
from despina.desired.labels import MEMORY, PROGRAM, REVISION
from despina.reconcile import program as reconcile
from despina.sources.runtime_admin import TAKEN, UNSENT
from despina.wire import Failure, ModelRef, PodState, RuntimeConfig
from tests.support.simulator import nature
from tests.support.simulator.api import SERVERS_OWN, Api, Document, places, with_part
from tests.support.simulator.loop import Loop
from tests.support.simulator.operator import NAME, NAMESPACE, Operator
from tests.support.simulator.registry import SERVER, Mlflow, Nature
from tests.support.simulator.runtime import BROKEN, Runtime
from tests.support.simulator.truth import Truth

DEFAULTS = Defaults(runtime_image="despina-runtime:1", tracking_uri=SERVER, order_keys=("key-1",))


class World:
    """The whole of it, one step at a time."""

    def __init__(self, spec: dict[str, Any], natures: dict[str, Nature]) -> None:
        self.now = 1_000_000.0
        self.skew = 0.0
        """By how much the clock of the operator's node is wrong."""
        self.operators: list[Operator] = []
        self.api = Api(self._changed, lambda: self.now)
        self.mlflow = Mlflow(natures)
        self.defaults = DEFAULTS
        self.runtimes: dict[str, Runtime] = {}
        self.evaluated: dict[str, int] = {}
        self.pods_allowed: int | None = None
        self.hiccups: list[Failure] = []
        self.unlucky: Counter[ModelRef] = Counter()
        """How often processes gave up that a version is not to blame for."""
        self.loses_orders = self.refuses_orders = self.is_mute = False
        self.failing: str | None = None
        self.oddity: tuple[int, Any] | None = None
        self.saved: tuple[Any, Any] | None = None
        self.numbers = 0
        self.actor: Operator | None = None
        self.truth = Truth(self)
        self.loop = Loop(self)
        self._put_program(spec)
        self.operators = [Operator(self), Operator(self)]

    def _changed(self, kind: str, name: str) -> None:
        pod = self.api.get(kind, name) if kind == "Pod" else None
        if pod is None or PROGRAM in pod["metadata"]["labels"]:  # an evaluation's pod wakes nobody
            self.wake()
        self.truth.changed(kind, name)

    def wake(self) -> None:
        for operator in self.operators:
            operator.is_woken = True

    def _put_program(self, spec: dict[str, Any]) -> None:
        meta = {"name": NAME, "namespace": NAMESPACE, "generation": 1, "annotations": {}}
        self.api.put({"apiVersion": API_VERSION, "kind": "DSPyProgram", "metadata": meta, "spec": spec})

    @property
    def document(self) -> Document:
        return self.api.of("DSPyProgram")[NAME]

    @property
    def program(self) -> Program:
        return reconcile.parse(Program, self.document)  # which parses nothing twice here

    @property
    def spec(self) -> dict[str, Any]:
        return self.document["spec"]

    @property
    def status(self) -> dict[str, Any]:
        return self.document.get("status") or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.document["metadata"].get("annotations") or {}

    def edit(self, **changes: Any) -> None:
        """Change parts of the spec; a part that becomes None goes."""
        meta = self.document["metadata"]
        spec = {k: v for k, v in (self.spec | changes).items() if v is not None}
        if spec != self.spec:
            self.api.put({**self.document, "spec": spec, "metadata": {**meta, "generation": meta["generation"] + 1}})

    # what callers reach

    @property
    def active(self) -> str | None:
        """The label of the pods that the Service selects."""
        service = self.api.get("Service", NAME)
        return service["spec"]["selector"].get(REVISION) if service else None

    def deployment_of(self, base: str | None) -> Document | None:
        found = self.api.of("Deployment").values()
        return next((d for d in found if nature.base_of(d) == base), None) if base else None

    def served_by(self, deployment: Document) -> str:
        """The revision that a Deployment's pods are meant to serve."""
        later = nature.read_config(self.api.get("ConfigMap", generation_name(deployment["metadata"]["name"])))
        return later.revision if later else nature.base_of(deployment)

    @property
    def reached(self) -> str | None:
        """The revision that callers reach, where there are any pods to reach or to wait for."""
        deployment = self.deployment_of(self.active)
        return self.served_by(deployment) if deployment else None

    def pods_of(self, base: str | None) -> list[Document]:
        return [p for p in self.api.of("Pod").values() if base and p["metadata"]["labels"].get(REVISION) == base]

    def ready(self, base: str | None) -> int:
        return sum(map(nature.is_ready, self.pods_of(base)))

    # what the operator's process asks of it

    def order(self, tell: Tell) -> int:
        """An order on its way to a pod, which may be lost or refused; the status of the answer."""
        runtime = self.runtimes.get(tell.pod.name)
        if tell.config:
            self.truth.know(tell.config)
        if runtime is None or self.loses_orders or self.is_mute:
            return UNSENT
        if self.refuses_orders:
            return 400
        if not runtime.trusts(self.defaults.order_keys):
            return 403
        runtime.obey(tell, self.now)
        return TAKEN

    def reports(self) -> dict[str, PodState | None]:
        pods = {} if self.is_mute else self.api.of("Pod")
        said = {n: r.say(self.now) for n, r in self.runtimes.items() if n in pods and nature.is_ready(pods[n])}
        oddity, self.oddity = self.oddity, None
        return _odd(said, oddity) if said and oddity else said

    def holders(self, revision: str) -> Iterator[Runtime]:
        return (r for r in self.runtimes.values() if revision in r.held and not r.held[revision].failure)

    def progress_of(self, job: str) -> str:
        return f"{self.evaluated.get(job, 0)} of {nature.TURNS_OF_AN_EVALUATION}"

    # what nature asks of it

    def nature_of(self, model: ModelRef) -> Nature:
        return self.mlflow.nature(model)

    def next_failure(self, config: RuntimeConfig) -> Failure | None:
        """Why a process that starts now gives up."""
        if self.nature_of(config.model).broken:
            return BROKEN
        if not self.hiccups:
            return None
        self.unlucky[config.model] += 1
        return self.hiccups.pop()

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    # rounds

    def play(self) -> None:
        """Everybody has a turn; the operator, if it has a reason."""
        self.operators[0].work()
        nature.collect_garbage(self)
        nature.control_deployments(self)
        nature.start_pods(self)
        nature.run_jobs(self)
        nature.publish(self)
        nature.serve(self)
        self.truth.served_a_round()
        self.listen()
        self.now += 1

    def listen(self) -> None:
        for operator in self.operators:
            operator.reports.hear()

    def restart_operators(self, **settings: Any) -> None:
        """The operator's own settings are changed: all its processes start anew with them."""
        self.defaults = replace(self.defaults, **settings)
        for operator in self.operators:
            operator.kill()

    # the namespace as it was once

    def backup(self) -> None:
        self.saved = self.api.copy(), self.truth.saved()

    def restore(self, with_status: bool, owners_too: bool) -> None:
        """Everything as it was backed up, but with other uids; owner references may still name the old ones."""
        if self.saved is None:
            return
        objects, books = self.saved
        for operator in self.operators:
            operator.kill()
        before = objects["DSPyProgram"][NAME]["metadata"]["uid"]
        self.runtimes.clear()
        for kind in list(self.api.objects):
            for name in list(self.api.of(kind)):
                self.api.drop(kind, name)
        uid = f"uid-{self.next_number()}-restored"
        for kind, table in objects.items():
            for item in table.values():
                if kind in ("Pod", "EndpointSlice", "Job"):
                    continue
                self.api.put(
                    _restored(item, uid if kind == "DSPyProgram" else None, (before, uid) if owners_too else None)
                )
        if not with_status:
            self.api.change("DSPyProgram", NAME, status={})
        self.truth.restored(books, is_known=with_status or (owners_too and self._remembers()))

    def _remembers(self) -> bool:
        """Whether the Service has a record that can be read."""
        notes = (self.api.get("Service", NAME) or {}).get("metadata", {}).get("annotations") or {}
        return Memory.parse(notes.get(MEMORY)) is not None


def asked(world: World) -> ModelRef | None:
    """The version that is asked for."""
    program, default = world.program, world.defaults.tracking_uri
    source, pinned = program.spec.source.mlflow, program.spec.rollout.rollback_to
    version = str(pinned) if pinned else world.mlflow.answer(source, default).version
    return world.mlflow.meant(version, source, default) if version and world.mlflow.exists else None


def is_asked(world: World, revision: str | None) -> bool:
    """Whether a revision is what is asked for: by the manifest as it is, and by whoever chooses the version."""
    model, config = asked(world), world.truth.configs.get(revision or "")
    if model is None or config is None:
        return False
    is_same = config.model in (model, model.model_copy(update={"created_at": None}))
    return is_same and revision_of(world.program, config.model).hash == revision


def _restored(item: Document, uid: str | None, owner: tuple[str, str] | None) -> Document:
    meta = {k: v for k, v in item["metadata"].items() if k not in SERVERS_OWN}
    if uid:
        meta["uid"] = uid
    if owner and "ownerReferences" in meta:
        meta["ownerReferences"] = [{**one, "uid": owner[1]} for one in meta["ownerReferences"]]
    return {**item, "metadata": meta}


def _odd(said: dict[str, PodState], what: tuple[int, Any]) -> dict[str, PodState | None]:
    """One report with one part replaced; None where it cannot be read then."""
    number, value = what
    name, state = next(iter(said.items()))
    document = state.model_dump()
    found = list(places(document))
    try:
        return said | {name: PodState.model_validate(with_part(document, found[number % len(found)], value))}
    except ValidationError:
        return said | {name: None}
