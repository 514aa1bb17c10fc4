"""Asking a version by hand: a form that is made of its input schema; and a trace's inputs, asked of another version.

Who may is the verb `ask` on DSPyPrograms. A person asks one question at a time, and all of them only so many at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiohttp import web

from despina.cluster.reading import mapping
from despina.dashboard import forms, words
from despina.dashboard.access import Door, Viewer
from despina.dashboard.answers import Shown, said_of, shown_answer
from despina.dashboard.asked import answer_of, form_of
from despina.dashboard.held import Held, Pods, Version, shuffled
from despina.dashboard.render import rendered
from despina.dashboard.replay import Beside, Recorded, beside, recorded_of
from despina.dashboard.trace_pages import PAYLOADS, found
from despina.dashboard.traces import Traces
from despina.dashboard.world import Known
from despina.sources.asking import LOST, NotAsked, Unanswered
from despina.wire import LONGEST_QUESTION, Answered
from despina.wire.predictions import unsigned

log = logging.getLogger(__name__)
ASK = "ask"
"""A verb on dspyprograms: to have a version answer, and LMs paid."""
MOST_AT_ONCE, MOST_OF_ONE = 8, 3
"""Questions of all people together, and in one namespace, whose pods may let them wait: each may take as long as a
request may, and is a mebibyte at most."""
USUAL_SECONDS, LATE_SECONDS = 60, 10.0
"""How long a request may take where the manifest does not say it; and how much longer its pod is waited for."""
MOST_TRIED = 3
"""Pods that a question is brought to, where the first ones take none."""


class Asking:
    """The pages and forms by which a version is asked."""

    def __init__(
        self,
        door: Door,
        pods: Pods,
        traces: Traces,
        program: Callable[[web.Request], Awaitable[Known]],
        viewer: Callable[[web.Request], Viewer],
        about: Callable[[Viewer], dict[str, Any]],
    ) -> None:
        """`program` gives the one that a request names, if its viewer may see it; `about` what every page shows."""
        self._door, self._pods, self._traces, self.held = door, pods, traces, Held(pods)
        self._program, self._viewer, self._about = program, viewer, about
        self._seats, self._turns = Seats(), itertools.count()

    def routes(self) -> list[web.RouteDef]:
        """Theirs."""
        return [
            web.get("/p/{namespace}/{name}/ask", self.form),
            web.post("/p/{namespace}/{name}/ask", self.ask),
            web.post("/p/{namespace}/{name}/traces/{trace}/replay", self.replay),
        ]

    async def beside(self, viewer: Viewer, known: Known) -> dict[str, Any]:
        """What a program's page shows of this."""
        namespace = known.facts.key[0]
        can_ask, has_words = [await self._door.may(viewer, verb, namespace) for verb in (ASK, PAYLOADS)]
        return {"can_ask": can_ask, "diffs": await self.held.diffs(known, has_words)}

    async def replays(self, viewer: Viewer, known: Known, trace: str) -> dict[str, Any] | None:
        """What `replay.html` needs on a trace's page; None for those who may not ask."""
        namespace, name = known.facts.key
        if not await self._may(viewer, namespace, ASK, PAYLOADS):
            return None
        versions = await self.held.versions(known)
        return {"action": f"/p/{namespace}/{name}/traces/{trace}/replay", "versions": versions}

    async def form(self, request: web.Request) -> web.Response:
        """A form that nobody has written into."""
        viewer, known, versions = await self._allowed(request, ASK)
        chosen = _chosen(versions, request.query.get("revision", ""))
        fields = await self._fields(chosen)
        return self._page(viewer, known, versions, chosen, forms.at_first(fields))

    async def ask(self, request: web.Request) -> web.Response:
        """A form was sent: what is wrong with it, or what the version answers."""
        viewer, known, versions = await self._allowed(request, ASK)
        with self._seats.taken(viewer, known.facts.key[0]):
            sent = await form_of(request, LONGEST_QUESTION)
            chosen = _asked(versions, sent.get("revision", ""))
            filled, inputs = forms.read(await self._fields(chosen), sent)
            if not inputs:
                return self._page(viewer, known, versions, chosen, filled, ["Nothing was asked: see the fields below."])
            try:
                answered = await self._put(viewer, known, chosen, inputs)
            except (NotAsked, Unanswered) as exc:
                return self._page(viewer, known, versions, chosen, filled, [f"No answer: {exc}."])
        filled, rest = forms.refused(filled, said_of(answered))
        return self._page(viewer, known, versions, chosen, filled, rest, shown_answer(answered))

    def _page(
        self,
        viewer: Viewer,
        known: Known,
        versions: list[Version],
        chosen: Version | None,
        filled: list[forms.Filled],
        wrong: list[str] | None = None,
        answer: Shown | None = None,
    ) -> web.Response:
        page = {"key": known.facts.key, "versions": versions, "chosen": chosen, "filled": filled}
        return answer_of(rendered("ask.html", **self._about(viewer), **page, wrong=wrong or [], answer=answer))

    async def _fields(self, chosen: Version | None) -> list[forms.Field]:
        told = await self.held.told(chosen) if chosen else None
        return await asyncio.to_thread(forms.fields_of, told.schema() if told else {})  # which may take a while

    async def _put(self, viewer: Viewer, known: Known, version: Version, inputs: str) -> Answered:
        """A question, to a pod that takes it, in the time of one however many say that they take none. Raises NotAsked
        and Unanswered."""
        if len(inputs) > LONGEST_QUESTION:
            raise NotAsked("the inputs are too long")
        seconds = _seconds(known)
        try:
            async with asyncio.timeout(seconds):
                return await self._taken_by_one(viewer, known, version, inputs, seconds)
        except TimeoutError:
            raise Unanswered(LOST) from None

    async def _taken_by_one(
        self, viewer: Viewer, known: Known, version: Version, inputs: str, seconds: float
    ) -> Answered:
        refusal = NotAsked("no pod holds this version any more")
        for place in itertools.islice(shuffled(version.places, next(self._turns)), MOST_TRIED):
            try:
                answered = await self._pods.ask(place, version.revision, inputs, seconds)
            except NotAsked as exc:
                refusal = exc
            else:
                who = words.shown(viewer.person.name, 100)
                log.info("Asked by hand program=%s/%s revision=%s status=%d person=%s", *known.facts.key,
                         version.revision, answered.status, who)  # fmt: skip
                return answered
        raise refusal

    async def replay(self, request: web.Request) -> web.Response:
        """What a trace was asked, asked of another version: both answers side by side."""
        viewer, known, versions = await self._allowed(request, ASK, PAYLOADS)
        with self._seats.taken(viewer, known.facts.key[0]):
            sent = await form_of(request, LONGEST_QUESTION)
            chosen = _asked(versions, sent.get("revision", ""))
            name = request.match_info["trace"]
            recorded = recorded_of(unsigned(name), await found(self._traces, known, name))
            if recorded.problem:
                return self._replayed(viewer, known, versions, chosen, recorded)
            try:
                answered = await self._put(viewer, known, chosen, recorded.inputs)
            except (NotAsked, Unanswered) as exc:
                recorded = recorded._replace(problem=f"No answer: {exc}.")
                return self._replayed(viewer, known, versions, chosen, recorded)
        both = await asyncio.to_thread(beside, recorded, answered)  # which may take a while
        return self._replayed(viewer, known, versions, chosen, recorded, both)

    def _replayed(
        self,
        viewer: Viewer,
        known: Known,
        versions: list[Version],
        chosen: Version,
        recorded: Recorded,
        both: Beside | None = None,
    ) -> web.Response:
        page = {"key": known.facts.key, "chosen": chosen, "recorded": recorded, "found": both}
        action = f"/p/{known.facts.key[0]}/{known.facts.key[1]}/traces/{recorded.name}/replay"
        replay = {"action": action, "versions": versions}
        return answer_of(rendered("replayed.html", **self._about(viewer), **page, replay=replay))

    async def _allowed(self, request: web.Request, *verbs: str) -> tuple[Viewer, Known, list[Version]]:
        viewer, known = self._viewer(request), await self._program(request)
        if not await self._may(viewer, known.facts.key[0], *verbs):
            text = f"you may not {' and '.join(verbs)} dspyprograms in {known.facts.key[0]}"
            raise web.HTTPForbidden(text=text)
        return viewer, known, await self.held.versions(known)

    async def _may(self, viewer: Viewer, namespace: str, *verbs: str) -> bool:
        return all([await self._door.may(viewer, verb, namespace) for verb in verbs])


