"""What may happen: to the operator, by people, and by misfortune. Each event is a function, with all that it may be given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from despina.api.revision import revision_of
from despina.desired.labels import ABORT, OPTIMIZE, PROGRAM, PROMOTE, RESTART, RESTARTED_BY, RETRY, REVISION
from despina.wire import Failure, FailureReason
from tests.support.simulator import nature
from tests.support.simulator.api import (
    ANSWER_LOST,
    CREATE,
    DELETE,
    NEVER_ARRIVED,
    PATCH,
    READ,
    STATUS,
    Document,
    places,
    with_part,
)
from tests.support.simulator.operator import NAME
from tests.support.simulator.registry import OTHER_SERVER, SERVER, VERSIONS
from tests.support.simulator.world import World, asked

OPTIMIZATION: dict[str, Any] = {
    "budget": {"maxLMCalls": 100, "maxLMCallsPerDay": 300},
    "dataset": {"goldenRef": {"configMap": {"name": "golden", "key": "rows.jsonl"}}},
    "promotion": {"mode": "Auto", "minExamples": 4},
    "cooldownSeconds": 60,
    "triggers": [
        {"name": "failures", "type": "FailureRate", "failureRate": {"minLabels": 20}},
        {"name": "labels", "type": "Labels", "labels": {"count": 60}},
    ],
}
EVENTS: dict[str, tuple[Callable[[World, Any], None], st.SearchStrategy[Any]]] = {}


def event(values: st.SearchStrategy[Any] = st.none()) -> Callable[[Any], Any]:  # noqa: B008 - strategies are values
    """Mark a function as an event."""

    def mark(function: Callable[[World, Any], None]) -> Callable[[World, Any], None]:
        EVENTS[function.__name__] = function, values
        return function

    return mark


def asking(function: Callable[[World, Any], None]) -> Callable[[World, Any], None]:
    """Mark an event by which somebody asks for something else."""

    def asked(world: World, value: Any) -> None:
        function(world, value)
        world.truth.people_asked()

    asked.__name__ = function.__name__
    return asked


# the way of things


@event()
def nothing(world: World, _: None) -> None:
    """What schedules shrink to."""


@event(st.integers(1, 6))
def rounds(world: World, number: int) -> None:
    """Everybody has some turns."""
    for _ in range(number):
        world.play()


@event()
def operate(world: World, _: None) -> None:
    world.operators[0].begin()


@event(st.integers(0, 30))
def interrupted(world: World, requests: int) -> None:
    """A pass stands still before one of its requests, and goes on when the next one is due."""
    world.operators[0].begin(requests)


@event(st.integers(0, 30))
def killed(world: World, requests: int) -> None:
    """The process ends in the middle of a pass, and another one is started."""
    world.operators[0].begin(requests)
    world.operators[0].kill()


@event(st.integers(0, 30))
def second_operator(world: World, requests: int) -> None:
    """Another process is at it, too; the pass that it began before goes on, with what it read then."""
    world.operators[1].begin(requests)


@event()
def control(world: World, _: None) -> None:
    nature.control_deployments(world)


@event()
def start(world: World, _: None) -> None:
    nature.start_pods(world)


@event()
def publish(world: World, _: None) -> None:
    nature.publish(world)


@event()
def jobs(world: World, _: None) -> None:
    nature.run_jobs(world)


@event()
def listen(world: World, _: None) -> None:
    world.listen()


@event()
def serve(world: World, _: None) -> None:
    nature.serve(world)


@event(st.sampled_from([1.0, 40.0, 700.0, 4000.0]))
def wait(world: World, seconds: float) -> None:
    """Time passes, and the operator sleeps through it."""
    world.now += seconds


@event(st.sampled_from([40.0, 700.0, 4000.0]))
def away(world: World, seconds: float) -> None:
    """No operator runs for a while."""
    world.operators[0].kill()
    world.now += seconds
    world.operators[0].start()


# what people ask for


@event(st.sampled_from([*VERSIONS, None]))
@asking
def alias(world: World, version: str | None) -> None:
    """The alias is moved, or deleted."""
    for server in (SERVER, OTHER_SERVER):
        world.mlflow.aliases[server] = version


@event(st.sampled_from([SERVER, OTHER_SERVER]))
@asking
def default_server(world: World, server: str) -> None:
    """The operator is started anew with another default server."""
    world.restart_operators(tracking_uri=server)


@event()
@asking
def model_made_anew(world: World, _: None) -> None:
    """The registered model is deleted, and made anew: the same numbers, other versions."""
    world.mlflow.made += 1


@event(st.booleans())
@asking
def model_exists(world: World, exists: bool) -> None:
    world.mlflow.exists = exists


@event(st.sampled_from([1, 2, 3, None]))
@asking
def pin(world: World, version: int | None) -> None:
    rollout(world, rollbackTo=version)


@event(st.sampled_from([1, 2, 3, None]))
@asking
def source_version(world: World, version: int | None) -> None:
    """The manifest names a version instead of an alias."""
    which = {"alias": "champion"} if version is None else {"version": version}
    world.edit(source={"mlflow": {"model": "qa", **which}})


@event(st.integers(0, 3))
@asking
def replicas(world: World, number: int) -> None:
    world.edit(replicas=number)


@event(st.booleans())
@asking
def suspend(world: World, is_so: bool) -> None:
    world.edit(suspend=is_so)


@event(st.sampled_from([0, 0, 1, 3]))
def scaled_by_hand(world: World, number: int) -> None:
    """Somebody scales the Deployment that callers reach."""
    found = world.deployment_of(world.active)
    if found:
        world.api.change("Deployment", found["metadata"]["name"], spec={**found["spec"], "replicas": number})


@event(st.integers(1, 6))
def autoscale(world: World, number: int) -> None:
    nature.autoscale(world, number)


@event(st.sampled_from(["a", "b"]))
@asking
def lm(world: World, name: str) -> None:
    """An edit that running processes can take in."""
    world.edit(lm=name)


@event(st.sampled_from(["1", "2"]))
@asking
def cpu(world: World, number: str) -> None:
    """An edit that needs new pods."""
    world.edit(resources={"requests": {"cpu": number}})


@event(st.booleans())
@asking
def paused(world: World, is_so: bool) -> None:
    rollout(world, state="Paused" if is_so else "Active")


@event(st.booleans())
@asking
def auto_promotion(world: World, is_so: bool) -> None:
    before = world.spec["rollout"].get("blueGreen", {})
    rollout(world, blueGreen={**before, "autoPromotion": "Enabled" if is_so else "Disabled"})


def rollout(world: World, **changes: Any) -> None:
    """Edit parts of `spec.rollout`; a part that becomes None goes."""
    world.edit(rollout={k: v for k, v in (world.spec["rollout"] | changes).items() if v is not None})


@event(st.sampled_from([None, "candidate", "candidate", "candidate", "active", "odd"]))
def promote(world: World, which: str | None) -> None:
    annotate(world, PROMOTE, revision_meant(world, which))


@event(st.sampled_from([None, "candidate", "candidate", "active", "odd"]))
def abort(world: World, which: str | None) -> None:
    annotate(world, ABORT, revision_meant(world, which))


@event(st.sampled_from([None, *VERSIONS, "odd"]))
def retry(world: World, version: str | None) -> None:
    annotate(world, RETRY, version)


@event(st.sampled_from([None, "monday", "tuesday"]))
def restart(world: World, value: str | None) -> None:
    annotate(world, RESTART, value)


@event(st.sampled_from([None, "spring", "summer"]))
def optimize(world: World, value: str | None) -> None:
    annotate(world, OPTIMIZE, value)


@event(st.tuples(st.sampled_from([1, 10, 40]), st.booleans()))
def labelled(world: World, what: tuple[int, bool]) -> None:
    """Callers say of some answers that they were right, or wrong."""
    world.loop.labelled(*what)


@event(st.sampled_from(["1", "2", "3", "4", "NotBetter", "Failed", "Lost"]))
def finds(world: World, what: str) -> None:
    """What runs find from now on."""
    world.loop.finds = what


@event(st.sampled_from(["Auto", "Auto", "Propose", None]))
@asking
def optimization(world: World, mode: str | None) -> None:
    """The manifest lets the operator move the alias, or no longer, or wants no runs."""
    before = world.spec.get("optimization") or OPTIMIZATION
    world.edit(optimization=None if mode is None else {**before, "promotion": {"mode": mode, "minExamples": 4}})


@event(st.booleans())
def marks_lost(world: World, is_so: bool) -> None:
    """What the operator asks of MLflow is lost from now on."""
    world.loop.is_deaf = is_so


def revision_meant(world: World, which: str | None) -> str | None:
    if which == "candidate":
        candidate = world.status.get("candidate")
        said = candidate.get("revision") if isinstance(candidate, dict) else None
        model = asked(world)
        return said if isinstance(said, str) else revision_of(world.program, model).hash if model else None
    return world.active if which == "active" else which


def annotate(world: World, name: str, value: str | None) -> None:
    world.api.note("DSPyProgram", NAME, {name: value})
    world.truth.annotated(name, value)


# what people break

REFUSABLE = (
    "Event", STATUS, "Service", "ConfigMap", "Deployment", "Deployment/scale", "PodDisruptionBudget",
    "HorizontalPodAutoscaler", "ServiceAccount", "Job",
)  # fmt: skip


@event(
    st.tuples(
        st.sampled_from(REFUSABLE),
        st.sampled_from([CREATE, PATCH, PATCH, DELETE]),
        st.sampled_from([403, 409, 422, 429, NEVER_ARRIVED, ANSWER_LOST]),
    )
)
def refused(world: World, what: tuple[str, str, int]) -> None:
    """Writes of one kind are refused from now on."""
    kind, verb, status = what
    world.api.refused[kind, CREATE if kind == "Event" else verb] = status


@event(st.sampled_from(["DSPyProgram", "Deployment", "Pod", "ConfigMap", "EndpointSlice"]))
def unreadable(world: World, kind: str) -> None:
    """Reads of one kind are refused from now on."""
    world.api.refused[kind, READ] = 403


@event()
def permitted(world: World, _: None) -> None:
    """Everything is allowed again."""
    world.api.refused.clear()


DELETABLE = (
    "Service",
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "Job",
    "ServiceAccount",
)


@event(st.tuples(st.sampled_from(DELETABLE), st.integers(0, 5)))
def deleted(world: World, what: tuple[str, int]) -> None:
    """Somebody deletes one of our objects."""
    kind, number = what
    names = sorted(world.api.of(kind))
    if names:
        name = names[number % len(names)]
        world.truth.job_lost(name)
        if (kind, name) == ("Service", NAME):
            world.truth.record_damaged("Service")
        if kind == "Deployment":
            world.truth.restart_forgotten()
        world.api.drop(kind, name)


FOUND_BY_LABEL = ("Deployment", "ConfigMap", "Job", "PodDisruptionBudget", "ServiceAccount")


@event(st.one_of(st.none(), st.tuples(st.sampled_from(FOUND_BY_LABEL), st.integers(0, 5))))
def unlabelled(world: World, which: tuple[str, int] | None) -> None:
    """Somebody takes the label away by which an object is found: of the Service, or of another one."""
    kind, number = which or ("Service", 0)
    names = sorted(world.api.of(kind)) if which else [NAME]
    if item := world.api.get(kind, names[number % len(names)]) if names else None:
        meta = item["metadata"]
        lost = ({PROGRAM}, {REVISION}, {PROGRAM, REVISION})[number % 3]
        kept = {name: text for name, text in (meta.get("labels") or {}).items() if name not in lost}
        world.api.change(kind, meta["name"], metadata={**meta, "labels": kept})
    if which is None:
        world.truth.record_damaged("Service", is_lost=False)


@event(st.integers(0, 3))
def selector_edited(world: World, number: int) -> None:
    """Somebody sends callers to another Deployment's pods."""
    bases = sorted(nature.base_of(d) for d in world.api.of("Deployment").values())
    service = world.api.get("Service", NAME)
    if service and bases:
        chosen = {**service["spec"]["selector"], REVISION: bases[number % len(bases)]}
        world.api.change("Service", NAME, spec={**service["spec"], "selector": chosen})
        world.truth.people_asked()


