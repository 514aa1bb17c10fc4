"""A worker's line to its supervisor, for what callers say: labels, and requests for optimisations."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

from despina.wire.labels import Label, Reply

PATIENCE_SECONDS = 10.0
LABELS_AT_ONCE = 16
"""The longest ones fit into a line together, also where each letter takes six."""
Unwished = Literal["NoOperator", "TooMany", "Failed"]
Wished = int | Unwished
"""A request's number, or why there is none."""


class Line:
    """Words go out, replies come back. Before it is connected, nothing can be stored."""

    def __init__(self) -> None:
        self._say: Callable[[dict[str, Any]], None] | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)

    def connect(self, say: Callable[[dict[str, Any]], None]) -> None:
        """What is said from now on goes there, a JSON document each."""
        self._say = say

    async def store(self, labels: Sequence[Label]) -> list[Reply]:
        """What became of each, in their order; Failed if nobody says so in time."""
        parts = [labels[first : first + LABELS_AT_ONCE] for first in range(0, len(labels), LABELS_AT_ONCE)]
        return [reply for replies in await asyncio.gather(*map(self._store, parts)) for reply in replies]

    async def _store(self, labels: Sequence[Label]) -> list[Reply]:
        replies = await self._ask({"labels": [label.model_dump(mode="json") for label in labels]})
        if replies is None:
            return [Reply(prediction_id=label.prediction, status="Failed") for label in labels]
        return [Reply.model_validate(reply) for reply in replies]

    async def wish(self, module: str) -> Wished:
        """Ask for an optimisation of a module, or of those that the manifest names if it is empty."""
        reply: Wished | None = await self._ask({"wish": module})
        return "Failed" if reply is None else reply

    async def _ask(self, what: dict[str, Any]) -> Any:
        """The reply; None if nobody gives one in time."""
        if self._say is None:
            return None
        number = next(self._numbers)
        waiting = self._asked[number] = asyncio.get_running_loop().create_future()
        self._say({**what, "id": number})
        try:
            return await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)

    def heard(self, number: int, reply: Any) -> None:
        """The supervisor's answer."""
        if (waiting := self._asked.get(number)) and not waiting.done():
            waiting.set_result(reply)
