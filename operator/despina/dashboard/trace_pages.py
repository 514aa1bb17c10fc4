"""The pages of traces: the list, one trace, and the form that says whether its answer was right.

Whoever may see the program sees its traces, without words and with names that label nothing. For more there are verbs
of their own, which the API server is asked about like all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple, NoReturn
from weakref import WeakValueDictionary

from aiohttp import web

from despina.cluster.reading import mapping
from despina.dashboard import pages, words
from despina.dashboard.access import Door, Viewer
from despina.dashboard.asked import VIEWER, answer_of, form_of
from despina.dashboard.marks import WORDS, Sent, Unfit, label_of
from despina.dashboard.render import rendered
from despina.dashboard.traces import NAME, PAGE_TRACES, WHY, NotHeld, Traces, line_of
from despina.dashboard.waterfall import PAGE_SPANS, Placed, in_order, page_of
from despina.dashboard.world import Known, World
from despina.sources.traces import NoAnswer
from despina.wire import Trace
from despina.wire.predictions import Prediction

log = logging.getLogger(__name__)
PAYLOADS, FEEDBACK = "payloads", "feedback"
"""Verbs on dspyprograms: to read what callers wrote and were told, and to say whether an answer was right."""
MOST_OPENED, PATIENCE_SECONDS = 4, 10.0
"""Pages that are made at the same time, for traces may be long, and no two of one namespace, whose pods may be slow;
who comes later waits for so long."""
GONE = (
    "No pod holds this trace: a pod keeps its last 500, and they go with it. "
    "Of predictions that feedback recorded, MLflow has theirs."
)


Replays = Callable[[Viewer, Known, str], Awaitable[Mapping[str, Any] | None]]


class Rights(NamedTuple):
    """What somebody may do with a namespace's traces."""

    payloads: bool
    feedback: bool


class Opened(NamedTuple):
    """One trace."""

    name: str
    """By which it was asked for."""
    trace: Trace
    placed: list[Placed]
    replay: Mapping[str, Any] | None
    """What `replay.html` is made of, for those who may have its inputs asked again."""


class Told(NamedTuple):
    """What is said at the form: what was filled in, and what is wrong with it."""

    sent: Sent = Sent()
    field: str = ""
    problem: str = ""