@event()
def backup(world: World, _: None) -> None:
    world.backup()


@event(st.tuples(st.booleans(), st.booleans()))
def restored(world: World, how: tuple[bool, bool]) -> None:
    """The namespace is restored from its backup: with or without the status, with owners named anew or not."""
    world.restore(*how)


# misfortune


@event(st.booleans())
def registry(world: World, is_up: bool) -> None:
    world.mlflow.is_up = is_up
    world.truth.people_asked()  # what was asked for meanwhile is heard now


@event(st.booleans())
def orders_lost(world: World, is_so: bool) -> None:
    world.loses_orders = is_so


@event(st.booleans())
def mute(world: World, is_so: bool) -> None:
    """Something on the network keeps the operator from pods' admin ports."""
    world.is_mute = is_so


@event(st.booleans())
def orders_refused(world: World, is_so: bool) -> None:
    """Pods understand no order any more, or again."""
    world.refuses_orders = is_so
    world.truth.has_refused |= is_so


@event(st.sampled_from([("key-1",), ("key-2",), ("key-2", "key-1")]))
def key_replaced(world: World, keys: tuple[str, ...]) -> None:
    """The operator is started anew with other keys: the one before is lost, or still counts for a while."""
    world.restart_operators(order_keys=keys)


@event(st.sampled_from([-600.0, -90.0, 90.0, 600.0]))
def clock_jumps(world: World, seconds: float) -> None:
    """The clock of the operator's node is set. A process that runs goes on counting, one that is started believes it."""
    world.skew += seconds
    world.truth.watched_until = 0.0


