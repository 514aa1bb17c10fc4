"""What there is about programs, of which anybody may name some that do not exist."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from despina.dashboard.facts import Key

MOST_PROGRAMS = 5_000
"""Programs that Events and pods of one namespace may name: no namespace takes the others' room."""
Found = TypeVar("Found")


class Named(Generic[Found]):
    """Of each program, whether it is known yet or not: it may be listed later than what is about it."""

    def __init__(self, known: Collection[Key]) -> None:
        """`known`: the programs that there are, at each moment."""
        self._known = known
        self._found: dict[str, dict[str, dict[str, Found]]] = {}

    def of(self, key: Key) -> dict[str, Found]:
        """What is to be kept of one; where a namespace names too many, what is put there is lost."""
        names = self._found.setdefault(key[0], {})
        is_room = key[1] in names or key in self._known or len(names) < MOST_PROGRAMS
        return names.setdefault(key[1], {}) if is_room else {}

    def within(self, namespace: str) -> list[Key]:
        """Those of a namespace that there is anything about."""
        return [(namespace, name) for name in self._found.get(namespace, ())]

    def tidy(self, key: Key) -> None:
        """Forget one that there is nothing about, if there is no such program."""
        if key not in self._known and not self._found.get(key[0], {}).get(key[1]):
            self.drop(key)

    def drop(self, key: Key) -> None:
        """Forget all about one."""
        names = self._found.get(key[0], {})
        names.pop(key[1], None)
        if not names:
            self._found.pop(key[0], None)
