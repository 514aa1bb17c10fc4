"""Validation of what is large, so that its errors stay few and short.

pydantic gathers every error, and each holds its whole path: a megabyte of `{"LONG KEY": ["", "", ...]}` has a hundred
thousand, each with that key, and they are made before anybody could count them. So a list ends with its first item that
does not fit; and where paths may be long, what is wrong with keys that a caller has chosen is one error. What fits is
the same, and costs the same.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import SchemaValidator

SHORT_BYTES = 4096
"""Of so short a text pydantic may tell everything."""
LISTS = ("list", "tuple", "set", "frozenset")
LONG = ("values_schema", "extras_schema", "definitions")
"""Below a key that a caller has chosen, and where a type may hold itself, paths may be as long as a caller likes."""
BY_NAME = ("fields", "choices")
"""Parts of a schema that may be dictionaries of schemas, by names of any kind."""
DATA = ("metadata", "default", "serialization", "config")
ONE = {
    "type": "custom-error",
    "custom_error_type": "does_not_fit",
    "custom_error_message": f"Something in it does not fit; what, is told of inputs of up to {SHORT_BYTES} bytes",
}


def bounded(model: type[BaseModel]) -> SchemaValidator:
    """A model's validator with few and short errors. Without its last argument it would use the models' own ones."""
    return SchemaValidator(_bounded(model.__pydantic_core_schema__), _use_prebuilt=False)


def _bounded(node: Any, is_below: bool = False) -> Any:
    """A part of a core schema; `is_below` says that paths there may be long."""
    if isinstance(node, list | tuple):
        return type(node)(_bounded(part, is_below) for part in node)
    if not isinstance(node, dict):
        return node
    found = {key: _part(key, part, is_below) for key, part in node.items()}
    if node["type"] in LISTS:
        found["fail_fast"] = True
    return _as_one(found) if is_below and _is_wide(node) else found


def _part(key: str, part: Any, is_below: bool) -> Any:
    if key in DATA:
        return part
    if key in BY_NAME and isinstance(part, dict):
        return {name: _bounded(named, is_below) for name, named in part.items()}
    return _bounded(part, is_below or key in LONG)


def _is_wide(node: dict[str, Any]) -> bool:
    """Whether a caller chooses how many keys of it do not fit."""
    extra: object = node.get("config", {}).get("extra_fields_behavior")
    return extra == "forbid" or bool(node["type"] == "dict")


def _as_one(node: dict[str, Any]) -> dict[str, Any]:
    """The same with a single error. A reference leads to what is around it now."""
    ref = {"ref": node.pop("ref")} if "ref" in node else {}
    return {**ONE, **ref, "schema": node}
