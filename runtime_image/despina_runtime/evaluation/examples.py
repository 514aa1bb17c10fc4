"""The examples of an evaluation: reading them from wherever they are, and by a program's interface."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from despina.wire import DatasetConfig, Report
from despina_runtime.evaluation.metrics import BUILT_IN
from despina_runtime.tracking import Lacking, told

Line = Mapping[str, Any]


class Unusable(Exception):
    """The evaluation cannot give a score; the text says why."""


@dataclass(frozen=True)
class Row:
    """One example: what is asked, and what is expected."""

    inputs: dict[str, Any]
    expected: dict[str, Any]


class CallersRow(Row):
    """One that callers asked, maybe of another version: where the inputs do not take it, it counts as not answered."""


class Side(Report):
    """Inputs or outputs, of a JSON Schema what is needed here."""

    properties: dict[str, Any] = Field(default_factory=dict)
    required: tuple[str, ...] = ()


class Shape(Report):
    """What a program takes and gives, by its own account."""

    inputs: Side
    outputs: Side

    @property
    def takes(self) -> set[str]:
        """What it is given. Nothing that it gives is among that, or it would be told what is expected of it."""
        return self.inputs.properties.keys() - self.outputs.properties.keys()

    @property
    def gives(self) -> set[str]:
        """What every answer holds."""
        return set(self.outputs.properties)


def read_rows(lines: Sequence[Line], shape: Shape, metric: str, limit: int) -> list[Row]:
    """Examples as they stand in a dataset, by the program's interface; raises Unusable.

    A named metric looks at the program's outputs only; one of the model's code may want to know more.
    """
    rows = [_row(line, shape.takes) for line in lines[:limit]]
    if metric in BUILT_IN:
        rows = [Row(row.inputs, {k: v for k, v in row.expected.items() if k in shape.gives}) for row in rows]
    if not rows:
        raise Unusable("the dataset holds no examples")
    for number, row in enumerate(rows, 1):
        missing = set(shape.inputs.required) - row.inputs.keys()
        if missing or not row.expected:
            lacks = ", ".join(sorted(missing)) or "expected outputs"
            raise Unusable(f"example {number} of the dataset has no {lacks}")
    return rows


def _row(line: Line, inputs: set[str]) -> Row:
    if isinstance(line.get("inputs"), Mapping) and isinstance(line.get("expectations"), Mapping):
        return Row(dict(line["inputs"]), dict(line["expectations"]))
    return Row({k: v for k, v in line.items() if k in inputs}, {k: v for k, v in line.items() if k not in inputs})


def load_lines(dataset: DatasetConfig, tracking_uri: str, secret: str | None = None) -> list[Line]:
    """A dataset's lines, wherever they are. A file is there once: it is removed. Raises Unusable.

    `secret` is the folder of the program's own credentials for MLflow.
    """
    if dataset.file:
        return parsed(_taken(Path(dataset.file)))
    try:
        with told(tracking_uri, secret), tempfile.TemporaryDirectory() as folder:
            if dataset.mlflow:
                return _of_mlflow(dataset.mlflow, tracking_uri)
            return parsed(_taken(_download(dataset.uri or "", tracking_uri, folder)))
    except Lacking as exc:
        raise Unusable(str(exc)) from exc


def _taken(path: Path) -> bytes:
    try:
        text = path.read_bytes()
        path.unlink()
    except FileNotFoundError as exc:
        raise Unusable(f"the dataset's file {path.name} is not there") from exc
    except OSError as exc:
        raise Unusable(f"the dataset's file {path.name} cannot be read and removed: {type(exc).__name__}") from exc
    return text


def parsed(text: bytes) -> list[Line]:
    """JSON Lines; raises Unusable."""
    try:
        lines = [orjson.loads(line) for line in text.splitlines() if line.strip()]
    except orjson.JSONDecodeError as exc:
        raise Unusable(f"the dataset is not JSON Lines: {exc}") from exc
    if not all(isinstance(line, dict) for line in lines):
        raise Unusable("each line of the dataset must be a JSON object")
    return lines


def _of_mlflow(name: str, tracking_uri: str) -> list[Line]:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.genai.datasets import search_datasets

    mlflow.set_tracking_uri(tracking_uri)
    try:
        quoted = name.replace("'", "")
        found = next(iter(search_datasets(filter_string=f"name = '{quoted}'", max_results=1)), None)
    except MlflowException as exc:
        raise Unusable(f"MLflow dataset {name!r}: {exc.message}") from exc
    if found is None:
        raise Unusable(f"MLflow has no dataset {name!r}")
    rows: list[Line] = found.to_df()[["inputs", "expectations"]].to_dict("records")
    return rows


def _download(uri: str, tracking_uri: str, folder: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(tracking_uri)
    try:
        path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
    except (MlflowException, OSError, ValueError) as exc:
        raise Unusable(f"the dataset {uri} cannot be fetched: {type(exc).__name__}: {exc}") from exc
    if path.is_dir():
        raise Unusable(f"the dataset {uri} is a folder: name one file of JSON Lines")
    return path
