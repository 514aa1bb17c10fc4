"""Programs that are right and unusual: other event loops, other results, exits, groups, tools at the very end."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

import dspy
import httpx
import pytest
from dspy.utils.exceptions import LMInvalidRequestError

from despina.wire import CacheConfig, LMConfig, ModelRef, ProgramBreakerConfig, RuntimeConfig, ToolUse
from despina_runtime import compat, execute_tool
from despina_runtime.engine import Engine, try_out
from despina_runtime.lm.client import OutOfReach
from despina_runtime.lm.openai_compatible import CompatibleClient, Completion
from despina_runtime.program import served
from despina_runtime.program.interface import interface_of
from despina_runtime.program.load import Loaded
from despina_runtime.tools import api

STREAM = {"accept": "text/event-stream"}


class Sort(dspy.Signature):
    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()


class Sorting(dspy.Module):
    signature = Sort

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)
        self.tool = dspy.Tool(lambda ticket: ticket, name="look_up")

    def forward(self, ticket):
        return self.sort(ticket=ticket)


class Awaiting(dspy.Module):
    signature = Sort

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)
        self.tool = dspy.Tool(lambda ticket: ticket, name="look_up")

    async def aforward(self, ticket):
        return await self.sort.acall(ticket=ticket)


class Answers:
    """What stands in the LM client's place: it belongs to one event loop, as connections do."""

    def __init__(self) -> None:
        self.loops, self.fails, self.messages = set(), None, []
        self.text = "[[ ## category ## ]]\nbilling\n\n[[ ## completed ## ]]"

    async def complete(self, client, messages, params, key, emit):
        self.messages.append(messages)
        self.loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0.001)
        if self.fails:
            raise self.fails
        for word in self.text.split(" ") if emit else ():
            await emit(f"{word} ")
        return Completion([self.text], {})


@pytest.fixture
def lm(monkeypatch) -> Answers:
    answers = Answers()

    async def complete(client, messages, params, key, emit):
        return await answers.complete(client, messages, params, key, emit)

    monkeypatch.setattr(CompatibleClient, "complete", complete)
    return answers


