"""The operator in its cluster: it may die, it cleans up after itself, it says what is wrong, it rests."""

from __future__ import annotations

import pytest

from tests.support.world import NAMESPACE, Kube, assert_at_rest, eventually, log_model, move_alias, traffic


@pytest.fixture(scope="module")
def model():
    log_model("good", "care", "champion")
    log_model("compiled", "care")
    return "care"


def children(kube: Kube, name: str) -> list[str]:
    kinds = "deployments,services,configmaps,pods,hpa,pdb,serviceaccounts"
    return kube("get", kinds, "-l", f"despina.dev/program={name}", "-o", "name").split()


def test_an_operator_that_dies_in_a_rollout_finishes_it_when_it_is_back(given, kube, model):
    move_alias(model, "1")
    program = given("care", replicas=2)
    program.becomes_ready()
    with traffic(program) as requests:
        move_alias(model, "2")
        eventually("a candidate", lambda: "2" in program.deployments(), 60)
        Kube("despina-system")("delete", "pod", "-l", "app.kubernetes.io/name=despina", "--now")
        eventually("version 2 is active", lambda: program.is_active("2"), 120)
        eventually("the last old pod is gone", lambda: program.only_pods_of("2"), 120)
    assert not requests.report("operator killed in a rollout", allowed={"1", "2"})

    # At rest nothing is written; what is done right after is acted on.
    eventually("rest", lambda: program.status.get("previous") is None and program.condition("Ready"), 60)
    assert_at_rest(kube, 15)
    kube("patch", "dspy", "care", "--type=merge", "-p", '{"spec": {"replicas": 1}}')
    scale = "jsonpath={.spec.replicas}"
    name = program.status["active"]["deployment"]
    eventually("scaled", lambda: kube("get", "deployment", name, "-o", scale) == "1", 5)

    # No finalizer is ever added, and deleting the program removes all that was made for it.
    meta = kube.json("get", "dspy", "care")["metadata"]
    assert "finalizers" not in meta
    assert children(kube, "care")
    program.delete()
    eventually("everything is gone", lambda: not children(kube, "care"), 90)


SPEC_PROBLEMS = {
    "a model that is not registered": (
        {"source": {"mlflow": {"model": "nobody", "alias": "champion"}}}, "ModelResolved", "False", "ModelNotFound", "nobody"),
    "an alias that the model does not have": (
        {"source": {"mlflow": {"model": "care", "alias": "nowhere"}}}, "ModelResolved", "False", "AliasNotFound", "champion"),
    "a version that the model does not have": (
        {"source": {"mlflow": {"model": "care", "version": 99}}}, "ModelResolved", "False", "VersionNotFound", "99"),
    "an MLflow that cannot be reached": (
        {"source": {"mlflow": {"model": "care", "alias": "champion", "trackingURI": "http://10.96.255.254:5000"}}},
        "ModelResolved", "Unknown", "RegistryUnreachable", "10.96.255.254"),
    "a placement profile that is not configured": (
        {"placement": {"profile": "moon"}}, "RefsResolved", "False", "UnknownProfile", "aws, default, gpu"),
    "a pod template that takes over a probe": (
        {"podTemplate": {"spec": {"containers": [{"name": "program", "livenessProbe": {}}]}}},
        "Ready", "False", "InvalidPodTemplate", "livenessProbe"),
    "a secret that is not there": (
        {"lms": [{"name": "main", "model": "openai/x", "apiKeySecretRef": {"name": "absent", "key": "k"}}]},
        "RefsResolved", "False", "SecretNotFound", "absent"),
    "a pool without a node": (
        {"placement": {"profile": "gpu"}}, "Available", "False", "Unschedulable", "0/1 nodes"),
    "an image that cannot be pulled": (
        {"runtime": {"image": "localhost/nothing:1", "imagePullPolicy": "Never"}}, "Available", "False", "ImageNotPulled", "localhost/nothing"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPEC_PROBLEMS)
def test_what_is_wrong_is_a_condition_with_a_reason(given, kube, model, case):
    spec, kind, status, reason, part = SPEC_PROBLEMS[case]
    uri = f"http://mlflow.{NAMESPACE}:5000"
    if "source" in spec:
        spec = {"source": {"mlflow": {"trackingURI": uri, **spec["source"]["mlflow"]}}}
    program = given("problem", model=model, **spec)
    condition = program.becomes(kind, status, reason, 60)
    assert part in condition["message"], condition
    assert program.condition("Ready")["status"] == "False"


def test_an_object_of_the_same_name_is_not_taken_over(given, kube, model):
    kube("create", "service", "clusterip", "foreign", "--tcp=80:80")
    try:
        program = given("foreign", model=model)
        condition = program.becomes("Ready", "False", "Rejected", 60)
        assert "Service e2e/foreign" in condition["message"]
        assert "despina" not in kube("get", "service", "foreign", "-o", "jsonpath={.metadata.labels}")
    finally:
        kube("delete", "service", "foreign")


def test_a_pickle_is_refused_with_the_line_to_add_and_loads_with_it(given, kube):
    log_model("pickled", "pickle", "champion")
    program = given("pickle")
    condition = program.becomes("Ready", "False", "PickleDenied", 120)
    assert "spec.security.pickle: Allow" in condition["message"]
    kube("patch", "dspy", "pickle", "--type=merge", "-p", '{"spec": {"security": {"pickle": "Allow"}}}')
    program.becomes_ready(120)
