"""A program's interface: what goes in and what comes out, as pydantic models made from its DSPy signature."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, TypeGuard

import dspy
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import SchemaValidator

from despina.wire import FailureReason
from despina_runtime.bounded import bounded
from despina_runtime.program.unservable import ProgramError
from despina_runtime.program.written import Published

HOW_TO_SAY = "as 'question -> answer' or 'module:SignatureClass'"
REFS = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Interface:
    """The two models. Inputs refuse unknown fields; outputs carry the bounds that DSPy itself does not enforce."""

    inputs: type[BaseModel]
    outputs: type[BaseModel]
    instructions: str = ""

    @cached_property
    def large_inputs(self) -> SchemaValidator:
        """What validates inputs that are not short."""
        return bounded(self.inputs)

    def schema(self) -> dict[str, Any]:
        """Both as JSON Schema."""
        return {
            "instructions": self.instructions,
            "inputs": self.inputs.model_json_schema(schema_generator=Published),
            "outputs": self.outputs.model_json_schema(schema_generator=Published, mode="serialization"),
        }

    def without_instructions(self) -> Interface:
        """The same but for the words that an LM is instructed with."""
        return replace(self, instructions="")


def by_name(model: BaseModel) -> dict[str, Any]:
    """A model's fields. `dict(model)` would take one that is called `keys` for the method."""
    return dict(iter(model))


def interface_of(program: dspy.Module, declared: str | None = None) -> Interface:
    """The interface of a program.

    `declared` is a DSPy signature, as text ("question -> answer") or as "module:Class". Without it, the program's
    own `signature` counts, or that of its only predictor when `forward` takes just that predictor's inputs.

    Raises:
        ProgramError: nothing says what the program takes and gives, no JSON can hold it, or nothing would run.
    """
    if not _can_run(program):
        text = f"{type(program).__name__} has neither forward nor aforward, so that no request could be answered"
        raise ProgramError(FailureReason.SIGNATURE_UNKNOWN, text)
    signature = declared_signature(declared) if declared else found_signature(program)
    interface = Interface(
        inputs=_model("Inputs", signature.input_fields, extra="forbid"),
        outputs=_model("Outputs", signature.output_fields, extra="ignore"),
        instructions=signature.instructions,
    )
    try:
        interface.schema()
    except PydanticInvalidForJsonSchema as exc:
        text = f"{signature.__name__} has a field that no JSON can hold: {exc}"
        raise ProgramError(FailureReason.SIGNATURE_UNKNOWN, text) from exc
    return interface


def _can_run(program: dspy.Module) -> bool:
    """By a method of its class or its own, or since it is called in a way of its own."""
    kind = type(program)
    is_called = kind.__call__ is not dspy.Module.__call__ or kind.acall is not dspy.Module.acall
    return is_called or any(hasattr(kind, name) or hasattr(program, name) for name in ("forward", "aforward"))


def modules_of(program: dspy.Module) -> dict[str, dspy.Module]:
    """Every module by its path within the program (`rewrite`, `steps[0]`, `answer.predict`)."""
    named = {name.removeprefix("self").lstrip("."): module for name, module in program.named_sub_modules()}
    return {path: module for path, module in named.items() if path}  # without the program itself


def module_interfaces(program: dspy.Module) -> dict[str, Interface]:
    """The interfaces of those modules that show theirs, by path."""
    found = {}
    for path, module in modules_of(program).items():
        with suppress(ProgramError):
            found[path] = interface_of(module)
    return found


def declared_signature(declared: str) -> type[dspy.Signature]:
    """A signature from its text or from the class that "module:Class" names."""
    if "->" in declared:
        return dspy.Signature(declared)  # type: ignore[no-any-return]
    module, _, name = declared.partition(":")
    is_name = bool(name) and all(part.isidentifier() for part in module.split("."))
    found = getattr(importlib.import_module(module), name, None) if is_name else None
    if not is_signature(found):
        raise ProgramError(FailureReason.SIGNATURE_UNKNOWN, f"{declared!r} is no DSPy signature: write it {HOW_TO_SAY}")
    return found


def found_signature(program: dspy.Module) -> type[dspy.Signature]:
    """The signature that a program shows by itself."""
    own = getattr(program, "signature", None)
    if is_signature(own):
        return own
    run = getattr(type(program), "forward", None) or getattr(type(program), "aforward", None)
    takes = inspect.signature(run) if run else inspect.Signature()
    predict = getattr(getattr(program, "predict", None), "signature", None)
    if is_signature(predict) and _can_be_bound(takes, predict.input_fields):
        return predict
    predictors = program.predictors()
    names = [name for name in takes.parameters if name not in ("self", "kwargs")]
    if len(predictors) == 1 and {*names} == set(predictors[0].signature.input_fields):
        return predictors[0].signature  # type: ignore[no-any-return]
    raise ProgramError(
        FailureReason.SIGNATURE_UNKNOWN,
        f"nothing says what {type(program).__name__} takes and gives: it has no `signature` attribute, and"
        f" {_why_unknown(program, names)}: pass signature= to log_program, or --signature to despina-runtime log,"
        f" {HOW_TO_SAY}",
    )


def _why_unknown(program: dspy.Module, names: list[str]) -> str:
    predictors = program.named_predictors()
    if not predictors:
        return "it has no predictor"
    if len(predictors) > 1:
        return f"none of its predictors ({', '.join(name for name, _ in predictors)}) is the whole of it"
    ((name, predictor),) = predictors
    inputs = ", ".join(predictor.signature.input_fields)
    return f"its predictor {name} takes {inputs}, where it takes {', '.join(names) or 'whatever it is given'} itself"


def is_signature(found: Any) -> TypeGuard[type[dspy.Signature]]:
    """Whether something is a DSPy signature."""
    return isinstance(found, type) and issubclass(found, dspy.Signature)


def _can_be_bound(takes: inspect.Signature, inputs: Iterable[str]) -> bool:
    """Whether a method can be called with these inputs, and nothing else."""
    try:
        takes.bind(None, **dict.fromkeys(inputs))
    except TypeError:
        return False
    return True


def _model(name: str, fields: dict[str, FieldInfo], extra: Any) -> type[BaseModel]:
    parts: dict[str, Any] = {key: (annotation_of(field), _field(field)) for key, field in fields.items()}
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True, allow_inf_nan=False)  # JSON has none
    return create_model(name, __config__=config, **parts)


def annotation_of(field: FieldInfo) -> Any:
    """The type with its bounds (ge, le, max_length, …)."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _field(field: FieldInfo) -> Any:
    """Without what DSPy keeps in a field for its prompts."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    text = str(extra.get("desc") or "")
    description = None if text.startswith("${") else text or None
    if field.is_required():
        return Field(description=description)
    if field.default_factory:
        return Field(default_factory=field.default_factory, description=description)
    return Field(default=field.default, description=description)


def runs_async(program: dspy.Module) -> bool:
    """Whether `aforward` is what the program is: one that a class inherits beside a `forward` of its own is another's
    (`dspy.CodeAct` has ReAct's)."""
    own = (vars(kind) for kind in type(program).__mro__)
    return next(("aforward" in names for names in own if names.keys() & {"forward", "aforward"}), False)
