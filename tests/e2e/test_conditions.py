"""What is wrong with a program is a condition that says so, with a reason and in words that help."""

from __future__ import annotations

import pytest

from tests.support.world import log_model

MLFLOW = "http://mlflow.default:5000"


@pytest.fixture(scope="module")
def model():
    log_model("good", "troubled", "champion")
    return "troubled"


SPEC_PROBLEMS = {
    "a model that is not registered": (
        {"source": {"mlflow": {"model": "nobody", "alias": "champion"}}}, "ModelResolved", "False", "ModelNotFound", "nobody"),
    "an alias that the model does not have": (
        {"source": {"mlflow": {"model": "troubled", "alias": "nowhere"}}}, "ModelResolved", "False", "AliasNotFound", "champion"),
    "a version that the model does not have": (
        {"source": {"mlflow": {"model": "troubled", "version": 99}}}, "ModelResolved", "False", "VersionNotFound", "99"),
    "an MLflow that cannot be reached": (
        {"source": {"mlflow": {"model": "troubled", "alias": "champion", "trackingURI": "http://10.96.255.254:5000"}}},
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
    if "source" in spec:
        spec = {"source": {"mlflow": {"trackingURI": MLFLOW, **spec["source"]["mlflow"]}}}
    program = given("problem", model=model, **spec)
    condition = program.becomes(kind, status, reason, 60)
    assert part in condition["message"], condition
    assert program.condition("Ready")["status"] == "False"


def test_an_object_of_the_same_name_is_not_taken_over(given, kube, model):
    kube("create", "service", "clusterip", "foreign", "--tcp=80:80")
    try:
        program = given("foreign", model=model)
        condition = program.becomes("Ready", "False", "Rejected", 60)
        assert f"Service {kube.namespace}/foreign" in condition["message"]
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
