"""Decisions that must hold whatever people, servers and clocks do: case by case, each a harm that was once done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from despina.api.conditions import Reason
from despina.api.revision import revision_of, runtime_config, source_digest
from despina.api.status import GateStatus, Memory, ProgramStatus, RolloutStatus
from despina.cluster.pods import pod_view
from despina.decide.observed import DeploymentView, JobView, Loading, Observed, PodView, Resolution
from despina.decide.plan import Annotate, Apply, Chain, Clock, Create, Delete, Emit, Outcome, Plan, Scale, Tell
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.desired.config import dump
from despina.desired.evaluation import evaluation_name
from despina.desired.labels import MEMORY, REVISION
from despina.desired.network import build_service
from despina.status.report import report
from despina.wire import EvaluationResult
from tests.support.gen import (
    a_deployment,
    a_program,
    config_of,
    hash_of,
    observed,
    pods,
    ref,
    serving,
    source,
)

NOW = 1_000_000.0
P = a_program()
ONE, TWO = hash_of(P, "1"), hash_of(P, "2")
SMOKE = {"name": "ask", "type": "Smoke", "smoke": {"inputs": {}}}


def pointed_at(plan: Plan) -> list[str]:
    """The revisions that the active Service is written to lead to."""
    services = [a.document for a in plan.steps if isinstance(a, Apply) and a.document["metadata"]["name"] == "qa"]
    return [s["spec"]["selector"][REVISION] for s in services if s["kind"] == "Service"]


def made(plan: Plan, kind: str = "Deployment") -> list[str]:
    return [a.document["metadata"]["name"] for a in plan.steps if isinstance(a, Create) and a.document["kind"] == kind]


def beside(program, green_ready: bool = True, **green: Any) -> dict[str, Any]:
    """Version 1 serves, and 2 has a pod beside it."""
    fields = serving(program, "1")
    fields["deployments"] += (a_deployment(program, "2", **green),)
    fields["pods"] += pods(program, "2", ready=green_ready)
    return fields | {"preview_ready": {hash_of(program, "2"): int(green_ready)}}


def quarantined(version: str, reason: str = "SmokeFailed", **more: Any) -> dict[str, Any]:
    return {"version": version, "reason": reason, "message": "m", "at": timestamp(NOW), **more}


def status(*entries: dict[str, Any], **more: Any) -> ProgramStatus:
    return ProgramStatus.model_validate({"serial": 5, "model": {"quarantined": entries}, **more})


def underway(program, step: str = "Prepare", version: str = "2", **more: Any) -> dict[str, Any]:
    base = {"id": hash_of(program, version), "strategy": "BlueGreen", "step": step, "startedAt": timestamp(NOW - 5000)}
    return base | more


def served(*versions: str, program=P, outcome: str = "Superseded") -> list[dict[str, Any]]:
    return [
        {"revision": hash_of(program, v), "version": v, "activatedAt": timestamp(NOW), "trigger": "Alias",
         "outcome": outcome, "source": source(v)}
        for v in versions
    ]  # fmt: skip


def active(version: str, program=P) -> dict[str, Any]:
    revision = hash_of(program, version)
    return {"revision": revision, "version": version, "deployment": f"qa-{revision}", "source": source(version)}


# Size 0


@pytest.mark.parametrize("size", [{"suspend": True}, {"replicas": 0}])
def test_nothing_is_prepared_gated_or_promoted_while_no_pods_run(size):
    program = a_program(rollout={"gates": [SMOKE]}, **size)
    fields = serving(program, "1") | {
        "pods": (),
        "deployments": (a_deployment(program, "1", replicas=0, activated_at=1.0),),
    }
    plan = decide(observed(program, "2", **fields), NOW)
    assert plan.step == "Suspended"
    assert set(pointed_at(plan)) <= {hash_of(program, "1")}
    assert (made(plan), plan.quarantined) == ([], ())


def test_a_candidates_pods_end_when_the_program_is_suspended():
    program = a_program(suspend=True)
    plan = decide(observed(program, "2", **beside(program)), NOW)
    assert Scale(f"qa-{hash_of(program, '2')}", 0) in plan.steps


def test_on_resume_the_old_version_serves_and_the_new_one_goes_its_way():
    program = a_program(rollout={"gates": [SMOKE]})
    fields = serving(program, "1") | {
        "pods": (),
        "deployments": (a_deployment(program, "1", replicas=0, activated_at=1.0),),
    }
    plan = decide(observed(program, "2", **fields), NOW)
    assert Scale(f"qa-{hash_of(program, '1')}", 1) in plan.steps
    assert plan.step == "Prepare"


def test_an_autoscaled_program_that_somebody_scaled_to_0_is_woken_at_its_last_size():
    program = a_program(autoscaling={"minReplicas": 1, "maxReplicas": 9})
    name = f"qa-{hash_of(program, '1')}"
    for noted, size in ((None, 1), (6, 6), (400, 9)):
        view = a_deployment(program, "1", replicas=0, activated_at=1.0, size=noted)
        hpa = {("HorizontalPodAutoscaler", name): {"spec": {}}}
        plan = decide(observed(program, "1", active="1", deployments=(view,), objects=hpa), NOW)
        assert Scale(name, size) in plan.steps


def test_the_size_that_an_autoscaler_found_is_noted_before_pods_go():
    program = a_program(autoscaling={"minReplicas": 1, "maxReplicas": 9}, rollout={"strategy": "Recreate"})
    for spec, version in (
        (program, "2"),
        (a_program(autoscaling={"minReplicas": 1, "maxReplicas": 9}, suspend=True), "1"),
    ):
        name = f"qa-{hash_of(spec, '1')}"
        plan = decide(observed(spec, version, **serving(spec, "1", count=6)), NOW)
        assert Chain((Annotate(name, {"despina.dev/size": "6"}), Scale(name, 0))) in plan.actions


def test_a_recreate_asks_what_serves_for_its_interface_before_it_ends_it():
    gate = {"name": "callers", "type": "SchemaCompatibility"}
    program = a_program(rollout={"strategy": "Recreate", "gates": [gate]})
    stop = Scale(f"qa-{hash_of(program, '1')}", 0)
    o = observed(program, "2", status=status(), **serving(program, "1"))
    assert stop not in decide(o, NOW).steps
    assert stop in decide(replace(o, interfaces={hash_of(program, "1"): {}}), NOW).steps
    silent = status(rollout=underway(program, strategy="Recreate", since=timestamp(NOW - 30)))
    assert stop in decide(replace(o, status=silent), NOW).steps, "silence is not waited for for long"


FAILURES_SEEN = {
    "none": ({"restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}, 0),
    "once, just now": ({"restartCount": 0, "state": {"terminated": {"exitCode": 1}}}, 1),
    "once, and it waits": ({"restartCount": 0, "state": {"waiting": {}}, "lastState": {"terminated": {}}}, 1),
    "once, and it runs again": ({"restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": {}}}, 1),
    "twice, and it waits": ({"restartCount": 1, "state": {"waiting": {}}, "lastState": {"terminated": {}}}, 2),
}


@pytest.mark.parametrize("sentence", FAILURES_SEEN)
def test_how_often_a_container_has_failed(sentence):
    container, times = FAILURES_SEEN[sentence]
    meta = {"name": "p", "labels": {REVISION: ONE}}
    assert pod_view({"metadata": meta, "status": {"containerStatuses": [container]}}).failures == times


def test_a_recreate_that_waits_for_a_person_leaves_what_serves_alone():
    program = a_program(rollout={"strategy": "Recreate", "blueGreen": {"autoPromotion": "Disabled"}})
    plan = decide(observed(program, "2", status=status(), **serving(program, "1")), NOW)
    assert plan.step == "AwaitPromotion"
    assert not [a for a in plan.steps if isinstance(a, Scale | Create)]
    let_in = a_program({"despina.dev/promote": hash_of(program, "2")}, rollout=program.spec.rollout.dump())
    begun = decide(observed(let_in, "2", status=status(), **serving(let_in, "1")), NOW)
    assert begun.step == "Prepare"
    assert Scale(f"qa-{hash_of(program, '1')}", 0) in begun.steps


# Time


def test_a_prepared_candidate_is_not_given_up_by_the_deadline_for_becoming_ready():
    waiting = status(rollout=underway(P, "AwaitPromotion"))
    plan = decide(observed(P, "2", status=waiting, **beside(P, green_ready=False)), NOW)
    assert (plan.quarantined, plan.step) == ((), "Prepare")
    assert plan.clock.since == NOW, "its time begins anew"


def test_the_deadline_counts_what_was_used_up_and_not_what_was_paused():
    for rollout, is_over in (
        ({"spentSeconds": 300, "since": timestamp(NOW - 299)}, False),
        ({"spentSeconds": 300, "since": timestamp(NOW - 300)}, True),
        ({"spentSeconds": 599}, False),
        ({"since": timestamp(NOW + 9000)}, False),
        ({"since": "yesterday"}, False),
    ):
        found = decide(
            observed(P, "2", status=status(rollout=underway(P, **rollout)), **beside(P, green_ready=False)), NOW
        )
        assert bool(found.quarantined) is is_over, rollout


@pytest.mark.parametrize("fields", [{"rollout": {"state": "Paused"}}, {"suspend": True}])
def test_the_time_to_become_ready_stands_still_while_nothing_may_happen(fields):
    held = a_program(**fields)
    before = status(rollout=underway(held, spentSeconds=100, since=timestamp(NOW - 50)))
    plan = decide(observed(held, "2", status=before, **beside(held, green_ready=False)), NOW)
    assert plan.clock == Clock(150.0, None)


def in_gate(program, **gate: Any) -> ProgramStatus:
    state = {"name": "ask", "type": "Smoke", "result": "Running", "startedAt": timestamp(NOW - 2000)} | gate
    return status(rollout=underway(program, "Gate", gates=[state]))


def test_a_pause_within_a_gate_counts_for_nothing():
    paused = a_program(rollout={"gates": [SMOKE], "state": "Paused"})
    before = in_gate(paused, since=timestamp(NOW - 50))
    held = decide(observed(paused, "2", status=before, **beside(paused)), NOW)
    (gate,) = held.gates
    assert (held.step, gate.result, gate.since, gate.spent_seconds) == ("Paused", "Running", None, 50)
    going_on = a_program(rollout={"gates": [SMOKE]})
    after = decide(observed(going_on, "2", status=in_gate(going_on, spentSeconds=50), **beside(going_on)), NOW)
    assert (after.step, after.quarantined) == ("Gate", ())
    late = decide(observed(going_on, "2", status=in_gate(going_on, spentSeconds=300), **beside(going_on)), NOW)
    assert [q.reason for q in late.quarantined] == ["SmokeFailed"]


EVALUATE = {
    "name": "score",
    "type": "Evaluate",
    "evaluate": {"datasetRef": {"configMap": {"name": "rows", "key": "rows.jsonl"}}, "minScorePercent": 60},
}


@pytest.mark.parametrize("what", ["a blip of readiness", "a pause"])
def test_a_running_evaluation_is_kept_as_long_as_its_candidate_exists(what):
    program = a_program(rollout={"gates": [EVALUATE], "state": "Paused" if what == "a pause" else "Active"})
    (gate,) = program.spec.rollout.gates
    name = evaluation_name(program, gate, hash_of(program, "2"), timestamp(NOW - 5000), False)
    state = GateStatus(name="score", type="Evaluate", result="Running", started_at=timestamp(NOW - 60))
    before = status(rollout=underway(program, "Gate")).model_copy(
        update={"rollout": RolloutStatus.model_validate(underway(program, "Gate") | {"gates": [state]})}
    )
    o = observed(program, "2", status=before, jobs=(JobView(name),), **beside(program, green_ready=what == "a pause"))
    plan = decide(o, NOW)
    assert not [a for a in plan.steps if isinstance(a, Delete) and a.key[0] == "Job"]
    assert plan.gates[0].result == "Running"
    gone = decide(replace(o, model=Resolution("1", o.model.reason)), NOW)
    assert Delete(("Job", name)) in gone.steps, "and not longer"


def test_an_evaluation_that_cannot_be_made_waits_and_fails_no_version():
    """A full quota is nothing that the version did."""
    program = a_program(rollout={"gates": [EVALUATE]})
    o: Observed = observed(program, "2", **beside(program))
    for now in (NOW, NOW + 1000, NOW + 90_000):
        plan = decide(o, now)
        assert not plan.quarantined
        (gate,) = report(o, plan, Outcome(), now).rollout.gates
        assert (gate.result, gate.message, gate.spent_seconds) == ("Running", "the Job is being made", 0)
        o = replace(o, status=report(o, plan, Outcome(), now))


def test_a_longer_time_rescues_an_evaluation_that_runs():
    before, after = (a_program(rollout={"gates": [EVALUATE | {"timeoutSeconds": s}]}) for s in (900, 1800))
    (gate,) = before.spec.rollout.gates
    o = observed(before, "2", **beside(before))
    job = JobView(evaluation_name(before, gate, hash_of(before, "2"), timestamp(NOW), False), progress="290 of 300")
    begun = replace(o, jobs=(job,))
    known = replace(begun, status=report(begun, decide(begun, NOW), Outcome(), NOW))
    assert decide(known, NOW + 1000).quarantined
    plan = decide(replace(known, program=after), NOW + 1000)
    assert (plan.step, plan.gates[0].message, plan.quarantined) == ("Gate", "290 of 300", ())
    assert (made(plan, "Job"), [a for a in plan.steps if isinstance(a, Delete)]) == ([], [])


def test_an_evaluation_that_ends_in_a_pause_is_not_paid_for_again():
    going_on, paused = (a_program(rollout={"gates": [EVALUATE], "state": s}) for s in ("Active", "Paused"))
    (gate,) = going_on.spec.rollout.gates
    o = observed(going_on, "2", **beside(going_on))
    job = JobView(evaluation_name(going_on, gate, hash_of(going_on, "2"), timestamp(NOW), False), ended=True,
                  result=EvaluationResult(score_percent=90, examples=50))  # fmt: skip
    o = replace(o, status=report(o, decide(o, NOW), Outcome(), NOW), program=paused, jobs=(job,))
    o = replace(o, status=report(o, decide(o, NOW + 30), Outcome(), NOW + 30))
    o = replace(o, program=going_on, jobs=())
    plan = decide(o, NOW + 9 * 3600)
    assert (made(plan, "Job"), plan.step, plan.gates[0].result) == ([], "Promote", "Passed")


def test_a_lost_status_does_not_begin_a_running_evaluation_again():
    program = a_program(rollout={"gates": [EVALUATE]})
    (gate,) = program.spec.rollout.gates
    started = timestamp(NOW - 60)
    memory = Memory(serial=9, rollout_id=hash_of(program, "2"), rollout_started_at=started)
    service = build_service(program, "qa", hash_of(program, "1"), memory)
    name = evaluation_name(program, gate, hash_of(program, "2"), started, False)
    o = observed(program, "2", jobs=(JobView(name),), **beside(program))
    plan = decide(replace(o, objects={("Service", "qa"): service}), NOW)
    assert made(plan, "Job") == []
    assert plan.gates[0].result == "Running"


# Ways back


def test_after_a_rollback_an_edit_of_the_spec_takes_effect():
    edited = a_program(resources={"requests": {"cpu": "2"}})
    listed = status(quarantined("2", "WatchFailed"), active=active("1"))
    fields = serving(P, "1")
    o = replace(observed(edited, "2", status=listed, **(fields | {"active": None})), active=ONE)
    plan = decide(o, NOW)
    assert (plan.asked.version, plan.wanted.version, plan.candidate.hash) == ("2", "1", hash_of(edited, "1"))
    assert made(plan) == [f"qa-{hash_of(edited, '1')}"]


def test_an_edit_that_fails_after_a_rollback_is_told():
    edited = a_program(resources={"requests": {"cpu": "2"}})
    bad = quarantined("1", "LoadFailed", revision=hash_of(edited, "1"))
    listed = status(quarantined("2", "WatchFailed"), bad, active=active("1"))
    o = replace(observed(edited, "2", status=listed, **(serving(P, "1") | {"active": None})), active=ONE)
    plan = decide(o, NOW)
    assert plan.candidate is None
    told = {c.type: (c.status, c.reason) for c in report(o, plan, Outcome(), NOW).conditions}
    assert told["Ready"] == ("False", "LoadFailed")
    assert [q.version for q in plan.quarantined] == ["2", "1"], "it is not tried again and again"


def test_a_version_that_served_passes_no_gates_again():
    pinned = a_program(rollout={"gates": [SMOKE], "rollbackTo": 1, "blueGreen": {"autoPromotion": "Disabled"}})
    fields = beside(pinned)
    fields |= {"active": "2", "preview_ready": {hash_of(pinned, "1"): 1}}
    past = status(history=served("1", "2", program=pinned))
    assert decide(observed(pinned, "2", status=past, **fields), NOW).step == "Promote"
    unknown = decide(observed(pinned, "2", status=status(), **beside_new(pinned)), NOW)
    assert unknown.step == "Gate", "one that never served does"
    taken_back = status(history=served("1", program=pinned, outcome="RolledBack"))
    assert decide(observed(pinned, "2", status=taken_back, **fields), NOW).step == "Gate"


def beside_new(program) -> dict[str, Any]:
    """Version 2 serves, and 1 is there for the first time."""
    fields = serving(program, "2")
    fields["deployments"] += (a_deployment(program, "1"),)
    fields["pods"] += pods(program, "1", ready=True)
    return fields | {"preview_ready": {hash_of(program, "1"): 1}}


# What somebody deleted


def test_a_deleted_service_does_not_lead_to_what_was_refused():
    listed = status(quarantined("2"))
    plan = decide(observed(P, "2", status=listed, **(beside(P) | {"active": None})), NOW)
    assert pointed_at(plan) == [ONE]
    alone = {"deployments": (a_deployment(P, "2"),), "pods": pods(P, "2", ready=True)}
    named = status(quarantined("2"), active=active("1"), history=served("1"))
    assert pointed_at(decide(observed(P, "2", status=named, **alone), NOW)) == [ONE], "what served is made again"


def test_a_deleted_service_gets_its_addresses_back():
    known = status(active=active("1"), clusterIPs=["10.96.0.7", "fd00::7"])
    plan = decide(observed(P, "1", status=known, **(serving(P, "1") | {"active": None})), NOW)
    (service,) = [
        a.document
        for a in plan.steps
        if isinstance(a, Apply) and a.document["metadata"]["name"] == "qa" and a.document["kind"] == "Service"
    ]
    assert (service["spec"]["clusterIP"], service["spec"]["clusterIPs"]) == ("10.96.0.7", ["10.96.0.7", "fd00::7"])
    there = observed(P, "1", status=known, **serving(P, "1"))
    assert "10.96.0.7" not in str(decide(there, NOW).steps), "one that is there keeps what it has"
    assert report(there, decide(there, NOW), Outcome(), NOW).cluster_ips == ("10.96.0.7", "fd00::7")


def test_a_selector_that_somebody_changed_to_what_was_refused_is_set_back():
    listed = status(quarantined("2"))
    fields = beside(P, activated_at=1.0) | {"active": "2"}
    plan = decide(observed(P, "2", status=listed, **fields), NOW)
    assert pointed_at(plan) == [ONE]


SELECTED = {
    "somebody leads callers past the gates": ({}, ONE),
    "the operator led them there, and was ended before it could say so": (
        {"promotion": {"revision": TWO, "at": "5"}},
        TWO,
    ),
    "the status knows of it": ({"active": active("2")}, TWO),
    "where they were is in quarantine": ({"entries": [quarantined("1")]}, TWO),
}


@pytest.mark.parametrize("sentence", SELECTED)
def test_a_selector_that_somebody_changed_is_set_back_to_where_callers_were_sent(sentence):
    known, expected = SELECTED[sentence]
    gated = a_program(rollout={"gates": [SMOKE]})
    more = {"active": active("1")} | known
    o = observed(gated, "2", status=status(*more.pop("entries", ()), **more), **(beside(gated) | {"active": "2"}))
    assert (pointed_at(decide(o, NOW)) or [o.active])[0] == expected


@pytest.mark.parametrize("registry", ["2", None])
def test_a_deleted_active_deployment_is_made_again_from_what_served(registry):
    listed = status(quarantined("2"), active=active("1"), history=served("1"))
    plan = decide(observed(P, registry, status=listed, active="1", deployments=(), pods=()), NOW)
    assert made(plan) == [f"qa-{ONE}"]
    assert set(pointed_at(plan)) <= {ONE}


def test_a_release_under_way_is_not_promoted_because_the_active_deployment_was_deleted():
    fields = beside(P)
    program = a_program(rollout={"gates": [SMOKE]})
    fields = beside(program)
    fields["deployments"], fields["pods"] = fields["deployments"][1:], fields["pods"][1:]
    known = status(active=active("1", program), history=served("1", program=program))
    plan = decide(observed(program, "2", status=known, **fields), NOW)
    assert set(pointed_at(plan)) <= {hash_of(program, "1")}
    assert made(plan) == [f"qa-{hash_of(program, '1')}"]


def test_a_revisions_configuration_that_somebody_deleted_is_made_again():
    o = replace(observed(P, "1", **serving(P, "1")), configs={})
    assert made(decide(o, NOW), "ConfigMap") == [f"qa-{ONE}"]


# Identity


def registered(created_at: int | None) -> Observed:
    """Version 1 serves, made at a known time."""
    model = ref("1", created_at)
    revision = revision_of(P, model)
    config = runtime_config(P, revision)
    view = DeploymentView(revision.deployment, revision.hash, "1", replicas=1, activated_at=1.0, config=config)
    o = observed(P, "1", deployments=(view,), pods=(PodView("p", revision.hash, ready=True),))
    return replace(o, active=revision.hash)


ANSWERS = {
    "the same number at another registry": ({"server": "http://other:5000", "created": {"1": 5}}, True),
    "the same number of a model made anew": ({"created": {"1": 77}}, True),
    "the very same version": ({"created": {"1": 5}}, False),
    "a registry that tells no times": ({}, False),
}


@pytest.mark.parametrize("sentence", ANSWERS)
def test_a_version_is_more_than_its_number(sentence):
    answer, is_another = ANSWERS[sentence]
    o = registered(5)
    o = replace(o, model=Resolution("1", o.model.reason, **answer))
    assert (decide(o, NOW).candidate is not None) is is_another


def test_an_entry_about_a_model_that_was_made_anew_is_not_about_this_one():
    o = registered(5)
    entry = quarantined("1", source=source_digest(ref("1", 4)))
    assert (
        decide(replace(o, status=status(entry), model=Resolution("1", o.model.reason, created={"1": 5})), NOW).blocked
        is None
    )


def test_a_silent_registry_or_one_without_times_changes_no_identity():
    o = observed(P, "1", **serving(P, "1"))
    for answer in (Resolution("1", o.model.reason), Resolution(None, "RegistryUnreachable")):
        assert decide(replace(o, model=answer), NOW).candidate is None


# What is remembered


def test_a_version_that_fails_again_stands_once_in_the_list():
    listed = status(quarantined("2"), quarantined("1", revision="00000000"))
    failing = replace(pods(P, "2")[0], failures=9)
    o = observed(P, "2", status=listed, **beside(P, green_ready=False))
    o = replace(o, pods=(o.pods[0], failing))
    for _ in range(30):
        plan = decide(o, NOW)
        o = replace(o, status=report(o, plan, Outcome(), NOW))
    assert [q.version for q in o.status.model.quarantined] == ["2"]


def test_the_copy_with_the_highest_number_counts():
    for serial, is_blocked in ((4, True), (6, False)):
        service = build_service(P, "qa", ONE, Memory(serial=serial))
        o = observed(P, "2", status=status(quarantined("2")), **serving(P, "1"))
        plan = decide(replace(o, objects={("Service", "qa"): service}), NOW)
        assert (plan.blocked is not None) is is_blocked
        damaged = {**service, "metadata": {**service["metadata"], "annotations": {MEMORY: '{"serial": "x"'}}}
        assert decide(replace(o, objects={("Service", "qa"): damaged}), NOW).blocked is not None


def test_a_release_that_was_given_up_for_another_is_not_done():
    before = status(rollout=underway(P), active=active("1"))
    o = observed(P, "1", status=before, **beside(P, green_ready=False))
    assert report(o, decide(o, NOW), Outcome(), NOW).rollout.step == "Abandoned"


def test_callers_come_first_and_events_last():
    listed = status(promotion={"revision": TWO, "at": repr(NOW)})
    plan = decide(observed(P, "2", status=listed, **beside(P)), NOW)
    kinds = [type(a) for a in plan.steps]
    assert kinds.index(Emit) == len(kinds) - kinds.count(Emit)
    assert pointed_at(plan) == [TWO]
    (first, *_) = plan.steps
    assert (first.document["kind"], first.document["metadata"]["name"]) == ("Service", "qa")
    assert not [a for a in plan.steps if isinstance(a, Tell)]


def test_what_callers_reach_stays_on_record_while_its_service_is_gone():
    o: Observed = observed(P, "1", status=status(active=active("1")), **(serving(P, "1") | {"active": None}))
    assert report(o, decide(o, NOW), Outcome(), NOW).active.revision == ONE


# Words of people


def by_hand(program, **words: str):
    """The program with annotations of ours."""
    return program.model_copy(update={"annotations": {f"despina.dev/{word}": value for word, value in words.items()}})


def test_a_pinned_version_needs_no_gate_though_the_spec_was_edited_since():
    by_hand_only = {"strategy": "BlueGreen", "gates": [SMOKE], "blueGreen": {"autoPromotion": "Disabled"}}
    program = a_program(rollout={**by_hand_only, "rollbackTo": 1}, lms=[{"name": "main", "model": "openai/another"}])
    pinned = revision_of(program, ref("1", 7))
    view = replace(a_deployment(program, "1"), name=pinned.deployment, revision=pinned.hash)
    fields = serving(program, "2")
    fields["deployments"] += (view,)
    fields["pods"] += tuple(replace(pod, revision=pinned.hash) for pod in pods(program, "1", ready=True))
    fields |= {"preview_ready": {pinned.hash: 1}}
    before, model = served("1")[0], Resolution("2", Reason.MODEL_FOUND, created={"1": 7})
    for entry, step in (
        ({"source": source("1", 7)}, "Promote"),
        ({"source": source("1", 6)}, "Gate"),  # a model that was made anew since
        ({"source": source("1", 7), "outcome": "RolledBack"}, "Gate"),
    ):
        history = status(history=[before | entry, *served("2", program=program, outcome="Serving")])
        o = replace(observed(program, "2", **fields, status=history), model=model, configs={})
        assert decide(o, NOW).step == step, entry


def test_a_promotion_by_word_is_void_once_its_version_is_refused_or_no_longer_asked_for():
    program = a_program(rollout={"strategy": "BlueGreen", "blueGreen": {"autoPromotion": "Disabled"}})
    said = by_hand(program, promote=hash_of(program, "2"))
    o = observed(said, "2", **beside(program, green_ready=False), status=status())
    first = decide(o, NOW)
    assert (first.step, first.memory.handled) == ("Prepare", {})
    o = replace(o, status=report(o, first, Outcome(), NOW))
    aborted = replace(o, program=by_hand(program, promote=hash_of(program, "2"), abort=hash_of(program, "2")))
    elsewhere = replace(o, model=Resolution("1", o.model.reason))
    for other in (aborted, elsewhere):
        assert decide(other, NOW).memory.handled["promote"] == hash_of(program, "2")


def test_a_word_to_try_again_waits_for_the_spec_to_be_mended():
    program = a_program({"despina.dev/retry": "2"}, placement={"profile": "nowhere"})
    o = observed(program, "2", **serving(program, "1"), status=status(quarantined("2")))
    plan = decide(o, NOW)
    assert (plan.memory.handled, [q.version for q in plan.quarantined]) == ({}, ["2"])
    good = by_hand(a_program(), retry="2")
    o = replace(o, program=good, status=report(o, plan, Outcome(), NOW))
    plan = decide(o, NOW)
    assert (plan.memory.handled, plan.quarantined) == ({"retry": "2"}, ())


def test_a_configuration_is_made_again_as_it_was_and_never_of_a_refused_spec():
    edited = a_program(lms=[{"name": "main", "model": "openai/wrong"}])
    entry = quarantined("1", revision=hash_of(edited, "1"))
    for known, expected in ((config_of(P, "1"), [config_of(P, "1")]), (None, []), (config_of(edited, "1"), [])):
        fields = serving(P, "1", config=known)
        o = observed(edited, "1", **fields, status=status(entry, active=active("1"), history=served("1")))
        found = [a.document["data"]["config.json"] for a in decide(replace(o, configs={}), NOW).steps if is_config(a)]
        assert found == [dump(config) for config in expected]


def is_config(action: Any) -> bool:
    return isinstance(action, Create) and action.document["kind"] == "ConfigMap"


def test_a_watch_that_is_not_over_is_not_said_to_have_judged_nothing():
    program = a_program(rollout={"strategy": "BlueGreen", "postPromotion": {"watchSeconds": 300}})
    fields = serving(program, "2")
    fields["deployments"] += (a_deployment(program, "1", activated_at=1.0, retired_at=NOW),)
    fields["pods"] += pods(program, "1", ready=False)
    noted = {"revision": hash_of(program, "2"), "at": repr(NOW)}
    rollout = underway(program, "Watch")
    o = observed(program, "2", **fields, status=status(promotion=noted, rollout=rollout, history=served("1", "2")))
    assert [e.reason for e in decide(o, NOW + 10).events] == []
    assert [e.reason for e in decide(o, NOW + 301).events] == ["WatchInconclusive"]


def test_what_was_not_started_is_not_called_ready():
    recreate = a_program(rollout={"strategy": "Recreate", "blueGreen": {"autoPromotion": "Disabled"}})
    for o in (observed(recreate, "2", **serving(recreate, "1"), status=status(history=served("1"))), _deaf()):
        plan = decide(o, NOW)
        said = next(c for c in report(o, plan, Outcome(), NOW).conditions if c.type == "UpToDate")
        assert plan.step == "AwaitPromotion"
        assert said.message.startswith("version 2 is started after what serves has ended: set the annotation")


def _deaf() -> Observed:
    """Pods that were made for version 2 serve another one, and take no orders."""
    program = a_program(rollout={"strategy": "BlueGreen", "blueGreen": {"autoPromotion": "Disabled"}})
    loading = Loading(hash_of(program, "1"), "1", config_of(program, "1"), NOW - 9, None)
    view = replace(a_deployment(program, "2"), version="1", config=config_of(program, "2"), loading=loading)
    deaf = tuple(replace(p, refusal="why") for p in pods(program, "2", ready=True))
    return observed(program, "2", active="2", deployments=(view,), pods=deaf)
