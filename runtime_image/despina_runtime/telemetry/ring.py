"""The traces that a pod holds: so many at most, and so many bytes.

Where there is no room, the oldest goes of those that are kept for the reason for which most are, or most bytes where
these are short. So an outage pushes out errors before it, and not what somebody has marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from despina.wire import TraceSummary

MOST, MOST_BYTES = 500, 2**24
LONGEST = 2**20
"""Bytes of one trace; a longer one is not held."""


class Kept(NamedTuple):
    """One trace."""

    number: int
    """They grow; one that is marked gets a new one."""
    key: str
    """The prediction's name without its MAC, or another name that none other has."""
    summary: TraceSummary
    """As lists show it, but for the number."""
    body: bytes


class Ring:
    """One pod's."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.number = 0
        """That of the last one."""
        self.bytes = 0
        self._most, self._most_bytes = most, most_bytes
        self._kept: dict[str, dict[str, Kept]] = {}
        """By why, and then by key, the oldest first."""
        self._why: dict[str, str] = {}
        """By key."""

    def add(self, key: str, summary: TraceSummary, body: bytes) -> bool:
        """Hold one; whether it is held. One of the same name takes its place."""
        if len(body) > min(LONGEST, self._most_bytes):
            return False
        self._drop(key)
        self.number += 1
        self._kept.setdefault(summary.why, {})[key] = Kept(self.number, key, summary, body)
        self._why[key] = summary.why
        self.bytes += len(body)
        while len(self._why) > self._most or self.bytes > self._most_bytes:
            fullest = max(self._kept.values(), key=_size if self.bytes > self._most_bytes else len)
            self._drop(next(iter(fullest)))
        return True

    def get(self, key: str) -> Kept | None:
        """The one of a name."""
        return self._kept[self._why[key]][key] if key in self._why else None

    def after(self, number: int) -> list[Kept]:
        """Those that came later, the oldest first."""
        return sorted(one for one in self if one.number > number)

    def _drop(self, key: str) -> None:
        if (why := self._why.pop(key, None)) is not None:
            self.bytes -= len(self._kept[why].pop(key).body)

    def __iter__(self) -> Iterator[Kept]:
        return (one for kept in self._kept.values() for one in kept.values())

    def __len__(self) -> int:
        return len(self._why)


def _size(kept: dict[str, Kept]) -> int:
    return sum(len(one.body) for one in kept.values())
