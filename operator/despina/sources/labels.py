"""Counting labels: one reader per MLflow server, experiment and credentials, whoever asks for it.

Once a minute MLflow is asked how many labels of each value there are, which takes it milliseconds. Only when that has
changed, and every tenth time, are they read: 5,000 labelled traces are 13 MB and keep its server busy for four seconds,
and nothing that can be asked for leaves out what callers wrote. Labels come late, on traces of any age, so none can be
left out by its trace's time.

A server that fails is asked less often until it answers again; what was read before is kept meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from despina.api.conditions import Reason
from despina.api.credentials import Credentials, server_of
from despina.decide.observed import LabelsView, Vote
from despina.sources import votes
from despina.sources.answers import MOST_BYTES
from despina.sources.tracking import API, Absent, Overlong, Silence, Tracking, Trouble, unlike_mlflow

log = logging.getLogger(__name__)
API_3 = "/api/3.0/mlflow"
PERIOD_SECONDS = 60.0
MAX_BACKOFF_SECONDS = 300.0
MOST_DOUBLINGS = 10
WHOLE_ROUNDS = 10
"""After so many rounds they are read though their number is the same: two may have changed sides."""
READ_SECONDS = 60.0
"""For all pages."""
READERS = 4
"""That read pages at the same time, in all: each holds one in memory."""
PAGE, LONGEST_PAGE = 250, 2**22
"""Traces, with all that is noted on them, are 2.5 kB as a rule; a label with its reason may add 70 kB."""
MOST_TRACES, MOST_VOTES = 5000, 10000
"""A cached answer has many votes on one trace."""
MOST_SKIPPED = 20
Key = tuple[str, str]
"""Namespace and name of a program."""


class Experiment(NamedTuple):
    """What one reader reads."""

    server: str
    name: str
    credentials: Credentials | None
    """A program's own: nobody sees through another's rights."""


@dataclass
class _Reader:
    """One experiment, and the programs that follow it."""

    followers: set[Key] = field(default_factory=set)
    view: LabelsView | None = None
    counts: tuple[Any, ...] | None = None
    """Of labels, when they were read."""
    rounds: int = 0
    """Since they were read."""
    failures: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def period(self) -> float:
        return min(PERIOD_SECONDS * 2.0 ** min(self.failures, MOST_DOUBLINGS), MAX_BACKOFF_SECONDS)

    def is_current(self, counts: tuple[Any, ...] | None) -> bool:
        """Whether nothing needs to be read while there are so many labels."""
        return counts is not None and counts == self.counts and self.rounds < WHOLE_ROUNDS


class Labels:
    """The labels of all programs that ask for them."""

    def __init__(self, tracking: Tracking, wake: Callable[[Key], None]) -> None:
        """`wake` is called when what `look` gives has changed. `tracking` stays its owner's."""
        self._tracking = tracking
        self._wake = wake
        self._readers: dict[Experiment, _Reader] = {}
        self._following: dict[Key, Experiment] = {}
        self._seats = asyncio.Semaphore(READERS)

    def look(self, key: Key, server: str, experiment: str, credentials: Credentials | None) -> LabelsView | None:
        """What was read last for a program, and follow on; None before the first answer."""
        asked = Experiment(server_of(server), experiment, credentials)
        if self._following.get(key) != asked:
            self.forget(key)
        reader = self._readers.setdefault(asked, _Reader())
        reader.followers.add(key)
        self._following[key] = asked
        if reader.task is None or reader.task.done():  # whatever ended it must not end the reading
            reader.task = asyncio.create_task(self._follow(asked, reader), name=f"labels {experiment}")
        return reader.view

    def forget(self, key: Key) -> None:
        """Stop following for a program; the last follower's leaving ends the reader."""
        experiment = self._following.pop(key, None)
        if experiment is None:
            return
        reader = self._readers[experiment]
        reader.followers.discard(key)
        if not reader.followers:
            self._readers.pop(experiment)
            if reader.task:
                reader.task.cancel()

    async def close(self) -> None:
        """End all readers."""
        for key in list(self._following):
            self.forget(key)

    async def _follow(self, experiment: Experiment, reader: _Reader) -> None:
        while True:
            view = await self._ask(experiment, reader)
            reader.failures = reader.failures + 1 if view.problem else 0
            changed, reader.view = view != reader.view, view
            for key in tuple(reader.followers) if changed else ():
                self._wake(key)
            await asyncio.sleep(reader.period)

    async def _ask(self, experiment: Experiment, reader: _Reader) -> LabelsView:
        try:
            return LabelsView(await self._current(experiment, reader))
        except Trouble as trouble:
            log.warning("Labels were not read experiment=%s error=%s", experiment.name, trouble)
            return replace(reader.view or LabelsView(), problem=trouble.message)

    async def _current(self, experiment: Experiment, reader: _Reader) -> tuple[Vote, ...]:
        """Raises Trouble."""
        experiment_id = await self._id_of(experiment)
        counts = await self._counts(experiment, experiment_id) if experiment_id else ()
        if reader.view is not None and reader.is_current(counts):
            reader.rounds += 1
            return reader.view.votes
        found = await self._read(experiment, experiment_id) if experiment_id else ()
        reader.counts, reader.rounds = counts, 1
        return found

    async def _id_of(self, experiment: Experiment) -> str:
        """Empty where it does not exist yet: the first prediction that is delivered makes it."""
        params = {"experiment_name": experiment.name}
        try:
            answer = await self._tracking.ask(
                "GET", experiment.server, f"{API}/experiments/get-by-name", experiment.credentials, params=params
            )
            return votes.experiment_id_of(answer)
        except Absent:
            return ""
        except ValidationError:
            raise unlike_mlflow(experiment.server) from None

    async def _counts(self, experiment: Experiment, experiment_id: str) -> tuple[Any, ...] | None:
        """None where they are not told: an older MLflow has no such request."""
        try:
            return votes.counts_of(await self._post(experiment, "metrics", votes.counts_question(experiment_id)))
        except Silence:
            raise
        except Trouble:
            return None

    async def _read(self, experiment: Experiment, experiment_id: str) -> tuple[Vote, ...]:
        async with self._seats:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    return votes.in_order(await self._pages(experiment, experiment_id), MOST_VOTES)
            except TimeoutError:
                text = f"{experiment.server} does not hand out all labels within {READ_SECONDS:.0f} s"
                raise Trouble(Reason.REGISTRY_UNREACHABLE, text) from None

    async def _pages(self, experiment: Experiment, experiment_id: str) -> dict[str, Vote]:
        """Page by page; one that is too long is asked for again in smaller ones."""
        found: dict[str, Vote] = {}
        size, traces, skipped, token = PAGE, 0, 0, ""
        while traces < MOST_TRACES and len(found) < MOST_VOTES:
            try:
                asked = min(size, MOST_TRACES - traces)
                count, more, token = await self._page(experiment, experiment_id, asked, token)
            except Overlong:
                if size > 1:
                    size = max(1, size // 4)
                    continue
                if skipped == MOST_SKIPPED:
                    raise
                log.warning("A labelled trace is too long to be read experiment=%s", experiment.name)
                count, more, token, skipped = 1, {}, votes.token_after(traces + 1), skipped + 1
            votes.add(found, more)
            traces, size = traces + count, min(PAGE, 2 * size)
            if not token:
                break
        return found

    async def _page(
        self, experiment: Experiment, experiment_id: str, size: int, token: str
    ) -> tuple[int, dict[str, Vote], str]:
        question = votes.page_question(experiment_id, size, token)
        try:
            return votes.page_of(await self._post(experiment, "search", question, LONGEST_PAGE))
        except ValidationError:
            raise unlike_mlflow(experiment.server) from None

    async def _post(self, experiment: Experiment, what: str, question: dict[str, Any], most: int = MOST_BYTES) -> bytes:
        path = f"{API_3}/traces/{what}"
        server, _, credentials = experiment
        return await self._tracking.ask("POST", server, path, credentials, document=question, most=most)
