"""What the next step is, case by case. The keys are the sentences that the code must make true."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from despina.api.status import ProgramStatus, RevisionStatus
from despina.decide.observed import DeploymentView, Observed, PodView
from despina.decide.plan import Action, Annotate, Apply, Create, Delete, Emit, Outcome, Plan, Scale, Tell
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.desired.labels import PROMOTE, RETRY, REVISION
from despina.status.report import report
from despina.wire import Failure, FailureReason
from tests.support.gen import a_deployment, a_program, hash_of, observed, pods, serving, source

NOW = 1000.0
DENIED = Failure(reason=FailureReason.PICKLE_DENIED, message="no")
FAILURE = Failure(reason=FailureReason.LOAD_FAILED, message="boom")


def short(action: Action) -> str:
    """An action in a few words."""
    match action:
        case Create(document) | Apply(document):
            name = f"{type(action).__name__.lower()} {document['kind']}"
            selector = document["spec"]["selector"].get(REVISION) if document["kind"] == "Service" else None
            return f"{name} {document['metadata']['name']}" + (f" -> {selector}" if selector else "")
        case Scale(deployment, replicas):
            return f"scale {deployment} {replicas}"
        case Annotate(deployment, notes):
            return f"note {deployment} {' '.join(n.rpartition('/')[2] for n in notes)}"
        case Delete((kind, name)):
            return f"delete {kind} {name}"
        case Tell(pod, order, subject):
            return f"tell {pod.name} {order} {subject}".strip()
        case Emit(_, reason, _):
            return f"event {reason}"


def steps(o: Observed, now: float = NOW) -> list[str]:
    """The plan's actions but for those that every first pass has."""
    return [s for s in map(short, decide(o, now).steps) if "ServiceAccount" not in s and "Budget" not in s]


def two(program, blue: str = "1", green: str = "2", **green_fields: Any) -> dict[str, Any]:
    """Blue serves and green has a Deployment beside it."""
    fields = serving(program, blue)
    fields["deployments"] += (a_deployment(program, green, **green_fields),)
    return fields


def with_pods(fields: dict[str, Any], more: tuple[PodView, ...]) -> dict[str, Any]:
    return fields | {"pods": fields["pods"] + more}


P = a_program()
G = hash_of(P, "2")
B = hash_of(P, "1")


def test_a_new_program_gets_all_its_objects_in_order():
    assert [short(a) for a in decide(observed(P), NOW).steps] == [
        "apply ServiceAccount qa",
        f"create ConfigMap qa-{B}",
        f"create Deployment qa-{B}",
        f"apply Service qa-preview -> {B}",
        "apply PodDisruptionBudget qa",
        f"apply Service qa -> {B}",
    ]


def test_replicas_are_never_in_an_applied_document():
    program = a_program(replicas=7)
    for action in decide(observed(program), NOW).steps:
        if isinstance(action, Apply | Create):
            assert "replicas" not in action.document.get("spec", {})
    assert f"scale qa-{hash_of(program, '1')} 7" in steps(observed(program))


