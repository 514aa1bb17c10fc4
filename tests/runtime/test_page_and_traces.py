"""What the page asks of pods' admin ports: traces, with the read key alone, and labels, signed as pods sign them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from starlette.applications import Starlette

from despina.sources.traces import MOST_BYTES, NoAnswer, TraceAsker
from despina.wire import SIGNATURE_HEADER, FeedbackConfig, PodState, Trace, may_read, program_key
from despina.wire.labels import REPLIES, Label, Reply, sign_reply
from despina.wire.predictions import key_of, pod_of
from despina_runtime.feedback.desk import FeedbackDesk
from despina_runtime.http.server import make_server, open_port
from despina_runtime.http.traces import hosted_route
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.news import News
from tests.unit.test_hostile_records import Desk
from tests.unit.test_traces import ASKED, TRACE, Worker

HERE = "127.0.0.1"
OF = "uid", "ns", "qa-1"
READ_KEY = program_key("root", "uid", "ns")
INTERFACE = b'{"outputs": {"properties": {"category": {}}}}'


def admin(worker: Worker, feedback: FeedbackDesk | None = None) -> Starlette:
    orders, news = OrderDesk("ns", "qa-1", (), "boot"), News(PodState)
    return build_admin(
        lambda: True, orders, None, PodState, news, lambda revision: INTERFACE if revision == "abcd1234" else None,
        partial(may_read, READ_KEY, "ns", "qa-1"), feedback=feedback, traces=worker.traces,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def serving(app: Any, socket: Any) -> AsyncIterator[None]:
    server = make_server(app, 1)
    task = asyncio.create_task(server.serve(sockets=[socket]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def an_open_port() -> tuple[Any, int]:
    socket = open_port(HERE, 0)
    socket.listen()
    return socket, socket.getsockname()[1]


def a_worker(port: int) -> Worker:
    worker = Worker(FeedbackConfig(payloads="Full"))
    worker.names.__init__(key_of(READ_KEY), "abcd1234", pod_of(HERE, port))  # type: ignore[misc]
    return worker


async def a_request(worker: Worker) -> str:
    name = await worker.request(trace=ASKED)
    worker.hand_over()
    await worker.held(1)
    return name


async def test_traces_are_read_with_the_programs_key_and_with_no_other():
    socket, port = an_open_port()
    worker = a_worker(port)
    name = await a_request(worker)
    async with serving(admin(worker), socket), TraceAsker(lambda: ["new", "root"], port) as asker:
        (told,) = (await asker.listed(*OF, HERE)).traces
        assert (told.id, told.trace_id) == (name, TRACE)
        for asked in (name, name.rpartition("-")[0], TRACE):
            found = await asker.one(*OF, HERE, asked)
            assert found
            assert found.spans[0].inputs == '{"ticket":"it crashes"}'
        assert await asker.one(*OF, HERE, "none") is None
        assert await asker.outputs(*OF, HERE, "abcd1234") == {"category"}
        assert await asker.outputs(*OF, HERE, "another") == frozenset()
        for stranger in (("other", "ns", "qa-1"), ("uid", "ns", "qa-2"), ("uid", "team-b", "qa-1")):
            with pytest.raises(NoAnswer):
                await asker.listed(*stranger, HERE)
            with pytest.raises(NoAnswer):
                await asker.one(*stranger, HERE, name)
        with pytest.raises(NoAnswer):  # a host is asked without a signature
            await asker.hosted(HERE, TRACE)


async def test_a_label_from_the_page_is_taken_as_a_pods_is(tmp_path: Path):
    socket, port = an_open_port()
    worker = a_worker(port)
    async with Desk(tmp_path) as own:
        own.desk.pod, own.desk._key = pod_of(HERE, port), key_of(READ_KEY)
        own.desk.record(b"")
        name = await a_request(worker)
        async with serving(admin(worker, own.desk), socket), TraceAsker(lambda: ["new", "root"], port) as asker:
            prediction = asker.prediction("uid", "ns", name)
            assert prediction
            assert asker.prediction("other", "ns", name) is None
            assert asker.prediction("uid", "ns", "x") is None
            label = Label.on(prediction, "failure", 5.0, reason="wrong", source="ada", is_trusted=True)
            assert await asker.hand_over("uid", "ns", HERE, label) == "Stored"
            with pytest.raises(NoAnswer):  # with another program's key
                await asker.hand_over("other", "ns", HERE, label)
        async with serving(admin(worker), an_open_port()[0]), TraceAsker(lambda: ["root"], port) as asker:
            with pytest.raises(NoAnswer):
                await asker.hand_over("uid", "ns", HERE, label)


async def test_a_hosts_part_is_read_by_whoever_knows_the_trace():
    part = Trace(id="a", trace_id=TRACE)
    socket, port = an_open_port()
    app = Starlette(routes=[hosted_route(lambda name: part if name == TRACE else None)])
    async with serving(app, socket), TraceAsker(list, port) as asker:
        assert await asker.hosted(HERE, TRACE) == part
        assert await asker.hosted(HERE, "0" * 32) is None


BAD = {
    "no JSON": {"text": "<html>"},
    "another shape": {"text": '{"spans": [1]}'},
    "words for numbers": {"text": '{"id": "a", "at": "soon", "spans": [{"id": "b", "seconds": "long"}]}'},
    "a list for a name": {"text": '{"id": ["a"]}'},
    "nested without end": {"text": '{"spans":' * 100_000},
    "more spans than a trace may have": {"text": '{"id":"a","spans":[' + ",".join(['{"id":"b"}'] * 100_000) + "]}"},
    "too long": {"body": b" " * (MOST_BYTES + 1)},
    "packed": {"body": gzip.compress(b'{"id": "a"}'), "headers": {"Content-Encoding": "gzip"}},
    "elsewhere": {"status": 302, "headers": {"Location": "/traces"}},
    "an error": {"status": 500, "text": '{"id": "a"}'},
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_what_is_no_trace_is_no_answer(answer):
    async def answers(_: web.Request) -> web.Response:
        return web.Response(**answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers)
    async with TestServer(app, host=HERE) as server, TraceAsker(lambda: ["root"], server.port or 0) as asker:
        with pytest.raises(NoAnswer):
            await asker.one(*OF, HERE, TRACE)
        with pytest.raises(NoAnswer):
            await asker.hosted(HERE, TRACE)
        assert await asker.outputs(*OF, HERE, "abcd1234") == frozenset()


LIES = {
    "a reply that nobody signed": (b'[{"prediction_id": "x", "status": "Stored"}]', ""),
    "one for other labels": (b'[{"prediction_id": "x", "status": "Stored"}]', "0" * 64),
    "no text": (b"[]", "\u00e9" * 64),
}


@pytest.mark.parametrize(("body", "signed"), LIES.values(), ids=LIES)
async def test_what_a_stranger_says_of_a_label_is_not_believed(body, signed):
    async def answers(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={SIGNATURE_HEADER: signed})

    await _refuses(answers)


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b"[1]", REPLIES.dump_json([Reply(prediction_id="x", status="Gone")] * 2)]
)
async def test_a_reply_that_cannot_be_read_is_none(body):
    async def answers(request: web.Request) -> web.Response:
        signed = sign_reply(key_of(READ_KEY), request.headers[SIGNATURE_HEADER], body)
        return web.Response(body=body, headers={SIGNATURE_HEADER: signed})

    await _refuses(answers)


async def _refuses(answers: Any) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers)
    label = Label(prediction="p", origin="o", pod="", trace_id="t", at=1.0, label="success")
    async with TestServer(app, host=HERE) as server, TraceAsker(lambda: ["root"], server.port or 0) as asker:
        with pytest.raises(NoAnswer):
            await asker.hand_over("uid", "ns", HERE, label)
