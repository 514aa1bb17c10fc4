"""The form that a schema becomes, what is read from it, and what differs between two versions: whatever pods say."""

from __future__ import annotations

import json
import time

import pytest

from despina.dashboard.answers import as_text, shown_answer
from despina.dashboard.diffs import MORE, ROOM, prompt_diff, schema_diff
from despina.dashboard.forms import MOST_SHOWN, at_first, fields_of, read, refused
from despina.dashboard.quoted import LONGEST_QUOTED, Piece, compared, quoted
from despina.dashboard.replay import beside, recorded_of
from despina.dashboard.schemas import read_interface
from despina.dashboard.words import NOTHING
from despina.wire import Answered, Prompt, Prompts, Trace, TraceSpan
from tests.support.page import HOSTILE

CITY = {
    "type": "object",
    "title": "City",
    "properties": {"name": {"type": "string"}, "within": {"$ref": "#/$defs/City"}},
}
ODD = {"$ref": "#/$defs/A"}


def schema(required=(), defs=None, **fields) -> dict:
    return {"inputs": {"type": "object", "properties": fields, "required": list(required), "$defs": defs or {}}}


KINDS = {
    "a text": ({"type": "string"}, "text", "text"),
    "a number": ({"type": "number", "minimum": 0}, "number", "number; at least 0"),
    "a whole number": ({"type": "integer", "exclusiveMaximum": 9}, "integer", "whole number; less than 9"),
    "a truth value": ({"type": "boolean"}, "choice", "true or false"),
    "one of some": ({"enum": ["a", "b"], "type": "string"}, "choice", 'one of "a", "b"'),
    "one alone": ({"const": 5}, "choice", "one of 5"),
    "an enumeration elsewhere": ({"$ref": "#/$defs/E"}, "choice", 'one of "x"'),
    "one of too many": ({"enum": list(range(500))}, "json", "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 191 more"),
    "a list": ({"type": "array", "items": {"type": "string"}, "maxItems": 3}, "json", "list of text; 3 entries at most"),
    "an object": ({"$ref": "#/$defs/City"}, "json", "City"),
    "a text or nothing": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text", "text or nothing"),
    "one of two types": ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "json", "text or whole number"),
    "anything": ({}, "json", "any value"),
    "what refers to itself alone": ({"$ref": "#/$defs/A"}, "json", "any value"),
    "what refers to nothing": ({"$ref": "#/$defs/None"}, "json", "any value"),
    "no schema": ("nonsense", "json", "any value"),
    "lists without end": ({"$ref": "#/$defs/L"}, "json", "list of list of list of list of list of …"),
}  # fmt: skip
DEFS = {"E": {"enum": ["x"]}, "City": CITY, "A": ODD, "L": {"type": "array", "items": {"$ref": "#/$defs/L"}}}


@pytest.mark.parametrize(("given", "kind", "hint"), KINDS.values(), ids=KINDS)
def test_a_field_is_what_its_type_says(given, kind, hint):
    (field,) = fields_of(schema(["x"], DEFS, x=given))
    assert (field.kind, field.hint, field.is_required) == (kind, hint, True)


def test_a_form_begins_with_the_defaults():
    found = at_first(
        fields_of(
            schema(
                a={"type": "string", "default": "hello"},
                b={"enum": ["x", "y"], "default": "y"},
                c={"type": "array", "default": [1, 2]},
                d={"type": "boolean", "default": False},
                e={"type": "integer", "default": None},
            )
        )
    )
    assert [one.value for one in found] == ["hello", "1", "[1, 2]", "1", ""]


REQUIRED = schema(
    ["text", "count", "ratio", "flag", "list", "maybe"], text={"type": "string"}, count={"type": "integer"},
    ratio={"type": "number"}, flag={"type": "boolean"}, list={"type": "array"},
    maybe={"anyOf": [{"type": "string"}, {"type": "null"}]},
)  # fmt: skip
GOOD = {"f0": "a\r\nb", "f1": "7", "f2": "0.5", "f3": "0", "f4": "[1]", "f5": ""}


def test_what_is_written_becomes_the_inputs():
    filled, inputs = read(fields_of(REQUIRED), GOOD)
    assert json.loads(inputs) == {
        "text": "a\nb", "count": 7, "ratio": 0.5, "flag": True, "list": [1], "maybe": None
    }  # fmt: skip
    assert not any(one.error for one in filled)


WRONG = {
    "no number": ({"f1": "seven"}, "count"),
    "a broken number": ({"f1": "7.5"}, "count"),
    "a truth value for a number": ({"f2": "true"}, "ratio"),
    "what is no number": ({"f2": "NaN"}, "ratio"),
    "what no float holds": ({"f2": "1e999"}, "ratio"),
    "nothing where something is required": ({"f1": " "}, "count"),
    "nothing chosen": ({"f3": ""}, "flag"),
    "what cannot be chosen": ({"f3": "2"}, "flag"),
    "what is no place in the list": ({"f3": "-1"}, "flag"),
    "no JSON": ({"f4": "[1,"}, "list"),
    "JSON without an end": ({"f4": "[" * 100_000}, "list"),
    "a number of too many digits": ({"f1": "9" * 5000}, "count"),
}


