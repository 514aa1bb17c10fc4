"""Whether callers of one interface can go on with another, by their JSON Schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
BOUNDS = {
    "minimum": 1, "exclusiveMinimum": 1, "minLength": 1, "minItems": 1,
    "maximum": -1, "exclusiveMaximum": -1, "maxLength": -1, "maxItems": -1,
}  # fmt: skip
"""Which way a bound narrows: 1 when it grows, -1 when it shrinks."""
WIDER = {("integer", "number")}


def incompatibilities(before: Schema, after: Schema) -> list[str]:
    """What callers of the first interface would miss, or be refused, with the second.

    Outputs may be added and may become narrower; inputs may be added if they are optional and may become wider.
    """
    try:
        return _incompatibilities(before, after)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError):
        return ["an interface is no JSON Schema"]  # pods say them, and pods run anybody's code


def _incompatibilities(before: Schema, after: Schema) -> list[str]:
    old_in, new_in = before.get("inputs", {}), after.get("inputs", {})
    old_out, new_out = before.get("outputs", {}), after.get("outputs", {})
    found = [f"output {name} is dropped" for name in _fields(old_out) if name not in _fields(new_out)]
    found += [f"input {name} is dropped" for name in _fields(old_in) if name not in _fields(new_in)]
    found += [
        f"input {name} is new and required"
        for name in new_in.get("required", ())
        if name not in old_in.get("required", ())
    ]
    found += [
        f"input {name}: {why}"
        for name, schema in _fields(old_in).items()
        if name in _fields(new_in)
        for why in _not_within(schema, old_in, _fields(new_in)[name], new_in)
    ]
    found += [
        f"output {name}: {why}"
        for name, schema in _fields(old_out).items()
        if name in _fields(new_out)
        for why in _not_within(_fields(new_out)[name], new_out, schema, old_out)
    ]
    return found


def _fields(schema: Schema) -> Schema:
    found: Schema = schema.get("properties", {})
    return found


def _resolve(schema: Schema, root: Schema) -> Schema:
    if "$ref" in schema:
        found: Schema = root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], {})
        return found
    return schema


def _not_within(given: Schema, given_root: Schema, taken: Schema, taken_root: Schema, depth: int = 0) -> list[str]:
    """Why some value of `given` is none of `taken`; as far as types, enumerations, bounds and fields tell."""
    if depth > 12:
        return []  # a type that holds itself
    given, taken = _resolve(given, given_root), _resolve(taken, taken_root)
    options = [s for s in _options(given) if not _fits(s, given_root, taken, taken_root, depth)]
    if len(_options(given)) > 1 or len(_options(taken)) > 1:
        return [f"{_name(s, given_root)} is not allowed" for s in options]
    return _differences(given, given_root, taken, taken_root, depth)


def _options(schema: Schema) -> list[Schema]:
    return list(schema.get("anyOf") or schema.get("oneOf") or [schema])


def _fits(one: Schema, root: Schema, taken: Schema, taken_root: Schema, depth: int) -> bool:
    one = _resolve(one, root)
    return any(
        not _differences(one, root, _resolve(option, taken_root), taken_root, depth) for option in _options(taken)
    )


def _name(schema: Schema, root: Schema) -> str:
    schema = _resolve(schema, root)
    return str(schema.get("title") or schema.get("type") or schema.get("const") or "a value")


def _differences(given: Schema, given_root: Schema, taken: Schema, taken_root: Schema, depth: int) -> list[str]:
    kind, allowed = given.get("type"), taken.get("type")
    if allowed is not None and kind != allowed and (kind, allowed) not in WIDER:
        return [f"{kind or 'any value'} is not {allowed}"]
    found = _values(given, taken) + _bounds(given, taken)
    if "items" in given and "items" in taken:
        found += _not_within(given["items"], given_root, taken["items"], taken_root, depth + 1)
    found += [f"{name} may be missing" for name in taken.get("required", ()) if name not in given.get("required", ())]
    for name, schema in _fields(given).items():
        if name in _fields(taken):
            inner = _not_within(schema, given_root, _fields(taken)[name], taken_root, depth + 1)
            found += [f"{name}: {why}" for why in inner]
    return found


def _values(given: Schema, taken: Schema) -> list[str]:
    if "enum" not in taken and "const" not in taken:
        return []
    allowed = taken.get("enum", [taken.get("const")])
    values = given.get("enum", [given["const"]] if "const" in given else None)
    if values is None:
        return ["any value is given where only some are allowed"]
    return [f"{value!r} is not allowed" for value in values if value not in allowed]


def _bounds(given: Schema, taken: Schema) -> list[str]:
    return [
        f"{bound} is {given.get(bound, 'not set')}, not {taken[bound]}"
        for bound, sign in BOUNDS.items()
        if bound in taken and (bound not in given or sign * (given[bound] - taken[bound]) < 0)
    ]
