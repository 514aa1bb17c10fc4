"""Made-up values for a JSON Schema: tools give them while a program is tried out."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def sample(schema: Schema, defs: dict[str, Schema] | None = None) -> Any:
    """A JSON value that a JSON Schema allows, as small as possible; lists have one item, or as many as they must."""
    defs = defs if defs is not None else schema.get("$defs", {})
    if "$ref" in schema:
        return sample(defs[schema["$ref"].rpartition("/")[2]], defs)
    for key in ("default", "const"):
        if schema.get(key) is not None:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][-1]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return sample(schema[key][0], defs)
    return _of_type(schema, defs)


def _of_type(schema: Schema, defs: dict[str, Schema]) -> Any:
    match schema.get("type"):
        case "string":
            return "warm-up".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return False
        case "array":
            return [sample(schema.get("items", {}), defs)] * max(1, schema.get("minItems", 0))
        case "object":
            wanted = schema.get("required", [])
            return {k: sample(schema["properties"][k], defs) for k in wanted}
    return "warm-up"


def _number(schema: Schema) -> int | float:
    step = 1 if schema["type"] == "integer" else 0.5
    if "minimum" in schema or "exclusiveMinimum" in schema:
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + step)  # type: ignore[no-any-return]
    return min(schema.get("maximum", 0), schema.get("exclusiveMaximum", step) - step)  # type: ignore[no-any-return]
