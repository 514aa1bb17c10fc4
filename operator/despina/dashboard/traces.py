"""The traces of a program, asked of its pods when somebody opens them, and what people say of one.

Nothing of them is kept here, and nobody asks but by opening a page: so many pods, for so long, a few at a time.
"""

from __future__ import annotations

import asyncio
import datetime
import heapq
import logging
import re
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from despina.cluster.errors import ClusterError
from despina.dashboard import words
from despina.dashboard.facts import Key
from despina.dashboard.waterfall import count, money, took, tools_in
from despina.dashboard.world import Known, Pod
from despina.decide.quarantine import LAST_MOMENT
from despina.sources.traces import NoAnswer, TraceAsker
from despina.wire import ADMIN_PORT, Trace, TraceSpan, TraceSummary
from despina.wire.labels import Label, Status
from despina.wire.predictions import Prediction, pod_in, pod_of, unsigned

log = logging.getLogger(__name__)
MOST_PODS, MOST_TOOLS, MOST_HOSTS, MOST_OF_HOST = 64, 16, 32, 500
"""That are asked for a page: pods of the program; tools of one trace, pods of those, and spans of each of these."""
MOST_AT_ONCE = 3
"""Of these, for one page."""
WORDLESS = {"inputs": "", "outputs": ""}
"""Hosts of ours tell none; those of others would fill the page's memory with them."""
MOST_LISTED, PAGE_TRACES = 500, 100
LIST_SECONDS, HOSTS_SECONDS = 8.0, 4.0
"""For all pods together."""
NAME = re.compile(r"[0-9a-z~-]{1,128}")
TRACE_ID = re.compile(r"[0-9a-f]{32}")
WHY = {
    "error": "it ended in a problem",
    "asked": "somebody asked for it",
    "slow": "it is among the slowest",
    "sampled": "it is one in so many",
    "marked": "somebody marked it",
}


class Hosts(Protocol):
    """Knows where tools run."""

    async def hosts(self, namespace: str, tool: str) -> list[tuple[str, str]]:
        """Names and addresses of a tool's pods; nothing for tools of namespaces that are not watched. Raises
        ClusterError."""


class Line(NamedTuple):
    """A trace in the list."""

    at: float
    name: str
    """Without its MAC: whoever has that may label the prediction."""
    time: str
    version: str
    module: str
    took: str
    level: str
    icon: str
    outcome: str
    why: str
    is_marked: bool
    tokens: str
    cost: str


class Listed(NamedTuple):
    """What a program's pods hold."""

    lines: list[Line]
    asked: int
    """So many pods."""
    silent: int
    """So many of them did not answer, or said what cannot be read."""
    left_out: int
    """So many pods were not asked, for there are too many."""


class NotHeld(Exception):
    """No pod says that it holds the trace; `silent` of them say nothing."""

    def __init__(self, silent: int) -> None:
        super().__init__("no pod holds this trace")
        self.silent = silent


