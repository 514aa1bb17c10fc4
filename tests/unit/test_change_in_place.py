"""How a version changes and why, what gates say, and what is watched: case by case."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from despina.api.gates import PostPromotion
from despina.api.revision import revision_of, runtime_config, shape_of
from despina.api.status import BreakerStatus, GateStatus, Memory, ProgramStatus, Promotion, RolloutStatus
from despina.decide.observed import JobView, Loading, Trouble
from despina.decide.plan import Annotate, Apply, Create, Delete, Emit, Outcome, Restart, Tell
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.decide.strategy import choose
from despina.decide.watch import judge, p95_millis
from despina.desired.labels import ABORT, RESTART
from despina.status.report import report
from despina.wire import (
    SECONDS_BOUNDS,
    BreakerReport,
    Counts,
    EvaluationResult,
    Failure,
    FailureReason,
    HeldRevision,
    PodState,
    ShadowReport,
    TryReport,
)
from tests.support.gen import DEFAULTS, a_program, config_of, hash_of, observed, pods, ref, serving

NOW = 1_000_000.0
LMS = [{"name": "a", "model": "openai/a"}, {"name": "b", "model": "openai/b"}]
EVALUATE = {"datasetRef": {"configMap": {"name": "rows", "key": "rows.jsonl"}}, "minScorePercent": 60,
            "maxRegressionPercent": 5}  # fmt: skip


def held(**phases: str) -> dict[str, HeldRevision]:
    return {name: HeldRevision(phase=phase) for name, phase in phases.items()}


def running(program, version="1", count=2, report=None, keys=DEFAULTS.order_keys, refusal="", **changes):
    """A version that serves, in pods that were made for the program as it is."""
    fields = serving(program, version, count)
    config = runtime_config(program, revision_of(program, ref(version)), keys)
    (view,) = fields["deployments"]
    fields["deployments"] = (
        replace(view, shape=shape_of(program, ref(version), DEFAULTS.runtime_image), config=config, **changes),
    )
    fields["pods"] = tuple(replace(p, report=report) for p in fields["pods"])
    fields["pods"] = (*fields["pods"][:-1], replace(fields["pods"][-1], refusal=refusal))
    return fields


def chosen(*args) -> tuple[str, str]:
    return astuple(choose(*args))


def choice(program, target: str = "2", version: str = "1", now: float = NOW, **changes):
    return chosen(
        observed(program, target, **running(program, version, **changes)), revision_of(program, ref(target)), now - NOW
    )


def edited(before, after):
    """One program runs and its manifest was edited."""
    return replace(observed(after, "1", **running(before)), active=hash_of(before, "1"))


def test_a_new_version_is_loaded_in_place():
    assert choice(a_program()) == ("HotSwap", "only compiled state, LMs or modules changed")


def test_what_pods_are_made_of_needs_new_pods_and_is_named():
    before = a_program(lms=LMS)
    after = a_program(lms=LMS, resources={"requests": {"cpu": "2"}}, security={"pickle": "Allow"})
    o = edited(before, after)
    assert chosen(o, revision_of(after, ref("1")), 0) == ("BlueGreen", "resources, security changed")


@pytest.mark.parametrize(
    "change",
    [
        {"lm": "b"},
        {"fallbacks": ["b"]},
        {"modules": [{"path": "x", "lm": "b"}]},
        {"warmUp": {"outputs": [{"path": "x", "values": {"score": "1"}}]}},
    ],
)
def test_lms_and_modules_are_changed_in_place(change):
    o = edited(a_program(lms=LMS), a_program(lms=LMS, **change))
    assert chosen(o, revision_of(o.program, ref("1")), 0)[0] == "HotSwap"


def test_an_lm_that_names_a_new_secret_needs_new_pods():
    keyed = [{**LMS[0], "apiKeySecretRef": {"name": "key", "key": "key"}}, LMS[1]]
    o = edited(a_program(lms=LMS), a_program(lms=keyed))
    assert chosen(o, revision_of(o.program, ref("1")), 0) == ("BlueGreen", "Secrets changed")


def test_a_new_operators_image_comes_with_the_next_release():
    o = observed(a_program(), "2", **running(a_program()))
    o = replace(o, defaults=replace(DEFAULTS, runtime_image="despina-runtime:2"))
    assert chosen(o, revision_of(o.program, ref("2")), 0) == ("BlueGreen", "image changed")


def test_other_code_is_what_a_pod_says_and_is_remembered():
    program = a_program()
    target = hash_of(program, "2")
    failure = Failure(reason=FailureReason.CODE_CHANGED, message="changed: qa.py")
    said = PodState(held={target: HeldRevision(phase="Failed", failure=failure)})
    assert choice(program, report=said) == ("BlueGreen", "CodeChanged: changed: qa.py")
    status = RolloutStatus(
        id=target, strategy="BlueGreen", strategy_reason="as before", step="Prepare", started_at=timestamp(NOW)
    )
    o = observed(program, "2", **running(program), status=ProgramStatus(rollout=status))
    assert chosen(o, revision_of(program, ref("2")), 0) == ("BlueGreen", "as before")


def test_pods_that_nobody_hears_get_new_pods_beside_them_after_a_while():
    assert choice(a_program(), now=NOW + 10)[0] == "HotSwap"
    assert choice(a_program(), now=NOW + 30) == ("BlueGreen", "pods do not answer on their admin port")


def test_pods_that_lack_workers_get_new_pods_beside_them_after_a_while():
    short = PodState(workers=1, wanted_workers=2)
    assert choice(a_program(), report=short, now=NOW + 10)[0] == "HotSwap"
    assert choice(a_program(), report=short, now=NOW + 30) == ("BlueGreen", f"qa-{BASE}-0 lacks workers")
    assert choice(a_program(), report=PodState(workers=2, wanted_workers=2), now=NOW + 30)[0] == "HotSwap"


@pytest.mark.parametrize("strategy", ["Auto", "HotSwap"])
def test_pods_that_take_no_orders_get_new_pods_beside_them_at_once(strategy):
    program = a_program(rollout={"strategy": strategy})
    assert choice(program, refusal="why") == ("BlueGreen", f"pods take no orders: qa-{hash_of(program, '1')}-1: why")
    other = f"pods take no orders: qa-{hash_of(program, '1')} was made for another operator's key"
    assert choice(program, keys=("b3RoZXI=",)) == choice(program, keys=()) == ("BlueGreen", other)
    assert choice(program, keys=("b3RoZXI=", *DEFAULTS.order_keys))[0] == "HotSwap", "one key is enough"


P = a_program()
TARGET, BASE = hash_of(P, "2"), hash_of(P, "1")


def test_only_ready_pods_that_callers_reach_are_asked_for_their_refusal():
    fields = running(P)
    others = (*pods(P, "7", ready=True, refusal="why"), *pods(P, "1", refusal="why"))
    o = observed(P, "2", **{**fields, "pods": (*fields["pods"], *others)})
    assert chosen(o, revision_of(P, ref("2")), 0.0)[0] == "HotSwap"


@pytest.mark.parametrize("strategy", ["Auto", "HotSwap"])
def test_a_swap_under_way_goes_on_in_new_pods_when_an_order_is_refused_and_stays_there(strategy):
    program = a_program(rollout={"strategy": strategy})
    target, base = hash_of(program, "2"), hash_of(program, "1")
    under_way = RolloutStatus(
        id=target, strategy="HotSwap", strategy_reason="x", step="Prepare", started_at=timestamp(NOW - 590)
    )
    said = PodState(revision=base)
    fields = running(program, report=said, refusal="why")
    found = decide(observed(program, "2", **fields, status=ProgramStatus(rollout=under_way)), NOW)
    assert (found.strategy.name, found.step, found.quarantined) == ("BlueGreen", "Prepare", ())
    assert any(isinstance(a, Create) and a.document["kind"] == "Deployment" for a in found.steps)
    assert "0 Prepare" not in told(found)
    changed = under_way.model_copy(update={"strategy": "BlueGreen", "strategy_reason": found.strategy.reason})
    fields = running(program, report=said)
    later = decide(observed(program, "2", **fields, status=ProgramStatus(rollout=changed)), NOW)
    assert later.strategy == found.strategy, "though pods take orders again"


def test_a_strategy_that_is_asked_for_now_is_not_what_was_asked_for_before():
    program = a_program(rollout={"strategy": "HotSwap"})
    before = RolloutStatus(
        id=hash_of(program, "2"), strategy="BlueGreen", strategy_reason="spec.rollout.strategy", step="Prepare",
        started_at=timestamp(NOW),
    )  # fmt: skip
    o = observed(program, "2", **running(program), status=ProgramStatus(rollout=before))
    assert chosen(o, revision_of(program, ref("2")), 0.0) == ("HotSwap", "spec.rollout.strategy")


def test_without_a_free_device_the_old_pods_go_first():
    program = a_program(placement={"accelerator": {"resource": "nvidia.com/gpu", "count": 1}})
    waiting = Trouble("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    fields = running(program, report=PodState())
    fields["pods"] += tuple(replace(p, trouble=waiting) for p in pods(program, "2"))
    o = observed(program, "2", **fields)
    assert chosen(o, revision_of(program, ref("2")), 100)[0] == "HotSwap"
    assert chosen(o, revision_of(program, ref("2")), 301) == (
        "Recreate",
        "no node has a free nvidia.com/gpu",
    )


def test_asked_for_is_asked_for():
    for strategy in ("HotSwap", "BlueGreen", "Recreate"):
        assert choice(a_program(rollout={"strategy": strategy})) == (strategy, "spec.rollout.strategy")


# One hot swap, step by step


def plan(program, target="2", report=None, now=NOW, status=None, **more):
    base = running(program, report=report) | more
    return decide(observed(program, target, **base, **({"status": status} if status else {})), now)


def told(found) -> list[str]:
    return [f"{a.pod.name.rpartition('-')[2]} {a.order}" for a in found.steps if isinstance(a, Tell)]


def applied(found) -> list[str]:
    return [
        a.document["metadata"]["name"]
        for a in found.steps
        if isinstance(a, Apply) and a.document["kind"] == "ConfigMap"
    ]


def test_every_ready_pod_is_told_to_prepare():
    found = plan(P, report=PodState(revision=BASE))
    assert (found.step, told(found), applied(found)) == ("Prepare", ["0 Prepare", "1 Prepare"], [])
    config = next(a.config for a in found.steps if isinstance(a, Tell))
    assert (config.revision, config.model.version) == (TARGET, "2")
    assert found.listen < 0.5


def test_callers_are_sent_there_when_all_hold_it_and_not_before():
    half = plan(P, report=PodState(revision=BASE, held=held(**{TARGET: "Preparing"})))
    assert (half.step, told(half), applied(half)) == ("Prepare", [], [])
    ready = plan(P, report=PodState(revision=BASE, held=held(**{TARGET: "Ready"})))
    assert (ready.step, told(ready)) == ("Promote", ["0 Commit", "1 Commit"])
    assert applied(ready) == [f"qa-{BASE}-generation"]
    written = next(i for i, a in enumerate(ready.steps) if isinstance(a, Apply) and "generation" in str(a.document))
    ordered = next(i for i, a in enumerate(ready.steps) if isinstance(a, Tell))
    assert written < ordered, "what is decided is written before anybody acts on it"


def test_callers_are_not_sent_there_while_a_worker_is_on_its_way_and_no_version_is_given_up_for_that():
    short = PodState(revision=BASE, held=held(**{TARGET: "Ready"}), workers=1, wanted_workers=2)
    found = plan(P, report=short)
    assert (found.step, told(found), applied(found)) == ("Prepare", [], [])
    program = a_program(rollout={"strategy": "HotSwap"})
    target = revision_of(program, ref("2")).hash
    started = RolloutStatus(
        id=target, strategy="HotSwap", step="Prepare", started_at=timestamp(NOW - 4000), spent_seconds=4000
    )
    short = short.model_copy(update={"held": held(**{target: "Ready"})})
    o = observed(program, "2", **running(program, report=short), status=ProgramStatus(rollout=started))
    assert not decide(o, NOW).quarantined


def test_a_pod_that_cannot_take_it_in_ends_the_swap_for_all():
    failure = Failure(reason=FailureReason.LOAD_FAILED, message="boom")
    said = PodState(revision=BASE, held={TARGET: HeldRevision(phase="Failed", failure=failure)})
    found = plan(P, report=said)
    assert [q.reason for q in found.quarantined] == ["LoadFailed"]
    assert (found.candidate, told(found), applied(found)) == (None, ["0 Release", "1 Release"], [])


def loaded(program, report, ago=100.0):
    """After a swap from 1 to 2."""
    fields = running(program, report=report)
    (view,) = fields["deployments"]
    new, old = (config_of(program, v) for v in ("2", "1"))
    loading = Loading(new.revision, "2", new, NOW - ago, old)
    fields["deployments"] = (replace(view, loading=loading, version="2", activated_at=NOW - 1000),)
    return fields


def test_a_pod_that_came_half_way_is_brought_up():
    late = plan(P, **loaded(P, PodState(revision=BASE, held=held(**{BASE: "Ready"}))))
    assert told(late) == ["0 Prepare", "1 Prepare"]
    both = plan(P, **loaded(P, PodState(revision=BASE, held=held(**{BASE: "Ready", TARGET: "Ready"}))))
    assert told(both) == ["0 Commit", "1 Commit"]


def test_pods_that_came_half_way_and_take_no_orders_are_replaced_once():
    half = PodState(revision=BASE, held=held(**{BASE: "Ready"}), uptime_seconds=500)
    fields = loaded(P, half)
    refusing = tuple(replace(p, refusal="why") for p in fields["pods"])
    found = plan(P, **{**fields, "pods": refusing})
    (restart,) = [a for a in found.steps if isinstance(a, Restart)]
    assert restart.deployment == f"qa-{BASE}"
    assert "why" in next(e.message for e in found.steps if isinstance(e, Emit) and e.reason == "Restarted")
    (view,) = fields["deployments"]
    rolling = {**fields, "deployments": (replace(view, restarts=(NOW - 5,)),), "pods": refusing}
    assert not [a for a in plan(P, **rolling).steps if isinstance(a, Restart)], "they are on their way out"
    there = half.model_copy(update={"revision": TARGET})
    content = tuple(replace(p, report=there) for p in refusing)
    assert not [a for a in plan(P, **{**fields, "pods": content}).steps if isinstance(a, Restart)]


def test_memory_is_freed_after_the_delay_and_going_back_needs_no_loading_until_then():
    said = PodState(revision=TARGET, held=held(**{BASE: "Ready", TARGET: "Ready"}))
    assert told(plan(P, **loaded(P, said))) == []
    back = plan(P, "1", **loaded(P, said))
    assert (back.step, told(back)) == ("Promote", ["0 Commit", "1 Commit"])
    assert told(plan(P, **loaded(P, said, ago=301))) == ["0 Release", "1 Release"]


ERRING = PodState(
    revision=TARGET,
    held=held(**{BASE: "Ready", TARGET: "Ready"}),
    counts={TARGET: Counts(ok=10, program=30), BASE: Counts(ok=1000)},
)


def promoted(program=P, **fields) -> ProgramStatus:
    """The status of a program whose callers were sent to version 2 a while ago."""
    moved = {"revision": hash_of(program, "2"), "at": repr(NOW - 100), "before": {"ok": 1000}}
    return ProgramStatus(serial=3, promotion=Promotion.model_validate(moved | fields))


def test_what_misbehaves_is_taken_back_and_put_on_record_in_one_write():
    found = plan(P, status=promoted(), **loaded(P, ERRING))
    written = next(a.document for a in found.steps if isinstance(a, Apply))
    memory = Memory.parse(written["data"]["memory.json"])
    assert (memory.serial, memory.promotion.returns, memory.quarantined) == (5, True, found.quarantined)
    assert (found.memory.serial, found.memory.quarantined) == (4, found.quarantined)
    assert found.memory.promotion == promoted().promotion, "until callers are there, it is no record of where they are"
    assert [(q.version, q.reason) for q in found.quarantined] == [("2", "WatchFailed")]
    assert "75.0 % of 80 requests failed, 0.0 % before" in found.quarantined[0].message
    assert (told(found), applied(found)) == (["0 Commit", "1 Commit"], [f"qa-{BASE}-generation"])
    assert "RolledBack" in [a.reason for a in found.steps if isinstance(a, Emit)]
    again = plan(
        P,
        status=ProgramStatus(serial=4, model={"quarantined": found.quarantined}),
        **loaded(P, PodState(revision=TARGET)),
    )
    assert "qa-{BASE}-generation" not in applied(again), "with nothing to go back to, callers keep what they have"


WATCHED = {
    "what it had counted before callers came is not held against it": ({"base": {"ok": 0, "program": 60}}, ERRING, False),
    "what it counted since then is": ({"base": {"ok": 20, "program": 0}}, ERRING, True),
    "one that erred as much before, for as long as callers were there, is left": ({"before": {"program": 90, "ok": 10}}, ERRING, False),
    "a return to an earlier version is not watched": ({"returns": True}, ERRING, False),
    "callers who came elsewhere are no reason": ({"revision": "00000000"}, ERRING, False),
    "a note that is damaged watches nothing": ({"at": "yesterday"}, ERRING, False),
    "after its time it is watched no more": ({"at": repr(NOW - 301)}, ERRING, False),
    "a clock that was set back does not end the watch": ({"at": repr(NOW + 500)}, ERRING, True),
}  # fmt: skip


@pytest.mark.parametrize("sentence", WATCHED)
def test_the_watch_compares_what_came_after_the_switch(sentence):
    noted, said, is_taken_back = WATCHED[sentence]
    found = plan(P, status=promoted(**noted), **loaded(P, said))
    assert [q.reason for q in found.quarantined] == (["WatchFailed"] if is_taken_back else [])


TRIPS = {
    "a breaker that opened for the version leads back": ("Open", "2", True),
    "one that the version before had opened does not": ("Open", "1", False),
    "one that is probing again does not": ("HalfOpen", "2", False),
}


@pytest.mark.parametrize("sentence", TRIPS)
def test_a_breaker_that_opens_while_a_version_is_watched(sentence):
    state, of, is_taken_back = TRIPS[sentence]
    program = a_program(breaker={})
    fields = loaded(program, None)
    report = BreakerReport(state=state if of == "2" else "Closed", age_seconds=50.0 if of == "2" else None)
    served = hash_of(program, "2")
    said = PodState(
        revision=served, held=held(**{hash_of(program, "1"): "Ready", served: "Ready"}), breakers=(report,),
        counts={served: Counts(program=25, ok=500)}, uptime_seconds=900,
    )  # fmt: skip
    fields["pods"] = tuple(replace(p, report=said) for p in fields["pods"])
    since = timestamp(NOW - 50)
    breaker = BreakerStatus(
        revision=hash_of(program, of), state=state, class_="Program", reason="25 of 25", since=since
    )
    status = promoted(program, before={"ok": 1000}).model_copy(update={"breaker": breaker})
    found = decide(observed(program, "2", status=status, **fields), NOW)
    assert [q.reason for q in found.quarantined] == (["BreakerOpen"] if is_taken_back else [])


def test_a_watch_that_saw_too_little_says_so():
    quiet = PodState(revision=TARGET, held=held(**{BASE: "Ready", TARGET: "Ready"}), counts={TARGET: Counts(ok=2)})
    watching = {"id": TARGET, "strategy": "HotSwap", "step": "Watch", "startedAt": timestamp(NOW - 400)}
    status = promoted(at=repr(NOW - 301)).model_copy(update={"rollout": RolloutStatus.model_validate(watching)})
    fields = loaded(P, quiet)
    found = plan(P, status=status, **fields)
    assert [e.message for e in found.events] == ["only 4 of 20 requests within 300 s: nothing was judged"]
    after = report(observed(P, "2", status=status, **fields), found, Outcome(), NOW)
    assert (after.rollout.step, after.rollout.message) == ("Done", found.events[0].message)


def test_it_is_not_taken_back_where_only_a_word_is_asked_for():
    program = a_program(rollout={"postPromotion": {"action": "None"}})
    said = {hash_of(program, v): ERRING.counts[hash_of(P, v)] for v in ("1", "2")}
    report = PodState(revision=hash_of(program, "2"), held=held(**dict.fromkeys(said, "Ready")), counts=said)
    found = plan(program, status=promoted(program), **loaded(program, report))
    assert found.quarantined == ()
    assert "75.0 % of 80 requests failed" in found.remark


def test_nothing_happens_while_paused():
    program = a_program(rollout={"state": "Paused"})
    found = plan(program, report=PodState(revision=BASE))
    assert (found.step, told(found), found.quarantined) == ("Paused", [], ())


def test_a_pin_holds_against_the_alias():
    program = a_program(rollout={"rollbackTo": 7})
    assert plan(program, "2").wanted.version == "7"


def test_an_abort_ends_it():
    program = a_program({ABORT: TARGET})
    known = ProgramStatus(serial=1)
    for state in ("Active", "Paused"):
        held_up = a_program({ABORT: TARGET}, rollout={"state": state})
        found = plan(held_up, report=PodState(revision=BASE), status=known)
        assert [q.reason for q in found.quarantined] == ["Aborted"]
        assert found.memory.handled == {"abort": TARGET}
    old = ProgramStatus(serial=1, handled={"abort": TARGET})
    assert plan(program, report=PodState(revision=BASE), status=old).quarantined == ()


def test_a_restart_is_made_once_for_each_value():
    program = a_program({RESTART: "today"})
    known = ProgramStatus(serial=1)
    first = decide(observed(program, "1", status=known, **running(program, "1")), NOW)
    assert restarts(first) == [{"despina.dev/restarted-by": "today"}]
    assert first.memory.handled == {}, "it waits until the Deployment says so"
    (restart,) = [a for a in first.steps if isinstance(a, Restart)]
    assert (restart.memory.serial, restart.memory.handled) == (2, {"restart": "today"}), "then it counts at once"
    done = decide(observed(program, "1", status=known, **running(program, "1", restarted_by="today")), NOW)
    assert (restarts(done), done.memory.handled) == ([], {"restart": "today"})
    later = ProgramStatus(serial=2, handled={"restart": "today"})
    assert restarts(decide(observed(program, "1", status=later, **running(program, "1")), NOW)) == []
    removed = decide(observed(P, "1", status=later, **running(P, "1", restarted_by="today")), NOW)
    assert removed.memory.handled == {}
    notes = [a.annotations for a in removed.steps if isinstance(a, Annotate)]
    assert notes == [{"despina.dev/restarted-by": ""}], "the same value may ask again"


def restarts(found):
    return [a.annotations for a in found.steps if isinstance(a, Restart)]


# Gates

READY = PodState(revision=BASE, held=held(**{TARGET: "Ready", BASE: "Ready"}))


def gated(*gates, report=READY, since=0.0, **more):
    program = a_program(rollout={"gates": list(gates)})
    target, base = hash_of(program, "2"), hash_of(program, "1")
    names = {TARGET: target, BASE: base}
    report = report.model_copy(update={"held": {names.get(k, k): v for k, v in report.held.items()}})
    if report.shadow:
        report = report.model_copy(update={"shadow": report.shadow.model_copy(update={"revision": target})})
    status = None
    if since:
        first = GateStatus(
            name=gates[0]["name"],
            type=gates[0]["type"],
            result="Running",
            started_at=timestamp(NOW - since),
            since=timestamp(NOW - since),
        )
        rollout = RolloutStatus(
            id=target, strategy="HotSwap", step="Gate", gates=(first,), started_at=timestamp(NOW - since)
        )
        status = ProgramStatus(rollout=rollout)
    return plan(program, report=report, status=status, **more)


SMOKE = {"name": "ask", "type": "Smoke", "smoke": {"inputs": {"question": "?"}}}
SCORED = {"name": "score", "type": "Evaluate", "evaluate": EVALUATE}
MIRROR = {"name": "mirror", "type": "Shadow", "shadow": {"minRequests": 10, "maxErrorRatePercent": 10}}


def test_a_smoke_test_is_asked_of_one_pod_and_its_answer_counts():
    found = gated(SMOKE)
    assert (found.step, told(found), found.gates[0].result) == ("Gate", ["0 Try"], "Running")
    subject = next(a.subject for a in found.steps if isinstance(a, Tell))
    for ok, result in ((True, "Passed"), (False, "Failed")):
        after = gated(SMOKE, report=READY.model_copy(update={"tries": {subject: TryReport(ok=ok, message="422 no")}}))
        assert after.gates[0].result == result
        assert (after.step == "Promote") is ok
        assert [q.reason for q in after.quarantined] == ([] if ok else ["SmokeFailed"])


def test_a_gate_that_takes_too_long_has_failed():
    found = gated(SMOKE | {"timeoutSeconds": 60}, since=61)
    assert found.gates[0].message.startswith("no result within 60 s")
    assert found.quarantined[0].reason == "SmokeFailed"


def test_an_evaluation_is_a_job_for_both_versions():
    found = gated(SCORED)
    made = [a.document for a in found.steps if isinstance(a, Create)]
    assert [d["kind"] for d in made] == ["Job"]
    template = made[0]["spec"]["template"]
    assert '"baseline"' in template["spec"]["containers"][0]["env"][-1]["value"]
    assert "despina.dev/program" not in template["metadata"]["labels"]
    name = made[0]["metadata"]["name"]
    results = {
        "score 90.0 %, 80.0 % now, on 50 examples": (EvaluationResult(score_percent=90, baseline_percent=80, examples=50), True),
        "score 70.0 %, 80.0 % now, on 50 examples; at most 5 points less are allowed": (
            EvaluationResult(score_percent=70, baseline_percent=80, examples=50), False),
        "score 59.0 %, 20.0 % now, on 50 examples; at least 60 % is asked for": (
            EvaluationResult(score_percent=59, baseline_percent=20, examples=50), False),
        "the metric raised ValueError: no": (EvaluationResult(error="the metric raised ValueError: no"), False),
    }  # fmt: skip
    for text, (result, ok) in results.items():
        after = gated(SCORED, jobs=(JobView(name, ended=True, result=result),))
        assert (after.gates[0].message, after.gates[0].result) == (text, "Passed" if ok else "Failed")
    lost = gated(SCORED, jobs=(JobView(name, ended=True, trouble="OOMKilled: x"),))
    assert "ended without a result: OOMKilled: x" in lost.gates[0].message
    busy = gated(SCORED, jobs=(JobView(name, progress="candidate: 3 of 50 examples"), JobView("of-another-version")))
    assert [a.key for a in busy.steps if isinstance(a, Delete)] == [("Job", "of-another-version")]
    assert (busy.gates[0].result, busy.gates[0].message) == ("Running", "candidate: 3 of 50 examples")


def test_a_shadow_is_judged_on_enough_requests_and_ended():
    assert told(gated(MIRROR)) == ["0 Shadow", "1 Shadow"]
    cases = {(5, 0): None, (10, 0): True, (10, 2): False}
    for (mirrored, failed), passed in cases.items():
        half = ShadowReport(revision=TARGET, mirrored=mirrored // 2 + mirrored % 2, failed=failed // 2, agreed=1)
        found = gated(MIRROR, report=READY.model_copy(update={"shadow": half}))
        assert found.gates[0].result == {None: "Running", True: "Passed", False: "Failed"}[passed], found.gates
        if passed is not None:
            assert [t for t in told(found) if "Shadow" in t] == ["0 Shadow", "1 Shadow"]


# Watching

GOOD, BAD = Counts(ok=1000), Counts(ok=50, program=50)
SLOW = Counts(ok=100, seconds=tuple(100 if b == 2 else 0 for b in (*SECONDS_BOUNDS, 0)))
FAST = Counts(ok=100, seconds=tuple(100 if b == 0.1 else 0 for b in (*SECONDS_BOUNDS, 0)))
WATCHES = {
    "it does well": ({}, GOOD, GOOD, None),
    "it fails": ({}, BAD, GOOD, "50.0 % of 100 requests failed, 0.0 % before; at most 10 %"),
    "too few to tell": ({}, Counts(program=19), GOOD, None),
    "it failed as much before": ({}, BAD, Counts(ok=1, program=9), None),
    "no LM can be reached": ({}, Counts(ok=10, upstream=90, outage=90), GOOD, None),
    "its outputs do not fit": ({}, Counts(ok=10, upstream=90), GOOD, "90.0 % of 100"),
    "it is slow": ({"maxP95LatencyMillis": 500}, SLOW, FAST, "the 95th percentile is 2000 ms, 100 ms before"),
    "it was slow before": ({"maxP95LatencyMillis": 500}, SLOW, SLOW, None),
    "nobody cares that it is slow": ({}, SLOW, FAST, None),
    "it is dear": (
        {"maxCostIncreasePercent": 20}, Counts(ok=100, cost_usd=2), Counts(ok=100, cost_usd=1), "at most 20 % more"),
    "it is a little dearer": (
        {"maxCostIncreasePercent": 20}, Counts(ok=100, cost_usd=1.1), Counts(ok=100, cost_usd=1), None),
}  # fmt: skip


@pytest.mark.parametrize("case", WATCHES)
def test_watching(case):
    policy, now, then, words = WATCHES[case]
    found = judge(PostPromotion.model_validate(policy), now, then)
    assert (found is None) == (words is None), found
    if words:
        assert words in found


def test_a_percentile_is_a_buckets_bound():
    assert p95_millis([]) is None
    assert p95_millis([0] * 23) is None
    assert p95_millis([95, 5, *[0] * 21]) == 5
    assert p95_millis([90, 10, *[0] * 21]) == 10
