"""What MLflow holds of labels, as labelled predictions: all that anybody may have written there is read, or counted."""

from __future__ import annotations

import base64
import json
from collections import Counter

import pytest

from despina.wire import FeedbackConfig
from despina_runtime.optimization import labels
from despina_runtime.optimization.datasets import LabelledPrediction, make_dataset
from despina_runtime.optimization.labels import Labels, Reading, plain
from despina_runtime.optimization.plan import hidden_by

ORIGIN = "r1-1f400a000001-0a0b0c0d-6643f2a1-7"
NAME, HIT = f"{ORIGIN}-{'0' * 16}", f"{ORIGIN}~0a0b0c0d8-{'1' * 16}"
ROOT = "00000000000000aa"
OWN = {"despina.at": "100.5", "despina.prediction": NAME, "despina.trusted": "true"}


def said(name: str = "label", value: object = "failure", at: float = 100.5, **changes) -> dict:
    """An assessment as the program writes it."""
    own = {"expectation": {"serialized_value": {"value": json.dumps(value)}}}
    return {
        "assessment_name": name,
        "source": {"source_type": "HUMAN", "source_id": "desk"},
        "create_time": "1970-01-01T00:01:00Z",
        "last_update_time": "1970-01-01T00:02:00Z",
        "metadata": {**OWN, "despina.at": str(at)},
        **(own if name == "expected" else {"feedback": {"value": value}}),
    } | changes


def clicked(name: str = "label", value: object = "failure", second: int = 30, **changes) -> dict:
    """One that somebody has added in MLflow's own pages."""
    found = said(name, value, last_update_time=f"1970-01-01T00:02:{second}Z", **changes)
    found["source"] = {"source_type": "HUMAN", "source_id": "jane"}
    del found["metadata"]
    return found


def attribute(name: str, text: str) -> dict:
    return {"key": name, "value": {"string_value": text}}


def trace(*attributes: dict, **changes) -> dict:
    """A prediction as the program delivers it, with what one module did."""
    own = [
        attribute("mlflow.spanInputs", '{"ticket": "help"}'),
        attribute("mlflow.spanOutputs", '{"category": "bug"}'),
        attribute("despina.prediction", ORIGIN),
    ]
    root = {"span_id": base64.b64encode(bytes.fromhex(ROOT)).decode(), "attributes": [*own, *attributes]}
    part = {"span_id": "AAAAAAAAALs=", "parent_span_id": root["span_id"]}
    return {"trace_info": {"trace_id": "t"}, "spans": [part, root | changes]}


def read(*assessments: object, until: float | None = None, of: dict | None = None) -> Labels:
    reading = Reading(until)
    wanted = reading.take([{"trace_id": "t", "assessments": list(assessments)}])
    reading.meet([of or trace()] if wanted else [])
    return reading.labels


def test_what_the_program_has_written():
    found = read(said(rationale="it is an invoice"), said("expected", {"category": "billing"}))
    assert found == Labels(
        (
            LabelledPrediction(
                prediction_id=ORIGIN,
                inputs={"ticket": "help"},
                outputs={"category": "bug"},
                label="failure",
                reason="it is an invoice",
                expected={"category": "billing"},
                source="desk",
                trusted=True,
                at=100.5,
            ),
        )
    )


def test_what_somebody_adds_in_mlflow_is_not_trusted_and_a_vote_on_the_same_prediction():
    found = read(said(), clicked(value="success"), clicked("expected", {"category": "billing"})).predictions
    assert [(one.label, one.trusted, one.source, one.at) for one in found] == [
        ("failure", True, "desk", 100.5),
        ("success", False, "jane", 150.0),
    ]
    assert [one.expected for one in found] == [None, {"category": "billing"}]
    assert {one.prediction_id for one in found} == {ORIGIN}


