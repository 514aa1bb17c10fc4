"""Made-up values of types that are not plain. Its imports take a third of a second."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import dspy
from polyfactory.factories.pydantic_factory import ModelFactory
from polyfactory.field_meta import FieldMeta
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.fields import FieldInfo

from despina_runtime.program.interface import annotation_of, by_name

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
OWN: Mapping[type, Callable[[], BaseModel]] = {
    dspy.Image: lambda: dspy.Image(url=PIXEL),
    dspy.Audio: lambda: dspy.Audio(data="UklGRg==", audio_format="wav"),
    dspy.File: lambda: dspy.File(file_data="data:text/plain;base64,bWFkZSB1cA==", filename="made-up.txt"),
    dspy.History: lambda: dspy.History(messages=[]),
    dspy.ToolCalls: lambda: dspy.ToolCalls(tool_calls=[]),
}
"""DSPy's types that take less than their fields say, or that would have something done."""


class _Nothing(BaseModel):
    """A factory is one of some model; others are made from it."""


class _Factory(ModelFactory[Any]):
    """Values within a type's bounds and formats, the same in each process. Lists have one item, and what may be left
    out is there, unless it is what it is part of."""

    __model__ = _Nothing
    __allow_none_optionals__ = False
    __use_defaults__ = True
    __use_examples__ = True

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> Any:
        """One instance."""
        own = OWN.get(cls.__model__)
        return own() if own else super().build(*args, **kwargs)

    @classmethod
    def get_provider_map(cls) -> dict[Any, Callable[[], Any]]:
        """Without contents where the type says nothing of them: they would be of types that JSON does not know."""
        return {**super().get_provider_map(), dict: dict, list: list}

    @classmethod
    def get_field_value(cls, field_meta: FieldMeta, *args: Any, **kwargs: Any) -> Any:
        """Of an enumeration the last: ReAct's tools are one, ended by `finish`, and a warm-up calls no tool."""
        kind = field_meta.annotation
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if get_origin(kind) is Literal:
            return get_args(kind)[-1]
        if isinstance(kind, enum.EnumMeta):
            return list(kind)[-1]
        return super().get_field_value(field_meta, *args, **kwargs)


_Factory.__base_factory_overrides__ = {BaseModel: _Factory}


def of_fields(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """A value for each field; raises whatever keeps one from being made up."""
    bare: dict[str, Any] = {name: (annotation_of(field), ...) for name, field in fields.items()}
    model = create_model("MadeUp", __config__=ConfigDict(arbitrary_types_allowed=True), **bare)
    return by_name(_Factory.create_factory(model).build())


def begin_anew() -> None:
    """As at the import of this."""
    _Factory.seed_random(1)


begin_anew()
