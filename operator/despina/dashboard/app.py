"""The pages: who asks is known first, then what they may see is shown, and nothing else is there for them."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

from aiohttp import web

from despina.cluster.errors import ClusterError, Refused
from despina.dashboard import pages
from despina.dashboard.access import COOKIE, SESSION_SECONDS, Busy, Door, Viewer, is_same_origin
from despina.dashboard.acts import acts_of, patch_of, renewed
from despina.dashboard.ask import Asking
from despina.dashboard.asked import MOST_SENT, VIEWER, answer_of, form_of
from despina.dashboard.curves import RANGES
from despina.dashboard.facts import Key, status_of
from despina.dashboard.held import Pods
from despina.dashboard.render import assets, rendered, style_source, template
from despina.dashboard.stream import (
    HEARTBEAT_SECONDS,
    TICK_SECONDS,
    Full,
    Stream,
    Streams,
    event,
    keys_of,
    list_events,
    page_events,
)
from despina.dashboard.trace_pages import TracePages
from despina.dashboard.traces import Traces
from despina.dashboard.world import Known, World

log = logging.getLogger(__name__)
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {style_source()}; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all, browsers name no origin when a form is sent
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
FIRST_PIECES, PIECES = 16, 1000
"""Of a template, written at a time, twice as many each time: the head is drawn while the rows are made. Others have
their turn after each."""
AGAIN_SECONDS = 1.5
"""Until the operator has seen that an annotation was taken away, so that the same one asks anew."""
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Writer(Protocol):
    """Changes a program, with somebody's own rights."""

    async def patch(self, viewer: Viewer, key: Key, body: Mapping[str, Any]) -> None:
        """Raises ClusterError."""


