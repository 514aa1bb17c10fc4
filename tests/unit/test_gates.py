"""What each gate finds, figure by figure and word by word, and how gates follow one another."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from despina.api.revision import digest, revision_of
from despina.api.status import GateStatus, ProgramStatus, RolloutStatus, Score
from despina.decide.gates import (
    Gates,
    abandoned,
    clock_of,
    held_up,
    pass_gates,
    settings_of,
    side_effects,
    standing,
    unmirrored,
    watched_since,
)
from despina.decide.observed import JobView, Observed
from despina.decide.plan import Clock, Create, Delete, Emit, Outcome, Scale, Strategy, Tell
from despina.decide.quarantine import timestamp
from despina.decide.rollout import decide
from despina.desired.toolbox import ToolView
from despina.status.report import report
from despina.wire import (
    SECONDS_BOUNDS,
    EvaluationResult,
    PodState,
    ShadowConfig,
    ShadowReport,
    ToolUse,
    TryReport,
)
from tests.support.gen import a_program, a_tool, hash_of, observed, pods, ref, serving
from tests.support.situations import NOW, P, at, beside

HOT = Strategy("HotSwap", "so")
ONE, TWO = revision_of(P, ref("1")), revision_of(P, ref("2"))


# Gates, one after the other

SMOKE = {"name": "ask", "type": "Smoke", "smoke": {"inputs": {"question": "?"}}, "timeoutSeconds": 60}
AGAIN = SMOKE | {"name": "again"}
SCHEMA = {"name": "schema", "type": "SchemaCompatibility"}
EVALUATE = {
    "datasetRef": {"configMap": {"name": "rows", "key": "r.jsonl"}},
    "minScorePercent": 60,
    "maxRegressionPercent": 5,
}
SCORE = {"name": "score", "type": "Evaluate", "timeoutSeconds": 90, "evaluate": EVALUATE}
MIRROR_AS_SMOKE = {"name": "mirror", "type": "Smoke", "result": "Passed"}
MIRROR = {"name": "mirror", "type": "Shadow", "shadow": {"minRequests": 10, "maxErrorRatePercent": 10, "percent": 7}}


def gated(*gates: dict) -> Any:
    return a_program(rollout={"gates": list(gates)})


def passed_so_far(o: Observed, *states: dict[str, Any]) -> Observed:
    """The same, with what the status says of the gates."""
    base = {"result": "Running", "startedAt": timestamp(NOW - 50)}
    rollout = {"id": hash_of(o.program, "2"), "strategy": "BlueGreen", "step": "Gate", "startedAt": timestamp(NOW - 99)}
    gates = [base | state for state in states]
    return replace(o, status=ProgramStatus.model_validate({"rollout": rollout | {"gates": gates}}))


def found(o: Observed, **changes: Any) -> Gates:
    r = at(o, **changes)
    return pass_gates(r, r.candidate)


def subject_of(o: Observed, name: str = "ask") -> str:
    gates = [g for g in found(o).actions if isinstance(g, Tell)]
    return next(t.subject for t in gates if f":{name}-" in t.subject)


def with_try(o: Observed, ok: bool, message: str = "") -> Observed:
    """The first of the candidate's pods has answered the first gate."""
    answer = {subject_of(o): TryReport(ok=ok, message=message)}
    green = hash_of(o.program, "2")
    first = next(p for p in o.pods if p.revision == green)
    report = first.report.model_copy(update={"tries": answer})
    return replace(o, pods=tuple(replace(p, report=report) if p is first else p for p in o.pods))


def test_without_gates_nothing_is_asked():
    assert found(beside()) == Gates()


def test_a_default_that_a_later_operator_adds_has_no_gate_judged_anew():
    (gate,) = gated({"name": "schema", "type": "SchemaCompatibility", "schemaCompatibility": {}}).spec.rollout.gates
    assert settings_of(gate) == digest({"type": "SchemaCompatibility", "schema_compatibility": {}})


def test_a_gate_begins_with_the_first_look_and_goes_on():
    program = gated(SMOKE)
    (state,) = found(beside(program)).states
    settings = settings_of(program.spec.rollout.gates[0])
    assert state == GateStatus(
        name="ask", type="Smoke", result="Running", message="asked",
        started_at=timestamp(NOW), since=timestamp(NOW), settings=settings,
    )  # fmt: skip
    earlier = {"name": "ask", "type": "Smoke", "since": timestamp(NOW - 30), "spentSeconds": 20}
    (state,) = found(passed_so_far(beside(gated(SMOKE)), earlier)).states
    assert (state.result, state.started_at, state.since, state.spent_seconds) == (
        "Running", timestamp(NOW - 50), timestamp(NOW - 30), 20,
    )  # fmt: skip


