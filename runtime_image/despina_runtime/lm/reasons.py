"""Why an LM's answer cannot be used, by output field: what each may be, in words that are none of the LM's.

DSPy stops at the first value that it cannot read. Here the others are read, too, once each, so that only those that
failed are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import EnumMeta
from typing import Any, get_args

from dspy.adapters.utils import get_annotation_name, parse_value
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from despina_runtime import compat
from despina_runtime.problem import LONGEST_WORDS, MOST_GATHERED, cut

NOTHING = {"(answer)": "the answer could not be read in the format that was asked for"}
MISSING = "{}: it is missing"
MOST_OF_A_FIELD = 5
MAY_QUOTE = {"value_error", "assertion_error", "union_tag_invalid", "uuid_parsing", "json_invalid", "mapping_type",
             "iteration_error", "get_attribute_error"}  # fmt: skip
PLAIN = {*get_args(ErrorType)} - MAY_QUOTE
"""pydantic's errors that say nothing but what is asked for. Others are written by a type of the program's."""
READ: ContextVar[list[Any] | None] = ContextVar("read", default=None)
"""While an answer is read: the types of what was found in it."""


@dataclass(frozen=True, repr=False)
class Unread:
    """Stands for a value that could not be read, until the rest of its answer has been."""

    annotation: Any
    cause: Exception

    def reason(self, name: str) -> str:
        """What is said of it, as the output of that name."""
        if isinstance(self.cause, ValidationError):
            return _told(name, _errors(self.cause), self.cause.error_count(), self.annotation)
        if isinstance(self.annotation, EnumMeta):
            return f"{name}: {_one_of(self.annotation)}"
        return f"{name}: {_unlike(self.annotation)}"


def _parse_value(value: Any, annotation: Any) -> Any:
    """As DSPy's; where somebody has set `READ`, what cannot be read gives an `Unread`."""
    if (read := READ.get()) is None:
        return parse_value(value, annotation)
    read.append(annotation)
    try:
        return parse_value(value, annotation)
    except Exception as exc:
        return Unread(annotation, exc)


compat.read_values_by(_parse_value)


def of_unread(signature: Any, values: Mapping[str, Any]) -> dict[str, str]:
    """Of the values that could not be read, and of those that are not there."""
    reasons = {n: v.reason(n) for n, v in values.items() if isinstance(v, Unread)}
    return reasons | {n: MISSING.format(n) for n in signature.output_fields if n not in values}


def of_bounds(exc: ValidationError, signature: Any) -> dict[str, str]:
    """Of values that could be read, and do not fit."""
    by_name: dict[str, list[ErrorDetails]] = {}
    for error in _errors(exc):
        by_name.setdefault(str(error["loc"][0]), []).append({**error, "loc": error["loc"][1:]})
    fields = signature.output_fields
    told = {n: _told(n, errors, len(errors), fields[n].annotation) for n, errors in by_name.items()}
    return told or {"(answer)": f"the answer: {exc.error_count()} errors in all"}


def _errors(exc: ValidationError) -> list[ErrorDetails]:
    """None where there are so many that it takes pydantic milliseconds."""
    return exc.errors(include_url=False, include_context=False) if exc.error_count() <= MOST_GATHERED else []


def _told(name: str, errors: list[ErrorDetails], count: int, annotation: Any) -> str:
    """The first few errors, each with its path."""
    shown = errors[:MOST_OF_A_FIELD]
    known = _fields_within(annotation) if any(e["loc"] for e in shown) else frozenset()
    told = [f"{_path(name, e['loc'], known)}: {_words(e, annotation)}" for e in shown]
    rest = [f"{name}: {count} errors in all"] if count > len(told) else []
    return "; ".join(dict.fromkeys([*told, *rest]))


def _path(name: str, loc: tuple[int | str, ...], known: frozenset[str]) -> str:
    """Without keys of dictionaries, which an LM may have made up."""
    return ".".join([name, *(str(part) for part in loc if isinstance(part, int) or part in known)])


def _fields_within(annotation: Any) -> frozenset[str]:
    try:
        return frozenset(_properties(TypeAdapter(annotation).json_schema()))
    except Exception:  # a type may have no schema
        return frozenset()


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _properties(part)


def _words(error: ErrorDetails, annotation: Any) -> str:
    """pydantic's message, or less where that might repeat what the LM wrote."""
    return cut(error["msg"], LONGEST_WORDS) if error["type"] in PLAIN or _quotes_nothing(error) else _unlike(annotation)


def _quotes_nothing(error: ErrorDetails) -> bool:
    given = error["input"]
    if not isinstance(given, str | int | float) or len(text := str(given)) > LONGEST_WORDS:
        return False
    said, wrote = (set(re.findall(r"\w+", words.casefold())) for words in (error["msg"], text))
    return not said & wrote


def _one_of(members: Any) -> str:
    return cut(f"Input should be one of {', '.join(repr(member.value) for member in members)}", LONGEST_WORDS)


def _unlike(annotation: Any) -> str:
    return cut(f"could not be read as {get_annotation_name(annotation)}", LONGEST_WORDS)
