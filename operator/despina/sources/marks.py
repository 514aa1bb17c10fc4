"""What the operator writes to MLflow: where a program's alias points, and what became of model versions.

Nothing of it is written within a pass. Each alias and each tag has a task of its own while there is something to write,
and what fails is tried again. A tag states what has happened, and is written sooner or later. An alias shall move only
while it is wanted: before another attempt the program is woken, and its pass gives the action again or does not.

An alias is moved to a version once and never again, whoever moves it back: the version's tag says that it was. It is
written after the alias, for an operator that is killed in between finds the alias there, and writes the tag.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from despina.api.credentials import NOBODY, Credentials, server_of
from despina.decide.plan import MoveAlias, Tag
from despina.decide.quarantine import timestamp
from despina.sources.tracking import API, Absent, Tracking, Trouble, unlike_mlflow

log = logging.getLogger(__name__)
PREFIX = "despina."
PROMOTED, TAKEN_BACK = f"{PREFIX}promoted", f"{PREFIX}taken-back"
RETRY_SECONDS = 2.0
MAX_BACKOFF_SECONDS = 60.0
MOST_DOUBLINGS = 10
RENEW_SECONDS = 30.0
"""How long a program may take to say that its alias shall still move."""
REST_SECONDS = 10.0
"""For which it is not looked again whether an alias may be moved that somebody has moved elsewhere."""
Key = tuple[str, str]
"""Namespace and name of a program."""
Action = MoveAlias | Tag


class Place(NamedTuple):
    """Where something is written."""

    server: str
    model: str
    alias: str
    """The program's."""
    credentials: Credentials | None
    """The program's own."""


class Slot(NamedTuple):
    """What an action shares with those that it makes pointless."""

    server: str
    model: str
    version: str
    """Of an alias, none."""
    name: str