@pytest.mark.parametrize(("changed", "name"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_stands_beside_its_field_and_nothing_is_asked(changed, name):
    filled, inputs = read(fields_of(REQUIRED), GOOD | changed)
    assert inputs == ""
    assert {one.field.name for one in filled if one.error} == {name}


def test_what_may_be_left_out_and_is_empty_is_left_out():
    fields = fields_of(schema(text={"type": "string", "default": "x"}, count={"type": "integer"}))
    assert read(fields, {"f0": "", "f1": ""})[1] == "{}"


def test_an_empty_text_that_is_required_is_a_text():
    assert read(fields_of(schema(["t"], t={"type": "string"})), {"f0": ""})[1] == '{"t": ""}'


def test_inputs_of_too_many_fields_are_written_as_one_object():
    many = schema(**{f"x{n}": {"type": "string"} for n in range(1000)})
    (field,) = fields_of(many)
    assert len(fields_of(schema(**{f"x{n}": {} for n in range(MOST_SHOWN)}))) == MOST_SHOWN
    assert read([field], {"all": '{"x1": "y"}'})[1] == '{"x1": "y"}'
    assert read([field], {"all": "[]"})[0][0].error


PROBLEM = {
    "title": "The input does not fit",
    "errors": [
        {"field": "count", "message": "too small"},
        {"field": "list.0.name", "message": "missing"},
        {"field": "(body)", "message": "200 errors in all"},
        "nonsense",
    ],
}


def test_what_the_program_refuses_stands_beside_its_field():
    filled, rest = refused(read(fields_of(REQUIRED), GOOD)[0], PROBLEM)
    assert {one.field.name: one.error for one in filled if one.error} == {
        "count": "too small", "list": "list.0.name: missing"
    }  # fmt: skip
    assert rest == ["(body): 200 errors in all"]


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"nonsense", b"\xff", b"[" * 10_000, b'{"inputs": 5}', b'{"inputs": {"properties": []}}']
)
def test_what_is_no_interface_is_a_form_all_the_same(said):
    interface = read_interface(said)
    assert [field.kind for field in fields_of(interface)] == ["json"]
    assert schema_diff(interface, interface) == []


def test_fields_that_came_went_and_are_others():
    old = schema(
        ["a"], a={"type": "string"}, b={"type": "integer", "minimum": 1}, c={"type": "string"}, d=CITY, defs=DEFS
    )
    new = schema(
        ["a"], a={"type": "string"}, b={"type": "integer", "minimum": 2}, e={"type": "string"}, d=CITY, defs=DEFS
    )
    new["outputs"], new["instructions"] = {"properties": {"x": {"type": "string"}}}, "Be brief."
    found = schema_diff(old, new)
    assert [(change.what, change.kind) for change in found] == [
        ("instructions", "added"), ("input b", "changed"), ("input c", "removed"), ("input e", "added"),
        ("output x", "added"),
    ]  # fmt: skip
    assert [piece.text for piece in found[1].after if piece.mark] == ["2"]
    assert schema_diff(old, old) == []


def test_fields_within_fields_are_compared():
    def within(kind: str) -> dict:
        return schema(x={"type": "array", "items": {"type": "object", "properties": {"y": {"type": kind}}}})

    assert [change.what for change in schema_diff(within("string"), within("integer"))] == ["input x.y"]


def test_comparing_ends_soon_whatever_is_compared():
    tree = {"type": "object", "properties": {f"p{n}": {"$ref": "#/$defs/T"} for n in range(50)}}
    old, new = (schema(defs={"T": tree | {"title": title}}, x={"$ref": "#/$defs/T"}) for title in ("a", "b"))
    began = time.perf_counter()
    assert 0 < len(schema_diff(old, new)) <= 101
    words = " ".join(f"{n % 7} {n % 5} {n % 3}" for n in range(100_000))
    compared(words, words[1:])
    compared("a b " * 30, "b a c " * 20)
    assert time.perf_counter() - began < 10


def amplified() -> dict[str, dict]:
    """Small schemas with more ways through them than there is time for, or that repeat what is long."""
    wide = {"anyOf": [{"$ref": "#/$defs/A"}] * 200}
    long = {"title": "t" * 300_000, "type": "object", "properties": {}, "required": ["r"] * 50_000}
    pads = {f"k{n}": 0 for n in range(20_000)}
    defs = {
        "ways": wide, "ways of long ones": {"anyOf": [{"$ref": "#/$defs/A", "x": 1}] * 20, **pads},
        "titles": {"anyOf": [{"$ref": "#/$defs/A"}] * 10 + [{"$ref": "#/$defs/B"}]},
        "values": {"enum": ["v" * 4000] * 200}, "default": {"type": "array", "default": [0] * 200_000},
        "no schemas": {"anyOf": [0] * 400_000}, "empty ones": {"anyOf": [{"$ref": "#/$defs/B"}] * 10},
        "bounds": {"anyOf": [{"minimum": 10**4000, "maximum": 10**4000}] * 50},
    }  # fmt: skip
    fields = {f"f{n}": {"$ref": "#/$defs/A"} for n in range(100)}
    return {name: schema(defs={"A": one, "B": long}, **fields) for name, one in defs.items()}