def test_each_answer_that_came_from_a_cache_has_a_vote_of_its_own():
    of_hit = said(metadata={**OWN, "despina.prediction": HIT})
    found = read(said(), of_hit).predictions
    assert {one.prediction_id for one in found} == {ORIGIN, HIT.rpartition("-")[0]}


LATER = said("expected", {"category": "billing"}, at=99.0)
COUNTED = {
    "all": ([said()], None, "failure None"),
    "one that was given by then": ([said()], 100.5, "failure None"),
    "none that was given later": ([said()], 100.4, ""),
    "none that was clicked later": ([clicked()], 149.9, ""),
    "one that was clicked by then": ([clicked()], 150.0, "failure None"),
    "what was expected with an earlier word does not count": ([said(), LATER], None, "failure None"),
    "an older word of MLflow's own": ([clicked(valid=False), clicked(value="success")], None, "success None"),
    "the last that was expected": (
        [clicked(), clicked("expected", {"c": 2}, 40), clicked("expected", {"c": 1}, 20)],
        None,
        "failure {'c': 2}",
    ),
    "what was typed as JSON": ([clicked(), clicked("expected", '{"c": 1}')], None, "failure {'c': 1}"),
    "what is about the whole of it": ([said(span_id=ROOT)], None, "failure None"),
}


@pytest.mark.parametrize("sentence", COUNTED)
def test_which_words_count(sentence):
    assessments, until, expected = COUNTED[sentence]
    found = read(*assessments, until=until)
    assert [f"{one.label} {one.expected}" for one in found.predictions] == ([expected] if expected else [])
    assert found.left_out == {}


def test_a_value_in_parts_is_read_as_what_it_means():
    parts = [{"key": "a", "value": {"int_value": "5"}}, {"key": "b", "value": {}}]
    inputs = {
        "kvlist_value": {
            "values": [*parts, {"key": "c", "value": {"array_value": {"values": [{"bool_value": True}, {}]}}}]
        }
    }
    assert plain(inputs) == {"a": 5, "b": None, "c": [True, None]}
    assert plain({"kvlist_value": {}}) == {}
    found = read(said(), of=trace({"key": "mlflow.spanInputs", "value": inputs}))
    assert found.predictions[0].inputs == {"a": 5, "b": None, "c": [True, None]}


LEFT_OUT = {
    "a word that is none": ([said(value="maybe")], None, "Unreadable"),
    "a value that is no word": ([said(value=[1])], None, "Unreadable"),
    "no value": ([said(feedback={})], None, "Unreadable"),
    "no assessment": ([said(source=7)], None, "Unreadable"),
    "no time": ([said(last_update_time="never")], None, "Unreadable"),
    "what was expected is no JSON": ([said(), said("expected", expectation={"value": "billing"})], None, "Unreadable"),
    "what was expected has no names": ([said(), said("expected", ["billing"])], None, "Unreadable"),
    "a machine's": ([said(source={"source_type": "LLM_JUDGE"})], None, "NotHuman"),
    "of a prediction that was not recorded": ([said()], {"attributes": []}, "Unrecorded"),
    "of inputs that are no names": ([said()], attribute("mlflow.spanInputs", "help"), "Unreadable"),
    "of outputs that are no names": ([said()], attribute("mlflow.spanOutputs", "[1]"), "Unreadable"),
    "of a module that was asked by itself": ([said()], attribute("despina.module", "classify"), "OfModule"),
    "of a part": ([said(span_id="00000000000000bb")], None, "OfModule"),
    "of a trace without a root": ([said()], {"parent_span_id": "AAAAAAAAALs="}, "Unreadable"),
    "of a trace of which nothing is said": ([said()], {"attributes": [{"key": "x"}, {"value": 5}]}, "Unreadable"),
}


@pytest.mark.parametrize("sentence", LEFT_OUT)
def test_what_gives_none_is_counted(sentence):
    assessments, changed, why = LEFT_OUT[sentence]
    of = trace(changed) if changed and "key" in changed else trace(**(changed or {}))
    assert read(*assessments, of=of) == Labels((), {why: 1})


