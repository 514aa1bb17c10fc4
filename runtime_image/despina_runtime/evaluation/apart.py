"""What keeps a process apart from those below it, though all are one user's, in one container."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
END_SECONDS = 10.0


def keep_apart() -> None:
    """Have nobody of the same user look into this process or change it, and be the parent of whatever those below leave
    behind, so that it can be ended."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_DUMPABLE, 0), (PR_SET_CHILD_SUBREAPER, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option}")


class Below:
    """The processes that come to be below this one from now on, however far below and whoever started them."""

    def __init__(self) -> None:
        self._before = {pid for pid, _ in _below(set())}

    async def end(self) -> bool:
        """End all, those too that start others meanwhile; whether that worked.

        A look takes a while, and may miss one that was born in it from one that ended in it. But whoever ends leaves a
        zombie, which nobody here takes away: only when two looks see the same dead, and nobody alive, is nobody left.
        """
        until = asyncio.get_running_loop().time() + END_SECONDS
        before = None
        while asyncio.get_running_loop().time() < until:
            seen = sorted(_below(self._before))
            alive = [pid for pid, is_alive in seen if is_alive]
            if not alive and seen == before:
                return True
            for pid in alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            before = seen
            await asyncio.sleep(0.01)
        return False


def _below(but: set[int]) -> list[tuple[int, bool]]:
    """All processes below this one and whether each still runs, without those named and what is below them."""
    children: dict[int, list[tuple[int, bool]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent, threads = _stat(folder)
            # A zombie has ended, unless it is only the first thread of several that did.
            children.setdefault(parent, []).append((int(folder.name), state not in "ZX" or threads > 1))
    found: list[tuple[int, bool]] = []
    waiting = [os.getpid()]
    while waiting:
        new = [child for child in children.get(waiting.pop(), []) if child[0] not in but]
        found += new
        waiting += [pid for pid, _ in new]
    return found


def _stat(folder: Path) -> tuple[str, int, int]:
    """State, parent and number of threads of a process; its name may hold anything, brackets too."""
    fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[17])