@pytest.mark.parametrize("given", amplified().values(), ids=amplified())
def test_reading_a_schema_ends_soon_however_often_it_leads_to_the_same(given):
    began = time.perf_counter()
    assert len(fields_of(given)) == 100
    assert len(schema_diff({}, given)) <= 101
    assert time.perf_counter() - began < 10


def prompts(*demos: str, instructions: str = "Classify.", lm: str = "main", path: str = "classify") -> Prompts:
    return Prompts(modules=(Prompt(path=path, lm=lm, instructions=instructions, demos=demos, demo_count=len(demos)),))


def test_what_differs_in_prompts():
    found = prompt_diff(prompts("a", "b"), prompts("b", "c", instructions="Classify well.", lm="big"), True)
    assert [(change.what, change.kind) for change in found] == [
        ("classify: LM", "changed"), ("classify: instructions", "changed"), ("classify: demonstrations", "changed"),
        ("classify: demonstration", "removed"), ("classify: demonstration", "added"),
    ]  # fmt: skip
    assert prompt_diff(prompts("a"), prompts("a"), True) == []


def test_without_the_right_no_word_of_prompts_is_told():
    found = prompt_diff(prompts("my own words"), prompts("other words", instructions="secret"), False)
    assert [change.what for change in found] == ["classify: instructions", "classify: demonstrations"]
    assert "words" not in str(found).replace("'demonstrations'", "")
    assert "secret" not in str(found)


def test_a_module_that_is_gone():
    found = prompt_diff(prompts(path="a"), prompts(path="b"), True)
    assert {("a: module", "removed"), ("b: module", "added")} <= {(change.what, change.kind) for change in found}


def test_prompts_without_end_are_cut():
    many = Prompts(modules=tuple(Prompt(path=f"m{n}", instructions="x" * 10**5) for n in range(1000)))
    assert len(many.modules) == 64
    found = prompt_diff(Prompts(), many, True)
    assert found[-1] is MORE
    assert sum(len(piece.text) for change in found for piece in (*change.before, *change.after)) < 2 * ROOM


def test_what_differs_in_two_texts_is_marked_and_nothing_is_lost():
    before, after = compared("the red cat sat", "the blue cat sat down")
    assert before == (Piece("the "), Piece("red", "del"), Piece(" cat sat"))
    assert "".join(piece.text for piece in after) == "the blue cat sat down"
    assert compared("", "") == ((), ())
    assert compared("", "x")[1] == (Piece("x", "ins"),)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_words_are_quoted(text):
    found = quoted(text)
    assert len(found) <= LONGEST_QUOTED * 6 + 60
    assert not set(found) & {"\x00", "\x1b", "\u202e", "\u2066", "\u200f", "\u2028", "\r", "\x7f", "\ud800"}
    found.encode()
    assert as_text([text])
    assert shown_answer(
        Answered(status=200, said=json.dumps({text[:100]: text}), version=text[:50], cost_usd=text[:99])
    )


def a_trace(**more) -> Trace:
    root = TraceSpan(id="a" * 16, inputs='{"q": "why"}', outputs='{"a": "since", "b": 1}')
    return Trace(**{"id": "rev7-x-1", "version": "7", "status": 200, "spans": (root,)} | more)


def test_both_answers_side_by_side():
    recorded = recorded_of("t", a_trace())
    found = beside(recorded, Answered(status=200, said='{"a": "because", "b": 1, "c": 2}', version="8", cost_usd="0.5"))
    assert [(line.name, line.differs) for line in found.lines] == [("a", True), ("b", False), ("c", True)]
    assert ("Cost", NOTHING, "$0.50") in found.figures
    assert found.differing == 2
    failed = beside(recorded, Answered(status=502, said='{"title": "No"}'))
    assert all(line.differs for line in failed.lines)


WITHOUT = {
    "no inputs": a_trace(spans=(TraceSpan(id="a" * 16),)),
    "no spans": a_trace(spans=()),
    "inputs that were cut": a_trace(spans=(TraceSpan(id="a" * 16, inputs='{"q": "wh'),)),
    "of one module": a_trace(module="rewrite"),
}


@pytest.mark.parametrize("trace", WITHOUT.values(), ids=WITHOUT)
def test_what_cannot_be_asked_again_says_why(trace):
    assert recorded_of("t", trace).problem
