"""Optimisers change what is named; the state of everything else is the same to the byte."""

from __future__ import annotations

import json
from typing import Literal

import dspy
import pytest

from despina_runtime.optimization.freezing import check_program, narrowed, widened
from despina_runtime.optimization.states import (
    NotThatProgram,
    UnknownModule,
    check_frozen,
    chosen,
    merged,
    readable_diff,
)
from despina_runtime.program.artifact import state_of
from tests.support.in_memory_lm import InMemoryLM


class Triage(dspy.Signature):
    """Decide which team a ticket belongs to."""

    ticket: str = dspy.InputField()
    category: Literal["account", "billing", "bug"] = dspy.OutputField()


def find(query: str) -> str:
    """Look something up."""
    return "nothing"


KINDS = {
    "Predict": dspy.Predict,
    "ChainOfThought": dspy.ChainOfThought,
    "ReAct": lambda signature: dspy.ReAct(signature, tools=[find], max_iters=2),
}


class Twice(dspy.Module):
    """The same question to a module that stays as it is and to one that is optimised."""

    def __init__(self, kind):
        super().__init__()
        self.stays = KINDS[kind](Triage)
        self.learns = KINDS[kind](Triage)
        for predictor in self.stays.predictors():
            predictor.demos = [dspy.Example(ticket="old", category="bug", reasoning="so")]

    def forward(self, ticket):
        self.stays(ticket=ticket)
        return self.learns(ticket=ticket)


def names_of(program) -> list[str]:
    return [name for name, _ in program.named_predictors()]


def is_right(example, prediction, trace=None):
    return example.category == prediction.category


