"""What counts as a difference between a contract and what a backend offers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from despina.api.contract import differences, schema_digest, schema_problem, told
from despina.wire import ContractConfig
from despina_runtime.tools.functions import function_tool


class Passage(BaseModel):
    text: str
    score: float | None = None


def search(query: str, top_k: int = 5) -> list[Passage]:
    """Find passages."""
    return []


TOOL = function_tool(search)
HANDWRITTEN = {
    "type": "object",
    "required": ["query"],
    "properties": {
        "query": {"type": "string", "description": "What is looked for"},
        "top_k": {"type": "integer", "default": 5},
    },
}
PASSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["text"],
        "properties": {
            "text": {"type": "string"},
            "score": {"anyOf": [{"type": "null"}, {"type": "number"}], "default": None},
        },
    },
}


def contract(parameters=HANDWRITTEN, returns=PASSAGES) -> ContractConfig:
    return ContractConfig(name="search", parameters=parameters, returns=returns)


def test_texts_references_and_order_make_no_difference():
    assert differences(contract(), TOOL.parameters, TOOL.returns) == []
    assert schema_digest(HANDWRITTEN, PASSAGES) == schema_digest(TOOL.parameters, TOOL.returns)


def test_what_either_leaves_open_is_not_compared():
    assert differences(contract(returns=None), TOOL.parameters, TOOL.returns) == []
    assert differences(contract(), TOOL.parameters, None) == []


def changed(**properties) -> dict:
    return HANDWRITTEN | {"properties": HANDWRITTEN["properties"] | properties}


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        (
            changed(top_k={"type": "string", "default": 5}),
            'parameters.top_k: type is "integer" in the contract, "string" at the backend',
        ),
        (changed(lang={"type": "string"}), "parameters.lang is not in the contract"),
        ({**HANDWRITTEN, "properties": {"query": {"type": "string"}}}, "parameters.top_k is missing at the backend"),
        ({**HANDWRITTEN, "required": ["query", "top_k"]}, "parameters.top_k is required by the backend only"),
        ({**HANDWRITTEN, "required": []}, "parameters.query is required by the contract only"),
        (
            changed(top_k={"type": "integer", "default": 9}),
            "parameters.top_k: default is 5 in the contract, 9 at the backend",
        ),
        (
            changed(query={"type": "string", "maxLength": 9}),
            "parameters.query: maxLength is nothing in the contract, 9 at the backend",
        ),
    ],
)
def test_a_difference_is_named_by_its_field(offered, said):
    assert differences(contract(), offered, PASSAGES) == [said]


def test_results_are_compared_to_the_depth():
    wrong = {
        "type": "array",
        "items": {"type": "object", "required": ["text"], "properties": {"text": {"type": "integer"}}},
    }
    found = differences(contract(), HANDWRITTEN, wrong)
    assert found == [
        "returns[].score is missing at the backend",
        'returns[].text: type is "string" in the contract, "integer" at the backend',
    ]
    assert told(found * 4).endswith("; and 3 more")


schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer", "title": "N"},
            {"enum": ["b", "a"]},
            {"$ref": "#/$defs/X"},
            {"$ref": "#"},
            True,
            {},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda i: {"type": "array", "items": i}, inner),
        st.builds(
            lambda p: {"type": "object", "properties": p, "required": sorted(p)},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "required", "items", "anyOf", "$ref", "$defs", "definitions", "enum"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["type", "properties", "required", "$defs", "$ref"]), anything), anything)
def test_whatever_a_server_calls_a_schema_is_compared_and_nothing_raises(parameters, returns):
    returns = returns if isinstance(returns, dict) else None
    assert differences(ContractConfig(name="x", parameters=parameters, returns=returns), parameters, returns) == []
    assert len(schema_digest(parameters, returns)) == 8
    assert isinstance(told(differences(contract(), parameters, returns)), str)
    assert schema_problem(parameters) != ""


def test_a_schema_that_fans_out_or_nests_without_an_end_is_compared_in_bounded_time():
    names = [f"N{n}" for n in range(40)]
    defs = {
        name: {"type": "object", "properties": {f"p{k}": {"$ref": f"#/$defs/{after}"} for k in range(8)}}
        for name, after in zip(names, [*names[1:], names[0]], strict=True)
    }
    wide = {"type": "object", "properties": {"a": {"$ref": "#/$defs/N0"}}, "$defs": defs}
    assert differences(contract(wide), wide, None) == []
    deep: dict = {"type": "object"}
    for _ in range(5000):
        deep = {"type": "object", "properties": {"a": deep}}
    assert differences(contract(HANDWRITTEN), deep, None)
    assert "nested too deep" in schema_problem(deep)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (HANDWRITTEN, None),
        (TOOL.returns, None),
        ({"type": "objekt"}, "type: 'objekt'"),
        ({"properties": {"a": {"type": "strin"}}}, "properties.a.type"),
        ({"properties": {"a": {"pattern": "("}}}, "properties.a.pattern"),
        ({"properties": 5}, "properties: 5"),
        ({"$defs": 5}, "$defs: 5"),
        ({"properties": {"a": {"$ref": "#/$defs/Nope"}}}, "there is no such name"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "there is no such name"),
        ({"properties": {"$ref": {"type": "string"}}}, None),
        ({"properties": {"a": {"default": {"$ref": "x"}}}}, None),
    ],
)
def test_what_is_no_schema_is_said(schema, said):
    found = schema_problem(schema)
    assert said in found if said else found is None


@given(schemas, schemas)
def test_whatever_a_backend_says_it_is_compared_and_equal_to_itself(one, other):
    wanted = {
        "type": "object",
        "properties": {"a": one},
        "$defs": {"X": {"type": "array", "items": {"$ref": "#/$defs/X"}}},
    }
    given = wanted | {"properties": {"a": other}}
    assert differences(ContractConfig(name="x", parameters=wanted), wanted, None) == []
    is_equal = differences(ContractConfig(name="x", parameters=wanted), given, None) == []
    assert is_equal == (schema_digest(wanted, None) == schema_digest(given, None))
