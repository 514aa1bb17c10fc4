"""The Despina runtime: serves one DSPy program as a typed REST API.

`log_program` writes a program to an MLflow registry. It is imported on first use: the supervisor process of a
pod imports this package too, and must stay free of dspy and mlflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from despina_runtime.program.artifact import log_program

__all__ = ["log_program"]


def __getattr__(name: str) -> Any:
    if name == "log_program":
        from despina_runtime.program.artifact import log_program

        return log_program
    raise AttributeError(name)
