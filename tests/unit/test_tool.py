"""What the operator makes of a DSPyTool, and what it says of it: tables whose keys are sentences."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from despina.api.conditions import Reason
from despina.api.contract import schema_digest
from despina.api.placement import PlacementProfile
from despina.api.tool import BackendStatus, Tool, ToolStatus
from despina.decide.observed import Defaults, PodView, Trouble
from despina.decide.plan import Apply, Delete, Outcome, Scale
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.decide.tool import Look, ObservedTool, ToolPlan, decide_tool
from despina.desired.toolbox import ToolView, build_toolbox, tool_config, toolbox_name
from despina.sources.keys import minter
from despina.status.tool import report_tool
from despina.wire import (
    NEVER,
    REDIS_SEAL,
    TOOL_HOST_ENV,
    ContractConfig,
    OfferedTool,
    ToolBackend,
    ToolBreakerConfig,
    ToolConfig,
    ToolHostConfig,
    ToolProblemReport,
    ToolsConfig,
)
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
OPEN = pods(placement={"profile": "gpu"})
NO_NODE = PodView("p", "pods", trouble=UNSCHEDULABLE)
NO_IMAGE = PodView("p", "pods", trouble=Trouble(Reason.IMAGE_NOT_PULLED, "no such image"))
OVERREACH = pods(
    deployment={"toolPackages": ["m"], "podTemplate": {"spec": {"containers": [{"name": "tool", "args": []}]}}}
)
LATE = "a look took longer than 10 s"
ASLEEP = ("Unhealthy", "Suspended", "spec.suspend is true")
STARTING = ("Unhealthy", "NoReadyPods", "no pod is ready yet")
CASES = {
    "a pod that offers what was agreed": (a_tool(), (READY,), FITS, ("Healthy", "", "")),
    "nobody has looked yet": (a_tool(), (READY,), Look(), ("Unknown", "NotAskedYet", "")),
    "nobody has been heard yet": (a_tool(), (READY,), Look(failures=1, error="no answer"), ("Unknown", "NotAskedYet", "no answer")),
    "no pod": (a_tool(), (), FITS, STARTING),
    "a pod that is not ready": (a_tool(), (replace(READY, ready=False),), FITS, STARTING),
    "a pod that is ending": (a_tool(), (replace(READY, ending=True, trouble=UNSCHEDULABLE),), FITS, STARTING),
    "another backend's pod": (a_tool(), (replace(READY, revision="other", trouble=UNSCHEDULABLE),), FITS, STARTING),
    "suspended": (a_tool(suspend=True), (), FITS, ASLEEP),
    "asked for no pods": (a_tool(replicas=0), (NO_NODE,), FITS, ("Unhealthy", "Suspended", "spec.replicas is 0")),
    "asked for no pods, but the autoscaler decides": (a_tool(replicas=0, autoscaling={}), (), FITS, STARTING),
    "a pool without a node": (a_tool(OPEN), (NO_NODE,), Look(), ("Unhealthy", "Unschedulable", "pool gpu: 0/1 nodes are available")),
    "no pool, and no node": (a_tool(), (NO_NODE,), Look(), ("Unhealthy", "Unschedulable", "pool default: 0/1 nodes are available")),
    "pods without an image": (a_tool(OPEN), (NO_IMAGE,), Look(), ("Unhealthy", "ImageNotPulled", "no such image")),
    "the first pod that tells": (a_tool(), (PodView("o", "pods"), NO_IMAGE, NO_NODE), Look(), ("Unhealthy", "ImageNotPulled", "no such image")),
    "a pool that nobody configured": (
        a_tool(pods(placement={"profile": "tpu"})), (READY,), FITS,
        ("Unhealthy", "UnknownProfile", "spec.backends[pods].placement.profile: 'tpu' is not one of aws, default, gpu")),
    "a pod template that touches what is Despina's": (
        a_tool(OVERREACH), (READY,), FITS,
        ("Unhealthy", "InvalidPodTemplate", "spec.backends[pods].deployment.podTemplate.spec.containers[tool].args is Despina's own")),
    "a contract that differs": (a_tool(), (READY,), WRONG, ("Excluded", "ContractMismatch", "parameters.query is required by the contract only")),
    "while pods are replaced, one that fits is enough": (a_tool(), (READY,), replace(FITS, offers=WRONG.offers + FITS.offers), ("Healthy", "", "")),
    "a package without the tool": (
        a_tool(), (READY,), Look(has_answered=True, others=("find", "look")), ("Excluded", "ToolNotOffered", "it has no tool search; it has find, look")),
    "a package without tools": (a_tool(), (READY,), Look(has_answered=True), ("Excluded", "ToolNotOffered", "it has no tool search; it has nothing")),
    "no credentials": (a_tool(), (READY,), replace(FITS, offers=(DENIED,)), ("Unhealthy", "CredentialsMissing", "give a role")),
    "no credentials counts for more than slow": (
        a_tool(), (READY,), replace(FITS, offers=(DENIED,), is_slow=True), ("Unhealthy", "CredentialsMissing", "give a role")),
    "two failed looks are not enough": (a_tool(ELSEWHERE), (), replace(FITS, failures=2, error="e"), ("Healthy", "", "")),
    "three failed looks": (a_tool(ELSEWHERE), (), replace(FITS, failures=3, error="no connection"), ("Unhealthy", "Unreachable", "no connection")),
    "failed looks at what was wrong before": (a_tool(ELSEWHERE), (), replace(WRONG, failures=3, error="no connection"), ("Unhealthy", "Unreachable", "no connection")),
    "failed looks at pods that are not ready": (a_tool(), (), Look(failures=3, error="no connection"), STARTING),
    "slow is not down": (a_tool(ELSEWHERE), (), replace(FITS, is_slow=True), ("Slow", "Slow", LATE)),
    "slow, and wrong": (a_tool(ELSEWHERE), (), replace(WRONG, is_slow=True), ("Excluded", "ContractMismatch", "parameters.query is required by the contract only")),
    "only connected": (a_tool(ELSEWHERE), (), Look(has_answered=True, is_unchecked=True), ("Healthy", "Reachable", "it is there; its contract was not asked for")),
    "only connected, and late": (a_tool(ELSEWHERE), (), Look(has_answered=True, is_unchecked=True, is_slow=True), ("Slow", "Slow", LATE)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_backends_state(case):
    tool, some_pods, look, wanted = CASES[case]
    (status,) = decide_tool(observed(tool, pods=some_pods, looks={"pods": look})).backends
    assert (status.state, status.reason, status.message) == wanted


def test_a_backends_status_tells_where_it_is_and_what_it_offers():
    tool = a_tool(pods(), {"name": "far", "url": "http://x"})
    ending = replace(READY, ending=True)
    own, far = decide_tool(observed(tool, pods=(READY, READY, ending), looks={"pods": FITS})).backends
    assert (own.name, own.endpoint, own.ready_replicas) == ("pods", "http://search-pods.ns.svc:8080", 2)
    assert (far.name, far.endpoint, far.ready_replicas, far.schema_digest) == ("far", "http://x", None, "")
    assert own.schema_digest == schema_digest(PARAMETERS, None)
    (long,) = decide_tool(observed(a_tool(ELSEWHERE), looks={"pods": Look(failures=3, error="x" * 2000)})).backends
    assert long.message == "x" * 1023 + "…"


def test_a_backend_that_cannot_be_made_keeps_no_other_from_being_made():
    o = observed(a_tool(pods("a", placement={"profile": "tpu"}), OVERREACH | {"name": "b"}, pods("c")))
    made = {name for kind, name in documents(o) if kind == "Deployment"}
    assert made == {"search-c"}
    assert [reason for reason, _ in decide_tool(o).problems] == ["UnknownProfile", "InvalidPodTemplate"]
    assert not [a for a in decide_tool(o).actions if isinstance(a, Scale)]


def test_for_backends_that_are_elsewhere_nothing_is_made():
    assert decide_tool(observed(a_tool(ELSEWHERE))).actions == ()


def sized(tool: Tool, replicas: int | None, hpa: bool = False) -> list:
    """What is done about the size of a Deployment that is otherwise as it should be."""
    o = settled(observed(tool))
    o.objects["Deployment", "search-pods"]["spec"].pop("replicas", None)
    if replicas is not None:
        o.objects["Deployment", "search-pods"]["spec"]["replicas"] = replicas
    if hpa:
        o.objects["HorizontalPodAutoscaler", "search-pods"] = {"metadata": {}}
    return [a for a in decide_tool(o).actions if not isinstance(a, Apply)]


AUTO = {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}
NO_HPA = Delete(("HorizontalPodAutoscaler", "search-pods"))
SIZES = {
    "as many as asked for": (a_tool(replicas=3), 3, False, []),
    "more than asked for": (a_tool(replicas=3), 5, False, [Scale("search-pods", 3)]),
    "one where nothing else is said": (a_tool(), None, False, []),
    "two where nothing else was said": (a_tool(replicas=2), None, False, [Scale("search-pods", 2)]),
    "asleep": (a_tool(replicas=3, suspend=True), 3, False, [Scale("search-pods", 0)]),
    "asleep already": (a_tool(replicas=3, suspend=True), 0, False, []),
    "asleep with an autoscaler, which would wake it": (a_tool(suspend=True, **AUTO), 3, True, [NO_HPA, Scale("search-pods", 0)]),
    "not autoscaled any more": (a_tool(replicas=3), 3, True, [NO_HPA]),
    "autoscaled, whatever its size": (a_tool(**AUTO), 1, False, []),
    "autoscaled, and asleep": (a_tool(**AUTO), 0, False, [Scale("search-pods", 2)]),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SIZES)
def test_sizes(sentence):
    tool, replicas, hpa, wanted = SIZES[sentence]
    assert sized(tool, replicas, hpa) == wanted


def test_only_what_is_labelled_with_a_backend_that_is_gone_is_removed():
    def labelled(labels) -> dict:
        return {"metadata": {"labels": labels}}

    strange = {
        ("Secret", "a"): labelled(None),
        ("Secret", "b"): {"metadata": {}},
        ("Secret", "c"): labelled({"x": "y"}),
    }
    gone = {("Secret", "d"): labelled({"despina.dev/backend": "gone"})}
    kept = {("Secret", "e"): labelled({"despina.dev/backend": "pods"})}
    o = settled(observed(a_tool(), objects=strange | gone | kept))
    assert decide_tool(o).actions == (Delete(("Secret", "d")),)
    elsewhere = replace(o, tool=a_tool(ELSEWHERE), objects=kept)
    assert decide_tool(elsewhere).actions == (Delete(("Secret", "e")),)


def test_a_deployment_whose_notes_are_gone_is_made_anew():
    for notes in (None, {}, {"despina.dev/shape": "another"}):
        o = settled(observed(a_tool()))
        o.objects["Deployment", "search-pods"]["metadata"]["annotations"] = notes
        assert [a.document["kind"] for a in decide_tool(o).actions] == ["Deployment"]


ANEW = {
    # what is changed in a tool: whether its pods are made anew
    "the package": (a_tool(pods(deployment={"toolPackages": ["other"]})), True),
    "the time of a call": (a_tool(timeoutSeconds=31), True),
    "how many calls at a time": (a_tool(concurrency={"maxInFlight": 63}), True),
    "how long calls wait": (a_tool(concurrency={"queueTimeoutSeconds": 6}), True),
    "the identity": (a_tool(serviceAccount={"name": "mine"}), True),
    "the pool": (a_tool(pods(placement={"profile": "gpu"})), True),
    "its priority among backends": (a_tool(pods(priority=1)), False),
    "its weight among backends": (a_tool(pods(weight=2)), False),
    "when callers leave it alone": (a_tool(breaker={"openSeconds": 31}), False),
}


@pytest.mark.parametrize("change", ANEW)
def test_what_makes_pods_anew(change):
    tool, anew = ANEW[change]
    kinds = [
        a.document["kind"]
        for a in decide_tool(replace(settled(observed(a_tool())), tool=tool)).actions
        if isinstance(a, Apply)
    ]
    assert ("Deployment" in kinds) is anew


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


def stood(tool: Tool, *backends: BackendStatus, **changes) -> tuple[ToolStatus, dict[str, str]]:
    """The status of a tool whose backends stand so, and its conditions with their messages."""
    plan = ToolPlan((), backends, changes.pop("problems", ()))
    status = report_tool(observed(tool, **changes), plan, Outcome(error=changes.pop("error", None)), 0.0)
    return status, {c.type: f"{c.status}/{c.reason} {c.message}".strip() for c in status.conditions}


def backend(name: str, state: str, reason: str = "", message: str = "", **more) -> BackendStatus:
    return BackendStatus(name=name, state=state, reason=reason, message=message, **more)


WELL, ASKED = backend("a", "Healthy"), backend("a", "Healthy", schema_digest="d")
DOWN = backend("b", "Unhealthy", "Unreachable", "no connection")
OTHER = backend("c", "Excluded", "ContractMismatch", "x is missing", schema_digest="e")
UNSEEN = backend("d", "Unknown", "NotAskedYet")
STANDS = {
    "one that is well": ((ASKED,), {}, "1/1", "Verified", {
        "Ready": "True/Usable", "Available": "True/Usable", "ContractVerified": "True/Verified", "BackendsHealthy": "True/Usable"}),
    "one that is slow": ((backend("a", "Slow", "Slow", "late"),), {}, "1/1", "Unknown", {
        "Ready": "True/Usable", "Available": "True/Usable", "ContractVerified": "Unknown/NotAskedYet",
        "BackendsHealthy": "False/SomeBackendsUnhealthy a: Slow: late"}),
    "one that is down": ((DOWN,), {}, "0/1", "Unknown", {
        "Ready": "False/Unreachable b: Unreachable: no connection", "Available": "False/NoBackendUsable b: Unreachable: no connection",
        "ContractVerified": "Unknown/NotAskedYet", "BackendsHealthy": "False/SomeBackendsUnhealthy b: Unreachable: no connection"}),
    "one that is unknown": ((UNSEEN,), {}, "0/1", "Unknown", {
        "Ready": "False/NotAskedYet d: NotAskedYet", "Available": "False/NoBackendUsable d: NotAskedYet",
        "ContractVerified": "Unknown/NotAskedYet", "BackendsHealthy": "Unknown/SomeBackendsUnhealthy d: NotAskedYet"}),
    "one that gives no reason": ((backend("b", "Unhealthy"),), {}, "0/1", "Unknown", {
        "Ready": "False/NoBackendUsable b: Unhealthy", "Available": "False/NoBackendUsable b: Unhealthy",
        "ContractVerified": "Unknown/NotAskedYet", "BackendsHealthy": "False/SomeBackendsUnhealthy b: Unhealthy"}),
    "one well, one unknown": ((ASKED, UNSEEN), {}, "1/2", "Verified", {
        "Ready": "True/Usable", "Available": "True/Usable", "ContractVerified": "True/Verified",
        "BackendsHealthy": "Unknown/SomeBackendsUnhealthy d: NotAskedYet"}),
    "one unknown, one down": ((UNSEEN, DOWN), {}, "0/2", "Unknown", {
        "Ready": "False/NoBackendUsable d: NotAskedYet; b: Unreachable: no connection",
        "Available": "False/NoBackendUsable d: NotAskedYet; b: Unreachable: no connection",
        "ContractVerified": "Unknown/NotAskedYet", "BackendsHealthy": "False/SomeBackendsUnhealthy d: NotAskedYet; b: Unreachable: no connection"}),
    "one well, one that offers something else": ((ASKED, OTHER), {}, "1/2", "Mismatch", {
        "Ready": "True/Usable", "Available": "True/Usable", "ContractVerified": "False/ContractMismatch c: ContractMismatch: x is missing",
        "BackendsHealthy": "False/SomeBackendsUnhealthy c: ContractMismatch: x is missing"}),
    "two that offer something else": ((backend("b", "Excluded", "ToolNotOffered", "it has no tool search"), OTHER), {}, "0/2", "Mismatch", {
        "Ready": "False/NoBackendUsable b: ToolNotOffered: it has no tool search; c: ContractMismatch: x is missing",
        "Available": "False/NoBackendUsable b: ToolNotOffered: it has no tool search; c: ContractMismatch: x is missing",
        "ContractVerified": "False/ToolNotOffered b: ToolNotOffered: it has no tool search; c: ContractMismatch: x is missing",
        "BackendsHealthy": "False/SomeBackendsUnhealthy b: ToolNotOffered: it has no tool search; c: ContractMismatch: x is missing"}),
    "a spec with two mistakes": ((ASKED,), {"problems": (("UnknownProfile", "no pool x"), ("InvalidPodTemplate", "y"))}, "1/1", "Verified", {
        "Ready": "False/UnknownProfile no pool x", "Available": "True/Usable", "ContractVerified": "True/Verified", "BackendsHealthy": "True/Usable"}),
}  # fmt: skip


@pytest.mark.parametrize("sentence", STANDS)
def test_what_a_tools_status_says(sentence):
    backends, changes, healthy, contract, wanted = STANDS[sentence]
    status, found = stood(a_tool(), *backends, **changes)
    assert (status.healthy_backends, status.contract) == (healthy, contract)
    assert found == wanted
    assert status.observed_generation == 3
    assert status.backends == backends


def test_what_the_api_server_refused_is_told_of_a_tool():
    plan = ToolPlan((), (ASKED,))
    found = report_tool(observed(a_tool()), plan, Outcome(error="Service search is not ours"), 0.0).conditions[0]
    assert (found.status, found.reason, found.message) == ("False", "Rejected", "Service search is not ours")


def test_words_about_many_backends_are_cut():
    _, found = stood(a_tool(), *(backend(f"b{n}", "Unhealthy", "Unreachable", "x" * 1000) for n in range(8)))
    assert len(found["Available"].removeprefix("False/NoBackendUsable ")) == 4096


def test_a_tools_pods_are_counted_and_its_address_told_where_it_has_pods():
    unready, ending = replace(READY, ready=False), replace(READY, ending=True)
    status, _ = stood(a_tool(), ASKED, pods=(READY, READY, unready, ending), used_by=("ns/qa",))
    assert (status.replicas, status.ready_replicas, status.used_by) == (3, 2, ("ns/qa",))
    assert (status.url, status.selector) == ("http://search.ns.svc.cluster.local", "despina.dev/tool=search")
    elsewhere, _ = stood(a_tool(ELSEWHERE), ASKED)
    assert (elsewhere.url, elsewhere.selector) == (None, "")


def test_a_condition_that_stays_keeps_its_time():
    first, _ = stood(a_tool(), DOWN)
    again = report_tool(observed(a_tool(), status=first), ToolPlan((), (WELL,)), Outcome(), 60.0)
    moved = {c.type: c.last_transition_time for c in again.conditions}
    assert moved["Available"] == timestamp(60.0)
    assert moved["ContractVerified"] == timestamp(0.0)


def test_callers_are_told_everything_that_they_need():
    """Every kind of backend, and every figure by which they choose, wait and give up."""
    named = {"name": "port", "service": {"name": "there", "port": 81, "path": "/v1"}, "priority": 2, "weight": 5}
    tool = a_tool(
        pods(),
        named,
        {"name": "far", "url": "https://x"},
        {"name": "mcp", "mcp": {"url": "https://m", "transport": "SSE", "tool": "find"}},
        {"name": "mcp2", "mcp": {"url": "https://n"}},
        contract={"description": "d", "returns": {"type": "string"}, "version": 2, "idempotency": "Idempotent"},
        routing={"policy": "Weighted", "retryOn": ["Timeout"], "maxAttempts": 3},
        timeoutSeconds=9,
        concurrency={"maxInFlight": 8, "queueTimeoutSeconds": 7},
        breaker={
            "consecutiveFailures": 6,
            "errorRatePercent": 40,
            "slowCallMillis": 30,
            "openSeconds": 20,
            "halfOpenRequests": 2,
        },
        cache={"ttlSeconds": 60},
    )
    status = ToolStatus(
        backends=(backend("far", "Excluded", message="x is missing"), backend("mcp", "Unhealthy", message="y"))
    )
    view = ToolView("ns/search", tool, status, tokens={"ns.search": "t", "ns.search.far": "u"})
    tokens = "/etc/despina-tool-tokens"
    assert tool_config(view) == ToolConfig(
        contract=ContractConfig(
            name="search", description="d", parameters=PARAMETERS, returns={"type": "string"}, version=2, idempotent=True
        ),
        backends=(
            ToolBackend(name="pods", url="http://search-pods.ns.svc:8080", is_headless=True, tool="search", token_file=f"{tokens}/ns.search"),
            ToolBackend(name="port", url="http://there.ns.svc:81/v1", is_headless=True, tool="search", priority=2, weight=5),
            ToolBackend(name="far", url="https://x", tool="search", token_file=f"{tokens}/ns.search.far", excluded="x is missing"),
            ToolBackend(name="mcp", kind="Mcp", url="https://m", tool="find", transport="SSE"),
            ToolBackend(name="mcp2", kind="Mcp", url="https://n", tool="search"),
        ),
        service=ToolBackend(name="service", url="http://search.ns.svc", tool="search", token_file=f"{tokens}/ns.search"),
        policy="Weighted",
        retry_on=("Timeout",),
        max_attempts=3,
        timeout_seconds=9,
        max_in_flight=8,
        queue_timeout_seconds=7,
        breaker=ToolBreakerConfig(
            consecutive_failures=6, error_rate_percent=40, slow_call_millis=30, open_seconds=20, half_open_requests=2
        ),
        cache_ttl_seconds=60,
    )  # fmt: skip


def test_callers_of_a_tool_without_pods_have_no_service_and_no_rate_opens_a_breaker_unasked():
    found = tool_config(ToolView("ns/search", a_tool(ELSEWHERE)))
    assert found.service is None
    assert found.contract.idempotent is False
    assert found.breaker.error_rate_percent == NEVER


def test_a_tool_that_may_not_be_called_is_named_with_the_reason():
    assert tool_config(ToolView("other/x")).missing == "NotFound: other/x"
    refused = ToolView("other/x", a_tool(), trouble=("NotAllowed", "ask"))
    assert tool_config(refused) == ToolConfig(missing="NotAllowed: ask")


def test_a_toolbox_is_two_objects_of_the_programs_own_and_none_without_tools_and_redis():
    program = a_program()
    assert build_toolbox(program, ()) == []
    views = (ToolView("ns/b", tokens={"b": "2"}), ToolView("ns/a", tokens={"a": "1"}))
    secret, config = build_toolbox(program, views)
    assert [(d["apiVersion"], d["kind"], d["metadata"]["name"]) for d in (secret, config)] == [
        ("v1", "Secret", "qa-tools"),
        ("v1", "ConfigMap", "qa-tools"),
    ]
    assert secret["metadata"] == config["metadata"] is not secret["metadata"]
    assert secret["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "despina", "despina.dev/program": "qa"}
    assert list(secret["data"]) == ["a", "b"]
    with_redis, _ = build_toolbox(program, (), "k1\nk2")
    assert with_redis["data"] == {REDIS_SEAL: base64.b64encode(b"k1\nk2").decode()}


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


def expanded(value: str) -> str:
    """What a container sees of a variable's value (https://kubernetes.io/docs/reference/kubernetes-api, `EnvVar`)."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda found: found[1] or "$", value)


def test_a_contract_reaches_its_host_as_it_is_also_with_dollars():
    parameters = {"type": "object", "properties": {"price": {"type": "string", "pattern": r"^\$$(DESPINA_POD_NAME)$$"}}}
    tool = a_tool(contract={"parameters": parameters})
    plan = decide_tool(observed(tool))
    [host] = [a.document for a in plan.actions if isinstance(a, Apply) and a.document["kind"] == "Deployment"]
    env = {e["name"]: e for e in host["spec"]["template"]["spec"]["containers"][0]["env"]}
    config = ToolHostConfig.model_validate_json(expanded(env[TOOL_HOST_ENV]["value"]))
    assert config.contract.parameters == parameters
