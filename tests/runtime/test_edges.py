"""What callers may send that is larger, stranger or longer than usual, and what nobody shall read."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import json
import logging
import socket
import sys
from functools import lru_cache

import dspy
import httpx
import pytest
import uvloop

from despina.wire import LimitsConfig, ModelRef, RuntimeConfig
from despina_runtime import compat
from despina_runtime.engine import Engine
from despina_runtime.http import asgi
from despina_runtime.http.asgi import read_body, send_body, send_problem
from despina_runtime.http.server import make_server, open_port, waiting_bytes
from despina_runtime.http.sessions import Sessions, Variables
from despina_runtime.lines import Intake
from despina_runtime.pipeline.call import Rejected
from despina_runtime.pipeline.validate import parse_inputs, render_outputs
from despina_runtime.problem import Problem
from despina_runtime.program.artifact import write
from despina_runtime.program.interface import interface_of
from despina_runtime.program.load import load_despina
from tests.support.world import eventually

MODULE = "repeating"
CODE = '''
from typing import Any

import dspy


class Ask(dspy.Signature):
    """Repeat what is asked."""

    asked: Any = dspy.InputField()
    many: list[int] = dspy.InputField(default_factory=lambda: [1, 2])
    picture: dspy.Image | None = dspy.InputField(default=None)
    said: Any = dspy.OutputField(desc="the same again")


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict(Ask)

    async def aforward(self, asked, many, picture):
        if str(asked).startswith("raise"):
            raise ValueError(asked)
        if asked == "an LM":
            return await self.predict.acall(asked=asked)
        return dspy.Prediction(said=many if asked == "many" else asked)
'''
COMPILED = "You were compiled at great cost"
LARGE = 10**30


@pytest.fixture
async def served(tmp_path, monkeypatch):
    """The program above, compiled, as one worker serves it; asked without a network."""
    source, folder = tmp_path / "src", tmp_path / "artifact"
    source.mkdir()
    folder.mkdir()
    (source / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(source))
    program = importlib.import_module(MODULE).Program()
    program.predict.signature = program.predict.signature.with_instructions(COMPILED).with_updated_fields(
        "said", desc=COMPILED
    )
    options = {"entrypoint": None, "signature_text": None, "code_paths": None, "requirements": ()}
    write(folder, program=program, input_example_json=None, **options)
    monkeypatch.delitem(sys.modules, MODULE)
    engines = []

    def serve(**changes) -> httpx.AsyncClient:
        model = ModelRef(name="m", version="1", tracking_uri="http://m")
        config = RuntimeConfig(namespace="ns", program="p", revision="r", model=model, **changes)
        loaded = dataclasses.replace(load_despina(folder), is_async=True)
        assert loaded.program.predict.signature.instructions == COMPILED
        engines.append(Engine(loaded, config, tmp_path / f"cache-{len(engines)}"))
        return httpx.AsyncClient(transport=httpx.ASGITransport(engines[-1]), base_url="http://localhost")

    yield serve
    for engine in engines:
        await engine.start()
        await engine.stop()
    sys.modules.pop(MODULE, None)


async def mcp(client: httpx.AsyncClient, method: str, **params) -> httpx.Response:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    return await client.post("/mcp", content=json.dumps(body), headers=headers)


@pytest.mark.parametrize("asked", [LARGE, -LARGE, {"deep": [2**64]}, "\u00e9"], ids=repr)
async def test_a_value_is_the_same_by_itself_in_a_batch_and_for_an_mcp_client(served, asked):
    client = served()
    assert (await client.post("/execute", json={"asked": asked})).json() == {"said": asked}
    batch = await client.post("/execute/batch", json={"inputs": [{"asked": asked}]})
    (result,) = batch.json()["results"]
    assert result["outputs"] == {"said": asked}
    told = (await mcp(client, "tools/call", name="p", arguments={"asked": asked})).json()["result"]
    assert json.loads(told["content"][0]["text"]) == told["structuredContent"] == {"said": asked}


async def test_what_nests_too_deeply_is_the_callers_mistake_by_itself_and_in_a_batch(served):
    client = served()
    for depth in (190, 300, 1000):
        deep = "[" * depth + "]" * depth
        alone = await client.post("/execute", content=f'{{"asked": {deep}}}')
        together = await client.post("/execute/batch", content=f'{{"inputs": [{{"asked": {deep}}}]}}')
        assert {alone.status_code, together.status_code} <= {200, 422}, depth


async def test_a_type_that_refuses_a_value_in_its_own_way_is_the_callers_mistake(served):
    picture = {"url": "http://169.254.169.254/latest", "download": True}
    answer = await served().post("/execute", json={"asked": 1, "picture": picture})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:despina:problem:invalid-input")
    assert "169.254" not in answer.text


async def test_an_input_with_a_default_factory_may_be_left_out(served):
    client = served()
    assert (await client.post("/execute", json={"asked": "many"})).json() == {"said": [1, 2]}
    assert (await client.get("/schema")).json()["inputs"]["required"] == ["asked"]


async def test_what_a_program_was_compiled_to_is_told_to_nobody(served):
    client = served()
    for path in ("/schema", "/modules", "/modules/predict/schema", "/openapi.json"):
        text = (await client.get(path)).text
        assert COMPILED not in text, path
        assert "the same again" in text, path
    listed = (await mcp(client, "tools/list")).text
    assert COMPILED not in listed
    assert "Repeat what is asked." in listed


ACCEPTS = {
    "text/event-stream": True,
    "TEXT/Event-Stream": True,
    "application/json, text/event-stream": True,
    "text/event-stream;q=0.5, application/json; q=0.4": True,
    "text/event-stream; q=0.5, */*;q=0.1": True,
    "text/event-stream;q=0, application/json": False,
    "text/event-stream;q=0.000": False,
    "text/event-stream;q=0.5, */*": False,
    "text/event-stream;q=0.5, application/*;q=0.9": False,
    "*/*": False,
    "text/event-streams": False,
    "text/event-stream;q=x": True,
    "text/event-stream;q=nan": False,
    ";;,": False,
}


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_events_are_for_those_who_accept_them(served, accept):
    answer = await served().post("/execute", json={"asked": 1}, headers={"accept": accept})
    assert (answer.status_code, "event-stream" in answer.headers["content-type"]) == (200, ACCEPTS[accept])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")], {"a": float("nan")}], ids=repr)
def test_what_is_no_number_in_json_is_no_number_of_an_output(value):
    kind = {"float": "float", "list": "list[float]", "dict": "dict[str, float]"}[type(value).__name__]
    interface = interface_of(dspy.Predict(f"q -> a: {kind}"))
    with pytest.raises(Rejected, match="finite"):
        render_outputs(interface, {"a": value})
    with pytest.raises(Problem) as refused:
        parse_inputs(interface_of(dspy.Predict(f"q: {kind} -> a")), json.dumps({"q": value}).encode())
    assert refused.value.status == 422


GIVEN = {
    "a number": (1.5, "a is missing: the program returned float"),
    "nothing": (None, "a is missing: the program returned NoneType"),
    "fields that are no texts": (dspy.Example({1: 2}), "a is missing: the program returned Example with 1"),
    "other fields": (dspy.Prediction(foo=1, bar="Jane"), "a is missing: the program returned Prediction with foo, bar"),
}


@pytest.mark.parametrize("what", GIVEN)
def test_what_was_given_in_an_outputs_place_is_told_and_logged_without_its_values(what, caplog):
    given, said = GIVEN[what]
    with pytest.raises(Problem) as failed:
        render_outputs(interface_of(dspy.Predict("q -> a")), given)
    assert (failed.value.status, failed.value.detail) == (500, said)
    assert f"name=a returned={type(given).__name__}" in caplog.text
    assert "foo" not in caplog.text


async def test_feedback_that_is_not_offered_says_what_offers_it(served):
    refused = await served().post("/feedback", json={"prediction_id": "x", "label": "failure"})
    assert (refused.status_code, refused.json()["type"]) == (404, "urn:despina:problem:feedback-disabled")
    assert "spec.feedback: {}" in refused.json()["detail"]


async def test_an_mcp_client_may_send_as_much_as_any_other(served):
    small, large = served(limits=LimitsConfig(max_request_bytes=1000)), served(
        limits=LimitsConfig(max_request_bytes=2**23)
    )  # fmt: skip
    for size, client, status in ((2000, small, 413), (5 * 2**20, large, 200)):
        answers = [
            await client.post("/execute", json={"asked": "x" * size}),
            await mcp(client, "tools/call", name="p", arguments={"asked": "x" * size}),
        ]
        assert [a.status_code for a in answers] == [status, status]


async def test_an_error_of_a_programs_is_logged_by_its_kind_and_place(served, caplog):
    with caplog.at_level(logging.INFO):
        assert (await served().post("/execute", json={"asked": "raise this:\nJane Doe"})).status_code == 500
    assert "ValueError" in caplog.text
    assert f'{MODULE}.py", line' in caplog.text
    assert "Jane" not in caplog.text


async def test_a_program_that_asks_for_an_lm_where_none_is_listed_is_told_of_at_its_load_and_to_callers(served, caplog):
    client, lacks = served(), "the manifest lists no LM, and predict asks for one"
    assert lacks in caplog.messages
    refused = await client.post("/execute", json={"asked": "an LM"})
    assert (refused.status_code, refused.json()["type"]) == (500, "urn:despina:problem:program-error")
    assert refused.json()["detail"] == f"{lacks}: list one in spec.lms"


async def test_a_program_that_has_an_lm_of_its_own_needs_none_listed(served, caplog, monkeypatch):
    monkeypatch.setitem(compat.process_settings, "lm", dspy.utils.DummyLM([{"said": "hello"}]))
    client = served()
    assert (await client.post("/execute", json={"asked": "an LM"})).json() == {"said": "hello"}
    assert "lists no LM" not in caplog.text


async def test_a_session_that_cannot_be_read_is_a_session_that_is_not_known(tmp_path):
    sessions = Sessions(tmp_path, 60, None, ["main"])
    await sessions.put("mine", b'{"lm": "main"}')
    for damage in (b"\xff", b"[]", b'{"lm": 1}', b'{"of": "a later release"}', b""):
        sessions._node.put("session:mine", damage)
        assert await sessions.get("mine") == Variables()
    await sessions.put("mine", b'{"lm": "main"}')
    assert (await sessions.get("mine")).lm == "main"
    sessions.close()


async def test_variables_that_no_session_may_have_are_refused_as_such(tmp_path):
    sessions = Sessions(tmp_path, 60, None, ["main"])
    with pytest.raises(Problem) as caught:
        await sessions.put("mine", b'{"temperature": 9}')
    assert (caught.value.type, caught.value.title) == ("invalid-input", "A session cannot have these variables")
    assert caught.value.errors[0]["field"] == "temperature"
    sessions.close()


async def answered(scope, receive, send) -> None:
    """An application that reads all of the body, waits for `go` where the path says so, and answers."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.request":
        if scope["path"] == "/slow":
            await GO.wait()
        await send_body(send, 200, b"{}")


