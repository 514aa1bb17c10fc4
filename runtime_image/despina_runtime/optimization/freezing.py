"""Optimisers change the predictors that are named, and no other.

DSPy's optimisers find what they may change by `named_parameters`, on the program and on copies of it. Its own means
(`_compiled = True`) freezes no bare `dspy.Predict`, and hides what it freezes from `dump_state`. So the program is
given, while an optimiser has it, a subclass of its class that names the chosen predictors only, and its own class
afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dspy

from despina_runtime.optimization.states import NotThatProgram, check_frozen
from despina_runtime.program.artifact import state_of

WHOLE = "_narrowed_from"
"""Where a narrowed class keeps the one that it was made from."""


def narrowed(program: dspy.Module, names: Iterable[str]) -> dspy.Module:
    """A copy of the program in which an optimiser finds these predictors only."""
    kind, shown = type(program), frozenset(names)
    metaclass: Any = type(kind)

    def named_parameters(self: Any) -> list[tuple[str, Any]]:
        return [(name, parameter) for name, parameter in kind.named_parameters(self) if name in shown]

    def reset_copy(self: Any) -> Any:
        """Also with the LM that the manifest has given to a predictor, which DSPy's own forgets."""
        copy = kind.reset_copy(self)
        for (_, before), (_, after) in zip(self.named_parameters(), copy.named_parameters(), strict=True):
            after.lm = before.lm
        return copy

    copy = program.deepcopy()
    own: dict[str, Any] = {"named_parameters": named_parameters, "reset_copy": reset_copy, WHOLE: kind}
    own |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__}  # some optimisers read its source
    copy.__class__ = metaclass(kind.__name__, (kind,), own)
    return copy


def widened(found: Any, program: dspy.Module) -> dspy.Module:
    """What an optimiser gave, as a program of the class that it had before; raises NotThatProgram."""
    kind, is_of = type(program), vars(type(found)).get(WHOLE, type(found))
    if is_of is not kind:
        raise NotThatProgram(f"a {is_of.__name__} instead of the {kind.__name__} that it was given")
    found.__class__ = kind
    return found


def check_program(before: dspy.Module, after: dspy.Module, names: Iterable[str]) -> None:
    """Raise NotThatProgram unless both have the same predictors, with the same fields, and only those named differ."""
    check_frozen(state_of(before), state_of(after), names)
    theirs = dict(after.named_predictors())
    for name, predictor in before.named_predictors():
        if fields_of(predictor) != fields_of(theirs[name]):
            raise NotThatProgram(f"the signature of {name} has other fields")


def fields_of(predictor: Any) -> dict[str, tuple[bool, Any]]:
    """Whether a field is an input, and its type, by name."""
    inputs = predictor.signature.input_fields
    return {name: (name in inputs, field.annotation) for name, field in predictor.signature.fields.items()}
