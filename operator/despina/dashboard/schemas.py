"""A program's interface in words: its fields, their types and bounds, by JSON Schema (pure).

Pods run anybody's code, and say what their schemas are: whatever one is, reading it ends soon and raises nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic_core import from_json

from despina.cluster.reading import entries, mapping, text
from despina.dashboard.words import shown

Schema = dict[str, Any]
MOST_FIELDS, MOST_HOPS, DEPTH = 1000, 8, 4
"""Of one place; from one reference to the next; and how deep types within types are told."""
MOST_OPTIONS, MOST_TOLD = 200, 10
"""Values that a field may have to be chosen among, and those that are told in words."""
LONGEST_TYPE = 200
BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "{} characters at least", "maxLength": "{} characters at most", "multipleOf": "a multiple of {}",
    "minItems": "{} entries at least", "maxItems": "{} entries at most", "pattern": "like {}", "format": "{}",
}  # fmt: skip


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

    def resolved(self, one: Any) -> Schema:
        """A schema without the reference that it may be; one that leads in a circle is none."""
        found = mapping(one)
        for _ in range(MOST_HOPS):
            if "$ref" not in found:
                return found
            name = text(found["$ref"]).rpartition("/")[2]
            beside = {key: value for key, value in found.items() if key != "$ref"}
            found = mapping(mapping(self.root.get("$defs")).get(name)) | beside
        return {}

    def fields(self) -> dict[str, Schema]:
        """Its fields by their names, as far as there is room."""
        found = list(mapping(self.schema.get("properties")).items())[:MOST_FIELDS]
        return {name: self.resolved(one) for name, one in found}

    def required(self) -> frozenset[str]:
        """Those that may not be left out."""
        found = self.schema.get("required")
        return frozenset(name for name in found if isinstance(name, str)) if isinstance(found, list) else frozenset()

    def options(self, one: Schema) -> tuple[list[Schema], bool]:
        """What a field may be, and whether it may be null beside."""
        parts = entries(one.get("anyOf")) or entries(one.get("oneOf")) or [one]
        found = [self.resolved(part) for part in parts[:MOST_OPTIONS]]
        rest = [part for part in found if part.get("type") != "null"]
        return rest, len(rest) < len(found)


def place_of(interface: Schema, which: str) -> Place:
    """`inputs` or `outputs`."""
    found = mapping(interface.get(which))
    return Place(found, found)


def values_of(schema: Schema) -> list[str] | None:
    """The values that a field may have, as JSON; None where it may have any of its type."""
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if not isinstance(listed, list):
        return ["true", "false"] if schema.get("type") == "boolean" else None
    return [written(value) for value in listed[: MOST_OPTIONS + 1]]


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
    if depth > DEPTH:
        return "…"
    if "enum" in schema or "const" in schema:
        return _listed(values_of(schema) or [])
    parts, is_nullable = place.options(schema)
    if is_nullable or len(parts) > 1:
        found = [_type(place, part, depth + 1) for part in parts[:MOST_TOLD]]
        return " or ".join([*dict.fromkeys(found), *(["nothing"] if is_nullable else [])])
    kind = text(schema.get("type"))
    if kind == "array":
        return f"list of {type_of(place, schema.get('items'), depth + 1)}"
    if kind == "object":
        return text(schema.get("title")) or "object"
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
    parts = place.options(schema)[0]
    bounds = [bound for part in [schema, *(parts if parts != [schema] else [])] for bound in bounds_of(part)]
    default = [f"else {shown(written(schema['default']), 80)}"] if "default" in schema else []
    said = [f"“{shown(text(schema.get('description')), 200)}”"] if schema.get("description") else []
    is_needed = "required" if is_required else "may be left out"
    return "; ".join([type_of(place, schema), *dict.fromkeys(bounds), is_needed, *default, *said])


def _within(place: Place, schema: Schema) -> Iterator[Place]:
    for part in place.options(schema)[0][:MOST_TOLD]:
        item = place.resolved(part.get("items")) if part.get("type") == "array" else part
        if item.get("type") == "object":
            yield Place(place.root, item)
