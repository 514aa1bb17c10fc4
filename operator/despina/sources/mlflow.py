"""Following aliases in MLflow registries: one poller per server, model and credentials, whoever asks for it.

An alias's move is seen within a poll period; a server that fails is asked less often until it answers again. When a
version was made is asked once, and again when the model looks changed: at rest a poll is one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from despina.api.conditions import Reason
from despina.api.credentials import Credentials, server_of
from despina.api.program import MlflowSource
from despina.decide.observed import Resolution
from despina.sources.tracking import Model, Silence, Tracking, Trouble

log = logging.getLogger(__name__)
MAX_BACKOFF_SECONDS = 60.0
MOST_DOUBLINGS = 10
"""A server may be gone for days, and the power of so many failures is no number."""
FIRST_ANSWER_SECONDS = 3.0

Key = tuple[str, str]
"""Namespace and name of a program."""


class PollKey(NamedTuple):
    """What one poller asks for."""

    server: str
    model: str
    credentials: Credentials | None
    """A program's own: nobody sees through another's rights."""


@dataclass(frozen=True)
class Interest:
    """What one program wants to know of a model."""

    source: MlflowSource
    others: frozenset[str] = frozenset()
    """Versions beside the source's own."""

    def version(self, aliases: Mapping[str, str]) -> str | None:
        """The source's own version."""
        return aliases.get(self.source.alias) if self.source.alias is not None else str(self.source.version)

    def versions(self, aliases: Mapping[str, str]) -> set[str]:
        """All that matter."""
        own = self.version(aliases)
        return {*self.others, *([own] if own else ())}


@dataclass(frozen=True)
class Seen:
    """What a registry said about one version."""

    created: int | None = None
    problem: Reason | None = None
    message: str = ""


@dataclass(frozen=True)
class Answer:
    """What a registry said about one model: its aliases and the versions that were asked for."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Seen] = field(default_factory=dict)
    problem: Reason | None = None
    message: str = ""

    def covers(self, interest: Interest) -> bool:
        """Whether all of it was asked for."""
        return self.problem is not None or interest.versions(self.aliases) <= self.versions.keys()


@dataclass
class _Poller:
    """One model on one server, and the programs that follow it."""

    followers: dict[Key, Interest] = field(default_factory=dict)
    answer: Answer | None = None
    stamp: Mapping[str, object] | None = None
    """The model's, when the answer was given."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    new_follower: asyncio.Event = field(default_factory=asyncio.Event)
    gave_up: set[Key] = field(default_factory=set)
    """Programs that did not wait for an answer."""
    task: asyncio.Task[None] | None = None
    failures: int = 0

    @property
    def period(self) -> float:
        shortest = min((i.source.poll_period_seconds for i in self.followers.values()), default=60)
        return min(shortest * 2.0 ** min(self.failures, MOST_DOUBLINGS), max(shortest, MAX_BACKOFF_SECONDS))

    async def answer_to(self, interest: Interest) -> Answer:
        """Waits until it has been asked for; a poll that was under way need not have been."""
        while self.answer is None or not self.answer.covers(interest):
            self.answered.clear()
            await self.answered.wait()
        return self.answer

    def known(self, stamp: Mapping[str, object] | None) -> dict[str, Seen]:
        """The versions that need not be asked for again while the model looks like this."""
        if self.answer is None or stamp is None or stamp != self.stamp:
            return {}
        return {version: seen for version, seen in self.answer.versions.items() if seen.problem is None}


