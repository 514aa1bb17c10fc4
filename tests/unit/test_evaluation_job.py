"""The Job of an Evaluate gate: its pod is the program's pod, but for what makes it a Job's."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from despina.api.gates import Gate
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.desired.evaluation import Evaluation, build_evaluation, evaluation_config
from despina.desired.labels import selector
from despina.desired.overlay import CONTAINER, overlay_problem
from despina.desired.workload import build_deployment
from despina.wire import EVALUATION_ENV, EvaluationConfig
from tests.support.gen import a_manifest, ref
from tests.unit.test_builders import DATA, PROFILES

DATASETS = {
    "everything": {"configMap": {"name": "rows", "key": "rows.jsonl"}},
    "small": {"mlflow": {"name": "heldout"}},
}
READ_FROM = {"everything": ("/etc/despina-examples/rows.jsonl", None), "small": (None, "heldout")}
OF_THE_DEPLOYMENT = {"config", "generation"}
OF_THE_JOB = {"despina-dataset", "despina-examples"}


def gate(dataset: dict[str, Any] = DATASETS["everything"]) -> Gate:
    evaluate = {"datasetRef": dataset, "maxRegressionPercent": 5}
    return Gate.model_validate({"name": "score", "type": "Evaluate", "evaluate": evaluate, "timeoutSeconds": 900})


def job(program: Program, of: Gate, baseline: Program | None = None, profile: str = "") -> dict[str, Any]:
    def config(p: Program, version: str) -> Any:
        return runtime_config(p, revision_of(p, ref(version)))

    before = config(baseline, "1") if baseline else None
    made = Evaluation("qa-eval-1", of, evaluation_config(of.evaluate, config(program, "3"), before))
    return build_evaluation(program, made, PROFILES.get(profile) or PROFILES["aws"], "despina-runtime:1")


def deployment(program: Program, profile: str = "") -> dict[str, Any]:
    revision = revision_of(program, ref("3"))
    config = runtime_config(program, revision)
    return build_deployment(program, revision, PROFILES.get(profile) or PROFILES["aws"], "despina-runtime:1", config)


@pytest.mark.parametrize("case", sorted(DATASETS))
def test_golden_job(case):
    """UPDATE_GOLDENS=1 writes it anew, for the diff to be read."""
    program = Program.parse(yaml.safe_load((DATA / case / "input.yaml").read_text()))
    found = job(program, gate(DATASETS[case]), program, program.spec.placement.profile)
    (config,) = (e for e in found["spec"]["template"]["spec"]["containers"][0]["env"] if e["name"] == EVALUATION_ENV)
    told = EvaluationConfig.model_validate_json(config["value"])
    assert told.baseline
    assert (told.dataset.file, told.dataset.mlflow) == READ_FROM[case]
    config["value"] = "an EvaluationConfig"
    expected = DATA / case / "job.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(yaml.safe_dump(found, sort_keys=True))
    assert found == yaml.safe_load(expected.read_text())


NAMES = st.sampled_from(["a", "b", CONTAINER, "sidecar", "cache", "tmp"])
TEXTS = st.text("abcxyz0189-", min_size=1, max_size=8)
ENVS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["MLFLOW_TRACKING_TOKEN", "A", "B"]), "value": TEXTS}), max_size=3
)
MOUNTS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "mountPath": st.sampled_from(["/data", "/certs", "/var/lib/despina"])}),
    max_size=2,
)
CONTAINERS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "env": ENVS,
        "image": TEXTS,
        "imagePullPolicy": st.sampled_from(["Always", "Never"]),
        "volumeMounts": MOUNTS,
        "envFrom": st.just([{"secretRef": {"name": "mlflow"}}]),
        "resources": st.just({"limits": {"memory": "3Gi"}}),
        "securityContext": st.just({"runAsUser": 1000}),
        "restartPolicy": st.just("Always"),
    },
)
NAMED = st.fixed_dictionaries({"name": NAMES}, optional={"emptyDir": st.just({}), "hostPath": st.just({"path": "/x"})})
POD_TEMPLATES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {}, optional={k: st.dictionaries(TEXTS, TEXTS, max_size=2) for k in ("labels", "annotations")}
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "containers": st.lists(CONTAINERS, max_size=3, unique_by=lambda c: c["name"]),
                "initContainers": st.lists(CONTAINERS, max_size=2, unique_by=lambda c: c["name"]),
                "volumes": st.lists(NAMED, max_size=3, unique_by=lambda v: v["name"]),
                "imagePullSecrets": st.just([{"name": "registry"}]),
                "nodeSelector": st.dictionaries(TEXTS, TEXTS, max_size=2),
                "tolerations": st.just([{"key": "spot", "operator": "Exists"}]),
                "affinity": st.just({"nodeAffinity": {}}),
                "serviceAccountName": TEXTS,
                "hostAliases": st.just([{"ip": "10.0.0.1", "hostnames": ["mlflow"]}]),
                "dnsPolicy": st.just("None"),
                "priorityClassName": TEXTS,
                "runtimeClassName": TEXTS,
                "terminationGracePeriodSeconds": st.integers(1, 99),
            },
        ),
    },
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "placement": st.fixed_dictionaries(
            {},
            optional={
                "nodeSelector": st.just({"zone": "a"}),
                "tolerations": st.just([{"key": "gpu", "operator": "Exists"}]),
                "affinity": st.just({"podAntiAffinity": {}}),
                "accelerator": st.just({"resource": "nvidia.com/gpu", "count": 2}),
            },
        ),
        "serviceAccount": st.just({"name": "mine", "create": "Disabled"}),
        "runtime": st.just({"image": "mine:1", "imagePullPolicy": "Always"}),
        "resources": st.just({"requests": {"memory": "1Gi"}}),
        "tools": st.just([{"name": "find", "ref": {"name": "search"}}]),
    },
)


def without(items: list[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    return [i for i in items if i["name"] not in names]


@settings(deadline=None)
@given(pod_template=POD_TEMPLATES, spec=SPECS, profile=st.sampled_from(sorted(PROFILES)))
def test_its_pod_is_a_serving_pod_but_for_what_is_named_here(pod_template, spec, profile):
    assert overlay_problem(pod_template) is None
    program = Program.parse(a_manifest(podTemplate=pod_template, **spec))
    before = copy.deepcopy(program.spec.pod_template)
    served, scored = (
        d["spec"]["template"] for d in (deployment(program, profile), job(program, gate(), None, profile))
    )
    assert scored["metadata"].get("annotations") == served["metadata"].get("annotations")
    expected, found = served["spec"], scored["spec"]
    # What may differ: it ends, it runs one container alone, and it has an examples' folder in place of a configuration.
    assert found.pop("restartPolicy") == "Never"
    copier, *others = found.pop("initContainers")
    assert (copier["name"], others) == ("despina-dataset", expected.pop("initContainers", []))
    assert without(found.pop("volumes"), OF_THE_JOB) == without(expected.pop("volumes"), OF_THE_DEPLOYMENT)
    (runs,) = found.pop("containers")
    (serves,) = (c for c in expected.pop("containers") if c["name"] == CONTAINER)
    assert found == expected
    assert runs.pop("args") == ["evaluate"]
    for field in ("args", "ports", "livenessProbe", "readinessProbe"):
        serves.pop(field)
    assert without(runs.pop("volumeMounts"), OF_THE_JOB) == without(serves.pop("volumeMounts"), OF_THE_DEPLOYMENT)
    assert without(runs.pop("env"), {"DESPINA_EVALUATION"}) == serves.pop("env")
    assert runs == serves
    assert program.spec.pod_template == before, "the manifest was changed"


def test_a_sidecar_that_never_ends_is_left_out_and_a_native_one_is_kept():
    native = {"name": "proxy", "image": "p", "restartPolicy": "Always"}
    pod = {"containers": [{"name": "logs", "image": "l"}], "initContainers": [native]}
    spec = job(Program.parse(a_manifest(podTemplate={"spec": pod})), gate())["spec"]["template"]["spec"]
    assert [c["name"] for c in spec["containers"]] == [CONTAINER]
    assert native in spec["initContainers"]


def test_a_drained_node_does_not_fail_it_and_anything_else_does_at_once():
    spec = job(Program.parse(a_manifest()), gate())["spec"]
    assert spec["podFailurePolicy"] == {
        "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    }
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (0, 86400)


def test_it_says_what_it_scores_and_no_selector_of_ours_finds_its_pod():
    labels = {"team": "x"}
    program = Program.parse(a_manifest(podTemplate={"metadata": {"labels": labels}}))
    made, wanted = job(program, gate()), revision_of(program, ref("3")).hash
    of_job, of_pod = made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]
    assert (of_job["despina.dev/revision"], of_job["despina.dev/gate"]) == (wanted, "score")
    assert of_job["despina.dev/program"] == program.name
    assert of_pod == {"despina.dev/evaluation": "qa-eval-1"} | labels
    assert not selector(program, wanted).keys() & of_pod.keys()


def test_a_pod_template_cannot_pass_a_pod_off_as_an_evaluation():
    problem = overlay_problem({"metadata": {"labels": {"despina.dev/evaluation": "other"}}})
    assert "despina.dev/evaluation" in (problem or "")


def test_the_expected_outputs_are_where_the_program_can_take_them_away():
    """A ConfigMap in the program's container could be read by the model for as long as the pod lives."""
    spec = job(Program.parse(a_manifest()), gate())["spec"]["template"]["spec"]
    from_config_map = {v["name"] for v in spec["volumes"] if v.get("configMap", {}).get("name") == "rows"}
    assert from_config_map == {"despina-dataset"}
    assert "despina-dataset" not in {m["name"] for m in spec["containers"][0]["volumeMounts"]}
    (mount,) = (m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "despina-examples")
    assert not mount.get("readOnly")
    elsewhere = job(Program.parse(a_manifest()), gate(DATASETS["small"]))["spec"]["template"]["spec"]
    assert "initContainers" not in elsewhere


