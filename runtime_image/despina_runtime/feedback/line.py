"""A worker's line to the pod's desk."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from despina_runtime.feedback.label import Label, Reply

PATIENCE_SECONDS = 10.0


class Line:
    """Labels go out, replies come back. Before it is connected, nothing can be stored."""

    def __init__(self) -> None:
        self._say: Callable[[dict[str, Any]], None] | None = None
        self._asked: dict[int, asyncio.Future[list[Reply]]] = {}
        self._numbers = itertools.count(1)

    def connect(self, say: Callable[[dict[str, Any]], None]) -> None:
        """What is said from now on goes there, a JSON document each."""
        self._say = say

    async def store(self, labels: Sequence[Label]) -> list[Reply]:
        """What became of each, in their order; Failed for all if nobody says so in time."""
        failed = [Reply(prediction_id=label.prediction, status="Failed") for label in labels]
        if self._say is None:
            return failed
        number = next(self._numbers)
        waiting = self._asked[number] = asyncio.get_running_loop().create_future()
        self._say({"labels": [label.model_dump(mode="json") for label in labels], "id": number})
        try:
            return await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        except TimeoutError:
            return failed
        finally:
            self._asked.pop(number, None)

    def heard(self, number: int, replies: Sequence[dict[str, Any]]) -> None:
        """The desk's answer."""
        if (waiting := self._asked.get(number)) and not waiting.done():
            waiting.set_result([Reply.model_validate(reply) for reply in replies])
