"""Listening to pods: what they hold, serve and count, while a decision depends on it.

A pass says how closely a program's pods are to be listened to; each round asks all of them at once, and wakes the
program when something was said that decisions look at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from pydantic import ValidationError
from pydantic_core import from_json

from despina.api.base import is_object_name
from despina.decide.observed import JobView, PodView
from despina.decide.situation import holds
from despina.sources.answers import ANSWER_SECONDS, answer_of
from despina.sources.runtime_admin import Key, address
from despina.wire import INTERFACE_PATH, PROGRESS_PATH, STATE_PATH, PodState

STALE_ROUNDS = 4
INTERFACES_KEPT, INTERFACES_ASKED = 20, 4
"""Of one program; the latter in one pass."""


@dataclass
class _Listener:
    """One program's pods."""

    pods: tuple[PodView, ...] = ()
    period: float = 1.0
    said: dict[str, PodState] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    again: asyncio.Event = field(default_factory=asyncio.Event)


class Reports:
    """What all programs' pods said last."""

    def __init__(self, client: httpx.AsyncClient, wake: Callable[[Key], None]) -> None:
        self._client = client
        self._wake = wake
        self._listeners: dict[Key, _Listener] = {}
        self._heard: dict[Key, set[str]] = {}
        self._interfaces: dict[Key, dict[str, Mapping[str, Any]]] = {}

    def said(self, program: Key) -> Mapping[str, PodState]:
        """Each pod's last report; a pod that has been silent for a while has none."""
        listener = self._listeners.get(program)
        return dict(listener.said) if listener else {}

    def heard(self, program: Key) -> set[str]:
        """The pods that had said something when they were last listened to; none while they are."""
        return self._heard.get(program, set())

    def listen(self, program: Key, pods: Iterable[PodView], period: float | None) -> None:
        """How closely to listen from now on, in seconds between rounds; None: not at all."""
        there = tuple(p for p in pods if p.ip and not p.ending)
        present = {p.name for p in there}
        if period is None:
            heard = self.heard(program) | self.said(program).keys()
            self._stop(program)
            self._heard[program] = heard & present
            return
        self._heard.pop(program, None)
        listener = self._listeners.setdefault(program, _Listener())
        is_sooner = period < listener.period
        listener.pods, listener.period = there, period
        listener.said = {name: state for name, state in listener.said.items() if name in present}
        if listener.task is None or listener.task.done():  # whatever ended it must not end the listening
            listener.task = asyncio.create_task(self._rounds(program, listener), name=f"listen {program}")
        elif is_sooner:
            listener.again.set()

    def forget(self, program: Key) -> None:
        """Stop listening, and forget what was heard: the program is gone."""
        self._stop(program)
        self._heard.pop(program, None)
        self._interfaces.pop(program, None)

    def _stop(self, program: Key) -> None:
        listener = self._listeners.pop(program, None)
        if listener and listener.task:
            listener.task.cancel()

    async def close(self) -> None:
        """Stop listening to anybody."""
        for program in list(self._listeners):
            self.forget(program)
        await self._client.aclose()

    async def _rounds(self, program: Key, listener: _Listener) -> None:
        while True:
            before = {name: facts(state) for name, state in listener.said.items()}
            await asyncio.gather(*(self._ask(listener, pod) for pod in listener.pods))
            if before != {name: facts(state) for name, state in listener.said.items()}:
                self._wake(program)
            listener.again.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(listener.period):
                    await listener.again.wait()

    async def _ask(self, listener: _Listener, pod: PodView) -> None:
        said = await answer_of(self._client, f"{address(pod)}{STATE_PATH}")
        try:
            state = PodState.model_validate_json(said or b"")
        except ValidationError:
            listener.silent[pod.name] = listener.silent.get(pod.name, 0) + 1
            if listener.silent[pod.name] >= STALE_ROUNDS:
                listener.said.pop(pod.name, None)
        else:
            listener.silent.pop(pod.name, None)
            listener.said[pod.name] = state

    async def interfaces(
        self, program: Key, pods: Iterable[PodView], revisions: Iterable[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """What a program's revisions take and give, as the first pod says that holds them; they never change.

        A pass waits for this, so it asks for few at a time, and for a moment only. What pods say they hold may be no
        revision's name at all."""
        known, asked = self._interfaces.setdefault(program, {}), list(revisions)
        unknown = [revision for revision in asked if revision not in known and is_object_name(revision)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                for revision in unknown[:INTERFACES_ASKED]:
                    if (said := await self._learn(pods, revision)) is not None:
                        known[revision] = said
        for revision in list(known)[:-INTERFACES_KEPT]:
            del known[revision]
        return {revision: known[revision] for revision in asked if revision in known}

    async def evaluations(self, jobs: Sequence[JobView]) -> tuple[JobView, ...]:
        """Evaluations with how far they are; all are asked at once, for a pass waits."""
        said = await asyncio.gather(*map(self._progress, jobs))
        return tuple(replace(job, progress=words) for job, words in zip(jobs, said, strict=True))

    async def _progress(self, job: JobView) -> str:
        if job.ip is None or job.result:
            return ""
        said = await answer_of(self._client, f"{address(job)}{PROGRESS_PATH}")
        return (said or b"")[:800].decode(errors="replace")[:200]

    async def _learn(self, pods: Iterable[PodView], revision: str) -> Mapping[str, Any] | None:
        for pod in pods:
            if not holds(pod, revision):
                continue
            try:
                said = from_json(await answer_of(self._client, f"{address(pod)}{INTERFACE_PATH}/{revision}") or b"")
            except ValueError:
                continue
            if isinstance(said, dict):
                return said
        return None


def facts(state: PodState) -> tuple[Any, ...]:
    """What decisions look at at once; plain counts are read when the next pass comes anyway."""
    held = tuple(sorted((name, h.phase) for name, h in state.held.items()))
    breakers = tuple((b.state, sum(n for kind, n in b.window.items() if kind != "ok")) for b in state.breakers)
    mirrors = state.shadow.revision if state.shadow else None
    return state.revision, held, breakers, tuple(state.tries), mirrors
