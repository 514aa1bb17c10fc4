"""What a cluster does by itself: the controllers of Deployments and Jobs, kubelets, endpoints, garbage collection.

Each function is one turn of one of them. A Deployment's pods are replaced one at a time, each after its successor is
ready. A pod that is deleted takes no new requests and is gone a turn later. A pod that becomes ready needs its registry
once, its ConfigMap, and a version that can be loaded. An evaluation goes on a little each turn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from despina.desired.config import generation_name
from despina.desired.labels import EVALUATION, OPTIMIZATION, PROGRAM, RESTARTED_AT, REVISION
from despina.wire import CONFIG_FILE, EVALUATION_ENV, EvaluationConfig, EvaluationResult, Failure, RuntimeConfig
from tests.support.simulator.api import Document
from tests.support.simulator.loop import is_optimization
from tests.support.simulator.operator import NAME, _Configs
from tests.support.simulator.runtime import Runtime

if TYPE_CHECKING:
    from tests.support.simulator.world import World

TURNS_OF_AN_EVALUATION = 3


def control_deployments(world: World) -> None:
    """As many pods as asked for, of the present template."""
    _bury(world)
    for view in list(world.api.of("Deployment").values()):
        mine = [p for p in world.pods_of(base_of(view)) if not _is_ending(p)]
        _resize(world, view, mine)
    known = {base_of(d) for d in world.api.of("Deployment").values()}
    for pod in [p for p in world.api.of("Pod").values() if p["metadata"]["labels"].get(REVISION, "") not in known]:
        if not _is_jobs(pod):
            end(world, pod)


def base_of(deployment: Document) -> str:
    """The revision that a Deployment's pods are labelled with, which nobody can change."""
    base: str = deployment["spec"]["template"]["metadata"]["labels"][REVISION]
    return base


def _resize(world: World, view: Document, mine: list[Document]) -> None:
    wanted = view["spec"].get("replicas", 1)
    template = view["spec"]["template"]["metadata"]
    mark = (template.get("annotations") or {}).get(RESTARTED_AT)
    new = [p for p in mine if p["metadata"]["annotations"].get(RESTARTED_AT) == mark]
    old = [p for p in mine if p not in new]
    most = wanted + (1 if old and wanted else 0)  # one more, while pods are replaced
    spare = sorted(mine, key=lambda pod: (is_ready(pod), pod in new))
    if len(mine) > most:
        gone = spare[: len(mine) - most]
    else:
        gone = old[:1] if old and sum(map(is_ready, mine)) > wanted else []
    for pod in gone:
        end(world, pod)
    refused = False
    for _ in range(min(most - len(mine), wanted - len(new))):
        refused = world.pods_allowed is not None and len(world.api.of("Pod")) >= world.pods_allowed
        if refused:
            break
        _make_pod(world, view, template["labels"], mark)
    _say_refused(world, view["metadata"]["name"], refused)


def _make_pod(world: World, view: Document, labels: dict[str, str], mark: str | None) -> None:
    name = f"{view['metadata']['name']}-{world.next_number()}"
    notes = {RESTARTED_AT: mark} if mark else {}
    status = {"phase": "Pending", "podIP": "10.0.0.1", "conditions": []}
    meta = {"name": name, "labels": labels, "annotations": notes}
    world.api.put({"kind": "Pod", "metadata": meta, "status": status})


def _say_refused(world: World, name: str, is_refused: bool) -> None:
    view = world.api.of("Deployment")[name]
    said = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    conditions = [said] if is_refused else []
    if (view.get("status") or {}).get("conditions", []) != conditions:
        world.api.change("Deployment", name, status={"conditions": conditions})


def end(world: World, pod: Document) -> None:
    """Delete a pod: it takes no new requests."""
    if not _is_ending(pod):
        meta = {**pod["metadata"], "deletionTimestamp": "now"}
        world.api.put({**pod, "metadata": meta, "status": {**pod["status"], "conditions": []}})
        world.runtimes.pop(meta["name"], None)


