"""Following aliases in MLflow registries: one poller per server and model, whoever asks for it.

An alias's move is seen within a poll period; a server that fails is asked less often until it answers again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from despina.api.conditions import Reason
from despina.api.program import MlflowSource
from despina.decide.observed import Resolution
from despina.sources.tracking import Tracking, Trouble

log = logging.getLogger(__name__)
MAX_BACKOFF_SECONDS = 300.0
FIRST_ANSWER_SECONDS = 12.0

Key = tuple[str, str]
"""Namespace and name of a program."""
PollKey = tuple[str, str]
"""Tracking server and model."""


@dataclass(frozen=True)
class Answer:
    """What a registry said about one model: its aliases and the pinned versions that were asked for."""

    aliases: dict[str, str] = field(default_factory=dict)
    versions: frozenset[str] = frozenset()
    problem: Reason | None = None
    message: str = ""


@dataclass
class _Poller:
    """One model on one server, and the programs that follow it."""

    followers: dict[Key, MlflowSource] = field(default_factory=dict)
    answer: Answer | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    new_follower: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    failures: int = 0

    @property
    def period(self) -> float:
        shortest = min((s.poll_period_seconds for s in self.followers.values()), default=60)
        return min(shortest * 2.0**self.failures, max(shortest, MAX_BACKOFF_SECONDS))


class Registry:
    """All registries that programs follow."""

    def __init__(self, tracking: Tracking, wake: Callable[[Key], None]) -> None:
        self._tracking = tracking
        self._wake = wake
        self._pollers: dict[PollKey, _Poller] = {}
        self._following: dict[Key, PollKey] = {}

    async def resolve(self, key: Key, source: MlflowSource, default_uri: str | None) -> Resolution:
        """What the program's source stands for now; waits only for the very first answer."""
        uri = source.tracking_uri or default_uri
        if not uri:
            message = "set spec.source.mlflow.trackingURI, or trackingURI in the operator's chart values"
            return Resolution(None, Reason.NO_TRACKING_URI, message)
        poller = self._follow(key, (uri.rstrip("/"), source.model), source)
        try:
            await asyncio.wait_for(poller.answered.wait(), FIRST_ANSWER_SECONDS)
        except TimeoutError:
            return Resolution(None, Reason.NOT_ASKED_YET, f"{uri} has not answered yet")
        return resolution(poller.answer or Answer(), source)

    def forget(self, key: Key) -> None:
        """Stop following for a program; the last follower's leaving ends the poller."""
        poll_key = self._following.pop(key, None)
        if poll_key is None:
            return
        poller = self._pollers[poll_key]
        poller.followers.pop(key, None)
        if not poller.followers:
            self._pollers.pop(poll_key)
            if poller.task:
                poller.task.cancel()

    async def close(self) -> None:
        """End all pollers."""
        for key in list(self._following):
            self.forget(key)
        await self._tracking.close()

    def _follow(self, key: Key, poll_key: PollKey, source: MlflowSource) -> _Poller:
        if self._following.get(key) != poll_key:
            self.forget(key)
        poller = self._pollers.setdefault(poll_key, _Poller())
        if poller.followers.get(key) != source:
            poller.followers[key] = source
            pinned = source.version is not None and str(source.version) not in (poller.answer or Answer()).versions
            if pinned:
                poller.answered.clear()
            poller.new_follower.set()
        self._following[key] = poll_key
        if poller.task is None:
            poller.task = asyncio.create_task(self._poll(poll_key, poller), name=f"poll {poll_key}")
        return poller

    async def _poll(self, poll_key: PollKey, poller: _Poller) -> None:
        while True:
            poller.new_follower.clear()
            self._tell(poll_key, poller, await self._ask(poll_key, poller))
            try:
                await asyncio.wait_for(poller.new_follower.wait(), poller.period)
            except TimeoutError:
                continue

    def _tell(self, poll_key: PollKey, poller: _Poller, answer: Answer) -> None:
        """Wake the followers when the answer is a new one."""
        unreachable = answer.problem is Reason.REGISTRY_UNREACHABLE
        poller.failures = poller.failures + 1 if unreachable else 0
        changed = poller.answer is not None and poller.answer != answer
        poller.answer = answer
        poller.answered.set()
        if changed:
            log.info("Registry says something new uri=%s model=%s", *poll_key)
            for key in poller.followers:
                self._wake(key)

    async def _ask(self, poll_key: PollKey, poller: _Poller) -> Answer:
        uri, model = poll_key
        pinned = {str(s.version) for s in poller.followers.values() if s.version is not None}
        try:
            found = await self._tracking.get(uri, "/registered-models/get", {"name": model})
            aliases = {a["alias"]: a["version"] for a in found["registered_model"].get("aliases") or []}
            versions = {v for v in pinned if await self._has_version(uri, model, v)}
        except Trouble as trouble:
            if trouble.reason is Reason.REGISTRY_UNREACHABLE:
                log.warning("Registry did not answer model=%s error=%s", model, trouble)
            return Answer(problem=trouble.reason, message=trouble.message)
        except (ValueError, KeyError, TypeError):
            return Answer(problem=Reason.REGISTRY_UNREACHABLE, message=f"{uri} does not answer like MLflow")
        return Answer(aliases=aliases, versions=frozenset(versions))

    async def _has_version(self, uri: str, model: str, version: str) -> bool:
        try:
            await self._tracking.get(uri, "/model-versions/get", {"name": model, "version": version})
        except Trouble as trouble:
            if trouble.reason is not Reason.MODEL_NOT_FOUND:
                raise
            return False
        return True


def resolution(answer: Answer, source: MlflowSource) -> Resolution:
    """What an answer means for one program."""
    if answer.problem:
        return Resolution(None, answer.problem, answer.message)
    if source.alias is not None:
        version = answer.aliases.get(source.alias)
        if version is None:
            known = ", ".join(sorted(answer.aliases)) or "none"
            message = f"model {source.model!r} has no alias {source.alias!r}; its aliases: {known}"
            return Resolution(None, Reason.ALIAS_NOT_FOUND, message)
        return Resolution(str(version), Reason.MODEL_FOUND)
    if str(source.version) not in answer.versions:
        message = f"model {source.model!r} has no version {source.version}"
        return Resolution(None, Reason.VERSION_NOT_FOUND, message)
    return Resolution(str(source.version), Reason.MODEL_FOUND)
