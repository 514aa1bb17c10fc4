"""What the API server itself says to a DSPyTool: schema, defaults and CEL."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.support.world import Kube, manifest

HOST = {"name": "pods", "deployment": {"toolPackages": ["my_tools"]}}
SPEC = {
    "contract": {"name": "search", "parameters": {"type": "object"}, "idempotency": "Idempotent"},
    "backends": [HOST],
}


def tool(**spec: Any) -> dict[str, Any]:
    """A good tool with some of its spec changed."""
    return {
        "apiVersion": "despina.dev/v1alpha1",
        "kind": "DSPyTool",
        "metadata": {"name": "search"},
        "spec": copy.deepcopy(SPEC) | spec,
    }


def contract(**changes: Any) -> dict[str, Any]:
    return tool(contract=SPEC["contract"] | changes)


def backend(**changes: Any) -> dict[str, Any]:
    return tool(backends=[{"name": "b", **changes}])


ONCE = SPEC["contract"] | {"idempotency": "NonIdempotent"}
SECRET = {"name": "s", "key": "k"}
BAD = {
    "a name with a capital": (contract(name="Search"), "spec.contract.name"),
    "parameters that are no object": (contract(parameters={"type": "array"}), "spec.contract.parameters.type"),
    "parameters without a type": (contract(parameters={}), "spec.contract.parameters.type"),
    "an unknown idempotency": (contract(idempotency="Maybe"), "spec.contract.idempotency"),
    "version 0": (contract(version=0), "spec.contract.version"),
    "no backend": (tool(backends=[]), "spec.backends"),
    "a backend of no kind": (backend(), "exactly one of deployment, service, url and mcp"),
    "a backend of two kinds": (backend(url="http://x", service={"name": "x"}), "exactly one of deployment, service, url"),
    "two backends of one name": (tool(backends=[HOST, HOST]), "spec.backends"),
    "nine backends": (tool(backends=[HOST | {"name": f"b{n}"} for n in range(9)]), "spec.backends"),
    "a deployment without packages": (backend(deployment={}), "toolPackages"),
    "a package that is none": (backend(deployment={"toolPackages": ["my-tools"]}), "toolPackages[0]"),
    "memory in words": (
        backend(deployment={"toolPackages": ["t"], "resources": {"limits": {"memory": "much"}}}),
        "spec.backends[0].deployment.resources.limits.memory"),
    "an address with a password": (backend(url="http://u:p@x"), "spec.backends[0].url"),
    "a placement without pods": (backend(url="http://x", placement={"profile": "gpu"}), "placement belongs to a deployment"),
    "a token for pods of ours": (tool(backends=[HOST | {"authSecretRef": SECRET}]), "a deployment has a token of its own"),
    "a token from elsewhere": (
        backend(url="http://x", authSecretRef={"name": "../../team-b/secrets/x", "key": "k"}), "backends[0].authSecretRef.name"),
    "a Service elsewhere": (backend(service={"name": "x/y"}), "spec.backends[0].service.name"),
    "an unknown transport": (backend(mcp={"url": "http://x", "transport": "Stdio"}), "mcp.transport"),
    "a weight above the limit": (tool(backends=[HOST | {"weight": 101}]), "weight"),
    "an unknown policy": (tool(routing={"policy": "Random"}), "spec.routing.policy"),
    "no attempts": (tool(routing={"maxAttempts": 0}), "spec.routing.maxAttempts"),
    "repeating what must not be": (tool(contract=ONCE, routing={"retryOn": ["Timeout"]}), "Timeout and Status5xx need"),
    "keeping what must not be": (tool(contract=ONCE, cache={"ttlSeconds": 5}), "cache.ttlSeconds needs"),
    "a selector for Same": (
        tool(access={"allowedNamespaces": {"from": "Same", "selector": {"matchLabels": {}}}}), "selector belongs to from Selector"),
    "Selector without one": (tool(access={"allowedNamespaces": {"from": "Selector"}}), "selector belongs to from Selector"),
    "arguments without a call": (tool(health={"arguments": {}}), "health.arguments belongs to probe Call"),
    "too eager a look": (tool(health={"periodSeconds": 1}), "spec.health.periodSeconds"),
    "fewer at most than at least": (tool(autoscaling={"minReplicas": 3, "maxReplicas": 2}), "autoscaling.maxReplicas"),
    "a field that there is not": (tool(hedge=1), "spec.hedge"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_tool_is_rejected_with_the_fields_name(case):
    document, field = BAD[case]
    message = Kube().rejection(document)
    assert field in message, message


def test_defaults_come_from_the_schema():
    kube = Kube()
    spec = json.loads(kube("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(tool())))["spec"]
    assert spec["routing"] == {"policy": "Priority", "retryOn": ["ConnectError"], "maxAttempts": 2}
    assert spec["breaker"] == {"consecutiveFailures": 5, "openSeconds": 30, "halfOpenRequests": 1}
    assert spec["health"]["probe"] == "Contract"
    assert (spec["replicas"], spec["timeoutSeconds"], spec["cache"]["ttlSeconds"]) == (1, 30, 0)
    assert spec["access"]["allowedNamespaces"]["from"] == "Same"
    assert (spec["backends"][0]["priority"], spec["backends"][0]["weight"]) == (0, 1)


def test_names_and_columns_are_as_documented():
    crd = Kube().json("get", "crd", "dspytools.despina.dev")
    assert crd["spec"]["names"]["shortNames"] == ["dspyt"]
    shown = [c["name"].upper() for c in crd["spec"]["versions"][0]["additionalPrinterColumns"] if not c.get("priority")]
    assert shown == ["READY", "BACKENDS", "CONTRACT", "REASON", "AGE"]


def test_a_program_lists_tools_by_names_that_it_can_call():
    for uses, field in (
        ([{"name": "Find", "ref": {"name": "search"}}], "spec.tools[0].name"),
        ([{"name": "find"}], "spec.tools[0].ref"),
        ([{"name": "find", "ref": {"name": "search"}}] * 2, "spec.tools"),
        ([{"name": "find", "ref": {"name": "search"}, "policy": "Wanted"}], "spec.tools[0].policy"),
    ):
        document = manifest("using", tools=uses)
        assert field in Kube().rejection(document)
