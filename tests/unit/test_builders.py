"""The objects that a manifest becomes: golden files, the overlay, and what is never in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import revision_of
from despina.api.status import Memory
from despina.api.tool import Tool, ToolStatus
from despina.decide.observed import Defaults, Observed, Resolution
from despina.decide.plan import Apply, Create, Plan, each
from despina.decide.rollout import decide
from despina.decide.tool import ObservedTool, ToolPlan, decide_tool
from despina.desired import labels
from despina.desired.config import build_generation
from despina.desired.network import build_service
from despina.desired.overlay import overlay, overlay_problem
from tests.support.gen import a_manifest, a_program, config_of, observed, ref

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(p.parent.name for p in DATA.glob("*/input.yaml"))
PROFILES = {
    "gpu": PlacementProfile.model_validate(
        {
            "accelerator": {},
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        }
    ),
    "aws": PlacementProfile.model_validate(
        {
            "nodeSelector": {"pool": "aws"},
            "serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"},
        }
    ),
}


DEFAULTS = Defaults("despina-runtime:1", "http://mlflow:5000", PROFILES, ("a2V5",))


def objects(document: dict) -> list[dict]:
    plan = plan_of_tool(document) if document["kind"] == "DSPyTool" else plan_of_program(document)
    return [a.document for a in each(plan.actions) if isinstance(a, Create | Apply)]


def plan_of_program(document: dict) -> Plan:
    program = Program.parse(document)
    base = observed(program)
    return decide(Observed(program, base.status, DEFAULTS, Resolution("3", base.model.reason)), 0.0)


def plan_of_tool(document: dict) -> ToolPlan:
    tokens = {"team-b": ("t2",), "team-a": ("t1", "t0")}
    return decide_tool(ObservedTool(Tool.parse(document), ToolStatus(), DEFAULTS, tokens))


@pytest.mark.parametrize("case", CASES)
def test_golden_objects(case):
    """No object more and none less; UPDATE_GOLDENS=1 writes them anew, for the diff to be read."""
    found = objects(yaml.safe_load((DATA / case / "input.yaml").read_text()))
    expected = DATA / case / "expected.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(yaml.safe_dump_all(found, sort_keys=True))
    assert found == list(yaml.safe_load_all(expected.read_text()))


@pytest.mark.parametrize("case", CASES)
def test_rules_that_hold_for_every_object(case):
    document = yaml.safe_load((DATA / case / "input.yaml").read_text())
    document["metadata"]["labels"] = {"app.kubernetes.io/instance": "argo", "argocd.argoproj.io/x": "y"}
    for item in objects(document):
        labels = item["metadata"]["labels"]
        assert "app.kubernetes.io/instance" not in labels
        assert not [k for k in labels if "argocd" in k]
        assert item["metadata"]["ownerReferences"][0]["uid"] == document["metadata"]["uid"]
        assert "finalizers" not in item["metadata"]
        assert "replicas" not in item.get("spec", {})
        if item["kind"] == "Deployment":
            pod = item["spec"]["template"]["spec"]
            assert pod["containers"][0]["resources"]["requests"]["cpu"]
            assert item["spec"]["template"]["metadata"]["labels"] is not labels


def test_overlay_merges_containers_and_env_by_name_and_leaves_its_inputs_alone():
    base = {"spec": {"containers": [{"name": "program", "image": "a", "env": [{"name": "A", "value": "1"}]}]}}
    patch = {
        "spec": {
            "containers": [{"name": "program", "env": [{"name": "B", "value": "2"}]}, {"name": "sidecar"}],
            "hostname": "h",
        }
    }
    merged = overlay(base, patch)
    program, sidecar = merged["spec"]["containers"]
    assert program["image"] == "a"
    assert [e["name"] for e in program["env"]] == ["A", "B"]
    assert sidecar == {"name": "sidecar"}
    assert merged["spec"]["hostname"] == "h"
    assert len(base["spec"]["containers"]) == 1


def container(**fields) -> dict:
    return {"spec": {"containers": [{"name": "program", **fields}]}}


def labelled(label: str) -> dict:
    return {"metadata": {"labels": {"mine": "1", label: "x"}}}


OWN = "spec.podTemplate.spec.containers[program]"
TEMPLATES = {
    # what is wrong with a podTemplate: the template, what is said
    "nothing": ({}, None),
    "nothing, with all that is allowed": (
        {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {
            "containers": [{"name": "program", "env": [{"name": "MY_DESPINA_X"}]}, {"name": "sidecar", "ports": [], "env": [{"name": "DESPINA_X"}]}],
            "initContainers": [{"name": "a"}], "volumes": [{"name": "v"}], "hostname": "h"}}, None),
    "nothing, with parts that are empty": ({"metadata": {"labels": None}, "spec": {"containers": [{"name": "program", "env": None}]}}, None),
    "ports": (container(ports=[]), f"{OWN}.ports is Despina's own"),
    "a liveness probe": (container(livenessProbe={}), f"{OWN}.livenessProbe is Despina's own"),
    "a readiness probe": (container(readinessProbe={}), f"{OWN}.readinessProbe is Despina's own"),
    "a startup probe": (container(startupProbe={}), f"{OWN}.startupProbe is Despina's own"),
    "a command": (container(command=[]), f"{OWN}.command is Despina's own"),
    "arguments": (container(args=[]), f"{OWN}.args is Despina's own"),
    "a variable": (container(env=[{"name": "A"}, {"name": "DESPINA_X"}]), f"{OWN}.env: DESPINA_X is Despina's own"),
    "a variable without a name": (container(env=[{"value": "a"}]), None),
    "the second of two": ({"spec": {"containers": [{"name": "sidecar"}, {"name": "program", "args": []}]}}, f"{OWN}.args is Despina's own"),
    **{f"the label {label}": (labelled(label), f"spec.podTemplate.metadata.labels: {label} is Despina's own") for label in (
        "app.kubernetes.io/managed-by", "despina.dev/program", "despina.dev/revision", "despina.dev/model-version",
        "despina.dev/tool", "despina.dev/backend")},
    "no template": ([], "spec.podTemplate must be an object"),
    "another field": ({"sepc": {}}, "spec.podTemplate.sepc is not part of a pod template: use metadata and spec"),
    "a spec that is a list": ({"spec": []}, "spec.podTemplate.spec must be an object"),
    "metadata that are text": ({"metadata": "x"}, "spec.podTemplate.metadata must be an object"),
    "containers that are no list": ({"spec": {"containers": {}}}, "spec.podTemplate.spec.containers must be a list of objects with a name"),
    "a container without a name": ({"spec": {"containers": [{"image": "x"}]}}, "spec.podTemplate.spec.containers must be a list of objects with a name"),
    "a container that is text": ({"spec": {"containers": ["x"]}}, "spec.podTemplate.spec.containers must be a list of objects with a name"),
    "an init container without a name": (
        {"spec": {"initContainers": [{"name": "a"}, {"name": ""}]}}, "spec.podTemplate.spec.initContainers must be a list of objects with a name"),
    "a volume without a name": ({"spec": {"volumes": [{}]}}, "spec.podTemplate.spec.volumes must be a list of objects with a name"),
}  # fmt: skip


@pytest.mark.parametrize("what", TEMPLATES)
def test_what_is_wrong_with_an_overlay_is_told_by_its_field(what):
    patch, said = TEMPLATES[what]
    assert overlay_problem(patch) == said


def test_the_field_and_the_container_of_an_overlay_are_the_askers():
    patch = {"spec": {"containers": [{"name": "tool", "args": []}]}}
    assert overlay_problem(patch) is None
    assert overlay_problem(patch, "x.y", "tool") == "x.y.spec.containers[tool].args is Despina's own"


LISTS = {
    # which list: what stands there, what is laid over it, what becomes of it
    "containers": ([{"name": "a", "x": 1}, {"name": "b"}], [{"name": "c"}, {"name": "a", "y": 2}], [{"name": "a", "x": 1, "y": 2}, {"name": "b"}, {"name": "c"}]),
    "initContainers": ([{"name": "a", "x": 1}], [{"name": "a", "x": 2}], [{"name": "a", "x": 2}]),
    "volumes": ([{"name": "a"}], [{"name": "b"}], [{"name": "a"}, {"name": "b"}]),
    "env": ([{"name": "a"}], [{"name": "b"}], [{"name": "a"}, {"name": "b"}]),
    "imagePullSecrets": ([{"name": "a"}], [{"name": "b"}], [{"name": "a"}, {"name": "b"}]),
    "volumeMounts": ([{"name": "a", "mountPath": "/a"}], [{"name": "a", "mountPath": "/b"}], [{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}]),
    "tolerations": ([{"key": "a"}], [{"key": "b"}], [{"key": "b"}]),
    "no list any more": ([{"name": "a"}], None, None),
}  # fmt: skip


@pytest.mark.parametrize("field", LISTS)
def test_lists_are_merged_as_kubernetes_does(field):
    base, patch, wanted = LISTS[field]
    assert overlay({field: base}, {field: patch}) == {field: wanted}


NAMES = {
    # what users, dashboards and older operators know by name
    labels.MANAGED_BY: "app.kubernetes.io/managed-by",
    labels.PROGRAM: "despina.dev/program",
    labels.TOOL: "despina.dev/tool",
    labels.BACKEND: "despina.dev/backend",
    labels.REVISION: "despina.dev/revision",
    labels.MODEL_VERSION: "despina.dev/model-version",
    labels.ACTIVATED_AT: "despina.dev/activated-at",
    labels.RETIRED_AT: "despina.dev/retired-at",
    labels.PROMOTE: "despina.dev/promote",
    labels.RETRY: "despina.dev/retry",
    labels.INVALIDATE_CACHE: "despina.dev/invalidate-cache",
    labels.ABORT: "despina.dev/abort",
    labels.RESTART: "despina.dev/restart",
    labels.SHAPE: "despina.dev/shape",
    labels.GENERATION_OF: "despina.dev/generation-of",
    labels.EVALUATION: "despina.dev/evaluation",
    labels.OPTIMIZATION: "despina.dev/optimization",
    labels.OPTIMIZE: "despina.dev/optimize",
    labels.RUN: "despina.dev/run",
    labels.RESTARTED_AT: "despina.dev/restarted-at",
    labels.RESTARTED_BY: "despina.dev/restarted-by",
    labels.RESTARTS: "despina.dev/restarts",
    labels.SIZE: "despina.dev/size",
    labels.MEMORY: "despina.dev/memory",
}


ROOM = {
    "what models need": ({}, "20Gi"),
    "and the cache's tier on the disk": ({"cache": {"node": {"type": "EmptyDir", "sizeLimit": "1500Mi"}}}, "22Gi"),
    "but for one in Redis alone": ({"cache": {"node": {"sizeLimit": "1500Mi"}}}, "20Gi"),
    "or what the manifest says": (
        {"podTemplate": {"spec": {"volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "100Gi"}}]}}},
        "100Gi",
    ),
}


@pytest.mark.parametrize("sentence", ROOM)
def test_a_pod_may_not_fill_its_nodes_disk(sentence):
    spec, room = ROOM[sentence]
    (deployment,) = [d for d in objects(a_manifest(**spec)) if d["kind"] == "Deployment"]
    volumes = {v["name"]: v["emptyDir"] for v in deployment["spec"]["template"]["spec"]["volumes"] if "emptyDir" in v}
    assert volumes == {"cache": {"sizeLimit": room}, "tmp": {"sizeLimit": "5Gi"}}


def test_names_that_others_know_stay():
    assert list(NAMES) == list(NAMES.values())


def test_what_a_deployment_was_changed_to_stands_in_a_config_map_of_its_own():
    program = a_program()
    one, two = (config_of(program, version) for version in "12")
    document = build_generation(program, "qa-1", "1", two, 5.25, one)
    assert (document["apiVersion"], document["kind"]) == ("v1", "ConfigMap")
    assert document["metadata"]["name"] == "qa-1-generation"
    assert document["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "despina",
        "despina.dev/program": "qa",
        "despina.dev/generation-of": "1",
    }
    assert {k: json.loads(v) for k, v in document["data"].items()} == {
        "config.json": two.model_dump(exclude_defaults=True, mode="json"),
        "previous.json": one.model_dump(exclude_defaults=True, mode="json"),
        "at": 5.25,
    }
    assert set(build_generation(program, "qa-1", "1", two, 5.25, None)["data"]) == {"config.json", "at"}
    kept = build_generation(program, "qa-1", "1", two, 5.25, None, Memory(serial=7))
    assert Memory.parse(kept["data"]["memory.json"]) == Memory(serial=7)


def test_what_must_not_be_forgotten_stands_on_the_service_that_leads_callers():
    program = a_program()
    service = build_service(program, "qa", "1", Memory(serial=7, handled={"retry": "2"}))
    assert Memory.parse(service["metadata"]["annotations"]["despina.dev/memory"]) == Memory(
        serial=7, handled={"retry": "2"}
    )
    assert "annotations" not in build_service(program, "qa", "1")["metadata"]


def test_an_account_is_the_users_or_made_for_the_program():
    def accounts(**account) -> tuple[str, list[str]]:
        found = objects(a_manifest(serviceAccount=account))
        (deployment,) = [d for d in found if d["kind"] == "Deployment"]
        return (
            deployment["spec"]["template"]["spec"]["serviceAccountName"],
            [d["metadata"]["name"] for d in found if d["kind"] == "ServiceAccount"],
        )

    assert accounts() == ("qa", ["qa"])
    assert accounts(name="mine") == ("mine", ["mine"])
    assert accounts(name="mine", create="Disabled") == ("mine", [])


def test_a_change_of_size_or_delays_is_no_new_revision_and_a_change_of_lm_is():
    base = revision_of(a_program(), ref("1")).hash
    assert revision_of(a_program(replicas=5), ref("1")).hash == base
    assert revision_of(a_program(rollout={"blueGreen": {"scaleDownDelaySeconds": 1}}), ref("1")).hash == base
    assert revision_of(a_program(), ref("2")).hash != base
    assert revision_of(a_program(lms=[{"name": "main", "model": "openai/gpt-5"}]), ref("1")).hash != base
