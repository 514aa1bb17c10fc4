"""An Evaluate gate with test Paired: what chance does not explain passes, and what was damaged or is older never does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from despina.api.status import Score
from despina.decide.observed import JobView, Observed
from despina.decide.plan import Delete
from despina.decide.rollout import decide
from despina.wire import EvaluationResult
from tests.support.situations import NOW, beside
from tests.unit.test_gates import EVALUATE, SCORE, evaluation, found, gated, job_of, result, scored

PAIRED = {"datasetRef": EVALUATE["datasetRef"], "test": "Paired"}
STRICT = PAIRED | {"significancePercent": 1, "minExamples": 10}
FOUND = {"p": 0.02, "gain_low_percent": 1.5, "gain_high_percent": 18.25}
SAID = "score 90.0 %, 80.0 % now, on 50 examples; gain +10.0 points (95 % interval +1.5 to +18.2), p 0.02"
UNPAIRED = "; it was not compared with the version that serves example by example, which test Paired needs"


def paired(
    evaluate: dict = PAIRED, score: float | None = 90, baseline: float | None = 80, **more: Any
) -> tuple[str, str]:
    return scored(result(score, baseline, **FOUND | more), ended=True, evaluate=evaluate)


BY_PAIRS = {
    "better, and not by chance": (paired(), ("Passed", SAID)),
    "at the limit": (paired(p=0.05), ("Passed", SAID.replace("p 0.02", "p 0.05"))),
    "by chance, perhaps": (
        paired(p=0.0501), ("Failed", f"{SAID.replace('p 0.02', 'p 0.05')}; chance may explain the gain: p must be at most 0.05")),
    "by chance, where more is asked for": (
        paired(STRICT), ("Failed", f"{SAID}; chance may explain the gain: p must be at most 0.01")),
    "not by chance, where more is asked for": (paired(STRICT, p=0.0001), ("Passed", SAID.replace("0.02", "0.0001"))),
    "on too few examples": (
        paired(examples=49),
        ("Failed", f"{SAID.replace('50 examples', '49 examples')}; test Paired needs at least 50 examples")),
    "on few examples, as the gate allows": (
        paired(STRICT, p=0.01, examples=10), ("Passed", SAID.replace("50 examples", "10 examples").replace("0.02", "0.01"))),
    "too low for the gate all the same": (
        paired(PAIRED | {"minScorePercent": 95}), ("Failed", f"{SAID}; at least 95 % is asked for")),
    "no better, whatever p says": (
        paired(baseline=90), ("Failed", f"{SAID.replace('80.0 %', '90.0 %').replace('+10.0', '+0.0')}; it is no better than the version that serves")),
    "without a p, as of a runtime that is older": (
        paired(p=None, gain_low_percent=None), ("Failed", f"score 90.0 %, 80.0 % now, on 50 examples; gain +10.0 points{UNPAIRED}")),
    "without the other mean": (paired(baseline=None), ("Failed", f"score 90.0 %, on 50 examples; p 0.02{UNPAIRED}")),
    "without an interval": (
        paired(gain_low_percent=None), ("Passed", SAID.replace(" (95 % interval +1.5 to +18.2)", ""))),
    "with a run": (paired(run="0a1b"), ("Passed", f"{SAID}, MLflow run 0a1b")),
    "with an error": (paired(error="no"), ("Failed", "no")),
    "by means alone p does not count": (
        paired(EVALUATE, p=0.9, run="0a1b"), ("Passed", "score 90.0 %, 80.0 % now, on 50 examples")),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BY_PAIRS)
def test_a_paired_test_lets_through_what_chance_does_not_explain(sentence):
    said, wanted = BY_PAIRS[sentence]
    assert said == wanted


def test_where_nothing_has_served_there_is_nothing_to_be_better_than():
    o = without_activation(beside(gated(SCORE | {"evaluate": PAIRED})))
    assert "baseline" not in evaluation(job_of(o))
    done = JobView(job_of(o)["metadata"]["name"], result=result(90, examples=3), ended=True)
    (state,) = found(replace(o, jobs=(done,))).states
    assert (state.result, state.message) == ("Passed", "score 90.0 %, on 3 examples")


def without_activation(o: Observed) -> Observed:
    """As when somebody deleted the Deployment of what serves, and the new one has no pods yet."""
    return replace(o, deployments=(replace(o.deployments[0], activated_at=None), *o.deployments[1:]))


def test_a_score_that_was_compared_with_nothing_is_no_answer_where_something_serves_again():
    o = beside(gated(SCORE | {"evaluate": PAIRED}))
    alone = job_of(without_activation(o))["metadata"]["name"]
    ended = JobView(alone, result=result(90, None), ended=True)
    gates = found(replace(o, jobs=(ended,)))
    assert (gates.states[0].result, gates.states[0].message) == ("Running", "the Job is being made")
    assert "baseline" in evaluation(job_of(replace(o, jobs=(ended,))))
    under_way = [a for a in decide(replace(o, jobs=(JobView(alone),)), NOW).steps if isinstance(a, Delete)]
    assert under_way == [Delete(("Job", alone))], "what it would find is worth nothing any more"


def test_a_score_that_was_compared_stays_an_answer_where_nothing_serves_for_a_while():
    o = beside(gated(SCORE | {"evaluate": PAIRED}))
    name = job_of(o)["metadata"]["name"]
    gone = without_activation(o)
    assert found(replace(gone, jobs=(JobView(name, progress="3 of 50"),))).states[0].message == "3 of 50"
    done = replace(gone, jobs=(JobView(name, result=result(90, 80, **FOUND), ended=True),))
    assert (found(done).states[0].result, found(done).states[0].message) == ("Passed", SAID)


def test_a_paired_test_needs_a_job_that_scores_both_and_an_older_runtime_is_told_no_new_word():
    both = evaluation(job_of(beside(gated(SCORE | {"evaluate": PAIRED}))))
    assert set(both) == {"candidate", "baseline", "dataset", "metric", "max_examples"}


DAMAGE: dict[str, dict[str, Any]] = {
    "a p below 0": {"p": -0.1}, "a p above 1": {"p": 1.1}, "a p that is no number": {"p": "nan"},
    "a p in words": {"p": "little"}, "a p that is nearly 0": {"p": -1e-300},
    "a gain of more than all": {"gain_high_percent": 101}, "a gain without end": {"gain_low_percent": "-inf"},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_can_be_no_result_is_none_and_passes_no_gate(damage):
    whole = result(90, 80, **FOUND)
    with pytest.raises(ValidationError):
        EvaluationResult.model_validate(whole.model_dump() | DAMAGE[damage])
    kept = Score.of("x", whole)
    assert kept.result() == whole
    damaged = kept.model_copy(update={name: str(value) for name, value in DAMAGE[damage].items()})
    assert damaged.result() is None


def test_what_an_older_runtime_or_operator_left_is_read():
    old = {"score_percent": 90.0, "baseline_percent": 80.0, "examples": 50, "failed": 0, "cost_usd": 0.0, "error": None}
    assert EvaluationResult.model_validate(old) == result(90, 80)
    noted_ = {"job": "x", "scorePercent": "90.0", "baselinePercent": "80.0", "examples": 50}
    assert Score.model_validate(noted_).result() == result(90, 80)


@pytest.mark.parametrize("run", ["../../etc", "a b", "", "x" * 65, "a\nb"])
def test_what_can_be_no_run_costs_no_score(run):
    assert result(90, run=run) == result(90)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a significance of means": ({"significancePercent": 5}, "significancePercent belongs to test Paired"),
    "a number of pairs of means": ({"test": "Mean", "minExamples": 9}, "minExamples belongs to test Paired"),
    "more examples than are used": ({"test": "Paired", "minExamples": 51}, "minExamples .51. must not be more than maxExamples"),
    "fewer examples than are needed": ({"test": "Paired", "maxExamples": 49}, "minExamples .50. must not be more than maxExamples"),
    "a significance of 0": ({"test": "Paired", "significancePercent": 0}, "significancePercent"),
    "a significance of more than a half": ({"test": "Paired", "significancePercent": 51}, "significancePercent"),
    "another test": ({"test": "Welch"}, "test"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_does_not_belong_to_a_test_is_refused_with_the_fields_name(sentence):
    change, words = REFUSED[sentence]
    with pytest.raises(ValidationError, match=words):
        gated(SCORE | {"evaluate": {"datasetRef": EVALUATE["datasetRef"], **change}})