@event(st.sampled_from(["Program", "Upstream", None]))
def failing(world: World, kind: str | None) -> None:
    """All requests fail from now on, whatever the version, or none does."""
    world.failing = kind


@event(st.sampled_from([None, 1, 3]))
def quota(world: World, pods: int | None) -> None:
    world.pods_allowed = pods


@event(st.sampled_from([FailureReason.LOAD_FAILED, FailureReason.ARTIFACT_MISSING]))
def start_fails_once(world: World, reason: FailureReason) -> None:
    """The next process that starts gives up; its successor does not."""
    world.hiccups = [Failure(reason=reason, message="connection reset")]


def some_pod(world: World, number: int) -> Document | None:
    pods = [p for p in world.api.of("Pod").values() if nature.is_ready(p)]
    return pods[number % len(pods)] if pods else None


@event(st.integers(0, 5))
def evicted(world: World, number: int) -> None:
    """A pod goes, and its Deployment makes another one."""
    pod = some_pod(world, number)
    if pod:
        nature.end(world, pod)


@event(st.integers(0, 5))
def unready_for_a_moment(world: World, number: int) -> None:
    """A pod loses its readiness, but nothing that it holds."""
    pod = some_pod(world, number)
    if pod:
        nature.set_ready(world, pod, False)


@event(st.integers(0, 5))
def crash(world: World, number: int) -> None:
    """A pod's process ends, with all that it held, and begins anew."""
    pod = some_pod(world, number)
    if pod:
        world.runtimes.pop(pod["metadata"]["name"], None)
        nature.set_ready(world, pod, False)


