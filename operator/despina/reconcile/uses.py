"""Which programs use which tools, as their manifests say: who must look again when a tool changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from despina.reconcile.queue import Key


class Uses:
    """Both directions."""

    def __init__(self) -> None:
        self._tools: dict[Key, frozenset[Key]] = {}

    def note(self, program: Key, tools: Iterable[Key]) -> set[Key]:
        """What a program uses now; the tools whose users changed by it."""
        before = self._tools.pop(program, frozenset())
        now = frozenset(tools)
        if now:
            self._tools[program] = now
        return set(before ^ now)

    def programs_of(self, tool: Key) -> list[Key]:
        """The programs that use a tool."""
        return sorted(program for program, tools in self._tools.items() if tool in tools)


def tools_in(manifest: Any, namespace: str) -> list[Key]:
    """The tools that a program's manifest names, whatever else it holds."""
    found = []
    for use in (manifest.get("spec") or {}).get("tools") or []:
        ref = use.get("ref") or {}
        found.append((ref.get("namespace") or namespace, str(ref.get("name"))))
    return found