class TracePages:
    """Over the same world and door as all other pages."""

    def __init__(
        self, traces: Traces, world: World, door: Door, program: Callable[[web.Request], Awaitable[Known]],
        replays: Replays | None = None,
    ) -> None:  # fmt: skip
        """`program` finds the one that a request is about, if its viewer may see it."""
        self._traces, self._world, self._door, self._program = traces, world, door, program
        self._replays = replays
        self._seats = asyncio.Semaphore(MOST_OPENED)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def routes(self) -> list[web.RouteDef]:
        """Under each program's own page."""
        path = "/p/{namespace}/{name}/traces"
        return [
            web.get(path, self.listed),
            web.get(f"{path}/{{trace}}", self.one),
            web.post(f"{path}/{{trace}}/mark", self.mark),
        ]

    async def listed(self, request: web.Request) -> web.Response:
        """The latest ones."""
        known, asked = await self._program(request), request.query
        only = asked["why"] if asked.get("why") in WHY else ""
        async with self._seat(known):
            latest = await self._traces.latest(known, only, _moment(asked.get("before", "")))
        page = self._common(request, known) | {
            "found": latest,
            "lines": latest.lines[:PAGE_TRACES],
            "more": latest.lines[PAGE_TRACES - 1].at if len(latest.lines) > PAGE_TRACES else 0,
            "only": only,
            "before": asked.get("before", ""),
            "reasons": WHY,
        }
        return answer_of(rendered("traces.html", **page))

    async def one(self, request: web.Request) -> web.Response:
        """One trace."""
        known = await self._program(request)
        rights = await self._rights(request[VIEWER], known)
        async with self._opened(request, known) as opened:
            text = await asyncio.to_thread(self._rendered, request, known, rights, opened, Told())
        return answer_of(text)

    async def mark(self, request: web.Request) -> web.Response:
        """Somebody says whether the answer was right."""
        known, viewer = await self._program(request), request[VIEWER]
        rights, (namespace, program) = await self._rights(viewer, known), known.facts.key
        if not rights.feedback:
            raise web.HTTPForbidden(text=f"this takes the verb {FEEDBACK} on dspyprograms.despina.dev in {namespace}")
        sent = Sent.of(await form_of(request))
        async with self._opened(request, known) as opened:
            try:
                await self._label(known, viewer, opened, sent)
            except Unfit as exc:
                told = Told(sent, exc.field, str(exc))
                text = await asyncio.to_thread(self._rendered, request, known, rights, opened, told)
                return answer_of(text, 422)
        log.info("Marked label=%s program=%s/%s person=%s", sent.label, *known.facts.key, pages.logged(viewer))
        leads_to = f"/p/{namespace}/{program}/traces/{opened.name}?marked={sent.label}"
        return web.Response(status=303, headers={"Location": leads_to})

    async def _label(self, known: Known, viewer: Viewer, opened: Opened, sent: Sent) -> None:
        prediction = self._traces.prediction(known, opened.trace, opened.name)
        if prediction is None or not _has_feedback(known):
            raise web.HTTPConflict(text="no label can be given for this trace; look again")
        outputs = frozenset[str]() if opened.trace.module else await self._traces.outputs(known, prediction)
        label = label_of(sent, prediction, outputs, viewer.person.name, self._world.clock())
        try:
            status = await self._traces.mark(known, label)
        except NoAnswer:
            raise web.HTTPBadGateway(
                text="no pod of the program took the label: has the version that serves spec.feedback? Try again soon"
            ) from None
        if status == "Gone":
            text = "what this label is about is not kept any more, or was asked by hand, which is no prediction"
            raise web.HTTPGone(text=text)
        if status == "Failed":
            raise web.HTTPServiceUnavailable(text="the pod could not store the label: try again soon")

    async def _rights(self, viewer: Viewer, known: Known) -> Rights:
        namespace = known.facts.key[0]
        verbs = PAYLOADS, FEEDBACK
        return Rights(*await asyncio.gather(*(self._door.may(viewer, verb, namespace) for verb in verbs)))

    @contextlib.asynccontextmanager
    async def _opened(self, request: web.Request, known: Known) -> AsyncIterator[Opened]:
        name = request.match_info["trace"]
        async with self._seat(known):
            trace = await found(self._traces, known, name)
            hosted, replay = await asyncio.gather(self._traces.hosted(trace), self._replay(request, known, name))
            yield Opened(name, trace, await asyncio.to_thread(in_order, trace, hosted), replay)

    async def _replay(self, request: web.Request, known: Known, name: str) -> Mapping[str, Any] | None:
        return await self._replays(request[VIEWER], known, name) if self._replays else None

    @contextlib.asynccontextmanager
    async def _seat(self, known: Known) -> AsyncIterator[None]:
        namespace = known.facts.key[0]
        turn = self._turns.setdefault(namespace, asyncio.Lock())
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await stack.enter_async_context(turn)
                    await stack.enter_async_context(self._seats)
            except TimeoutError:
                text, again = f"many traces are being opened in {namespace}: try again soon", {"Retry-After": "5"}
                raise web.HTTPServiceUnavailable(text=text, headers=again) from None
            yield

    def _rendered(self, request: web.Request, known: Known, rights: Rights, opened: Opened, told: Told) -> str:
        asked, trace = request.query, opened.trace
        only = _number(asked.get("span", ""))
        prediction = self._traces.prediction(known, trace, opened.name)
        page = self._common(request, known) | {
            "id": opened.name,
            "line": line_of(trace),
            "trace": trace,
            "signed": trace.id if rights.feedback and prediction else "",
            "trace_id": words.shown(trace.trace_id, 64),
            "fall": page_of(opened.placed, _number(asked.get("from", "")) or 0, only, rights.payloads),
            "only": only,
            "step": PAGE_SPANS,
            "rights": rights,
            "has_words": any(one.span.inputs or one.span.outputs for one in opened.placed),
            "markable": _why_unmarkable(known, request[VIEWER], rights, prediction),
            "marked": next((word for word in WORDS if word == asked.get("marked")), ""),
            "told": told,
            "words": WORDS,
            "replay": opened.replay,
        }
        return rendered("trace.html", **page)

    def _common(self, request: web.Request, known: Known) -> dict[str, Any]:
        viewer = request[VIEWER]
        return {
            "who": words.shown(viewer.person.name, 100),
            "can_leave": bool(viewer.token),
            "facts": known.facts,
            "here": f"/p/{known.facts.key[0]}/{known.facts.key[1]}",
        }


async def found(traces: Traces, known: Known, name: str) -> Trace:
    """A trace by a name that somebody sent. Raises what they are answered where there is none."""
    if not NAME.fullmatch(name):
        raise web.HTTPNotFound(text=GONE)
    try:
        return await traces.find(known, name)
    except NotHeld as exc:
        _refuse(exc.silent)


def _refuse(silent: int) -> NoReturn:
    if silent:
        text = (
            f"No pod that answers holds this trace, and {silent} did not answer, or said more than is read: try again"
        )
        raise web.HTTPServiceUnavailable(text=text)
    raise web.HTTPNotFound(text=GONE)


def _why_unmarkable(known: Known, viewer: Viewer, rights: Rights, prediction: Prediction | None) -> str:
    """Why there is no form, and what to do; empty where there is one."""
    if not rights.feedback and viewer.is_local:
        return "Here it is marked at the program's own port: POST /feedback, with the prediction's name."
    if not rights.feedback:
        return f"To mark it takes the verb {FEEDBACK} on dspyprograms.despina.dev in {known.facts.key[0]}."
    if not _has_feedback(known):
        return "This program takes no labels: set spec.feedback, and mark what it answers from then on."
    return "" if prediction else "This is no prediction of this program, so it cannot be marked."


def _has_feedback(known: Known) -> bool:
    return mapping(known.facts.document.get("spec")).get("feedback") is not None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _moment(text: str) -> float:
    try:
        return min(max(float(text[:40]), 0.0), 1e12)
    except ValueError:
        return 0.0
