"""The Job of an optimisation: its pod is the program's pod, but for what makes it this Job's; and what it is called."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from despina.api.optimizing import optimization_config
from despina.api.program import NAME_LIMIT, Program
from despina.api.revision import revision_of, runtime_config
from despina.api.runs import OptimizationRun
from despina.desired.labels import selector
from despina.desired.optimization import build_optimization, golden_file, optimization_name
from despina.desired.overlay import CONTAINER, overlay_problem
from despina.wire import OPTIMIZATION_ENV, OptimizationConfig, RuntimeConfig
from tests.support.gen import a_manifest, ref
from tests.unit.test_builders import DATA, PROFILES
from tests.unit.test_evaluation_job import (
    OF_THE_DEPLOYMENT,
    OF_THE_JOB,
    POD_TEMPLATES,
    SPECS,
    deployment,
    with_lms_key,
    with_registrys_credentials,
    without,
)

UNTIL = 1764439200123
FROM_A_CONFIG_MAP = {"configMap": {"name": "golden", "key": "rows.jsonl"}}
GOLDEN_SETS = {"everything": FROM_A_CONFIG_MAP, "small": {"mlflow": {"name": "golden"}}}
READ_FROM = {"everything": ("/etc/despina-examples/rows.jsonl", None), "small": (None, "golden")}


def optimized(manifest: dict[str, Any], golden: dict[str, Any] | None = FROM_A_CONFIG_MAP, **settings: Any) -> Program:
    """The program of a manifest that asks for optimisations."""
    dataset = {"dataset": {"goldenRef": golden}} if golden else {}
    asked = {"modules": ["classify"], "budget": {"maxLMCalls": 300, "maxSeconds": 600}, **dataset, **settings}
    return Program.parse(manifest | {"spec": manifest["spec"] | {"feedback": {}, "optimization": asked}})


def serves(program: Program, version: str = "3") -> RuntimeConfig:
    return runtime_config(program, revision_of(program, ref(version)))


def job(program: Program, base: RuntimeConfig | None = None, profile: str = "", **noted: Any) -> dict[str, Any]:
    base = base or serves(program)
    run = OptimizationRun(
        job="qa-opt-1", trigger="failures: 30 of 200", base_version=base.model.version, base_revision=base.revision,
        labels_until=UNTIL, budget_lm_calls=300, started_at="2026-01-02T03:04:05Z", **noted,
    )  # fmt: skip
    config = optimization_config(program, base, None, UNTIL / 1000, golden_file(program))
    return build_optimization(program, run, config, PROFILES.get(profile) or PROFILES["aws"], "despina-runtime:1")


def pod_of(made: dict[str, Any]) -> dict[str, Any]:
    return made["spec"]["template"]["spec"]


def told(made: dict[str, Any]) -> str:
    (value,) = (e["value"] for e in pod_of(made)["containers"][0]["env"] if e["name"] == OPTIMIZATION_ENV)
    return value


@pytest.mark.parametrize("case", sorted(GOLDEN_SETS))
def test_golden_job(case):
    """UPDATE_GOLDENS=1 writes it anew, for the diff to be read."""
    program = optimized(yaml.safe_load((DATA / case / "input.yaml").read_text()), GOLDEN_SETS[case])
    found = job(program, profile=program.spec.placement.profile)
    config = OptimizationConfig.model_validate_json(told(found))
    assert config == optimization_config(program, serves(program), None, UNTIL / 1000, golden_file(program))
    assert config.golden
    assert (config.golden.file, config.golden.mlflow) == READ_FROM[case]
    (variable,) = (e for e in pod_of(found)["containers"][0]["env"] if e["name"] == OPTIMIZATION_ENV)
    variable["value"] = "an OptimizationConfig"
    expected = DATA / case / "optimization.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(yaml.safe_dump(found, sort_keys=True))
    assert found == yaml.safe_load(expected.read_text())


@settings(deadline=None)
@given(pod_template=POD_TEMPLATES, spec=SPECS, profile=st.sampled_from(sorted(PROFILES)))
def test_its_pod_is_a_serving_pod_but_for_what_is_named_here(pod_template, spec, profile):
    program = optimized(a_manifest(podTemplate=pod_template, **spec))
    before = copy.deepcopy(program.spec.pod_template)
    served, searches = (d["spec"]["template"] for d in (deployment(program, profile), job(program, profile=profile)))
    assert searches["metadata"].get("annotations") == served["metadata"].get("annotations")
    expected, found = served["spec"], searches["spec"]
    # What may differ: it ends, with time for a last word, it runs one container alone, it has the golden set in place
    # of a configuration, and nobody has to find it.
    assert found.pop("restartPolicy") == "Never"
    assert found.pop("terminationGracePeriodSeconds") == max(120, expected.pop("terminationGracePeriodSeconds"))
    copier, *others = found.pop("initContainers")
    assert (copier["name"], others) == ("despina-dataset", expected.pop("initContainers", []))
    assert without(found.pop("volumes"), OF_THE_JOB) == without(expected.pop("volumes"), OF_THE_DEPLOYMENT)
    (runs,) = found.pop("containers")
    (serving,) = (c for c in expected.pop("containers") if c["name"] == CONTAINER)
    assert found == expected
    assert runs.pop("args") == ["optimize"]
    for field in ("args", "ports", "livenessProbe", "readinessProbe"):
        serving.pop(field)
    assert without(runs.pop("volumeMounts"), OF_THE_JOB) == without(serving.pop("volumeMounts"), OF_THE_DEPLOYMENT)
    assert without(runs.pop("env"), {OPTIMIZATION_ENV}) == without(serving.pop("env"), {"DESPINA_POD_IP"})
    assert runs == serving
    assert program.spec.pod_template == before, "the manifest was changed"


def test_a_second_pod_would_have_the_whole_budget_again_so_there_is_none():
    spec = job(optimized(a_manifest()))["spec"]
    assert (spec["backoffLimit"], "podFailurePolicy" in spec) == (0, False)
    assert pod_of({"spec": spec})["restartPolicy"] == "Never"
    # Without this, it would have failed when its pod begins to end, and before that has said what it found.
    assert spec["podReplacementPolicy"] == "Failed"


def test_it_ends_some_time_after_its_budget_of_seconds_and_stays_for_a_day():
    program = optimized(a_manifest(runtime={"requestTimeoutSeconds": 45}))
    spec = job(program)["spec"]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (600 + 2 * 45 + 1800, 86400)


@pytest.mark.parametrize(("asked", "given"), [(None, 120), (60, 120), (600, 600), ("soon", "soon")])
def test_it_has_time_for_a_last_word_whatever_a_pod_template_says(asked, given):
    pod_template = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": asked}}} if asked else {}
    assert pod_of(job(optimized(a_manifest(**pod_template))))["terminationGracePeriodSeconds"] == given


def test_it_says_what_it_is_for_and_no_selector_of_ours_finds_its_pod():
    labels = {"team": "x"}
    program = optimized(a_manifest(podTemplate={"metadata": {"labels": labels}}))
    made, serving = job(program), revision_of(program, ref("3")).hash
    of_job, of_pod = made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]
    assert of_job == {
        "app.kubernetes.io/managed-by": "despina",
        "despina.dev/program": "qa",
        "despina.dev/revision": serving,
        "despina.dev/optimization": "qa-opt-1",
    }
    assert of_pod == {"despina.dev/optimization": "qa-opt-1"} | labels
    assert not selector(program, serving).keys() & of_pod.keys()
    assert made["metadata"]["ownerReferences"][0]["uid"] == program.uid


def test_its_run_is_noted_on_it():
    noted = json.loads(job(optimized(a_manifest()))["metadata"]["annotations"]["despina.dev/run"])
    assert noted == {
        "job": "qa-opt-1", "trigger": "failures: 30 of 200", "baseVersion": "3", "labelsUntil": UNTIL,
        "baseRevision": serves(optimized(a_manifest())).revision, "budgetLMCalls": 300, "progress": "", "message": "", "modules": [], "isTakenBack": False,
        "startedAt": "2026-01-02T03:04:05Z",
    }  # fmt: skip


def test_a_pod_template_cannot_pass_a_pod_off_as_an_optimisation():
    problem = overlay_problem({"metadata": {"labels": {"despina.dev/optimization": "other"}}})
    assert "despina.dev/optimization" in (problem or "")


def test_the_golden_set_is_where_it_can_be_taken_away_before_the_models_code_runs():
    spec = pod_of(job(optimized(a_manifest())))
    from_config_map = {v["name"] for v in spec["volumes"] if v.get("configMap", {}).get("name") == "golden"}
    assert from_config_map == {"despina-dataset"}
    assert "despina-dataset" not in {m["name"] for m in spec["containers"][0]["volumeMounts"]}
    (mount,) = (m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "despina-examples")
    assert not mount.get("readOnly")
    for elsewhere in (GOLDEN_SETS["small"], None):
        assert "initContainers" not in pod_of(job(optimized(a_manifest(), elsewhere)))


@pytest.mark.parametrize("using", [with_lms_key, with_registrys_credentials])
def test_the_serving_version_finds_its_own_secrets_there(using):
    """The manifest may name another Secret by now than the one that the serving version was made with."""

    def of(secret: str) -> Program:
        spec = using(secret).spec.model_dump(by_alias=True, exclude_none=True, mode="json")
        return optimized(a_manifest(**spec))

    spec = pod_of(job(of("new"), serves(of("old"))))
    mounts = {m["mountPath"]: m["name"] for m in spec["containers"][0]["volumeMounts"]}
    secrets = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    assert secrets[mounts["/etc/despina-secrets/new"]] == "new"
    assert secrets[mounts["/etc/despina-secrets/old"]] == "old"


def test_its_configuration_survives_the_kubelet_which_expands_dollars():
    lm = {"name": "main", "model": "openai/x", "params": {"stop": ["$(HOME)", "$$"]}}
    value = told(job(optimized(a_manifest(lms=[lm]))))
    assert "$" not in value
    assert OptimizationConfig.model_validate_json(value).base.lms[0].params == {"stop": ["$(HOME)", "$$"]}


SETTINGS: dict[str, Any] = {
    "modules": ["classify"], "optimizer": {}, "budget": {"maxLMCalls": 300}, "dataset": {}, "promotion": {}
}  # fmt: skip
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    # what is changed: settings, what the run is called by, whether it is the same Job
    "nothing": ({}, {}, True),
    "why it is begun": ({"triggers": [{"name": "a", "type": "FailureRate"}]}, {}, True),
    "how soon after another": ({"cooldownSeconds": 1}, {}, True),
    "who may ask": ({"requests": "Enabled"}, {}, True),
    "what a day may cost": ({"budget": {"maxLMCalls": 300, "maxLMCallsPerDay": 900}}, {}, True),
    "what becomes of it": ({"promotion": {"mode": "Auto"}, "dataset": {"goldenRef": FROM_A_CONFIG_MAP}},
                           {"like": {"dataset": {"goldenRef": FROM_A_CONFIG_MAP}}}, True),
    "what is the default, written out": (
        {"optimizer": {"name": "BootstrapFewShotWithRandomSearch", "seed": 0, "params": {}}, "metric": "ExactMatch",
         "promotion": {"significancePercent": 5}, "tools": "Refuse"}, {}, True),
    "the manifest's modules, where others were asked for": ({"modules": ["respond"]}, {}, True),
    "the order of modules": ({}, {"modules": ("respond", "classify"), "before": ("classify", "respond")}, True),
    "the modules": ({}, {"modules": ("respond",)}, False),
    "the optimiser": ({"optimizer": {"name": "MIPROv2"}}, {}, False),
    "its seed": ({"optimizer": {"seed": 7}}, {}, False),
    "its settings": ({"optimizer": {"params": {"num_candidate_programs": 8}}}, {}, False),
    "the metric": ({"metric": "F1"}, {}, False),
    "the budget of a run": ({"budget": {"maxLMCalls": 301}}, {}, False),
    "the golden set": ({"dataset": {"goldenRef": FROM_A_CONFIG_MAP}}, {}, False),
    "how rows belong together": ({"dataset": {"groupBy": ["customer"]}}, {}, False),
    "how sure one must be": ({"promotion": {"significancePercent": 1}}, {}, False),
    "the tools": ({"tools": "Execute"}, {}, False),
    "the last label that counts": ({}, {"until": UNTIL + 1}, False),
    "a second try": ({}, {"again": "2"}, False),
    "the version that serves": ({}, {"base": "4"}, False),
    "the same number of a model made anew": ({}, {"created_at": 5}, False),
    "how it serves": ({}, {"revision": "12345678"}, False),
    "a program of the same name, made anew": ({}, {"uid": "uid-9"}, False),
}  # fmt: skip


@pytest.mark.parametrize("what", RUNS)
def test_two_triggers_are_one_job_and_what_is_computed_otherwise_another(what):
    changed, run, is_same = RUNS[what]
    run = dict(run)
    like, before = run.pop("like", {}), run.pop("before", ("classify",))
    name = named(changed, **{"modules": before, **run})
    assert (name == named(like, modules=before)) is is_same


def named(
    changed: dict[str, Any], *, modules: tuple[str, ...], until: int = UNTIL, again: str = "", base: str = "3",
    created_at: int | None = None, revision: str = "abcdef01", uid: str = "uid-1",
) -> str:  # fmt: skip
    manifest = a_manifest()
    manifest["metadata"]["uid"] = uid
    program = optimized(manifest, None, **(SETTINGS | changed))
    model = ref(base, created_at)
    config = RuntimeConfig(namespace="ns", program="qa", revision=revision, model=model)
    return optimization_name(program, config, modules, until, again)


def test_it_is_named_for_its_program_and_a_name_has_room():
    manifest = a_manifest()
    manifest["metadata"]["name"] = "x" * NAME_LIMIT
    program = optimized(manifest)
    name = optimization_name(program, serves(program), ("classify",), UNTIL, "")
    assert name.startswith(f"{'x' * NAME_LIMIT}-opt-")
    assert len(name) <= 63 - len("-abcde")  # that of its pod, which is a label's value
