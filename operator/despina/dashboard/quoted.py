"""Words that others wrote, longer than a line, and what differs between two of them (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile
from typing import NamedTuple

from despina.dashboard.written import readable

LONGEST_QUOTED = 16_384
"""Characters of one value that are shown."""
MOST_COMPARED = 100
"""Words, or else lines, of each side among which what is the same is looked for; that takes the cube of it at worst."""
WORD = re.compile(r"\s+|\w{1,64}|.", re.DOTALL)
SAME, GONE, NEW = "", "del", "ins"


def quoted(text: str, longest: int = LONGEST_QUOTED) -> str:
    """What somebody wrote, with its line breaks, and not without end."""
    lines = readable(text[:longest].replace("\r\n", "\n"))
    left = len(text) - longest
    return lines if left <= 0 else f"{lines}\n… and {left} more characters"


class Piece(NamedTuple):
    """A part of a text beside another one: the same in both, gone, or new."""

    text: str
    mark: str = SAME


Pieces = tuple[Piece, ...]


def compared(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Two quoted texts, each with what is only in it marked. Whatever they are, this ends soon."""
    old, new = WORD.findall(before), WORD.findall(after)
    start = _same(old, new)
    end = _same(old[start:][::-1], new[start:][::-1])
    middle = old[start : len(old) - end], new[start : len(new) - end]
    steps = list(_steps(*middle))
    head, tail = "".join(old[:start]), "".join(old[len(old) - end :])
    gone = [Piece(a, GONE if differs else SAME) for differs, a, _ in steps]
    came = [Piece(b, NEW if differs else SAME) for differs, _, b in steps]
    return _joined([Piece(head), *gone, Piece(tail)]), _joined([Piece(head), *came, Piece(tail)])


def _same(old: Sequence[str], new: Sequence[str]) -> int:
    """How many words both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))


def _steps(old: list[str], new: list[str]) -> Iterator[tuple[bool, str, str]]:
    """Whether it differs, what was there, and what is there."""
    if max(len(old), len(new)) > MOST_COMPARED:
        old, new = ("".join(side).splitlines(keepends=True) for side in (old, new))
    if max(len(old), len(new)) > MOST_COMPARED:
        yield True, "".join(old), "".join(new)
        return
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=True).get_opcodes():
        yield kind != "equal", "".join(old[a:b]), "".join(new[c:d])


def _joined(pieces: list[Piece]) -> Pieces:
    """Without those that say nothing, and with neighbours of a kind as one."""
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].mark == piece.mark:
            found[-1] = Piece(found[-1].text + piece.text, piece.mark)
        elif piece.text:
            found.append(piece)
    return tuple(found)
