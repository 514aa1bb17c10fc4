"""Calls of tools by name: where they go, what happens when an endpoint fails, and what is never done twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import httpx
import pytest
from aiohttp import web

from despina.wire import (
    CacheConfig,
    ContractConfig,
    ModelRef,
    RuntimeConfig,
    ToolBackend,
    ToolBreakerConfig,
    ToolConfig,
)
from despina_runtime.cache.store import Store
from despina_runtime.lm.meter import Meter
from despina_runtime.tools.errors import (
    ToolArgumentsInvalid,
    ToolFailed,
    ToolTimeout,
    ToolUnavailable,
    ToolUnknown,
)
from despina_runtime.tools.grid import Grid
from services import free_port
from tests.support.hosts import backend, contract_of, hosts, tool_config
from tests.support.world import ROOT, eventually

KEY = "ns/sample"


@pytest.fixture
async def call():
    """Calls a tool; gives the result."""
    grid = Grid()

    async def make(config: ToolConfig, seconds: float = 10, /, **arguments):
        return await grid.call(KEY, config, arguments, asyncio.get_running_loop().time() + seconds)

    yield make
    await grid.close()


@pytest.fixture
def start(tmp_path):
    with hosts(tmp_path) as starting:
        yield starting


def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


async def good(arguments):
    return web.json_response({"result": arguments["text"]})


async def cut(arguments):
    raise asyncio.CancelledError  # aiohttp closes the connection without an answer


def answering(status: int, body: object = None, **headers: str):
    async def answer(arguments):
        return web.json_response(body or {"title": "no"}, status=status, headers=headers)

    return answer


async def test_a_call_reaches_a_host(call, start):
    assert await call(tool_config("search", start().url), query="pie", top_k=1) == [{"text": "pie 0", "score": 1.0}]


async def test_large_integers_arrive_whole_and_come_back_whole_also_from_the_cache(tmp_path):
    anything = ContractConfig(name="echo", parameters={"type": "object"}, idempotent=True)
    model = ModelRef(name="m", version="1", tracking_uri="http://m")
    config = RuntimeConfig(namespace="ns", program="p", revision="r", model=model, cache=CacheConfig())
    grid, store = Grid(), Store(config, tmp_path, None)
    async with backend(good) as echo:
        tool = tool_config("echo", echo.url, contract=anything, cache_ttl_seconds=60)
        for _ in range(2):
            until = asyncio.get_running_loop().time() + 10
            assert await grid.call(KEY, tool, {"text": [10**30, -(2**64)]}, until, store) == [10**30, -(2**64)]
        assert echo.calls == 1
    await grid.close()
    await store.close()


async def test_what_does_not_fit_the_contract_is_not_sent(call):
    async with backend(good) as one:
        with pytest.raises(ToolArgumentsInvalid, match=r"top_k: \"x\" is not of type \"integer\""):
            await call(tool_config("search", one.url), query="pie", top_k="x")
        assert one.calls == 0


async def test_a_result_that_does_not_fit_the_contract_is_an_error(call):
    async with backend(answering(200, {"result": 7})) as one:
        with pytest.raises(ToolFailed, match="does not fit the contract"):
            await call(tool_config("echo", one.url), text="x")


@pytest.mark.parametrize("reference", ["file:///etc/passwd", "http://127.0.0.1:1/schema.json", "#/$defs/None"])
async def test_a_contract_that_refers_elsewhere_is_not_followed(call, reference):
    async with backend(good) as one:
        contract = contract_of("echo", parameters={"type": "object", "properties": {"text": {"$ref": reference}}})
        with pytest.raises(ToolUnavailable, match="its contract cannot be used"):
            await call(tool_config("echo", one.url, contract=contract), text="x")
        assert one.calls == 0


async def test_a_tool_that_is_not_there_is_named(call):
    with pytest.raises(ToolUnknown, match="there is no DSPyTool"):
        await call(ToolConfig(missing="there is no DSPyTool ns/x"), text="x")


@pytest.mark.parametrize("idempotent", [True, False])
async def test_nobody_listens_so_another_endpoint_gets_the_call(call, start, idempotent):
    host = start()
    config = tool_config("echo", nowhere(), host.url, contract=contract_of("echo", idempotent=idempotent))
    for n in range(6):
        assert await call(config, text=str(n)) == str(n)
    assert host.executed() == [f"echo {n}" for n in range(6)]


async def test_a_connection_that_breaks_is_a_reason_to_try_elsewhere_only_for_an_idempotent_tool(call):
    async with backend(cut) as broken, backend(good) as fine:
        first = {
            "backends": tuple(
                ToolBackend(name=n, url=u.url, tool="echo", priority=p)
                for n, u, p in (("a", broken, 0), ("b", fine, 1))
            )
        }
        assert await call(tool_config("echo", **first), text="x") == "x"
        once = tool_config("echo", contract=contract_of("echo", idempotent=False), **first)
        with pytest.raises(ToolUnavailable):
            await call(once, text="x")
        assert (broken.calls, fine.calls) == (2, 1)


@pytest.mark.parametrize("idempotent", [True, False])
async def test_kept_connections_that_broke_are_no_attempts(call, idempotent):
    """As when several pods were replaced since the last call: more than `maxAttempts` of them."""

    async def once(arguments):
        return await (good if arguments["text"] == "first" else cut)(arguments)

    async with backend(once) as one, backend(once) as two, backend(once) as three, backend(good) as fine:
        contract = contract_of("echo", idempotent=idempotent)
        urls = (b.url for b in (one, two, three, fine))
        config = tool_config("echo", *urls, contract=contract, policy="RoundRobin")
        for _ in range(3):
            await call(config, text="first")
        config = config.model_copy(update={"policy": "Priority"})
        for b in (one, two, three):
            assert b.calls == 1
        if idempotent:
            assert await call(config, text="second") == "second"
            assert await call(config, text="second") == "second"
        else:
            await call(config, text="second")
            with pytest.raises(ToolUnavailable):
                await call(config, text="second")
        assert sum(b.calls for b in (one, two, three)) == (6 if idempotent else 4)


@pytest.mark.parametrize(
    ("answer", "retry_on", "error"),
    [
        (answering(500), ("Status5xx",), ToolFailed),
        (answering(429), ("Status429",), ToolUnavailable),
    ],
)
async def test_other_failures_are_tried_elsewhere_where_the_manifest_says_so(call, answer, retry_on, error):
    async with backend(answer) as failing, backend(good) as fine:
        both = tuple(
            ToolBackend(name=n, url=u.url, tool="echo", priority=p) for n, u, p in (("a", failing, 0), ("b", fine, 1))
        )
        with pytest.raises(error):
            await call(tool_config("echo", backends=both), text="x")
        config = tool_config("echo", backends=both, retry_on=retry_on)
        assert await call(config, text="x") == "x"


async def test_a_time_out_is_one_attempts_and_the_deadline_is_the_calls(call):
    async def hang(arguments):
        await asyncio.sleep(30)

    async with backend(hang) as slow, backend(good) as fine:
        both = tuple(
            ToolBackend(name=n, url=u.url, tool="echo", priority=p) for n, u, p in (("a", slow, 0), ("b", fine, 1))
        )
        config = tool_config("echo", backends=both, timeout_seconds=1, retry_on=("Timeout",))
        assert await call(config, text="x") == "x"
        began = time.monotonic()
        with pytest.raises(ToolTimeout):
            await call(config, 0.3, text="x")
        assert time.monotonic() - began < 3


async def test_the_deadline_and_the_trace_are_passed_on(call):
    async with backend(good) as one:
        grid = Grid()
        deadline = asyncio.get_running_loop().time() + 3
        trace = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
        await grid.call(KEY, tool_config("echo", one.url), {"text": "x"}, deadline, meter=Meter(deadline, trace=trace))
        await grid.close()
        assert one.headers["traceparent"] == trace[0][1]
        assert 2 < float(one.headers["despina-deadline-seconds"]) <= 3


async def test_a_refusal_is_no_attempt(call):
    """Three hosts that do nothing (drained, mismatched, without credentials), and a fourth that does."""
    refusing = answering(503, {"title": "not ready"}, **{"despina-executed": "no"})
    async with backend(refusing) as a, backend(refusing) as b, backend(answering(401)) as c, backend(good) as d:
        config = tool_config("echo", a.url, b.url, c.url, d.url, contract=contract_of("echo", idempotent=False))
        for _ in range(4):
            assert await call(config, text="x") == "x"


async def test_an_endpoint_that_fails_is_left_alone_for_a_while_and_tried_again(call):
    healthy = asyncio.Event()

    async def answer(arguments):
        return await (good(arguments) if healthy.is_set() else answering(500)(arguments))

    async with backend(answer) as flaky, backend(good) as fine:
        breaker = ToolBreakerConfig(
            consecutive_failures=3, error_rate_percent=101, open_seconds=1, half_open_requests=1
        )
        config = tool_config("echo", flaky.url, fine.url, breaker=breaker, retry_on=("Status5xx",), policy="RoundRobin")
        for n in range(20):
            assert await call(config, text=str(n)) == str(n)
        assert flaky.calls == 3
        healthy.set()
        deadline = time.monotonic() + 10
        while flaky.calls < 5:
            await call(config, text="again")
            assert time.monotonic() < deadline


async def test_a_slow_endpoint_is_used_less_and_is_not_down(call):
    async def slow(arguments):
        await asyncio.sleep(1)
        return await good(arguments)

    async with backend(slow) as one, backend(good) as fine:
        config = tool_config("echo", one.url, fine.url)
        until = time.monotonic() + 3

        async def caller():
            while time.monotonic() < until:
                assert await call(config, text="x") == "x"

        await asyncio.gather(*(caller() for _ in range(4)))
        assert 1 <= one.calls < fine.calls / 10


async def test_an_endpoint_that_is_marked_slow_gets_a_call_only_when_no_other_is_left(call):
    async def slow(arguments):
        await asyncio.sleep(0.2)
        return await good(arguments)

    async with backend(slow) as one, backend(good) as fine:
        breaker = ToolBreakerConfig(consecutive_failures=5, slow_call_millis=100)
        config = tool_config("echo", one.url, fine.url, breaker=breaker, policy="RoundRobin")
        for _ in range(10):
            await call(config, text="x")
        assert (one.calls, fine.calls) == (1, 9)
        alone = tool_config("echo", one.url, breaker=breaker)
        assert await call(alone, text="x") == "x"


async def test_an_endpoint_that_asks_for_a_pause_gets_it(call):
    limited = []

    async def answer(arguments):
        limited.append(time.monotonic())
        return await (answering(429, None, **{"retry-after": "1"}) if len(limited) == 1 else good)(arguments)

    async with backend(answer) as one, backend(good) as fine:
        config = tool_config("echo", one.url, fine.url, retry_on=("Status429",), policy="RoundRobin")
        for _ in range(10):
            assert await call(config, text="x") == "x"
        assert (one.calls, fine.calls) == (1, 10)
        alone = tool_config("echo", one.url, retry_on=("Status429",))
        assert await call(alone, text="x") == "x"
        assert limited[1] - limited[0] >= 1


async def test_no_more_calls_than_allowed_are_under_way_at_an_endpoint_and_the_others_wait(call):
    under_way, most = 0, 0

    async def answer(arguments):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return await good(arguments)

    async with backend(answer) as one:
        config = tool_config("echo", one.url, max_in_flight=3, queue_timeout_seconds=5)
        assert await asyncio.gather(*(call(config, text=str(n)) for n in range(20))) == [str(n) for n in range(20)]
        assert most == 3
        impatient = tool_config("echo", one.url, max_in_flight=1, queue_timeout_seconds=0)
        found = await asyncio.gather(*(call(impatient, text="x") for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(f, ToolUnavailable) for f in found) == 2


async def test_an_excluded_backend_is_not_called(call):
    async with backend(good) as one:
        excluded = ToolBackend(name="a", url=one.url, tool="echo", excluded="parameters.text is missing at the backend")
        with pytest.raises(ToolUnavailable, match=r"parameters\.text is missing"):
            await call(tool_config("echo", backends=(excluded,)), text="x")
        assert one.calls == 0


async def test_the_configuration_may_change_while_calls_are_under_way(call):
    async with backend(good) as one, backend(good) as two:
        assert await call(tool_config("echo", one.url), text="x") == "x"
        assert await call(tool_config("echo", two.url), text="x") == "x"
        assert (one.calls, two.calls) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_host_that_is_killed_under_traffic(call, start, number, idempotent):
    """For an idempotent tool no call fails; for any other, none is executed twice. One that drains is left alone."""
    victim, other = start(), start()
    config = tool_config("book", victim.url, other.url, contract=contract_of("book", idempotent=idempotent))
    failed, until = [], time.monotonic() + 4
    sent = 0

    async def caller(name: str):
        nonlocal sent
        while time.monotonic() < until:
            sent += 1
            try:
                await call(config, order=f"{name}-{sent}")
            except ToolUnavailable as exc:
                failed.append(str(exc))
            await asyncio.sleep(0.05)

    callers = [asyncio.create_task(caller(f"c{n}")) for n in range(8)]
    await asyncio.sleep(1)  # of traffic, before
    before = len(victim.executed())
    await asyncio.to_thread(victim.stop, number)
    await asyncio.gather(*callers)
    assert len(victim.executed()) - before <= 2 * len(callers)
    executed = victim.executed() + other.executed()
    print(f"signal={number.name} idempotent={idempotent} sent={sent} failed={len(failed)} executed={len(executed)}")
    assert sent > 300
    if idempotent or number is signal.SIGTERM:
        assert not failed
    if not idempotent:
        assert len(set(executed)) == len(executed) <= sent


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_an_mcp_server_is_a_backend(call, tmp_path, transport):
    port = free_port()
    command = [sys.executable, str(ROOT / "tests" / "support" / "mcp_example.py"), str(port), transport]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - a moment
    try:
        path = "mcp" if transport == "streamable-http" else "sse"
        await asyncio.to_thread(eventually, "the server", lambda: _listens(port), 30)
        kind = "StreamableHTTP" if path == "mcp" else "SSE"
        url = f"http://127.0.0.1:{port}/{path}"
        there = ToolBackend(name="there", kind="Mcp", url=url, tool="add", transport=kind)
        numbers = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
        contract = ContractConfig(name="add", parameters=numbers, returns={"type": "integer"}, idempotent=True)
        config = ToolConfig(contract=contract, backends=(there,))
        assert await asyncio.gather(*(call(config, a=n, b=1) for n in range(20))) == list(range(1, 21))
        process.kill()
        process.wait()
        with pytest.raises(ToolUnavailable):
            await call(config, a=1, b=1)
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=2)
    except httpx.TransportError:
        return False
    return True


async def test_a_call_that_finds_nobody_where_it_looks_goes_to_the_tools_service(call):
    """As while names still stand for pods that are gone."""
    async with backend(good) as one:
        service = ToolBackend(name="service", url=one.url, tool="echo")
        for idempotent in (True, False):
            contract = contract_of("echo", idempotent=idempotent)
            config = tool_config("echo", nowhere(), nowhere(), nowhere(), contract=contract, service=service)
            for n in range(5):
                assert await call(config, text=str(n)) == str(n)
        assert one.calls == 10
        assert one.headers["connection"] == "close"


async def test_a_call_that_lost_time_at_a_dead_endpoint_still_waits_for_the_next_pod(call):
    """Its patience begins when it first finds nobody, not when it began."""
    broke, port = asyncio.Event(), free_port()

    async def die(arguments):
        await asyncio.sleep(2.5)
        broke.set()
        raise asyncio.CancelledError

    service = ToolBackend(name="service", url=f"http://127.0.0.1:{port}", tool="echo")
    async with backend(die) as dying:
        config = tool_config("echo", dying.url, nowhere(), service=service, queue_timeout_seconds=2)
        waiting = asyncio.create_task(call(config, 20, text="patient"))
        await broke.wait()
        await asyncio.sleep(0.5)  # a while in which nobody listens
        async with backend(good, port):
            assert await waiting == "patient"


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_call_waits_while_the_tools_only_pod_is_replaced(call, start, idempotent):
    port = free_port()
    service = ToolBackend(name="service", url=f"http://127.0.0.1:{port}", tool="echo")
    contract = contract_of("echo", idempotent=idempotent)
    config = tool_config("echo", service.url, contract=contract, service=service, queue_timeout_seconds=10)
    waiting = asyncio.create_task(call(config, 20, text="patient"))
    host = await asyncio.to_thread(start, port=port)
    assert await waiting == "patient"
    assert host.executed() == ["echo patient"]
    began = time.monotonic()
    with pytest.raises(ToolUnavailable):
        await call(
            tool_config(
                "echo", nowhere(), service=service.model_copy(update={"url": nowhere()}), queue_timeout_seconds=1
            ),
            text="x",
        )
    assert time.monotonic() - began < 5
