"""What the operator makes of a DSPyTool, and what it says of it: tables whose keys are sentences."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from despina.api.conditions import Reason
from despina.api.placement import PlacementProfile
from despina.api.tool import Tool, ToolStatus
from despina.decide.observed import Defaults, PodView, Trouble
from despina.decide.plan import Apply, Delete, Outcome, Scale
from despina.decide.rollout import decide
from despina.decide.tool import Look, ObservedTool, decide_tool
from despina.desired.toolbox import ToolView, build_toolbox, tool_config, toolbox_name
from despina.sources.keys import minter
from despina.status.tool import report_tool
from despina.wire import OfferedTool, ToolHostConfig, ToolProblemReport, ToolsConfig
from tests.support.gen import a_program
from tests.support.gen import observed as observed_program

PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
PROFILES = {
    "gpu": {"accelerator": {}, "nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "aws": {"nodeSelector": {"pool": "aws"}, "serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:x"}},
}
DEFAULTS = Defaults("runtime:1", profiles={k: PlacementProfile.model_validate(v) for k, v in PROFILES.items()})


def pods(name: str = "pods", **changes) -> dict:
    return {"name": name, "deployment": {"toolPackages": ["mine"]}} | changes


def a_tool(*backends: dict, contract=None, **spec) -> Tool:
    base = {"name": "search", "parameters": PARAMETERS} | (contract or {})
    meta = {"name": "search", "namespace": "ns", "uid": "u", "generation": 3}
    body = {"contract": base, "backends": list(backends or (pods(),))} | spec
    return Tool.parse({"apiVersion": "despina.dev/v1alpha1", "kind": "DSPyTool", "metadata": meta, "spec": body})


def observed(tool: Tool, **changes) -> ObservedTool:
    return replace(ObservedTool(tool, ToolStatus(), DEFAULTS, tokens={"ns": ("t",)}), **changes)


def documents(o: ObservedTool) -> dict:
    return {
        (a.document["kind"], a.document["metadata"]["name"]): a.document
        for a in decide_tool(o).actions
        if isinstance(a, Apply)
    }


def settled(o: ObservedTool) -> ObservedTool:
    """The same, with everything applied as it was wanted."""
    return replace(o, objects={**o.objects, **documents(o)})


READY = PodView("search-1", "pods", ready=True, ip="10.0.0.1")
FITS = Look(offers=(OfferedTool(parameters=PARAMETERS),), has_answered=True)


def test_a_backend_is_a_deployment_with_a_name_for_its_pods_and_tokens_for_its_callers():
    made = documents(observed(a_tool()))
    assert set(made) == {
        ("Secret", "search-callers"),
        ("Service", "search"),
        ("ServiceAccount", "search-pods"),
        ("Service", "search-pods"),
        ("PodDisruptionBudget", "search-pods"),
        ("Deployment", "search-pods"),
    }
    assert made["Service", "search-pods"]["spec"]["clusterIP"] == "None"
    assert made["Secret", "search-callers"]["data"] == {"ns": base64.b64encode(b"t").decode()}
    deployment = made["Deployment", "search-pods"]["spec"]
    assert "replicas" not in deployment
    (container,) = deployment["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value") for e in container["env"]}
    host = ToolHostConfig.model_validate_json(env["DESPINA_TOOL_HOST"])
    assert (host.packages, host.contract.name) == (("mine",), "search")


def test_pools_differ_in_nodes_devices_and_roles():
    gpu = pods("gpu", placement={"profile": "gpu"})
    aws = pods("aws", placement={"profile": "aws"})
    made = documents(observed(a_tool(gpu, aws)))
    on_gpu = made["Deployment", "search-gpu"]["spec"]["template"]["spec"]
    assert on_gpu["nodeSelector"] == {"pool": "gpu"}
    assert on_gpu["tolerations"][0]["key"] == "gpu"
    assert on_gpu["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert made["Deployment", "search-aws"]["spec"]["template"]["spec"]["serviceAccountName"] == "search-aws"
    assert made["ServiceAccount", "search-aws"]["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:x"}
    assert "annotations" not in made["ServiceAccount", "search-gpu"]["metadata"]


def test_a_contract_that_is_no_schema_is_refused_by_its_field():
    with pytest.raises(ValidationError, match=r"spec\.contract\.parameters\n.*must be a JSON Schema: .*'strin'"):
        a_tool(contract={"parameters": {"type": "object", "properties": {"query": {"type": "strin"}}}})
    with pytest.raises(ValidationError, match=r"(?s)spec\.contract\.returns\n.*no such name"):
        a_tool(contract={"returns": {"$ref": "http://elsewhere/schema.json"}})


def test_at_rest_nothing_is_written():
    assert decide_tool(settled(observed(a_tool()))).actions == ()


def test_a_new_default_image_restarts_nobody_and_a_new_contract_does():
    before = settled(observed(a_tool()))
    upgraded = replace(before, defaults=replace(DEFAULTS, runtime_image="runtime:2"))
    assert decide_tool(upgraded).actions == ()
    changed = replace(before, tool=a_tool(contract={"description": "new"}))
    assert [a.document["kind"] for a in decide_tool(changed).actions] == ["Deployment"]
    rerouted = replace(before, tool=a_tool(pods(priority=7, weight=3), routing={"policy": "Weighted"}))
    assert decide_tool(rerouted).actions == ()


def test_a_backend_that_is_taken_out_goes_with_all_that_was_its_own():
    both = settled(observed(a_tool(pods("a"), pods("b"))))
    gone = {a.key for a in decide_tool(replace(both, tool=a_tool(pods("a")))).actions if isinstance(a, Delete)}
    assert gone == {(k, "search-b") for k in ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget")}


def test_size_is_the_specs_or_the_autoscalers():
    assert Scale("search-pods", 3) in decide_tool(observed(a_tool(replicas=3))).actions
    assert Scale("search-pods", 0) in decide_tool(observed(a_tool(suspend=True))).actions
    scaled = observed(a_tool(autoscaling={"minReplicas": 2, "maxReplicas": 4}))
    assert [a for a in decide_tool(scaled).actions if isinstance(a, Scale)] == [Scale("search-pods", 2)]
    assert ("HorizontalPodAutoscaler", "search-pods") in documents(scaled)
    asleep = settled(scaled)
    asleep.objects["Deployment", "search-pods"]["spec"]["replicas"] = 0
    assert decide_tool(asleep).actions == (Scale("search-pods", 2),)


WRONG = Look(offers=(OfferedTool(parameters=PARAMETERS | {"required": []}),), has_answered=True)
DENIED = OfferedTool(
    parameters=PARAMETERS, problem=ToolProblemReport(reason="CredentialsMissing", message="give a role")
)
UNSCHEDULABLE = Trouble(Reason.UNSCHEDULABLE, "0/1 nodes are available")
ELSEWHERE = {"name": "pods", "url": "http://x"}
CASES = {
    "a pod that offers what was agreed": (a_tool(), (READY,), FITS, ("Healthy", "", "")),
    "nobody has looked yet": (a_tool(), (READY,), Look(), ("Unknown", "NotAskedYet", "")),
    "no pod": (a_tool(), (), FITS, ("Unhealthy", "NoReadyPods", "")),
    "suspended": (a_tool(suspend=True), (), FITS, ("Unhealthy", "Suspended", "")),
    "a pool without a node": (
        a_tool(pods(placement={"profile": "gpu"})),
        (PodView("p", "pods", trouble=UNSCHEDULABLE),),
        Look(),
        ("Unhealthy", "Unschedulable", "pool gpu: 0/1 nodes are available"),
    ),
    "a pool that nobody configured": (
        a_tool(pods(placement={"profile": "tpu"})), (), Look(), ("Unhealthy", "UnknownProfile", "'tpu' is not one of aws, default, gpu"),
    ),
    "a pod template that touches what is Despina's": (
        a_tool(pods(deployment={"toolPackages": ["m"], "podTemplate": {"spec": {"containers": [{"name": "tool", "args": []}]}}})),
        (), Look(), ("Unhealthy", "InvalidPodTemplate", "spec.backends[pods].deployment.podTemplate.spec.containers[tool].args is"),
    ),
    "a contract that differs": (a_tool(), (READY,), WRONG, ("Excluded", "ContractMismatch", "parameters.query is required by the contract only")),
    "while pods are replaced, one that fits is enough": (a_tool(), (READY,), replace(FITS, offers=WRONG.offers + FITS.offers), ("Healthy", "", "")),
    "a package without the tool": (a_tool(), (READY,), Look(has_answered=True, others=("find",)), ("Excluded", "ToolNotOffered", "it has find")),
    "no credentials": (a_tool(), (READY,), replace(FITS, offers=(DENIED,)), ("Unhealthy", "CredentialsMissing", "give a role")),
    "two failed looks are not enough": (a_tool(ELSEWHERE), (), replace(FITS, failures=2, error="e"), ("Healthy", "", "")),
    "three failed looks": (a_tool(ELSEWHERE), (), replace(FITS, failures=3, error="no connection"), ("Unhealthy", "Unreachable", "no connection")),
    "slow is not down": (a_tool(ELSEWHERE), (), replace(FITS, is_slow=True), ("Slow", "Slow", "longer than 10 s")),
    "only connected": (a_tool(ELSEWHERE), (), Look(has_answered=True, is_unchecked=True), ("Healthy", "Reachable", "not asked for")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_backends_state(case):
    tool, some_pods, look, (state, reason, message) = CASES[case]
    (status,) = decide_tool(observed(tool, pods=some_pods, looks={"pods": look})).backends
    assert (status.state, status.reason) == (state, reason)
    assert message in status.message


def test_pods_of_a_backend_that_the_api_server_refuses_are_told():
    refused = {"pods": Trouble(Reason.PODS_REFUSED, "exceeded quota")}
    (status,) = decide_tool(observed(a_tool(), refused=refused)).backends
    assert (status.state, status.reason, status.message) == ("Unhealthy", "PodsRefused", "exceeded quota")
    waiting = PodView("p", "pods", trouble=UNSCHEDULABLE)
    (status,) = decide_tool(observed(a_tool(), refused=refused, pods=(waiting,))).backends
    assert status.reason == "Unschedulable"


def status_of(o: ObservedTool) -> ToolStatus:
    return report_tool(o, decide_tool(o), Outcome(), 0.0)


def conditions(status: ToolStatus) -> dict:
    return {c.type: (c.status.value, c.reason) for c in status.conditions}


def test_one_dead_backend_does_not_make_a_tool_unavailable():
    tool = a_tool(pods("a"), pods("b"))
    one = replace(READY, revision="a")
    status = status_of(observed(tool, pods=(one,), looks={"a": FITS}, used_by=("ns/qa",)))
    assert status.healthy_backends == "1/2"
    assert status.used_by == ("ns/qa",)
    assert conditions(status) == {
        "Ready": ("True", "Usable"),
        "Available": ("True", "Usable"),
        "ContractVerified": ("True", "Verified"),
        "BackendsHealthy": ("False", "SomeBackendsUnhealthy"),
    }


def test_an_excluded_backend_is_told_to_callers_and_in_the_contract_column():
    tool = a_tool(pods("a"), pods("b"))
    two = (replace(READY, revision="a"), replace(READY, name="search-2", revision="b"))
    status = status_of(observed(tool, pods=two, looks={"a": FITS, "b": WRONG}))
    assert status.contract == "Mismatch"
    told = tool_config(ToolView(tool.key, tool, status)).backends
    assert [b.excluded for b in told] == ["", "parameters.query is required by the contract only"]


def test_a_programs_toolbox_holds_its_tools_and_its_own_tokens():
    program = a_program(
        tools=[
            {"name": "find", "ref": {"name": "search"}},
            {"name": "gone", "ref": {"name": "x", "namespace": "other"}},
        ]
    )
    key = f"{program.namespace}/search"
    views = (
        ToolView(key, a_tool(), tokens={"ns.search": "t0ken"}),
        ToolView("other/x", trouble=("NotAllowed", "ask")),
    )
    secret, config = build_toolbox(program, views)
    assert secret["data"] == {"ns.search": base64.b64encode(b"t0ken").decode()}
    assert secret["metadata"]["ownerReferences"][0]["name"] == program.name
    tools = ToolsConfig.model_validate_json(config["data"]["tools.json"]).tools
    assert tools["other/x"].missing == "NotAllowed: ask"
    assert "t0ken" not in config["data"]["tools.json"]
    assert "t0ken" not in repr(views)


def test_a_toolbox_goes_once_no_revision_uses_tools():
    name = toolbox_name(a_program())
    objects = {(kind, name): {} for kind in ("Secret", "ConfigMap")}
    gone = {a.key for a in decide(observed_program(objects=objects), now=0.0).steps if isinstance(a, Delete)}
    assert gone == set(objects)
    views = (ToolView("ns/search", a_tool()),)
    kept = decide(observed_program(objects=objects, tools=views), now=0.0).steps
    assert not [a for a in kept if isinstance(a, Delete)]


def test_a_token_is_one_tools_and_one_namespaces():
    key = Ed25519PrivateKey.generate()
    mint = minter([key])
    assert mint("u", "a") == minter([key])("u", "a")
    others = [mint("u", "a"), mint("u", "b"), mint("v", "a"), minter([Ed25519PrivateKey.generate()])("u", "a")]
    assert len(set(others)) == 4


def test_while_a_key_is_replaced_hosts_take_the_tokens_of_both():
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    before, now = minter([old])("u", "ns"), minter([new, old])("u", "ns")
    assert now == (*minter([new])("u", "ns"), *before)
    made = documents(observed(a_tool(), tokens={"ns": now}))["Secret", "search-callers"]["data"]
    assert {k: base64.b64decode(v).decode() for k, v in made.items()} == {"ns": now[0], "ns.previous": before[0]}
    alone = documents(observed(a_tool(), tokens={"ns": now[:1]}))["Secret", "search-callers"]["data"]
    assert set(alone) == {"ns"}, "and once it has been"
