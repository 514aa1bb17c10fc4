"""Paths of modules within a program, such as `answer.predict` or `steps[0]`."""

from __future__ import annotations

import re
from collections.abc import Iterable

STEP = re.compile(r"\.|\[")


def is_in(name: str, path: str) -> bool:
    """Whether a predictor's name lies within a module's path."""
    return name == path or name.startswith((f"{path}.", f"{path}["))


def places(names: Iterable[str]) -> tuple[str, ...]:
    """The paths of predictors, each after those of the modules that it is in."""
    return tuple(dict.fromkeys(path for name in names for path in ways(name)))


def ways(name: str) -> list[str]:
    """The paths of all modules that a name lies in, the outermost first, and the name itself."""
    return [*(name[: step.start()] for step in STEP.finditer(name)), name]
