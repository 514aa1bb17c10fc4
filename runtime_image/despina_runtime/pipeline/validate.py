"""Checking values against the program's interface: what comes in, and what the program gives."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from despina_runtime.problem import Problem, invalid_input
from despina_runtime.program.interface import Interface


def parse_inputs(interface: Interface, body: bytes) -> dict[str, Any]:
    """A request's body as the program's inputs; raises a 422 Problem that names each field."""
    try:
        return dict(interface.inputs.model_validate_json(body))
    except ValidationError as exc:
        raise invalid_input(exc) from None


def render_outputs(interface: Interface, prediction: Any) -> bytes:
    """A prediction as JSON, held to the types and bounds of the signature, which DSPy does not enforce."""
    try:
        values = {name: getattr(prediction, name) for name in interface.outputs.model_fields}
        outputs: BaseModel = interface.outputs.model_validate(values, from_attributes=True)
    except AttributeError as exc:
        name = exc.name or "an output"
        raise Problem(500, "program-error", "The program left out an output", f"{name} is missing") from None
    except ValidationError as exc:
        detail = invalid_input(exc).detail
        title = "The program's output does not fit its signature"
        raise Problem(502, "invalid-output", title, detail) from None
    return outputs.model_dump_json().encode()
