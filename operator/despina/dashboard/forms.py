"""A form that is made of a program's input schema: what its fields look like, and what was written into them (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from despina.cluster.reading import entries, mapping, text
from despina.dashboard.schemas import MOST_OPTIONS, Place, Schema, bounds_of, place_of, type_of
from despina.dashboard.words import shown

Kind = Literal["text", "number", "integer", "choice", "json"]
MOST_SHOWN = 100
"""Fields of a form; the inputs of a program with more are written as one JSON object."""
LONGEST_DEFAULT = 16_384
ALL = ""
"""The name of the field that stands for all inputs."""
LEFT_OUT = object()


class Field(NamedTuple):
    """One input."""

    key: str
    """What the form calls it: names of inputs are anybody's words."""
    name: str
    kind: Kind
    is_required: bool
    is_nullable: bool = False
    hint: str = ""
    about: str = ""
    options: tuple[str, ...] = ()
    """Values to choose among, as JSON."""
    default: str = ""
    """What stands in it at first."""

    @property
    def label(self) -> str:
        """Its name in one line."""
        return shown(self.name, 100) or "Inputs"


class Filled(NamedTuple):
    """A field with what was written into it, and what is wrong with that."""

    field: Field
    value: str
    error: str = ""


class Wrong(Exception):
    """What is written there cannot be sent."""


def fields_of(interface: Schema) -> list[Field]:
    """The fields of a form. What is no schema of an object, or of too many fields, is one field for all inputs."""
    place = place_of(interface, "inputs")
    found, required = place.fields(), place.required()
    if not found or len(found) > MOST_SHOWN:
        hint = "an object of all inputs, as JSON"
        return [Field("all", ALL, "json", True, hint=hint, default="{}")]
    return [_field(f"f{n}", name, one, name in required, place) for n, (name, one) in enumerate(found.items())]


def _field(key: str, name: str, schema: Schema, is_required: bool, place: Place) -> Field:
    parts, is_nullable = place.options(schema)
    own = parts[0] if len(parts) == 1 else {}
    values = place.values(own)
    is_choice = values is not None and len(values) <= MOST_OPTIONS
    kind: Kind = "choice" if is_choice else _kind(own)
    hint = "; ".join([type_of(place, schema), *bounds_of(own), *([] if is_required else ["may be left out"])])
    options = tuple(values or ()) if is_choice else ()
    about = shown(text(schema.get("description")))
    return Field(
        key, name, kind, is_required, is_nullable, hint, about, options, _default(place, schema, kind, options)
    )


def _kind(schema: Schema) -> Kind:
    kinds: dict[str, Kind] = {"string": "text", "number": "number", "integer": "integer"}
    return kinds.get(text(schema.get("type")), "json") if "enum" not in schema else "json"


def _default(place: Place, schema: Schema, kind: Kind, options: tuple[str, ...]) -> str:
    value = schema.get("default")
    if value is None or place.is_spent:
        return ""
    found = value if kind == "text" and isinstance(value, str) else place.written(value)
    if kind == "choice":
        return str(options.index(found)) if found in options else ""
    return found if len(found) <= LONGEST_DEFAULT else ""


def at_first(fields: list[Field]) -> list[Filled]:
    """A form that nobody has written into."""
    return [Filled(field, field.default) for field in fields]


def read(fields: list[Field], sent: Mapping[str, Any]) -> tuple[list[Filled], str]:
    """The form as it was sent, and the inputs as JSON; empty where something is wrong with them."""
    filled, inputs = list[Filled](), dict[str, Any]()
    for field in fields:
        said = str(sent.get(field.key, "")).replace("\r\n", "\n")
        try:
            value = _value(field, said)
            filled.append(Filled(field, said))
        except Wrong as exc:
            filled.append(Filled(field, said, str(exc)))
            continue
        if value is not LEFT_OUT:
            inputs[field.name] = value
    if any(one.error for one in filled):
        return filled, ""
    return filled, json.dumps(inputs.get(ALL, inputs))


def _value(field: Field, said: str) -> Any:
    if not said.strip() and not (field.is_required and field.kind == "text" and not field.is_nullable):
        if not field.is_required:
            return LEFT_OUT
        if field.is_nullable:
            return None
        raise Wrong("Choose one of them." if field.kind == "choice" else "This is required.")
    if field.kind == "text":
        return said
    return _chosen(field, said) if field.kind == "choice" else _parsed(field, said)


def _chosen(field: Field, said: str) -> Any:
    if not (said.isascii() and said.isdecimal() and len(said) < 5 and int(said) < len(field.options)):
        raise Wrong("Choose one of them.")
    return json.loads(field.options[int(said)])


def _parsed(field: Field, said: str) -> Any:
    try:
        value = json.loads(said, parse_constant=_no_number)
        json.dumps([[value]])  # what is nested so deep that it could not be sent
    except (ValueError, RecursionError) as exc:
        place = f": line {exc.lineno}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise Wrong(f"This is no JSON{place}." if field.kind == "json" else NUMBERS[field.kind]) from None
    if field.kind == "json":
        if field.name == ALL and not isinstance(value, dict):
            raise Wrong("This is no JSON object.")
        return value
    return _number(field, value)


NUMBERS = {"number": "A number is asked for, such as 0.5.", "integer": "A whole number is asked for."}


def _number(field: Field, value: Any) -> Any:
    kinds = int if field.kind == "integer" else (int, float)
    is_whole = isinstance(value, int)  # of any size, also such as no float can be
    if isinstance(value, bool) or not isinstance(value, kinds) or not (is_whole or math.isfinite(value)):
        raise Wrong(NUMBERS[field.kind])
    return value


def _no_number(_: str) -> Any:
    raise ValueError("JSON has no such number")


def refused(filled: list[Filled], problem: Mapping[str, Any]) -> tuple[list[Filled], list[str]]:
    """The form with what the program's own check says beside each field, and what it says of none of them."""
    by_field: dict[str, list[str]] = {}
    for path, message in _errors(problem):
        by_field.setdefault(path.partition(".")[0], []).append(message if "." not in path else f"{path}: {message}")
    names = {one.field.name for one in filled}
    beside = [one._replace(error="; ".join(by_field.get(one.field.name, ())) or one.error) for one in filled]
    rest = [f"{name}: {'; '.join(said)}" for name, said in by_field.items() if name not in names]
    return beside, rest[:20]


def _errors(problem: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for error in entries(mapping(problem).get("errors"))[:200]:
        yield text(error.get("field"))[:200], shown(text(error.get("message")))
