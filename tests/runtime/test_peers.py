"""What a pod believes of the reply to labels that it forwarded: its address may be somebody else's by now."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from despina.wire import LABELS_PATH, SIGNATURE_HEADER
from despina.wire.labels import LONGEST_FORWARDED, REPLIES, Label, Reply, sign_reply
from despina.wire.predictions import key_of, pod_of
from despina_runtime.feedback.peers import Peers, Unreachable
from despina_runtime.http.server import make_server, open_port
from tests.support.drip import Drip
from tests.unit.test_hostile_records import Desk, origin, said
from tests.unit.test_peers import admin

KEY = key_of("k")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def label() -> Label:
    return said(origin("1"))


def stored() -> bytes:
    return REPLIES.dump_json([Reply(prediction_id=label().prediction, status="Stored")])


async def forward(port: int) -> list[Reply]:
    peers = Peers(KEY)
    try:
        async with asyncio.timeout(60):
            return await peers.forward(pod_of("127.0.0.1", port), [label()])
    finally:
        await peers.close()


@asynccontextmanager
async def listener(handler: Handler) -> AsyncIterator[int]:
    """Whoever has the address now; its port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port
        yield server.port


def answering(body: bytes, signed: str | None) -> Handler:
    """A reply as it stands there; `signed`: a text, or that of the right key if it is empty."""

    async def handle(request: web.Request) -> web.Response:
        right = sign_reply(KEY, request.headers[SIGNATURE_HEADER], body)
        own = {} if signed is None else {SIGNATURE_HEADER: signed or right}
        return web.Response(body=body, headers=own, content_type="application/json")

    return handle


async def compressed(request: web.Request) -> web.Response:
    """The right answer, for who would unpack it."""
    right = sign_reply(KEY, request.headers[SIGNATURE_HEADER], stored())
    return web.Response(body=gzip.compress(stored()), headers={SIGNATURE_HEADER: right, "content-encoding": "gzip"})


async def echo(request: web.Request) -> web.Response:
    """Somebody who has no key and gives back the signature that came."""
    return web.Response(body=stored(), headers={SIGNATURE_HEADER: request.headers[SIGNATURE_HEADER]})


async def elsewhere(request: web.Request) -> web.Response:
    """Sends to where the right answer is."""
    if request.path == LABELS_PATH:
        return web.Response(status=307, headers={"location": "/there"})
    return await answering(stored(), "")(request)


async def endless(_: web.Request) -> web.StreamResponse:
    return web.Response(body=Drip(b" " * 2**16).__aiter__(), headers={SIGNATURE_HEADER: "0" * 64})


STRANGERS = {
    "no signature": answering(stored(), None),
    "another key's": answering(stored(), sign_reply(b"other", "0" * 64, stored())),
    "no text": answering(stored(), "\u00e9" * 64),
    "the signature that it was sent": echo,
    "a redirect": elsewhere,
    "more than anybody reads": answering(b" " * LONGEST_FORWARDED + stored(), ""),
    "compressed": compressed,
    "no end": endless,
}


@pytest.mark.parametrize("sentence", STRANGERS)
async def test_only_what_a_pod_of_the_program_signed_is_believed(sentence):
    async with listener(STRANGERS[sentence]) as port:
        with pytest.raises(Unreachable):
            await forward(port)


async def test_a_reply_to_other_labels_is_not_believed():
    async def replay(_: web.Request) -> web.Response:
        return web.Response(body=stored(), headers={SIGNATURE_HEADER: sign_reply(KEY, "0" * 64, stored())})

    async with listener(replay) as port:
        with pytest.raises(Unreachable):
            await forward(port)


async def test_a_pod_believes_what_anothers_admin_port_replies(tmp_path):
    socket = open_port("127.0.0.1", 0)
    socket.listen()
    port = socket.getsockname()[1]
    async with Desk(tmp_path) as own:
        own.desk.pod = pod_of("127.0.0.1", port)
        server = make_server(admin(own.desk), 1)
        serving = asyncio.create_task(server.serve(sockets=[socket]))
        try:
            assert [one.status for one in await forward(port)] == ["Stored"]
        finally:
            server.should_exit = True
            await serving
