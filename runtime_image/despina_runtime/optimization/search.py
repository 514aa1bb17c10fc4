"""The process that optimises, as the one that runs no model's code sees it: it is asked for news, and doubted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from despina.wire import RuntimeConfig
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.evaluation.subject import Subject
from despina_runtime.optimization.budget import Budget
from despina_runtime.optimization.scoring import processes
from despina_runtime.optimization.states import NotThatProgram, State, merged
from despina_runtime.optimization.task import News, Task

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 30.0
"""For an answer: it answers within a second, but while an optimiser computes it may be slow."""


@dataclass
class Found:
    """What a search has given so far."""

    state: State | None = None
    """The best program's; of the parent's, all that was not to change."""
    score: float | None = None
    """Its mean on the validation rows, from 0 to 1."""
    ended: str = ""
    """Why it ended early; empty where it finished."""


class Search:
    """One run of an optimiser; what it has found survives whatever becomes of its process."""

    def __init__(self, task: Task, parent: State, budget: Budget, stop: asyncio.Event) -> None:
        self._task, self._parent, self._budget, self._stop = task, parent, budget, stop
        self.found = Found()
        """What is known by now."""

    async def run(self, runtime: RuntimeConfig, cache: Path, address: Path, command: Sequence[str]) -> Found:
        """The best program. Raises Unusable where none was found, and the reason is not the budget."""
        try:
            async with processes(runtime, cache, address, command) as (folder, start):
                self._task.write(folder)
                process = await start("the optimiser's process", "optimizer", "-")
                await process.first_word()
                await self._listen(process, self._task.seconds + runtime.request_timeout_seconds)
        except (Unusable, NotThatProgram) as exc:
            if self.found.state is None:
                raise
            self.found.ended = str(exc)
        return self.found

    async def _listen(self, process: Subject, seconds: float) -> None:
        """Take in news until the end, a signal, or the time when the last call must have ended."""
        until = asyncio.get_running_loop().time() + seconds
        while not self._stop.is_set():
            news = _news(await process.ask({}, PATIENCE_SECONDS))
            if news.state is not None:
                self.found = Found(merged(self._parent, news.state, self._task.names), news.score)
                log.info("Found a better program score=%s calls=%d", news.score, self._budget.spent.calls)
            if news.ended is not None:
                self.found.ended = news.ended
                return
            if asyncio.get_running_loop().time() > until:
                self.found.ended = f"the optimiser did not end within {seconds:.0f} s"
                return
        self.found.ended = "it was told to end"


def _news(said: object) -> News:
    try:
        return News.model_validate(getattr(said, "outputs", None) or {})
    except ValidationError:
        raise Unusable("the optimiser's process said something that is no news") from None