CASES: dict[str, tuple[Observed, list[str], list[str]]] = {
    # sentence: (snapshot, steps that must be there, beginnings that must not)
    "a moved alias makes a second Deployment and leaves the Service alone": (
        observed(P, "2", **serving(P, "1")),
        [f"create ConfigMap qa-{G}", f"create Deployment qa-{G}", f"apply Service qa-preview -> {G}"],
        [f"apply Service qa -> {G}"],
    ),
    "pods that are ready but not yet in the preview's endpoints are not switched to": (
        observed(P, "2", **with_pods(two(P), pods(P, "2", ready=True))),
        [],
        [f"apply Service qa -> {G}"],
    ),
    "pods that are ready in the preview's endpoints are switched to in one patch": (
        observed(P, "2", **with_pods(two(P), pods(P, "2", ready=True)), preview_ready={G: 1}),
        [f"apply Service qa -> {G}", f"note qa-{G} activated-at", "event Promoted"],
        ["scale", "delete"],
    ),
    "a version that is still warm needs no preview: going back is one patch": (
        observed(P, "2", **with_pods(two(P, activated_at=1.0, retired_at=5.0), pods(P, "2", ready=True))),
        [f"apply Service qa -> {G}"],
        ["create"],
    ),
    "green starts with as many pods as blue runs now, not with the minimum": (
        (
            lambda p: observed(
                p,
                "2",
                active="1",
                deployments=(a_deployment(p, "1", replicas=4, activated_at=1.0), a_deployment(p, "2")),
                pods=pods(p, "1", 4, ready=True),
            )
        )(a_program(autoscaling={"minReplicas": 2, "maxReplicas": 6})),
        [f"scale qa-{hash_of(a_program(autoscaling={'minReplicas': 2, 'maxReplicas': 6}), '2')} 4"],
        [f"apply Service qa -> {G}"],
    ),
    "a candidate that fails once gets another try": (
        observed(P, "2", **with_pods(two(P), pods(P, "2", failure=FAILURE, failures=1))),
        [],
        ["event LoadFailed", f"apply Service qa -> {G}"],
    ),
    "a candidate that fails twice is quarantined, told in an Event, and not switched to": (
        observed(P, "2", **with_pods(two(P), pods(P, "2", failure=FAILURE, failures=2))),
        ["event LoadFailed", f"note qa-{G} retired-at"],
        [f"apply Service qa -> {G}"],
    ),
    "one that fails in each of two pods has failed twice": (
        observed(P, "2", **with_pods(two(P), pods(P, "2", 2, failure=FAILURE, failures=1))),
        ["event LoadFailed"],
        [f"apply Service qa -> {G}"],
    ),
    "what no second try can change counts at once": (
        observed(P, "2", **with_pods(two(P), pods(P, "2", failure=DENIED, failures=1))),
        ["event PickleDenied"],
        [f"apply Service qa -> {G}"],
    ),
    "after the switch the old version is noted as retired, told so, and kept": (
        observed(
            P,
            "2",
            active="2",
            deployments=(a_deployment(P, "1", activated_at=1.0), a_deployment(P, "2", activated_at=NOW)),
            pods=pods(P, "1", ready=True) + pods(P, "2", ready=True),
        ),
        [f"note qa-{B} retired-at", f"tell qa-{B}-0 Retire"],
        ["scale", "delete"],
    ),
    "a retired version is let go after its delay": (
        observed(
            P,
            "2",
            active="2",
            deployments=(
                a_deployment(P, "1", activated_at=1.0, retired_at=NOW - 301),
                a_deployment(P, "2", activated_at=NOW - 301),
            ),
            pods=pods(P, "1", ready=True) + pods(P, "2", ready=True),
        ),
        [f"scale qa-{B} 0"],
        ["delete"],
    ),
    "two old Deployments are kept for the record, older ones go with their ConfigMaps": (
        observed(
            P,
            "9",
            **{
                **serving(P, "9"),
                "deployments": (
                    a_deployment(P, "9", activated_at=9.0),
                    *(a_deployment(P, str(v), replicas=0, activated_at=1.0, retired_at=float(v)) for v in (2, 3, 4)),
                ),
            },
        ),
        [f"delete Deployment qa-{G}", f"delete ConfigMap qa-{G}"],
        ["scale"],
    ),
    "while the registry is silent, what runs goes on and nothing is made": (
        observed(P, None, **serving(P, "1")),
        [],
        ["create", "scale", f"apply Service qa -> {G}", "delete"],
    ),
    "a suspended program runs no pods": (
        (lambda p: observed(p, "1", **serving(p, "1")))(a_program(suspend=True)),
        [f"scale qa-{B} 0"],
        ["delete"],
    ),
    "somebody's edit of the active Service's selector is undone": (
        observed(
            P,
            "1",
            **{
                **serving(P, "1"),
                "objects": {
                    ("Service", "qa"): {
                        "kind": "Service",
                        "metadata": {"name": "qa"},
                        "spec": {"selector": {REVISION: B, "extra": "label"}},
                    }
                },
            },
        ),
        [f"apply Service qa -> {B}"],
        [],
    ),
}


@pytest.mark.parametrize("sentence", CASES)
def test_next_step(sentence):
    o, wanted, unwanted = CASES[sentence]
    done = steps(o)
    for step in wanted:
        assert step in done, done
    for beginning in unwanted:
        assert not [s for s in done if s.startswith(beginning)], done


def test_recreate_stops_the_old_version_before_it_starts_the_new_one():
    program = a_program(rollout={"strategy": "Recreate"})
    done = steps(observed(program, "2", **serving(program, "1")))
    assert f"scale qa-{hash_of(program, '1')} 0" in done
    assert not [s for s in done if s.startswith("create")]
    stopped = {
        "active": "1",
        "deployments": (a_deployment(program, "1", replicas=0, activated_at=1.0),),
    }
    done = steps(observed(program, "2", **stopped))
    assert f"create Deployment qa-{hash_of(program, '2')}" in done
    assert not [s for s in done if s.startswith("scale qa-" + hash_of(program, "1"))]


def status_with_rollout(program, version: str, started: float) -> ProgramStatus:
    rollout = {
        "id": hash_of(program, version),
        "strategy": "BlueGreen",
        "step": "Prepare",
        "startedAt": timestamp(started),
        "since": timestamp(started),
    }
    return ProgramStatus.model_validate({"rollout": rollout})


