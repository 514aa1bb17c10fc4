"""Code that logs a program is imported by whoever loads that program: unguarded, each load would be a release."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOW = "put that under `if __name__ == '__main__':`"
_DEFINED_ONLY = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_loads = [0]


@contextmanager
def loading() -> Iterator[None]:
    """While a program's code is imported and its program made."""
    _loads[0] += 1
    try:
        yield
    finally:
        _loads[0] -= 1


def check_not_loading() -> None:
    """Raise ValueError where a program that is loaded logs one."""
    if _loads[0]:
        raise ValueError(f"the program's code logs a program whenever it is loaded: {HOW}, and log it anew")


def check_guarded(file: Path) -> None:
    """Raise ValueError for a module that calls `log_program` as it is imported."""
    for node in ast.parse(file.read_bytes()).body:
        if not isinstance(node, _DEFINED_ONLY) and not _is_guard(node) and any(map(_logs, ast.walk(node))):
            raise ValueError(f"{file.name} calls log_program in line {node.lineno} whenever a pod loads it: {HOW}")


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))


def _logs(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and "log_program" in (
        getattr(node.func, "id", ""),
        getattr(node.func, "attr", ""),
    )