class Traces:
    """Asks for them."""

    def __init__(self, asker: TraceAsker, hosts: Hosts) -> None:
        self._asker, self._hosts = asker, hosts

    async def latest(self, known: Known, only: str = "", before: float = 0.0) -> Listed:
        """The latest of all pods, the newest first; `only` those that were kept for this reason."""
        pods, newest = _pods(known), list[Line]()

        async def ask(pod: Pod) -> None:
            nonlocal newest
            told = await self._asker.listed(*_place(known, pod))
            found = (line_of(one) for one in told.traces if _is_wanted(one, only, before))
            newest = heapq.nlargest(MOST_LISTED, [*newest, *found])

        silent = sum(not is_fine for is_fine in await _all((ask(pod) for pod in pods), LIST_SECONDS))
        return Listed(newest, len(pods), silent, len(known.pods) - len(pods))

    async def find(self, known: Known, name: str) -> Trace:
        """One of them: the pod that its name names is asked first. Raises NotHeld."""
        found, pods = list[Trace](), _pods(known, name)

        async def ask(pod: Pod) -> None:
            told = await self._asker.one(*_place(known, pod), name)
            if told and not found:  # one is kept: they may be long
                found.append(told)

        first = await _all((ask(pod) for pod in pods[:1]), LIST_SECONDS)
        rest = await _all((ask(pod) for pod in (() if found else pods[1:])), LIST_SECONDS)
        if not found:
            raise NotHeld(sum(not is_fine for is_fine in (*first, *rest)))
        return found[0]

    async def hosted(self, trace: Trace) -> dict[str, Sequence[TraceSpan]]:
        """What hosts of the tools that it called have kept of it, by their pods."""
        if not TRACE_ID.fullmatch(trace.trace_id):
            return {}
        found: dict[str, Sequence[TraceSpan]] = {}

        async def ask(pod: str, ip: str) -> None:
            if told := await self._asker.hosted(ip, trace.trace_id):
                found[pod] = [span.model_copy(update=WORDLESS) for span in told.spans[:MOST_OF_HOST]]

        places = await self._places(tools_in(trace)[:MOST_TOOLS])
        await _all((ask(pod, ip) for pod, ip in places[:MOST_HOSTS]), HOSTS_SECONDS)
        return found

    async def _places(self, tools: Iterable[Key]) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for namespace, tool in tools:
            try:
                found += await self._hosts.hosts(namespace, tool)
            except ClusterError as exc:
                log.warning("Tool hosts were not found tool=%s/%s error=%s", namespace, tool, type(exc).__name__)
        return list(dict.fromkeys(found))

    def prediction(self, known: Known, trace: Trace, asked: str) -> Prediction | None:
        """Which prediction a trace is of; None where the program has not called it so, or another was asked for."""
        is_it = unsigned(asked) == unsigned(trace.id) or asked == trace.trace_id
        return self._asker.prediction(known.facts.uid, known.facts.key[0], trace.id) if is_it else None

    async def outputs(self, known: Known, prediction: Prediction) -> frozenset[str]:
        """What the answers of its revision consist of; nothing where that is not known any more."""
        for pod in _pods(known, prediction.origin)[:1]:
            return await self._asker.outputs(*_place(known, pod), prediction.revision)
        return frozenset()

    async def mark(self, known: Known, label: Label) -> Status:
        """Hand a label to the pod that made what it is about, or to another one that passes it on. Raises NoAnswer."""
        for pod in _pods(known, label.origin)[:3]:
            try:
                return await self._asker.hand_over(known.facts.uid, known.facts.key[0], pod.ip, label)
            except (NoAnswer, ValueError):
                continue
        raise NoAnswer


def _place(known: Known, pod: Pod) -> tuple[str, str, str, str]:
    return known.facts.uid, known.facts.key[0], pod.name, pod.ip


def _pods(known: Known, name: str = "") -> list[Pod]:
    """Those that are asked: the one that made a prediction first, then those that are ready."""
    maker = pod_in(name) if name.count("-") >= 2 else ""
    pods = sorted(known.pods.values(), key=lambda pod: (not _is_made_by(pod, maker), not pod.ready, pod.name))
    return pods[:MOST_PODS]


def _is_made_by(pod: Pod, maker: str) -> bool:
    try:
        return bool(maker) and pod_of(pod.ip, ADMIN_PORT)[4:] == maker[4:]
    except ValueError:
        return False


async def _all(works: Iterable[Coroutine[Any, Any, None]], seconds: float) -> list[bool]:
    """Of each, whether it was done, in this time for all together, and without NoAnswer."""
    seats = asyncio.Semaphore(MOST_AT_ONCE)
    return await asyncio.gather(*(_is_done(work, seats, seconds) for work in works))


async def _is_done(work: Coroutine[Any, Any, None], seats: asyncio.Semaphore, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds), seats:
            await work
    except (NoAnswer, TimeoutError):
        work.close()
        return False
    return True


def _is_wanted(one: TraceSummary, only: str, before: float) -> bool:
    return (not only or one.why == only) and (not before or one.at < before)


def line_of(one: TraceSummary) -> Line:
    """A trace in the list."""
    is_fine = one.status < 400 and not one.problem
    said = words.shown(one.problem, 40) or "answered"
    return Line(
        at=one.at,
        name=unsigned(one.id),
        time=when(one.at),
        version=words.shown(one.version, 20),
        module=words.shown(one.module, 60),
        took=took(one.seconds),
        level="ok" if is_fine else "bad",
        icon="✓" if is_fine else "✕",
        outcome=f"{one.status} {said}" if one.status else said,
        why=WHY.get(one.why, words.NOTHING),
        is_marked=one.why == "marked",
        tokens=f"{count(str(one.input_tokens))} + {count(str(one.output_tokens))}",
        cost=money(one.cost_usd),
    )


def when(at: float) -> str:
    """A moment to the second, UTC; nothing for what is no moment of our days."""
    if not 0 < at < LAST_MOMENT:
        return words.NOTHING
    return datetime.datetime.fromtimestamp(at, tz=datetime.UTC).strftime("%d %b %H:%M:%S UTC")
