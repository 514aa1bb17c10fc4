"""Reading objects of the API server: what a pod's status says, and whose an object is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from despina.api.conditions import Reason
from despina.api.program import Program
from despina.api.tool import Tool
from despina.cluster.jobs import job_view, jobs_of
from despina.cluster.observe import (
    Unreadable,
    deployment_view,
    observe,
    parse,
    preview_ready,
    read_status,
)
from despina.cluster.pods import pod_view
from despina.cluster.reading import is_owned
from despina.decide.observed import PodView, Trouble
from despina.decide.plan import Apply, Create, each
from despina.decide.rollout import decide
from despina.desired.config import build_generation
from despina.desired.toolbox import ToolView, toolbox_name
from despina.wire import EvaluationResult, Failure, FailureReason
from tests.support.gen import a_manifest, a_program, config_of
from tests.support.gen import observed as first
from tests.support.simulator.api import Api, Client

WORD = Failure(reason=FailureReason.PICKLE_DENIED, message="m").model_dump_json()


def a_pod(**status) -> dict:
    return {"metadata": {"name": "p", "labels": {"despina.dev/revision": "r"}}, "status": status}


def waiting(reason: str, message: str = "m") -> dict:
    return a_pod(
        containerStatuses=[
            {"name": "program", "image": "i", "state": {"waiting": {"reason": reason, "message": message}}}
        ]
    )


READY = {"type": "Ready", "status": "True"}
TROUBLES = {
    "no node": (
        a_pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3"}]), Reason.UNSCHEDULABLE),
    "no image": (waiting("ImagePullBackOff"), Reason.IMAGE_NOT_PULLED),
    "no secret": (waiting("CreateContainerConfigError"), Reason.SECRET_NOT_FOUND),
    "a crash": (waiting("CrashLoopBackOff"), Reason.CRASHED),
    "just starting": (waiting("ContainerCreating"), None),
    "ready": (a_pod(conditions=[READY]), None),
}  # fmt: skip


@pytest.mark.parametrize("case", TROUBLES)
def test_a_pods_trouble(case):
    pod, reason = TROUBLES[case]
    found = pod_view(pod).trouble
    assert (found.reason if found else None) == reason


@pytest.mark.parametrize("state", ["state", "lastState"])
def test_a_containers_last_word_is_read(state):
    pod = a_pod(containerStatuses=[{"name": "program", state: {"terminated": {"message": WORD, "exitCode": 1}}}])
    assert pod_view(pod).failure == Failure.model_validate_json(WORD)


def test_a_last_word_that_is_not_ours_is_none():
    pod = a_pod(containerStatuses=[{"name": "program", "state": {"terminated": {"message": "Killed"}}}])
    assert pod_view(pod).failure is None


def test_a_ready_pods_past_does_not_count():
    pod = a_pod(conditions=[READY], containerStatuses=[{"name": "p", "lastState": {"terminated": {"message": WORD}}}])
    view = pod_view(pod)
    assert view.ready
    assert view.failure is None


REFUSED = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
CONDITIONS = {
    "pods that are refused": ([{"type": "Available", "status": "False"}, REFUSED], "exceeded quota"),
    "pods that were refused once": ([REFUSED | {"status": "False"}], None),
    "nothing": ([], None),
    "no list": ("x", None),
}  # fmt: skip


@pytest.mark.parametrize("case", CONDITIONS)
def test_a_deployments_own_conditions(case):
    conditions, message = CONDITIONS[case]
    meta = {"name": "d", "labels": {"despina.dev/revision": "r"}}
    view = deployment_view({"metadata": meta, "spec": {}, "status": {"conditions": conditions}}, {})
    assert view is not None
    assert view.trouble == (Trouble(Reason.PODS_REFUSED, message) if message else None)


def test_preview_endpoints_count_once_and_only_when_ready():
    def part(*endpoints) -> dict:
        return {
            "metadata": {"labels": {"kubernetes.io/service-name": "qa-preview"}},
            "endpoints": [{"targetRef": {"name": n}, "conditions": {"ready": r}} for n, r in endpoints],
        }

    pods = (PodView("a", "r1"), PodView("b", "r1"), PodView("c", "r2"))
    slices = [part(("a", True), ("b", False)), part(("a", True), ("c", True), ("stranger", True))]
    assert preview_ready(slices, "qa-preview", pods) == {"r1": 1, "r2": 1}
    assert preview_ready(slices, "qa", pods) == {}


def test_an_object_is_owned_by_uid_and_not_by_label():
    program = a_program()
    mine = {"metadata": {"ownerReferences": [{"uid": program.uid}]}}
    assert is_owned(mine, program)
    assert not is_owned({"metadata": {"labels": {"despina.dev/program": "qa"}}}, program)


def test_a_manifest_that_cannot_be_read_names_its_fields():
    found = parse(Program, a_manifest(replicas="two", surprise=1))
    assert isinstance(found, Unreadable)
    assert "spec.replicas" in found.message
    assert "spec.surprise" in found.message


def test_a_secret_in_a_manifest_is_refused_without_repeating_it():
    lm = {"name": "main", "model": "openai/x", "params": {"api_key": "sk-very-secret"}}
    found = parse(Program, a_manifest(lms=[lm]))
    assert isinstance(found, Unreadable)
    assert "apiKeySecretRef" in found.message
    assert "sk-very-secret" not in found.message


def test_a_status_that_cannot_be_read_is_made_anew():
    assert read_status({"observedGeneration": "x"}).observed_generation == 0


SCORE = EvaluationResult(score_percent=90, examples=5)
ERROR = EvaluationResult(error="no score")
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
FAILED = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}


def a_job(*conditions: dict) -> dict:
    return {"metadata": {"name": "qa-eval-1"}, "status": {"conditions": list(conditions)}}


def scored(said: EvaluationResult | str | None, code: int = 0, at: int = 0, name: str = "program", **more) -> dict:
    """A pod of a Job, created in that second; `said` stands in its container's termination message."""
    word = said.model_dump_json() if isinstance(said, EvaluationResult) else said
    state = {"terminated": {"message": word, "exitCode": code, **more.pop("ended", {})}} if word is not None else {}
    status = {"containerStatuses": [{"name": name, "image": "i", "state": state}], **more}
    return {"metadata": {"name": f"p{at}", "creationTimestamp": f"2026-01-02T03:04:{at:02}Z"}, "status": status}


