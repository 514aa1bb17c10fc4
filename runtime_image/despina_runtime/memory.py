"""What a worker keeps in mind for the sake of speed, and gives back when a revision goes."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MOST_REMEMBERED = 1024
_remembering: list[Any] = []


def remembered(make: Callable[..., T]) -> Callable[..., T]:
    """Made once for the same arguments, until a revision goes: they may be its types, which hold all of its code."""
    kept = functools.lru_cache(MOST_REMEMBERED)(make)
    _remembering.append(kept)
    return kept


def settle() -> None:
    """Look once through all that is loaded, and no more from then on: at each full collection that would cost a pause.
    What was here before and has been let go since is freed, and the system has its pages back."""
    for kept in _remembering:
        kept.cache_clear()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        trim(0)


def resident_bytes() -> int:
    """This process's resident memory; see proc(5)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
