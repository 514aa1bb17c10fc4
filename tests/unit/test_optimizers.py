"""Optimisers by name: the best program is kept, whatever ends the run, and what is wrong is said."""

from __future__ import annotations

import sys
import types
from typing import Literal

import dspy
import pytest

from despina_runtime.optimization.budget import Exhausted
from despina_runtime.optimization.optimizers import Best, Run, UnknownOptimizer, is_inner, optimize
from despina_runtime.program.artifact import state_of
from tests.support.in_memory_lm import InMemoryLM


class Triage(dspy.Signature):
    """Decide which team a ticket belongs to."""

    ticket: str = dspy.InputField()
    category: Literal["account", "billing", "bug"] = dspy.OutputField()


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(Triage)
        self.check = dspy.Predict("ticket, category -> fits: bool")

    def forward(self, ticket):
        return self.classify(ticket=ticket)


def is_right(example, prediction, trace=None):
    return example.category == prediction.category


def rows(count: int) -> list[dspy.Example]:
    texts = [("I forgot my password", "account"), ("I was charged twice", "billing"), ("the app crashes", "bug")]
    return [
        dspy.Example(ticket=f"{texts[n % 3][0]} {n}", category=texts[n % 3][1]).with_inputs("ticket")
        for n in range(count)
    ]


def run(**changes) -> Run:
    base = {"program": Program(), "names": ["classify"], "trainset": rows(9), "valset": rows(15)[9:]}
    return Run(**{**base, "metric": is_right, "seed": 7, "threads": 1, **changes})


def outcome(name: str, params=None, limit: int | None = None, **changes) -> tuple[list[Best], str, int]:
    """All best programs in turn, why it ended early, and how many calls were made. `limit` ends the budget."""
    told: list[Best] = []

    def spend() -> None:
        if limit is not None and lm.calls >= limit:
            raise Exhausted(f"{limit} calls are made")

    lm = InMemoryLM(spend)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), callbacks=[]):
        why = optimize(run(**changes), name, params or {}, told.append)
    return told, why, lm.calls


SMALL = {"num_candidate_programs": 2, "max_bootstrapped_demos": 2, "max_labeled_demos": 3}
MIPRO = {"auto": None, "num_candidates": 4, "num_trials": 2, "minibatch": False, "max_labeled_demos": 3}
ALL = {
    "BootstrapFewShotWithRandomSearch": SMALL,
    "BootstrapFewShot": {"max_bootstrapped_demos": 2, "max_labeled_demos": 4},
    "LabeledFewShot": {"k": 6},
    "MIPROv2": MIPRO,
}


@pytest.mark.parametrize("name", ALL)
def test_each_gives_a_program_that_is_better_on_validation(name):
    told, why, calls = outcome(name, ALL[name])
    assert why == ""
    assert told[-1].score > 1 / 3
    scores = [best.score for best in told if best.score is not None]
    assert scores == sorted(set(scores)), "each is better than the one before"
    assert told[-1].state["check"] == state_of(Program())["check"]
    assert told[-1].state["classify"]["demos"]
    assert calls > 0


def test_what_never_evaluates_is_validated_here_and_nothing_else_is():
    assert outcome("LabeledFewShot", {"k": 6})[2] == 6, "one call a validation row"
    small = outcome("BootstrapFewShotWithRandomSearch", {"num_candidate_programs": 0, "max_labeled_demos": 3})
    assert small[2] == 3 * 6 + 5, "what it evaluated itself is not evaluated again"


def test_the_seed_decides_which_rows_are_shown():
    demos = [outcome("LabeledFewShot", {"k": 2}, seed=seed)[0][-1].state["classify"]["demos"] for seed in (1, 1, 2)]
    assert demos[0] == demos[1] != demos[2]