GO = asyncio.Event()


@contextlib.asynccontextmanager
async def listening(app, graceful_seconds: int):
    """The address of a server of this process."""
    async with running(make_server(app, graceful_seconds, arrival_seconds=graceful_seconds)) as address:
        yield address


@contextlib.asynccontextmanager
async def running(server):
    """Its address."""
    port = open_port("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[port]))
    await until("it listens", lambda: server.started)
    yield port.getsockname()
    server.should_exit = True
    await serving


async def until(what: str, check) -> None:
    await asyncio.to_thread(eventually, what, check, 20)


HEAD = b"POST /execute HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
WHOLE = HEAD + b"\r\n{}"


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /exe", HEAD, HEAD + b"\r\n", HEAD + b"\r\n{", WHOLE + HEAD + b"\r\n{"],
    ids=["nothing", "half a line", "half a head", "no body", "half a body", "half a second body"],
)
async def test_a_request_that_does_not_arrive_in_time_ends_its_connection(sent):
    async with listening(answered, 1) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        assert (await reader.read()).count(b"200 OK") == (WHOLE in sent)
        writer.close()


async def test_one_that_is_answered_slowly_and_one_that_is_kept_are_left_alone():
    GO.clear()
    async with listening(answered, 1) as address, asyncio.timeout(30):
        slow, kept, late = [await asyncio.open_connection(*address) for _ in range(3)]
        slow[1].write(WHOLE.replace(b"/execute", b"/slow"))
        kept[1].write(WHOLE)
        assert b"200 OK" in await kept[0].readuntil(b"{}")
        late[1].write(HEAD)
        await late[0].read()  # by now the others would have been ended, too
        GO.set()
        assert b"200 OK" in await slow[0].readuntil(b"{}")
        kept[1].write(WHOLE)
        assert b"200 OK" in await kept[0].readuntil(b"{}")
        for _, writer in (slow, kept, late):
            writer.close()


async def test_more_connections_than_there_may_be_are_refused(monkeypatch):
    monkeypatch.setattr("despina_runtime.http.server.MOST_CONNECTIONS", 3)
    async with listening(answered, 5) as address, asyncio.timeout(20):
        pairs = [await asyncio.open_connection(*address) for _ in range(4)]
        pairs[3][1].write(WHOLE)
        assert b" 503 " in await pairs[3][0].readline()
        for _, writer in pairs:
            writer.close()


LARGE_VALUE = b"x" * 2**20
ENDLESS = {
    "a header": b"GET / HTTP/1.1\r\nx-big: ",
    "a line": b"GET /",
    "a name": b"GET / HTTP/1.1\r\n",
    "a second head": WHOLE + b"GET / HTTP/1.1\r\nx-big: ",
    "a trailer": HEAD.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"\r\n2\r\n{}\r\n0\r\nx-big: ",
}


async def flood(writer: asyncio.StreamWriter) -> None:
    for _ in range(16):
        writer.write(LARGE_VALUE)
        await writer.drain()


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_head_that_does_not_end_is_read_no_further_than_it_may_be(what):
    async with listening(answered, 20) as address, asyncio.timeout(15):
        _, writer = await asyncio.open_connection(*address)
        writer.write(ENDLESS[what])
        with pytest.raises(ConnectionError):
            await flood(writer)


@pytest.mark.parametrize(("length", "status"), [(60_000, b" 200 "), (70_000, b" 431 ")])
@pytest.mark.parametrize("pieces", [1, 7])
async def test_a_head_may_be_64_kib_long_and_a_body_longer(length, status, pieces):
    head = HEAD.replace(b": 2", b": 200000") + b"x-big: " + b"x" * length + b"\r\n\r\n"
    async with listening(answered, 5) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        for start in range(0, len(head), 1 + len(head) // pieces):
            writer.write(head[start : start + 1 + len(head) // pieces])
            await asyncio.sleep(0.05)
        writer.write(b"x" * 200_000 if status == b" 200 " else b"")
        assert status in await reader.readline()
        writer.close()


async def test_where_many_bodies_come_slowly_the_one_that_began_first_gives_way(monkeypatch):
    monkeypatch.setattr(asgi, "_intake", lru_cache(lambda limit: Intake(2 * limit)))

    begun = []

    async def app(scope, receive, send) -> None:
        begun.append(scope)
        try:
            await read_body(receive, 1000)
            await send_body(send, 200, b"{}")
        except Problem as problem:
            await send_problem(send, problem)

    head = HEAD.replace(b": 2", b": 900") + b"\r\n"
    async with listening(app, 5) as address, asyncio.timeout(20):
        slow = [await asyncio.open_connection(*address) for _ in range(3)]
        for number, (_, writer) in enumerate(slow):
            writer.write(head + b"x" * 800)
            await until("it has begun", lambda number=number: len(begun) > number)
        for _, writer in slow:
            writer.write(b"x" * 100)
        assert [(await reader.readline()).split()[1] for reader, _ in slow] == [b"503", b"200", b"200"]
        for _, writer in slow:
            writer.close()


async def test_requests_that_are_sent_before_others_are_answered_are_not_gathered_without_end(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "GO", asyncio.Event())  # one of this test's event loop
    async with listening(answered, 5) as address, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(WHOLE.replace(b"/execute", b"/slow"))
        for _ in range(8):
            writer.write(WHOLE * 20_000)
            await writer.drain()
        GO.set()
        assert (await reader.read()).count(b"200 OK") == 1 + 64
        writer.close()


async def test_of_requests_that_were_answered_a_connection_keeps_none():
    server = make_server(answered, 5)
    async with running(server) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(WHOLE * 9)
        for _ in range(9):
            await reader.readuntil(b"{}")
        (connection,) = server.server_state.connections
        await until("they are free", lambda: not connection._earlier)
        writer.close()


async def test_what_cannot_be_parsed_is_no_answer_to_what_came_before():
    async with listening(answered, 5) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(WHOLE + WHOLE + b"what?\r\n\r\n")
        said = await reader.read()
        assert (said.count(b" 200 OK"), said.count(b" 400 ")) == (2, 0)
        writer.close()


MEDIUM = b"GET /medium HTTP/1.1\r\nx-small: " + b"y" * 9000 + b"\r\n\r\n"


@pytest.mark.parametrize("before", [[WHOLE], [WHOLE, MEDIUM]], ids=len)
@pytest.mark.parametrize(("length", "passes"), [(60_000, True), (66_000, False), (70_000, False), (150_000, False)])
async def test_a_head_may_be_no_longer_behind_another_request(before, length, passes):
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append(scope["path"])
        await answered(scope, receive, send)

    head = b"GET /long HTTP/1.1\r\nconnection: close\r\nx-big: " + b"x" * length + b"\r\n\r\n"
    async with listening(app, 5) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"".join(before) + head)
        with contextlib.suppress(ConnectionError):  # of a head that is not read to its end
            await reader.read()
        writer.close()
    assert seen == [*["/execute", "/medium"][: len(before)], *["/long"] * passes]


async def test_what_follows_a_body_is_no_header():
    seen = []

    async def app(scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append(scope["headers"])
        await send_body(send, 200, b"{}")

    chunked = HEAD.replace(b"content-length: 2", b"x-lm: set\r\ntransfer-encoding: chunked") + b"\r\n2\r\n{}\r\n"
    async with listening(app, 5) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(2):
            writer.write(chunked + b"0\r\nx-lm: mine\r\nauthorization: Bearer mine\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"{}")
        writer.close()
    assert seen == [[(b"host", b"x"), (b"x-lm", b"set"), (b"transfer-encoding", b"chunked")]] * 2


PIECES = 64


class Large:
    """An application whose answers, of 64 MiB or as events of 64 KiB, are larger than what the kernel takes."""

    def __init__(self) -> None:
        self.started, self.ended = 0, []

    async def __call__(self, scope, receive, send) -> None:
        self.started += 1
        while (message := await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = LARGE_VALUE if scope["path"] == "/large" else LARGE_VALUE[:65536]
        for _ in range(0 if scope["path"] == "/execute" else PIECES):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        if message["type"] == "http.request":
            message = await receive()
        self.ended.append(message["type"])


class Whole(Large):
    """One that writes all at once, so that only closing waits."""

    async def __call__(self, scope, receive, send) -> None:
        self.started += 1
        await send_body(send, 200, LARGE_VALUE * PIECES)
        self.ended.append((await receive())["type"])


def slow_reader(address) -> socket.socket:
    """One for whom the kernel keeps little."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    caller.connect(address)
    return caller


LARGE_GET = b"GET /large HTTP/1.1\r\nhost: x\r\n"
UNREAD = {
    "one": (Large, LARGE_GET + b"\r\n", b"", 1),
    "one of two": (Large, LARGE_GET + b"\r\n" + LARGE_GET + b"\r\n", b"", 1),
    "one that is behind another": (Large, WHOLE + LARGE_GET + b"\r\n" + WHOLE, b"", 2),
    "the last": (Whole, LARGE_GET + b"connection: close\r\n\r\n", b"", 1),
    "half a request behind it": (Whole, LARGE_GET + b"\r\n", HEAD, 1),
}


@pytest.mark.parametrize("what", UNREAD)
async def test_who_does_not_read_his_answer_holds_neither_connection_nor_request(what, capsys):
    make, sent, late, count = UNREAD[what]
    app = make()
    server = make_server(app, 5, arrival_seconds=1, reading_seconds=60 if late else 1)
    async with running(server) as address, asyncio.timeout(30):
        with slow_reader(address) as caller:
            caller.sendall(sent)
            await until("a request came", lambda: app.started)
            caller.sendall(late)
            await until("his connection was ended", lambda: not server.server_state.connections)
            await until("no request is left", lambda: not server.server_state.tasks)
    assert (app.started, app.ended) == (count, ["http.disconnect"] * count)
    assert not capsys.readouterr().err, "uvicorn's log"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_of_a_connection_that_is_closed_nothing_waits(loop):
    """It is looked at until the server has been told; what that look raises would end the server."""

    async def closed() -> int:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        transport = writer.transport
        writer.close()
        await writer.wait_closed()
        server.close()
        return waiting_bytes(transport)

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(closed()) == 0


@pytest.mark.parametrize(
    ("make", "length", "pause"),
    [(Large, PIECES * 65_536, 0.05), (Whole, PIECES * 2**20, 0.003)],
    ids=["while it grows", "when it is closed"],
)
async def test_who_reads_slowly_is_served_to_the_end(make, length, pause):
    app = make()
    async with running(make_server(app, 5, arrival_seconds=1, reading_seconds=1)) as address, asyncio.timeout(30):
        with slow_reader(address) as caller:
            caller.sendall(b"GET /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            caller.setblocking(False)
            size = 0
            while read := await asyncio.get_running_loop().sock_recv(caller, 65_536):
                size += len(read)
                await asyncio.sleep(pause)  # he is slow: it takes him longer than he may read nothing
            assert size > length
    assert app.ended == ["http.disconnect"]


INNER = b"GET /inner HTTP/1.1\r\nhost: x\r\n\r\n"
BODIES = {
    "of a length": (b"content-length: %d\r\n" % len(INNER), INNER),
    "in chunks": (b"transfer-encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)),
    "none": (b"", b""),
}


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "behind another"])
@pytest.mark.parametrize("is_apart", [False, True], ids=["at once", "apart"])
@pytest.mark.parametrize("kind", BODIES)
async def test_a_request_for_another_protocol_is_answered_and_its_body_is_no_request(kind, is_apart, before):
    asked = []

    async def told(scope, receive, send) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            body += (message := await receive())["body"]
        asked.append((scope["path"], body))
        await send_body(send, 200, b"{}")

    framing, body = BODIES[kind]
    head = b"POST /outer HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    async with listening(told, 5) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(before + head + framing + b"\r\n" + (b"" if is_apart else body))
        if is_apart:
            await asyncio.sleep(0.1)
            writer.write(body)
        answers = await reader.read()
        writer.close()
    assert asked[bool(before) :] == [("/outer", INNER if body else b"")]
    assert answers.count(b" 200 ") == len(asked)
    assert answers.count(b"connection: close") == 1


async def test_what_says_nowhere_where_its_body_ends_is_none_for_another_protocol_either():
    async with listening(answered, 5) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        upgrade = b"connection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: gzip\r\n\r\n"
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n" + upgrade + INNER)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_websocket_is_answered_like_any_other_get(served):
    client = served()
    upgrade = b"GET /execute HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    key = b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    async with listening(client._transport.app, 1) as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(upgrade + key)
        assert b" 405 " in await reader.readline()
        writer.close()