@event(st.tuples(st.integers(0, 5), st.sampled_from([1.0, 15.0, 300.0])))
def worker_lost(world: World, what: tuple[int, float]) -> None:
    """One of a pod's workers ends. The other one answers until it is replaced, which may take several tries."""
    number, seconds = what
    pod = some_pod(world, number)
    runtime = world.runtimes.get(pod["metadata"]["name"]) if pod else None
    if runtime:
        runtime.whole_at = world.now + seconds


@event(st.integers(0, 5))
def starts_with_old_news(world: World, number: int) -> None:
    """A pod starts on a node that has not heard of the latest generation."""
    pod = some_pod(world, number)
    config = nature.config_on_node(world, pod, is_stale=True) if pod else None
    if pod and config:
        world.runtimes[pod["metadata"]["name"]] = nature.Runtime(config, world.nature_of, world.now)
        world.wake()  # its container began anew


@event()
def drained(world: World, _: None) -> None:
    """The node on which an evaluation runs is emptied."""
    nature.drain(world)


# damage

ODD = ("", "odd", "nan", "inf", "-1", "1e400", "null", "{}", "[]", "[[1]]", '{"a": 1}', "0", "2026-01-01", "é" * 300)


@event(st.tuples(st.integers(0, 200), st.sampled_from([None, *ODD])))
def status_damaged(world: World, what: tuple[int, str | None]) -> None:
    """A field of the status is lost, or a text says something odd."""
    number, value = what
    found = places(world.status)
    if found:
        path = found[number % len(found)]
        world.truth.record_damaged("status")
        world.api.change("DSPyProgram", NAME, status=with_part(world.status, path, value))


