"""What the process that optimises is given, in files of its own folder, and what it says: no held-out row is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from despina.wire import OptimizerConfig, Report, TrialTools

TASK = "task.json"


class TaskRow(Report):
    """One row to learn from, or to validate on."""

    inputs: dict[str, Any]
    expected: dict[str, Any]


class Task(Report):
    """What to do."""

    names: tuple[str, ...]
    """The predictors that may change."""
    optimizer: OptimizerConfig
    metric: str
    seconds: float
    tools: TrialTools
    train: tuple[TaskRow, ...]
    validation: tuple[TaskRow, ...]

    def write(self, folder: Path) -> None:
        """Lay it where `read` finds it."""
        (folder / TASK).write_text(self.model_dump_json())

    @classmethod
    def read(cls, folder: Path) -> Task:
        """The folder's."""
        return cls.model_validate_json((folder / TASK).read_bytes())


class News(Report):
    """What has become known since it was asked last."""

    state: dict[str, Any] | None = None
    """Of a program that is better than all before."""
    score: float | None = Field(default=None, allow_inf_nan=False)
    """Its mean on the validation rows, from 0 to 1."""
    ended: str | None = None
    """The end; empty where the optimiser has finished, else why it has not."""
