"""Whoever reads a pod's state can wait until there is a later one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from despina.wire import PodState


class News:
    """Numbers a pod's states: one more whenever something is otherwise that a decision could depend on."""

    def __init__(self, state: Callable[[], PodState]) -> None:
        self.number = 0
        self._state = state
        self._facts: tuple[Any, ...] = ()
        self._is_new = asyncio.Event()

    def look(self) -> None:
        """Tell those who wait, if there is something new."""
        if (facts := self._state().facts()) != self._facts:
            self._facts = facts
            self.tell()

    def tell(self) -> None:
        """Tell those who wait."""
        self.number += 1
        self._is_new.set()
        self._is_new = asyncio.Event()

    async def after(self, number: int, seconds: float) -> None:
        """Wait until the number is another, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.number == number:
                    await self._is_new.wait()
