"""How values are written for callers: DSPy's types by their fields, as the published schemas say.

DSPy writes its types for prompts: an image as text between markers, which its adapters look for; code and reasoning as
bare text. Those serializers are part of each class, and of each model that holds one. So what pydantic made of a model
is taken without them, and a serializer of its own is made from that.
"""

from __future__ import annotations

from typing import Any

import dspy
from dspy.experimental import Choice, Noul, Score
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import SchemaSerializer
from pydantic_core.core_schema import ModelSchema

from despina_runtime import compat
from despina_runtime.memory import remembered

FOR_PROMPTS = (dspy.Type.serialize_model, dspy.Code.serialize_model)


class Published(GenerateJsonSchema):
    """JSON Schemas of what is written."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """A decision tells its probabilities, too, which DSPy keeps out of schemas, for no LM shall write them."""
        found = super().model_schema(schema)
        if issubclass(schema["cls"], (Choice, Noul, Score)):
            found.pop("additionalProperties", None)
        return found


@remembered
def serializer_of(model: type[BaseModel]) -> SchemaSerializer:
    """A model's own serializer, but for DSPy's types; users' serializers are in it."""
    return compat.serializer(_by_fields(model.__pydantic_core_schema__))


def _by_fields(node: Any) -> Any:
    """A core schema without what writes for prompts."""
    if isinstance(node, (list, tuple)):
        return type(node)(map(_by_fields, node))
    if not isinstance(node, dict):
        return node
    found = {key: _by_fields(value) for key, value in node.items()}
    writes = found.get("serialization")
    if isinstance(writes, dict) and writes.get("function") in FOR_PROMPTS:
        del found["serialization"]
    if found.get("type") == "any" and not writes:
        found["serialization"] = {"type": "function-plain", "function": _of_any_type}
    return found


def _of_any_type(value: Any) -> Any:
    """Where a type says nothing (`Any`, `list`), pydantic asks the value's own class, and DSPy's write for prompts."""
    if isinstance(value, BaseModel):
        return serializer_of(type(value)).to_python(value, mode="json")
    if isinstance(value, dict):
        return {key: _of_any_type(item) for key, item in value.items()}
    return [*map(_of_any_type, value)] if isinstance(value, (list, tuple, set, frozenset)) else value
