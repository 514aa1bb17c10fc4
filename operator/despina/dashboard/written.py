"""What callers, programs and LMs wrote, as it may stand on the page: in lines, and not without end (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

MOST_PIECES = 24
"""Of one value: fields of an object, messages of a list. What is more stands together in one."""
LONGEST_LABEL = 60


class Piece(NamedTuple):
    """One text under its name."""

    label: str
    text: str


@dataclass
class Budget:
    """How much more text a page may hold."""

    left: int
    longest: int
    """Of one text."""
    is_over: bool = False
    """Whether something was cut."""

    @classmethod
    def of_page(cls) -> Budget:
        """For many spans."""
        return cls(left=2**19, longest=4000)

    @classmethod
    def of_one(cls) -> Budget:
        """For one span alone: as much as a pod says of it."""
        return cls(left=2**20, longest=2**18)

    def cut(self, text: str, longest: int = 0) -> str:
        """As much of a text as there is room for."""
        most = max(min(longest or self.longest, self.longest, self.left), 0)
        cut = text[:most]
        self.left -= len(cut)
        if len(cut) == len(text):
            return readable(cut)
        self.is_over = True
        return f"{readable(cut)}…"


def readable(text: str) -> str:
    """Lines as they are; whatever would turn them around, hide in them or be obeyed is written out."""
    return text if text.isprintable() else "".join(map(_readable, text))


def _readable(letter: str) -> str:
    if letter.isprintable() or letter in "\n\t":
        return letter
    return (
        " " if letter.isspace() and letter not in "\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029" else f"\\u{ord(letter):04x}"
    )


def pieces(name: str, document: str, budget: Budget) -> list[Piece]:
    """A JSON value by its fields, or its messages; texts as they are, the rest as JSON."""
    if not document:
        return []
    # What is longer than what may be shown is not read: it would be cut to pieces, and take longer than all else.
    if len(document) > budget.longest or budget.left <= 0:
        return [Piece(name, budget.cut(document))]
    try:
        value = json.loads(document)
        parts = [(label, _text(part)) for label, part in _parts(name, value)]
    except (ValueError, RecursionError):
        return [Piece(name, budget.cut(document))]
    return [Piece(budget.cut(label, LONGEST_LABEL), budget.cut(text)) for label, text in parts]


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value and len(value) <= MOST_PIECES:
        yield from ((f"{name}: {key}", part) for key, part in value.items())
    elif _are_messages(value):
        yield from ((f"{name}: {one['role']}", one["content"]) for one in value)
    else:
        yield name, value


def _are_messages(value: Any) -> bool:
    is_short = isinstance(value, list) and 0 < len(value) <= MOST_PIECES
    return is_short and all(isinstance(one, dict) and one.keys() == {"role", "content"} for one in value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