@dataclass
class Site:
    """The pages over one world."""

    world: World
    door: Door
    writer: Writer
    traces: Traces
    is_local: bool = False
    pods: Pods | None = None
    """Where versions are asked by hand; None where nobody can ask any."""
    asking: Asking | None = None
    streams: Streams = field(default_factory=Streams)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[guarded, self._known], client_max_size=MOST_SENT)
        app.add_routes(
            [
                web.get("/", self.programs),
                web.get("/p/{namespace}/{name}", self.program),
                web.post("/p/{namespace}/{name}/act", self.act),
                web.get("/events", self.events),
                web.post("/view", self.view),
                web.get("/login", self.login),
                web.post("/login", self.log_in),
                web.post("/logout", self.log_out),
                web.get("/static/{tag}/{name}", static),
                web.get("/healthz", self.health),
            ]
        )
        if self.pods:
            about = partial(pages.common, self.world)
            self.asking = Asking(
                self.door, self.pods, self.traces, self._program, lambda request: request[VIEWER], about
            )
            app.add_routes(self.asking.routes())
        replays = self.asking.replays if self.asking else None
        app.add_routes(TracePages(self.traces, self.world, self.door, self._program, replays).routes())
        app.on_response_prepare.append(shielded)
        app.on_shutdown.append(self._close)
        return app

    async def _close(self, _: web.Application) -> None:
        self.closing.set()
        if self.asking:
            await self.asking.held.close()

    # Who asks

    @web.middleware
    async def _known(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Nobody unknown gets further than the form, and no other page's form is obeyed."""
        if self.is_local and request.url.host not in LOCAL_HOSTS:
            raise web.HTTPMisdirectedRequest(text="this page answers to localhost only")
        if request.method == "POST" and not is_same_origin(request.headers, request.host, COOKIE in request.cookies):
            raise web.HTTPForbidden(text="this was sent by another page")
        if request.path in ("/login", "/healthz") or request.path.startswith("/static/"):
            return await handler(request)
        viewer = await self.door.viewer(request.headers, request.cookies.get(COOKIE, ""))
        if viewer is None:
            return self._stranger(request)
        request[VIEWER] = viewer
        return await handler(request)

    def _stranger(self, request: web.Request) -> web.Response:
        if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
            return web.Response(text=self._form(request.path_qs), content_type="text/html", status=401)
        return web.Response(text="a Kubernetes bearer token is asked for", status=401)

    def _form(self, leads_to: str, problem: str = "") -> str:
        return rendered("login.html", leads_to=leads_to, problem=problem)

    async def login(self, request: web.Request) -> web.Response:
        """The form."""
        return web.Response(text=self._form(pages.local(request.query.get("to"))), content_type="text/html")

    async def log_in(self, request: web.Request) -> web.Response:
        """Somebody pasted a token."""
        sent = await form_of(request)
        token, leads_to = str(sent.get("token", "")).strip(), pages.local(str(sent.get("to", "/")))
        viewer = await self.door.holder(token)
        if viewer is None:
            text = self._form(leads_to, "The API server does not know this token. Is it whole, and not too old?")
            return web.Response(text=text, content_type="text/html", status=401)
        answer = web.Response(status=303, headers={"Location": leads_to})
        answer.set_cookie(
            COOKIE,
            self.door.sessions.begin(token, viewer.person.name),
            max_age=int(SESSION_SECONDS),
            path="/",
            secure=True,
            httponly=True,
            samesite="Strict",
        )
        return answer

    async def log_out(self, request: web.Request) -> web.Response:
        """Forget the token."""
        self.door.sessions.end(request.cookies.get(COOKIE, ""))
        answer = web.Response(status=303, headers={"Location": "/login"})
        answer.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return answer

    async def health(self, _: web.Request) -> web.Response:
        """Whether this process answers; what it cannot reach stands on the page."""
        return web.Response(text="ok\n")

    # Pages

    async def programs(self, request: web.Request) -> web.StreamResponse:
        """The list: its head first, then group by group, so that nobody waits for the last of a thousand."""
        viewer = request[VIEWER]
        seen = await self._seen(viewer)
        page = pages.listed(self.world, viewer, seen, request.query)
        response = web.StreamResponse()
        response.content_type, response.charset = "text/html", "utf-8"
        packs = "gzip" in request.headers.get("Accept-Encoding", "")
        if packs:
            response.headers["Content-Encoding"] = "gzip"
        await response.prepare(request)
        async for data in _packed(_in_pieces(template("programs.html").generate(page)), packs):
            await response.write(data)
        await response.write_eof()
        return response

    async def program(self, request: web.Request) -> web.Response:
        """One program."""
        viewer = request[VIEWER]
        known = await self._program(request)
        acts = await self.door.acts(viewer, known.facts.key[0])
        await self.world.past.first(known.facts.key, pages.span_of(request.query))
        beside = await self.asking.beside(viewer, known) if self.asking else {}
        told = pages.told(self.world, viewer, known, acts, request.query)  # last: what was waited for took its time
        return answer_of(rendered("program.html", **told, **beside))

    async def act(self, request: web.Request) -> web.Response:
        """A button was pressed: written with the rights of whoever pressed it."""
        viewer = request[VIEWER]
        known = await self._program(request)
        key, sent = known.facts.key, await form_of(request)
        if not await self.door.acts(viewer, key[0]):
            raise web.HTTPForbidden(text=f"you may not patch dspyprograms in {key[0]}")
        document = known.facts.document
        possible = {(act.name, act.subject): act for act in acts_of(document, status_of(document))}
        act = possible.get((str(sent.get("act", "")), str(sent.get("subject", ""))))
        if act is None:
            raise web.HTTPConflict(text="the program is not as it was when this button was shown; look again")
        first = renewed(act, document["metadata"].get("annotations") or {})
        if first:
            await self.writer.patch(viewer, key, first)
            await asyncio.sleep(AGAIN_SECONDS)
        await self.writer.patch(viewer, key, patch_of(act, self.world.clock()))
        log.info("Acted act=%s program=%s/%s person=%s", act.name, *key, pages.logged(viewer))
        return web.Response(status=303, headers={"Location": f"/p/{key[0]}/{key[1]}?asked={act.name}"})

    async def _seen(self, viewer: Viewer) -> list[str]:
        return await self.door.seen(viewer, (key[0] for key in self.world.programs))

    async def _program(self, request: web.Request) -> Known:
        """What is not there, and what they may not see, are the same."""
        key = request.match_info["namespace"], request.match_info["name"]
        known = self.world.programs.get(key)
        if known is None or key[0] not in await self.door.seen(request[VIEWER], [key[0]]):
            raise web.HTTPNotFound(text="there is no such program among those that you may see")
        return known

    # Streams

    async def view(self, request: web.Request) -> web.Response:
        """What a page shows now."""
        try:
            said = json.loads(await request.text())
        except (ValueError, LookupError, RecursionError):
            raise web.HTTPBadRequest(text="this is no JSON") from None
        word, keys = (said.get("stream"), said.get("keys")) if isinstance(said, dict) else ("", [])
        listed = keys_of(keys)
        seen = set(await self.door.seen(request[VIEWER], (key[0] for key in listed if key in self.world.programs)))
        theirs = [key for key in listed if key[0] in seen]
        is_there = self.streams.look(str(word), request[VIEWER].person.name, theirs)
        return web.Response(status=204 if is_there else 410)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """One stream, until it is closed or its viewer may no longer look."""
        stream = _stream(request)
        known = self.world.programs.get(stream.page) if stream.page else None
        if stream.page and (known is None or not await self.door.seen(request[VIEWER], [stream.page[0]])):
            raise web.HTTPNotFound(text="there is no such program among those that you may see")
        if not stream.page and self.world.programs and not await self._seen(request[VIEWER]):
            raise web.HTTPForbidden(text="there are no programs that you may see")
        try:
            self.streams.begin(stream)
        except Full:
            raise web.HTTPServiceUnavailable(text="too many pages are open", headers={"Retry-After": "10"}) from None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            await response.prepare(request)
            await response.write(event("hello", json.dumps({"stream": stream.word}).encode()))
            await self._flow(request, response, stream)
        except (ConnectionError, ClusterError) as exc:
            log.debug("A stream ended error=%s", type(exc).__name__)
        finally:
            self.streams.end(stream)
        return response

    async def _flow(self, request: web.Request, response: web.StreamResponse, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        beat = loop.time()
        while not self.closing.is_set():
            viewer = await self.door.viewer(request.headers, request.cookies.get(COOKIE, ""))
            if viewer is None:
                await response.write(event("bye", b"{}"))
                return
            said = b"".join(await self._said(viewer, stream))
            if not said and loop.time() - beat >= HEARTBEAT_SECONDS:
                said = event("beat", b"{}")
            if said:
                beat = loop.time()
                await response.write(said)
            await asyncio.sleep(TICK_SECONDS)

    async def _said(self, viewer: Viewer, stream: Stream) -> list[bytes]:
        if stream.page is None:
            return list(list_events(self.world, stream, await self._seen(viewer)))
        known = self.world.programs.get(stream.page)
        if known is None or not await self.door.seen(viewer, [stream.page[0]]):
            return [event("bye", b"{}")]
        return list(page_events(self.world, stream, known))


def _in_pieces(parts: Iterator[str]) -> Iterator[str]:
    size = FIRST_PIECES
    while piece := list(islice(parts, size)):
        yield "".join(piece)
        size = min(2 * size, PIECES)


async def _packed(pieces: Iterable[str], packs: bool) -> AsyncIterator[bytes]:
    """Pieces of a page, each sent whole: a packer that waits for more would hold the first one back."""
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        data = piece.encode(errors="replace")
        yield packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH) if packs else data
        await asyncio.sleep(0)
    if packs:
        yield packer.flush()


def _stream(request: web.Request) -> Stream:
    asked = request.query
    page = (asked["namespace"], asked["name"]) if "namespace" in asked and "name" in asked else None
    last = request.headers.get("Last-Event-ID") or asked.get("last", "")
    return Stream(
        person=request[VIEWER].person.name,
        page=page,
        span=asked["range"] if asked.get("range") in RANGES else "15m",
        sent=int(last) if last.isascii() and last.isdecimal() and len(last) < 20 else 0,
        shape=asked.get("shape", "")[:64],
    )


async def static(request: web.Request) -> web.Response:
    """A file that pages load."""
    found = assets().get(request.match_info["name"])
    if found is None or found.tag != request.match_info["tag"]:
        raise web.HTTPNotFound
    kept = {"Cache-Control": "public, max-age=31536000, immutable"}
    answer = web.Response(body=found.body, content_type=found.kind, headers=kept)
    answer.enable_compression()
    return answer


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever happens becomes an answer of ours; how its headers are set, see `shielded`."""
    try:
        return await handler(request)
    except web.HTTPException as exc:
        return _problem(request, exc.status, exc.text or exc.reason, dict(exc.headers))
    except Refused as exc:
        return _problem(request, 403, f"The API server refused this: {exc}")
    except Busy:
        return _problem(request, 503, "Too many sign in at the same time: try again soon", {"Retry-After": "5"})
    except ClusterError:
        return _problem(request, 503, "The API server does not answer, so nobody can be let in or helped now")
    except ConnectionError:
        raise
    except Exception as exc:  # no traceback for whoever asks, and none with their words in the log
        log.error("A request failed path=%s error=%s", request.path[:200], type(exc).__name__)
        return _problem(request, 500, "Something went wrong here; the log says what")


def _problem(request: web.Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    kept = {name: value for name, value in (headers or {}).items() if name in ("Location", "Allow", "Retry-After")}
    if "text/html" in request.headers.get("Accept", ""):
        body = rendered("problem.html", status=status, text=text)
        return web.Response(text=body, content_type="text/html", status=status, headers=kept)
    return web.Response(text=f"{text}\n", status=status, headers=kept)


async def shielded(request: web.Request, response: web.StreamResponse) -> None:
    """A signal that puts the headers on whatever is answered."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.pop("Server", None)