def _bury(world: World) -> None:
    for name, pod in list(world.api.of("Pod").items()):
        if _is_ending(pod):
            world.api.drop("Pod", name)


def _is_jobs(pod: Document) -> bool:
    return bool({EVALUATION, OPTIMIZATION} & pod["metadata"]["labels"].keys())


def _is_ending(pod: Document) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Document) -> bool:
    return bool(pod["status"]["conditions"])


def set_ready(world: World, pod: Document, ready: bool, **status: Any) -> None:
    conditions = [{"type": "Ready", "status": "True"}] if ready else []
    world.api.put({**pod, "status": {**pod["status"], "phase": "Running", "conditions": conditions, **status}})


def start_pods(world: World) -> None:
    """The kubelets: each pod becomes ready, or says why not."""
    for name, pod in list(world.api.of("Pod").items()):
        if is_ready(pod) or _is_ending(pod) or _is_jobs(pod):
            continue
        if name not in world.runtimes:
            _start(world, pod)
        else:
            set_ready(world, pod, True)


def _start(world: World, pod: Document) -> None:
    """A new process: it runs what its Deployment's generation says, as far as its node has heard of it."""
    config = config_on_node(world, pod)
    if config is None or not world.mlflow.is_up:
        return
    failure = world.next_failure(config)
    if failure:
        _fail(world, pod, failure)
        return
    world.runtimes[pod["metadata"]["name"]] = Runtime(config, world.nature_of, world.now)
    set_ready(world, pod, True)


def config_on_node(world: World, pod: Document, is_stale: bool = False) -> RuntimeConfig | None:
    """What a process finds in its mounted files; None where it cannot even start."""
    owner = next(
        (d for d in world.api.of("Deployment").values() if base_of(d) == pod["metadata"]["labels"][REVISION]), None
    )
    if owner is None:
        return None
    name = owner["metadata"]["name"]
    found = read_config(world.api.get("ConfigMap", name))
    later = None if is_stale else read_config(world.api.get("ConfigMap", generation_name(name)))
    return found and (later or found)


def read_config(document: Document | None) -> RuntimeConfig | None:
    try:
        return _Configs.model_validate_json(document["data"][CONFIG_FILE]) if document else None
    except (ValueError, KeyError):
        return None


def _fail(world: World, pod: Document, failure: Failure) -> None:
    said = {"exitCode": 1, "message": failure.model_dump_json()}
    container = {
        "name": "program",
        "restartCount": pod["status"].get("containerStatuses", [{"restartCount": -1}])[0]["restartCount"] + 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": said},
    }
    set_ready(world, pod, False, containerStatuses=[container])


def publish(world: World) -> None:
    """The endpoint controller catches up on the preview Service."""
    name = f"{NAME}-preview"
    service = world.api.get("Service", name)
    chosen = service["spec"]["selector"][REVISION] if service else None
    ready = [p["metadata"]["name"] for p in world.pods_of(chosen) if is_ready(p)]
    endpoints = [{"targetRef": {"name": pod}, "conditions": {"ready": True}} for pod in ready]
    labels = {PROGRAM: NAME, "kubernetes.io/service-name": name}
    world.api.put(
        {"kind": "EndpointSlice", "metadata": {"name": f"{name}-1", "labels": labels}, "endpoints": endpoints}
    )


def collect_garbage(world: World) -> None:
    """What belongs to something that is no more goes after it, and what ended long ago."""
    there = {item["metadata"]["uid"] for table in world.api.objects.values() for item in table.values()}
    for kind, table in list(world.api.objects.items()):
        for name, item in list(table.items()):
            owners = item["metadata"].get("ownerReferences") or []
            if owners and all(one["uid"] not in there for one in owners):
                world.api.drop(kind, name)
    for name, job in list(world.api.of("Job").items()):
        ended_at = (job.get("status") or {}).get("endedAt")
        if ended_at is not None and world.now - ended_at >= job["spec"]["ttlSecondsAfterFinished"]:
            world.api.drop("Job", name)


