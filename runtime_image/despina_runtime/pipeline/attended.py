"""Ending what nobody waits for any more: an answer that no caller gets still costs money, and a place."""

from __future__ import annotations

import asyncio
from types import TracebackType

from despina_runtime.messages import Receive, tell_when_left
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.problem import Disconnected


class WhileThere:
    """When its caller leaves, what such a block awaits is cancelled, and it ends with Disconnected. The request's body
    must have been read from `receive`.

    The connection tells it: to look for it would cost each request that takes long a task of its own.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._has_left = False

    def __enter__(self) -> None:
        tell_when_left(self._receive, self._leave)

    def _leave(self) -> None:
        self._has_left = True
        if self._task:
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        tell_when_left(self._receive, None)
        if self._has_left and self._task:
            self._task.uncancel()
            raise Disconnected from None


class Attended:
    """Goes on while the caller waits."""

    def __init__(self, then: Step) -> None:
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """What follows; Disconnected if nobody would get it."""
        if call.receive is None:
            return await self._then(call)
        with WhileThere(call.receive):
            return await self._then(call)
