"""What callers of one interface may expect of the next. Schemas are pydantic's own."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from despina.decide.schema import incompatibilities


class Place(BaseModel):
    city: str
    zip: str | None = None


class Spot(BaseModel):
    city: str
    zip: str


def interface(inputs: dict, outputs: dict) -> dict:
    def model(name, fields):
        parts = {k: v if isinstance(v, tuple) else (v, ...) for k, v in fields.items()}
        return create_model(name, **parts)

    return {
        "inputs": model("Inputs", inputs).model_json_schema(),
        "outputs": model("Outputs", outputs).model_json_schema(mode="serialization"),
    }


Few, Many = Literal["a", "b"], Literal["a", "b", "c"]
CASES = {
    # name: inputs before, outputs before, inputs after, outputs after, words of the complaint or None
    "the same": ({"q": str}, {"a": str}, {"q": str}, {"a": str}, None),
    "an output more": ({"q": str}, {"a": str}, {"q": str}, {"a": str, "b": int}, None),
    "an output dropped": ({"q": str}, {"a": str, "b": int}, {"q": str}, {"a": str}, "output b is dropped"),
    "an optional input more": ({"q": str}, {"a": str}, {"q": str, "k": (int, 3)}, {"a": str}, None),
    "a required input more": (
        {"q": str}, {"a": str}, {"q": str, "k": int}, {"a": str}, "input k is new and required"),
    "an optional input becomes required": (
        {"q": (str, "")}, {"a": str}, {"q": str}, {"a": str}, "input q is new and required"),
    "an input dropped": ({"q": str, "k": int}, {"a": str}, {"q": str}, {"a": str}, "input k is dropped"),
    "an input's type changes": ({"q": str}, {"a": str}, {"q": int}, {"a": str}, "input q: string is not integer"),
    "an input is widened": ({"q": int}, {"a": str}, {"q": float}, {"a": str}, None),
    "an input is narrowed": ({"q": float}, {"a": str}, {"q": int}, {"a": str}, "input q"),
    "an output is narrowed": ({"q": str}, {"a": float}, {"q": str}, {"a": int}, None),
    "an output is widened": ({"q": str}, {"a": int}, {"q": str}, {"a": float}, "output a"),
    "an output may be null": ({"q": str}, {"a": str}, {"q": str}, {"a": str | None}, "output a: null is not allowed"),
    "an input may be null": ({"q": str}, {"a": str}, {"q": str | None}, {"a": str}, None),
    "an input may not be null any more": ({"q": str | None}, {"a": str}, {"q": str}, {"a": str}, "input q"),
    "fewer values given": ({"q": str}, {"a": Many}, {"q": str}, {"a": Few}, None),
    "more values given": ({"q": str}, {"a": Few}, {"q": str}, {"a": Many}, "'c' is not allowed"),
    "fewer values taken": ({"q": Many}, {"a": str}, {"q": Few}, {"a": str}, "input q: 'c' is not allowed"),
    "any text where some was given": ({"q": str}, {"a": Few}, {"q": str}, {"a": str}, "output a: any value"),
    "a list of other things": ({"q": str}, {"a": list[str]}, {"q": str}, {"a": list[int]}, "output a: integer"),
    "a nested field may be missing": ({"q": str}, {"a": Spot}, {"q": str}, {"a": Place}, "output a: zip"),
    "a nested field is always there now": ({"q": str}, {"a": Place}, {"q": str}, {"a": Spot}, None),
    "a nested input is demanded": ({"q": Place}, {"a": str}, {"q": Spot}, {"a": str}, "input q: zip"),
    "a bound is tightened for callers": (
        {"q": str}, {"a": str}, {"q": Annotated[str, Field(max_length=9)]}, {"a": str}, "maxLength is not set, not 9"),
    "a bound is loosened for callers": (
        {"q": Annotated[int, Field(ge=1)]}, {"a": str}, {"q": Annotated[int, Field(ge=0)]}, {"a": str}, None),
    "an output's bound is given up": (
        {"q": str}, {"a": Annotated[float, Field(le=1)]}, {"q": str}, {"a": float}, "output a: maximum"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_cases(case):
    in_before, out_before, in_after, out_after, words = CASES[case]
    found = incompatibilities(interface(in_before, out_before), interface(in_after, out_after))
    assert (words is None) == (found == []), found
    if words:
        assert any(words in text for text in found), found


TYPES = st.sampled_from([str, int, float, bool, Few, Many, list[str], list[int], Place, Spot, str | None])
FIELDS = st.dictionaries(st.sampled_from("abcd"), TYPES, min_size=1)


@given(FIELDS, FIELDS)
def test_every_interface_is_compatible_with_itself(inputs, outputs):
    same = interface(inputs, outputs)
    assert incompatibilities(same, same) == []


@given(FIELDS, FIELDS, st.data())
def test_whatever_is_called_compatible_takes_the_old_callers_values(inputs, after, data):
    """A value that the old inputs allow is allowed by the new ones, where nothing was found wrong."""
    old, new = interface(inputs, {"a": str}), interface(after, {"a": str})
    if incompatibilities(old, new):
        return
    for name in inputs:
        assert name in after
    required = set(new["inputs"].get("required", ()))
    assert required <= set(inputs)
