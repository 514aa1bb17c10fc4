"""Running a program's own code so that, however it ends, the process goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def called(work: Callable[[], T]) -> T:
    """What it returns. An exit, or a StopIteration, which no future can hold, is an error like any other."""
    try:
        return work()
    except (SystemExit, KeyboardInterrupt, StopIteration) as exc:
        raise _ended(exc) from exc


async def awaited(work: Awaitable[T]) -> T:
    """The same on the event loop. Whoever is cancelled from outside is; but a program may not cancel its caller."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as exc:
        raise _ended(exc) from exc
    except asyncio.CancelledError as exc:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        raise _ended(exc) from exc


def _ended(exc: BaseException) -> RuntimeError:
    return RuntimeError(f"the program raised {type(exc).__name__}")
