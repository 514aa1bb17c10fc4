"""What the page asks of an API server and of pods: followed through breaks, read with care, written in others' names."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import itertools
import json
import threading
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kubernetes.aio.client import ApiClient, Configuration

from despina.cluster import watching
from despina.cluster.client import Cluster
from despina.cluster.errors import Refused
from despina.cluster.watching import Followed, follow
from despina.dashboard.access import Viewer
from despina.dashboard.run import ROOTS_SECONDS, ApiServer, Mounted, followed, read_roots
from despina.dashboard.world import World
from despina.main import hand_out_reading
from despina.settings import DashboardSettings, Settings
from despina.sources import traces
from despina.sources.figures import MOST_BYTES, Asker, Counted
from despina.sources.keys import minter, read_key
from despina.sources.keys import read_roots as roots_of
from despina.sources.questions import Line
from despina.wire import SIGNATURE_HEADER, Figures, Trace, TraceSpan, may_read, program_key
from services import free_port
from tests.support.page import a_manifest, a_pod, figures

PROGRAMS = "/apis/despina.dev/v1alpha1/namespaces/team-a/dspyprograms"


class FakeServer:
    """Lists, watches, reviews and patches; each watch hands out one script of events and ends."""

    def __init__(self) -> None:
        self.items: dict[str, list[dict]] = {}
        self.scripts: list[list[dict]] = []
        self.requests: list[tuple[str, str, dict]] = []
        self.broken = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        kind = request.path.rsplit("/", 1)[1]
        self.requests.append((request.method, request.path, dict(request.query)))
        if self.broken:
            return web.json_response({"message": "not now"}, status=503)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "10"}, "items": self.items.get(kind, [])})
        response = web.StreamResponse()
        await response.prepare(request)
        if kind == "dspyprograms" and self.scripts:
            for event in self.scripts.pop(0):
                await response.write(json.dumps(event).encode() + b"\n")
        else:
            await asyncio.sleep(30)
        return response


@pytest.fixture
async def api():
    fake = FakeServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", fake.answer)
    server = TestServer(app)
    await server.start_server()
    cluster = Cluster(ApiClient(Configuration(host=str(server.make_url("")).rstrip("/"))))
    yield fake, cluster
    await cluster.close()
    await server.close()


async def until(check) -> None:
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def following(cluster: Cluster, whats: list[Followed]):
    tasks = [asyncio.create_task(follow(cluster, what)) for what in whats]
    yield
    for task in tasks:
        task.cancel()


def told(kind: str, name: str, version: str) -> dict:
    item = a_manifest(name)
    item["metadata"]["resourceVersion"] = version
    return {"type": kind, "object": item}


async def test_the_world_follows_the_api_server(api, monkeypatch):
    monkeypatch.setattr(watching, "SHORTEST_WAIT", 0.05)
    fake, cluster = api
    fake.items = {"dspyprograms": [a_manifest("first"), a_manifest("leaves")], "pods": [a_pod("p", "first")]}
    fake.scripts = [
        [told("ADDED", "second", "11"), told("DELETED", "leaves", "12")],
        [told("BOOKMARK", "x", "15")],
        [{"type": "ERROR", "object": {"code": 410}}],
    ]
    world = World(lambda: 1e9)
    async with following(cluster, followed(world, ["team-a"])):
        await until(lambda: sorted(name for _, name in world.programs) == ["first", "second"])
        assert list(world.programs[("team-a", "first")].pods) == ["p"]
        fake.items["dspyprograms"] = [a_manifest("third")]
        await until(lambda: sorted(name for _, name in world.programs) == ["third"])  # too old to go on: listed anew
    watched = [query["resourceVersion"] for _, path, query in fake.requests if path == PROGRAMS and "watch" in query]
    assert watched[:3] == ["10", "12", "15"]
    asked = {path.rsplit("/", 1)[1]: query for _, path, query in fake.requests if "watch" not in query}
    assert asked["pods"] == {"labelSelector": "despina.dev/program"}
    assert asked["events"] == {"fieldSelector": "involvedObject.kind=DSPyProgram"}


async def test_silence_of_the_api_server_is_told_and_ends(api, monkeypatch):
    monkeypatch.setattr(watching, "SHORTEST_WAIT", 0.05)
    fake, cluster = api
    fake.broken = True
    world = World(lambda: 5.0)
    async with following(cluster, followed(world, ["team-a"])):
        await until(lambda: len(world.silent_since) == 4)
        fake.broken = False
        await until(lambda: world.silent_since == {})


async def test_a_button_is_pressed_with_the_viewers_own_token_and_no_other():
    seen = []

    async def patch(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization"), request.headers["Content-Type"], await request.json()))
        return web.json_response(
            {"message": "no"} if "nope" in seen[-1][0] else {}, status=403 if "nope" in seen[-1][0] else 200
        )

    app = web.Application()
    app.router.add_patch(f"{PROGRAMS}/qa", patch)
    server = TestServer(app)
    await server.start_server()
    own = Configuration(host=str(server.make_url("")).rstrip("/"), api_key={"BearerToken": "Bearer own"})
    cluster = Cluster(ApiClient(own))
    api = ApiServer(cluster)
    body = {"metadata": {"annotations": {"despina.dev/retry": "8"}}}
    await api.patch(Viewer(None, "theirs"), ("team-a", "qa"), body)  # type: ignore[arg-type]
    await api.patch(Viewer(None, is_local=True), ("team-a", "qa"), body)  # type: ignore[arg-type]
    with pytest.raises(Refused):
        await api.patch(Viewer(None, "nope"), ("team-a", "qa"), body)  # type: ignore[arg-type]
    merge = "application/merge-patch+json"
    assert seen == [(f"Bearer {token}", merge, body) for token in ("theirs", "own", "nope")]
    await cluster.close()
    await server.close()


@contextlib.asynccontextmanager
async def a_pod_that(answers):
    app, port = web.Application(), free_port()
    app.router.add_get("/{path:.*}", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def test_pods_are_read_with_the_programs_key_while_a_key_is_replaced():
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        key = program_key("old", "uid", "team-a")
        is_right = may_read(key, "team-a", "p", request.headers.get(SIGNATURE_HEADER, ""))
        body = figures(7).model_dump_json() if request.path == "/figures" else '{"revision": "r"}'
        return web.Response(text=body, status=200 if is_right else 403)

    async with a_pod_that(answer) as port:
        async with Asker(lambda: ["new", "old"], port) as asker:
            assert (await asker.figures("uid", "team-a", "p", "127.0.0.1")).figures == figures(7)
            assert (await asker.state("uid", "team-a", "p", "127.0.0.1")).revision == "r"
            assert await asker.figures("another", "team-a", "p", "127.0.0.1") is None
        async with Asker(lambda: ["new"], port) as asker:
            assert await asker.figures("uid", "team-a", "p", "127.0.0.1") is None
    assert seen[:2] == ["/figures", "/state"]


BAD = {
    "no JSON": {"text": "<html>"},
    "another shape": {"text": '{"versions": [1]}'},
    "a text where a number should be": {"text": '{"in_flight": "many"}'},
    "nested without end": {"text": '{"versions":' * 100_000},
    "too long": {"body": b" " * (MOST_BYTES + 1)},
    "packed": {"body": gzip.compress(b"{}"), "headers": {"Content-Encoding": "gzip"}},
    "elsewhere": {"status": 302, "headers": {"Location": "/figures"}},
    "an error": {"status": 500, "text": "{}"},
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_what_is_no_answer_is_none(answer):
    async def answers(_: web.Request) -> web.Response:
        return web.Response(**answer)

    async with a_pod_that(answers) as port, Asker(list, port) as asker:
        assert await asker.figures("u", "n", "p", "127.0.0.1") is None


async def test_a_pod_that_is_slow_or_not_there_holds_nobody_up(monkeypatch):
    monkeypatch.setattr("despina.sources.figures.ANSWER_SECONDS", 0.2)

    async def answers(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with a_pod_that(answers) as port, Asker(list, port) as asker:
        async with asyncio.timeout(10):
            assert await asker.figures("u", "n", "p", "127.0.0.1") is None
    async with Asker(list, free_port()) as asker:
        assert await asker.figures("u", "n", "p", "127.0.0.1") is None
        assert await asker.figures("u", "n", "p", "no address") is None


async def test_numbers_without_end_are_drawn_into_their_bounds():
    async def answers(_: web.Request) -> web.Response:
        return web.Response(text='{"in_flight": 1e300, "rss_bytes": -5, "boot": "b"}')

    async with a_pod_that(answers) as port, Asker(list, port) as asker:
        found = await asker.figures("u", "n", "p", "127.0.0.1")
    assert found is None or found.figures.in_flight <= 2**53


async def test_a_pod_that_says_the_same_is_not_read_again():
    seen, tag = [], '"a-tag"'

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.headers.get("If-None-Match"), request.transport.get_extra_info("peername")))
        is_same = request.headers.get("If-None-Match") == tag
        body = None if is_same else figures(7).model_dump_json()
        return web.Response(text=body, status=304 if is_same else 200, headers={"ETag": tag})

    async with a_pod_that(answer) as port, Asker(list, port) as asker:
        assert await asker.figures("u", "n", "p", "127.0.0.1") == Counted(figures(7), tag)
        assert await asker.figures("u", "n", "p", "127.0.0.1", tag) == Counted(None, tag)
        assert await asker.figures("u", "n", "p", "127.0.0.1", '"other"') == Counted(figures(7), tag)
    assert [asked for asked, _ in seen] == [None, tag, '"other"']
    assert len({peer for _, peer in seen}) == 1, "one connection for all of them"


RAW = {
    "nothing": b"",
    "something else": b"SSH-2.0\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 4000,
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "less than it says": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
    "more than it says": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}{}",
    "more than may be": b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n{}",
    "in pieces": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "another protocol": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "a word in between": b"HTTP/1.1 100 Continue\r\ncontent-length: 0\r\n\r\n",
    "nothing new without a question for that": b"HTTP/1.1 304 Not Modified\r\n\r\n",
}


@contextlib.asynccontextmanager
async def a_pod_that_says(*answers: bytes):
    """Raw bytes for each question; then the connection ends."""
    connections = []

    async def talk(reader, writer):
        connections.append(writer)
        for answer in answers:
            if not await reader.readline():
                break
            while (await reader.readline()).strip():
                pass
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()


@pytest.mark.parametrize("answer", RAW.values(), ids=RAW)
async def test_what_is_not_http_as_pods_speak_it_is_none(answer):
    async with a_pod_that_says(answer) as (port, _), Asker(list, port) as asker:
        assert await asker.figures("u", "n", "p", "127.0.0.1") is None


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nETag: %s\r\n%s\r\n" + b'{"boot":"b"}'


async def test_a_connection_that_the_pod_ended_is_made_anew():
    async with a_pod_that_says(GOOD % (b'"x"', b"")) as (port, connections), Asker(list, port) as asker:
        for _ in range(3):
            assert await asker.figures("u", "n", "p", "127.0.0.1") == Counted(Figures(boot="b"), '"x"')
    assert len(connections) == 3


async def test_a_trace_is_read_beside_the_loop(monkeypatch):
    """One of eight mebibytes may take seconds, and others look at the page meanwhile."""
    seen = []

    def noted(reading):
        return lambda *given: seen.append(threading.current_thread()) or reading(*given)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=Trace(id="rev7-x-1").model_dump_json())

    monkeypatch.setattr(traces, "read", noted(traces.read))
    async with a_pod_that(answer) as port, traces.TraceAsker(list, port) as asker:
        assert await asker.hosted("127.0.0.1", "0" * 32)
    assert len(seen) == 1
    assert threading.main_thread() not in seen


async def test_a_tool_hosts_part_of_a_trace_is_short():
    async def answer(_: web.Request) -> web.Response:
        spans = tuple(TraceSpan(id="a", inputs="x" * 2**18) for _ in range(5))
        return web.Response(text=Trace(id="rev7-x-1", spans=spans).model_dump_json())

    async with a_pod_that(answer) as port, traces.TraceAsker(list, port) as asker:
        assert await asker.one("u", "n", "p", "127.0.0.1", "rev7-x-1")
        with pytest.raises(traces.NoAnswer):
            await asker.hosted("127.0.0.1", "0" * 32)


UNASKED = {"a part of an answer": b"HTTP/1.1 200 OK\r\ncontent-length: 262144\r\n\r\n{", "one byte": b"H"}


@pytest.mark.parametrize("more", UNASKED.values(), ids=UNASKED)
async def test_what_a_pod_says_to_no_question_is_not_kept(more):
    line = Line(MOST_BYTES, 10.0)
    line.connection_made(SimpleNamespace(write=lambda _: None, abort=lambda: None))
    asked = asyncio.create_task(line.ask(b"?"))
    await asyncio.sleep(0)
    line.data_received(GOOD % (b'"x"', b""))
    assert (await asked).body == b'{"boot":"b"}'
    line.data_received(more)
    assert not line.is_open
    assert not line.has_begun


async def test_a_head_is_read_once_in_however_many_pieces_its_body_comes(monkeypatch):
    line, looks = Line(MOST_BYTES, 10.0), []
    monkeypatch.setattr(line, "_reply", lambda: looks.append(1) or Line._reply(line))
    line.connection_made(SimpleNamespace(write=lambda _: None, abort=lambda: None))
    asked = asyncio.create_task(line.ask(b"?"))
    await asyncio.sleep(0)
    head, _, body = (GOOD % (b'"x"', b"")).partition(b"\r\n\r\n")
    line.data_received(head + b"\r\n\r\n")
    for byte in body:
        line.data_received(bytes([byte]))
    assert (await asked).body == body
    assert len(looks) == 2


async def test_a_tag_that_would_say_more_than_one_is_none():
    said = GOOD % (b"x\ty", b"connection: close\r\n"), GOOD % (b'"%s"' % (b"x" * 99), b"")
    for answer in said:
        async with a_pod_that_says(answer) as (port, _), Asker(list, port) as asker:
            assert await asker.figures("u", "n", "p", "127.0.0.1") == Counted(Figures(boot="b"), "")


def test_what_lets_read_calls_no_tools():
    new, old = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    before, after = minter([old]), minter([new, old])
    roots = roots_of(after)
    assert read_key(before, "u", "n") == program_key(roots["previous"].decode(), "u", "n")
    assert read_key(after, "u", "n") == program_key(roots["root"].decode(), "u", "n")
    assert read_key(after, "u", "n") != read_key(after, "u", "m") != read_key(after, "v", "m")
    assert list(roots_of(before)) == ["root"]
    assert not {*after("u", "n")} & {read_key(after, "u", "n"), *(r.decode() for r in roots.values())}


class SecretOf:
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.data = error, {}

    async def ensure_secret(self, namespace, name, data, serves):
        if self.error:
            raise self.error
        assert not serves({})
        assert serves({**data, "more": b""})
        self.data = {(namespace, name): dict(data)}

    async def get(self, kind, namespace, name):
        encoded = {k: base64.b64encode(v).decode() for k, v in self.data.get((namespace, name), {}).items()}
        return {"data": encoded} if encoded else None


async def test_the_operator_leaves_the_read_key_and_the_page_finds_it(tmp_path):
    cluster, roots = SecretOf(), roots_of(minter([Ed25519PrivateKey.generate()]))
    settings = DashboardSettings(namespace="sys")
    assert (await read_roots(settings, cluster))() == ()  # type: ignore[arg-type]
    await hand_out_reading(Settings(namespace="sys"), cluster, roots)  # type: ignore[arg-type]
    assert (await read_roots(settings, cluster))() == (roots["root"].decode(),)  # type: ignore[arg-type]
    now = itertools.count(0, ROOTS_SECONDS)
    mounted = Mounted(tmp_path, lambda: next(now))
    assert mounted() == ()
    (tmp_path / "root").write_bytes(roots["root"])
    assert mounted() == (roots["root"].decode(),)


def test_keys_that_are_mounted_are_read_anew_every_few_seconds(tmp_path):
    now = [0.0]
    mounted = Mounted(tmp_path, lambda: now[0])
    (tmp_path / "root").write_text("one")
    assert mounted() == ("one",)
    (tmp_path / "root").write_text("two")
    (tmp_path / "previous").write_text("one")
    assert mounted() == ("one",)
    now[0] = ROOTS_SECONDS
    assert mounted() == ("two", "one")


async def test_an_operator_that_may_not_leave_it_runs_all_the_same(caplog):
    await hand_out_reading(Settings(), SecretOf(Refused("forbidden")), {"root": b"x"})  # type: ignore[arg-type]
    assert [line.getMessage() for line in caplog.records] == ["The page cannot read pods error=forbidden"]
