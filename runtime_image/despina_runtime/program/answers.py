"""What a program returned: where its outputs are, which of them are missing, and whether its code could give others."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import dspy
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from despina.wire import FailureReason
from despina_runtime.program.unservable import ProgramError

PLAIN = (str, bytes, bool, int, float, list, tuple, set, NoneType)
"""What has no outputs, whatever they are called. A subclass may have: a named tuple does."""
NEVER = (
    "{} returns {}, and its code gives nothing that has outputs: return the predictor's prediction, or"
    " dspy.Prediction({}=...)"
)
LONGEST = 200


class NeverAnswers(ProgramError):
    """No answer of an LM's and no machine could help it."""


def output_of(given: Any, name: str) -> Any:
    """One output; raises AttributeError. An attribute of a prediction may be a method of the same name (`items`)."""
    if isinstance(given, dict):
        return given.get(name)
    if isinstance(given, dspy.Example) and name in given:
        return given[name]
    return getattr(given, name)


def described(given: Any) -> str:
    """What a program returned, without its values. Names of its fields are for the caller: LMs may have made them."""
    said = f"the program returned {type(given).__name__}"
    if isinstance(given, dspy.Example):
        said += f" with {', '.join(map(str, given)) or 'nothing'}"
    return said[:LONGEST]


def missing(outputs: type[BaseModel], given: Any) -> list[str]:
    """The outputs that are not there."""
    return [name for name, field in outputs.model_fields.items() if not _has(given, name, field)]


def _has(given: Any, name: str, field: FieldInfo) -> bool:
    if type(given) in PLAIN:
        return False
    if isinstance(given, dict):
        return name in given or field.annotation is Any or NoneType in get_args(field.annotation)
    try:
        output_of(given, name)
    except AttributeError:
        return False
    return True


def check_can_answer(program: dspy.Module, is_async: bool, given: Any, names: list[str]) -> None:
    """Raise NeverAnswers if what a program returned, which lacks these outputs, is all that its code can give."""
    run = "aforward" if is_async else "forward"
    if names and type(given) in PLAIN and _gives_nothing_else(program, run):
        said = NEVER.format(f"{type(program).__name__}.{run}", _kind(given), names[0])
        raise NeverAnswers(FailureReason.WARMUP_FAILED, said)


def _kind(given: Any) -> str:
    return "None" if given is None else type(given).__name__


def _gives_nothing_else(program: dspy.Module, run: str) -> bool:
    """Whether that can be read in the code. Where it returns a name, or what a call gives, another answer may lead to
    something else."""
    values = _returned(program, run)
    if values is None:
        return False
    return all(map(_is_literal, values)) or (len(values) == 1 and _is_plain_output(program, values[0]))


def _returned(program: dspy.Module, run: str) -> list[ast.expr | None] | None:
    """What stands behind each `return`; None where that does not say what callers get."""
    try:
        found: Any = ast.parse(textwrap.dedent(inspect.getsource(getattr(type(program), run)))).body[0]
    except (AttributeError, OSError, TypeError, SyntaxError):
        return None
    if run in vars(program) or getattr(found, "decorator_list", True):
        return None
    return [node.value for node in _own(found) if isinstance(node, ast.Return)]


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, without the functions in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from _own(child)


def _is_literal(value: ast.expr | None) -> bool:
    return value is None or isinstance(value, ast.Constant | ast.JoinedStr)


def _is_plain_output(program: dspy.Module, value: ast.expr | None) -> bool:
    """`….answer`, where each predictor that has such an output gives text, a number or a word of a list."""
    name = value.attr if isinstance(value, ast.Attribute) else ""
    outputs = [predictor.signature.output_fields for predictor in program.predictors()]
    kinds = [fields[name].annotation for fields in outputs if name in fields]
    return bool(kinds) and all(kind in PLAIN or get_origin(kind) is Literal for kind in kinds)