def test_a_candidate_that_misses_its_deadline_is_quarantined():
    status = status_with_rollout(P, "2", NOW - 601)
    plan = decide(observed(P, "2", status=status, **with_pods(two(P), pods(P, "2"))), NOW)
    assert [(e.version, e.reason, e.revision) for e in plan.quarantined] == [("2", "ProgressDeadlineExceeded", None)]
    assert plan.candidate is None


def test_a_candidate_that_is_ready_in_the_last_moment_is_promoted():
    status = status_with_rollout(P, "2", NOW - 601)
    fields = with_pods(two(P), pods(P, "2", ready=True))
    assert decide(observed(P, "2", status=status, **fields, preview_ready={G: 1}), NOW).step == "Promote"


def test_the_deadline_is_looked_at_without_any_event():
    status = status_with_rollout(P, "2", NOW - 590)
    plan = decide(observed(P, "2", status=status, **with_pods(two(P), pods(P, "2"))), NOW)
    assert plan.again == pytest.approx(10, abs=1.5)


def quarantine_of(program, version: str, **fields: Any) -> ProgramStatus:
    entry = {"version": version, "reason": "LoadFailed", "message": "m", "at": timestamp(NOW), **fields}
    return ProgramStatus.model_validate({"serial": 1, "model": {"quarantined": [entry]}})


def test_a_quarantined_version_is_not_tried_while_the_alias_stays():
    plan = decide(observed(P, "2", status=quarantine_of(P, "2"), **serving(P, "1")), NOW)
    assert plan.candidate is None
    assert plan.blocked is not None


def test_quarantine_is_lifted_when_the_alias_was_elsewhere():
    plan = decide(observed(P, "1", status=quarantine_of(P, "2"), **serving(P, "1")), NOW)
    assert plan.quarantined == ()


def test_quarantine_is_lifted_once_by_the_retry_annotation():
    program = a_program({RETRY: "2"})
    o = observed(program, "2", status=quarantine_of(program, "2"), **serving(program, "1"))
    lifted = decide(o, NOW)
    assert (lifted.quarantined, lifted.memory.handled) == ((), {"retry": "2"})
    assert lifted.candidate is None, "not before it is on record"
    after = status_of(o, lifted)
    assert decide(replace(o, status=after), NOW).candidate is not None
    failed = after.model_copy(update={"model": quarantine_of(program, "2").model, "serial": after.serial + 1})
    assert decide(replace(o, status=failed), NOW).quarantined != (), "the value that stays does nothing more"


def status_of(o: Observed, plan: Plan) -> ProgramStatus:
    return report(o, plan, Outcome(), NOW)


def test_what_callers_reach_is_never_taken_away_by_a_list_while_nothing_else_stands():
    done = steps(observed(P, "1", status=quarantine_of(P, "1"), **serving(P, "1")))
    assert not [s for s in done if s.startswith(("scale", "delete", "event"))]
    assert f"apply Service qa -> {B}" in done


def test_a_failed_edit_of_the_spec_blocks_the_revision_and_not_the_version():
    edited = a_program(resources={"requests": {"cpu": "2"}})
    fields = serving(P, "1")
    blue = dataclasses.replace(fields["deployments"][0])
    o = observed(
        edited,
        "1",
        active=None,
        deployments=(blue, a_deployment(edited, "1")),
        pods=fields["pods"] + pods(edited, "1", failure=DENIED),
    )
    o = dataclasses.replace(o, active=hash_of(P, "1"))
    (entry,) = decide(o, NOW).quarantined
    assert entry.revision == hash_of(edited, "1")


def test_a_first_version_is_never_given_up():
    o = observed(P, "1", active="1", deployments=(a_deployment(P, "1"),), pods=pods(P, "1", failure=FAILURE))
    assert decide(o, NOW).quarantined == ()


def test_without_auto_promotion_a_ready_version_waits_for_the_annotation():
    manual = {"blueGreen": {"autoPromotion": "Disabled"}}
    known = ProgramStatus(serial=1)
    lost, used = ProgramStatus(), ProgramStatus(serial=1, handled={"promote": G})
    cases = (({}, known, "AwaitPromotion"), ({PROMOTE: G}, known, "Promote"), ({PROMOTE: G}, used, "AwaitPromotion"),
             ({PROMOTE: G}, lost, "AwaitPromotion"), ({PROMOTE: B}, known, "AwaitPromotion"))  # fmt: skip
    for notes, status, step in cases:
        program = a_program(notes, rollout=manual)
        fields = with_pods(two(program), pods(program, "2", ready=True))
        assert hash_of(program, "2") == G  # the rollout's policy is not part of a revision
        assert decide(observed(program, "2", **fields, status=status, preview_ready={G: 1}), NOW).step == step