class Seats:
    """One question at a time for a person, and so many for a namespace and for all."""

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._most = most
        self._taken: dict[str, str] = {}

    @contextlib.contextmanager
    def taken(self, viewer: Viewer, namespace: str) -> Iterator[None]:
        """While somebody asks there. Raises what they are answered where there is no seat."""
        name, later = viewer.person.name, {"Retry-After": "5"}
        if name in self._taken:
            raise web.HTTPTooManyRequests(text="you ask one question already: wait for its answer", headers=later)
        if len(self._taken) >= self._most or list(self._taken.values()).count(namespace) >= MOST_OF_ONE:
            raise web.HTTPServiceUnavailable(text="too many people ask at this moment", headers=later)
        self._taken[name] = namespace
        try:
            yield
        finally:
            del self._taken[name]


def _chosen(versions: list[Version], revision: str) -> Version | None:
    """The one that is asked for, or else the first one that is held."""
    return next((one for one in versions if one.revision == revision), versions[0] if versions else None)


def _asked(versions: list[Version], revision: str) -> Version:
    found = next((one for one in versions if one.revision == revision), None)
    if found is None:
        raise web.HTTPConflict(text="no pod holds this version ready any more; look again")
    return found


def _seconds(known: Known) -> float:
    runtime = mapping(mapping(known.facts.document.get("spec")).get("runtime"))
    said = runtime.get("requestTimeoutSeconds")
    seconds = said if isinstance(said, int) and not isinstance(said, bool) and 0 < said <= 3600 else USUAL_SECONDS
    return seconds + LATE_SECONDS
