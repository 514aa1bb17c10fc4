"""The operator in its cluster: it may die, it may lose its key, it cleans up after itself, it rests."""

from __future__ import annotations

import pytest

from tests.support.undone import replace_the_key, rollout
from tests.support.world import Kube, assert_at_rest, eventually, log_model, move_alias, traffic

pytestmark = pytest.mark.alone  # what happens to the operator happens to all programs


@pytest.fixture(scope="module")
def model():
    log_model("good", "care", "champion")
    log_model("compiled", "care")
    return "care"


def children(kube: Kube, name: str) -> list[str]:
    kinds = "deployments,services,configmaps,pods,hpa,pdb,serviceaccounts"
    return kube("get", kinds, "-l", f"despina.dev/program={name}", "-o", "name").split()


def test_an_operator_that_dies_in_a_rollout_finishes_it_when_it_is_back(given, kube, model):
    move_alias(model, "1")
    program = given("care", replicas=2)
    program.becomes_ready()
    with traffic(program) as requests:
        move_alias(model, "2")
        eventually("a candidate", lambda: "2" in program.deployments(), 60)
        Kube("despina-system")("delete", "pod", "-l", "app.kubernetes.io/name=despina", "--now")
        eventually("version 2 is active", lambda: program.is_active("2"), 120)
        eventually("the last old pod is gone", lambda: program.only_pods_of("2"), 120)
    assert not requests.report("operator killed in a rollout", allowed={"1", "2"})

    # At rest nothing is written; what is done right after is acted on.
    eventually("rest", lambda: program.status.get("previous") is None and program.condition("Ready"), 60)
    assert_at_rest(kube, 15)
    kube("patch", "dspy", "care", "--type=merge", "-p", '{"spec": {"replicas": 1}}')
    scale = "jsonpath={.spec.replicas}"
    name = program.status["active"]["deployment"]
    eventually("scaled", lambda: kube("get", "deployment", name, "-o", scale) == "1", 5)

    # No finalizer is ever added, and deleting the program removes all that was made for it.
    meta = kube.json("get", "dspy", "care")["metadata"]
    assert "finalizers" not in meta
    assert children(kube, "care")
    program.delete()
    eventually("everything is gone", lambda: not children(kube, "care"), 90)


def test_the_key_of_the_orders_is_lost_before_a_release(given, kube):
    log_model("good", "rekeyed", "champion")
    log_model("compiled", "rekeyed")
    program = given("rekeyed", replicas=2, rollout=rollout())
    program.becomes_ready()
    with traffic(program, rate=50) as requests:
        replace_the_key(program, "2")
    failed = requests.report("the orders' key lost before a release", allowed={"1", "2"})
    assert not failed, failed[:5]