@dataclass
class _Mark:
    """One alias or tag: what it shall be, and how far that is."""

    action: Action
    place: Place
    again: asyncio.Event = field(default_factory=asyncio.Event)
    """It was given once more."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """As something else, or with other credentials."""
    moved: MoveAlias | None = None
    """For which the alias was moved by this process, whether or not its version has the tag by now."""
    settled: Action | None = None
    """Of which nothing is left to do, until that time."""
    until: float = math.inf
    trouble: str = ""
    task: asyncio.Task[None] | None = None

    @property
    def asked(self) -> tuple[Action, Place]:
        return self.action, self.place


class Marks:
    """Writes, and remembers for the life of this process what was written."""

    def __init__(self, tracking: Tracking, wake: Callable[[Key], None], clock: Callable[[], float]) -> None:
        """`wake` is called when an alias was moved, when trouble begins or ends, and when an action is to be given
        again if it is still wanted. `clock` tells seconds since the epoch. `tracking` stays its owner's."""
        self._tracking = tracking
        self._wake = wake
        self._clock = clock
        self._marks: dict[Key, dict[Slot, _Mark]] = {}

    def do(
        self, key: Key, action: Action, server: str, model: str, alias: str, credentials: Credentials | None
    ) -> None:
        """Carry it out, in good time; what is under way, or done, is not begun again. `alias` is the program's own."""
        place = Place(server_of(server), model, alias, credentials)
        marks, slot = self._marks.setdefault(key, {}), slot_of(action, place)
        mark = marks.setdefault(slot, _Mark(action, place))
        if mark.settled == action and self._clock() < mark.until:
            return
        if mark.asked != (action, place):
            mark.action, mark.place = action, place
            mark.changed.set()
        mark.again.set()
        if mark.task is None or mark.task.done():
            mark.task = asyncio.create_task(self._carry_out(key, slot, mark), name=f"mark {model}")

    def trouble(self, key: Key) -> str:
        """What could not be written the last time, and why; empty where all is well."""
        return next((mark.trouble for mark in self._marks.get(key, {}).values() if mark.trouble), "")

    def forget(self, key: Key) -> None:
        """Write nothing more for a program."""
        for mark in self._marks.pop(key, {}).values():
            if mark.task:
                mark.task.cancel()

    async def close(self) -> None:
        """Write nothing any more."""
        for key in list(self._marks):
            self.forget(key)

    async def _carry_out(self, key: Key, slot: Slot, mark: _Mark) -> None:
        """Until nothing is left to do, or nobody wants it any more."""
        failures = 0
        while mark.settled != mark.action or self._clock() >= mark.until:
            asked = mark.asked
            try:
                until = await self._write(key, mark, *asked)
            except Trouble as trouble:
                self._note(key, mark, f"{_undone(mark, *asked)}: {trouble.message}")
                failures = failures + 1 if asked == mark.asked else 0
                if not await self._is_wanted(key, mark, asked, failures):
                    self._marks.get(key, {}).pop(slot, None)
                    self._note(key, mark, "")
                    return
            else:
                mark.settled, mark.until, failures = asked[0], until, 0
                self._note(key, mark, "")

    def _note(self, key: Key, mark: _Mark, trouble: str) -> None:
        before, mark.trouble = mark.trouble, trouble
        if before != trouble:
            log.warning("Writing to MLflow program=%s/%s trouble=%s", *key, trouble or "no longer")
            self._wake(key)

    async def _is_wanted(self, key: Key, mark: _Mark, asked: tuple[Action, Place], failures: int) -> bool:
        """Waits until it is time for another attempt; whether there is to be one."""
        mark.changed.clear()
        if mark.asked == asked:
            pause = min(RETRY_SECONDS * 2.0 ** min(failures - 1, MOST_DOUBLINGS), MAX_BACKOFF_SECONDS)
            await _within(pause, mark.changed)
        if mark.asked != asked or isinstance(mark.action, Tag) or mark.moved == mark.action:
            return True
        mark.again.clear()
        self._wake(key)
        return await _within(RENEW_SECONDS, mark.again)

    async def _write(self, key: Key, mark: _Mark, action: Action, place: Place) -> float:
        """Until when nothing is left to do; raises Trouble."""
        if isinstance(action, MoveAlias):
            return await self._move(key, mark, action, place)
        try:
            await self._tag(place, action.version, f"{PREFIX}{action.name}", action.value)
        except Absent:
            log.info("There is no such version to be tagged model=%s version=%s", place.model, action.version)
        return math.inf

    async def _move(self, key: Key, mark: _Mark, action: MoveAlias, place: Place) -> float:
        server, model, alias, credentials = place
        tags = (await self._tracking.version(server, model, credentials, action.version)).tags
        if tags is None:
            raise unlike_mlflow(server)
        if PROMOTED in tags or TAKEN_BACK in tags:
            return math.inf
        if mark.moved != action:
            meant = (await self._tracking.model(server, model, credentials)).aliases.get(alias)
            if meant not in (action.version, action.base):
                return self._clock() + REST_SECONDS
            if meant == action.base:
                await self._post(place, "registered-models/alias", alias=alias, version=action.version)
                log.info("Alias moved model=%s alias=%s version=%s", model, alias, action.version)
            mark.moved = action
        await self._tag(place, action.version, PROMOTED, timestamp(self._clock()))
        self._wake(key)
        return math.inf

    async def _tag(self, place: Place, version: str, name: str, value: str) -> None:
        await self._post(place, "model-versions/set-tag", version=version, key=name, value=value)

    async def _post(self, place: Place, what: str, **fields: str) -> None:
        """With the program's credentials or none: whoever makes a program names the model, and the operator's own may
        write to those of others."""
        document, shown = {"name": place.model, **fields}, place.credentials or NOBODY
        await self._tracking.ask("POST", place.server, f"{API}/{what}", shown, document=document)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it happens in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def slot_of(action: Action, place: Place) -> Slot:
    """An alias is in one place at a time; a version has one tag of each name."""
    if isinstance(action, MoveAlias):
        return Slot(place.server, place.model, "", place.alias)
    return Slot(place.server, place.model, action.version, action.name)


def _undone(mark: _Mark, action: Action, place: Place) -> str:
    if isinstance(action, MoveAlias) and mark.moved != action:
        return f"alias {place.alias!r} was not moved to version {action.version} of {place.model!r}"
    name = PROMOTED if isinstance(action, MoveAlias) else f"{PREFIX}{action.name}"
    return f"version {action.version} of {place.model!r} was not tagged {name}"
