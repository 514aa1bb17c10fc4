"""A program's interface: what goes in and what comes out, as pydantic models made from its DSPy signature."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import dspy
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from despina.wire import FailureReason
from despina_runtime.program.unservable import ProgramError

REFS = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Interface:
    """The two models. Inputs refuse unknown fields; outputs carry the bounds that DSPy itself does not enforce."""

    inputs: type[BaseModel]
    outputs: type[BaseModel]
    instructions: str = ""

    def schema(self) -> dict[str, Any]:
        """Both as JSON Schema."""
        return {
            "instructions": self.instructions,
            "inputs": self.inputs.model_json_schema(),
            "outputs": self.outputs.model_json_schema(mode="serialization"),
        }


def by_name(model: BaseModel) -> dict[str, Any]:
    """A model's fields. `dict(model)` would take one that is called `keys` for the method."""
    return dict(iter(model))


def interface_of(program: dspy.Module, declared: str | None = None) -> Interface:
    """The interface of a program.

    `declared` is a DSPy signature, as text ("question -> answer") or as "module:Class". Without it, the program's
    own `signature` counts, or that of its only predictor when `forward` takes just that predictor's inputs.

    Raises:
        ProgramError: nothing says what the program takes and gives.
    """
    signature = declared_signature(declared) if declared else found_signature(program)
    return Interface(
        inputs=_model("Inputs", signature.input_fields, extra="forbid"),
        outputs=_model("Outputs", signature.output_fields, extra="ignore"),
        instructions=signature.instructions,
    )


def declared_signature(declared: str) -> type[dspy.Signature]:
    """A signature from its text or from the class that "module:Class" names."""
    if "->" in declared:
        return dspy.Signature(declared)  # type: ignore[no-any-return]
    module, _, name = declared.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, dspy.Signature)):
        raise ProgramError(FailureReason.SIGNATURE_UNKNOWN, f"{declared} is not a DSPy signature")
    return found


def found_signature(program: dspy.Module) -> type[dspy.Signature]:
    """The signature that a program shows by itself."""
    own = getattr(program, "signature", None) or getattr(getattr(program, "predict", None), "signature", None)
    if isinstance(own, type) and issubclass(own, dspy.Signature):
        return own
    predictors = program.predictors()
    takes = {p for p in inspect.signature(type(program).forward).parameters if p not in ("self", "kwargs")}
    if len(predictors) == 1 and takes == set(predictors[0].signature.input_fields):
        return predictors[0].signature  # type: ignore[no-any-return]
    raise ProgramError(
        FailureReason.SIGNATURE_UNKNOWN,
        f"{type(program).__name__} has no `signature` attribute and {len(predictors)} predictors: pass signature="
        "to log_program, as 'question -> answer' or 'module:SignatureClass'",
    )


def _model(name: str, fields: dict[str, FieldInfo], extra: Any) -> type[BaseModel]:
    parts: dict[str, Any] = {key: (_annotation(field), _field(field)) for key, field in fields.items()}
    return create_model(name, __config__=ConfigDict(extra=extra, arbitrary_types_allowed=True), **parts)


def _annotation(field: FieldInfo) -> Any:
    """The type with its bounds (ge, le, max_length, …)."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _field(field: FieldInfo) -> Any:
    """Without what DSPy keeps in a field for its prompts."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    text = str(extra.get("desc") or "")
    description = None if text.startswith("${") else text or None
    if field.is_required():
        return Field(description=description)
    return Field(default=field.default, description=description)
