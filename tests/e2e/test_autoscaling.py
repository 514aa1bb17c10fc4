"""Load raises the number of pods, and a release starts with as many as run."""

from __future__ import annotations

from tests.support.world import assert_at_rest, eventually, log_model, move_alias, traffic


def test_load_scales_and_a_release_starts_at_the_same_size(given, kube):
    log_model("good", "scaled", "champion")
    log_model("compiled", "scaled")
    autoscaling = {
        "minReplicas": 1,
        "maxReplicas": 3,
        "cpuUtilizationPercent": 20,
        # scaling down would take the answer away before it is read
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    }
    slow = {"strategy": "BlueGreen", "blueGreen": {"scaleDownDelaySeconds": 5, "progressDeadlineSeconds": 240}}
    program = given("scaled", autoscaling=autoscaling, rollout=slow)
    program.becomes_ready()
    assert_at_rest(kube, 5)
    with traffic(program, rate=50) as requests:
        eventually("three replicas", lambda: program.status.get("readyReplicas") == 3, 200)
        sizes = {v: d["status"].get("readyReplicas", 0) for v, d in program.deployments().items()}
        assert sizes == {"1": 3}
        move_alias("scaled", "2")
        eventually("version 2 is active", lambda: program.is_active("2"), 200)
        green = program.deployments()["2"]["status"]
        assert green["readyReplicas"] == 3
        assert (
            program.kube("get", "hpa", "-o", "jsonpath={.items[*].spec.scaleTargetRef.name}")
            == (program.status["active"]["deployment"])
        )
        eventually("the last old pod is gone", lambda: program.only_pods_of("2"), 120)
    assert not requests.report("a release at three replicas", allowed={"1", "2"})
