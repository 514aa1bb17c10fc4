"""What labelled predictions become: which side a row is on, who is believed, and what is left out."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Row
from despina_runtime.optimization import datasets
from despina_runtime.optimization.datasets import Dataset, LabelledPrediction, agreed, make_dataset, side_of


def label(text="a", label="success", *, expected=None, trusted=True, at=0.0, named=None, outputs=None, **rest):
    said = {"prediction_id": named or f"{text}{at}{trusted}{label}", "inputs": {"ticket": text}, "at": at}
    said |= {"outputs": outputs or {"category": "bug"}, "label": label, "expected": expected, "trusted": trusted}
    return LabelledPrediction(**said, **rest)


def text_on(side: str, number: int = 0) -> str:
    """A ticket that belongs to a side."""
    texts = (f"{side} {number}.{n}" for n in range(100))
    return next(text for text in texts if side_of({"ticket": text}) == side)


def rows_of(dataset: Dataset) -> list[Row]:
    return [*dataset.train, *dataset.validation, *dataset.heldout]


BUG, BILLING = {"category": "bug"}, {"category": "billing"}
WHO_IS_BELIEVED = {
    "outputs that were right are what is expected": ([label()], BUG),
    "what somebody says is right is what is expected": ([label(label="failure", expected=BILLING)], BILLING),
    "a success may say more precisely what was right": ([label(expected=BILLING)], BILLING),
    "a failure that nobody mended expects nothing": ([label(label="failure", reason="no")], "NothingExpected"),
    "parts of what is expected are put together": (
        [label(expected={"category": "bug"}), label(at=1, expected={"urgency": "high"})],
        {"category": "bug", "urgency": "high"},
    ),
    "equal labels agree": ([label(), label(at=1)], BUG),
    "a contradiction among equals leaves the input out": ([label(), label(at=1, expected=BILLING)], "Conflicting"),
    "who is trusted is believed against one who is not": (
        [label(trusted=False, at=9), label(expected=BILLING)], BILLING,
    ),
    "a contradiction among the trusted is not settled by others": (
        [label(), label(at=1, expected=BILLING), label(trusted=False)], "Conflicting",
    ),
    "an answer that others found wrong is in conflict with one that it was right": (
        [label(), label(label="failure", at=1)], "Conflicting",
    ),
    "another answer that was wrong contradicts nobody": ([label(), label(label="failure", at=1, outputs=BILLING)], BUG),
    "one who is not trusted takes no trusted row away": ([label(), label(label="failure", trusted=False)], BUG),
    "a trusted reproach counts against a row that is not trusted": (
        [label(trusted=False), label(label="failure")], "Conflicting",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WHO_IS_BELIEVED)
def test_who_is_believed(case):
    labels, expected = WHO_IS_BELIEVED[case]
    dataset = make_dataset(labels)
    if isinstance(expected, str):
        assert (rows_of(dataset), dataset.left_out) == ([], {expected: 1})
    else:
        assert rows_of(dataset) == [Row({"ticket": "a"}, expected)]
        assert dataset.left_out == {}


THE_SAME_PREDICTION = {
    "the later label replaces the earlier": ([label(named="p"), label(named="p", at=1, expected=BILLING)], BILLING),
    "the earlier one replaces nothing": ([label(named="p", at=1), label(named="p", expected=BILLING)], BUG),
    "nor does one without a credential, however late": (
        [label(named="p"), label(named="p", at=9, trusted=False, expected=BILLING)], BUG,
    ),
    "one with a credential replaces one without": (
        [label(named="p", at=9, trusted=False), label(named="p", expected=BILLING)], BILLING,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", THE_SAME_PREDICTION)
def test_a_prediction_has_one_label(case):
    labels, expected = THE_SAME_PREDICTION[case]
    assert [row.expected for row in rows_of(make_dataset(labels))] == [expected]


def test_only_trusted_rows_are_held_out():
    kept, out = text_on("heldout"), text_on("heldout", 1)
    dataset = make_dataset([label(kept), label(out, trusted=False)])
    assert [row.inputs["ticket"] for row in dataset.heldout] == [kept]
    assert dataset.left_out == {"Untrusted": 1}


def test_reasons_come_from_the_training_side_and_are_no_longer_than_they_may_be():
    texts = [text_on(side) for side in ("train", "validation", "heldout")]
    dataset = make_dataset(label(t, "failure", reason="x" * 5000) for t in texts)
    assert [(r.inputs["ticket"], len(r.reason)) for r in dataset.reasons] == [(texts[0], datasets.LONGEST_REASON)]
    assert rows_of(dataset) == []
    assert make_dataset([label(texts[0], "failure")]).reasons == ()


HIDDEN = {
    "in the inputs": label("card 1234"),
    "in what is expected": label(expected={"category": "card 1234"}),
    "in outputs that were right": label(outputs={"category": "card 1234"}),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_what_redaction_would_hide_is_on_no_side(case):
    dataset = make_dataset([HIDDEN[case]], is_hidden=lambda value: "card" in json.dumps(value))
    assert (rows_of(dataset), dataset.left_out) == ([], {"Hidden": 1})


def test_a_reason_that_redaction_would_hide_is_not_given():
    said = [label(text_on("train"), "failure", reason="card 1234")]
    assert make_dataset(said, is_hidden=lambda value: "card" in json.dumps(value)).reasons == ()


CAPS = {
    "one source among many has its part": ({"trusted": 90, "a": 50}, {"a": 10}),
    "two have each theirs": ({"trusted": 80, "a": 50, "b": 50}, {"a": 10, "b": 10}),
    "who sends most makes no room for himself": ({"trusted": 9, "a": 10_000}, {"a": 1}),
    "what is less than that stays": ({"trusted": 90, "a": 4}, {"a": 4}),
    "where nobody is trusted, each has one row": ({"a": 50, "b": 3}, {"a": 1, "b": 1}),
    "ten sources are as many as it takes": ({"a": 50} | dict.fromkeys("bcdefghij", 5), dict.fromkeys("abcdefghij", 5)),
    "trusted ones are not capped": ({"trusted": 50}, {}),
}


@pytest.mark.parametrize("case", CAPS)
def test_no_source_alone_is_more_than_its_part(case):
    counts, expected = CAPS[case]
    numbers = iter(range(10**6))
    labels = []
    for source, count in counts.items():
        texts = [t for n in range(count * 3) if side_of({"ticket": (t := f"{next(numbers)}.{n}")}) != "heldout"]
        labels += [label(t, trusted=source == "trusted", source=source) for t in texts[:count]]
    kept = Counter(by_text(labels)[row.inputs["ticket"]] for row in rows_of(make_dataset(labels)))
    assert kept.pop("trusted", 0) == counts.get("trusted", 0)
    assert kept == expected


def by_text(labels) -> dict[str, str]:
    return {said.inputs["ticket"]: said.source for said in labels}


def test_a_source_that_repeats_another_takes_nothing_of_its_part():
    trusted = [label(text_on("train", n)) for n in range(90)]
    honest = [label(text_on("validation", n), trusted=False, source="honest") for n in range(10)]
    echo = [
        label(said.inputs["ticket"], trusted=False, source="echo", at=1)
        for said in [*honest, *(label(text_on("train", n)) for n in range(100, 200))]
    ]
    kept = {row.inputs["ticket"] for row in rows_of(make_dataset([*trusted, *honest, *echo]))}
    assert {said.inputs["ticket"] for said in honest} <= kept


def test_the_name_is_the_content():
    dataset = make_dataset([label(text_on("train")), label(text_on("heldout"))])
    assert set(dataset.files()) == {"train.jsonl", "validation.jsonl", "heldout.jsonl", "reasons.jsonl"}
    assert json.loads(dataset.files()["train.jsonl"]) == {"expectations": BUG, "inputs": {"ticket": text_on("train")}}
    assert dataset.digest != make_dataset([label(text_on("train"))]).digest
    assert dataset.digest == "74eb85f2732029cb9489b9b93ee0f4a1f54c10b188765352d862be51543b5196", "names are for ever"


TEXTS = st.sampled_from([f"ticket {n}" for n in range(40)])
SOURCES = st.sampled_from(["", "a", "b", "c"])
OUTPUTS = st.fixed_dictionaries({"category": st.sampled_from(["bug", "billing"])}, optional={"note": st.booleans()})
LABELS = st.lists(
    st.builds(
        LabelledPrediction,
        prediction_id=st.integers(0, 60).map(str),
        inputs=st.fixed_dictionaries({"ticket": TEXTS, "tenant": st.sampled_from(["t1", "t2", "t3"])}),
        outputs=OUTPUTS,
        label=st.sampled_from(["success", "failure"]),
        reason=st.none() | st.text(max_size=5),
        expected=st.none() | OUTPUTS,
        source=SOURCES,
        trusted=st.booleans(),
        at=st.integers(0, 5).map(float),
    ),
    max_size=80,
)
GROUPS = st.sampled_from([(), ("tenant",), ("tenant", "ticket"), ("absent",)])


def sides(dataset: Dataset) -> dict[bytes, str]:
    """The side of each input."""
    named = {"train": dataset.train, "validation": dataset.validation, "heldout": dataset.heldout}
    found = [(canonical(row.inputs), side) for side, rows in named.items() for row in rows]
    assert len(found) == len(dict(found)), "an input is there once"
    return dict(found)


@settings(deadline=None)
@given(LABELS, LABELS, GROUPS)
def test_an_input_stays_on_its_side_whatever_else_comes(labels, others, group_by):
    before, after = (sides(make_dataset(some, group_by=group_by)) for some in (labels, labels + others))
    assert all(after[inputs] == side for inputs, side in before.items() if inputs in after)


@settings(deadline=None)
@given(LABELS)
def test_what_is_alike_in_the_grouped_fields_is_on_one_side(labels):
    dataset = make_dataset(labels, group_by=["tenant"])
    by_tenant = {}
    for inputs, side in sides(dataset).items():
        assert by_tenant.setdefault(json.loads(inputs)["tenant"], side) == side


@settings(deadline=None)
@given(LABELS, st.randoms(use_true_random=False))
def test_the_order_in_which_labels_come_does_not_matter(labels, order: random.Random):
    shuffled = [*labels]
    order.shuffle(shuffled)
    assert make_dataset(shuffled) == make_dataset(labels)
    assert make_dataset(shuffled).digest == make_dataset(labels).digest


def test_a_number_is_one_number_however_it_was_written():
    said = {"label": "success", "trusted": True, "at": 1.0}
    ways = [
        LabelledPrediction(prediction_id=str(n), inputs={"n": [n]}, outputs={"sum": n}, **said) for n in (7, 7.0, 2**53)
    ]
    ways.append(
        ways[0].model_copy(update={"prediction_id": "x", "inputs": {"n": [float(2**53)]}, "outputs": {"sum": 7}})
    )
    assert [len(rows_of(make_dataset(some))) for some in (ways[:2], ways[:3], ways[:4])] == [1, 2, 1]
    assert make_dataset(ways).left_out == {"Conflicting": 1}
    assert make_dataset(ways[::-1]) == make_dataset(ways)
    assert side_of({"n": 7}) == side_of({"n": 7.0})


@settings(deadline=None)
@given(LABELS)
def test_equal_datasets_and_no_others_have_equal_names(labels):
    whole, part = make_dataset(labels), make_dataset(labels[1:])
    assert (whole.digest == part.digest) == (whole == part)


@settings(deadline=None)
@given(LABELS)
def test_nothing_is_held_out_that_nobody_trusted_has_said(labels):
    trusted = {canonical(said.inputs) for said in labels if said.trusted and said.right is not None}
    assert {canonical(row.inputs) for row in make_dataset(labels).heldout} <= trusted


@settings(deadline=None)
@given(LABELS)
def test_every_row_is_what_a_last_label_says_and_contradicts_none_that_counts(labels):
    said = datasets.last_labels(labels)
    for row in rows_of(make_dataset(labels)):
        votes = [v for v in said if v.inputs == row.inputs and v.right is not None]
        trusted = [v for v in votes if v.trusted]
        assert row.expected == agreed([v.right for v in trusted or votes])


@settings(deadline=None)
@given(LABELS)
def test_failures_that_nobody_mended_give_no_row(labels):
    mended = {canonical(said.inputs) for said in labels if said.right is not None}
    dataset = make_dataset(labels)
    assert set(sides(dataset)) <= mended
    assert all(side_of(r.inputs) == "train" for r in dataset.reasons)


@settings(deadline=None)
@given(LABELS, st.integers(1, 50))
def test_no_source_is_more_than_its_percent_or_one_row(labels, percent):
    dataset = make_dataset(labels, max_percent_per_source=percent)
    seen = {canonical(row.inputs) for row in (*dataset.train, *dataset.validation)}
    said = datasets.last_labels(labels)
    sources: dict[bytes, set[str]] = {}
    for vote in (v for v in said if v.right is not None):
        sources.setdefault(canonical(vote.inputs), set()).add(vote.source if not vote.trusted else "trusted")
    alone = Counter(next(iter(sources[inputs])) for inputs in seen if len(sources[inputs]) == 1)
    alone.pop("trusted", None)
    assert all(count <= max(1, percent * len(seen) / 100) for count in alone.values())


@settings(deadline=None)
@given(LABELS, st.sampled_from(["ticket 1", "billing", "t2", "true"]))
def test_nothing_that_is_hidden_is_anywhere(labels, word):
    dataset = make_dataset(labels, is_hidden=lambda value: word in json.dumps(value))
    assert word.encode() not in b"".join(dataset.files().values())


@settings(deadline=None)
@given(LABELS)
def test_every_input_is_on_a_side_or_counted(labels):
    dataset = make_dataset(labels)
    inputs = {canonical(said.inputs) for said in datasets.last_labels(labels)}
    assert len(sides(dataset)) + sum(dataset.left_out.values()) == len(inputs)


def test_about_sixty_twenty_and_twenty_of_a_hundred():
    counts = Counter(side_of({"ticket": f"ticket {n}"}) for n in range(5000))
    assert [round(counts[side] / 50) for side in ("train", "validation", "heldout")] == pytest.approx(
        [60, 20, 20], abs=2
    )