@pytest.mark.parametrize(
    ("pods", "result"),
    [
        ([scored(SCORE)], SCORE),
        ([scored(ERROR, code=1)], ERROR),
        ([scored(None, phase="Running")], None),
        # Whoever is scored can write where the last words stand, so a process that did not end well gives no score.
        ([scored(SCORE, code=137)], None),
        ([scored(SCORE, code=1)], None),
        ([scored(SCORE, name="sidecar")], None),
        ([scored("Killed", code=137)], None),
        # A node was drained: what its pod said counts for nothing, the next one's words do.
        ([scored(ERROR, code=1, conditions=[DISRUPTED])], None),
        ([scored(ERROR, code=1, conditions=[DISRUPTED]), scored(SCORE, at=9)], SCORE),
        ([scored(SCORE, at=9), scored(ERROR, code=1, conditions=[DISRUPTED])], SCORE),
        ([scored(SCORE, conditions=[DISRUPTED])], SCORE),
    ],
)
def test_a_jobs_result_is_that_of_the_right_pod(pods, result):
    assert job_view(a_job(), pods).result == result


def nested(levels: int) -> dict:
    document: dict = {"a": 1}
    for n in range(levels - 1):
        document = {"a": [document]} if n % 50 == 1 else {"a": document}
    return document


DEEP_FIELDS = {
    "spec.lms.0.params": (Program, lambda deep: {"lms": [{"name": "m", "model": "x/y", "params": deep}]}),
    "spec.podTemplate": (Program, lambda deep: {"podTemplate": deep}),
    "spec.fallback.response": (Program, lambda deep: {"fallback": {"response": deep}}),
    "spec.contract.parameters": (
        Tool, lambda deep: {"contract": {"name": "t", "parameters": {"type": "object", "default": deep}}}),
}  # fmt: skip


@pytest.mark.parametrize("field", DEEP_FIELDS)
@pytest.mark.parametrize("levels", [500, 9990])
def test_what_is_nested_too_deep_is_unreadable_and_named(field, levels):
    kind, spec = DEEP_FIELDS[field]
    manifest = a_manifest() | {"kind": kind.kind}
    manifest["spec"] = (manifest["spec"] if kind is Program else {}) | spec(nested(levels))
    found = parse(kind, manifest)
    assert isinstance(found, Unreadable)
    assert f"{field}: Value error, is nested deeper than 64 levels" in found.message


def test_what_is_nested_as_deep_as_may_be_is_read():
    assert isinstance(parse(Program, a_manifest(lms=[{"name": "m", "model": "x/y", "params": nested(62)}])), Program)


async def test_a_job_is_told_of_by_its_own_pods_alone():
    """Anybody who may make a pod can give it the label."""

    class Labelled:
        async def list(self, kind: str, namespace: str, labels: dict[str, str]) -> list[dict]:
            return pods

    def owned_by(uid: str, pod: dict) -> dict:
        return pod | {"metadata": pod["metadata"] | {"ownerReferences": [{"kind": "Job", "uid": uid}]}}

    job = a_job()
    job["metadata"]["uid"] = "j"
    pods = [scored(SCORE, at=9), owned_by("another", scored(SCORE, at=8)), owned_by("j", scored(ERROR, code=1))]
    (view,), _ = await jobs_of(Labelled(), a_program(), [job])
    assert view.result == ERROR


