"""What the conditions say, case by case, with the invariants of every status that a test sees."""

from __future__ import annotations

from typing import Any

import pytest

from despina.api.conditions import Condition, ConditionStatus, Reason, Type
from despina.api.status import ProgramStatus
from despina.decide.observed import Observed, Resolution, Trouble
from despina.decide.plan import Outcome
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.status.conditions import Finding, merge
from despina.status.report import report
from despina.wire import Failure, FailureReason
from tests.support.gen import a_deployment, a_program, config_of, hash_of, observed, pods, serving

NOW = 5000.0
P = a_program()


def told(o: Observed, outcome: Outcome | None = None) -> dict[str, str]:
    """Each condition as status/reason."""
    status = report(o, decide(o, NOW), outcome or Outcome(), NOW)
    check(status, o)
    return {c.type: f"{c.status}/{c.reason}" for c in status.conditions}


def check(status: ProgramStatus, o: Observed) -> None:
    """What must hold for every status."""
    assert [c.type for c in status.conditions] == list(Type)
    assert all(c.observed_generation == o.program.generation for c in status.conditions)
    found = {c.type: c.status for c in status.conditions}
    if found["Ready"] == ConditionStatus.TRUE:
        assert found["Available"] == ConditionStatus.TRUE
    for condition in status.conditions:
        if condition.status == ConditionStatus.FALSE:
            assert condition.message, f"{condition.type} is False without a word"
    ProgramStatus.model_validate(status.dump())


def quarantined(version: str) -> ProgramStatus:
    entry = {"version": version, "reason": "LoadFailed", "message": "boom", "at": timestamp(NOW)}
    return ProgramStatus.model_validate({"serial": 1, "model": {"quarantined": [entry]}})


