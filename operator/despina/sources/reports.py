"""Listening to pods: what they hold, serve and count, while a decision depends on it.

A pass says how closely a program's pods are to be listened to. Each is asked for what it says after its last word: it
answers when that has changed, or else at the end of a period. The program is woken when something was said that
decisions look at.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError
from pydantic_core import from_json

from despina.api.base import is_object_name
from despina.decide.observed import JobView, OptimizationJobView, PodView
from despina.decide.situation import holds
from despina.sources.answers import ANSWER_SECONDS, answer_of
from despina.sources.runtime_admin import Key, address
from despina.wire import INTERFACE_PATH, LONGEST_WAIT, PROGRESS_PATH, SIGNATURE_HEADER, STATE_PATH, PodState, reading

STALE_ROUNDS = 4
BREATH_SECONDS, AT_ONCE = 0.15, 4
"""Between two questions to a pod at least, on the average of so many, whatever it answers: what pods say while they
load a version comes in quick succession, and callers wait for the new one."""
INTERFACES_KEPT, INTERFACES_ASKED = 20, 4
"""Of one program; the latter in one pass."""
AnyJob = TypeVar("AnyJob", JobView, OptimizationJobView)


@dataclass
class _Listener:
    """One program's pods."""

    pods: Mapping[str, PodView] = field(default_factory=dict)
    period: float = math.inf
    said: dict[str, PodState] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def stop(self, name: str) -> None:
        """Ask this pod no more."""
        if task := self.tasks.pop(name, None):
            task.cancel()


class Reports:
    """What all programs' pods said last."""

    def __init__(self, client: httpx.AsyncClient, wake: Callable[[Key], None]) -> None:
        self._client = client
        self._wake = wake
        self._listeners: dict[Key, _Listener] = {}
        self._heard: dict[Key, set[str]] = {}
        self._expected: dict[Key, set[str]] = {}
        self._interfaces: dict[Key, dict[str, Mapping[str, Any]]] = {}

    def said(self, program: Key) -> Mapping[str, PodState]:
        """Each pod's last report; a pod that has been silent for a while has none."""
        listener = self._listeners.get(program)
        return dict(listener.said) if listener else {}

    def heard(self, program: Key) -> set[str]:
        """The pods that had said something when they were last listened to; none while they are."""
        return self._heard.get(program, set())

    def expect(self, program: Key, pod: str) -> None:
        """It was told to load something, and what it said before is not the last word on what it holds."""
        self._expected.setdefault(program, set()).add(pod)

    def expected(self, program: Key) -> set[str]:
        """The pods that have said nothing since they were told to load something."""
        return self._expected.get(program, set())

    def listen(self, program: Key, pods: Iterable[PodView], period: float | None) -> None:
        """How closely to listen from now on: after so many seconds a pod is asked anew that had nothing to say. None:
        not at all."""
        there = {p.name: p for p in pods if p.ip and not p.ending}
        self._expected[program] = self.expected(program) & there.keys()
        if period is None:
            heard = self.heard(program) | self.said(program).keys()
            self._stop(program)
            self._heard[program] = heard & there.keys()
            return
        self._heard.pop(program, None)
        listener = self._listeners.setdefault(program, _Listener())
        is_sooner = period < listener.period
        listener.pods, listener.period = there, period
        listener.said = {name: state for name, state in listener.said.items() if name in there}
        for name in list(listener.tasks):
            if is_sooner or name not in there:
                listener.stop(name)
        for name in there:
            before = listener.tasks.get(name)
            if before is None or before.done():  # whatever ended it must not end the listening
                attending = self._attend(program, listener, name)
                listener.tasks[name] = asyncio.create_task(attending, name=f"listen {program} {name}")

    def forget(self, program: Key) -> None:
        """Stop listening, and forget what was heard: the program is gone."""
        self._stop(program)
        self._heard.pop(program, None)
        self._expected.pop(program, None)
        self._interfaces.pop(program, None)

    def _stop(self, program: Key) -> None:
        if listener := self._listeners.pop(program, None):
            for name in list(listener.tasks):
                listener.stop(name)

    async def close(self) -> None:
        """Stop listening to anybody."""
        for program in list(self._listeners):
            self.forget(program)
        await self._client.aclose()

    async def _attend(self, program: Key, listener: _Listener, name: str) -> None:
        """Ask a pod what it has to say, over and over: it answers when something has changed, or after a period."""
        loop = asyncio.get_running_loop()
        times = deque([-math.inf], AT_ONCE)
        while True:
            asked, before = loop.time(), listener.said.get(name)
            times.append(asked)
            if await self._ask(program[0], listener, listener.pods[name]):
                self.expected(program).discard(name)
            said = listener.said.get(name)
            if _facts(before) != _facts(said):
                self._wake(program)
            has_news = said and said.number and (before is None or said.number != before.number)
            due = times[0] + AT_ONCE * BREATH_SECONDS if has_news else asked + listener.period
            await asyncio.sleep(due - loop.time())

    async def _ask(self, namespace: str, listener: _Listener, pod: PodView) -> bool:
        """Whether it said something that can be read."""
        before = listener.said.get(pod.name)
        after, wait = before.number if before else 0, min(listener.period, LONGEST_WAIT)
        said = await self._read(namespace, pod, f"{STATE_PATH}?after={after}&wait={wait}", wait)
        try:
            state = PodState.model_validate_json(said or b"")
        except ValidationError:
            listener.silent[pod.name] = listener.silent.get(pod.name, 0) + 1
            if listener.silent[pod.name] >= STALE_ROUNDS:
                listener.said.pop(pod.name, None)
            return False
        listener.silent.pop(pod.name, None)
        listener.said[pod.name] = state
        return True

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
                    if (said := await self._learn(program[0], pods, revision)) is not None:
                        known[revision] = said
        for revision in list(known)[:-INTERFACES_KEPT]:
            del known[revision]
        return {revision: known[revision] for revision in asked if revision in known}

    async def with_progress(self, jobs: Sequence[AnyJob]) -> tuple[AnyJob, ...]:
        """Jobs with how far they are; all are asked at once, for a pass waits."""
        said = await asyncio.gather(*map(self._progress, jobs))
        return tuple(replace(job, progress=words) for job, words in zip(jobs, said, strict=True))

    async def _progress(self, job: JobView | OptimizationJobView) -> str:
        if job.ip is None or job.result:
            return ""
        said = await answer_of(self._client, f"{address(job)}{PROGRESS_PATH}")
        return (said or b"")[:800].decode(errors="replace")[:200]

    async def _read(self, namespace: str, pod: PodView, path: str, wait: float = 0.0) -> bytes | None:
        signed = {SIGNATURE_HEADER: reading(pod.read_keys, namespace, pod.name)}
        return await answer_of(self._client, f"{address(pod)}{path}", wait, signed)

    async def _learn(self, namespace: str, pods: Iterable[PodView], revision: str) -> Mapping[str, Any] | None:
        for pod in pods:
            if not holds(pod, revision):
                continue
            try:
                said = from_json(await self._read(namespace, pod, f"{INTERFACE_PATH}/{revision}") or b"")
            except ValueError:
                continue
            if isinstance(said, dict):
                return said
        return None


def _facts(state: PodState | None) -> tuple[Any, ...] | None:
    return state.facts() if state else None
