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


BOUNDS = {
    "minimum": 1, "exclusiveMinimum": 1, "minLength": 1, "minItems": 1,
    "maximum": -1, "exclusiveMaximum": -1, "maxLength": -1, "maxItems": -1,
}  # fmt: skip


def bounded(**bounds) -> dict:
    return {"type": "number", **bounds}


NODE = {"$ref": "#/$defs/Node"}
TEXT, NUMBER, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
NAMED = {"anyOf": [TEXT, {"title": "Place", "type": "object"}, {"const": 5}, {"minimum": 1}]}
RAW: dict[str, tuple[dict, dict, list[str]]] = {
    # sentence: what is given, what is taken, what does not fit
    "anything where anything goes": ({}, {}, []),
    "text where anything goes": (TEXT, {}, []),
    "anything where only text goes": ({}, TEXT, ["any value is not string"]),
    "a whole number where a number goes": (WHOLE, NUMBER, []),
    "a number where a whole number goes": (NUMBER, WHOLE, ["number is not integer"]),
    **{f"as narrow a {bound}": (bounded(**{bound: 2}), bounded(**{bound: 2}), []) for bound in BOUNDS},
    **{f"no {bound} where one is asked for": (NUMBER, bounded(**{bound: 2}), [f"{bound} is not set, not 2"]) for bound in BOUNDS},
    **{f"a {bound} where none is asked for": (bounded(**{bound: 2}), NUMBER, []) for bound in BOUNDS},
    **{f"a narrower {b}": (bounded(**{b: 2 + sign}), bounded(**{b: 2}), []) for b, sign in BOUNDS.items()},
    **{f"a wider {b}": (bounded(**{b: 2 - sign}), bounded(**{b: 2}), [f"{b} is {2 - sign}, not 2"]) for b, sign in BOUNDS.items()},
    "two things wrong": ({"type": "number", "maximum": 9}, {"type": "number", "minimum": 1, "maximum": 5}, ["minimum is not set, not 1", "maximum is 9, not 5"]),
    "one value of many": ({"const": "a"}, {"enum": ["a", "b"]}, []),
    "another value": ({"const": "c"}, {"enum": ["a", "b"]}, ["'c' is not allowed"]),
    "the same value": ({"const": "a"}, {"const": "a"}, []),
    "many values where one goes": ({"enum": ["a", "b"]}, {"const": "a"}, ["'b' is not allowed"]),
    "any value where one goes": (TEXT, {"const": "a"}, ["any value is given where only some are allowed"]),
    "some values where any go": ({"enum": ["a"]}, {}, []),
    "a list of numbers where whole ones go": ({"type": "array", "items": NUMBER}, {"type": "array", "items": WHOLE}, ["number is not integer"]),
    "a list of anything": ({"type": "array"}, {"type": "array", "items": WHOLE}, []),
    "a list where any goes": ({"type": "array", "items": NUMBER}, {"type": "array"}, []),
    "a field that may be missing": (
        {"type": "object", "properties": {"a": TEXT}}, {"type": "object", "required": ["a"]}, ["a may be missing"]),
    "a field that is there": ({"type": "object", "required": ["a"]}, {"type": "object", "required": ["a"]}, []),
    "a field of another kind": ({"properties": {"a": NUMBER, "b": TEXT}}, {"properties": {"a": TEXT}}, ["a: number is not string"]),
    "one of several": (TEXT, {"anyOf": [NUMBER, TEXT]}, []),
    "none of several": (TEXT, {"oneOf": [NUMBER, WHOLE]}, ["string is not allowed"]),
    "several where one goes": (NAMED, TEXT, ["Place is not allowed", "5 is not allowed", "a value is not allowed"]),
    "an only alternative": ({"anyOf": [TEXT]}, {"anyOf": [TEXT]}, []),
    "a list of alternatives": ({"items": {"anyOf": [TEXT, NUMBER]}}, {"items": TEXT}, ["number is not allowed"]),
    "by its name": (NODE, NODE, ["next: number is not string"]),
    "one of several by its name": ({"anyOf": [NODE, TEXT]}, {"anyOf": [TEXT, {"type": "null"}]}, ["node is not allowed"]),
    "alternatives by their names": ({"anyOf": [TEXT, {"type": "null"}]}, {"anyOf": [{"$ref": "#/$defs/Text"}, {"type": "null"}]}, []),
    "a name that stands for nothing": (TEXT, {"$ref": "#/$defs/Gone"}, []),
}  # fmt: skip
GIVEN_DEFS = {"Node": {"title": "node", "properties": {"next": NUMBER}}}
TAKEN_DEFS = {"Node": {"title": "node", "properties": {"next": TEXT}}, "Text": TEXT}


@pytest.mark.parametrize("sentence", RAW)
def test_inputs_may_be_wider_and_outputs_narrower(sentence):
    given_, taken, wanted = RAW[sentence]
    given_ = {"properties": {"x": given_}, "$defs": GIVEN_DEFS}
    taken = {"properties": {"x": taken}, "$defs": TAKEN_DEFS}
    assert incompatibilities({"inputs": given_}, {"inputs": taken}) == [f"input x: {why}" for why in wanted]
    assert incompatibilities({"outputs": taken}, {"outputs": given_}) == [f"output x: {why}" for why in wanted]


