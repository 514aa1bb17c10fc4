"""Compiled states, as `state.json` of an artefact holds them: what differs between two, and for people to read.

Pure functions over JSON, so that whoever does not trust a model's code can ask them of what it gave.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from despina_runtime.cache.keys import canonical
from despina_runtime.paths import is_in, places

State = Mapping[str, Any]


class UnknownModule(ValueError):
    """The program has no such module, or none with a predictor in it."""


class NotThatProgram(ValueError):
    """What an optimiser gave is not the program that it was given, optimised."""


def by_predictor(state: State) -> State:
    """Each predictor's own state, by its name; a program that is a single predictor has no names in its own."""
    return {"self": state} if "signature" in state and "demos" in state else state


def chosen(names: Sequence[str], paths: Iterable[str]) -> tuple[str, ...]:
    """Of predictors' names, those at these paths or below them; all, if no path is given. Raises UnknownModule."""
    wanted = tuple(paths)
    for path in wanted:
        if not any(is_in(name, path) for name in names):
            there = ", ".join(places(names)) or "none"
            raise UnknownModule(f"the program has no module {path} with a predictor; it has {there}")
    return tuple(name for name in names if not wanted or any(is_in(name, path) for path in wanted))


def merged(base: State, found: State, names: Iterable[str]) -> dict[str, Any]:
    """The base with these predictors as somebody says they are now; raises NotThatProgram for what they cannot be."""
    own, theirs = by_predictor(base), by_predictor(found)
    try:
        new = {**own, **{name: _checked(name, own[name], theirs[name]) for name in names}}
    except (KeyError, TypeError, AttributeError) as exc:
        raise NotThatProgram(f"it is no state of the program: {type(exc).__name__} {exc}") from exc
    return dict(new["self"]) if own is not base else new


def without_hidden(state: State, names: Iterable[str], is_hidden: Callable[[Any], bool]) -> dict[str, Any]:
    """A state without these predictors' demonstrations that redaction would hide: what tools and LMs have said while it
    was searched may be anything, and a version is read by many."""
    own = by_predictor(state)
    shown = {name: [demo for demo in own[name]["demos"] if not is_hidden(demo)] for name in names}
    new = {**own, **{name: {**own[name], "demos": demos} for name, demos in shown.items()}}
    return dict(new["self"]) if own is not state else new


def _checked(name: str, own: Any, theirs: Any) -> Any:
    if _fields(own) != _fields(theirs):
        raise NotThatProgram(f"the signature of {name} has another number of fields")
    _of_predictor(name, theirs)  # it can be read
    return theirs


def check_frozen(before: State, after: State, names: Iterable[str]) -> None:
    """Raise NotThatProgram unless both are states of one program, of which nothing but the named predictors differs."""
    own, theirs, chosen = by_predictor(before), by_predictor(after), frozenset(names)
    if own.keys() != theirs.keys():
        raise NotThatProgram(f"its predictors are {', '.join(theirs) or 'none'}, and not {', '.join(own)}")
    if changed := [name for name in own if name not in chosen and canonical(own[name]) != canonical(theirs[name])]:
        raise NotThatProgram(f"it changed {', '.join(changed)}, which was not to change")
    for name in chosen & own.keys():
        if _fields(own[name]) != _fields(theirs[name]):
            raise NotThatProgram(f"the signature of {name} has another number of fields")


def _fields(state: Any) -> int:
    return len(state["signature"]["fields"])


def readable_diff(before: State, after: State) -> str:
    """What became of instructions and demonstrations, as a unified diff."""
    old, new = (_text(state).splitlines(keepends=True) for state in (before, after))
    return "".join(difflib.unified_diff(old, new, "parent", "candidate", n=2))


def _text(state: State) -> str:
    return "".join(_of_predictor(name, one) for name, one in by_predictor(state).items())


def _of_predictor(name: str, state: Mapping[str, Any]) -> str:
    demos = "".join(f"{name} demonstration {canonical(demo).decode()}\n" for demo in state["demos"])
    instructions = "".join(f"{name} instruction {line}\n" for line in state["signature"]["instructions"].splitlines())
    fields = "".join(f"{name} field {f['prefix']} {f['description']}\n" for f in state["signature"]["fields"])
    return instructions + fields + demos