def run_jobs(world: World) -> None:
    """Each evaluation, or optimisation, goes on, and costs money from its first turn on."""
    jobs = world.api.of("Job")
    for name, pod in list(world.api.of("Pod").items()):
        if _is_jobs(pod) and name.removesuffix("-pod") not in jobs:
            world.api.drop("Pod", name)
    for name, job in list(jobs.items()):
        if not job.get("status"):
            _evaluate(world, name, job)


def _evaluate(world: World, name: str, job: Document) -> None:
    pod = world.api.get("Pod", f"{name}-pod")
    if pod is None:
        world.evaluated[name] = 0
        owner = {"kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
        label = OPTIMIZATION if is_optimization(name) else EVALUATION
        meta = {"name": f"{name}-pod", "labels": {label: name}, "annotations": {}, "ownerReferences": [owner]}
        world.api.put(
            {"kind": "Pod", "metadata": meta, "status": {"phase": "Running", "podIP": "10.0.0.2", "conditions": []}}
        )
        return
    if is_optimization(name):
        world.loop.turn(name, job, pod)
        return
    world.evaluated[name] += 1
    if world.evaluated[name] >= TURNS_OF_AN_EVALUATION:
        said = {"exitCode": 0, "message": result_of(world, job).model_dump_json()}
        states = [{"name": "program", "state": {"terminated": said}}]
        world.api.put({**pod, "status": {**pod["status"], "phase": "Succeeded", "containerStatuses": states}})
        end_job(world, name, "Complete")


def end_job(world: World, name: str, how: str) -> None:
    status = {"conditions": [{"type": how, "status": "True"}], "endedAt": world.now}
    world.api.change("Job", name, status=status)


def result_of(world: World, job: Document) -> EvaluationResult:
    config = evaluated_by(job)
    nature = world.nature_of(config.candidate.model)
    if nature.broken:
        return EvaluationResult(error="it cannot be loaded")
    score, p = (70.0, 0.95) if "Evaluate" in nature.fails else (90.0, 0.03)
    compared = {"baseline_percent": 80.0, "gain_low_percent": 1.0, "gain_high_percent": 19.0, "p": p}
    return EvaluationResult(score_percent=score, examples=50, cost_usd=0.1, **(compared if config.baseline else {}))


def evaluated_by(job: Document) -> EvaluationConfig:
    """What a Job was made to do."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    text = next(one["value"] for one in container["env"] if one["name"] == EVALUATION_ENV)
    return EvaluationConfig.model_validate_json(text)


def drain(world: World) -> None:
    """The node of an evaluation is emptied. What then becomes of its Job is what the Job says."""
    for name, job in list(world.api.of("Job").items()):
        pod = world.api.get("Pod", f"{name}-pod")
        if pod and not job.get("status"):
            world.api.drop("Pod", f"{name}-pod")
            if "DisruptionTarget" not in json.dumps(job["spec"].get("podFailurePolicy", {})):
                end_job(world, name, "Failed")
                world.loop.ended(name)


def serve(world: World) -> None:
    """Callers ask the active pods: versions that err do so, the others answer."""
    for pod in world.pods_of(world.active):
        if is_ready(pod):
            runtime = world.runtimes[pod["metadata"]["name"]]
            if runtime.answer(world.failing, world.now):
                world.truth.failed.add(runtime.config.revision)


def autoscale(world: World, replicas: int) -> None:
    """The autoscaler's doing, where the operator has made one. It wakes nothing from 0."""
    for name, hpa in world.api.of("HorizontalPodAutoscaler").items():
        view = world.api.get("Deployment", hpa["spec"]["scaleTargetRef"]["name"])
        if view and view["spec"].get("replicas", 1):
            size = min(max(hpa["spec"]["minReplicas"], replicas), hpa["spec"]["maxReplicas"])
            world.api.change("Deployment", name, spec={**view["spec"], "replicas": size})
