"""Made-up values for a JSON Schema: a program is tried out with them, and tools give them while it is."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def sample(schema: Schema, defs: dict[str, Schema] | None = None, items: int = 0) -> Any:
    """A JSON value that a JSON Schema allows, as small as possible; lists have so many items, or as many as they must.

    Of an enumeration the last is taken: ReAct's tools are one, ended by `finish`, and a warm-up calls no tool.
    """
    defs = defs if defs is not None else schema.get("$defs", {})
    if "$ref" in schema:
        return sample(defs[schema["$ref"].rpartition("/")[2]], defs, items)
    for key in ("default", "const"):
        if schema.get(key) is not None:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][-1]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return sample(schema[key][0], defs, items)
    return _of_type(schema, defs, items)


def _of_type(schema: Schema, defs: dict[str, Schema], items: int) -> Any:
    match schema.get("type"):
        case "string":
            return "warm-up".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return False
        case "array":
            return [sample(schema.get("items", {}), defs, items)] * max(items, schema.get("minItems", 0))
        case "object":
            wanted = schema.get("required", [])
            return {k: sample(schema["properties"][k], defs, items) for k in wanted}
    return "warm-up"


def _number(schema: Schema) -> int | float:
    step = 1 if schema["type"] == "integer" else 0.5
    if "minimum" in schema or "exclusiveMinimum" in schema:
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + step)  # type: ignore[no-any-return]
    return min(schema.get("maximum", 0), schema.get("exclusiveMaximum", step) - step)  # type: ignore[no-any-return]