@pytest.fixture
async def serving(tmp_path, lm):
    """A program as one worker serves it, after its warm-up; asked without a network."""
    engines = []

    async def serve(program: dspy.Module, **changes) -> httpx.AsyncClient:
        main = LMConfig(name="main", model="openai/x", base_url="http://nowhere", retries=0)
        model = ModelRef(name="p", version="1", tracking_uri="http://localhost:1")
        base = {"lms": (main,), "lm": "main", "request_timeout_seconds": 5}
        config = RuntimeConfig(namespace="ns", program="p", revision="r", model=model, **{**base, **changes})
        loaded = await try_out(Loaded(program, interface_of(program)), config)
        engines.append(Engine(loaded, config, tmp_path / f"cache-{len(engines)}"))
        await engines[-1].start()
        transport = httpx.ASGITransport(engines[-1], raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
        client.engine = engines[-1]
        return client

    yield serve
    for engine in engines:
        await engine.stop()


async def ask(client, ticket="a card", **headers) -> httpx.Response:
    return await client.post("/execute", json={"ticket": ticket}, headers=headers)


def events(answer) -> list[str]:
    return [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]


class Runs(Sorting):
    """`asyncio.run` where there is no loop."""

    def __init__(self):
        super().__init__()
        self.inner = Awaiting()

    def forward(self, ticket):
        return asyncio.run(self.inner.acall(ticket=ticket))


class Synced(Sorting):
    def __init__(self):
        super().__init__()
        self.inner = dspy.syncify(Awaiting(), in_place=False)

    def forward(self, ticket):
        return self.inner(ticket=ticket)


@pytest.mark.parametrize("kind", [Runs, Synced])
async def test_lms_are_asked_on_the_loop_that_serves_wherever_they_are_awaited(serving, lm, kind):
    client = await serving(kind())
    for n in range(3):
        assert (await ask(client, f"{n}")).json() == {"category": "billing"}
    answers = await asyncio.gather(*(ask(client, f"c{n}") for n in range(8)))
    assert [a.status_code for a in answers] == [200] * 8
    assert lm.loops == {asyncio.get_running_loop()}


async def test_tools_too(monkeypatch):
    loops = []

    async def call(self, name, arguments):
        loops.append(asyncio.get_running_loop())
        return name

    monkeypatch.setattr(api.Toolbox, "call", call)
    toolbox = api.make_toolbox(
        RuntimeConfig(
            namespace="ns", program="p", revision="r", model=ModelRef(name="m", version="1", tracking_uri="http://m")
        )
    )
    toolbox.serve(None, None)
    meter = served_meter()
    with dspy.context(toolbox=toolbox, meter=meter):
        found = await asyncio.to_thread(lambda: asyncio.run(_awaited("book")))
    assert (found, loops) == ("book", [asyncio.get_running_loop()])


def served_meter():
    from despina_runtime.lm.meter import Meter

    return Meter(asyncio.get_running_loop().time() + 5)


async def _awaited(name):
    return await execute_tool(name)


class GivesDict(Sorting):
    def forward(self, ticket):
        return {"category": self.sort(ticket=ticket).category}


class GivesExample(Awaiting):
    async def aforward(self, ticket):
        return dspy.Example(category=(await self.sort.acall(ticket=ticket)).category)


@pytest.mark.parametrize("kind", [GivesDict, GivesExample])
async def test_what_is_no_prediction_is_streamed_too(serving, kind):
    client = await serving(kind())
    assert (await ask(client)).json() == {"category": "billing"}
    told = events(await ask(client, "another", **STREAM))
    assert (told[0], told[-2:]) == ("delta", ["result", "done"])


class ToolLast(Awaiting):
    async def aforward(self, ticket):
        found = await self.sort.acall(ticket=ticket)
        await self.tool.acall(ticket=ticket)
        return found


class ToolFirst(Awaiting):
    async def aforward(self, ticket):
        return await self.sort.acall(ticket=await self.tool.acall(ticket=ticket))


class ToolInThread(Sorting):
    def forward(self, ticket):
        found = self.sort(ticket=ticket)
        self.tool(ticket=ticket)
        return found


@pytest.mark.parametrize("kind", [ToolLast, ToolFirst, ToolInThread])
async def test_every_tool_is_told_of_also_where_nothing_is_waited_for_after_it(serving, kind):
    client = await serving(kind(), cache=CacheConfig(scope="LM", process_entries=10))
    for _ in range(2):  # the second time the LM's answer is there at once
        told = events(await ask(client, **STREAM))
        assert (told.count("status"), told[-2:]) == (2, ["result", "done"])


class Slow(Awaiting):
    async def aforward(self, ticket):
        await asyncio.sleep(0.2)
        return await self.sort.acall(ticket=ticket)


async def test_a_stream_that_waits_is_kept_open_by_comments(serving, monkeypatch):
    monkeypatch.setattr("despina_runtime.http.asgi.PING_SECONDS", 0.02)
    answer = await ask(await serving(Slow()), **STREAM)
    assert answer.text.startswith(": ping\n\n")
    assert events(answer)[-2:] == ["result", "done"]


def leave(_):
    sys.exit("done")


async def cancel(_):
    raise asyncio.CancelledError


def stop(_):
    raise StopIteration


def late(_):
    raise TimeoutError("of its own")


class Raising(Sorting):
    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, ticket):
        return self.sort(ticket=ticket) if ticket == "fine" else self.way(ticket)


class RaisingAsync(Awaiting):
    def __init__(self, way):
        super().__init__()
        self.way = way

    async def aforward(self, ticket):
        if ticket == "fine":
            return await self.sort.acall(ticket=ticket)
        found = self.way(ticket)
        return await found if asyncio.iscoroutine(found) else found


