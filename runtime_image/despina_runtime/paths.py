"""Paths of modules within a program, such as `answer.predict` or `steps[0]`."""

from __future__ import annotations


def is_in(name: str, path: str) -> bool:
    """Whether a predictor's name lies within a module's path."""
    return name == path or name.startswith((f"{path}.", f"{path}["))
