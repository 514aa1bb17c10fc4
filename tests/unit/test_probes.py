"""Looks at tools' backends, round after round, whatever their addresses lead to."""

from __future__ import annotations

import asyncio
import contextlib
import gzip

import httpx
import pytest

from despina.sources.probes import Probes, Target
from despina.wire import HostReport, OfferedTool

KEY = ("ns", "search")
OFFER = OfferedTool(parameters={"type": "object"}, returns={})
GOOD = httpx.Response(200, content=HostReport(tools={"search": OFFER}).model_dump_json())


@pytest.fixture
async def probes():
    """Answers are taken from a list, the last one for ever; an exception is raised."""
    answers: list[httpx.Response | Exception] = []
    woken = asyncio.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found.status_code, content=found.content)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    made = Probes(client, lambda _: woken.set())
    yield made, answers, woken
    await made.close()


async def look_until(probes, condition, *urls: str):
    made, _, woken = probes
    made.watch(KEY, (Target("one", "search", "Http", urls or ("http://tool",)),), 0.01, 5)
    async with asyncio.timeout(10):
        while not ((look := made.looks(KEY).get("one")) and condition(look)):
            woken.clear()
            await woken.wait()
    return look


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (httpx.ConnectError("secret"), "GET /tools failed: ConnectError"),
        (httpx.InvalidURL("secret"), "the look failed: InvalidURL"),
        (RuntimeError("secret"), "the look failed: RuntimeError"),
        (httpx.Response(200, content=b" " * 2**21), "GET /tools gave more than 1 MiB"),
        (httpx.Response(500), "GET /tools was answered with status 500"),
        (httpx.Response(200, content=b"[]"), "GET /tools gave something else than a list of tools"),
    ],
)
async def test_a_look_that_fails_is_counted_and_the_next_one_is_made(probes, trouble, said):
    probes[1].extend([trouble, trouble, GOOD])
    assert (await look_until(probes, lambda look: look.failures == 2)).error == said
    found = await look_until(probes, lambda look: look.has_answered)
    assert (found.failures, found.error, found.offers) == (0, "", (OFFER,))


async def test_an_address_that_cannot_be_one_is_a_failed_look(probes):
    probes[1].append(GOOD)
    assert "InvalidURL" in (await look_until(probes, lambda look: look.failures, "http://tool:abc")).error


ENDLESS = {
    "goes on and on": (b"Content-Length: 1000000000", b" " * 2**16),
    "unpacks to gigabytes": (b"Content-Encoding: gzip, gzip\r\nContent-Length: 24", gzip.compress(b"x" * 4)),
}


@pytest.mark.parametrize("transport", ["StreamableHTTP", "SSE"])
@pytest.mark.parametrize("case", ENDLESS)
async def test_an_mcp_server_that_answers_without_an_end_is_a_failed_look(probes, case, transport):
    header, chunk = ENDLESS[case]
    kind, sent = (b"text/event-stream" if transport == "SSE" else b"application/json"), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n" + header + b"\r\n\r\n")
            while sent < 2**28:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    made, _, woken = probes
    made.watch(KEY, (Target("one", "search", "Mcp", (url,), transport=transport),), 60, 3)
    async with asyncio.timeout(60):
        while "one" not in made.looks(KEY):
            await woken.wait()
    look = made.looks(KEY)["one"]
    assert not look.has_answered
    assert look.is_slow or "MCP session failed" in look.error
    assert sent < 2**26, "it was not read to its end"
    server.close()


async def test_slow_is_not_down(probes):
    probes[1].extend([httpx.ReadTimeout("slow"), GOOD])
    slow = await look_until(probes, lambda look: look.is_slow)
    assert slow.failures == 0
    assert not (await look_until(probes, lambda look: look.has_answered)).is_slow