def with_lms_key(secret: str) -> Program:
    lm = {"name": "main", "model": "openai/x", "apiKeySecretRef": {"name": secret, "key": "k"}}
    return Program.parse(a_manifest(lms=[lm]))


def with_registrys_credentials(secret: str) -> Program:
    uri = "https://mlflow.example"
    source = {
        "mlflow": {"model": "qa", "alias": "champion", "trackingURI": uri, "credentialsSecretRef": {"name": secret}}
    }
    return Program.parse(a_manifest(source=source))


@pytest.mark.parametrize("using", [with_lms_key, with_registrys_credentials])
def test_the_serving_version_finds_its_own_secrets_there(using):
    """The candidate's manifest may name another Secret than the one that the serving version was made with."""
    spec = job(using("new"), gate(), baseline=using("old"))["spec"]["template"]["spec"]
    mounts = {m["mountPath"]: m["name"] for m in spec["containers"][0]["volumeMounts"]}
    secrets = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    assert secrets[mounts["/etc/despina-secrets/new"]] == "new"
    assert secrets[mounts["/etc/despina-secrets/old"]] == "old"
    alone = job(using("same"), gate(), baseline=using("same"))["spec"]["template"]["spec"]
    assert [v["secret"]["secretName"] for v in alone["volumes"] if "secret" in v].count("same") == 1


def test_its_configuration_survives_the_kubelet_which_expands_dollars():
    lm = {"name": "main", "model": "openai/x", "params": {"stop": ["$(HOME)", "$$"]}}
    made = job(Program.parse(a_manifest(lms=[lm])), gate())
    (value,) = (
        e["value"]
        for e in made["spec"]["template"]["spec"]["containers"][0]["env"]
        if e["name"] == "DESPINA_EVALUATION"
    )
    assert "$" not in value
    config = EvaluationConfig.model_validate(json.loads(value))
    assert config.candidate.lms[0].params == {"stop": ["$(HOME)", "$$"]}
