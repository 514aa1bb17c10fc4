"""What status says to people and to programs, plan by plan: conditions with their messages, versions, history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from despina.api.conditions import Reason
from despina.api.revision import revision_of, runtime_config
from despina.api.status import BreakerStatus, GateStatus, Memory, ProgramStatus, Promotion, Quarantined
from despina.api.tool import ToolStatus
from despina.decide.observed import DeploymentView, Loading, Observed, PodView, Resolution, Trouble
from despina.decide.plan import Clock, Emit, Outcome, Plan, Strategy
from despina.decide.quarantine import timestamp
from despina.desired.toolbox import ToolView
from despina.status.report import report
from despina.wire import Failure, FailureReason, HeldRevision, PodState
from tests.support.gen import a_deployment, a_program, config_of, hash_of, observed, pods, ref, serving, source

NOW = 5000.0
P = a_program()
GPU = a_program(placement={"profile": "gpu"})
ONE, TWO, THREE = (revision_of(P, ref(version)) for version in "123")
SERVES = observed(P, **serving(P, "1"))
NOBODY = Resolution(None, Reason.ALIAS_NOT_FOUND, "no alias champion")


def starting(program=P, **pod: Any) -> Observed:
    return observed(program, active="1", deployments=(a_deployment(program, "1"),), pods=pods(program, "1", **pod))


def entry(version: str, reason: str = "SmokeFailed") -> Quarantined:
    return Quarantined(version=version, reason=reason, message="it said 7", at=timestamp(NOW))


def gate(name: str, result: str, message: str = "") -> GateStatus:
    return GateStatus(name=name, type="Smoke", result=result, message=message, started_at=timestamp(NOW))


def at(step: str, *gates: GateStatus) -> Plan:
    return Plan(asked=TWO, wanted=TWO, candidate=TWO, step=step, gates=gates, started_at=NOW - 9)


def failed(program, reason: str = "SmokeFailed") -> Plan:
    return Plan(asked=revision_of(program, ref("2")), blocked=entry("2", reason))


def without(reason: str) -> Plan:
    return Plan(problem=(reason, "spec.x: what is wrong"))


def said(o: Observed, plan: Plan, outcome: Outcome | None = None) -> dict[str, str]:
    status = report(o, plan, outcome or Outcome(), NOW)
    return {c.type: f"{c.status}/{c.reason} {c.message}".strip() for c in status.conditions}


SECRET = Trouble(Reason.SECRET_NOT_FOUND, 'secret "s" not found')
FULL = Trouble(Reason.UNSCHEDULABLE, "0/1 nodes are available")
LOAD = Failure(reason=FailureReason.LOAD_FAILED, message="boom")
ASLEEP = "spec.suspend is true"
PINNED = a_program(rollout={"rollbackTo": 2})
NUMBERED = a_program(source={"mlflow": {"model": "qa", "version": 2}})
REMARK = "WarmupInconclusive: ValueError: 7; spec.warmUp.outputs"


def heard(held: HeldRevision) -> tuple:
    """The pod that serves, with what it says of its revision."""
    return tuple(replace(p, report=PodState(revision=ONE.hash, held={ONE.hash: held})) for p in SERVES.pods)


REMARKED = replace(SERVES, pods=heard(HeldRevision(phase="Ready", remark=REMARK)))
REMARKED_BEFORE = replace(SERVES, status=report(REMARKED, Plan(asked=ONE, wanted=ONE), Outcome(), NOW))
CONDITIONS: dict[str, tuple[Observed, Plan, dict[str, str]]] = {
    "all is well": (SERVES, Plan(asked=ONE, wanted=ONE), {
        "Ready": "True/Serving", "Available": "True/Serving", "UpToDate": "True/UpToDate", "Progressing": "True/UpToDate",
        "ModelResolved": "True/ModelFound", "RefsResolved": "True/RefsFound", "BreakerClosed": "True/Closed"}),
    "a registry without the alias, and nothing that serves": (observed(P, model=NOBODY), Plan(), {
        "Ready": "False/AliasNotFound no alias champion", "Available": "False/AliasNotFound no alias champion",
        "UpToDate": "Unknown/AliasNotFound no alias champion", "ModelResolved": "False/AliasNotFound no alias champion"}),
    "a registry that refuses the operator has not answered": (
        replace(SERVES, model=Resolution(None, Reason.REGISTRY_DENIED, "401")), Plan(), {"ModelResolved": "Unknown/RegistryDenied 401"}),
    "a registry without the alias takes nothing from what serves": (replace(SERVES, model=NOBODY), Plan(), {
        "Available": "True/Serving", "UpToDate": "Unknown/AliasNotFound no alias champion"}),
    "a registry without the alias does not excuse pods that are not ready": (replace(starting(), model=NOBODY), Plan(), {
        "Available": "False/NoReadyPods No pod is ready yet"}),
    "a first version on its way": (starting(), Plan(asked=ONE, wanted=ONE, started_at=NOW), {
        "Ready": "False/Starting No pod is ready yet", "Available": "False/Starting No pod is ready yet",
        "UpToDate": "True/UpToDate", "Progressing": "True/InProgress"}),
    "a first version a second before its deadline": (starting(), Plan(asked=ONE, wanted=ONE, started_at=NOW - 599), {"Progressing": "True/InProgress"}),
    "a first version at its deadline": (starting(), Plan(asked=ONE, wanted=ONE, started_at=NOW - 600), {
        "Progressing": "False/ProgressDeadlineExceeded No pod was ready within 600 s"}),
    "a candidate has a deadline of its own": (SERVES, replace(at("Prepare"), started_at=0.0), {"Progressing": "True/InProgress"}),
    "pods that cannot load what they shall": (starting(failure=LOAD), Plan(asked=ONE, wanted=ONE), {"Available": "False/LoadFailed boom"}),
    "pods without a node": (starting(GPU, trouble=FULL), Plan(), {
        "Available": "False/Unschedulable pool gpu: 0/1 nodes are available", "RefsResolved": "True/RefsFound"}),
    "pods without a Secret": (starting(GPU, trouble=SECRET), Plan(), {
        "Available": 'False/SecretNotFound secret "s" not found', "RefsResolved": 'False/SecretNotFound secret "s" not found'}),
    "pods that are ending say nothing": (starting(trouble=SECRET, ending=True), Plan(), {
        "Available": "False/NoReadyPods No pod is ready yet", "RefsResolved": "True/RefsFound"}),
    "a candidate without a Secret": (replace(SERVES, pods=SERVES.pods + pods(P, "2", trouble=SECRET)), at("Prepare"), {
        "Available": "True/Serving", "RefsResolved": 'False/SecretNotFound secret "s" not found',
        "UpToDate": 'False/InProgress version 2 is being prepared: SecretNotFound: secret "s" not found'}),
    "a revision that was abandoned lacks its Secret for ever": (
        replace(SERVES, pods=SERVES.pods + pods(P, "2", trouble=SECRET)), replace(at("Prepare"), candidate=THREE), {
        "RefsResolved": "True/RefsFound", "UpToDate": "False/InProgress version 3 is being prepared"}),
    "a candidate without a node": (replace(SERVES, pods=SERVES.pods + pods(P, "2", trouble=FULL)), at("Prepare"), {
        "UpToDate": "False/InProgress version 2 is being prepared: Unschedulable: pool default: 0/1 nodes are available"}),
    "a candidate whose pods are refused": (
        replace(SERVES, deployments=(*SERVES.deployments, a_deployment(P, "2", trouble=Trouble(Reason.PODS_REFUSED, "quota")))), at("Prepare"), {
        "UpToDate": "False/InProgress version 2 is being prepared: PodsRefused: quota"}),
    "a candidate that is ready at its second try": (
        replace(SERVES, pods=SERVES.pods + pods(P, "2", ready=True, failure=LOAD)), at("Prepare"), {
        "UpToDate": "False/InProgress version 2 is being prepared"}),
    "pods that run say nothing of what they take in": (
        replace(SERVES, pods=SERVES.pods + pods(P, "1", failure=LOAD)),
        replace(at("Prepare"), candidate=TWO.model_copy(update={"base": ONE.hash})), {
        "UpToDate": "False/InProgress version 2 is being prepared"}),
    "suspended": (observed(a_program(suspend=True), active="1"), Plan(), {"Ready": f"False/Suspended {ASLEEP}", "Available": f"False/Suspended {ASLEEP}"}),
    "asked for no pods": (observed(a_program(replicas=0), active="1"), Plan(), {"Available": "False/Suspended spec.replicas is 0"}),
    "asked for no pods, but the autoscaler decides": (
        observed(a_program(replicas=0, autoscaling={"maxReplicas": 2}), active="1"), Plan(), {"Available": "False/NoReadyPods No pod is ready yet"}),
    "a spec that names what is not there": (SERVES, without(Reason.UNKNOWN_PROFILE), {
        "Ready": "False/UnknownProfile spec.x: what is wrong", "Available": "True/Serving",
        "UpToDate": "False/UnknownProfile spec.x: what is wrong", "RefsResolved": "False/UnknownProfile spec.x: what is wrong"}),
    "a tool that is not there": (SERVES, without(Reason.TOOL_NOT_FOUND), {"RefsResolved": "False/ToolNotFound spec.x: what is wrong"}),
    "a tool that is not for everyone": (SERVES, without(Reason.TOOL_NOT_ALLOWED), {"RefsResolved": "False/ToolNotAllowed spec.x: what is wrong"}),
    "a spec that refers to nothing wrong": (SERVES, without(Reason.INVALID_POD_TEMPLATE), {
        "Ready": "False/InvalidPodTemplate spec.x: what is wrong", "RefsResolved": "True/RefsFound"}),
    "a spec from which nothing can be made": (observed(P, model=NOBODY), without(Reason.INVALID_POD_TEMPLATE), {
        "Available": "False/InvalidPodTemplate spec.x: what is wrong"}),
    "a version of an alias that failed": (SERVES, failed(P), {
        "Ready": "True/Serving", "UpToDate": "False/VersionQuarantined version 2: SmokeFailed: it said 7", "Progressing": "True/UpToDate"}),
    "a version that failed and was named by the manifest": (observed(NUMBERED, **serving(NUMBERED, "1")), failed(NUMBERED), {
        "Ready": "False/SmokeFailed it said 7", "Available": "True/Serving"}),
    "a version that failed and was pinned": (observed(PINNED, **serving(PINNED, "1")), failed(PINNED), {"Ready": "False/SmokeFailed it said 7"}),
    "an edit of the spec that failed": (SERVES, Plan(asked=ONE, wanted=ONE, blocked=entry("1")), {"Ready": "False/SmokeFailed it said 7"}),
    "a version that failed where nothing serves": (observed(P), failed(P), {"Ready": "False/NoReadyPods No pod is ready yet"}),
    "a version that was not ready in time": (SERVES, failed(P, "ProgressDeadlineExceeded"), {
        "Progressing": "False/ProgressDeadlineExceeded it said 7"}),
    "a pin that is served": (observed(PINNED, **serving(PINNED, "2")), Plan(asked=revision_of(PINNED, ref("2"))), {
        "UpToDate": "True/UpToDate pinned to version 2 by spec.rollout.rollbackTo"}),
    "something to know of what serves": (observed(PINNED, **serving(PINNED, "2")), Plan(asked=ONE, wanted=ONE, remark="watched"), {
        "UpToDate": "True/UpToDate watched"}),
    "a version of which its pods remark something": (REMARKED, Plan(asked=ONE, wanted=ONE), {
        "Ready": "True/Serving", "UpToDate": f"True/UpToDate {REMARK}"}),
    "a version of which its pods remarked something when they were heard": (REMARKED_BEFORE, Plan(asked=ONE, wanted=ONE), {
        "Ready": "True/Serving", "UpToDate": f"True/UpToDate {REMARK}"}),
    "a version of which its pods have nothing to remark any more": (
        replace(REMARKED_BEFORE, pods=heard(HeldRevision(phase="Ready"))), Plan(asked=ONE, wanted=ONE), {"UpToDate": "True/UpToDate"}),
    "what is asked for failed, and another is on its way": (
        SERVES, replace(failed(P), candidate=TWO, step="Paused", started_at=NOW), {
        "UpToDate": "False/VersionQuarantined version 2: SmokeFailed: it said 7; meanwhile "
        "version 2 waits: set spec.rollout.state to Active to go on"}),
    "a candidate in preparation": (SERVES, at("Prepare"), {
        "Ready": "True/Serving", "UpToDate": "False/InProgress version 2 is being prepared", "Progressing": "True/InProgress"}),
    "a candidate at its second gate": (SERVES, at("Gate", gate("smoke", "Passed"), gate("score", "Running", "3 of 9")), {
        "UpToDate": "False/InProgress version 2 is at gate score: 3 of 9"}),
    "a candidate between two gates": (SERVES, at("Gate", gate("smoke", "Passed")), {
        "UpToDate": "False/InProgress version 2 is being prepared"}),
    "a candidate that waits for a person": (SERVES, at("AwaitPromotion"), {
        "UpToDate": f'False/AwaitingPromotion version 2 is ready: set the annotation despina.dev/promote: "{TWO.hash}" to go on'}),
    "a candidate that is not at its gates any more": (SERVES, at("Promote", gate("score", "Running", "3 of 9")), {
        "UpToDate": "False/InProgress version 2 is being prepared"}),
    "a candidate that waits for pods to be asked for": (SERVES, at("Suspended"), {
        "UpToDate": "False/Suspended version 2 waits: nothing is prepared while the program runs no pods"}),
    "what serves failed with the present spec, while what is asked for is in quarantine": (
        SERVES, replace(failed(P), stuck=Quarantined(version="1", reason="LoadFailed", message="boom", at="t")), {"Ready": "False/LoadFailed boom"}),
    "a candidate that was paused": (SERVES, at("Paused"), {
        "UpToDate": "False/Paused version 2 waits: set spec.rollout.state to Active to go on"}),
    "a candidate whose gates would do what they may not": (SERVES, replace(at("Refused"), refusal="x.tools: why"), {
        "Ready": "True/Serving", "Progressing": "False/GateHasSideEffects x.tools: why",
        "UpToDate": "False/GateHasSideEffects version 2 waits: x.tools: why"}),
    "the same, where the manifest names the version": (
        observed(NUMBERED, **serving(NUMBERED, "1")),
        replace(at("Refused"), asked=revision_of(NUMBERED, ref("2")), refusal="x.tools: why"), {
        "Ready": "False/GateHasSideEffects x.tools: why", "Available": "True/Serving"}),
    "a breaker that is open": (SERVES, Plan(breaker=BreakerStatus(state="Open", reason="9 of 9")), {"BreakerClosed": "False/BreakerOpen Open: 9 of 9"}),
    "a breaker that is probing": (SERVES, Plan(breaker=BreakerStatus(state="HalfOpen", reason="9 of 9")), {"BreakerClosed": "False/BreakerOpen HalfOpen: 9 of 9"}),
    "a breaker that has closed again": (SERVES, Plan(breaker=BreakerStatus(reason="9 of 9")), {"BreakerClosed": "True/Closed"}),
}  # fmt: skip


@pytest.mark.parametrize("sentence", CONDITIONS)
def test_conditions_and_their_messages(sentence):
    o, plan, wanted = CONDITIONS[sentence]
    found = said(o, plan)
    assert {k: found[k] for k in wanted} == wanted


WRITES = {
    "all was written": (Outcome(), "True/Reconciled"),
    "something was refused": (
        Outcome(error="Service qa is not ours", silence="x"),
        "False/Rejected Service qa is not ours",
    ),
    "something was not answered": (Outcome(silence="no answer"), "False/ApiUnavailable no answer"),
}


@pytest.mark.parametrize("sentence", WRITES)
def test_what_became_of_writes(sentence):
    outcome, wanted = WRITES[sentence]
    assert said(SERVES, Plan(asked=ONE), outcome)["Reconciled"] == wanted


def test_what_the_api_server_refused_is_told_unless_the_spec_is_at_fault_already():
    refused = Outcome(error="Service qa is not ours")
    assert said(SERVES, Plan(asked=ONE, wanted=ONE), refused)["Ready"] == "False/Rejected Service qa is not ours"
    assert said(SERVES, failed(NUMBERED), refused)["Ready"] == "False/Rejected Service qa is not ours"
    assert said(SERVES, without("InvalidPodTemplate"), refused)["Ready"].startswith("False/InvalidPodTemplate")


# Fields


def report_of(revision: str, **held: str) -> PodState:
    return PodState(revision=revision, held={name: HeldRevision(phase=phase) for name, phase in held.items()})


def two_pods(*reports: PodState) -> tuple:
    views = pods(P, "1", len(reports), ready=True)
    return tuple(replace(view, report=said_so) for view, said_so in zip(views, reports, strict=True))


def swapped(*serve: str) -> Observed:
    """Version 2 was loaded into pods that were made for version 1."""
    config = config_of(P, "2")
    earlier = config_of(P, "1")
    view = a_deployment(P, "1", activated_at=1.0, loading=Loading(TWO.hash, "2", config, 9.0, earlier))
    held = two_pods(*(report_of(name, **{ONE.hash: "Ready", TWO.hash: "Ready"}) for name in serve))
    return observed(P, "2", active="1", deployments=(replace(view, version="2"),), pods=held)


SWAPPING = replace(
    SERVES, pods=two_pods(report_of(ONE.hash, **{TWO.hash: "Ready"}), report_of(ONE.hash, **{TWO.hash: "Preparing"}))
)
BESIDE = TWO.model_copy(update={"base": ONE.hash, "deployment": ONE.deployment})
BOTH = replace(
    SERVES,
    deployments=(*SERVES.deployments, a_deployment(P, "2", activated_at=1.0, retired_at=2.0)),
    pods=SERVES.pods + pods(P, "2", 2, ready=True),
)
FIELDS: dict[str, tuple[Observed, Plan, dict[str, Any]]] = {
    "where a program is, and which pods are its own": (SERVES, Plan(asked=ONE, wanted=ONE), {
        "url": "http://qa.ns.svc.cluster.local", "replicas": 1, "readyReplicas": 1, "observedGeneration": 1, "previewURL": None,
        "selector": f"despina.dev/program=qa,despina.dev/revision={ONE.hash}"}),
    "where its preview is": (SERVES, at("Prepare"), {"previewURL": "http://qa-preview.ns.svc.cluster.local"}),
    "before anything is there": (observed(P), Plan(asked=ONE, wanted=ONE), {"replicas": 0, "readyReplicas": 0, "active": None, "selector": ""}),
    "pods that are not ready, or are ending": (
        replace(SERVES, pods=SERVES.pods + pods(P, "1", 2) + pods(P, "1", ready=True, ending=True)), Plan(), {"replicas": 3, "readyReplicas": 1}),
    "a model by its alias": (SERVES, Plan(), {"model": {"requested": "models:/qa@champion", "resolvedVersion": "1", "quarantined": []}}),
    "a model by its number": (observed(NUMBERED), Plan(), {"model": {"requested": "models:/qa/2", "resolvedVersion": "1", "quarantined": []}}),
    "the version that the registry named before it fell silent": (
        observed(P, None, status=ProgramStatus.model_validate({"model": {"resolvedVersion": "7", "quarantined": []}})), Plan(),
        {"model": {"requested": "models:/qa@champion", "resolvedVersion": "7", "quarantined": []}}),
    "what serves": (SERVES, Plan(), {
        "active": {"revision": ONE.hash, "version": "1", "source": source("1"), "deployment": ONE.deployment, "readyReplicas": 1}, "candidate": None, "previous": None}),
    "how many pods serve what was loaded into them": (swapped(TWO.hash, ONE.hash), Plan(), {
        "active": {"revision": TWO.hash, "version": "2", "source": source("2"), "deployment": ONE.deployment, "readyReplicas": 2, "loaded": "1/2"}}),
    "what these pods served before": (swapped(TWO.hash, TWO.hash), Plan(), {
        "previous": {"revision": ONE.hash, "version": "1", "source": source("1"), "deployment": ONE.deployment, "readyReplicas": 2}}),
    "a candidate in pods of its own": (BOTH, replace(at("Prepare"), strategy=Strategy("BlueGreen", "so")), {
        "candidate": {"revision": TWO.hash, "version": "2", "source": source("2"), "deployment": TWO.deployment, "readyReplicas": 2}}),
    "a candidate in the pods that serve": (SWAPPING, replace(at("Prepare"), candidate=BESIDE, strategy=Strategy("HotSwap", "so")), {
        "candidate": {"revision": TWO.hash, "version": "2", "source": source("2"), "deployment": ONE.deployment, "readyReplicas": 2, "loaded": "1/2"}}),
    "the pods that callers left last": (BOTH, Plan(), {
        "previous": {"revision": TWO.hash, "version": "2", "source": source("2"), "deployment": TWO.deployment, "readyReplicas": 2}}),
}  # fmt: skip


@pytest.mark.parametrize("sentence", FIELDS)
def test_fields(sentence):
    o, plan, wanted = FIELDS[sentence]
    found = report(o, plan, Outcome(), NOW).dump()
    assert {k: found.get(k) for k in wanted} == wanted


def test_what_is_quarantined_and_what_the_breaker_did_are_on_record():
    breaker = BreakerStatus(state="Open", reason="9 of 9")
    status = report(SERVES, Plan(quarantined=(entry("2"),), breaker=breaker), Outcome(), NOW)
    assert status.model.quarantined == (entry("2"),)
    assert status.breaker == breaker


def rollout(step: str, revision=TWO, **more: Any) -> dict[str, Any]:
    base = {
        "id": revision.hash,
        "strategy": "HotSwap",
        "strategyReason": "earlier",
        "step": step,
        "startedAt": timestamp(NOW - 50),
    }
    return {"rollout": base | more}


def rolled(o: Observed, status: dict[str, Any] | None, plan: Plan) -> tuple | None:
    found = report(replace(o, status=ProgramStatus.model_validate(status or {})), plan, Outcome(), NOW).rollout
    return found and (found.id, found.strategy, found.strategy_reason, found.step, found.started_at)


SO = Strategy("BlueGreen", "so")
FAILED = Plan(asked=TWO, wanted=ONE, quarantined=(entry("2"),), blocked=entry("2"))
ROLLOUTS: dict[str, tuple[dict | None, Plan, tuple | None]] = {
    "nothing has happened yet": (None, Plan(), None),
    "the first version": (None, Plan(asked=ONE, wanted=ONE, started_at=NOW), (ONE.hash, "BlueGreen", "the first version", "Prepare", timestamp(NOW))),
    "a change begins": (None, replace(at("Gate"), strategy=SO), (TWO.hash, "BlueGreen", "so", "Gate", timestamp(NOW - 9))),
    "a change whose strategy changes": (rollout("Prepare"), replace(at("Gate"), strategy=SO), (TWO.hash, "BlueGreen", "so", "Gate", timestamp(NOW - 9))),
    "a change without a strategy of its own keeps the one it came by": (
        rollout("Promote"), at("Watch"), (TWO.hash, "HotSwap", "earlier", "Watch", timestamp(NOW - 9))),
    "another revision's strategy is none of its business": (
        rollout("Promote", ONE), at("Watch"), (TWO.hash, "BlueGreen", "the first version", "Watch", timestamp(NOW - 9))),
    "nor is that of an earlier try": (
        rollout("Failed"), at("Watch"), (TWO.hash, "BlueGreen", "the first version", "Watch", timestamp(NOW - 9))),
    "a change is over": (rollout("Watch", ONE), Plan(asked=ONE, wanted=ONE), (ONE.hash, "HotSwap", "earlier", "Done", timestamp(NOW - 50))),
    "what is wanted is not known": (rollout("Gate", ONE), Plan(started_at=NOW), (ONE.hash, "HotSwap", "earlier", "Done", timestamp(NOW - 50))),
    "a change is over, but led nowhere": (rollout("Gate"), Plan(asked=ONE, wanted=ONE), (TWO.hash, "HotSwap", "earlier", "Abandoned", timestamp(NOW - 50))),
    "a change has failed": (rollout("Gate"), FAILED, (TWO.hash, "HotSwap", "earlier", "Failed", timestamp(NOW - 50))),
    "a change was taken back": (
        rollout("Watch"), replace(FAILED, quarantined=(entry("2", "WatchFailed"),)), (TWO.hash, "HotSwap", "earlier", "RolledBack", timestamp(NOW - 50))),
    "a change was given up for one that had failed": (
        rollout("Gate", THREE), FAILED, (THREE.hash, "HotSwap", "earlier", "Abandoned", timestamp(NOW - 50))),
    "a change was given up, and another had failed": (
        rollout("Gate"), replace(FAILED, quarantined=(entry("3"),)), (TWO.hash, "HotSwap", "earlier", "Abandoned", timestamp(NOW - 50))),
    "what is over stays as it ended": (rollout("RolledBack"), Plan(asked=TWO, wanted=TWO), (TWO.hash, "HotSwap", "earlier", "RolledBack", timestamp(NOW - 50))),
}  # fmt: skip


@pytest.mark.parametrize("sentence", ROLLOUTS)
def test_rollouts(sentence):
    before, plan, wanted = ROLLOUTS[sentence]
    assert rolled(SERVES, before, plan) == wanted


CLOCKS = {
    "running": (Clock(7.9, NOW - 3), (timestamp(NOW - 3), 7)),
    "standing still": (Clock(7.0), (None, 7)),
    "not begun": (Clock(), (None, 0)),
}


@pytest.mark.parametrize("sentence", CLOCKS)
def test_the_time_to_become_ready_is_on_record(sentence):
    clock, wanted = CLOCKS[sentence]
    found = report(SERVES, replace(at("Prepare"), clock=clock), Outcome(), NOW).rollout
    assert (found.since, found.spent_seconds) == wanted


def test_what_a_watch_could_not_find_out_is_kept_with_the_change():
    o = replace(SERVES, status=ProgramStatus.model_validate(rollout("Watch", ONE, since=timestamp(NOW))))
    events = (Emit("Normal", "Other", "x"), Emit("Warning", "WatchInconclusive", "too few requests"))
    found = report(o, Plan(asked=ONE, wanted=ONE, events=events), Outcome(), NOW).rollout
    assert (found.message, found.since) == ("too few requests", None)
    assert report(o, Plan(asked=ONE, wanted=ONE, events=events[:1]), Outcome(), NOW).rollout.message == ""


def test_what_must_not_be_forgotten_is_on_record():
    promotion = Promotion(revision=ONE.hash, at=timestamp(NOW))
    memory = Memory(serial=7, handled={"retry": "2"}, promotion=promotion)
    status = report(SERVES, Plan(memory=memory), Outcome(), NOW)
    assert (status.serial, status.handled, status.promotion) == (7, {"retry": "2"}, promotion)
    empty = report(SERVES, Plan(), Outcome(), NOW)
    assert (empty.serial, empty.handled, empty.promotion) == (0, {}, None)


def test_when_versions_were_made_is_on_record():
    """With its number it tells one version from another."""
    made = [revision_of(P, ref(v, created)) for v, created in (("1", 11), ("2", 22))]
    one, two = made
    views = tuple(
        DeploymentView(r.deployment, r.hash, r.version, 1, activated_at=1.0, config=runtime_config(P, r)) for r in made
    )
    ready = tuple(PodView(r.deployment, r.hash, ready=True) for r in made)
    o = replace(SERVES, deployments=views, pods=ready, active=one.hash)
    status = report(o, replace(at("Prepare"), candidate=two), Outcome(), NOW)
    assert (status.active.created_at, status.candidate.created_at, status.previous.created_at) == (11, 22, 22)
    assert (status.active.source, status.candidate.source, status.previous.source) == (
        source("1", 11), source("2", 22), source("2", 22))  # fmt: skip
    assert (status.history[-1].created_at, status.history[-1].source) == (11, source("1", 11))


def test_what_served_stays_on_record_when_its_deployment_is_gone():
    last = report(SERVES, Plan(), Outcome(), NOW)
    gone = replace(SERVES, deployments=(), pods=(), status=last)
    assert last.active.ready_replicas == 1
    assert report(gone, Plan(), Outcome(), NOW).active == last.active.model_copy(update={"ready_replicas": 0})


def test_the_gates_of_a_change_outlive_it():
    gates = [gate("smoke", "Passed").dump()]
    over = replace(SERVES, status=ProgramStatus.model_validate(rollout("Watch", gates=gates)))
    assert [g.name for g in report(over, Plan(asked=TWO, wanted=TWO), Outcome(), NOW).rollout.gates] == ["smoke"]
    last = Plan(asked=TWO, wanted=TWO, gates=(gate("smoke", "Passed"), gate("score", "Failed")))
    assert [g.name for g in report(over, last, Outcome(), NOW).rollout.gates] == ["smoke", "score"]
    assert [g.name for g in report(SERVES, at("Gate", gate("score", "Running")), Outcome(), NOW).rollout.gates] == [
        "score"
    ]


def test_a_long_reason_of_a_strategy_is_cut():
    plan = replace(at("Gate"), strategy=Strategy("BlueGreen", "x" * 2000))
    assert report(SERVES, plan, Outcome(), NOW).rollout.strategy_reason == "x" * 1023 + "…"


# History


def lived(version: str, outcome: str = "Serving", revision: str | None = None) -> dict[str, str]:
    at = timestamp(NOW - 100)
    return {
        "revision": revision or hash_of(P, version),
        "version": version,
        "activatedAt": at,
        "trigger": "Alias",
        "outcome": outcome,
    }


def told_back(version: str, reason: str) -> dict[str, Any]:
    return {"model": {"quarantined": [{"version": version, "reason": reason, "at": timestamp(NOW)}]}}


HISTORIES: dict[str, tuple[Any, str, dict, list[tuple[str, str, str]]]] = {
    # sentence: program, version that callers reach, status before; version, trigger and outcome of each entry
    "the first version": (P, "1", {}, [("1", "Alias", "Serving")]),
    "the first version of a manifest that names it": (NUMBERED, "2", {}, [("2", "Spec", "Serving")]),
    "nothing new": (P, "1", {"history": [lived("1")]}, [("1", "Alias", "Serving")]),
    "another version": (P, "2", {"history": [lived("1")]}, [("1", "Alias", "Superseded"), ("2", "Alias", "Serving")]),
    "what came before the last is left as it is": (
        P, "3", {"history": [lived("1", "RolledBack"), lived("2")]},
        [("1", "Alias", "RolledBack"), ("2", "Alias", "Superseded"), ("3", "Alias", "Serving")]),
    "an edit of the spec": (P, "1", {"history": [lived("1", revision="0")]}, [("1", "Alias", "Superseded"), ("1", "Spec", "Serving")]),
    "a version is taken back": (
        P, "1", {"history": [lived("2")], **told_back("2", "WatchFailed")}, [("2", "Alias", "RolledBack"), ("1", "Rollback", "Serving")]),
    "a version is taken back by the breaker": (
        P, "1", {"history": [lived("2")], **told_back("2", "BreakerOpen")}, [("2", "Alias", "RolledBack"), ("1", "Rollback", "Serving")]),
    "another version was taken back": (
        P, "2", {"history": [lived("1")], **told_back("3", "WatchFailed")}, [("1", "Alias", "Superseded"), ("2", "Alias", "Serving")]),
    "a version that failed otherwise was not taken back": (
        P, "1", {"history": [lived("2")], **told_back("2", "SmokeFailed")}, [("2", "Alias", "Superseded"), ("1", "Alias", "Serving")]),
    "a manifest that is pinned": (PINNED, "2", {"history": [lived("3")]}, [("3", "Alias", "Superseded"), ("2", "Rollback", "Serving")]),
}  # fmt: skip


@pytest.mark.parametrize("sentence", HISTORIES)
def test_histories(sentence):
    program, version, before, wanted = HISTORIES[sentence]
    o = observed(program, version, status=ProgramStatus.model_validate(before), **serving(program, version))
    found = report(o, Plan(), Outcome(), NOW).history
    assert [(e.version, e.trigger, e.outcome) for e in found] == wanted
    assert found[-1].revision == hash_of(program, version)
    assert found[-1].activated_at == timestamp(NOW - 100 if len(wanted) == len(before.get("history", ())) else NOW)


def test_history_is_of_what_is_there_and_keeps_the_last_ten():
    many = {"history": [lived(str(n), revision=str(n)) for n in range(10)]}
    o = replace(SERVES, status=ProgramStatus.model_validate(many))
    found = report(o, Plan(), Outcome(), NOW).history
    assert [e.revision for e in found] == [*map(str, range(1, 10)), ONE.hash]
    gone = replace(o, deployments=())
    assert report(gone, Plan(), Outcome(), NOW).history == o.status.history


# Tools


def a_tool_status(status: str | None, message: str = "") -> ToolStatus:
    condition = {"type": "Available", "status": status, "reason": "R", "message": message, "lastTransitionTime": "t"}
    other = condition | {"type": "Ready", "status": "True", "message": "not this one"}
    return ToolStatus.model_validate({"conditions": [other, condition] if status else []})


TOOLS: dict[str, tuple[ToolView | None, tuple[str, str] | None]] = {
    "a tool that can be called": (ToolView("ns/search", status=a_tool_status("True", "x")), ("Available", "")),
    "a tool that cannot": (ToolView("ns/search", status=a_tool_status("False", "no backend")), ("Unavailable", "no backend")),
    "a tool of which nothing is known": (ToolView("ns/search", status=a_tool_status("Unknown", "who knows")), ("Unavailable", "who knows")),
    "a tool that is new": (ToolView("ns/search", status=a_tool_status(None)), ("Unavailable", "its backends have not been looked at yet")),
    "a tool that is not for this namespace": (ToolView("ns/search", trouble=("NotAllowed", "ask ns")), ("NotAllowed", "ask ns")),
    "trouble that takes long to tell": (ToolView("ns/search", trouble=("NotFound", "x" * 2000)), ("NotFound", "x" * 1023 + "…")),
    "words that take long to tell": (ToolView("ns/search", status=a_tool_status("False", "x" * 2000)), ("Unavailable", "x" * 1023 + "…")),
    "a tool that an earlier revision used": (ToolView("ns/other", status=a_tool_status("True")), None),
}  # fmt: skip


@pytest.mark.parametrize("sentence", TOOLS)
def test_tools(sentence):
    view, wanted = TOOLS[sentence]
    program = a_program(tools=[{"name": "find", "ref": {"name": "search"}}])
    found = report(observed(program, tools=(view,)), Plan(), Outcome(), NOW).tools
    assert [(t.name, t.state, t.message) for t in found] == ([("find", *wanted)] if wanted else [])