QUOTA = Trouble(Reason.PODS_REFUSED, 'pods "qa-1" is forbidden: exceeded quota: small')
GONE = Resolution(None, Reason.MODEL_NOT_FOUND, "no model qa")
NO_ALIAS = Resolution(None, Reason.ALIAS_NOT_FOUND, "no alias champion")
SILENT = Resolution(None, Reason.REGISTRY_UNREACHABLE, "http://x")
SECRET = Trouble(Reason.SECRET_NOT_FOUND, 'secret "s" not found')
LOAD = Failure(reason=FailureReason.LOAD_FAILED, message="boom")
PINNED = a_program(rollout={"rollbackTo": 2})
CASES: dict[str, tuple[Observed, dict[str, str]]] = {
    "a version that the manifest is pinned to and that failed is the manifest's fault": (
        observed(PINNED, "1", status=quarantined("2"), **serving(PINNED, "1")),
        {"Ready": "False/LoadFailed", "Available": "True/Serving", "UpToDate": "False/VersionQuarantined"},
    ),
    "a program that serves what is asked for": (
        observed(P, **serving(P, "1")),
        {"Ready": "True/Serving", "Available": "True/Serving", "UpToDate": "True/UpToDate", "Progressing": "True/UpToDate"},
    ),
    "a release under way leaves Ready and Available alone": (
        observed(P, "2", **serving(P, "1")),
        {"Ready": "True/Serving", "Available": "True/Serving", "UpToDate": "False/InProgress"},
    ),
    "a version from an alias that failed leaves Ready True": (
        observed(P, "2", status=quarantined("2"), **serving(P, "1")),
        {"Ready": "True/Serving", "UpToDate": "False/VersionQuarantined"},
    ),
    "a pinned version that failed makes Ready False": (
        (lambda p: observed(p, "2", status=quarantined("2"), **serving(p, "1")))(
            a_program(source={"mlflow": {"model": "qa", "version": 2}})
        ),
        {"Ready": "False/LoadFailed", "Available": "True/Serving"},
    ),
    "a registry that is silent leaves what serves alone": (
        observed(P, None, **serving(P, "1")),
        {"Ready": "True/Serving", "ModelResolved": "Unknown/RegistryUnreachable", "UpToDate": "True/UpToDate"},
    ),
    "a registry that is silent at the first start is named": (
        observed(P, None, model=Resolution(None, Reason.REGISTRY_UNREACHABLE, "http://x")),
        {"Ready": "False/RegistryUnreachable", "Available": "False/RegistryUnreachable", "UpToDate": "Unknown/RegistryUnreachable"},
    ),
    "a first version that cannot load is named by its pods": (
        observed(P, active="1", deployments=(a_deployment(P, "1"),), pods=pods(P, "1", failure=LOAD)),
        {"Ready": "False/LoadFailed", "Available": "False/LoadFailed"},
    ),
    "a secret that is missing is a reference that does not resolve": (
        observed(P, active="1", deployments=(a_deployment(P, "1"),), pods=pods(P, "1", trouble=SECRET)),
        {"RefsResolved": "False/SecretNotFound", "Ready": "False/SecretNotFound"},
    ),
    "a suspended program is not an accident": (
        (lambda p: observed(p, active="1", deployments=(a_deployment(p, "1", replicas=0),)))(a_program(suspend=True)),
        {"Available": "False/Suspended", "Ready": "False/Suspended"},
    ),
    "pods that refuse orders": (
        observed(P, **(serving(P, "1") | {"pods": pods(P, "1", ready=True, refusal="why")})),
        {"OrdersAccepted": "False/OrdersRefused", "Ready": "True/Serving"},
    ),
    "pods that were made for another key": (
        observed(P, **serving(P, "1", config=config_of(P, "1").model_copy(update={"order_keys": ("b3RoZXI=",)}))),
        {"OrdersAccepted": "False/OrdersRefused", "Ready": "True/Serving"},
    ),
    "pods that may take orders": (
        observed(P, **serving(P, "1", config=config_of(P, "1"))),
        {"OrdersAccepted": "True/OrdersAccepted"},
    ),
    "a profile that nobody configured": (
        (lambda p: observed(p, "1"))(a_program(placement={"profile": "moon"})),
        {"Ready": "False/UnknownProfile", "RefsResolved": "False/UnknownProfile", "UpToDate": "False/UnknownProfile"},
    ),
    "pods that the API server refuses are told where no pod says more": (
        observed(P, active="1", deployments=(a_deployment(P, "1", trouble=QUOTA),)),
        {"Ready": "False/PodsRefused", "Available": "False/PodsRefused", "Progressing": "False/PodsRefused"},
    ),
    "what a pod says comes before what became of the others": (
        observed(P, active="1", deployments=(a_deployment(P, "1", trouble=QUOTA),), pods=pods(P, "1", failure=LOAD)),
        {"Ready": "False/LoadFailed", "Available": "False/LoadFailed", "Progressing": "True/InProgress"},
    ),
    "some pods of those asked for are refused": (
        observed(P, active="1", deployments=(a_deployment(P, "1", trouble=QUOTA, replicas=3, activated_at=1.0),), pods=pods(P, "1", ready=True)),
        {"Ready": "True/Serving", "Available": "True/Serving", "UpToDate": "True/UpToDate", "Progressing": "False/PodsRefused"},
    ),
    "a candidate's pods are refused": (
        (lambda base: observed(P, "2", **base | {"deployments": (*base["deployments"], a_deployment(P, "2", trouble=QUOTA))}))(serving(P, "1")),
        {"Ready": "True/Serving", "UpToDate": "False/InProgress", "Progressing": "False/PodsRefused"},
    ),
    "refusals of a version that callers left are its own affair": (
        (lambda base: observed(P, "1", **base | {"deployments": (*base["deployments"], a_deployment(P, "2", trouble=QUOTA))}))(serving(P, "1")),
        {"Progressing": "True/UpToDate"},
    ),
    "a program without a model makes no progress": (
        observed(P, None, model=GONE),
        {"Ready": "False/ModelNotFound", "UpToDate": "Unknown/ModelNotFound", "Progressing": "False/ModelNotFound"},
    ),
    "a first start for which MLflow must answer": (
        observed(P, None, model=SILENT),
        {"UpToDate": "Unknown/RegistryUnreachable", "Progressing": "Unknown/RegistryUnreachable"},
    ),
    "an alias that is gone from under what serves": (
        observed(P, None, model=NO_ALIAS, **serving(P, "1")),
        {"Ready": "True/Serving", "UpToDate": "Unknown/AliasNotFound", "Progressing": "False/AliasNotFound"},
    ),
    "a registry that is silent does not stand in the way of what serves": (
        observed(P, None, model=SILENT, **serving(P, "1")),
        {"UpToDate": "True/UpToDate", "Progressing": "True/UpToDate"},
    ),
    "a spec that cannot be built makes no progress": (
        (lambda p: observed(p, "1", **serving(p, "1")))(a_program(placement={"profile": "moon"})),
        {"Available": "True/Serving", "UpToDate": "False/UnknownProfile", "Progressing": "False/UnknownProfile"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", CASES)
def test_conditions(sentence):
    o, wanted = CASES[sentence]
    found = told(o)
    assert {k: found[k] for k in wanted} == wanted


def test_a_refused_order_names_the_pod_and_what_happens():
    o, _ = CASES["pods that refuse orders"]
    status = report(o, decide(o, NOW), Outcome(), NOW)
    message = next(c.message for c in status.conditions if c.type == "OrdersAccepted")
    assert message == f"qa-{hash_of(P, '1')}-0: why; the next version comes with new pods"


def test_refused_pods_are_told_in_the_api_servers_words():
    o = observed(P, active="1", deployments=(a_deployment(P, "1", trouble=QUOTA),))
    status = report(o, decide(o, NOW), Outcome(), NOW)
    for kind in ("Ready", "Available", "Progressing"):
        assert "exceeded quota: small" in next(c.message for c in status.conditions if c.type == kind)


def test_a_deadline_that_was_missed_for_refused_pods_says_so():
    base = serving(P, "1")
    rollout = {"id": hash_of(P, "2"), "strategy": "BlueGreen", "step": "Prepare", "startedAt": timestamp(NOW - 700)}
    rollout |= {"since": timestamp(NOW - 700)}
    status = ProgramStatus.model_validate({"rollout": rollout})
    candidate = a_deployment(P, "2", trouble=QUOTA)
    o = observed(P, "2", **base | {"deployments": (*base["deployments"], candidate), "status": status})
    blocked = decide(o, NOW).blocked
    assert blocked is not None
    assert (blocked.reason, "exceeded quota: small" in blocked.message) == ("ProgressDeadlineExceeded", True)


def test_a_refusal_of_the_api_server_is_told():
    found = told(observed(P, **serving(P, "1")), Outcome(error="Service x is not ours"))
    assert found["Ready"] == "False/Rejected"


def test_a_first_start_that_takes_too_long_is_told():
    rollout = {"id": hash_of(P, "1"), "strategy": "BlueGreen", "step": "Prepare", "startedAt": timestamp(NOW - 700)}
    status = ProgramStatus.model_validate({"rollout": rollout})
    o = observed(P, status=status, active="1", deployments=(a_deployment(P, "1"),), pods=pods(P, "1"))
    assert told(o)["Progressing"] == "False/ProgressDeadlineExceeded"


def test_the_transition_time_moves_only_with_the_status():
    def at(moment: str, before: Any, reason: str, status: bool) -> tuple[Condition, ...]:
        return merge(before, [Finding(Type.READY, status, reason)], 1, moment)

    first = at("t1", (), "A", True)
    second = at("t2", first, "B", True)
    assert (second[0].last_transition_time, second[0].reason) == ("t1", "B")
    assert at("t3", second, "B", False)[0].last_transition_time == "t3"
