"""The objects that a manifest becomes: golden files, the overlay, and what is never in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.tool import Tool, ToolStatus
from despina.decide.observed import Defaults, Observed, Resolution
from despina.decide.plan import Apply, Create, Plan
from despina.decide.rollout import decide
from despina.decide.tool import ObservedTool, ToolPlan, decide_tool
from despina.desired.overlay import overlay, overlay_problem
from tests.support.gen import a_program, observed, ref

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
    return [a.document for a in plan.actions if isinstance(a, Create | Apply)]


def plan_of_program(document: dict) -> Plan:
    program = Program.parse(document)
    base = observed(program)
    return decide(Observed(program, base.status, DEFAULTS, Resolution("3", base.model.reason)), 0.0)


def plan_of_tool(document: dict) -> ToolPlan:
    tokens = {"team-b": "t2", "team-a": "t1"}
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


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"spec": {"containers": [{"name": "program", "ports": []}]}}, "ports"),
        ({"spec": {"containers": [{"name": "program", "readinessProbe": {}}]}}, "readinessProbe"),
        ({"spec": {"containers": [{"name": "program", "env": [{"name": "DESPINA_X"}]}]}}, "DESPINA_X"),
        ({"metadata": {"labels": {"despina.dev/revision": "x"}}}, "despina.dev/revision"),
        ({"spec": {"containers": [{"image": "x"}]}}, "containers"),
        ({"spec": {"containers": {}}}, "containers"),
        ({"sepc": {}}, "sepc"),
        ({"spec": []}, "spec"),
        ([], "podTemplate"),
    ],
)
def test_what_an_overlay_may_not_touch_is_named(patch, field):
    assert field in (overlay_problem(patch) or "")


def test_a_change_of_size_or_delays_is_no_new_revision_and_a_change_of_lm_is():
    from despina.api.revision import revision_of

    base = revision_of(a_program(), ref("1")).hash
    assert revision_of(a_program(replicas=5), ref("1")).hash == base
    assert revision_of(a_program(rollout={"blueGreen": {"scaleDownDelaySeconds": 1}}), ref("1")).hash == base
    assert revision_of(a_program(), ref("2")).hash != base
    assert revision_of(a_program(lms=[{"name": "main", "model": "openai/gpt-5"}]), ref("1")).hash != base
