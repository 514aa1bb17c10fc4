"""The Despina runtime: serves one DSPy program as a typed REST API, and hosts tools.

For programs: `execute_tool` and `tool` call tools by name; `log_program` writes a program to an MLflow registry. They
are imported on first use: the supervisor process of a pod imports this package too, and must stay free of dspy and
mlflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from despina_runtime.program.artifact import log_program
    from despina_runtime.tools.api import execute_tool, tool

__all__ = ["execute_tool", "log_program", "tool"]
HOMES = {
    "execute_tool": "despina_runtime.tools.api",
    "log_program": "despina_runtime.program.artifact",
    "tool": "despina_runtime.tools.api",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(name)