def test_progress_and_trouble_are_those_of_the_newest_pod():
    old = scored(ERROR, code=1, at=1, phase="Failed", podIP="10.0.0.1", conditions=[DISRUPTED])
    new = scored(None, at=2, phase="Running", podIP="10.0.0.2")
    leaving = scored(None, at=1, phase="Running", podIP="10.0.0.1", conditions=[DISRUPTED])
    waiting_for_a_node = {"type": "PodScheduled", "status": "False", "message": "0/3"}
    pending = scored(None, at=2, phase="Pending", conditions=[waiting_for_a_node])
    for pods in ([old, new], [new, old], [leaving, new]):
        assert job_view(a_job(), pods).ip == "10.0.0.2"
    assert job_view(a_job(), [old, pending]).ip is None
    assert job_view(a_job(), [old, pending]).trouble == "Unschedulable: 0/3"
    assert "another one follows" in job_view(a_job(), [old]).trouble
    assert job_view(a_job(), [leaving | {"metadata": leaving["metadata"] | {"deletionTimestamp": "x"}}]).ip is None


def test_a_job_that_ended_without_a_result_says_how():
    killed = scored("", code=137, phase="Failed", ended={"reason": "OOMKilled"})
    assert job_view(a_job(FAILED | {"reason": "BackoffLimitExceeded"}), [killed]).trouble == (
        "OOMKilled: container program ended with code 137"
    )
    late = job_view(a_job(FAILED), [])
    assert (late.ended, late.trouble) == (True, "DeadlineExceeded: too long")


@pytest.mark.parametrize("is_known", [True, False])
async def test_the_tokens_of_tools_are_read_while_a_revision_that_is_around_has_tools(is_known):
    """Whatever the spec says by now: what is applied and not read would be applied for ever."""
    tools = [{"name": "search", "ref": {"name": "search"}}]
    before, now = a_program(tools=tools if is_known else []), a_program()
    api = Api()
    for action in decide(replace(first(before), tools=(ToolView("ns/search"),)), 0.0).steps:
        if isinstance(action, Apply | Create):
            api.put(action.document)
    api.drop("ConfigMap", toolbox_name(now))
    live = await observe(Client(api), now, {"metadata": {"name": now.name, "namespace": now.namespace}})
    assert (("Secret", toolbox_name(now)) in live.objects) is is_known


@pytest.mark.parametrize("labels", [{}, {"despina.dev/program": "another"}, None])
async def test_the_service_that_leads_callers_is_found_though_no_list_has_it(labels):
    """A decision without it would be about somewhere else than where callers are."""
    program, api = a_program(), Api()
    for action in decide(first(program), 0.0).steps:
        if isinstance(action, Apply | Create):
            api.put(action.document)
    service = api.get("Service", program.name)
    if labels is None:  # gone, and another came that is not ours
        service = {**service, "metadata": service["metadata"] | {"ownerReferences": []}}
    api.put({**service, "metadata": service["metadata"] | {"labels": labels or {}}})
    live = await observe(Client(api), program, {"metadata": {"name": program.name, "namespace": program.namespace}})
    assert live.active == (None if labels is None else service["spec"]["selector"]["despina.dev/revision"])
    assert (("Service", program.name) in live.versions) is (labels is not None)


async def test_pods_are_read_with_the_keys_of_all_that_they_may_have_been_started_with():
    program, api = a_program(), Api()
    plan = decide(first(program, read_key="first", ask_key="asks"), 0.0)
    for action in each(plan.actions):
        if isinstance(action, Apply | Create):
            api.put(action.document)
    (deployment,) = api.of("Deployment").values()
    assert any('"ask_key":"asks"' in str(found) for found in api.of("ConfigMap").values())
    base, name = deployment["metadata"]["labels"]["despina.dev/revision"], deployment["metadata"]["name"]
    for pod, revision in (("qa-1", base), ("qa-2", "another")):
        meta = {"name": pod, "labels": {"despina.dev/program": "qa", "despina.dev/revision": revision}}
        api.put({"kind": "Pod", "metadata": meta})
    config = config_of(program, "2").model_copy(update={"read_key": "later"})
    api.put(build_generation(program, name, base, config, 0.0, None, None))
    live = await observe(Client(api), program, {"metadata": {"name": program.name, "namespace": program.namespace}})
    assert {pod.name: pod.read_keys for pod in live.pods} == {"qa-1": ("first", "later"), "qa-2": ()}
