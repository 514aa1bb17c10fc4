"""Checking values against the program's interface: what comes in, and what the program gives."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from despina_runtime.bounded import SHORT_BYTES
from despina_runtime.pipeline.call import Answer, Call, Rejected, Step
from despina_runtime.pipeline.execute import Execute, problem_of
from despina_runtime.problem import UNFIT, Problem, by_field, invalid_input, place_of
from despina_runtime.program.answers import described, output_of
from despina_runtime.program.interface import Interface, by_name
from despina_runtime.program.written import serializer_of

log = logging.getLogger(__name__)
LONGEST_REASON = 200


class Parse:
    """Reads the body as the program's inputs."""

    def __init__(self, interface: Interface, then: Step) -> None:
        self._interface = interface
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """422 that names each field, or what follows."""
        call.inputs = parse_inputs(self._interface, call.body)
        return await self._then(call)


def parse_inputs(interface: Interface, body: bytes) -> dict[str, Any]:
    """A request's body as the program's inputs; raises a 422 Problem that names each field."""
    try:
        is_short = len(body) <= SHORT_BYTES
        validate = interface.inputs.model_validate_json if is_short else interface.large_inputs.validate_json
        return by_name(validate(body))
    except ValidationError as exc:
        raise invalid_input(exc) from None
    except Exception as exc:  # a type may refuse a value in a way of its own
        kind = type(exc).__name__
        log.warning("Input refused error=%s\n%s", kind, place_of(exc))
        error = {"field": "(body)", "message": f"a type of the program's refused it: {kind}"}
        raise Problem(422, "invalid-input", UNFIT, error["message"], (error,)) from None


class Validate:
    """Holds outputs to the types and bounds of the signature, which DSPy does not enforce.

    Whatever the program did on the way to a bad one is done: it is not run again. A predictor's own bad answer has been
    asked for once more by then (`lm/adapters.py`).
    """

    def __init__(self, interface: Interface, execute: Execute) -> None:
        self._interface = interface
        self._execute = execute

    async def __call__(self, call: Call) -> Answer:
        """The outputs as JSON; Problem 502 when they do not fit."""
        try:
            prediction = await self._execute.run(call)
            try:
                return Answer(render_outputs(self._interface, prediction))
            except (
                Problem
            ) as problem:  # `dspy.Parallel` gives None in the place of what an LM's failure kept from being
                raise problem_of(call.meter.failure) if call.meter.failure else problem from None
        except Rejected as rejected:
            log.warning("Output refused kind=%s fields=%s", rejected.kind, ",".join(rejected.fields))
            title = "The program's output does not fit its signature"
            raise Problem(502, "invalid-output", title, str(rejected), fault="Upstream", can_fall_back=True) from None


def render_outputs(interface: Interface, prediction: Any) -> bytes:
    """A prediction, or a dictionary, as JSON; raises Problem or Rejected where it does not fit."""
    try:
        values = {name: output_of(prediction, name) for name in interface.outputs.model_fields}
        outputs: BaseModel = interface.outputs.model_validate(values, from_attributes=True)
    except AttributeError as exc:
        detail = f"{exc.name or 'an output'} is missing: {described(prediction)}"
        log.error("The program left out an output name=%s returned=%s", exc.name, type(prediction).__name__)
        raise Problem(
            500, "program-error", "The program left out an output", detail, fault="Program", can_fall_back=True
        ) from None
    except ValidationError as exc:
        raise Rejected(by_field(exc)) from None
    try:
        return serializer_of(interface.outputs).to_json(outputs)
    except PydanticSerializationError as exc:  # too deep, or no Unicode
        raise Rejected({"outputs": f"outputs: they cannot be written as JSON: {exc}"[:LONGEST_REASON]}) from None
