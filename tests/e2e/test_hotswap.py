"""Hot swaps and blue/green changes under traffic: three replicas, no pod restarted where only state changed."""

from __future__ import annotations

import pytest

from tests.support.world import TICKET, conditions_of, eventually, log_model, manifest, move_alias, traffic

AUTO = {
    "strategy": "Auto",
    "blueGreen": {"scaleDownDelaySeconds": 10, "progressDeadlineSeconds": 45, "abortScaleDownDelaySeconds": 5},
    "postPromotion": {"watchSeconds": 5},
}


@pytest.fixture(scope="module")
def model():
    log_model("good", "swap", "champion")
    log_model("compiled", "swap")
    log_model("other", "swap")
    return "swap"


def names(program) -> set[str]:
    return {p["metadata"]["name"] for p in program.pods()}


def test_state_is_swapped_in_place_and_other_code_in_new_pods(given, kube, model):
    gates = [
        {"name": "smoke", "type": "Smoke", "smoke": {"inputs": TICKET}},
        {"name": "schema", "type": "SchemaCompatibility"},
    ]
    program = given("swap", replicas=3, rollout={**AUTO, "gates": gates})
    program.becomes_ready()
    before, passed = names(program), []
    with conditions_of(program) as seen, traffic(program, rate=50) as requests:
        for version in ("2", "1", "2"):
            move_alias(model, version)
            eventually(f"version {version} is active", lambda v=version: program.is_active(v), 120)
            rollout = program.status["rollout"]
            assert rollout["strategy"] == "HotSwap", rollout
            passed = passed or [g["result"] for g in rollout["gates"]]
        assert passed == ["Passed", "Passed"]  # the first time; a version that is still warm has shown itself
        assert names(program) == before
        kube("delete", "pod", sorted(before)[0], "--wait=false")  # the one that comes must serve version 2 as well
        eventually("three pods", lambda: program.status["readyReplicas"] == 3 and len(names(program)) == 3, 120)
        move_alias(model, "3")
        eventually("version 3 is active", lambda: program.is_active("3"), 120)
        rollout = program.status["rollout"]
        assert (rollout["strategy"], "triage.py" in rollout["strategyReason"]) == ("BlueGreen", True), rollout
        move_alias(model, "2")
        eventually("version 2 is active again", lambda: program.is_active("2"), 120)
        eventually("the other pods are gone", lambda: len(names(program)) == 3, 120)
    failed = requests.report("hot swaps and blue/green by what changed", allowed={"1", "2", "3"})
    assert not failed, failed[:5]
    assert len(requests.records) >= 1000
    assert all(s.get("Available") == "True" for s in seen)
    order = [r["version"] for r in requests.records]
    assert order[0] == "1"
    assert set(order[-50:]) == {"2"}
    assert [h["version"] for h in program.status["history"]] == ["1", "2", "1", "2", "3", "2"]


def test_lms_are_changed_in_place(given, kube, model):
    program = given("swaplm", model=model, replicas=2, rollout=AUTO)
    program.becomes_ready()
    before, lms = names(program), manifest("swaplm")["spec"]["lms"]
    version = program.status["active"]["version"]
    cheap = {**lms[0], "name": "cheap", "params": {"temperature": 1}}
    with traffic(program, rate=50) as requests:
        kube.apply(manifest("swaplm", model, replicas=2, rollout=AUTO, lms=[*lms, cheap], lm="cheap"))
        eventually("swapped", lambda: len(program.status["history"]) == 2, 120)
        assert program.status["rollout"]["strategy"] == "HotSwap"
        module = [{"path": "classify", "lm": "main", "source": {"version": 2}}]
        kube.apply(manifest("swaplm", model, replicas=2, rollout=AUTO, lms=[*lms, cheap], lm="cheap", modules=module))
        eventually("swapped", lambda: len(program.status["history"]) == 3, 120)
        assert names(program) == before
        wrong = [{"path": "rewrite", "source": {"version": 2}}]
        kube.apply(manifest("swaplm", model, replicas=2, rollout=AUTO, lms=[*lms, cheap], lm="cheap", modules=wrong))
        condition = program.becomes("Ready", "False", "UnknownModule", 40)
        assert "classify" in condition["message"]
    failed = requests.report("LMs and modules swapped", allowed={version})
    assert not failed, failed[:5]