def test_a_gate_of_another_rollout_counts_for_nothing():
    o = passed_so_far(beside(gated(SMOKE)), {"name": "ask", "type": "Smoke", "result": "Passed"})
    assert found(o).running is None
    other = replace(o, status=o.status.model_copy(update={"rollout": o.status.rollout.model_copy(update={"id": "x"})}))
    assert found(other).running.started_at == timestamp(NOW)


TIMES = {
    "within its time": ({"since": timestamp(NOW - 59)}, "Running", "asked"),
    "at its end": ({"since": timestamp(NOW - 60)}, "Failed", "no result within 60 s: asked"),
    "with what was used up before": ({"since": timestamp(NOW - 30), "spentSeconds": 30}, "Failed", "no result within 60 s: asked"),
    "what was paused does not count": ({"spentSeconds": 59}, "Running", "asked"),
    "its beginning does not count": ({"startedAt": timestamp(NOW - 9000)}, "Running", "asked"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", TIMES)
def test_the_time_of_a_gate(sentence):
    fields, result, message = TIMES[sentence]
    (state,) = found(passed_so_far(beside(gated(SMOKE)), {"name": "ask", "type": "Smoke", **fields})).states
    assert (state.result, state.message) == (result, message)
    assert (state.finished_at, state.since is None) == ((timestamp(NOW), True) if result == "Failed" else (None, False))


def test_an_answer_counts_though_its_time_is_over():
    late = {"name": "ask", "type": "Smoke", "since": timestamp(NOW - 99)}
    answered = with_try(passed_so_far(beside(gated(SMOKE)), {"name": "ask", "type": "Smoke"}), True)
    (state,) = found(passed_so_far(answered, late)).states
    assert state.result == "Passed"


def test_a_gate_that_is_passed_is_told_of_once():
    waiting = beside(gated(SMOKE))
    waiting = replace(waiting, preview_ready={hash_of(waiting.program, "2"): 2})
    asked = decide(waiting, NOW)
    (subject,) = [a.subject for a in asked.steps if isinstance(a, Tell) and a.order == "Try"]
    said = PodState(revision="x", tries={subject: TryReport(ok=True, message="it said so")})
    status = report(waiting, asked, Outcome(), NOW)
    answered = replace(waiting, pods=tuple(replace(p, report=said) for p in waiting.pods), status=status)
    passed = decide(answered, NOW + 1)
    assert Emit("Normal", "GatePassed", "Gate ask: it said so") in passed.events
    after = replace(answered, status=report(answered, passed, Outcome(), NOW + 1))
    assert "GatePassed" not in [e.reason for e in decide(after, NOW + 2).events]


def test_gates_are_passed_one_after_the_other_and_each_once():
    o = with_try(beside(gated(SMOKE, AGAIN)), True, "it said so")
    both = found(o)
    assert [(s.name, s.result, s.message) for s in both.states] == [
        ("ask", "Passed", "it said so"),
        ("again", "Running", "asked"),
    ]
    assert [s.name for s in both.news] == ["ask"]
    assert (both.running.name, both.failed) == ("again", None)
    assert [t.subject.partition(":")[2][:5] for t in both.actions] == ["again"]
    after = found(
        passed_so_far(
            beside(gated(SMOKE, AGAIN)), {"name": "ask", "type": "Smoke", "result": "Passed", "message": "so"}
        )
    )
    assert [(s.name, s.result, s.message) for s in after.states] == [
        ("ask", "Passed", "so"),
        ("again", "Running", "asked"),
    ]
    assert after.news == ()
    renamed = {"name": "ask", "type": "Shadow", "result": "Passed"}
    assert found(passed_so_far(beside(gated(SMOKE)), renamed)).running.name == "ask", "it was another gate"


EDITS = {
    "other inputs": (SMOKE, {"smoke": {"inputs": {"question": "!"}}}, "Running"),
    "a stricter comparison": (
        SCHEMA | {"schemaCompatibility": {"mode": "Any"}}, {"schemaCompatibility": {"mode": "Backward"}}, "Running"),
    "another score": (SCORE, {"evaluate": EVALUATE | {"minScorePercent": 95}}, "Running"),
    "more requests": (MIRROR, {"shadow": {"minRequests": 99}}, "Running"),
    "another time": (SMOKE, {"timeoutSeconds": 9}, "Passed"),
    "the test of means, in words": (SCORE, {"evaluate": EVALUATE | {"test": "Mean"}}, "Passed"),
    "a test that asks for more": (SCORE, {"evaluate": EVALUATE | {"test": "Paired"}}, "Running"),
    "the default, in words": (SCORE, {"evaluate": EVALUATE | {"maxExamples": 50}}, "Passed"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_passed_gate_that_is_edited_is_judged_again(edit):
    gate, change, result = EDITS[edit]
    before, after = gated(gate), gated(gate | change)
    state = {"name": gate["name"], "type": gate["type"], "result": "Passed"}
    (now,) = after.spec.rollout.gates
    noted = {"settings": settings_of(before.spec.rollout.gates[0]), "spentSeconds": 9, "since": timestamp(NOW - 9)}
    (state_,) = found(passed_so_far(beside(after), state | noted)).states
    assert (state_.result, state_.settings) == (result, settings_of(now))
    if result == "Running":
        since = None if gate["type"] == "Evaluate" else timestamp(NOW)  # its Job is yet to be made
        assert (state_.started_at, state_.spent_seconds, state_.since) == (timestamp(NOW), 0, since)
    old = found(passed_so_far(beside(after), state))
    assert old.states[0].result == "Passed", "an earlier operator noted no settings"


def test_what_is_known_of_later_gates_outlives_an_edit_of_the_first():
    program = gated(AGAIN, SMOKE, SCORE, MIRROR)
    smoke, score = {"name": "ask", "type": "Smoke"}, {"name": "score", "type": "Evaluate"}
    o = passed_so_far(
        beside(program), smoke | {"result": "Passed"}, score | {"since": timestamp(NOW - 9)}, MIRROR_AS_SMOKE
    )
    at_first = found(o)
    assert [(s.name, s.result) for s in at_first.states] == [
        ("again", "Running"), ("ask", "Passed"), ("score", "Running"),
    ]  # fmt: skip
    assert at_first.running.name == "again"
    assert (at_first.states[2].since, at_first.states[2].spent_seconds) == (None, 9)
    job = job_of(passed_so_far(beside(gated(SCORE)), score))["metadata"]["name"]
    assert list(abandoned(at(replace(o, jobs=(JobView(job), JobView("other")))))) == [Delete(("Job", "other"))]


def test_the_first_gate_that_is_not_passed_is_the_last():
    o = with_try(beside(gated(SMOKE, AGAIN)), False, "x" * 1024)
    stopped = found(o)
    assert [(s.name, s.result) for s in stopped.states] == [("ask", "Failed")]
    assert ([s.name for s in stopped.news], stopped.failed.name, stopped.running) == (["ask"], "ask", None)
    assert (stopped.actions, stopped.failed.message) == ((), "x" * 1024)


def test_the_time_of_a_gate_that_nobody_looks_at_stands_still():
    gate = GateStatus(
        name="a", type="Smoke", result="Running", started_at="t", since=timestamp(NOW - 7), spent_seconds=5
    )
    assert clock_of(gate, NOW) == Clock(5, NOW - 7)
    assert held_up(gate, NOW) == gate.model_copy(update={"since": None, "spent_seconds": 12})
    still = gate.model_copy(update={"since": None})
    assert held_up(still, NOW) == still
    assert clock_of(still, NOW) == Clock(5, None)


# Tools that must not be executed twice

ONCE, ALSO, OFTEN = a_tool("once"), a_tool("also"), a_tool("often", idempotency="Idempotent")


def may(gate: dict, tools: str = "Execute") -> dict:
    """The gate, with what it says of them."""
    kind = gate["type"].lower()
    return gate | {kind: gate.get(kind, {}) | {"tools": tools}}


def using(*tools: ToolView, gates: tuple[dict, ...] = (SMOKE,), served_by: tuple[ToolView, ...] = ()) -> Observed:
    """Version 2, which uses these tools, beside version 1, which used others, perhaps."""
    uses = [{"name": f"my-{v.key[3:]}", "ref": {"name": v.key[3:]}} for v in tools]
    o = beside(a_program(tools=uses, rollout={"gates": list(gates)}))
    before = tuple(ToolUse(name="mine", tool=view.key) for view in served_by)
    one, *others = o.deployments
    one = replace(one, config=one.config.model_copy(update={"tools": before}))
    return replace(o, deployments=(one, *others), tools=(*tools, *served_by))


def refused(field: str, tools: str = "ns/once executed, which is") -> str:
    return (
        f"spec.rollout.gates{field}.tools: the gate would have {tools} NonIdempotent;"
        " set it to Execute to have that done, or take the gate out"
    )


ASK_PASSED = {"name": "ask", "type": "Smoke", "result": "Passed"}
PLAIN = SCORE | {"evaluate": {k: v for k, v in EVALUATE.items() if k != "maxRegressionPercent"}}
SIDE_EFFECTS: dict[str, tuple[Observed, str]] = {
    "no tool": (using(), ""),
    "tools that may be executed any time": (using(OFTEN), ""),
    "a tool that may not": (using(ONCE), refused("[ask].smoke")),
    "several of them": (using(ONCE, OFTEN, ALSO), refused("[ask].smoke", "ns/also, ns/once executed, which are")),
    "an evaluation": (using(ONCE, gates=(SCORE,)), refused("[score].evaluate")),
    "mirroring": (using(ONCE, gates=(MIRROR,)), refused("[mirror].shadow")),
    "mirroring without settings": (using(ONCE, gates=({"name": "m", "type": "Shadow"},)), refused("[m].shadow")),
    "a gate that executes nothing": (using(ONCE, gates=(SCHEMA,)), ""),
    "each says that it may": (using(ONCE, gates=(may(SMOKE), may(SCORE), may(MIRROR))), ""),
    "one of them does not": (using(ONCE, gates=(may(SMOKE), SCORE, may(MIRROR))), refused("[score].evaluate")),
    "one of them says no": (using(ONCE, gates=(may(SMOKE, "Refuse"),)), refused("[ask].smoke")),
    "what was passed executes nothing any more": (passed_so_far(using(ONCE), ASK_PASSED), ""),
    "what was passed with other inputs does": (
        passed_so_far(using(ONCE), ASK_PASSED | {"settings": "other"}), refused("[ask].smoke")),
    "a tool that cannot be called": (using(a_tool("once", ("NotAllowed", "ask"))), ""),
    "a tool of the version that serves alone": (using(served_by=(ONCE,)), ""),
    "and that is scored, too": (using(gates=(SCORE,), served_by=(ONCE,)), refused("[score].evaluate")),
    "and that is not scored": (using(gates=(PLAIN,), served_by=(ONCE,)), ""),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SIDE_EFFECTS)
def test_which_gates_would_have_tools_executed_that_must_not_be(sentence):
    o, wanted = SIDE_EFFECTS[sentence]
    assert side_effects(at(o)) == wanted


def conditions(o: Observed) -> dict[str, str]:
    status = report(o, decide(o, NOW), Outcome(), NOW)
    assert status.model.quarantined == ()
    return {c.type: f"{c.status} {c.reason}" for c in status.conditions}


def test_a_version_waits_before_its_gates_until_the_manifest_changes():
    """Its time stands still, and it is not in quarantine."""
    o = using(ONCE, gates=(SCHEMA, SMOKE))
    o = replace(o, preview_ready={hash_of(o.program, "2"): 2})
    waits = decide(o, NOW)
    assert (waits.step, waits.refusal, waits.gates) == ("Refused", refused("[ask].smoke"), ())
    assert not [a for a in waits.steps if isinstance(a, Tell) and a.order in ("Try", "Shadow")]
    assert (waits.clock.since, waits.again) == (None, None)
    found = conditions(o)
    assert found["Ready"] == "True Serving", "nobody's commit is at fault"
    assert {found["UpToDate"], found["Progressing"]} == {"False GateHasSideEffects"}
    allowed = using(ONCE, gates=(may(SMOKE),))
    goes_on = decide(replace(allowed, preview_ready={hash_of(allowed.program, "2"): 2}), NOW)
    assert goes_on.step == "Gate"
    assert [a.tools for a in goes_on.steps if isinstance(a, Tell) and a.order == "Try"] == ["Execute"]


@pytest.mark.parametrize("strategy", ["HotSwap", "BlueGreen", "Recreate"])
def test_nothing_is_prepared_for_gates_that_cannot_be_passed(strategy):
    uses = [{"name": "mine", "ref": {"name": "once"}}]
    program = a_program(tools=uses, rollout={"gates": [SMOKE], "strategy": strategy})
    waits = decide(observed(program, "2", **serving(program, "1", 1), tools=(ONCE,)), NOW)
    assert waits.step == "Refused"
    made = [a.document["metadata"]["name"] for a in waits.steps if isinstance(a, Create)]
    assert not [name for name in made if hash_of(program, "2") in name]
    assert not [a for a in waits.steps if isinstance(a, Scale) or (isinstance(a, Tell) and a.order == "Prepare")]


def test_a_first_version_and_a_way_back_pass_no_gates_and_so_are_not_refused():
    assert decide(replace(using(ONCE), deployments=(), pods=(), active=None), NOW).refusal == ""
    served = beside(using(ONCE).program, two={"activated_at": 2.0})
    assert decide(replace(served, tools=(ONCE,)), NOW).refusal == ""


def test_gates_say_what_they_allow_to_those_who_execute():
    assert evaluation(job_of(beside(gated(may(SCORE)))))["tools"] == "Execute"
    assert "tools" not in evaluation(job_of(beside(gated(SCORE)))), "a runtime that is older would not know the word"
    o = beside(gated(may(MIRROR)))
    o = replace(o, pods=tuple(replace(p, report=p.report or PodState()) for p in o.pods))
    assert {tell.shadow.tools for tell in found(o).actions} == {"Execute"}
    assert subject_of(beside(gated(may(SMOKE)))) != subject_of(beside(gated(SMOKE))), "another question"


# Smoke


def test_one_pod_that_holds_the_version_is_asked_once_and_the_next_try_is_asked_anew():
    o = beside(gated(SMOKE))
    (tell,) = found(o).actions
    assert (tell.pod.name, tell.order, tell.inputs) == (f"qa-{hash_of(o.program, '2')}-0", "Try", {"question": "?"})
    assert tell.subject.startswith(f"{hash_of(o.program, '2')}:ask-")
    assert subject_of(beside(gated(SMOKE | {"smoke": {"inputs": {"question": "!"}}}))) != tell.subject
    later = {"name": "ask", "type": "Smoke"}
    assert subject_of(passed_so_far(o, later)) != tell.subject, "another try of the same version"
    told = tuple(replace(p, told={"Try": f"Try {tell.subject}"}) for p in o.pods)
    assert (found(replace(o, pods=told)).actions, found(replace(o, pods=told)).states[0].message) == (
        (),
        "waiting for the answer",
    )
    half = tuple(replace(p, report=None) if p.name == tell.pod.name else p for p in o.pods)
    assert [t.pod.name[-2:] for t in found(replace(o, pods=half)).actions] == ["-1"]
    nobody = found(replace(o, pods=tuple(replace(p, report=None) for p in o.pods)))
    assert (nobody.actions, nobody.states[0].message) == ((), "waiting for the answer")


# Interfaces


def interfaces(before: dict | None, after: dict | None, mode: str | None = None, **one: Any) -> tuple[str, str]:
    settings = {"schemaCompatibility": {"mode": mode}} if mode else {}
    program = gated(SCHEMA | settings)
    known = {hash_of(program, "1"): before, hash_of(program, "2"): after}
    o = replace(beside(program), interfaces={k: v for k, v in known.items() if v is not None})
    o = replace(o, deployments=(replace(o.deployments[0], **one), *o.deployments[1:]))
    (state,) = found(o).states
    return state.result, state.message


A = {"outputs": {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}
B: dict[str, Any] = {"outputs": {"properties": {}}}
WAITING = ("Running", "waiting for the pods to say what they take and give")
INTERFACES = {
    "callers need not change": (interfaces(A, A), ("Passed", "callers need not change anything")),
    "callers would break": (interfaces(A, B), ("Failed", "output a is dropped; output b is dropped")),
    "callers would break, and that is allowed": (interfaces(A, B, "Any"), ("Passed", "output a is dropped; output b is dropped")),
    "the one that serves has not said": (interfaces(None, A), WAITING),
    "the new one has not said": (interfaces(A, None), WAITING),
    "callers were never answered": (
        interfaces(None, B, activated_at=None), ("Passed", "nothing has served yet that callers could depend on")),
}  # fmt: skip


@pytest.mark.parametrize("sentence", INTERFACES)
def test_interfaces(sentence):
    said, wanted = INTERFACES[sentence]
    assert said == wanted


# Evaluations


def job_of(o: Observed, **changes: Any) -> dict[str, Any]:
    (create,) = found(o, **changes).actions
    assert isinstance(create, Create)
    return create.document


def evaluation(document: dict[str, Any]) -> dict[str, Any]:
    (container,) = document["spec"]["template"]["spec"]["containers"]
    return json.loads({e["name"]: e.get("value") for e in container["env"]}["DESPINA_EVALUATION"])


def scored(*results: Any, evaluate: dict | None = None, **job: Any) -> tuple[str, str]:
    o = beside(gated(SCORE | {"evaluate": evaluate or EVALUATE}))
    name = job_of(o)["metadata"]["name"]
    (state,) = found(
        replace(o, jobs=(JobView("other"), JobView(name, result=results[0] if results else None, **job)))
    ).states
    return state.result, state.message.replace(name, "NAME")


def result(score: float | None = None, baseline: float | None = None, **more: Any) -> EvaluationResult:
    return EvaluationResult(score_percent=score, baseline_percent=baseline, **{"examples": 50} | more)


ONLY_MIN = {k: v for k, v in EVALUATE.items() if k != "maxRegressionPercent"}
ONLY_MAX = {k: v for k, v in EVALUATE.items() if k != "minScorePercent"}
SCORES = {
    "well": (scored(result(90, 80), ended=True), ("Passed", "score 90.0 %, 80.0 % now, on 50 examples")),
    "just well enough": (scored(result(60, 65)), ("Passed", "score 60.0 %, 65.0 % now, on 50 examples")),
    "too low": (scored(result(59.9, 20)), ("Failed", "score 59.9 %, 20.0 % now, on 50 examples; at least 60 % is asked for")),
    "lower than before": (scored(result(74.9, 80)), ("Failed", "score 74.9 %, 80.0 % now, on 50 examples; at most 5 points less are allowed")),
    "as much lower as is allowed": (scored(result(75, 80)), ("Passed", "score 75.0 %, 80.0 % now, on 50 examples")),
    "alone": (scored(result(90)), ("Passed", "score 90.0 %, on 50 examples")),
    "lower, and nobody minds": (scored(result(61, 99), evaluate=ONLY_MIN), ("Passed", "score 61.0 %, 99.0 % now, on 50 examples")),
    "low, and nobody minds": (scored(result(1, 2), evaluate=ONLY_MAX), ("Passed", "score 1.0 %, 2.0 % now, on 50 examples")),
    "at a cost": (
        scored(result(90, failed=3, cost_usd=0.25)), ("Passed", "score 90.0 %, on 50 examples, 3 unanswered, 0.2500 USD")),
    "not at all": (scored(result(None)), ("Failed", "there is no score")),
    "on nothing": (scored(result(100, examples=0)), ("Failed", "there is no score")),
    "with an error": (scored(result(90, error="the metric raised")), ("Failed", "the metric raised")),
    "with an error that says nothing": (scored(result(90, error="")), ("Failed", "there is no score")),
    "it is starting": (scored(), ("Running", "Job NAME is starting")),
    "it cannot start": (scored(trouble="no node"), ("Running", "no node")),
    "it is at work": (scored(trouble="x", progress="3 of 50"), ("Running", "3 of 50")),
    "it ended": (scored(ended=True), ("Failed", "Job NAME ended without a result; see its log")),
    "it ended, and why": (scored(ended=True, trouble="OOMKilled"), ("Failed", "Job NAME ended without a result: OOMKilled; see its log")),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SCORES)
def test_scores(sentence):
    said, wanted = SCORES[sentence]
    assert said == wanted


def test_a_job_scores_the_candidate_beside_what_serves():
    program = gated(SCORE)
    o = beside(program)
    assert found(o).states[0].message == "the Job is being made"
    document = job_of(o)
    both = evaluation(document)
    assert (both["candidate"]["model"]["version"], both["baseline"]["model"]["version"]) == ("2", "1")
    assert (both["metric"], both["max_examples"]) == ("ExactMatch", 50)
    assert document["metadata"]["name"].startswith("qa-eval-")
    assert "baseline" not in evaluation(job_of(beside(gated(SCORE | {"evaluate": ONLY_MIN})))), "nobody compares"
    never = replace(o, deployments=(replace(o.deployments[0], activated_at=None), *o.deployments[1:]))
    assert "baseline" not in evaluation(job_of(never)), "callers were never answered"
    assert (
        job_of(passed_so_far(o, {"name": "score", "type": "Evaluate"}))["metadata"]["name"]
        != document["metadata"]["name"]
    )


SAME_JOB: dict[str, Any] = {
    "a longer time": {"timeoutSeconds": 900},
    "another name": {"name": "other"},
    "another threshold": {"evaluate": EVALUATE | {"minScorePercent": 95}},
    "another distance": {"evaluate": EVALUATE | {"maxRegressionPercent": 0}},
    "another test": {"evaluate": EVALUATE | {"test": "Paired", "significancePercent": 1, "minExamples": 9}},
}
OTHER_JOB: dict[str, Any] = {
    "other rows": {"evaluate": EVALUATE | {"datasetRef": {"configMap": {"name": "rows", "key": "s.jsonl"}}}},
    "another metric": {"evaluate": EVALUATE | {"metric": "F1"}},
    "more rows": {"evaluate": EVALUATE | {"maxExamples": 51}},
    "more money": {"evaluate": EVALUATE | {"budgetUSD": "1"}},
    "nothing to compare with": {"evaluate": ONLY_MIN},
}


@pytest.mark.parametrize("edit", SAME_JOB | OTHER_JOB)
def test_a_job_is_another_one_only_if_it_computes_something_else(edit):
    change = (SAME_JOB | OTHER_JOB)[edit]
    names = {job_of(beside(gated(g)))["metadata"]["name"] for g in (SCORE, SCORE | change)}
    assert len(names) == (1 if edit in SAME_JOB else 2)


def noted(o: Observed, score: float, **state: Any) -> Observed:
    """The same after the Job: its score stands in the status, and it is gone."""
    began = {"name": "score", "type": "Evaluate"}
    name = job_of(passed_so_far(o, began))["metadata"]["name"]
    found_ = Score.of(name, result(score, 59.25, cost_usd=0.25, failed=1))
    return passed_so_far(o, began | {"score": found_.dump()} | state)


AFTER_THE_JOB: dict[str, Any] = {
    "as it was": ({}, {}, "Passed"),
    "with a higher threshold": ({"minScorePercent": 95}, {}, "Failed"),
    "with a higher threshold, though it had passed": (
        {"minScorePercent": 95}, {"result": "Passed", "settings": "before"}, "Failed"),
    "by a test that needs more than was found": (
        {"test": "Paired"}, {"result": "Passed", "settings": "before"}, "Failed"),
    "with other rows": ({"maxExamples": 51}, {"result": "Passed", "settings": "before"}, "Running"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", AFTER_THE_JOB)
def test_a_score_outlives_its_job(sentence):
    change, state, wanted = AFTER_THE_JOB[sentence]
    before = noted(beside(gated(SCORE)), 60.0, **state)
    edited = gated(SCORE | {"evaluate": EVALUATE | change})
    gates = found(replace(before, program=edited))
    assert (gates.states[0].result, bool(gates.actions)) == (wanted, wanted == "Running")
    if wanted != "Running":
        assert gates.states[0].message.startswith("score 60.0 %, 59.2 % now, on 50 examples, 1 unanswered, 0.2500 USD")
        assert gates.states[0].score == before.status.rollout.gates[0].score


@pytest.mark.parametrize("job", [{"result": result(90.5)}, {"trouble": "OOMKilled"}])
def test_what_a_job_found_is_noted_while_nobody_judges_it(job):
    o = passed_so_far(beside(gated(SCORE)), {"name": "score", "type": "Evaluate", "since": timestamp(NOW - 9)})
    name = job_of(o)["metadata"]["name"]
    (before,) = o.status.rollout.gates
    assert standing(at(o), before) == held_up(before, NOW)
    assert standing(at(replace(o, jobs=(JobView(name),))), before).score is None
    after = standing(at(replace(o, jobs=(JobView(name, ended=True, **job),))), before)
    assert (after.result, after.since, after.spent_seconds, after.score.job) == ("Running", None, 9, name)
    gone = passed_so_far(o, after.dump())
    assert standing(at(gone), after) == after
    found_ = after.score.result()
    assert found_ == job.get("result") or "OOMKilled" in (found_.error or "")
    assert (found(gone).states[0].result, found(gone).actions) == ("Passed" if "result" in job else "Failed", ())


def test_a_damaged_score_is_none():
    assert Score(job="x", score_percent="lots").result() is None
    assert Score(job="x", score_percent="nan").result() is None
    assert result(60.0, examples=10**30, failed=-1).model_dump(include={"examples", "failed"}) == {
        "examples": 2**53, "failed": 0,
    }, "what a status can hold"  # fmt: skip
    o = noted(beside(gated(SCORE)), 60.0)
    (gate,) = o.status.rollout.gates
    bad = gate.model_copy(update={"score": gate.score.model_copy(update={"score_percent": "lots"})})
    assert len(found(passed_so_far(o, bad.dump())).actions) == 1


def test_evaluations_that_nobody_waits_for_are_ended():
    o = beside(gated(SCORE))
    name = job_of(o)["metadata"]["name"]
    jobs = (JobView(name), JobView("other"), JobView("over", ended=True))
    o = replace(o, jobs=jobs)

    def ended(o: Observed, **changes: Any) -> list[Delete]:
        return list(abandoned(at(o, **changes)))

    assert ended(o) == [Delete(("Job", "other"))], "though no status tells of it yet"
    assert ended(replace(o, program=gated(SCORE | {"timeoutSeconds": 9}))) == [Delete(("Job", "other"))]
    assert ended(replace(o, program=gated())) == [Delete(("Job", name)), Delete(("Job", "other"))]
    later = passed_so_far(o, {"name": "score", "type": "Evaluate"})
    waited_for = JobView(job_of(later)["metadata"]["name"])
    assert ended(replace(later, jobs=(waited_for,))) == []
    assert ended(o, wanted=None) == [Delete(("Job", name)), Delete(("Job", "other"))]


# Shadows


def mirrored(*reports: ShadowReport | None, **shadow: Any) -> tuple[str, str, list[str]]:
    program = gated(MIRROR | {"shadow": MIRROR["shadow"] | shadow})
    green = hash_of(program, "2")
    own = [r and r.model_copy(update={"revision": green if r.revision == TWO.hash else r.revision}) for r in reports]
    o = beside(program)
    blue = tuple(
        replace(p, report=PodState(shadow=r))
        for p, r in zip(pods(program, "1", len(own), ready=True), own, strict=True)
    )
    gates = found(replace(o, pods=blue + tuple(p for p in o.pods if p.revision == green)))
    state = gates.states[0]
    return state.result, state.message, [f"{t.pod.name[-1]} {t.order}" for t in gates.actions]


def histogram(seconds: float, count: int) -> tuple[int, ...]:
    return tuple(count if bound == seconds else 0 for bound in (*SECONDS_BOUNDS, 0))


def mirror(
    asked: int, failed: int = 0, agreed: int = 0, took: float = 0.1, live: float = 0.1, revision: str = TWO.hash
) -> ShadowReport:
    return ShadowReport(revision=revision, mirrored=asked, failed=failed, agreed=agreed,
                        seconds=histogram(took, asked), live_seconds=histogram(live, asked))  # fmt: skip


FIGURES = "20 requests mirrored: {} failed, {} % agree, 95th percentile {} ms beside 100 ms"
SHADOWS = {
    "nobody is told yet": (mirrored(None, None), ("Running", "0 of 10 requests mirrored", ["0 Shadow", "1 Shadow"])),
    "one is told another version": (mirrored(mirror(9, revision="x"), mirror(9)), ("Running", "9 of 10 requests mirrored", ["0 Shadow"])),
    "too few": (mirrored(mirror(5), mirror(4)), ("Running", "9 of 10 requests mirrored", [])),
    "well": (mirrored(mirror(10, agreed=10), mirror(10, agreed=8)), ("Passed", FIGURES.format(0, 90, 100), [])),
    "some fail": (mirrored(mirror(10, 2, 8), mirror(10, 0, 10)), ("Passed", FIGURES.format(2, 100, 100), [])),
    "too many fail": (
        mirrored(mirror(10, 2, 8), mirror(10, 1, 9)), ("Failed", FIGURES.format(3, 100, 100) + "; at most 10 % may fail", [])),
    "too few agree": (
        mirrored(mirror(10, 0, 10), mirror(10, 0, 7), minAgreementPercent=90),
        ("Failed", FIGURES.format(0, 85, 100) + "; at least 90 % must agree", [])),
    "as many agree as must": (
        mirrored(mirror(10, 0, 10), mirror(10, 0, 8), minAgreementPercent=90), ("Passed", FIGURES.format(0, 90, 100), [])),
    "slower": (
        mirrored(mirror(20, 0, 20, took=0.2), maxLatencyIncreasePercent=50),
        ("Failed", FIGURES.format(0, 100, 200) + "; at most 50 % more is allowed", [])),
    "slower, as is allowed": (mirrored(mirror(20, 0, 20, took=0.2), maxLatencyIncreasePercent=100), ("Passed", FIGURES.format(0, 100, 200), [])),
    "slower, and nobody minds": (mirrored(mirror(20, 0, 20, took=0.2)), ("Passed", FIGURES.format(0, 100, 200), [])),
}  # fmt: skip


@pytest.mark.parametrize("sentence", SHADOWS)
def test_shadows(sentence):
    said, wanted = SHADOWS[sentence]
    assert said == wanted


def test_nothing_answered_is_no_agreement():
    assert mirrored(mirror(10, 10), maxErrorRatePercent=100)[:2] == (
        "Passed", "10 requests mirrored: 10 failed, 0 % agree, 95th percentile 100 ms beside 100 ms",
    )  # fmt: skip


def test_pods_are_told_whom_to_ask_and_how_often():
    o = beside(gated(MIRROR))
    green = hash_of(o.program, "2")
    o = replace(o, pods=tuple(replace(p, report=PodState()) for p in o.pods))

    def told(**changes: Any) -> list[tuple[str, ShadowConfig | None]]:
        return [(t.subject, t.shadow) for t in found(o, **changes).actions]

    wanted = ShadowConfig(revision=green, percent=7, url="http://qa-preview.ns/execute")
    assert told() == [(green, wanted)] * 2
    assert told(strategy=HOT) == [(green, ShadowConfig(revision=green, percent=7))] * 2
    silent = replace(o, pods=tuple(replace(p, report=None) for p in o.pods))
    known = replace(o, pods=tuple(replace(p, told={"Shadow": f"Shadow {green}"}) for p in o.pods))
    assert found(silent).actions == found(known).actions == ()


def test_mirroring_that_no_gate_needs_is_ended():
    o = beside()
    busy = tuple(replace(p, report=PodState(shadow=mirror(1))) for p in o.pods)
    told = replace(busy[0], told={"Shadow": "Shadow "})
    idle = replace(busy[1], report=PodState())
    silent = replace(busy[2], report=None)
    found_ = list(unmirrored(replace(o, pods=(told, idle, silent, busy[3]))))
    assert found_ == [Tell(busy[3], "Shadow")]


SINCE = {
    "it ran before this process was there": ("1970-01-01T00:16:40Z", "1970-01-01T00:33:20Z"),
    "it runs since then": ("1970-01-01T00:50:00Z", "1970-01-01T00:50:00Z"),
    "it stands": (None, None),
    "it cannot be read": ("yesterday", None),
    "it is empty": ("", None),
}


@pytest.mark.parametrize("sentence", SINCE)
def test_a_clock_has_not_run_before_this_process_was_there(sentence):
    since, wanted = SINCE[sentence]
    gate = {"name": "smoke", "type": "Smoke", "result": "Running", "startedAt": "t", "since": since}
    told = {"id": "x", "strategy": "HotSwap", "step": "Gate", "startedAt": "t", "since": since, "gates": [gate]}
    rollout = RolloutStatus.model_validate(told)
    found = watched_since(ProgramStatus(rollout=rollout), 2000.0).rollout
    assert (found.since, found.gates[0].since) == (wanted, wanted)
