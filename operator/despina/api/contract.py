"""Comparing what a backend says it takes and gives with a tool's contract: pure, over JSON Schema.

Both are reduced to what matters to a caller, so that texts, titles and the way in which definitions are referred to
make no difference. What remains must be equal: a backend that takes less would refuse calls, and one that takes more
has parameters that nobody agreed on.
"""

from __future__ import annotations

import functools
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
MAX_DEPTH, MAX_REFERENCES, MAX_SIZE = 64, 16, 200_000
"""Bounds for schemas that refer to themselves, or fan out: beyond them nothing is compared."""
MANY = 5


def reduced(schema: Any) -> Any:
    """A schema without texts, its references in place, and its alternatives and requirements in one order.

    Total: whatever JSON somebody's server calls a schema has a reduction, of a bounded size.
    """
    return _Reduction(schema).of(schema)


class _Reduction:
    def __init__(self, schema: Any) -> None:
        self._defs = {**_mapping(_mapping(schema).get("definitions")), **_mapping(_mapping(schema).get("$defs"))}
        self._left = MAX_SIZE

    def of(self, schema: Any, depth: int = 0) -> Any:
        if not isinstance(schema, Mapping):
            return self._kept(schema)
        self._left -= 1 + len(schema)
        if self._left < 0 or depth > (MAX_REFERENCES if "$ref" in schema else MAX_DEPTH):
            return {}
        if "$ref" in schema:
            target = _mapping(self._defs.get(str(schema["$ref"]).rpartition("/")[2]))
            return self.of({**target, **{k: v for k, v in schema.items() if k != "$ref"}}, depth + 1)
        found = {k: self._part(k, v, depth) for k, v in schema.items() if k not in TEXTS}
        if found.get("required") == []:
            del found["required"]
        # No tool host takes what is not named; few write it down.
        if isinstance(found.get("additionalProperties"), bool):
            del found["additionalProperties"]
        return found

    def _part(self, key: str, value: Any, depth: int) -> Any:
        if key == "properties":
            return {k: self.of(v, depth + 1) for k, v in _mapping(value).items()}
        if key in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
            return sorted((self.of(v, depth + 1) for v in value), key=_text)
        if key in ("required", "enum", "type") and isinstance(value, list):
            return self._kept(sorted(value, key=_text))
        return self._kept(value) if key in ("default", "const") else self.of(value, depth + 1)

    def _kept(self, value: Any) -> Any:
        self._left -= len(_text(value))
        return value if self._left >= 0 else None


def _mapping(value: Any) -> Schema:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def schema_problem(schema: Schema) -> str | None:
    """Why something is no JSON Schema (draft 2020-12) by which values could be checked; None if it is one.

    Its references must be to its own `$defs`: what lies elsewhere is fetched by nobody.
    """
    try:
        return _schema_problem(json.dumps(schema))
    except (RecursionError, ValueError):
        return "it is nested too deep, or no JSON"


@functools.lru_cache(maxsize=1024)
def _schema_problem(text: str) -> str | None:
    from jsonschema import Draft202012Validator  # needed by the operator alone
    from jsonschema.exceptions import SchemaError

    schema = json.loads(text)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as exc:
        return f"{'.'.join(map(str, exc.absolute_path)) or 'it'}: {exc.message}"[:500]
    known = {f"#/{where}/{name}" for where in ("$defs", "definitions") for name in schema.get(where, {})}
    strange = next((ref for ref in _references(schema) if ref not in known), None)
    return f"$ref {strange!r}: there is no such name in its $defs"[:500] if strange else None


def _references(schema: Any) -> Iterator[str]:
    """All of its `$ref`; values of `default`, `const`, `enum` and `examples` are not looked into."""
    if isinstance(schema, list):
        for part in schema:
            yield from _references(part)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for key, value in schema.items():
        if key not in ("default", "const", "enum", "examples"):
            yield from _references(value)


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
        elif key == "required" and isinstance(wanted.get(key, []), list) and isinstance(given.get(key, []), list):
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


def _compare_required(path: str, wanted: list[Any], given: list[Any]) -> Iterator[str]:
    for name in [*wanted, *given]:
        if name not in given:
            yield f"{path}.{name} is required by the contract only"
        elif name not in wanted:
            yield f"{path}.{name} is required by the backend only"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def told(found: list[str]) -> str:
    """The first few differences as one sentence."""
    more = f"; and {len(found) - MANY} more" if len(found) > MANY else ""
    return "; ".join(found[:MANY]) + more