WAYS = {
    "exit in a thread": lambda: Raising(leave),
    "exit on the loop": lambda: RaisingAsync(leave),
    "cancellation": lambda: RaisingAsync(cancel),
    "StopIteration in a thread": lambda: Raising(stop),
    "a time-out of its own in a thread": lambda: Raising(late),
    "a time-out of its own on the loop": lambda: RaisingAsync(late),
}


@pytest.mark.parametrize("cache", [None, CacheConfig(scope="Both", process_entries=10)], ids=["plain", "cached"])
@pytest.mark.parametrize("headers", [{}, STREAM], ids=["whole", "streamed"])
@pytest.mark.parametrize("way", WAYS)
async def test_however_a_program_ends_its_worker_goes_on(serving, way, headers, cache):
    client = await serving(WAYS[way](), cache=cache)
    began = time.monotonic()
    answer = await ask(client, "wrong", **headers)
    assert time.monotonic() - began < 4  # its deadline comes later
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:despina:problem:program-error")
    assert (await ask(client, "fine")).status_code == 200
    batch = await client.post("/execute/batch", json={"inputs": [{"ticket": "wrong"}, {"ticket": "fine"}]})
    assert [next(iter(item)) for item in batch.json()["results"]] == ["problem", "outputs"]


class Grouped(Awaiting):
    async def aforward(self, ticket):
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self.sort.acall(ticket=f"{ticket} {n}")) for n in range(2)]
        return asked[0].result()


class Parallel(Sorting):
    def forward(self, ticket):
        parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        return parallel([(self.sort, {"ticket": f"{ticket} {n}"}) for n in range(2)])[0]


@pytest.mark.parametrize("kind", [Grouped, Parallel])
async def test_what_an_lm_refuses_several_times_at_once_is_the_callers_mistake(serving, lm, kind):
    client = await serving(kind(), breaker=ProgramBreakerConfig(min_requests=3))
    lm.fails = LMInvalidRequestError("status 400", status=400)
    answers = [await ask(client, f"{n}") for n in range(5)]
    assert {(a.status_code, a.json()["type"]) for a in answers} == {(422, "urn:despina:problem:lm-refused")}
    report = client.engine.current.corridors.tally.report()
    assert (report.program, report.caller) == (0, 5)


class OwnThread(Awaiting):
    async def aforward(self, ticket):
        loop = asyncio.get_running_loop()
        return await self.sort.acall(ticket=await loop.run_in_executor(None, lambda: execute_tool("book")))


async def test_threads_of_a_programs_own_have_no_tools_where_requests_are_served(serving, monkeypatch):
    monkeypatch.setattr(api, "OUTSIDE", [])
    api.serve_requests_only()
    with pytest.raises(Exception, match=r"no .* tools|LMs and tools are known only where") as refused:
        await serving(OwnThread(), tools=(ToolUse(name="book", tool="ns/book"),))
    assert isinstance(refused.value.__cause__, OutOfReach)


def test_the_manifests_lm_is_configured_by_nobody(monkeypatch):
    monkeypatch.setattr(served, "_the_manifests", {"lm", "adapter"})
    monkeypatch.setattr(compat, "process_settings", found := {"lm": "the manifest's"})
    served._configure(None, lm="another", track_usage=True)
    assert found == {"lm": "the manifest's", "track_usage": True}


async def test_a_candidate_is_not_refused_for_what_others_do_on_the_loop(serving, monkeypatch):
    monkeypatch.setattr("despina_runtime.program.warmup.PATIENCE_SECONDS", 0.05)

    class InThread(Awaiting):
        async def aforward(self, ticket):
            began.set()
            return await asyncio.to_thread(self.sort, ticket=ticket)

    began = asyncio.Event()

    async def another_request():
        await began.wait()
        for _ in range(10):
            time.sleep(0.2)  # what blocks, and lets go only for a moment  # noqa: ASYNC251
            await asyncio.sleep(0)

    busy = asyncio.create_task(another_request())
    client = await serving(InThread())
    busy.cancel()
    assert (await ask(client)).status_code == 200


