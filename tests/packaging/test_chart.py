"""The chart as Helm renders it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from despina.dashboard.ask import ASK
from despina.dashboard.trace_pages import FEEDBACK, PAYLOADS
from despina.desired.labels import BACKEND, PROGRAM, TOOL
from despina.desired.pods import ADMIN
from despina.settings import DashboardSettings
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
    documents = rendered("--set=watchNamespaces={a,b}", "--set=dashboard.enabled=false")
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


def test_of_its_own_secrets_the_operator_may_mend_its_keys_alone():
    (own,) = [r for r in of(rendered("--set=watchNamespaces={a}"), "Role") if r["metadata"]["namespace"] == "sys"]
    by_name = [r for r in own["rules"] if r["resources"] == ["secrets"] and r["verbs"] != ["create"]]
    assert [(r["resourceNames"], r["verbs"]) for r in by_name] == [
        (["despina-order-key", "despina-read-key"], ["get", "patch"])
    ]


def test_without_namespaces_the_releases_own_is_watched():
    roles = of(rendered(), "Role")
    assert {r["metadata"]["namespace"] for r in roles} == {"sys"}


def test_the_operator_is_alone():
    (deployment,) = of(rendered("--set=dashboard.enabled=false"), "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"]["type"] == "Recreate"


@pytest.mark.parametrize("number", [0, 1])
def test_operator_and_page_are_restricted(number):
    deployment = of(rendered(), "Deployment")[number]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_the_page_may_look_and_ask_and_nothing_else():
    documents = [d for d in rendered("--set=watchNamespaces={a,b}") if "dashboard" in d["metadata"]["name"]]
    kinds = sorted(d["kind"] for d in documents)
    roles, bindings = ["Role"] * 2, ["RoleBinding"] * 2
    assert kinds == ["ClusterRole", "ClusterRoleBinding", "Deployment", *roles, *bindings, "Service", "ServiceAccount"]
    assert {d["metadata"]["namespace"] for d in of(documents, "Role")} == {"a", "b"}
    for role in of(documents, "Role"):
        for rule in role["rules"]:
            assert rule["verbs"] == ["list", "watch"]
            assert not {"secrets", "configmaps"} & set(rule["resources"])
    (asked,) = of(documents, "ClusterRole")
    assert [(r["resources"], r["verbs"]) for r in asked["rules"]] == [
        (["tokenreviews"], ["create"]),
        (["subjectaccessreviews"], ["create"]),
    ]
    bound = [
        s["name"] for kind in ("RoleBinding", "ClusterRoleBinding") for b in of(documents, kind) for s in b["subjects"]
    ]
    assert set(bound) == {"despina-dashboard"}


def test_what_people_may_do_on_the_page_is_to_be_bound_by_name_and_bound_to_nobody():
    documents = rendered("--set=watchNamespaces={a,b}")
    verbs = {
        d["metadata"]["name"]: [rule["verbs"] for rule in d["rules"] if rule["resources"] == ["dspyprograms"]]
        for d in of(documents, "ClusterRole")
        if "-page-" in d["metadata"]["name"]
    }
    assert verbs == {
        "despina-page-look-sys": [["get"]],
        "despina-page-act-sys": [["get", "patch"]],
        "despina-page-payloads-sys": [["get", PAYLOADS]],
        "despina-page-feedback-sys": [["get", FEEDBACK]],
        "despina-page-ask-sys": [["get", ASK]],
    }
    bound = {b["roleRef"]["name"] for kind in ("RoleBinding", "ClusterRoleBinding") for b in of(documents, kind)}
    assert not bound & verbs.keys()


def page_of(*args: str) -> tuple[dict, dict]:
    """The page's pod, and its container's variables."""
    (deployment,) = [d for d in of(rendered(*args), "Deployment") if d["metadata"]["name"] == "despina-dashboard"]
    pod = deployment["spec"]["template"]["spec"]
    return pod, {e["name"]: e.get("value", e.get("valueFrom")) for e in pod["containers"][0]["env"]}


def test_the_page_has_the_read_key_and_not_the_orders_key():
    pod, env = page_of()
    secrets = [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v]
    assert secrets == ["despina-read-key"]
    assert "despina-order-key" not in str(pod)
    assert pod["serviceAccountName"] == "despina-dashboard"
    assert (
        DashboardSettings(
            **{k.lower().removeprefix("despina_"): v for k, v in env.items() if isinstance(v, str) and "PORT" not in k}
        ).names[0]
        == "despina-dashboard"
    )


def test_the_page_speaks_tls_by_a_given_certificate_or_its_own():
    pod, env = page_of("--set=dashboard.tlsSecret=mine", "--set=dashboard.proxySecret=shared")
    assert [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v] == ["despina-read-key", "mine"]
    assert env["DESPINA_TLS_KEY"] == "/etc/despina-tls/tls.key"
    assert env["DESPINA_PROXY_SECRET"]["secretKeyRef"] == {"name": "shared", "key": "secret"}
    for probe in ("livenessProbe", "readinessProbe"):
        assert pod["containers"][0][probe]["httpGet"]["scheme"] == "HTTPS"
    assert "DESPINA_TLS_KEY" not in page_of()[1]


def test_the_page_asks_prometheus_where_one_is_named():
    pod, env = page_of("--set=dashboard.prometheus.url=http://p:9090", "--set=dashboard.prometheus.secret=mine")
    assert "mine" in [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v]
    assert env["DESPINA_PROMETHEUS_URL"] == "http://p:9090"
    mounted = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounted["prometheus"] == env["DESPINA_PROMETHEUS_CREDENTIALS"]
    assert not [name for name in page_of()[1] if "PROMETHEUS" in name]


def test_no_service_or_deployment_takes_the_others_pods():
    documents = rendered("--set=serviceMonitor.enabled=true")
    labels = {d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"] for d in of(documents, "Deployment")}
    selectors = [d["spec"]["selector"]["matchLabels"] for d in of(documents, "Deployment")]
    selectors += [d["spec"]["selector"] for d in of(documents, "Service")]
    for selector in selectors:
        assert sum(selector.items() <= one.items() for one in labels.values()) == 1


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
        for deployment in of(rendered(*args), "Deployment"):
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
    [
        "unknown=1",
        "dashboard.enable=true",
        "image.tagg=x",
        "watchNamespaces=a",
        "mlflow.trackingURI=mlflow:5000",
        "profiles.gpu.nodes=1",
        "monitoring.podmonitor.enabled=true",
        "monitoring.podMonitor.interval=often",
        "monitoring.rules.interval=30s",
    ],
)
def test_mistaken_values_are_refused_by_name(value):
    done = helm("--set", value)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


MONITORING = (
    "--set=watchNamespaces={a,b}",
    "--set=serviceMonitor.enabled=true",
    *(f"--set=monitoring.{part}.enabled=true" for part in ("podMonitor", "rules", "dashboards")),
)


def test_nothing_that_needs_the_prometheus_operator_is_there_unless_it_is_asked_for():
    assert not [d["kind"] for d in rendered() if d["apiVersion"].startswith("monitoring.coreos.com")]
    assert "dashboard" not in " ".join(d["metadata"]["name"] for d in of(rendered(), "ConfigMap"))
    for part in ("podMonitor", "rules"):
        found = rendered(f"--set=monitoring.{part}.enabled=true", f"--set=monitoring.{part}.labels.release=p")
        made = [d for d in found if d["apiVersion"].startswith("monitoring.coreos.com")]
        assert {d["kind"] for d in made} == {{"podMonitor": "PodMonitor", "rules": "PrometheusRule"}[part]}
        assert all(d["metadata"]["labels"]["release"] == "p" for d in made)


def test_the_operators_series_keep_the_namespace_of_the_program_that_they_are_about():
    (monitor,) = of(rendered(*MONITORING), "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["honorLabels"] is True


@pytest.mark.parametrize(
    ("name", "label", "relabelled"),
    [("programs", PROGRAM, {PROGRAM: "program"}), ("tools", TOOL, {TOOL: "tool_host", BACKEND: "backend"})],
)
def test_pods_are_found_and_named_by_the_labels_that_the_operator_gives_them(name, label, relabelled):
    (spec,) = [d["spec"] for d in of(rendered(*MONITORING), "PodMonitor") if d["metadata"]["name"] == f"despina-{name}"]
    assert spec["namespaceSelector"] == {"matchNames": ["a", "b"]}
    assert spec["selector"]["matchExpressions"] == [{"key": label, "operator": "Exists"}]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["port"] == ADMIN
    assert "honorLabels" not in endpoint  # pods are anybody's: what they call themselves does not count
    assert spec["sampleLimit"] == 20000
    found = {tuple(r["sourceLabels"]): r["targetLabel"] for r in endpoint["relabelings"]}
    assert found == {(_meta(label),): target for label, target in relabelled.items()}


def test_a_tool_host_speaks_of_no_program():
    (spec,) = [d["spec"] for d in of(rendered(*MONITORING), "PodMonitor") if d["metadata"]["name"] == "despina-tools"]
    keep, drop = spec["podMetricsEndpoints"][0]["metricRelabelings"]
    assert (keep["sourceLabels"], keep["action"]) == (["__name__"], "keep")
    names = {
        "despina_tool_host_calls_total": True, "despina_tool_host_seconds_bucket": True,
        "despina_tool_host_in_flight": True, "despina_telemetry_dropped_total": True, "despina_breaker_open": False,
        "despina_tool_calls_total": False, "despina_requests_total": False, "despina_program_info": False,
    }  # fmt: skip
    assert {name: bool(re.fullmatch(keep["regex"], name)) for name in names} == names
    assert drop == {"action": "labeldrop", "regex": "program"}


def _meta(label: str) -> str:
    return "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", label)


def test_rules_and_dashboards_are_the_files():
    documents = rendered(*MONITORING)
    files = ROOT / "charts" / "despina" / "files"
    (rules,) = of(documents, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((files / "alerts.yaml").read_text())
    boards = {
        n: text
        for d in of(documents, "ConfigMap")
        if "grafana_dashboard" in d["metadata"]["labels"]
        for n, text in d["data"].items()
    }
    assert {n: json.loads(text) for n, text in boards.items()} == {
        path.name: json.loads(path.read_text()) for path in (files / "dashboards").glob("*.json")
    }
    other = rendered(*MONITORING, "--set=monitoring.dashboards.labels.team=x")
    assert any(d["metadata"]["labels"].get("team") == "x" for d in of(other, "ConfigMap"))
