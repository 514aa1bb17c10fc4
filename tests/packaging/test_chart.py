"""The chart as Helm renders it."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from localcluster import bin_dir
from tests.support.world import ROOT

HELM = bin_dir() / "helm"
pytestmark = pytest.mark.skipif(not HELM.exists(), reason="helm is not built: run `make binaries`")


def helm(*args: str) -> subprocess.CompletedProcess[str]:
    command = [str(HELM), "template", "despina", str(ROOT / "charts" / "despina"), "--namespace=sys"]
    return subprocess.run([*command, "--kube-version=1.34", *args], capture_output=True, text=True, check=False)


def rendered(*args: str) -> list[dict]:
    done = helm(*args)
    assert done.returncode == 0, done.stderr
    return [d for d in yaml.safe_load_all(done.stdout) if d]


def of(documents: list[dict], kind: str) -> list[dict]:
    return [d for d in documents if d["kind"] == kind]


def test_rights_are_least_and_per_namespace():
    documents = rendered("--set=watchNamespaces={a,b}")
    assert not of(documents, "ClusterRole")
    assert not of(documents, "ClusterRoleBinding")
    roles = of(documents, "Role")
    assert sorted(r["metadata"]["namespace"] for r in roles) == ["a", "b", "sys"]
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert not {"list", "watch"} & set(rule["verbs"])  # nobody's are looked through
            assert "dspyprograms/finalizers" not in rule["resources"]
            if "dspyprograms" in rule["resources"]:
                assert set(rule["verbs"]) == {"get", "list", "watch"}  # the spec is the user's


def test_of_its_own_secrets_the_operator_may_mend_the_order_key_alone():
    (own,) = [r for r in of(rendered("--set=watchNamespaces={a}"), "Role") if r["metadata"]["namespace"] == "sys"]
    by_name = [r for r in own["rules"] if r["resources"] == ["secrets"] and r["verbs"] != ["create"]]
    assert [(r["resourceNames"], r["verbs"]) for r in by_name] == [(["despina-order-key"], ["get", "patch"])]


def test_without_namespaces_the_releases_own_is_watched():
    roles = of(rendered(), "Role")
    assert {r["metadata"]["namespace"] for r in roles} == {"sys"}


def test_the_operator_is_restricted_and_alone():
    (deployment,) = of(rendered(), "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"]["type"] == "Recreate"
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_what_serves_is_protected_in_the_watched_namespaces_unless_told_otherwise():
    documents = rendered("--set=watchNamespaces={a,b}")
    (policy,) = of(documents, "ValidatingAdmissionPolicy")
    (binding,) = of(documents, "ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["policyName"] == policy["metadata"]["name"] == "despina-sys-serving"
    (chosen,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert chosen["values"] == ["a", "b"]
    for none in (rendered("--set=protectServing=false"), rendered("--kube-version=1.29")):
        assert not of(none, "ValidatingAdmissionPolicy")


def test_logs_are_text_unless_told_otherwise():
    for args, form in (((), "text"), (("--set=logFormat=json",), "json")):
        (deployment,) = of(rendered(*args), "Deployment")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert {"name": "DESPINA_LOG_FORMAT", "value": form} in container["env"]
    assert "logFormat" in helm("--set=logFormat=xml").stderr


def test_the_crd_is_kept_on_uninstall():
    crds = of(rendered(), "CustomResourceDefinition")
    assert [c["spec"]["names"]["kind"] for c in crds] == ["DSPyProgram", "DSPyTool"]
    assert all(c["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for c in crds)


def test_monitoring_is_optional():
    assert not of(rendered(), "ServiceMonitor")
    (monitor,) = of(rendered("--set=serviceMonitor.enabled=true"), "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["path"] == "/metrics"


@pytest.mark.parametrize(
    "value",
    ["unknown=1", "image.tagg=x", "watchNamespaces=a", "mlflow.trackingURI=mlflow:5000", "profiles.gpu.nodes=1"],
)
def test_mistaken_values_are_refused_by_name(value):
    done = helm("--set", value)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
