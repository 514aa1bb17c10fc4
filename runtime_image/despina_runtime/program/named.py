"""`despina-runtime log MODULE:NAME`: the program that somebody's code makes, or a line that says where that fails."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import dspy

import despina_runtime
from despina_runtime.program.artifact import needed
from despina_runtime.program.contained import called
from despina_runtime.program.unservable import NotServable

T = TypeVar("T")
NOT_THEIRS = Path(despina_runtime.__file__).parent


def make_program(entrypoint: str, state: Path | None) -> dspy.Module:
    """What the entry point gives, with a compiled state if there is one. Raises NotServable."""
    make = _named(entrypoint)
    if missing := needed(make):
        raise NotServable(
            f"{entrypoint} cannot be called without {', '.join(missing)}, and a pod calls it without arguments:"
            " give defaults, or name a function that gives the uncompiled program"
        )
    program = _theirs(make, f"{entrypoint} fails when called")
    if not isinstance(program, dspy.Module):
        raise NotServable(f"{entrypoint} gives no dspy.Module but a {type(program).__name__}")
    if state:
        _theirs(lambda: program.load(state), f"--state {state} cannot be loaded")
    return program


def _named(entrypoint: str) -> Callable[[], Any]:
    module, _, name = entrypoint.partition(":")
    if not module:
        raise NotServable(f"{entrypoint!r} is not MODULE:NAME")
    sys.path.insert(0, str(Path.cwd()))
    found = _theirs(lambda: importlib.import_module(module), f"{module} cannot be imported")
    make = getattr(found, name or "?", None)
    if make is None:
        raise NotServable(f"{entrypoint!r} is not MODULE:NAME: {module} has no {name or 'name after a colon'}")
    if not callable(make):
        raise NotServable(f"{entrypoint} cannot be called: name a class, or a function that gives the program")
    return make  # type: ignore[no-any-return]


def _theirs(work: Callable[[], T], failed: str) -> T:
    """What their code gives; whatever it raises is theirs to mend, and not shown as ours."""
    try:
        return called(work)
    except Exception as exc:
        raise NotServable(f"{failed}: {' '.join(_told(exc).split())}") from None


def _told(exc: Exception) -> str:
    if isinstance(exc, SyntaxError):
        return f"{exc.filename}, line {exc.lineno}: {type(exc).__name__}: {exc.msg}"
    theirs = [frame for frame in traceback.extract_tb(exc.__traceback__) if _is_theirs(Path(frame.filename))]
    where = f"{theirs[-1].filename}, line {theirs[-1].lineno}: " if theirs else ""
    return f"{where}{type(exc).__name__}: {exc}"


def _is_theirs(file: Path) -> bool:
    return file.is_relative_to(Path.cwd()) and not file.is_relative_to(NOT_THEIRS) and "site-packages" not in file.parts
