"""A program's interface in words: its fields, their types and bounds, by JSON Schema (pure).

Pods run anybody's code, and say what their schemas are: whatever one is, reading it ends soon and raises nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from pydantic_core import from_json

from despina.cluster.reading import entries, mapping, text
from despina.dashboard.words import shown

Schema = dict[str, Any]
MOST_FIELDS, MOST_HOPS, DEPTH = 1000, 8, 4
"""Of one place; from one reference to the next; and how deep types within types are told."""
MOST_OPTIONS, MOST_TOLD = 200, 10
"""Values that a field may have to be chosen among, and those that are told in words."""
LONGEST_TYPE, LONGEST_REF = 200, 256
MOST_STEPS, STEP = 50_000, 100
"""That reading a place may take: references that are followed, and so many characters written as JSON. A few kilobytes
that refer to one another can be read along more ways than there is time for."""
BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "{} characters at least", "maxLength": "{} characters at most", "multipleOf": "a multiple of {}",
    "minItems": "{} entries at least", "maxItems": "{} entries at most", "pattern": "like {}", "format": "{}",
}  # fmt: skip
KEYWORDS = (
    "$ref", "type", "title", "description", "default", "enum", "const", "anyOf", "oneOf", "items", "properties",
    "required", *BOUNDS,
)  # fmt: skip
"""What is told of a schema; of others there may be any number."""


def read_interface(body: bytes) -> Schema:
    """What a pod says that a revision takes and gives; nothing where it cannot be read."""
    try:
        return mapping(from_json(body))
    except ValueError:
        return {}


class Place(NamedTuple):
    """Inputs or outputs, or what lies within one of them."""

    root: Schema
    """Where references lead to."""
    schema: Schema
    left: list[int]
    """The one number of steps that may still be taken, here and in all places within."""

    @property
    def is_spent(self) -> bool:
        """Whether it takes too long to read on."""
        return self.left[0] <= 0

    def resolved(self, one: Any) -> Schema:
        """A schema without the reference that it may be; one that leads in a circle is none."""
        found = mapping(one)
        for _ in range(MOST_HOPS):
            if self.is_spent:
                return {}
            self.left[0] -= 1
            if "$ref" not in found:
                return found
            name = text(found["$ref"])[-LONGEST_REF:].rpartition("/")[2]
            beside = _known(found)
            del beside["$ref"]
            found = _known(mapping(mapping(self.root.get("$defs")).get(name))) | beside
        return {}

    def fields(self) -> dict[str, Schema]:
        """Its fields by their names, as far as there is room."""
        found = islice(mapping(self.schema.get("properties")).items(), MOST_FIELDS)
        return {name: self.resolved(one) for name, one in found}

    def required(self) -> frozenset[str]:
        """Those that may not be left out."""
        found = _first(self.schema.get("required"), MOST_FIELDS)
        self.left[0] -= len(found)
        return frozenset(name for name in found if isinstance(name, str))

    def options(self, one: Schema) -> tuple[list[Schema], bool]:
        """What a field may be, and whether it may be null beside."""
        given = (entries(_first(one.get(name), MOST_OPTIONS)) for name in ("anyOf", "oneOf"))
        found = [self.resolved(part) for part in next(filter(None, given), [one])]
        rest = [part for part in found if part.get("type") != "null"]
        return rest, len(rest) < len(found)

    def values(self, schema: Schema) -> list[str] | None:
        """The values that a field may have, as JSON; None where it may have any of its type, or they are too long."""
        listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if not isinstance(listed, list):
            return ["true", "false"] if schema.get("type") == "boolean" else None
        found = [self.written(value) for value in listed[: MOST_OPTIONS + 1]]
        return None if self.is_spent else found

    def written(self, value: Any) -> str:
        """A value as JSON; where it takes too long, none."""
        if self.is_spent:
            return "null"
        found = written(value)
        self.left[0] -= 1 + len(found) // STEP
        return found


def place_of(interface: Schema, which: str) -> Place:
    """`inputs` or `outputs`."""
    found = mapping(interface.get(which))
    return Place(found, found, [MOST_STEPS])


def _known(schema: Schema) -> Schema:
    return {name: schema[name] for name in KEYWORDS if name in schema}


def _first(value: Any, most: int) -> list[Any]:
    return value[:most] if isinstance(value, list) else []


def written(value: Any) -> str:
    """A value as JSON."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return "null"


def type_of(place: Place, one: Any, depth: int = 0) -> str:
    """A type in words, such as `list of text`, or `one of "a", "b"`."""
    return shown(_type(place, place.resolved(one), depth), LONGEST_TYPE)


def _type(place: Place, schema: Schema, depth: int) -> str:
    if depth > DEPTH or place.is_spent:
        return "…"
    if "enum" in schema or "const" in schema:
        return _listed(place.values(schema) or [])
    parts, is_nullable = place.options(schema)
    if is_nullable or len(parts) > 1:
        found = [_type(place, part, depth + 1) for part in parts[:MOST_TOLD]]
        return " or ".join([*dict.fromkeys(found), *(["nothing"] if is_nullable else [])])[: 4 * LONGEST_TYPE]
    kind = text(schema.get("type"))[:LONGEST_TYPE]
    if kind == "array":
        return f"list of {type_of(place, schema.get('items'), depth + 1)}"
    if kind == "object":
        return text(schema.get("title"))[:LONGEST_TYPE] or "object"
    return {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}.get(
        kind, kind or "any value"
    )


def _listed(values: list[str]) -> str:
    told = [shown(value, 40) for value in values[:MOST_TOLD]]
    more = [f"and {len(values) - MOST_TOLD} more"] if len(values) > MOST_TOLD else []
    return f"one of {', '.join([*told, *more])}"


def bounds_of(schema: Schema) -> list[str]:
    """A field's bounds in words."""
    return [
        words.format(shown(str(schema[name])[:LONGEST_TYPE], 60))
        for name, words in BOUNDS.items()
        if isinstance(schema.get(name), int | float | str)
    ]


class Told(NamedTuple):
    """A field in words."""

    path: str
    words: str


def told(interface: Schema, which: str, most: int) -> Iterator[Told]:
    """All fields of inputs or outputs in words, those that lie within others behind these, so many at most."""
    place, left = place_of(interface, which), [most]
    yield from _told(place, "", 0, left)


def _told(place: Place, above: str, depth: int, left: list[int]) -> Iterator[Told]:
    required = place.required()
    for name, schema in place.fields().items():
        if left[0] <= 0:
            return
        left[0] -= 1
        path = f"{above}{shown(name, 80)}"
        yield Told(path, _in_words(place, schema, name in required))
        for inner in _within(place, schema) if depth < DEPTH else ():
            yield from _told(inner, f"{path}.", depth + 1, left)


def _in_words(place: Place, schema: Schema, is_required: bool) -> str:
    parts = place.options(schema)[0][:MOST_TOLD]
    bounds = [bound for part in [schema, *(parts if parts != [schema] else [])] for bound in bounds_of(part)]
    default = [f"else {shown(place.written(schema['default']), 80)}"] if "default" in schema else []
    said = [f"“{shown(text(schema.get('description')), 200)}”"] if schema.get("description") else []
    is_needed = "required" if is_required else "may be left out"
    return "; ".join([type_of(place, schema), *dict.fromkeys(bounds), is_needed, *default, *said])


def _within(place: Place, schema: Schema) -> Iterator[Place]:
    for part in place.options(schema)[0][:MOST_TOLD]:
        item = place.resolved(part.get("items")) if part.get("type") == "array" else part
        if item.get("type") == "object":
            yield place._replace(schema=item)
