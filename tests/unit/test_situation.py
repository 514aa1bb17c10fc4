"""What follows from a snapshot directly: what callers reach and can be sent back to, what is ready, what is let go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import revision_of
from despina.api.status import ProgramStatus
from despina.decide.observed import DeploymentView, Loading, Observed, PodView
from despina.decide.plan import Annotate, Clock, Delete, Scale, Strategy, Tell
from despina.decide.problems import spec_problem
from despina.decide.quarantine import timestamp
from despina.decide.readiness import is_prepared
from despina.decide.retire import is_released, let_go, released, remaining, retention_left
from despina.decide.rollout import asked_revision, situation
from despina.decide.situation import Situation, has_served, previous, recovered, still_there, wanted_size
from despina.desired.toolbox import ToolView
from despina.wire import HeldRevision, PodState
from tests.support.gen import (
    DEFAULTS,
    a_deployment,
    a_program,
    a_tool,
    config_of,
    hash_of,
    observed,
    pods,
    ref,
    serving,
)

NOW = 1_000_000.0
P = a_program()
ONE, TWO, THREE = (revision_of(P, ref(v)) for v in "123")
HOT, BESIDE, INSTEAD = Strategy("HotSwap", "so"), Strategy("BlueGreen", "so"), Strategy("Recreate", "so")


def status(**fields: Any) -> ProgramStatus:
    return ProgramStatus.model_validate(fields)


def entry(version: str, **more: Any) -> dict[str, Any]:
    return {"version": version, "reason": "LoadFailed", "at": timestamp(NOW)} | more


def listed(*versions: str) -> ProgramStatus:
    return status(serial=1, model={"quarantined": [entry(v) for v in versions]})


def at(o: Observed, **changes: Any) -> Situation:
    entries = o.status.model.quarantined
    return replace(situation(o, NOW, asked_revision(o), entries, None), **changes)


def holding(revision: str, *held: str, phase: str = "Ready") -> PodState:
    return PodState(revision=revision, held={name: HeldRevision(phase=phase) for name in held})


def swapped(program: Program = P, ago: float = 9.0, report: PodState | None = None, **view: Any) -> Observed:
    """Version 2 was loaded into the pods of version 1, which keep that in memory."""
    loading = Loading(hash_of(program, "2"), "2", config_of(program, "2"), NOW - ago, config_of(program, "1"))
    fields = {"version": "2", "activated_at": 1.0, "config": config_of(program, "1"), "loading": loading} | view
    said = report or holding(hash_of(program, "2"), hash_of(program, "1"), hash_of(program, "2"))
    ready = tuple(replace(p, report=said) for p in pods(program, "1", 2, ready=True))
    return observed(program, "2", active="1", deployments=(replace(a_deployment(program, "1"), **fields),), pods=ready)


def both(program: Program = P, target: str = "2", **two: Any) -> Observed:
    """Version 1 serves, and 2 stands beside it."""
    fields = serving(program, "1")
    fields["deployments"] += (a_deployment(program, "2", **two),)
    fields["pods"] += pods(program, "2", ready=True)
    return observed(program, target, **fields)


LEFT = {"activated_at": 2.0, "retired_at": 5.0}

# Sizes

AUTO = {"autoscaling": {"minReplicas": 2, "maxReplicas": 4}}
SIZES = {
    "what is asked for": (a_program(replicas=3), a_deployment(P, "1", replicas=7), 3),
    "none while suspended": (a_program(replicas=3, suspend=True), a_deployment(P, "1", replicas=7), 0),
    "none while suspended, whatever the autoscaler would do": (
        a_program(suspend=True, **AUTO),
        a_deployment(P, "1", replicas=3),
        0,
    ),
    "what the autoscaler found": (a_program(**AUTO), a_deployment(P, "1", replicas=3), 3),
    "at least its minimum": (a_program(**AUTO), a_deployment(P, "1", replicas=1), 2),
    "at most its maximum": (a_program(**AUTO), a_deployment(P, "1", replicas=9), 4),
    "what it had found before all was scaled to 0": (a_program(**AUTO), a_deployment(P, "1", replicas=0, size=3), 3),
    "its minimum, where nobody knows": (a_program(**AUTO), a_deployment(P, "1", replicas=0), 2),
    "its minimum, where nothing is": (a_program(**AUTO), None, 2),
}


@pytest.mark.parametrize("sentence", SIZES)
def test_sizes(sentence):
    program, view, wanted = SIZES[sentence]
    assert wanted_size(observed(program), view) == wanted


# What callers reach, or are led to again


def standing(
    *views: tuple[str, float | None, bool], active: str | None = "9", status: ProgramStatus | None = None
) -> Observed:
    """Deployments as version, when callers were sent there, and whether a pod is ready; and what the Service selects."""
    deployments = tuple(a_deployment(P, version, activated_at=when) for version, when, _ in views)
    ready = tuple(pod for version, _, is_ready in views if is_ready for pod in pods(P, version, ready=True))
    o = observed(P, "1", deployments=deployments, pods=ready, status=status or ProgramStatus())
    return replace(o, active=hash_of(P, active) if active else None)


def recorded(version: str) -> dict[str, Any]:
    return {"active": {"revision": hash_of(P, version), "version": version, "deployment": f"qa-{hash_of(P, version)}"}}


RECOVERED = {
    "what it selects is there": (standing(("1", 1.0, False), ("2", 2.0, True), active="1"), "1"),
    "what it selects is gone, and another answers": (standing(("1", 1.0, True)), "1"),
    "what it selects is gone, and nobody answers": (standing(("1", 1.0, False)), "9"),
    "what it selects is gone, and callers were never anywhere": (standing(("1", None, True)), "9"),
    "what it selects is gone, and the only other one is in quarantine": (standing(("1", 1.0, True), status=listed("1")), "9"),
    "of two, the later": (standing(("1", 1.0, True), ("2", 2.0, True)), "2"),
    "of two, the one that the status names": (standing(("1", 1.0, True), ("2", 2.0, True), status=status(**recorded("1"))), "1"),
    "of two, the one that is not in quarantine": (
        standing(("1", 1.0, True), ("2", 2.0, True), status=listed("2").model_copy(update={"active": status(**recorded("2")).active})), "1"),
    "the Service is gone": (standing(("1", 1.0, False), active=None), "1"),
    "the Service is gone, and the only one is in quarantine": (standing(("1", 1.0, True), active=None, status=listed("1")), "1"),
    "nothing was ever there": (standing(active=None), None),
}  # fmt: skip


@pytest.mark.parametrize("sentence", RECOVERED)
def test_what_callers_are_led_to_again(sentence):
    o, wanted = RECOVERED[sentence]
    assert recovered(o).active == (hash_of(P, wanted) if wanted else None)


# What callers can be sent back to


def unready(o: Observed) -> Observed:
    return replace(o, pods=tuple(replace(p, ready=p.revision == o.active) for p in o.pods))


PREVIOUS: dict[str, tuple[Observed, tuple[str, float] | None]] = {
    "other pods that callers left": (both(**LEFT), ("2", 5.0)),
    "other pods that callers left, which nobody has noted yet": (both(activated_at=2.0), ("2", float("inf"))),
    "other pods that callers never reached": (both(), None),
    "other pods that are being stopped": (both(replicas=0, **LEFT), None),
    "other pods that are not ready": (unready(both(**LEFT)), None),
    "what serves is nothing to go back to": (observed(P, **serving(P, "1")), None),
    "the memory of these pods": (swapped(), ("1", NOW - 9)),
    "the memory of these pods, as far as all tell": (swapped(report=holding(TWO.hash, TWO.hash)), None),
    "the memory of these pods, which is being loaded": (swapped(report=holding(TWO.hash, ONE.hash, phase="Preparing")), None),
    "nothing in memory": (swapped(loading=Loading(TWO.hash, "2", config_of(P, "2"), 9.0)), None),
    "in memory, and no pod is ready": (replace(swapped(), pods=()), None),
    "the later of two": (
        replace(swapped(), deployments=(*swapped().deployments, a_deployment(P, "3", activated_at=1.0, retired_at=NOW - 5)),
                pods=swapped().pods + pods(P, "3", ready=True)), ("3", NOW - 5)),
}  # fmt: skip


@pytest.mark.parametrize("sentence", PREVIOUS)
def test_what_callers_can_be_sent_back_to(sentence):
    o, wanted = PREVIOUS[sentence]
    found = previous(o)
    assert (found and (found.revision.version, found.retired_at)) == wanted


def test_callers_are_not_sent_back_to_what_is_in_quarantine():
    entries = listed("2").model.quarantined
    assert previous(both(**LEFT), entries) is None
    assert previous(both(**LEFT), listed("3").model.quarantined) is not None


def test_what_is_in_memory_is_known_with_its_pods_and_its_configuration():
    found = previous(swapped())
    assert (found.revision.hash, found.revision.deployment, found.revision.base) == (ONE.hash, ONE.deployment, ONE.hash)
    assert found.config == config_of(P, "1")
    beside = previous(both(**LEFT))
    assert (beside.revision.deployment, beside.revision.base, beside.config) == (TWO.deployment, TWO.hash, None)


def test_what_still_stands_is_not_what_serves():
    assert still_there(both(), TWO.hash).name == TWO.deployment
    assert still_there(both(), ONE.hash) is None
    assert still_there(both(), "x") is None


def lived(version: str, outcome: str) -> dict[str, str]:
    return {
        "revision": hash_of(P, version),
        "version": version,
        "activatedAt": "t",
        "trigger": "Alias",
        "outcome": outcome,
    }


def history(*entries: dict[str, str]) -> ProgramStatus:
    return status(history=list(entries))


HAS_SERVED = {
    "as history tells": (replace(both(), status=history(lived("2", "Superseded"))), True),
    "but it was taken back": (
        replace(both(**LEFT), status=history(lived("2", "Superseded"), lived("2", "RolledBack"))),
        False,
    ),
    "it was taken back once, and came again": (
        replace(both(), status=history(lived("2", "RolledBack"), lived("2", "Superseded"))),
        True,
    ),
    "another was taken back": (replace(both(**LEFT), status=history(lived("1", "RolledBack"))), True),
    "as its Deployment tells": (both(activated_at=2.0), True),
    "callers never reached its Deployment": (both(), False),
    "nothing tells": (observed(P, **serving(P, "1")), False),
    "nothing is there": (observed(P), False),
}


@pytest.mark.parametrize("sentence", HAS_SERVED)
def test_whether_callers_were_there_before(sentence):
    o, wanted = HAS_SERVED[sentence]
    assert has_served(o, TWO) is wanted


def test_what_the_same_pods_served_before_has_served():
    assert has_served(swapped(), ONE)
    assert not has_served(swapped(), THREE)


# The situation


def test_what_is_on_its_way():
    r = at(both())
    assert r.candidate == TWO
    assert at(both(), strategy=HOT).candidate == TWO.model_copy(update={"base": ONE.hash, "deployment": ONE.deployment})
    assert at(both(), wanted=ONE).candidate is None
    assert at(both(), wanted=None).candidate is None
    assert at(observed(P)).candidate is None, "the first version takes nobody's place"
    held = at(
        replace(swapped(), deployments=(*swapped().deployments, a_deployment(P, "3"))), wanted=THREE, strategy=BESIDE
    )
    assert held.candidate == THREE
    loaded = replace(swapped().deployments[0], revision="x", name="qa-x")
    there = at(replace(both(), deployments=(both().deployments[0], loaded)), wanted=TWO, strategy=BESIDE)
    assert (there.candidate.base, there.candidate.deployment) == ("x", "qa-x"), "it is served by pods made for another"


def test_strategies_by_what_they_do():
    assert [(at(both(), strategy=s).swaps, at(both(), strategy=s).recreates) for s in (HOT, BESIDE, INSTEAD, None)] == [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
    ]


CURRENT: dict[str, tuple[Observed, str | None]] = {
    "what serves": (both(), "1"),
    "what was loaded into what serves": (swapped(), "2"),
    "the first version": (observed(P, "2"), "2"),
    "nothing, where nobody knows the first version": (observed(P, None), None),
    "what served, once more": (replace(both(), deployments=(), status=status(**recorded("1"))), "1"),
    "what is wanted, where what served is in quarantine": (
        replace(
            both(), deployments=(), status=listed("1").model_copy(update={"active": status(**recorded("1")).active})
        ),
        "2",
    ),
    "what is wanted, where nobody knows what served": (replace(both(), deployments=(), configs={}), "2"),
}


@pytest.mark.parametrize("sentence", CURRENT)
def test_what_callers_shall_reach_now(sentence):
    o, wanted = CURRENT[sentence]
    found = at(o).current
    assert (found and found.version) == wanted


def test_callers_leave_what_is_in_quarantine_for_what_stands_ready():
    left = at(replace(both(**LEFT), status=listed("1")))
    assert left.is_left
    assert left.retreat.revision.version == "2"
    assert left.candidate is None
    assert not at(replace(both(), status=listed("1"))).is_left, "there is nothing to go to"
    assert not at(both(**LEFT)).is_left
    assert not at(observed(P)).is_left


def test_time_counts_for_nothing_while_a_person_or_a_size_of_0_holds_a_change_up():
    paused = a_program(rollout={"state": "Paused"})
    programs = (P, paused, a_program(replicas=0), a_program(suspend=True))
    assert [at(observed(p, **serving(p, "1"))).is_held_up for p in programs] == [False, True, True, True]


def test_what_the_status_says_counts_for_the_same_change_alone_and_while_it_is_not_over():
    def earlier(step: str, revision: str) -> str | None:
        rollout = {"id": revision, "strategy": "BlueGreen", "step": step, "startedAt": timestamp(NOW - 7)}
        found = at(replace(both(), status=status(rollout=rollout)))
        return found.earlier and found.earlier.step, NOW - found.started_at

    assert earlier("Gate", TWO.hash) == ("Gate", 7.0)
    assert earlier("Gate", ONE.hash) == (None, 0.0)
    for step in ("Done", "Failed", "RolledBack", "Abandoned"):
        assert earlier(step, TWO.hash) == (None, 0.0)


# Readiness


def prepared(o: Observed, **changes: Any) -> bool:
    r = at(o, **{"strategy": BESIDE, **changes})
    return is_prepared(r, r.candidate)


TWO_ENDPOINTS = {TWO.hash: 2}
TWO_PODS = a_program(replicas=2)
PREPARED: dict[str, tuple[bool, bool]] = {
    "pods that the network knows": (prepared(replace(both(), preview_ready={TWO.hash: 1})), True),
    "pods that the network does not know": (prepared(both()), False),
    "pods that served before": (prepared(both(activated_at=2.0)), True),
    "pods that are not ready": (prepared(replace(unready(both()), preview_ready={TWO.hash: 1})), False),
    "no Deployment": (prepared(replace(both(), deployments=both().deployments[:1], preview_ready={TWO.hash: 1})), False),
    "too few pods": (prepared(replace(both(TWO_PODS), preview_ready={hash_of(TWO_PODS, "2"): 2})), False),
    "too few that the network knows": (
        prepared(replace(both(TWO_PODS), preview_ready={TWO.hash: 1}, pods=both().pods + pods(P, "2", 2, ready=True)[1:])), False),
    "as many as it takes": (
        prepared(replace(both(TWO_PODS), preview_ready=TWO_ENDPOINTS, pods=both().pods + pods(P, "2", 2, ready=True)[1:])), True),
    "running pods that hold it": (prepared(swapped(), wanted=ONE, strategy=HOT), True),
    "running pods that do not": (prepared(swapped(report=holding(TWO.hash, TWO.hash)), wanted=ONE, strategy=HOT), False),
    "no running pods": (prepared(replace(swapped(), pods=()), wanted=ONE, strategy=HOT), False),
}  # fmt: skip


@pytest.mark.parametrize("sentence", PREPARED)
def test_whether_callers_can_be_sent_there(sentence):
    found, wanted = PREPARED[sentence]
    assert found is wanted


def test_pods_that_were_changed_must_say_so_all_of_them():
    """Version 2 stands beside, loaded into pods that were made for another; `x` is what they say they serve."""

    def answers(*says: str) -> bool:
        loading = Loading(TWO.hash, "2", config_of(P, "2"), 9.0)
        view = DeploymentView("qa-x", "x", "2", 1, activated_at=2.0, loading=loading)
        ready = tuple(PodView(f"x-{n}", "x", ready=True, report=holding(s)) for n, s in enumerate(says))
        base = observed(P, "2", **serving(P, "1"))
        return prepared(replace(base, deployments=(*base.deployments, view), pods=base.pods + ready))

    assert answers(TWO.hash, TWO.hash)
    assert not answers(TWO.hash, "x")


# Problems of the spec


def using(*tools: ToolView, **use: Any) -> Observed:
    uses = [{"name": f"my-{v.key[3:]}", "ref": {"name": v.key[3:]}, **use} for v in tools]
    return observed(a_program(tools=uses), tools=tools)


ONCE = a_tool("once")
GPU = replace(DEFAULTS, profiles={"gpu": PlacementProfile()})
PROBLEMS = {
    "none": (observed(P), None),
    "a pool that is there": (replace(observed(a_program(placement={"profile": "gpu"})), defaults=GPU), None),
    "a pool that is not": (
        replace(observed(a_program(placement={"profile": "moon"})), defaults=GPU),
        ("UnknownProfile", "spec.placement.profile: 'moon' is not one of default, gpu")),
    "a template that is right": (observed(a_program(podTemplate={"spec": {"hostname": "h"}})), None),
    "a template that is not": (
        observed(a_program(podTemplate={"spec": []})), ("InvalidPodTemplate", "spec.podTemplate.spec must be an object")),
    "a tool that is there": (using(ONCE, policy="Required"), None),
    "a tool that is not": (using(a_tool("a", ("NotFound", "make it")), policy="Required"), ("ToolNotFound", "spec.tools[my-a]: make it")),
    "a tool that may not be called": (
        using(a_tool("a", ("NotAllowed", "ask")), policy="Required"), ("ToolNotAllowed", "spec.tools[my-a]: ask")),
    "the second of two": (using(ONCE, a_tool("a", ("NotFound", "make it")), policy="Required"), ("ToolNotFound", "spec.tools[my-a]: make it")),
    "a tool that is not, and is not required": (using(a_tool("a", ("NotFound", "make it")), policy="Optional"), None),
}  # fmt: skip


@pytest.mark.parametrize("sentence", PROBLEMS)
def test_what_is_wrong_with_a_spec(sentence):
    o, wanted = PROBLEMS[sentence]
    assert spec_problem(o) == wanted


# Letting go

DELAYS = a_program(rollout={"blueGreen": {"scaleDownDelaySeconds": 60, "abortScaleDownDelaySeconds": 20}})


def old(program: Program = DELAYS, **view: Any) -> DeploymentView:
    return a_deployment(program, "2", **view)


REMAINING = {
    "callers left it a while ago": (old(activated_at=1.0, retired_at=NOW - 10), 50.0),
    "callers leave it now": (old(activated_at=1.0), 60.0),
    "callers never reached it": (old(retired_at=NOW - 5), 15.0),
    "callers came back and left again": (old(activated_at=NOW - 3, retired_at=NOW - 10), 60.0),
    "its time is over": (old(activated_at=1.0, retired_at=NOW - 61), -1.0),
    "a clock was set back": (old(activated_at=1.0, retired_at=NOW + 500), 60.0),
}


@pytest.mark.parametrize("sentence", REMAINING)
def test_how_long_pods_stay_warm(sentence):
    view, wanted = REMAINING[sentence]
    assert remaining(at(observed(DELAYS, **serving(DELAYS, "1"))), view) == wanted


def test_where_there_is_no_room_nothing_stays_warm():
    for program in (a_program(suspend=True), a_program(rollout={"strategy": "Recreate"})):
        assert remaining(at(observed(program, **serving(program, "1"))), old(program, activated_at=1.0)) == 0


def gone(o: Observed, **changes: Any) -> list[str]:
    """What is let go, in short."""
    words = []
    for action in let_go(at(o, **changes)):
        match action:
            case Annotate(name, notes):
                words.append(f"note {','.join(notes)} {name}")
            case Tell(pod, order):
                words.append(f"{order} {pod.name}")
            case Scale(name, size):
                words.append(f"scale {name} {size}")
            case Delete((kind, name)):
                words.append(f"delete {kind} {name}")
    return words


RETIRED = "despina.dev/retired-at"


def test_what_callers_left_is_retired_kept_warm_and_let_go():
    name = hash_of(DELAYS, "2")
    fresh, hpa = both(DELAYS, "1", activated_at=2.0), ("HorizontalPodAutoscaler", f"qa-{name}")
    assert gone(replace(fresh, objects={hpa: {}})) == [
        f"delete {hpa[0]} {hpa[1]}",
        f"note {RETIRED} qa-{name}",
        f"Retire qa-{name}-0",
    ]
    told = tuple(replace(p, told={"Retire": "Retire "}) for p in fresh.pods)
    assert gone(replace(fresh, pods=told)) == [f"note {RETIRED} qa-{name}"]
    assert gone(both(DELAYS, "1", activated_at=2.0, retired_at=NOW - 59)) == [f"Retire qa-{name}-0"]
    assert gone(both(DELAYS, "1", activated_at=2.0, retired_at=NOW - 60)) == [
        f"Retire qa-{name}-0",
        f"scale qa-{name} 0",
    ]
    assert gone(both(DELAYS, "1", activated_at=2.0, retired_at=NOW - 60, replicas=0)) == [f"Retire qa-{name}-0"]
    assert gone(both(DELAYS, "1", retired_at=NOW - 20)) == [f"scale qa-{name} 0"], "callers never reached it"


def test_a_clock_that_was_set_back_keeps_nothing_from_being_retired():
    o = both(DELAYS, "1", activated_at=NOW + 50)
    (note, *_) = let_go(at(o))
    assert note.annotations == {RETIRED: repr(NOW + 50)}
    (note, *_) = let_go(at(both(DELAYS, "1", activated_at=2.0)))
    assert note.annotations == {RETIRED: repr(NOW)}


def test_only_what_callers_reach_is_scaled_by_load():
    hpas = {("HorizontalPodAutoscaler", name): {} for name in (f"qa-{ONE.hash}", f"qa-{TWO.hash}", "qa-gone")}
    o = replace(both(), objects={**hpas, ("Service", "x"): {}})
    assert gone(o) == [f"delete HorizontalPodAutoscaler qa-{TWO.hash}", "delete HorizontalPodAutoscaler qa-gone"]
    first = replace(observed(P), objects=hpas)
    assert f"delete HorizontalPodAutoscaler qa-{ONE.hash}" not in gone(first), "what will be the active one"


def test_whether_pods_hold_no_more_than_they_should():
    assert is_released(at(swapped()))
    assert not is_released(at(swapped(report=holding(TWO.hash, TWO.hash, THREE.hash))))
    assert is_released(at(replace(swapped(report=holding(TWO.hash, TWO.hash, THREE.hash)), pods=())))


def test_what_is_on_its_way_or_serves_is_not_let_go():
    assert gone(both()) == []
    assert gone(observed(P, **serving(P, "1"))) == []


def test_as_many_old_versions_stay_on_record_as_asked_for():
    keep_one = a_program(rollout={"revisionHistoryLimit": 1})
    fields = serving(keep_one, "1")
    loading = Loading("x", "9", config_of(keep_one, "9"), 1.0)
    views = [a_deployment(keep_one, v, replicas=0, activated_at=1.0, retired_at=float(v)) for v in ("4", "6", "5", "3")]
    views[2] = replace(views[2], loading=loading)
    views[3] = replace(views[3], replicas=1, retired_at=NOW - 1)
    o = observed(keep_one, "1", **fields)
    five, four = hash_of(keep_one, "5"), hash_of(keep_one, "4")
    six = hash_of(keep_one, "6")
    found = [w for w in gone(replace(o, deployments=(*o.deployments, *views))) if w.startswith("delete")]
    assert found == [
        f"delete Deployment qa-{six}",
        f"delete ConfigMap qa-{six}",
        f"delete Deployment qa-{five}",
        f"delete ConfigMap qa-{five}",
        f"delete ConfigMap qa-{five}-generation",
        f"delete Deployment qa-{four}",
        f"delete ConfigMap qa-{four}",
    ]


def test_the_revision_before_is_kept_in_memory_as_long_as_its_pods_would_be():
    def left(o: Observed) -> float | None:
        return retention_left(at(o), o.deployments[0])

    assert left(swapped(DELAYS, ago=10)) == 50.0
    assert left(swapped(DELAYS, ago=60)) is None
    assert left(swapped(DELAYS, ago=-500)) == 60.0, "a clock was set back"
    assert left(swapped(DELAYS, replicas=0)) is None
    assert left(swapped(DELAYS, loading=None)) is None
    assert left(swapped(DELAYS, loading=Loading("x", "2", config_of(DELAYS, "2"), NOW))) is None


def freed(o: Observed, **changes: Any) -> list[str]:
    return [f"{a.pod.name.rpartition('-')[2]} {a.order} {a.subject}" for a in released(at(o, **changes))]


def test_pods_free_one_after_the_other_what_nobody_needs():
    many = holding(TWO.hash, ONE.hash, TWO.hash, THREE.hash, "zz")
    spare = sorted([THREE.hash, "zz"])[0]
    assert freed(swapped(report=many)) == [f"0 Release {spare}", f"1 Release {spare}"]
    assert freed(swapped(report=many), wanted=THREE, strategy=HOT) == ["0 Release zz", "1 Release zz"]
    beside = sorted([THREE.hash, "zz"])[0]
    assert freed(swapped(report=many), wanted=THREE, strategy=BESIDE) == [f"0 Release {beside}", f"1 Release {beside}"]
    late = sorted([ONE.hash, THREE.hash, "zz"])[0]
    assert freed(swapped(report=many, ago=9000)) == [f"0 Release {late}", f"1 Release {late}"]
    assert freed(swapped(report=many.model_copy(update={"revision": ONE.hash}))) == [], (
        "it does not serve what it should yet"
    )
    o = swapped(report=many)
    told = replace(o, pods=(replace(o.pods[0], told={"Release": f"Release {spare}"}), replace(o.pods[1], report=None)))
    assert freed(told) == []


def test_the_time_to_become_ready_is_taken_from_the_status():
    rollout = {
        "id": TWO.hash,
        "strategy": "BlueGreen",
        "step": "Prepare",
        "startedAt": "t",
        "spentSeconds": 5,
        "since": timestamp(NOW - 3),
    }
    assert at(replace(both(), status=status(rollout=rollout))).clock == Clock(5, NOW - 3)
    assert at(both()).clock == Clock()
