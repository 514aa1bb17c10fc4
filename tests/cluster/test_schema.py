"""What the API server itself says to a manifest: schema, defaults and CEL, through kubectl as users have it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from despina.api.program import Program
from tests.support import optimizations
from tests.support.optimizations import WHOLE, loop
from tests.support.world import Kube, manifest

LM = {"name": "main", "model": "openai/gpt-4o-mini"}
ROWS = {"configMap": {"name": "rows", "key": "rows.jsonl"}}


def gate(type_: str, **settings: Any) -> dict[str, Any]:
    """The good manifest with one gate."""
    return changed("spec.rollout.gates", [{"name": "g", "type": type_, **settings}])


def module(**settings: Any) -> dict[str, Any]:
    """The good manifest with one module of its own."""
    return changed("spec.modules", [{"path": "classify", **settings}])


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good manifest with one field set, or removed where the value is None."""
    document = copy.deepcopy(manifest("good"))
    node = document
    *parents, last = path.split(".")
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[int(part)]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return document


BAD = {
    "a name that is too long": (changed("metadata.name", "x" * 41), "metadata.name"),
    "a name that starts with a digit": (changed("metadata.name", "1x"), "metadata.name"),
    "no source": (changed("spec.source", None), "spec.source"),
    "no model": (changed("spec.source.mlflow.model", None), "spec.source.mlflow.model"),
    "both alias and version": (changed("spec.source.mlflow.version", 3), "alias and version"),
    "neither alias nor version": (changed("spec.source.mlflow.alias", None), "alias and version"),
    "a version of 0": (
        changed("spec.source.mlflow", {"model": "m", "version": 0}),
        "spec.source.mlflow.version",
    ),
    "a tracking URI without scheme": (changed("spec.source.mlflow.trackingURI", "mlflow:5000"), "trackingURI"),
    "a tracking URI with a password": (changed("spec.source.mlflow.trackingURI", "http://u:p@mlflow"), "trackingURI"),
    "a tracking URI with a query": (changed("spec.source.mlflow.trackingURI", "http://mlflow?x"), "trackingURI"),
    "credentials elsewhere": (
        changed("spec.source.mlflow.credentialsSecretRef", {"name": "../../team-b/secrets/x"}),
        "credentialsSecretRef.name",
    ),
    "a poll period of a second": (changed("spec.source.mlflow.pollPeriodSeconds", 1), "pollPeriodSeconds"),
    "an unknown LM name": (changed("spec.lm", "other"), "spec.lm"),
    "two LMs of one name": (changed("spec.lms", [LM, LM]), "spec.lms"),
    "an LM without model": (changed("spec.lms", [{"name": "main"}]), "spec.lms[0].model"),
    "an LM name with capitals": (changed("spec.lms", [LM | {"name": "Main"}]), "spec.lms[0].name"),
    "too many retries": (changed("spec.lms", [LM | {"retries": 11}]), "spec.lms[0].retries"),
    "a secret without key": (
        changed("spec.lms", [LM | {"apiKeySecretRef": {"name": "s"}}]),
        "apiKeySecretRef.key",
    ),
    "a secret elsewhere": (
        changed("spec.lms", [LM | {"apiKeySecretRef": {"name": "../../team-b/secrets/x", "key": "k"}}]),
        "spec.lms[0].apiKeySecretRef.name",
    ),
    "a secret's key that is a folder": (
        changed("spec.lms", [LM | {"apiKeySecretRef": {"name": "s", "key": ".."}}]),
        "spec.lms[0].apiKeySecretRef.key",
    ),
    "a dataset elsewhere": (
        gate("Evaluate", evaluate={"datasetRef": {"configMap": {"name": "a/b", "key": "k"}}}),
        "evaluate.datasetRef.configMap.name",
    ),
    "a service account elsewhere": (changed("spec.serviceAccount", {"name": ".."}), "spec.serviceAccount.name"),
    "max below min": (changed("spec.autoscaling", {"minReplicas": 3, "maxReplicas": 2}), "maxReplicas"),
    "an autoscaler of 0": (changed("spec.autoscaling", {"minReplicas": 0}), "spec.autoscaling.minReplicas"),
    "a negative size": (changed("spec.replicas", -1), "spec.replicas"),
    "a size in words": (changed("spec.replicas", "two"), "spec.replicas"),
    "CPU in words": (changed("spec.resources", {"requests": {"cpu": "lots"}}), "spec.resources.requests.cpu"),
    "less than no memory": (changed("spec.resources", {"limits": {"memory": "-1Gi"}}), "spec.resources.limits.memory"),
    "less than no CPU": (changed("spec.resources", {"requests": {"cpu": -1}}), "spec.resources.requests.cpu"),
    "a resource of a long name": (
        changed("spec.resources", {"requests": {"x" * 400: 1}}), "spec.resources.requests"),
    "a device of no name": (changed("spec.placement", {"accelerator": {"resource": "a b"}}), "accelerator.resource"),
    "an unknown field": (changed("spec.replica", 2), "spec.replica"),
    "an unknown field deep down": (changed("spec.rollout.blueGreen.delay", 2), "spec.rollout.blueGreen.delay"),
    "an unknown strategy": (changed("spec.rollout.strategy", "Canary"), "spec.rollout.strategy"),
    "a deadline of a second": (
        changed("spec.rollout.blueGreen.progressDeadlineSeconds", 1),
        "progressDeadlineSeconds",
    ),
    "pickle by yes": (changed("spec.security", {"pickle": "yes"}), "spec.security.pickle"),
    "a port below 1024": (changed("spec.runtime.port", 80), "spec.runtime.port"),
    "the admin port": (changed("spec.runtime.port", 8081), "runtime.port"),
    "a timeout of 0": (changed("spec.runtime.requestTimeoutSeconds", 0), "requestTimeoutSeconds"),
    "a fallback LM that is not listed": (changed("spec.fallbacks", ["other"]), "spec.fallbacks"),
    "no workers": (changed("spec.runtime.workers", 0), "spec.runtime.workers"),
    "an unknown adapter": (changed("spec.lms", [LM | {"adapter": "XML"}]), "spec.lms[0].adapter"),
    "a price in floats": (changed("spec.lms", [LM | {"price": {"inputPerMillionUSD": 0.15}}]), "inputPerMillionUSD"),
    "a breaker at 0 percent": (changed("spec.breaker", {"errorRatePercent": 0}), "spec.breaker.errorRatePercent"),
    "a breaker that does nothing": (changed("spec.breaker", {"onOpen": []}), "spec.breaker.onOpen"),
    "both kinds of fallback": (
        changed("spec.fallback", {"response": {"a": 1}, "programRef": {"name": "x"}}), "exactly one of response"),
    "a fallback to itself": (changed("spec.fallback", {"programRef": {"name": "good"}}), "must name another program"),
    "a cache without Secret for its Redis": (changed("spec.cache", {"redis": {}}), "spec.cache.redis.urlSecretRef"),
    "a cache size in words": (changed("spec.cache", {"node": {"sizeLimit": "large"}}), "spec.cache.node.sizeLimit"),
    "an unknown key scope": (changed("spec.cache", {"keyScope": "All"}), "spec.cache.keyScope"),
    "a burst without a rate": (changed("spec.limits", {"burst": 5}), "requestsPerSecond"),
    "a request limit of nothing": (changed("spec.limits", {"maxRequestBytes": 0}), "spec.limits.maxRequestBytes"),
    "a token without Secret": (changed("spec.security", {"auth": {"type": "BearerSecret"}}), "secretRef"),
    "sticky by cookie": (changed("spec.sessions", {"affinity": "Cookie"}), "spec.sessions.affinity"),
    "a gate of an unknown type": (gate("Webhook"), "spec.rollout.gates[0].type"),
    "a smoke gate without inputs": (gate("Smoke"), "smoke belongs to type Smoke"),
    "another type's settings": (gate("Shadow", smoke={"inputs": {}}), "smoke belongs to type Smoke"),
    "an evaluation without dataset": (gate("Evaluate", evaluate={}), "datasetRef"),
    "an evaluation with two datasets": (
        gate("Evaluate", evaluate={"datasetRef": {**ROWS, "uri": "s3://x/y"}}), "exactly one of mlflow, configMap"),
    "a metric of no known form": (
        gate("Evaluate", evaluate={"datasetRef": ROWS, "metric": "Accuracy"}), "gates[0].evaluate.metric"),
    "a budget in floats": (gate("Evaluate", evaluate={"datasetRef": ROWS, "budgetUSD": 0.5}), "evaluate.budgetUSD"),
    "a significance of a test of means": (
        gate("Evaluate", evaluate={"datasetRef": ROWS, "significancePercent": 5}), "significancePercent belongs to test Paired"),
    "a number of pairs of a test of means": (
        gate("Evaluate", evaluate={"datasetRef": ROWS, "test": "Mean", "minExamples": 9}), "minExamples belongs to test Paired"),
    "more pairs than there are examples": (
        gate("Evaluate", evaluate={"datasetRef": ROWS, "test": "Paired", "maxExamples": 49}), "must not be more than maxExamples"),
    "a significance of a half and more": (
        gate("Evaluate", evaluate={"datasetRef": ROWS, "test": "Paired", "significancePercent": 51}), "significancePercent"),
    "an unknown test": (gate("Evaluate", evaluate={"datasetRef": ROWS, "test": "Welch"}), "evaluate.test"),
    "a shadow of more than all": (gate("Shadow", shadow={"percent": 101}), "gates[0].shadow.percent"),
    "two gates of one name": (
        changed("spec.rollout.gates", [{"name": "g", "type": "Shadow"}] * 2), "spec.rollout.gates"),
    "a watch of less than nothing": (changed("spec.rollout.postPromotion", {"watchSeconds": -1}), "watchSeconds"),
    "a rollout in an unknown state": (changed("spec.rollout.state", "Stopped"), "spec.rollout.state"),
    "a way back to version 0": (changed("spec.rollout.rollbackTo", 0), "spec.rollout.rollbackTo"),
    "more history than is kept": (changed("spec.rollout.revisionHistoryLimit", 9), "revisionHistoryLimit"),
    "a module's unknown LM": (module(lm="other"), "spec.modules"),
    "a module's version 0": (module(source={"version": 0}), "spec.modules[0].source.version"),
    "a module without path": (changed("spec.modules", [{"lm": "main"}]), "spec.modules[0].path"),
    "restarts without end": (changed("spec.breaker", {"restart": {"maxPerHour": 1000}}), "restart.maxPerHour"),
    "a suspend of maybe": (changed("spec.suspend", "maybe"), "spec.suspend"),
    "tolerations that are no list": (changed("spec.placement", {"tolerations": {}}), "spec.placement.tolerations"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_manifest_is_rejected_with_the_fields_name(case):
    document, field = BAD[case]
    message = Kube().rejection(document)
    assert field in message, message


def with_loop(parts: dict[str, Any]) -> dict[str, Any]:
    """The good manifest with these parts; None takes one away."""
    document = changed("spec.source", parts["source"])
    document["spec"] |= {name: part for name, part in parts.items() if part is not None}
    return document


@pytest.mark.parametrize("case", optimizations.BAD)
def test_a_bad_optimisation_is_rejected_with_the_fields_name(case):
    parts, words = optimizations.BAD[case]
    message = Kube().rejection(with_loop(parts))
    assert words in message, message


def test_two_triggers_of_one_name_are_rejected():
    triggers = [{"name": "t", "type": "FailureRate"}] * 2
    assert "spec.optimization.triggers[1]: Duplicate value" in Kube().rejection(with_loop(loop(triggers=triggers)))


@pytest.mark.parametrize("parts", [WHOLE, loop(), loop({"sink": {"mlflow": {"experiment": "e"}}}), loop(alias=None)])
def test_an_optimisation_is_taken_and_is_to_the_api_server_what_it_is_to_the_operator(parts):
    """Defaults are in the schema and in the operator's types; they must be the same."""
    document = with_loop(parts)
    created = json.loads(Kube()("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(document)))
    assert Program.parse(created).spec == Program.parse(document).spec


@pytest.mark.parametrize("cpu", [1, "1", "100m", ".5", "1e3", "+2"])
def test_a_quantity_of_any_form_is_taken(cpu):
    document = changed("spec.resources", {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}})
    Kube()("create", "--dry-run=server", "-f", "-", stdin=json.dumps(document))


@pytest.mark.parametrize("settings", [{}, {"significancePercent": 1, "minExamples": 9, "maxExamples": 9}])
def test_a_paired_test_is_taken(settings):
    document = gate("Evaluate", evaluate={"datasetRef": ROWS, "test": "Paired", **settings})
    Kube()("create", "--dry-run=server", "-f", "-", stdin=json.dumps(document))


def test_there_are_at_least_twenty_bad_ones():
    assert len(BAD) >= 20


def test_defaults_come_from_the_schema():
    document = manifest("defaults")
    for part in ("runtime", "rollout", "replicas"):
        document["spec"].pop(part)
    kube = Kube()
    created = json.loads(kube("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(document)))
    spec = created["spec"]
    assert spec["replicas"] == 1
    assert spec["runtime"]["maxConcurrency"] == 16
    assert spec["rollout"]["blueGreen"]["scaleDownDelaySeconds"] == 300
    assert spec["security"]["pickle"] == "Deny"
    assert spec["placement"]["profile"] == "default"
    assert spec["lms"][0]["retries"] == 2
    assert "autoscaling" not in spec


def test_names_and_columns_are_as_documented():
    kube = Kube()
    crd = kube.json("get", "crd", "dspyprograms.despina.dev")
    assert crd["spec"]["names"]["shortNames"] == ["dspy"]
    assert crd["spec"]["names"]["categories"] == ["all", "despina"]
    columns = [
        c["name"].upper() for c in crd["spec"]["versions"][0]["additionalPrinterColumns"] if not c.get("priority")
    ]
    assert columns == ["READY", "AVAILABLE", "VERSION", "CANDIDATE", "STEP", "BREAKER", "REPLICAS", "REASON", "AGE"]