@pytest.mark.parametrize("name", ["BootstrapFewShotWithRandomSearch", "MIPROv2"])
def test_the_best_so_far_is_kept_when_the_budget_ends(name):
    whole, _, calls = outcome(name, ALL[name])
    told, why, made = outcome(name, ALL[name], limit=calls - 1)
    assert made == calls - 1
    assert why == f"the budget ended: {calls - 1} calls are made"
    assert told
    assert told[-1].score <= whole[-1].score
    assert outcome(name, ALL[name], limit=2)[0] == [], "nothing was validated by then"


def test_a_program_that_could_not_be_validated_any_more_is_kept_without_a_score():
    told, why, _ = outcome("LabeledFewShot", {"k": 6}, limit=3)
    assert [best.score for best in told] == [None]
    assert len(told[0].state["classify"]["demos"]) == 6
    assert why == "the budget ended: 3 calls are made"


def of_code(function) -> str:
    """The name of an optimiser of the model's code."""
    module = types.ModuleType("own_optimizers")
    module.function = function
    sys.modules["own_optimizers"] = module
    return "own_optimizers:function"


def test_an_optimiser_of_the_models_code():
    def longest(student, trainset, valset, metric, k):
        student.classify.demos = sorted(trainset, key=lambda row: -len(row.ticket))[:k]
        return student

    told, why, _ = outcome(of_code(longest), {"k": 3})
    assert (why, len(told[-1].state["classify"]["demos"])) == ("", 3)


def raising(student, trainset, valset, metric):
    dspy.Evaluate(devset=valset, metric=metric, num_threads=1)(student)
    raise RuntimeError("no luck")


def renaming(student, trainset, valset, metric):
    student.classify = dspy.Predict("ticket -> kind")
    return student


def meddling(student, trainset, valset, metric):
    student.check.demos = [{"ticket": "x"}]
    return student


WRONG = {
    "it raises": (raising, "failed: RuntimeError: no luck"),
    "it gives nothing": (lambda *_: None, "failed: NotThatProgram: a NoneType instead of the Program that it was given"),
    "another program": (lambda *_: dspy.Predict(Triage), "failed: NotThatProgram: a Predict instead of the Program"),
    "another signature": (renaming, "failed: NotThatProgram: the signature of classify has other fields"),
    "a frozen module": (meddling, "failed: NotThatProgram: it changed check, which was not to change"),
    "it ends the process": (lambda *_: sys.exit(3), "failed: SystemExit"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_an_optimiser_is_said_and_the_best_is_kept(case):
    function, words = WRONG[case]
    told, why, _ = outcome(of_code(function))
    assert words in why
    assert len(told) == (function is raising)


UNKNOWN = {
    "no such optimiser": ("Magic", {}, "there is no optimiser Magic; there are BootstrapFewShotWithRandomSearch"),
    "no such module": ("nowhere:f", {}, "nowhere:f: ModuleNotFoundError"),
    "no such function": ("random:f", {}, "random:f: AttributeError"),
    "no function": ("sys:path", {}, "sys:path is not a function"),
    "no such parameter": ("LabeledFewShot", {"kk": 1}, "LabeledFewShot has no parameter kk; it has k, sample"),
    "what is given here": ("MIPROv2", {"metric": 1}, "MIPROv2 has no parameter metric"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_optimiser_that_is_not_there_is_told_before_any_call(case):
    name, params, words = UNKNOWN[case]
    with pytest.raises(UnknownOptimizer, match=words):
        outcome(name, params)


def test_rows_are_no_demonstrations_for_a_module_that_stands_within():
    assert [is_inner(run(), name) for name in ("classify", "check")] == [False, True]
    with pytest.raises(UnknownOptimizer, match="rows have not what check takes and gives"):
        outcome("LabeledFewShot", names=["classify", "check"])
    told, _, _ = outcome("BootstrapFewShot", {"max_bootstrapped_demos": 2}, names=["classify", "check"])
    assert all(demo["augmented"] for demo in told[-1].state["classify"]["demos"])