class Registry:
    """All registries that programs follow."""

    def __init__(self, tracking: Tracking, wake: Callable[[Key], None], most_waiting: int = 6) -> None:
        self.tracking = tracking
        """What asks the servers; closed with this."""
        self._wake = wake
        self._most_waiting = most_waiting
        self._waiting = 0
        self._pollers: dict[PollKey, _Poller] = {}
        self._following: dict[Key, PollKey] = {}

    async def resolve(
        self,
        key: Key,
        source: MlflowSource,
        default_uri: str | None,
        others: frozenset[str] = frozenset(),
        credentials: Credentials | None = None,
    ) -> Resolution:
        """What the program's source stands for now, and when that version and `others` were made; waits for a moment
        only, for what was never asked before, and never while as many wait as may: passes are all programs'."""
        uri = source.tracking_uri or default_uri
        if not uri:
            message = "set spec.source.mlflow.trackingURI, or trackingURI in the operator's chart values"
            return Resolution(None, Reason.NO_TRACKING_URI, message)
        poll_key, interest = PollKey(server_of(uri), source.model, credentials), Interest(source, others)
        poller = self._follow(key, poll_key, interest)
        try:
            answer = await self._answer(poller, interest)
        except TimeoutError:
            poller.gave_up.add(key)
            return Resolution(None, Reason.NOT_ASKED_YET, f"{poll_key.server} has not answered yet", poll_key.server)
        return resolution(answer, interest, poll_key.server)

    async def _answer(self, poller: _Poller, interest: Interest) -> Answer:
        """Raises TimeoutError."""
        may_wait = not poller.gave_up and self._waiting < self._most_waiting
        self._waiting += 1
        try:
            async with asyncio.timeout(FIRST_ANSWER_SECONDS if may_wait else 0):
                return await poller.answer_to(interest)
        finally:
            self._waiting -= 1

    def forget(self, key: Key) -> None:
        """Stop following for a program; the last follower's leaving ends the poller."""
        poll_key = self._following.pop(key, None)
        if poll_key is None:
            return
        poller = self._pollers[poll_key]
        poller.followers.pop(key, None)
        poller.gave_up.discard(key)
        if not poller.followers:
            self._pollers.pop(poll_key)
            if poller.task:
                poller.task.cancel()

    async def close(self) -> None:
        """End all pollers."""
        for key in list(self._following):
            self.forget(key)
        await self.tracking.close()

    def _follow(self, key: Key, poll_key: PollKey, interest: Interest) -> _Poller:
        if self._following.get(key) != poll_key:
            self.forget(key)
        poller = self._pollers.setdefault(poll_key, _Poller())
        if poller.followers.get(key) != interest:
            poller.followers[key] = interest
            poller.new_follower.set()
        self._following[key] = poll_key
        if poller.task is None or poller.task.done():  # whatever ended it must not end the polling
            poller.task = asyncio.create_task(self._poll(poll_key, poller), name=f"poll {poll_key.model}")
        return poller

    async def _poll(self, poll_key: PollKey, poller: _Poller) -> None:
        while True:
            poller.new_follower.clear()
            self._tell(poll_key, poller, await self._ask(poll_key, poller))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poller.period):
                    await poller.new_follower.wait()

    def _tell(self, poll_key: PollKey, poller: _Poller, answer: Answer) -> None:
        """Wake the followers when the answer is a new one."""
        unreachable = answer.problem is Reason.REGISTRY_UNREACHABLE
        poller.failures = poller.failures + 1 if unreachable else 0
        changed = poller.answer is not None and poller.answer != answer
        poller.answer = answer
        poller.answered.set()
        if changed:
            log.info("Registry says something new server=%s model=%s", poll_key.server, poll_key.model)
        for key in tuple(poller.followers) if changed else tuple(poller.gave_up):
            self._wake(key)
        poller.gave_up.clear()

    async def _ask(self, poll_key: PollKey, poller: _Poller) -> Answer:
        try:
            model = await self.tracking.model(*poll_key)
            versions = await self._versions(poll_key, poller, model)
        except Trouble as trouble:
            if trouble.reason is Reason.REGISTRY_UNREACHABLE:
                log.warning("Registry did not answer model=%s error=%s", poll_key.model, trouble)
            return Answer(problem=trouble.reason, message=trouble.message)
        poller.stamp = model.stamp
        return Answer(model.aliases, versions)

    async def _versions(self, poll_key: PollKey, poller: _Poller, model: Model) -> dict[str, Seen]:
        needed = {v for interest in poller.followers.values() for v in interest.versions(model.aliases)}
        known = {version: Seen(at) for version, at in model.created.items()} | poller.known(model.stamp)
        return {v: known.get(v) or await self._version(poll_key, v) for v in sorted(needed)}

    async def _version(self, poll_key: PollKey, version: str) -> Seen:
        """One version. What fails for it alone must not keep others from theirs."""
        try:
            return Seen((await self.tracking.version(*poll_key, version)).created)
        except Silence:
            raise
        except Trouble as trouble:
            return Seen(None, trouble.reason, trouble.message)


def resolution(answer: Answer, interest: Interest, server: str) -> Resolution:
    """What an answer means for one program."""
    if answer.problem:
        return Resolution(None, answer.problem, answer.message, server)
    seen = {version: answer.versions[version] for version in interest.versions(answer.aliases)}
    unknown = next((s for s in seen.values() if s.problem not in (None, Reason.VERSION_NOT_FOUND)), None)
    if unknown and unknown.problem:
        return Resolution(None, unknown.problem, unknown.message, server)
    created = {version: s.created for version, s in seen.items() if s.created is not None}
    version, source = interest.version(answer.aliases), interest.source
    if version is None:
        known = ", ".join(sorted(answer.aliases)) or "none"
        message = f"model {source.model!r} has no alias {source.alias!r}; its aliases: {known}"
        return Resolution(None, Reason.ALIAS_NOT_FOUND, message, server, created)
    if source.version is not None and seen[version].problem:
        return Resolution(None, Reason.VERSION_NOT_FOUND, seen[version].message, server, created)
    return Resolution(version, Reason.MODEL_FOUND, "", server, created)
