"""A DSPyProgram's manifest in a file, as commands without a cluster read it; its mistakes are told by field.

An API server would hold it to its schema first: what of that pydantic does not see is looked at here.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from despina.api.base import LABEL, LABEL_LENGTH, ApiModel, ServerStr, is_name
from despina.api.program import NAME, NAME_LIMIT, NAME_WORDS, Program
from despina_runtime.program.unservable import NotServable

TRACKING_ENV = "MLFLOW_TRACKING_URI"
IN_YAML = {"tuple_type": "Input should be a list", "model_type": "Input should be a mapping"}
"""Where pydantic speaks of Python."""


def read_manifest(file: Path) -> dict[str, Any]:
    """The one document of a file; raises NotServable."""
    try:
        documents = [one for one in yaml.safe_load_all(file.read_text()) if one is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise NotServable(f"{file} is no YAML: {' '.join(str(exc).split())}") from None
    if len(documents) > 1:
        raise NotServable(
            f"{file} has more than one document ({len(documents)}): write the DSPyProgram to its own file"
        )
    if not documents or not isinstance(documents[0], dict):
        raise NotServable(f"{file} is not a manifest")
    return documents[0]


def part(document: dict[str, Any], ways: Sequence[str]) -> dict[str, Any]:
    """Where to write, made if it is not there. What is no object stays so: who reads the whole names it."""
    for way in ways:
        found = document.setdefault(way, {})
        document = found if isinstance(found, dict) else {}
    return document


def put_server(manifest: dict[str, Any], option: str | None) -> None:
    """The MLflow server of the option, or else of the environment, in place of the manifest's, which only a cluster may
    be able to resolve. Raises NotServable, which shows no value: it may hold a password."""
    given = (("--tracking-uri", option), (TRACKING_ENV, os.environ.get(TRACKING_ENV)))
    name, uri = next(((name, uri) for name, uri in given if uri), ("", ""))
    if not uri:
        return
    try:
        TypeAdapter(ServerStr).validate_python(uri)
    except ValidationError:
        raise NotServable(
            f"{name}, which goes before spec.source.mlflow.trackingURI, must be http://HOST or https://HOST, with a"
            " port or path at most, and no user, password or query: MLFLOW_TRACKING_USERNAME and _PASSWORD say as whom"
        ) from None
    part(manifest, ["spec", "source", "mlflow"])["trackingURI"] = uri


def parsed(manifest: dict[str, Any]) -> Program:
    """The program; raises NotServable, and ValueError for what is none at all."""
    try:
        program = Program.parse(manifest)
    except ValidationError as exc:
        raise NotServable("; ".join(map(told, exc.errors(include_url=False, include_input=False)))) from None
    if wrong := [*_of_names(program), *_twice(program.spec, "spec")]:
        raise NotServable("; ".join(wrong))
    return program


def told(error: ErrorDetails, within: Sequence[str] = ()) -> str:
    """A mistake, with the field's path as it stands in the manifest."""
    loc, kind = (*within, *error["loc"]), error["type"]
    path = ".".join(map(str, loc if not loc or loc[0] == "spec" else ("metadata", *loc)))
    if kind == "extra_forbidden":
        return f"{path}: no such field{_meant(str(loc[-1]), loc[:-1])}"
    words = IN_YAML.get(kind, error["msg"]).removeprefix("Value error, ")
    if not path:
        return words
    # Rules of a whole begin with the field that they are about, for with kubectl these words are all that one sees.
    is_of_field = kind == "value_error" and words.split()[0].partition(".")[0].partition("[")[0] in _fields_at(loc)
    return f"{path}.{words}" if is_of_field else f"{path}: {words}"


def _meant(name: str, loc: Sequence[int | str]) -> str:
    close = difflib.get_close_matches(name, _fields_at(loc), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _fields_at(loc: Sequence[int | str]) -> list[str]:
    """What the part of a manifest at a place may hold."""
    models: list[type[BaseModel]] = [Program]
    for step in loc:
        kinds = [
            f.annotation for model in models for name, f in model.model_fields.items() if (f.alias or name) == step
        ]
        models = [model for kind in kinds for model in _models(kind)] if kinds else models
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from _models(inner)


def _of_names(program: Program) -> Iterator[str]:
    if not is_name(program.name, NAME, NAME_LIMIT):
        yield NAME_WORDS
    if not is_name(program.namespace, LABEL, LABEL_LENGTH):
        yield f"metadata.namespace must be at most {LABEL_LENGTH} characters of a-z, 0-9 and -"


def _twice(model: ApiModel, path: str) -> Iterator[str]:
    """Lists whose items are told apart by a key, with two of one."""
    for name, field in type(model).model_fields.items():
        value, where = getattr(model, name), f"{path}.{field.alias or name}"
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        for key in extra.get("x-kubernetes-list-map-keys", ()):  # type: ignore[union-attr]
            counts = Counter(getattr(item, str(key)) for item in value)
            yield from (f"{where}: more than one has the {key} {one!r}" for one, n in counts.items() if n > 1)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, ApiModel):
                yield from _twice(item, where)
