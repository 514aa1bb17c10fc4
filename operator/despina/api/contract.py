"""Comparing what a backend says it takes and gives with a tool's contract: pure, over JSON Schema.

Both are reduced to what matters to a caller, so that texts, titles and the way in which definitions are referred to
make no difference. What remains must be equal: a backend that takes less would refuse calls, and one that takes more
has parameters that nobody agreed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from despina.api.revision import digest
from despina.wire import ContractConfig

Schema = Mapping[str, Any]
# Words about a value, not limits of it.
TEXTS = {
    "title",
    "description",
    "examples",
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "deprecated",
    "format",
}
MAX_DEPTH = 16
MANY = 5


def reduced(schema: Any, defs: Schema | None = None, depth: int = 0) -> Any:
    """A schema without texts, its references in place, and its alternatives and requirements in one order."""
    if not isinstance(schema, Mapping):
        return schema
    defs = defs if defs is not None else {**schema.get("definitions", {}), **schema.get("$defs", {})}
    if "$ref" in schema:
        target = defs.get(str(schema["$ref"]).rpartition("/")[2], {})
        rest = {k: v for k, v in schema.items() if k != "$ref"}
        return reduced({**target, **rest}, defs, depth + 1) if depth < MAX_DEPTH else {}
    found = {k: _part(k, v, defs, depth) for k, v in schema.items() if k not in TEXTS}
    if found.get("required") == [] or found.get("additionalProperties") is True:
        found = {k: v for k, v in found.items() if v not in ([], True)}
    if found.get("additionalProperties") is False:
        del found["additionalProperties"]  # no tool host takes what is not named; few write it down
    return found


def _part(key: str, value: Any, defs: Schema, depth: int) -> Any:
    if key == "properties" and isinstance(value, Mapping):
        return {k: reduced(v, defs, depth + 1) for k, v in value.items()}
    if key in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
        return sorted((reduced(v, defs, depth + 1) for v in value), key=_text)
    if key in ("required", "enum", "type") and isinstance(value, list):
        return sorted(value, key=_text)
    return value if key in ("default", "const") else reduced(value, defs, depth + 1)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def schema_digest(parameters: Schema, returns: Schema | None) -> str:
    """Eight hexadecimal digits that change exactly when what is taken or given does."""
    return digest([reduced(parameters), reduced(returns)])


def differences(contract: ContractConfig, parameters: Schema, returns: Schema | None) -> list[str]:
    """Where a backend's schemas differ from the contract, field by field; what either leaves open is not compared."""
    found = list(_compare("parameters", reduced(contract.parameters), reduced(parameters)))
    if contract.returns is not None and returns is not None:
        found += _compare("returns", reduced(contract.returns), reduced(returns))
    return found


def _compare(path: str, wanted: Any, given: Any) -> Iterator[str]:
    if not (isinstance(wanted, Mapping) and isinstance(given, Mapping)):
        if wanted != given:
            yield f"{path}: the contract says {_short(wanted)}, the backend {_short(given)}"
        return
    for key in sorted({*wanted, *given}):
        if key == "properties":
            yield from _compare_properties(path, wanted.get(key, {}), given.get(key, {}))
        elif key == "required":
            yield from _compare_required(path, wanted.get(key, []), given.get(key, []))
        elif key == "items":
            yield from _compare(f"{path}[]", wanted.get(key, {}), given.get(key, {}))
        elif wanted.get(key) != given.get(key):
            yield f"{path}: {key} is {_short(wanted.get(key))} in the contract, {_short(given.get(key))} at the backend"


def _compare_properties(path: str, wanted: Schema, given: Schema) -> Iterator[str]:
    for name in sorted({*wanted, *given}):
        where = f"{path}.{name}"
        if name not in given:
            yield f"{where} is missing at the backend"
        elif name not in wanted:
            yield f"{where} is not in the contract"
        else:
            yield from _compare(where, wanted[name], given[name])


def _compare_required(path: str, wanted: list[str], given: list[str]) -> Iterator[str]:
    for name in sorted({*wanted} ^ {*given}):
        who = "the contract" if name in wanted else "the backend"
        yield f"{path}.{name} is required by {who} only"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def told(found: list[str]) -> str:
    """The first few differences as one sentence."""
    more = f"; and {len(found) - MANY} more" if len(found) > MANY else ""
    return "; ".join(found[:MANY]) + more