VAIN = {
    "the version instead of the revision": ("2", "2", [f"The annotation despina.dev/promote names 2, which does not wait: the candidate is {G}"]),
    "nothing waits": ("1", "2", ["The annotation despina.dev/promote names 2, which does not wait: nothing does"]),
    "the candidate": ("2", G, []),
    "what serves": ("1", B, []),
    "nothing": ("2", "", []),
}  # fmt: skip


@pytest.mark.parametrize("sentence", VAIN)
def test_a_word_that_promotes_nothing_is_answered_once(sentence):
    version, named, wanted = VAIN[sentence]
    program = a_program({PROMOTE: named} if named else {}, rollout={"blueGreen": {"autoPromotion": "Disabled"}})
    o = observed(program, version, **with_pods(two(program), pods(program, "2", ready=True)), preview_ready={G: 1})
    o = replace(o, status=ProgramStatus(serial=1))
    first = decide(o, NOW)
    assert [e.message for e in first.events if e.reason == "NothingToPromote"] == wanted
    again = decide(replace(o, status=status_of(o, first)), NOW)
    assert not [e for e in again.events if e.reason == "NothingToPromote"]


def test_a_word_to_promote_waits_until_it_is_known_what_is_asked_for():
    program = a_program({PROMOTE: "2"})
    o = observed(program, None, status=ProgramStatus(serial=1))
    plan = decide(o, NOW)
    assert (plan.events, plan.memory.handled) == ((), {})


def test_a_word_to_promote_what_fails_in_that_very_pass_was_not_wrong():
    program = a_program({PROMOTE: G}, rollout={"strategy": "BlueGreen"})
    fields = with_pods(two(program), pods(program, "2", failure=DENIED))
    plan = decide(observed(program, "2", **fields, status=ProgramStatus(serial=1)), NOW)
    assert [e.reason for e in plan.events] == ["PickleDenied"]


def test_size_goes_through_the_scale_only_while_no_autoscaler_targets_the_deployment():
    program = a_program(autoscaling={"minReplicas": 2, "maxReplicas": 6})
    fields = serving(program, "1", count=1)
    done = steps(observed(program, "1", **fields))
    name = f"qa-{hash_of(program, '1')}"
    assert done.index(f"scale {name} 2") < done.index(f"apply HorizontalPodAutoscaler {name}")
    hpa = next(
        a.document
        for a in decide(observed(program, "1", **fields), NOW).steps
        if isinstance(a, Apply) and a.document["kind"] == "HorizontalPodAutoscaler"
    )
    settled = observed(program, "1", **fields, objects={("HorizontalPodAutoscaler", name): hpa})
    assert not [s for s in steps(settled) if s.startswith("scale") or "Autoscaler" in s]


def test_a_settled_program_needs_nothing():
    live: dict[tuple[str, str], dict[str, Any]] = {}
    fields = serving(P, "1")
    for action in decide(observed(P, "1", **fields), NOW).steps:
        if isinstance(action, Apply):
            live[action.document["kind"], action.document["metadata"]["name"]] = action.document
    plan = decide(observed(P, "1", **{**fields, "objects": live}), NOW)
    assert plan.steps == ()
    assert plan.again is None


def test_a_deleted_active_deployment_is_made_again_and_does_not_promote_a_quarantined_version():
    active = {"revision": B, "version": "1", "deployment": f"qa-{B}", "source": source("1")}
    status = quarantine_of(P, "2").model_copy(update={"active": RevisionStatus.model_validate(active)})
    done = steps(observed(P, "2", status=status, active="1", deployments=(), pods=()))
    assert f"create Deployment qa-{B}" in done
    assert not [s for s in done if G in s]


def test_retired_follows_the_later_of_the_two_notes():
    view = DeploymentView("d", "r", "1", activated_at=5.0, retired_at=4.0)
    assert not view.is_retired
    assert dataclasses.replace(view, retired_at=6.0).is_retired


def test_a_new_value_of_the_annotation_empties_every_ready_pods_cache_once():
    program = a_program(annotations={"despina.dev/invalidate-cache": "2026-11-23"})
    fields = serving(program, "1")
    ready, starting = pods(program, "1", 2, ready=True), pods(program, "2", ready=False)
    fields["pods"] = (ready[0], replace(ready[1], told={"Invalidate": "Invalidate 2026-11-23"}), *starting)
    told = [s for s in steps(observed(program, **fields)) if s.startswith("tell")]
    assert told == [f"tell {ready[0].name} Invalidate 2026-11-23"]
    assert not [s for s in steps(observed(P, **serving(P, "1"))) if "Invalidate" in s]
