"""Whether callers of one interface can go on with another, by their JSON Schemas.

Pods say what their interfaces are, and pods run anybody's code: however a schema is made, comparing it ends soon.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
BOUNDS = {
    "minimum": 1, "exclusiveMinimum": 1, "minLength": 1, "minItems": 1,
    "maximum": -1, "exclusiveMaximum": -1, "maxLength": -1, "maxItems": -1,
}  # fmt: skip
"""Which way a bound narrows: 1 when it grows, -1 when it shrinks."""
WIDER = {("integer", "number")}
LIMIT = 20_000
"""How much is looked at in one comparison."""
DEPTH = 12
"""How deep a type that holds itself is compared."""
TOLD, LENGTH, PIECE = 20, 253, 64
"""How many complaints are told of each place, how long what is quoted may be, and how much of a value counts as one."""
NOTHING: Schema = {}


class _TooMuchError(Exception):
    """The limit was reached."""


def incompatibilities(before: Schema, after: Schema) -> list[str]:
    """What callers of the first interface would miss, or be refused, with the second.

    Outputs may be added and may become narrower; inputs may be added if they are optional and may become wider.
    """
    try:
        return _incompatibilities(before, after)
    except _TooMuchError:
        return ["the interface is too intricate to compare"]
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError):
        return ["an interface is no JSON Schema"]


def _incompatibilities(before: Schema, after: Schema) -> list[str]:
    old_in, new_in = before.get("inputs", NOTHING), after.get("inputs", NOTHING)
    old_out, new_out = before.get("outputs", NOTHING), after.get("outputs", NOTHING)
    found = [f"output {name} is dropped" for name in _fields(old_out) if name not in _fields(new_out)]
    found += [f"input {name} is dropped" for name in _fields(old_in) if name not in _fields(new_in)]
    known = _required(old_in)
    found += [f"input {name} is new and required" for name in new_in.get("required", ()) if name not in known]
    inputs = _Comparison(old_in, new_in)
    found += [
        f"input {name}: {why}"
        for name, schema in _fields(old_in).items()
        if name in _fields(new_in)
        for why in inputs.not_within(schema, _fields(new_in)[name])
    ]
    outputs = _Comparison(new_out, old_out, inputs.left)
    found += [
        f"output {name}: {why}"
        for name, schema in _fields(old_out).items()
        if name in _fields(new_out)
        for why in outputs.not_within(_fields(new_out)[name], schema)
    ]
    return found


class _Comparison:
    """Of what is given with what is taken, type by type. Two types are compared once at each depth, however many ways
    lead to them."""

    def __init__(self, given: Schema, taken: Schema, left: int = LIMIT) -> None:
        self._given_root, self._taken_root = given, taken
        self._known: dict[tuple[int, int, int], list[str]] = {}
        self.left = left

    def not_within(self, given: Schema, taken: Schema, depth: int = 0) -> list[str]:
        """Why some value of `given` is none of `taken`; as far as types, enumerations, bounds and fields tell."""
        if depth > DEPTH:
            return []  # a type that holds itself
        given, taken = _resolve(given, self._given_root), _resolve(taken, self._taken_root)
        options, others = _options(given), _options(taken)
        if len(options) == len(others) == 1:
            return self._differences(given, taken, depth)
        missing = [one for one in options if not self._fits(one, others, depth)]
        return [f"{_name(_resolve(one, self._given_root))} is not allowed" for one in missing][:TOLD]

    def _fits(self, one: Schema, others: list[Schema], depth: int) -> bool:
        one = _resolve(one, self._given_root)
        return any(not self._differences(one, _resolve(other, self._taken_root), depth) for other in others)

    def _differences(self, given: Schema, taken: Schema, depth: int) -> list[str]:
        self._spend(1)
        place = (id(given), id(taken), depth)
        if place not in self._known:
            self._known[place] = self._found(given, taken, depth)[:TOLD]
        return self._known[place]

    def _found(self, given: Schema, taken: Schema, depth: int) -> list[str]:
        kind, allowed = given.get("type"), taken.get("type")
        if allowed is not None and kind != allowed and (kind, allowed) not in WIDER:
            return [f"{_short(kind or 'any value')} is not {_short(allowed)}"]
        found = self._values(given, taken) + _bounds(given, taken)
        if "items" in given and "items" in taken:
            found += self.not_within(given["items"], taken["items"], depth + 1)
        fields, demanded, always = _fields(given), taken.get("required", ()), _required(given)
        self._spend(len(fields) + len(demanded) + len(always))
        found += [f"{_short(name)} may be missing" for name in demanded if name not in always]
        for name, schema in fields.items():
            if name in _fields(taken):
                inner = self.not_within(schema, _fields(taken)[name], depth + 1)
                found += [_short(f"{_short(name)}: {why}") for why in inner]
        return found

    def _values(self, given: Schema, taken: Schema) -> list[str]:
        if "enum" not in taken and "const" not in taken:
            return []
        values = given.get("enum", [given["const"]] if "const" in given else None)
        if values is None:
            return ["any value is given where only some are allowed"]
        allowed = {self._spelled(value) for value in taken.get("enum", [taken.get("const")])}
        return [f"{_short(repr(value))} is not allowed" for value in values if self._spelled(value) not in allowed]

    def _spelled(self, value: Any) -> str:
        """A value's one spelling, which 1.0 shares with 1."""
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        text = json.dumps(whole, sort_keys=True)
        self._spend(1 + len(text) // PIECE)
        return text

    def _spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise _TooMuchError


def _fields(schema: Schema) -> Schema:
    found: Schema = schema.get("properties", NOTHING)
    return found


def _required(schema: Schema) -> frozenset[str]:
    return frozenset(schema.get("required", ()))


def _resolve(schema: Schema, root: Schema) -> Schema:
    if "$ref" in schema:
        found: Schema = root.get("$defs", NOTHING).get(schema["$ref"].rpartition("/")[2], NOTHING)
        return found
    return schema


def _options(schema: Schema) -> list[Schema]:
    return list(schema.get("anyOf") or schema.get("oneOf") or [schema])


def _name(schema: Schema) -> str:
    names = (schema.get(key) for key in ("title", "type", "const"))
    return _short(next((name for name in names if name and isinstance(name, str | int | float)), "a value"))


def _short(said: Any) -> str:
    return str(said)[:LENGTH]


def _bounds(given: Schema, taken: Schema) -> list[str]:
    return [
        f"{bound} is {given.get(bound, 'not set')}, not {taken[bound]}"
        for bound, sign in BOUNDS.items()
        if bound in taken and sign * (given.get(bound, -sign * math.inf) - taken[bound]) < 0
    ]