@pytest.mark.parametrize("strange", [None, 7, "label", [], {}, {"assessment_name": "other"}])
def test_what_is_none_of_ours_is_passed_over(strange):
    assert len(read(said(), strange).predictions) == 1


@pytest.mark.parametrize("metadata", [{}, {**OWN, "despina.at": "nan"}, {**OWN, "despina.trusted": "yes"}, {"x": "y"}])
def test_without_all_that_the_program_notes_nobody_is_trusted(metadata):
    (found,) = read(said(metadata=metadata)).predictions
    assert (found.trusted, found.at, found.prediction_id) == (False, 120.0, ORIGIN)


def test_a_trace_that_mlflow_does_not_give_is_counted():
    reading = Reading(None)
    assert reading.take([{"trace_id": "t", "assessments": [said()]}, {"trace_id": "u"}]) == ["t"]
    reading.meet([])
    assert reading.labels == Labels((), {"NotGiven": 1})


def test_more_than_there_is_room_for_is_counted(monkeypatch):
    monkeypatch.setattr(labels, "MOST_BYTES", 10)
    reading = Reading(None)
    for name in ("t", "u"):
        wanted = reading.take([{"trace_id": name, "assessments": [said()]}])
        reading.meet([trace()] if wanted else [])
    assert (len(reading.labels.predictions), reading.labels.left_out) == (1, {"TooMuch": 1})


def test_also_within_one_trace_and_reasons_count(monkeypatch):
    monkeypatch.setattr(labels, "MOST_BYTES", 1000)
    many = [said(rationale="x" * 600, metadata={**OWN, "despina.prediction": f"{ORIGIN}~{n}-mac"}) for n in range(5)]
    found = read(*many)
    assert (len(found.predictions), found.left_out) == (2, {"TooMuch": 3})


def nested(levels: int) -> dict:
    found: dict = {}
    for _ in range(levels - 1):
        found = {"a": found}
    return found


@pytest.mark.parametrize("levels", [33, 198, 260, 700])
def test_what_is_nested_too_deep_is_left_out_and_stops_nothing(levels):
    deep = json.dumps(nested(levels))
    assert read(said(), said("expected", deep)).left_out == {"Unreadable": 1}
    assert read(said(), of=trace(attribute("mlflow.spanInputs", deep))).left_out == {"Unreadable": 1}
    assert len(read(said(), said("expected", json.dumps(nested(31)))).predictions) == 1


HIDDEN = {
    "what was hidden": ({"ticket": "write to [redacted]"}, True),
    "a field that was hidden": ({"a": [{"iban": "[redacted]"}]}, True),
    "what would be hidden": ({"ticket": "write to jane@example.com"}, True),
    "a field that would be hidden": ({"a": [{"name": "Jane"}]}, True),
    "what a pattern would hide": ({"ticket": "case C-77"}, True),
    "what nobody hides": ({"ticket": "help"}, False),
}


@pytest.mark.parametrize("payloads", ["Full", "Redacted"])
@pytest.mark.parametrize("sentence", HIDDEN)
def test_no_row_is_made_of_what_is_hidden(sentence, payloads):
    inputs, is_hidden = HIDDEN[sentence]
    feedback = FeedbackConfig(payloads=payloads, redacted_fields=("name",), redacted_patterns=(r"C-\d+",))
    (label,) = read(said(value="success"), of=trace(attribute("mlflow.spanInputs", json.dumps(inputs)))).predictions
    dataset = make_dataset([label], is_hidden=hidden_by(feedback))
    assert dataset.left_out == ({"Hidden": 1} if is_hidden else {})


def test_what_is_hidden_without_any_settings():
    assert hidden_by(None)({"ticket": "write to jane@example.com"})
    assert Counter(map(hidden_by(None), ["help", 5, None, ["[redacted]"]])) == {False: 3, True: 1}
