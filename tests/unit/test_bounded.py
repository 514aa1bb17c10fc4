"""Large inputs: what fits is what it is to pydantic, and what does not is told in a few words, in little time and memory."""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import dspy
import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from despina_runtime.bounded import SHORT_BYTES, bounded
from despina_runtime.engine import resident_bytes
from despina_runtime.pipeline.validate import parse_inputs
from despina_runtime.problem import MOST_TOLD, Problem, by_field, invalid_input
from despina_runtime.program.interface import Interface

MEGABYTES = 2**20


class Node(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kids: list[Node] = []
    notes: dict[str, int] = {}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: datetime.date
    part: tuple[int, str]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str] = set()


class Place(TypedDict):
    type: str
    fields: dict[str, float]


class Pair(NamedTuple):
    one: int
    two: list[int] = []


@dataclass
class Point:
    x: Decimal
    default: frozenset[int] = frozenset()


class Inputs(BaseModel):
    """Names are those of a schema's own parts, too."""

    model_config = ConfigDict(extra="forbid")

    text: str = ""
    items: list[int | float | bool] = []
    node: Node | None = None
    by_key: dict[str, list[int]] = {}
    nested: dict[str, dict[str, int]] = {}
    strict: dict[str, Strict] = {}
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    type: Place | None = None
    metadata: Pair | None = None
    fields: list[Point] = []
    default: Any = {"type": "list"}
    serialization: dict[datetime.date, Node] = {}
    picture: dspy.Image | None = None


def listed(text: str, many: int) -> str:
    return ",".join([text] * many)


def keyed(many: int) -> str:
    return ",".join(f'"{number:x}":""' for number in range(many))


FITS = {
    "a union": {"items": [1, 2.5, True]},
    "a type that holds itself": {"node": {"kids": [{"kids": [{"notes": {"a": 1}}]}]}},
    "strict types, which JSON writes as texts and lists": {"strict": {"a": {"day": "2026-02-03", "part": [1, "b"]}}},
    "tagged unions": {"pets": [{"kind": "cat"}, {"kind": "dog", "tricks": ["sit"]}]},
    "typed dictionaries, named tuples and dataclasses": {
        "type": {"type": "x", "fields": {"default": 1}}, "metadata": [1, [2]], "fields": [{"x": "1.10", "default": [1]}],
    },
    "keys that are not texts": {"serialization": {"2026-02-03": {}}, "default": [{"type": "dict"}]},
    "a type of DSPy's": {"picture": {"url": "https://example.com/a.png"}},
}  # fmt: skip
DOES_NOT = {
    "a list": ('{"items":[' + listed('""', 30_000) + "]}", "items.0."),
    "a deep list": ('{"node":' + '{"kids":[' * 60 + listed('""', 30_000) + "]}" * 60 + "}", "node"),
    "a list under a long key": ('{"by_key":{"' + "k" * 30_000 + '":[' + listed('""', 3000) + "]}}", "by_key.kkk"),
    "a dictionary under one": ('{"nested":{"' + "k" * 30_000 + '":{' + keyed(3000) + "}}}", "nested.kkk"),
    "a deep dictionary": ('{"node":' + '{"kids":[' * 60 + '{"notes":{' + keyed(9000) + "}}" + "]}" * 60 + "}", "node"),
    "deep keys that are not there": ('{"node":' + '{"kids":[' * 60 + "{" + keyed(9000) + "}" + "]}" * 60 + "}", "node"),
    "keys that are not there": ("{" + keyed(30_000) + "}", "(body)"),
    "a long key": ('{"' + "k" * 500_000 + '":1}', "kkk"),
    "an item among many": (json.dumps({"text": "x" * SHORT_BYTES, "pets": [{"kind": "cat", "lives": ""}]}), "pets.0.cat.lives"),
    "several fields": (json.dumps({"text": "x" * SHORT_BYTES, "items": 1, "node": 1}), "items"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", FITS)
def test_what_fits_is_the_same(sentence):
    body = json.dumps(FITS[sentence])
    assert bounded(Inputs).validate_json(body) == Inputs.model_validate_json(body)


@pytest.mark.parametrize("sentence", DOES_NOT)
def test_what_does_not_fit_costs_little_and_names_a_field(sentence):
    body, field = DOES_NOT[sentence]
    interface = Interface(Inputs, Inputs)
    assert interface.large_inputs
    before, began = resident_bytes(), time.process_time()
    with pytest.raises(Problem) as caught:
        parse_inputs(interface, body.encode())
    answer = caught.value.body()
    assert time.process_time() - began < 0.5
    assert resident_bytes() - before < 50 * MEGABYTES
    assert len(answer) < 8000
    assert caught.value.errors[0]["field"].startswith(field)


def test_of_short_inputs_everything_is_told_up_to_a_hundred_errors():
    with pytest.raises(Problem) as caught:
        parse_inputs(Interface(Inputs, Inputs), json.dumps({"by_key": {"a": [""] * 150}, "node": 1}).encode())
    assert [e["field"] for e in caught.value.errors][:: MOST_TOLD - 1] == ["node", "by_key.a.98"]
    assert caught.value.errors[-1] == {"field": "(body)", "message": "151 errors in all"}


def test_of_very_many_errors_only_their_number_is_told():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python([""] * 50_000)
    began = time.process_time()
    problem = invalid_input(caught.value)
    assert problem.errors == ({"field": "(body)", "message": "50000 errors in all"},)
    assert by_field(caught.value) == {"(body)": "(body): 50000 errors in all"}
    assert time.process_time() - began < 0.05