ROWS = [
    dspy.Example(ticket=text, category=category).with_inputs("ticket")
    for number in range(4)
    for text, category in [
        (f"I forgot password {number}", "account"),
        (f"charged twice {number}", "billing"),
        (f"it crashes {number}", "bug"),
    ]
]
LABELED = {"max_labeled_demos": 2, "max_bootstrapped_demos": 1}
OPTIMIZERS = {
    "BootstrapFewShotWithRandomSearch": lambda student: dspy.BootstrapFewShotWithRandomSearch(
        metric=is_right, num_candidate_programs=1, num_threads=1, **LABELED
    ).compile(student, trainset=ROWS[:6], valset=ROWS[6:]),
    "BootstrapFewShot": lambda student: dspy.BootstrapFewShot(metric=is_right, **LABELED).compile(
        student, trainset=ROWS
    ),
    "LabeledFewShot": lambda student: dspy.LabeledFewShot(k=2).compile(student, trainset=ROWS),
    "MIPROv2": lambda student: dspy.MIPROv2(
        metric=is_right, auto=None, num_candidates=4, num_threads=1, seed=3, **LABELED
    ).compile(student, trainset=ROWS[:6], valset=ROWS[6:], num_trials=2, minibatch=False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_state_of_all_others_is_the_same_to_the_byte(kind, optimizer):
    program = Twice(kind)
    names = chosen(names_of(program), ["learns"])
    before = state_of(program)
    with dspy.context(lm=InMemoryLM(), adapter=dspy.ChatAdapter()):
        found = widened(OPTIMIZERS[optimizer](narrowed(program, names)), program)
    after = state_of(found)
    assert type(found) is Twice
    assert state_of(program) == before, "the program itself is never touched"
    assert list(after) == list(before), "the dump is complete"
    frozen = [name for name in before if name not in names]
    assert len(frozen) == len(names) == {"Predict": 1, "ChainOfThought": 1, "ReAct": 2}[kind]
    for name in frozen:
        assert json.dumps(after[name]) == json.dumps(before[name])
    if optimizer != "MIPROv2":  # its best may be the program as it was
        assert any(after[name]["demos"] for name in names)
    check_program(program, found, names)


class Nested(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.ChainOfThought("question -> text")
        self.steps = [dspy.Predict("text -> a"), dspy.Predict("text -> b")]
        self.named = {"x": dspy.Predict("text -> c")}
        self.plain = 3


PATHS = {
    "a predictor": (["steps[0]"], ("steps[0]",)),
    "a module stands for all below it": (["answer"], ("answer.predict",)),
    "several": (["steps[1]", "answer.predict"], ("answer.predict", "steps[1]")),
    "a list stands for all in it": (["steps"], ("steps[0]", "steps[1]")),
    "in a dictionary": (["named['x']"], ("named['x']",)),
    "none means all": ([], ("answer.predict", "steps[0]", "steps[1]", "named['x']")),
}


@pytest.mark.parametrize("case", PATHS)
def test_which_predictors_a_path_means(case):
    paths, names = PATHS[case]
    assert chosen(names_of(Nested()), paths) == names


@pytest.mark.parametrize("path", ["answers", "answer.predic", "step", "plain", "steps[2]"])
def test_an_unknown_path_is_told_with_those_that_there_are(path):
    with pytest.raises(UnknownModule, match=r"has no module .* it has answer, ") as caught:
        chosen(names_of(Nested()), ["answer", path])
    assert path in str(caught.value)
    assert all(name in str(caught.value) for name in PATHS["none means all"][1])


def test_an_lm_that_a_predictor_was_given_stays_with_it():
    program, lm = Twice("Predict"), InMemoryLM()
    program.learns.lm = program.stays.lm = lm
    copy = narrowed(program, ["learns"]).reset_copy()
    assert copy.learns.lm is copy.stays.lm is lm


def test_a_program_that_is_one_predictor():
    program = dspy.Predict(Triage)
    names = chosen(names_of(program), [])
    found = widened(dspy.LabeledFewShot(k=2).compile(narrowed(program, names), trainset=ROWS), program)
    assert (names, len(found.demos), type(found)) == (("self",), 2, dspy.Predict)
    check_program(program, found, names)
    with pytest.raises(NotThatProgram, match="it changed self"):
        check_frozen(state_of(program), state_of(found), [])


def other(**changes) -> Twice:
    program = Twice("Predict")
    for name, value in changes.items():
        setattr(program, name, value)
    return program


MEDDLED = {
    "a frozen module": (other(stays=dspy.Predict(Triage)), "it changed stays"),
    "another module": (other(more=dspy.Predict(Triage)), "its predictors are stays, learns, more"),
    "a field more": (other(learns=dspy.Predict(Triage.append("x", dspy.OutputField()))), "another number of fields"),
    "a field's type": (other(learns=dspy.Predict("ticket -> category")), "the signature of learns has other fields"),
    "a field's name": (other(learns=dspy.Predict("ticket -> kind")), "the signature of learns has other fields"),
}


@pytest.mark.parametrize("case", MEDDLED)
def test_a_program_with_another_signature_is_refused(case):
    found, words = MEDDLED[case]
    with pytest.raises(NotThatProgram, match=words):
        check_program(Twice("Predict"), found, ["learns"])


class Other(Twice):
    pass


@pytest.mark.parametrize("found", [None, "text", Twice, Nested(), Other("Predict"), narrowed(Nested(), [])])
def test_what_is_not_the_program_is_refused(found):
    with pytest.raises(NotThatProgram, match="instead of the Twice that it was given"):
        widened(found, Twice("Predict"))


def test_of_what_somebody_says_only_the_named_predictors_are_taken():
    before, after = state_of(Twice("Predict")), state_of(Twice("Predict"))
    after["learns"]["demos"] = after["stays"]["demos"] = [{"ticket": "new", "category": "bug"}]
    assert merged(before, after, ["learns"]) == {**before, "learns": after["learns"]}
    assert merged(before, {"learns": after["learns"]}, ["learns"])["stays"] == before["stays"]
    alone = state_of(dspy.Predict(Triage))
    assert merged(alone, {**alone, "demos": [1]}, ["self"]) == {**alone, "demos": [1]}


NONSENSE = [{}, {"learns": None}, {"learns": {}}, {"learns": {"signature": {"fields": [1, 2]}, "demos": []}}]


@pytest.mark.parametrize("found", NONSENSE)
def test_what_is_no_state_of_the_program_is_refused(found):
    with pytest.raises(NotThatProgram):
        merged(state_of(Twice("Predict")), found, ["learns"])


def test_what_changed_can_be_read():
    before, after = Twice("Predict"), Twice("Predict")
    after.learns.demos = [ROWS[0]]
    after.learns.signature = after.learns.signature.with_instructions("Look closely.")
    text = readable_diff(state_of(before), state_of(after))
    assert "-learns instruction Decide which team a ticket belongs to." in text
    assert "+learns instruction Look closely." in text
    assert '+learns demonstration {"category":"account","ticket":"I forgot password 0"}' in text
    assert "\n-stays" not in text
    assert "\n+stays" not in text
    assert readable_diff(state_of(before), state_of(before)) == ""