@event()
def status_lost(world: World, _: None) -> None:
    world.truth.record_damaged("status")
    world.api.change("DSPyProgram", NAME, status={})


@event(
    st.tuples(
        st.sampled_from(["Deployment", "Service", "ConfigMap"]), st.integers(0, 40), st.sampled_from([None, *ODD])
    )
)
def note_damaged(world: World, what: tuple[str, int, str | None]) -> None:
    """An annotation of ours, or a part of a generation, is lost or says something odd."""
    kind, number, value = what
    part = "data" if kind == "ConfigMap" else "annotations"
    found = [
        (name, key)
        for name, item in sorted(world.api.of(kind).items())
        if not item.get("immutable")
        for key in (item["data"] if part == "data" else item["metadata"].get("annotations") or {})
    ]
    if not found:
        return
    name, key = found[number % len(found)]
    if (kind, name) == ("Service", NAME) or kind == "ConfigMap":  # a generation has the latest copy for a moment
        world.truth.record_damaged("Service")
    if key == RESTARTED_BY:
        world.truth.restart_forgotten()
    if part == "annotations":
        world.api.note(kind, name, {key: value})
    else:
        world.api.change(kind, name, data=with_part(world.api.of(kind)[name]["data"], (key,), value))
    world.truth.people_asked()


@event()
def memory_lost(world: World, _: None) -> None:
    """Both records of what was decided are lost at once."""
    status_lost(world, None)
    service = world.api.get("Service", NAME)
    if service:
        notes = service["metadata"].get("annotations") or {}
        world.truth.record_damaged("Service")
        world.api.note("Service", NAME, dict.fromkeys(notes))
    for name, item in list(world.api.of("ConfigMap").items()):
        if not item.get("immutable"):
            kept = {k: v for k, v in item["data"].items() if not k.startswith("memory")}
            world.api.change("ConfigMap", name, data=kept)
    world.truth.memory_lost()


@event(st.tuples(st.integers(0, 60), st.sampled_from([None, *ODD, -1, 10**30, float("nan")])))
def odd_reports(world: World, what: tuple[int, Any]) -> None:
    """A pod says something odd of itself, once."""
    world.oddity = what