async def test_callers_who_do_not_read_hold_up_nobody_else(serving, lm):
    """Neither the LM's breaker nor the program's knows of them."""
    client = await serving(Awaiting(), breaker=ProgramBreakerConfig(min_requests=1), request_timeout_seconds=1)
    never = asyncio.Event()

    async def send(message):
        if message["type"] == "http.response.body":
            await never.wait()

    asked = iter([{"type": "http.request", "body": json.dumps({"ticket": "x"}).encode(), "more_body": False}])

    async def receive():
        return next(asked, None) or await asyncio.Event().wait()

    scope = {
        "type": "http", "method": "POST", "path": "/execute", "headers": [(b"accept", b"text/event-stream")],
    }  # fmt: skip
    await client.engine(scope, receive, send)
    assert (await ask(client)).status_code == 200
    report = client.engine.current.corridors.tally.report()
    assert (report.program, report.upstream, report.timeout) == (0, 0, 0)


async def test_an_lm_of_the_programs_own_where_modules_are_pinned_to_different_ones(lm):
    from despina_runtime.lm.adapters import EachItsOwn

    class Own(dspy.BaseLM):
        def __call__(self, prompt=None, *, messages=None, **kwargs):
            return ["[[ ## category ## ]]\nbilling\n\n[[ ## completed ## ]]"]

    with dspy.context(lm=Own(model="own", cache=False), adapter=EachItsOwn(), meter=served_meter()):
        assert (await asyncio.to_thread(dspy.Predict(Sort), ticket="t")).category == "billing"


HOSTILE = {
    "brackets in strings": '{"' * 8000,
    "brackets": "[" * 20000,
    "brackets that DSPy looks for": "{a" * 20000,
    "quotes": "['" * 8000,
    "half of a character": '["\\ud83d"]',
    "a list that is too deep": "[" * 3000,
    "a long list of Python's": f"[{'[],' * 350_000}]",
}


class Listing(dspy.Signature):
    ticket: str = dspy.InputField()
    found: list[str] = dspy.OutputField()


class ListsTwice(dspy.Module):
    signature = Listing

    def __init__(self):
        super().__init__()
        self.first, self.second = dspy.Predict(Listing), dspy.Predict(Listing)

    async def aforward(self, ticket):
        found = await self.first.acall(ticket=ticket)
        return await self.second.acall(ticket=f"{ticket} {found.found}")


@pytest.mark.parametrize("adapter", ["Chat", "JSON"])
@pytest.mark.parametrize("words", HOSTILE)
async def test_no_answer_of_an_lm_stops_the_worker_or_opens_its_breaker(serving, lm, words, adapter):
    lms = (LMConfig(name="main", model="openai/x", base_url="http://nowhere", retries=0, adapter=adapter),)
    client = await serving(ListsTwice(), lms=lms, breaker=ProgramBreakerConfig(min_requests=3))
    text = HOSTILE[words]
    lm.text = f"[[ ## found ## ]]\n{text}\n" if adapter == "Chat" else '{"found": ' + text
    stood = await longest_pause(ask(client, "x"))
    assert stood < 3  # a worker that stands for eight seconds is killed
    for n in range(5):
        assert (await ask(client, f"{n}")).status_code in (200, 502)
    assert client.engine.current.corridors.guard.report().state == "Closed"


async def longest_pause(work) -> float:
    """How long the event loop stood still meanwhile, in seconds."""
    pauses, ends = [], asyncio.ensure_future(work)
    while not ends.done():
        before = time.monotonic()
        await asyncio.sleep(0)
        pauses.append(time.monotonic() - before)
    return max(pauses)


def test_what_is_long_and_valid_is_read_also_in_a_fence():
    from despina_runtime.lm.loosely import loads

    value = {"items": [{"name": "n" * 40, "of": [n]} for n in range(200)]}
    text = json.dumps(value)
    assert loads(text) == value
    assert loads(f"Here it is:\n```json\n{text}\n```") == value
    assert loads("{'a': 1,}") == {"a": 1}