def test_everything_that_is_wrong_is_told_once_and_in_order():
    before = {
        "inputs": {"properties": {"a": TEXT, "b": TEXT}, "required": ["a"]},
        "outputs": {"properties": {"c": TEXT, "d": TEXT}},
    }
    after = {
        "inputs": {"properties": {"b": NUMBER, "e": TEXT}, "required": ["b", "e"]},
        "outputs": {"properties": {"d": NUMBER, "f": TEXT}},
    }
    assert incompatibilities(before, after) == [
        "output c is dropped",
        "input a is dropped",
        "input b is new and required",
        "input e is new and required",
        "input b: string is not number",
        "output d: number is not string",
    ]
    assert incompatibilities({}, {}) == []


def test_a_type_that_holds_itself_is_compared_as_deep_as_can_matter():
    def tree(leaf: str, depth: int) -> dict:
        return {"type": leaf} if depth == 0 else {"type": "array", "items": tree(leaf, depth - 1)}

    def found(depth: int) -> list[str]:
        taken, given_ = ({"properties": {"x": tree(leaf, depth)}} for leaf in ("integer", "string"))
        return incompatibilities({"inputs": given_}, {"inputs": taken})

    assert found(12) == ["input x: string is not integer"]
    assert found(13) == []
    loop = {"properties": {"x": NODE}, "$defs": {"Node": {"type": "object", "properties": {"next": NODE}}}}
    assert incompatibilities({"inputs": loop}, {"inputs": loop}) == []


class Syntax(BaseModel):
    """An honest type that holds itself in many ways."""

    left: Syntax | None = None
    right: Syntax | None = None
    body: Syntax | None = None
    otherwise: Syntax | None = None
    every: list[Syntax] = []


def entwined(count: int) -> dict:
    """A type whose every field is itself: as many ways lead to each depth as `count` to its power."""
    fields = {f"p{n}": NODE for n in range(count)}
    return {"properties": {"x": NODE}, "$defs": {"Node": {"type": "object", "properties": fields}}}


def one_field(**schema) -> dict:
    return {"properties": {"x": schema}}


def options(first: int, count: int) -> dict:
    return one_field(anyOf=[{"const": n} for n in range(first, first + count)])


TOO_MUCH = ["the interface is too intricate to compare"]
MANY = [f"f{n}" for n in range(15_000)]
OTHERS = [f"g{n}" for n in range(15_000)]
SPENT = {
    # name: what is given, what is taken, the complaints
    "a tree of syntax": (interface({"tree": Syntax}, {})["inputs"], interface({"tree": Syntax}, {})["inputs"], []),
    "a type that is each of its fields": (entwined(8), entwined(8), []),
    "more fields than anybody has": (entwined(10_000), entwined(10_000), TOO_MUCH),
    "a list of countries": (one_field(enum=MANY[:300]), one_field(enum=MANY[:300]), []),
    "lists of values that have nothing in common": (one_field(enum=MANY), one_field(enum=OTHERS), TOO_MUCH),
    "values without end": (one_field(const="a" * 2_000_000), one_field(const="a" * 2_000_000), TOO_MUCH),
    "as many alternatives as fit": (options(0, 100), options(0, 100), []),
    "alternatives that have nothing in common": (options(0, 200), options(500, 200), TOO_MUCH),
    "fields that are demanded and not given": (one_field(required=MANY), one_field(required=OTHERS), TOO_MUCH),
}  # fmt: skip


@pytest.mark.parametrize("case", SPENT)
def test_a_comparison_ends_however_the_schemas_are_made(case):
    given_, taken, wanted = SPENT[case]
    assert incompatibilities({"inputs": given_}, {"inputs": taken}) == wanted
    assert incompatibilities({"outputs": taken}, {"outputs": given_}) == wanted


def test_both_directions_are_of_one_comparison():
    part = one_field(enum=MANY[:6000])
    assert incompatibilities({"inputs": part}, {"inputs": part}) == []
    assert incompatibilities({"inputs": part, "outputs": part}, {"inputs": part, "outputs": part}) == TOO_MUCH


def test_values_are_compared_as_json_has_them():
    for value, same in ((1, 1.0), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (None, None)):
        assert incompatibilities({"inputs": one_field(enum=[value])}, {"inputs": one_field(enum=[same])}) == []
    for value, other in ((1, True), (0, False), ("[1]", [1]), ("null", None)):
        assert incompatibilities({"inputs": one_field(enum=[value])}, {"inputs": one_field(enum=[other])}) == [
            f"input x: {value!r} is not allowed"
        ]


def test_what_is_told_is_short():
    """However many ways lead to a complaint, and however long names are."""
    name = "n" * 1000
    wrong = {name: TEXT} | {f"p{n}": NODE for n in range(3)}
    right = {name: NUMBER} | {f"p{n}": NODE for n in range(3)}
    given_, taken = ({"properties": {"x": NODE}, "$defs": {"Node": {"properties": f}}} for f in (wrong, right))
    told = incompatibilities({"inputs": given_}, {"inputs": taken})
    assert told[0] == f"input x: {'n' * 253}"
    assert len(told) == 20
    assert max(map(len, told)) < 300


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
