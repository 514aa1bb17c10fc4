"""The metrics that have a name: what a score is, and that no answer makes one of them fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from despina_runtime.evaluation.examples import Shape, Unusable, read_rows
from despina_runtime.evaluation.metrics import BUILT_IN, contains, exact_match, f1

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from("abc"), JSON, min_size=1)


@pytest.mark.parametrize(
    ("metric", "expected", "outputs", "score"),
    [
        (exact_match, {"a": "x"}, {"a": " x "}, 1.0),
        (exact_match, {"a": "x", "b": 1}, {"a": "x", "b": 2}, 0.0),
        (exact_match, {"a": {"k": 1, "j": [1]}}, {"a": {"j": [1], "k": 1}}, 1.0),
        (exact_match, {"a": "x"}, {}, 0.0),
        (exact_match, {"a": "x"}, {"a": "x", "b": "more"}, 1.0),
        (contains, {"a": "Paris"}, {"a": "It is paris."}, 1.0),
        (contains, {"a": "Paris"}, {"a": "Rome"}, 0.0),
        (f1, {"a": "a b"}, {"a": "b c"}, 0.5),
        (f1, {"a": "x", "b": "y"}, {"a": "x", "b": "z"}, 0.5),
    ],
)
def test_a_score(metric, expected, outputs, score):
    assert metric(expected, outputs) == score


@pytest.mark.parametrize("name", sorted(BUILT_IN))
@given(expected=FIELDS, outputs=FIELDS)
def test_every_answer_has_a_score_between_nothing_and_all(name, expected, outputs):
    assert 0 <= BUILT_IN[name](expected, outputs) <= 1
    assert exact_match(expected, expected) == 1


def test_a_program_is_never_told_what_it_says_that_it_gives():
    both = {"properties": {"ticket": {}, "category": {}}}
    lying = Shape.model_validate({"inputs": both, "outputs": {"properties": {"category": {}}}})
    (row,) = read_rows([{"ticket": "t", "category": "c"}], lying, "ExactMatch", 1)
    assert (row.inputs, row.expected) == ({"ticket": "t"}, {"category": "c"})
    only = Shape.model_validate({"inputs": both, "outputs": {"properties": {}}})
    with pytest.raises(Unusable, match="no expected outputs"):
        read_rows([{"ticket": "t", "category": "c"}], only, "ExactMatch", 1)
