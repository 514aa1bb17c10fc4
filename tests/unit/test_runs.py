"""When an optimisation begins, how it is told, and what its result leads to: tables over the real decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from despina.api.runs import ComparisonStatus, OptimizationRun, OptimizationStatus
from despina.api.status import HistoryEntry, Memory, ProgramStatus, Quarantined
from despina.decide.observed import LabelsView, OptimizationJobView, Vote
from despina.decide.plan import Create, Delete, Emit, MoveAlias, Tag, each
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.desired.optimization import optimization_name
from despina.status.optimization import optimization_healthy, step_in_words
from despina.wire import (
    OPTIMIZATION_ENV,
    Comparison,
    OptimizationConfig,
    OptimizationResult,
    OptimizeRequest,
    OrdersReport,
    PodState,
)  # fmt: skip
from tests.support.gen import a_program, config_of, found, observed, serving, source

NOW = 1_800_000_000.0
POLICY = {
    "budget": {"maxLMCalls": 100, "maxLMCallsPerDay": 300},
    "modules": ["classify"],
    "triggers": [{"name": "failures", "type": "FailureRate", "failureRate": {"minLabels": 10}}],
    "dataset": {"goldenRef": {"configMap": {"name": "golden", "key": "rows.jsonl"}}},
    "promotion": {"minExamples": 4},
}
FAILING = LabelsView(tuple(Vote(NOW - 60 + i, i % 2 == 0) for i in range(20)))
FINE = LabelsView(tuple(Vote(NOW - 60 + i, False) for i in range(20)))
BETTER = OptimizationResult(
    reason="Better", message="better", candidate_version="2", dataset_digest="d" * 64, lm_calls=70, cost_usd=0.5,
    heldout=Comparison(base=0.5, candidate=0.8, interval=(0.1, 0.5), p=0.0001, rows=100),
)  # fmt: skip

GOLDEN = ComparisonStatus.of(BETTER.heldout)


def program(annotations=None, suspend=False, **policy):
    spec = {"feedback": {}, "optimization": POLICY | policy, "suspend": suspend}
    return a_program({f"despina.dev/{k}": v for k, v in (annotations or {}).items()}, **spec)


def a_run(**fields) -> OptimizationRun:
    base = {
        "modules": ("classify",),
        "job": "qa-opt-1", "trigger": "failures", "base_version": "1", "budget_lm_calls": 100, "labels_until": 1,
        "started_at": timestamp(NOW - 5000),
    }  # fmt: skip
    return OptimizationRun(**base | fields)


def as_asked(p, **fields) -> OptimizationRun:
    """A run of the manifest as it is."""
    run = a_run(**fields)
    name = optimization_name(p, config_of(p, "1"), run.modules, run.labels_until, "")
    return run.model_copy(update={"job": name})


def ended(reason="NotBetter", at=NOW - 4000, **fields) -> OptimizationRun:
    return a_run(**{"finished_at": timestamp(at), "reason": reason, "lm_calls": 70} | fields)


def snapshot(p=None, labels=FAILING, run=None, version="1", jobs=(), pods=None, **status):
    p = p or program()
    fields = serving(p, "1")
    fields["deployments"] = tuple(replace(d, config=config_of(p, "1")) for d in fields["deployments"])
    fields["pods"] = pods or fields["pods"]
    known = OptimizationStatus(run=run, **status) if run or status else None
    before = ProgramStatus(optimization=known, serial=1)
    return observed(p, version, status=before, labels=labels, optimizations=tuple(jobs), **fields)


def job(view_of=None, **fields) -> OptimizationJobView:
    run = view_of or a_run()
    return OptimizationJobView(name=run.job, run=run, **fields)


def plan_of(o, now=NOW):
    return decide(o, now)


def made(plan):
    return [a.document for a in each(plan.actions) if isinstance(a, Create) and a.document["kind"] == "Job"]


def said(plan):
    return [(a.reason, a.message) for a in plan.steps if isinstance(a, Emit) and "Optimiz" in a.reason]


def test_failures_begin_a_run():
    plan = plan_of(snapshot())
    (document,) = made(plan)
    env = {e["name"]: e.get("value") for e in document["spec"]["template"]["spec"]["containers"][0]["env"]}
    config = OptimizationConfig.model_validate_json(env[OPTIMIZATION_ENV])
    assert config.modules == ("classify",)
    assert config.budget.max_lm_calls == 100
    assert config.labels.experiment == "ns/qa"
    assert config.labels.until == FAILING.votes[-1].at
    assert config.base.model.version == "1"
    ((reason, message),) = said(plan)
    assert reason == "OptimizationStarted"
    assert "10 of 20 labels are failures" in message
    assert "classify" in message
    assert plan.optimization.phase == "Waiting"  # until the Job is there
    assert plan.optimization.labels.failures == 10


@pytest.mark.parametrize(
    ("o", "why"),
    [
        (snapshot(labels=FINE), ""),
        (snapshot(labels=None), ""),
        (snapshot(program(suspend=True)), "spec.suspend is true"),
        (snapshot(version="2"), "a release is under way"),
        (
            snapshot(program(promotion={"minExamples": 5})),
            "20 labels are there, and 5 held-out rows take 25 at least",
        ),
        (snapshot(program({"optimize": "x"}, promotion={"minExamples": 5})), None),
        (snapshot(run=ended(at=NOW - 600)), ""),  # the cool-down
        (snapshot(run=ended(labels_until=int((NOW + 100) * 1000)), labels=FAILING), ""),  # nothing new was said
        (snapshot(program(budget={"maxLMCalls": 100, "maxLMCallsPerDay": 100})), None),
        (
            snapshot(program(cooldownSeconds=0, budget={"maxLMCalls": 100, "maxLMCallsPerDay": 169}), run=ended()),
            "70 of 169 LM calls of the last 24 hours are spent, and a run may take 100",
        ),
        (snapshot(program(cooldownSeconds=0, budget={"maxLMCalls": 100, "maxLMCallsPerDay": 170}), run=ended()), None),
        (
            snapshot(
                program(cooldownSeconds=0, budget={"maxLMCalls": 100, "maxLMCallsPerDay": 199}),
                run=ended("Lost", lm_calls=None),
            ),
            "100 of 199 LM calls of the last 24 hours are spent, and a run may take 100",
        ),
    ],
)
def test_a_run_begins_when_it_may(o, why):
    plan = plan_of(o)
    if why is None:
        assert len(made(plan)) == 1
    else:
        assert not made(plan)
        assert plan.optimization.message == why


def test_at_the_days_end_the_budget_is_there_again():
    p = program(cooldownSeconds=0, budget={"maxLMCalls": 100, "maxLMCallsPerDay": 169})
    plan = plan_of(snapshot(p, run=ended()))
    assert plan.optimization.phase == "BudgetSpent"
    assert optimization_healthy(snapshot(p), plan).reason == "BudgetSpent"
    assert plan.again == pytest.approx(86400 - 4000)
    assert made(plan_of(snapshot(p, run=ended()), NOW + 86400 - 4000 + 1))


def test_two_decisions_make_one_job():
    """Whoever decides, and however often, on the same labels: the name is the same."""
    one, other = (made(plan_of(o, now))[0] for o, now in ((snapshot(), NOW), (snapshot(), NOW + 3)))
    assert one["metadata"]["name"] == other["metadata"]["name"]
    by_hand = made(plan_of(snapshot(program({"optimize": "x"}))))[0]
    assert by_hand["metadata"]["name"] == one["metadata"]["name"]


def test_by_hand_there_is_no_cool_down_and_it_is_heard_once():
    p = program({"optimize": "monday"})
    plan = plan_of(snapshot(p, run=ended(at=NOW - 60), labels=FINE))
    assert len(made(plan)) == 1
    assert "optimize" not in plan.memory.handled
    run = a_run(asked="monday")
    plan = plan_of(snapshot(p, run=run, jobs=[job(run)]))
    assert not made(plan)
    assert plan.memory.handled["optimize"] == "monday"


def test_who_asks_while_a_run_is_under_way_has_it():
    p = program({"optimize": "monday"})
    plan = plan_of(snapshot(p, jobs=[job(as_asked(p))]))
    assert not made(plan)
    assert plan.memory.handled["optimize"] == "monday"


def test_who_asks_while_a_run_with_other_settings_is_under_way_gets_one_of_his_own_afterwards():
    plan = plan_of(snapshot(program({"optimize": "monday"}, metric="F1"), jobs=[job(as_asked(program()))]))
    assert not made(plan)
    assert "optimize" not in plan.memory.handled


def name_of(o):
    return made(plan_of(o))[0]["metadata"]["name"]


@pytest.mark.parametrize(
    ("reason", "is_made"),
    [("NotBetter", False), ("Better", False), ("Failed", True), ("Lost", True), ("Unjudged", True)],
)
def test_by_hand_what_gave_nothing_is_tried_again_and_what_is_known_is_not(reason, is_made):
    p = program({"optimize": "monday"})
    before = name_of(snapshot(p))
    plan = plan_of(snapshot(p, run=ended(reason, job=before)))
    assert bool(made(plan)) is is_made
    assert all(document["metadata"]["name"] != before for document in made(plan))
    if not is_made:
        assert plan.memory.handled["optimize"] == "monday"
        assert ("NothingToOptimize", "a run with the same base, labels and settings has ended already") in said(plan)


def test_what_was_lost_is_tried_again_by_itself_but_not_for_ever():
    p = program(cooldownSeconds=0, budget={"maxLMCalls": 100, "maxLMCallsPerDay": 10000})
    runs, names = [], []
    for _ in range(5):
        o = snapshot(p, run=runs[0] if runs else None, earlier=tuple(runs[1:]))
        jobs = made(plan_of(o))
        if not jobs:
            break
        names.append(jobs[0]["metadata"]["name"])
        runs.insert(0, ended("Lost", job=names[-1], lm_calls=None))
    assert len(set(names)) == len(names) == 3


@pytest.mark.parametrize("reason", ["Failed", "NotBetter", "TooFewExamples"])
def test_what_gave_an_answer_is_tried_again_only_with_other_labels(reason):
    p = program(cooldownSeconds=0)
    run = ended(reason, labels_until=int(FAILING.votes[-1].at * 1000))
    assert not made(plan_of(snapshot(p, run=run)))
    later = LabelsView((*FAILING.votes, *(Vote(NOW - 1, True) for _ in range(10))))
    assert made(plan_of(snapshot(p, run=run, labels=later)))


def wishing(p, *requests, boot="b1"):
    (pod,) = serving(p, "1")["pods"]
    return (replace(pod, report=PodState(optimize=requests, orders=OrdersReport(boot=boot))),)


def test_a_request_to_a_pod_begins_a_run_of_its_module():
    p = program(requests="Enabled", modules=[])
    pods = wishing(p, OptimizeRequest(number=1, module="answer"))
    (document,) = made(plan_of(snapshot(p, labels=FINE, pods=pods)))
    word = f"{pods[0].name}/b1/1"
    assert word in document["metadata"]["annotations"]["despina.dev/run"]
    run = a_run(asked=word, modules=("answer",))
    plan = plan_of(snapshot(p, run=run, jobs=[job(run)], pods=pods))
    assert plan.optimization.heard == {pods[0].name: "b1/1"}
    after = plan_of(snapshot(p, run=ended(asked=word), labels=FINE, pods=pods, heard=plan.optimization.heard))
    assert not made(after)


@pytest.mark.parametrize("requests", ["Enabled", "Disabled"])
def test_requests_are_heard_where_the_manifest_says_so(requests):
    p = program(requests=requests)
    pods = wishing(p, OptimizeRequest(number=1))
    assert bool(made(plan_of(snapshot(p, labels=FINE, pods=pods)))) is (requests == "Enabled")


def test_a_request_for_another_module_waits_for_its_turn():
    p = program(requests="Enabled", modules=[])
    pods = wishing(p, OptimizeRequest(number=1, module="answer"), OptimizeRequest(number=2, module="search"))
    run = a_run(asked=f"{pods[0].name}/b1/1", modules=("answer",))
    plan = plan_of(snapshot(p, run=run, jobs=[job(run)], labels=FINE, pods=pods))
    assert plan.optimization.heard == {pods[0].name: "b1/1"}
    done = ended(asked=run.asked, modules=("answer",))
    (document,) = made(plan_of(snapshot(p, run=done, labels=FINE, pods=pods, heard=plan.optimization.heard)))
    assert f"{pods[0].name}/b1/2" in document["metadata"]["annotations"]["despina.dev/run"]


def test_a_request_that_waits_is_not_lost_to_a_later_one():
    p = program(requests="Enabled", modules=[])
    pods = wishing(p, OptimizeRequest(number=1, module="search"), OptimizeRequest(number=2, module="answer"))
    run = a_run(modules=("answer",))
    plan = plan_of(snapshot(p, run=run, jobs=[job(run)], labels=FINE, pods=pods))
    assert plan.optimization.heard == {}


def test_a_request_for_a_module_that_the_manifest_does_not_name_is_told_so():
    p = program(requests="Enabled")
    pods = wishing(p, OptimizeRequest(number=1, module="answer"))
    plan = plan_of(snapshot(p, labels=FINE, pods=pods))
    assert not made(plan)
    assert said(plan) == [("NothingToOptimize", "module answer is not among spec.optimization.modules")]
    assert plan.optimization.heard == {pods[0].name: "b1/1"}


@pytest.mark.parametrize(
    ("under_way", "module", "is_heard"),
    [
        ((), "", True),
        ((), "answer", True),
        (("answer",), "answer", True),
        (("answer",), "", False),
        (("a",), "b", False),
    ],
)
def test_a_request_is_one_with_a_run_that_does_the_same(under_way, module, is_heard):
    p = program(requests="Enabled", modules=[])
    pods = wishing(p, OptimizeRequest(number=1, module=module))
    run = as_asked(p, modules=under_way)
    plan = plan_of(snapshot(p, run=run, jobs=[job(run)], labels=FINE, pods=pods))
    assert bool(plan.optimization.heard) is is_heard


def test_a_container_that_began_anew_counts_anew():
    p = program(requests="Enabled", modules=[])
    pods = wishing(p, OptimizeRequest(number=1), boot="b2")
    assert made(plan_of(snapshot(p, labels=FINE, pods=pods, heard={pods[0].name: "b1/7"})))


def test_how_far_it_is_stands_in_the_step():
    o = snapshot(jobs=[job(progress="120/300 72 %")])
    plan = plan_of(o)
    assert step_in_words(None, plan.optimization) == "Optimize 120/300 72 %"
    assert plan.optimization.phase == "Running"
    assert plan.again == 5.0


def test_what_was_found_is_told_once_and_kept():
    o = snapshot(run=a_run(), jobs=[job(ended=True, result=BETTER, finished_at=NOW - 1)])
    plan = plan_of(o)
    run = plan.optimization.run
    assert (run.reason, run.candidate_version, run.lm_calls, run.cost_usd) == ("Better", "2", 70, "0.5000")
    assert (run.heldout.base_percent, run.heldout.candidate_percent, run.heldout.p) == ("50.0", "80.0", "0.0001")
    assert said(plan) == [("OptimizationEnded", "Better, version 2: better")]
    assert plan.optimization.message == (
        "version 2 is better than version 1: to release it, move the alias champion there"
    )
    later = plan_of(snapshot(run=run))  # the Job is gone
    assert later.optimization.run == run
    assert not said(later)


def test_a_run_that_left_no_word_is_lost():
    plan = plan_of(
        snapshot(run=a_run(), jobs=[job(ended=True, trouble="Error: container program ended with code 137")])
    )
    run = plan.optimization.run
    assert run.reason == "Lost"
    assert "137" in run.message
    assert run.lm_calls is None
    assert optimization_healthy(snapshot(), plan).reason == "OptimizationFailed"
    plan = plan_of(snapshot(run=a_run()))
    assert plan.optimization.run.reason == "Lost"
    assert plan.optimization.run.message == "its Job is gone"


def test_what_went_wrong_is_a_condition():
    plan = plan_of(snapshot(run=a_run(), jobs=[job(ended=True, result=OptimizationResult(error="the LM is down"))]))
    found = optimization_healthy(snapshot(), plan)
    assert (found.status, found.reason, found.message) == (False, "OptimizationFailed", "the LM is down")


def test_labels_that_cannot_be_read_are_a_condition():
    o = snapshot(labels=LabelsView(FINE.votes, "MLflow does not answer"))
    assert optimization_healthy(o, plan_of(o)).reason == "LabelsUnreadable"


def deleted(plan):
    return [a.key for a in each(plan.actions) if isinstance(a, Delete)]


@pytest.mark.parametrize(
    ("o", "reason"),
    [
        (snapshot(program(suspend=True), jobs=[job()]), "Cancelled"),
        (snapshot(a_program(feedback={}), jobs=[job()]), "Cancelled"),
        (snapshot(jobs=[job(a_run(base_version="7"))]), "Superseded"),
        (snapshot(jobs=[job()]), None),
        (snapshot(program(metric="F1"), jobs=[job()]), None),  # it goes on as it was begun
        (snapshot(version="2", jobs=[job()]), None),  # until callers are elsewhere
    ],
)
def test_a_run_that_nobody_needs_is_ended(o, reason):
    plan = plan_of(o)
    assert (("Job", "qa-opt-1") in deleted(plan)) is (reason is not None)
    assert plan.optimization.run.reason == reason
    assert not made(plan) or reason


AUTO = {"promotion": {"mode": "Auto", "minExamples": 4}}


def marks(plan):
    return [a for a in each(plan.actions) if isinstance(a, MoveAlias | Tag)]


def better(**fields):
    return ended("Better", **{"candidate_version": "2", "golden": GOLDEN} | fields)


def reached(o, version, at):
    """The same where callers came to a version some time."""
    entry = HistoryEntry(
        revision="r", version=version, activated_at=timestamp(at), trigger="Alias", outcome="Serving",
        source=source(version),
    )  # fmt: skip
    return replace(o, status=o.status.model_copy(update={"history": (*o.status.history, entry)}))


@pytest.mark.parametrize(
    ("o", "is_moved"),
    [
        (snapshot(program(**AUTO), run=better()), True),
        (snapshot(program(), run=better()), False),
        (snapshot(program(**AUTO), run=ended("NotBetter", candidate_version="2")), False),
        (snapshot(program(**AUTO), run=better(base_version="3")), False),
        (
            snapshot(program(**AUTO), run=better(), version="2"),
            True,
        ),  # it is there; whether that was noted, MLflow tells
        (snapshot(program(**AUTO), run=better(), version="5"), False),  # somebody has moved it elsewhere
        (snapshot(program(**AUTO), run=better(golden=None)), False),  # as of a manifest that asked for none
        (
            snapshot(a_program(feedback={}, optimization=POLICY | AUTO, rollout={"state": "Paused"}), run=better()),
            False,
        ),
        (reached(snapshot(program(**AUTO), run=better()), "1", NOW - 9000), True),
        (reached(snapshot(program(**AUTO), run=better()), "1", NOW - 100), False),  # somebody went back to the base
        (reached(reached(snapshot(program(**AUTO), run=better()), "2", NOW - 9000), "1", NOW - 8000), False),
        (reached(snapshot(program(**AUTO), run=better(), version="2"), "1", NOW - 100), True),
    ],
)
def test_the_alias_is_moved_where_the_manifest_lets_it(o, is_moved):
    assert marks(plan_of(o)) == ([MoveAlias("2", "1")] if is_moved else [])


def test_what_somebody_went_back_from_is_not_proposed_again():
    o = snapshot(run=better())
    assert "version 2 is better" in plan_of(o).optimization.message
    assert plan_of(reached(o, "2", NOW - 9000)).optimization.message == ""


def test_failures_of_the_version_before_begin_no_run():
    o = snapshot()
    came = tuple(replace(d, activated_at=NOW - 45) for d in o.deployments)
    assert made(plan_of(o))
    assert not made(plan_of(replace(o, deployments=came)))


def test_labels_of_a_run_that_judged_nothing_count_again():
    run = ended("Unjudged", at=NOW - 40_000, labels_until=int((NOW + 100) * 1000))
    assert made(plan_of(snapshot(run=run, labels=FAILING)))


def test_a_wish_of_a_manifest_that_says_nothing_of_it_is_answered():
    plan = plan_of(snapshot(a_program({"despina.dev/optimize": "x"}, feedback={})))
    ((reason, message),) = said(plan)
    assert (reason, message.split(",")[0]) == ("NothingToOptimize", "the manifest has no spec.optimization")
    assert plan.memory.handled["optimize"] == "x"


def quarantined(reason):
    entry = Quarantined(version="2", reason=reason, message="erred", at=timestamp(NOW), source=source("2"))
    return ProgramStatus(serial=3, model={"quarantined": (entry,)}, optimization=OptimizationStatus(run=better()))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("WatchFailed", [Tag("2", "taken-back", "WatchFailed: erred")]), ("SmokeFailed", []), ("BreakerOpen", None)],
)
def test_a_rollback_is_written_to_the_version(reason, expected):
    """And the alias is not moved there again, whoever has moved it back."""
    for version in ("2", "1"):
        o = replace(snapshot(program(**AUTO)), status=quarantined(reason), model=found(version))
        found_marks = marks(plan_of(o))
        assert not any(isinstance(mark, MoveAlias) for mark in found_marks)
        if version == "2" and expected is not None:
            assert found_marks == expected


def test_a_run_that_could_not_be_ended_is_ended_again_and_none_begins_beside_it():
    gone = ended("Superseded", job="qa-opt-1", base_version="7")
    plan = plan_of(snapshot(run=gone, jobs=[job(gone)]))
    assert deleted(plan) == [("Job", "qa-opt-1")]
    assert not made(plan)


def test_what_pods_say_is_cut_to_the_room_that_a_status_has():
    error = OptimizationResult(error="x" * 3900, candidate_version="9" * 400)
    plan = plan_of(snapshot(run=a_run(), jobs=[job(ended=True, result=error)]))
    assert len(plan.optimization.run.message) == 1024
    assert len(plan.optimization.run.candidate_version) == 253
    plan = plan_of(snapshot(run=a_run(), jobs=[job(trouble="x" * 3000)]))
    assert len(plan.optimization.run.message) == 1024


def test_all_runs_of_the_day_count_as_long_as_their_jobs_are_there():
    p = program({"optimize": "x"}, budget={"maxLMCalls": 100, "maxLMCallsPerDay": 1399})
    runs = [ended(job=f"qa-opt-{n}", lm_calls=65) for n in range(20)]
    jobs = [job(run, ended=True, result=OptimizationResult(reason="NotBetter", lm_calls=65)) for run in runs]
    plan = plan_of(snapshot(p, jobs=jobs))
    assert not made(plan)
    assert plan.optimization.phase == "BudgetSpent"
    assert len(plan.optimization.earlier) == 12


def test_many_pods_may_be_asked():
    p = program(requests="Enabled", modules=[])
    (pod,) = wishing(p, OptimizeRequest(number=1))
    pods = tuple(replace(pod, name=f"pod-{n}") for n in range(1250))
    run = as_asked(p, modules=())
    assert len(plan_of(snapshot(p, run=run, jobs=[job(run)], labels=FINE, pods=pods)).optimization.heard) == 1250


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:00", "odd"])
def test_the_calendars_end_ends_no_pass(at):
    p = program(triggers=[{"name": "nightly", "type": "Schedule", "schedule": "0 3 * * *"}])
    assert plan_of(snapshot(p, run=ended(started_at=at)))


def test_a_run_is_about_its_model_and_no_other_of_the_same_numbers():
    run = better(base_source=source("1"))
    assert marks(plan_of(snapshot(program(**AUTO), run=run))) == [MoveAlias("2", "1")]
    assert not marks(plan_of(snapshot(program(**AUTO), run=better(base_source="another"))))


def test_what_was_taken_back_is_not_proposed_again_when_its_quarantine_is_over():
    o = replace(snapshot(program(**AUTO)), status=quarantined("WatchFailed"), model=found("2"))
    run = plan_of(o).optimization.run
    assert run.is_taken_back
    later = plan_of(snapshot(program(**AUTO), run=run))
    assert not marks(later)
    assert later.optimization.message == ""


def test_nothing_begins_while_the_alias_is_at_what_was_taken_back():
    o = replace(snapshot(), status=quarantined("WatchFailed"), model=found("2"))
    plan = plan_of(replace(o, program=program({"optimize": "x"}), labels=FAILING))
    assert not made(plan)
    assert "move the alias first" in plan.optimization.message


def test_labels_that_were_never_read_are_waited_for():
    p = program({"optimize": "x"})
    plan = plan_of(snapshot(p, labels=LabelsView((), "MLflow does not answer")))
    assert not made(plan)
    assert "optimize" not in plan.memory.handled


def test_what_is_not_to_be_optimised_any_more_is_healthy():
    o = snapshot(a_program(feedback={}), run=ended("Failed", message="the LM is down"))
    assert optimization_healthy(o, plan_of(o)).status


def test_a_job_tells_what_it_was_begun_for_and_not_what_came_of_it():
    forged = better(job="qa-opt-1")
    plan = plan_of(snapshot(program(**AUTO), jobs=[job(forged)]))
    assert plan.optimization.run.finished_at is None
    assert not marks(plan)


def test_the_memory_has_the_word_beside_the_others():
    assert Memory(serial=1, handled={"optimize": "x"}).handled == {"optimize": "x"}
