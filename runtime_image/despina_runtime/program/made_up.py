"""Made-up values of Python types: what a program is tried out with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import dspy
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

TEXT = "made up"


def begin_anew() -> None:
    """What is made up from now on is what was made up after the last time that this was called."""
    if factory := sys.modules.get("despina_runtime.program.factory"):
        factory.begin_anew()


def made_up(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """A value for each field; raises whatever keeps one from being made up."""
    plain = {name: value for name, field in fields.items() if (value := _plain(field)) is not None}
    rest = {name: field for name, field in fields.items() if name not in plain}
    if not rest:
        return plain
    from despina_runtime.program.factory import of_fields  # only those who need it pay for its import

    return plain | of_fields(rest)


def _plain(field: FieldInfo) -> Any:
    """Texts, and of words the last: ReAct's tools are such, ended by `finish`, and a warm-up calls no tool. Of numbers
    and booleans a program may wait for another."""
    if field.metadata:
        return None
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)[-1]
    return TEXT if field.annotation is str else None


def submission(fields: Mapping[str, FieldInfo], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The call of `submit` with which ReActV2 ends, where that is among the tools; no other tool is ever called."""
    names = [name for name, field in fields.items() if field.annotation is dspy.ToolCalls]
    tools = {tool.name: tool for tool in inputs.get("tools") or () if isinstance(tool, dspy.Tool)}
    if not names or "submit" not in tools:
        return {}
    types = tools["submit"].arg_types or {}
    made = made_up({name: FieldInfo(annotation=kind) for name, kind in types.items()})
    args = {name: TypeAdapter(types[name]).dump_python(value, mode="json") for name, value in made.items()}
    return {name: dspy.ToolCalls.from_dict_list([{"name": "submit", "args": args}]) for name in names}
