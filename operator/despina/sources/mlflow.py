"""Following aliases in MLflow registries: one poller per server and model, whoever asks for it.

Two GET requests of MLflow's REST API are all it takes, so the mlflow package (1.9 s to import, 40 MB) is not
used here; https://mlflow.org/docs/latest/rest-api.html describes them. An alias's move is seen within a poll
period; a server that fails is asked less often until it answers again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from despina.api.conditions import Reason
from despina.api.program import MlflowSource
from despina.decide.observed import Resolution

log = logging.getLogger(__name__)
API = "/api/2.0/mlflow"
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

    def __init__(self, client: httpx.AsyncClient, wake: Callable[[Key], None]) -> None:
        self._client = client
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
        await self._client.aclose()

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
            found = await self._get(uri, "/registered-models/get", {"name": model})
            if isinstance(found, Answer):
                return found
            aliases = {a["alias"]: a["version"] for a in found["registered_model"].get("aliases") or []}
            versions = {v for v in pinned if await self._has_version(uri, model, v)}
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            log.warning("Registry did not answer uri=%s model=%s error=%s", uri, model, type(exc).__name__)
            return Answer(
                problem=Reason.REGISTRY_UNREACHABLE,
                message=f"{uri}: {type(exc).__name__}; asked again by itself",
            )
        except (ValueError, KeyError, TypeError):
            return Answer(problem=Reason.REGISTRY_UNREACHABLE, message=f"{uri} does not answer like MLflow")
        return Answer(aliases=aliases, versions=frozenset(versions))

    async def _has_version(self, uri: str, model: str, version: str) -> bool:
        found = await self._get(uri, "/model-versions/get", {"name": model, "version": version})
        return not isinstance(found, Answer)

    async def _get(
        self, uri: str, path: str, params: dict[str, str]
    ) -> dict[str, dict[str, list[dict[str, str]]]] | Answer:
        response = await self._client.get(f"{uri}{API}{path}", params=params)
        if response.status_code in (401, 403):
            return Answer(problem=Reason.REGISTRY_DENIED, message=f"{uri} answered {response.status_code}")
        if response.status_code == 404 and "RESOURCE_DOES_NOT_EXIST" in response.text:
            return Answer(problem=Reason.MODEL_NOT_FOUND, message=f"{uri} has no model {params['name']!r}")
        response.raise_for_status()
        found: dict[str, dict[str, list[dict[str, str]]]] = response.json()
        return found


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
