"""A ServiceAccount that several backends of a tool share."""

from __future__ import annotations

from dataclasses import replace

from despina.api.placement import PlacementProfile
from despina.api.pods import ServiceAccount
from despina.decide.plan import Delete
from despina.decide.tool import decide_tool
from tests.unit.test_tool import DEFAULTS, a_tool, observed, pods, settled

ROLE = {"eks.amazonaws.com/role-arn": "arn:x"}


def test_at_rest_nothing_is_written_of_an_account_that_several_backends_share():
    shared = a_tool(
        pods("gpu", placement={"profile": "gpu"}),
        pods("aws", placement={"profile": "aws"}),
        serviceAccount={"name": "mine"},
    )
    o = settled(observed(shared))
    assert [name for kind, name in o.objects if kind == "ServiceAccount"] == ["mine"]
    assert o.objects["ServiceAccount", "mine"]["metadata"]["annotations"] == ROLE, "the pool of the second one gives it"
    assert decide_tool(o).actions == ()
    alone = replace(o, tool=a_tool(pods("aws", placement={"profile": "aws"}), serviceAccount={"name": "mine"}))
    old = {"labels": {"despina.dev/backend": "gpu"}}
    objects = {**o.objects, ("ServiceAccount", "mine"): {**o.objects["ServiceAccount", "mine"], "metadata": old}}
    gone = [a.key for a in decide_tool(replace(alone, objects=objects)).actions if isinstance(a, Delete)]
    assert ("Deployment", "search-gpu") in gone
    assert ("ServiceAccount", "mine") not in gone, "it was that backend's before it was everybody's"


def test_backends_whose_pools_contradict_each_other_on_one_account_are_told():
    tool = a_tool(
        pods("a", placement={"profile": "aws"}),
        pods("b", placement={"profile": "other"}),
        serviceAccount={"name": "mine"},
    )
    other = PlacementProfile(service_account_annotations=dict.fromkeys(ROLE, "another"))
    defaults = replace(DEFAULTS, profiles={**DEFAULTS.profiles, "other": other})
    plan = decide_tool(replace(observed(tool), defaults=defaults))
    ((reason, message),) = plan.problems
    assert reason == "InvalidSpec"
    assert message.startswith("spec.serviceAccount.name: backend b needs another eks.amazonaws.com/role-arn")
    own = tool.model_copy(update={"spec": tool.spec.model_copy(update={"service_account": ServiceAccount()})})
    assert decide_tool(replace(observed(own), defaults=defaults)).problems == ()
    chosen = a_tool(
        pods("a", placement={"profile": "aws"}),
        pods("b", placement={"profile": "other"}),
        serviceAccount={"name": "mine", "annotations": dict.fromkeys(ROLE, "arn:chosen")},
    )
    assert decide_tool(replace(observed(chosen), defaults=defaults)).problems == (), "the spec says which"