@pytest.mark.parametrize(("words", "found"), [("['a', 'b']", ["a", "b"]), (f"[{'1,' * 1500}]", [1] * 1500)])
def test_a_value_of_pythons_is_read(words, found):
    from dspy.adapters.utils import parse_value

    assert parse_value(words, list) == found


async def test_a_callers_text_is_text_whatever_it_says(serving, lm, monkeypatch):
    """DSPy makes parts of a message of what stands between certain marks."""
    monkeypatch.setattr(api, "OUTSIDE", [*api.OUTSIDE])
    served_before = compat.MARKS
    compat.mark_types_by("nobody knows")
    try:
        client = await serving(Awaiting())
        part = '[{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]'
        assert (await ask(client, f"{served_before[0]}{part}{served_before[1]}")).status_code == 200
        assert all(isinstance(message["content"], str) for message in lm.messages[-1])
        assert part in lm.messages[-1][-1]["content"]
    finally:
        for module in (compat.base_type, compat._legacy_type_markers):
            module.CUSTOM_TYPE_START_IDENTIFIER, module.CUSTOM_TYPE_END_IDENTIFIER = served_before


def test_demonstrations_with_images_are_read_with_the_marks_of_their_process():
    compat.mark_types_by("nobody knows")
    try:
        assert compat.with_own_marks("a " + "b".join(compat.MARKS)) == "a <<nobody knows>>b<</nobody knows>>"
    finally:
        for module in (compat.base_type, compat._legacy_type_markers):
            module.CUSTOM_TYPE_START_IDENTIFIER, module.CUSTOM_TYPE_END_IDENTIFIER = compat.MARKS


class Lingering(Awaiting):
    """It does not end when it is told to, before it is let go."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    async def aforward(self, ticket):
        if ticket == "linger":
            await self.way()
        return await self.sort.acall(ticket=ticket)


@pytest.mark.parametrize("headers", [{}, STREAM], ids=["whole", "streamed"])
@pytest.mark.parametrize("how", ["a coroutine that is not cancelled", "a thread"])
async def test_what_goes_on_after_its_deadline_holds_its_slot(serving, how, headers):
    free = threading.Event()

    async def swallow():
        while not free.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    async def thread():
        await asyncio.to_thread(free.wait)

    program = Lingering(swallow if "coroutine" in how else thread)
    client = await serving(program, max_concurrency=1, request_timeout_seconds=1)
    try:
        began = time.monotonic()
        titles = [(await ask(client, ticket, **headers)).json()["title"] for ticket in ("linger", "fine")]
        assert titles == ["The program took too long", "The program is too busy"]
        assert time.monotonic() - began < 4
    finally:
        free.set()
    while (await ask(client, "fine")).status_code != 200:
        assert time.monotonic() - began < 20


async def test_a_version_is_loaded_though_all_of_the_programs_threads_are_busy(serving):
    """Loading has threads of its own."""
    client, free = await serving(Awaiting()), threading.Event()
    engine = client.engine
    busy = [asyncio.create_task(asyncio.to_thread(free.wait)) for _ in range(engine._capacity.threads._max_workers)]
    try:
        loading = asyncio.get_running_loop().run_in_executor(engine._loader, lambda: "loaded")
        assert await asyncio.wait_for(loading, 5) == "loaded"
    finally:
        free.set()
        await asyncio.gather(*busy)


async def test_errors_that_nobody_takes_are_told_by_their_kind(caplog):
    """A program may begin a task or a thread and forget it."""
    from despina_runtime.process import worker

    words = "My card was charged twice"

    def raising():
        raise ValueError(words)

    async def forgotten():
        raising()

    loop = asyncio.get_running_loop()
    try:
        forgotten_task = asyncio.create_task(forgotten())
        await asyncio.wait([forgotten_task])
        worker._tell_the_kind(loop, {"message": "never retrieved", "exception": forgotten_task.exception()})
        before, threading.excepthook = threading.excepthook, worker._tell_the_threads_kind
        thread = threading.Thread(target=raising)
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
    assert caplog.text.count("error=ValueError") == 2
    assert words not in caplog.text
