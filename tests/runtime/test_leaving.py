"""Callers who leave: what was begun for them alone ends, and what others wait for as well goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from mcp import Client

from despina.wire import CacheConfig
from tests.support.pods import fresh
from tests.support.world import eventually

LONG = 300
"""Seconds: by themselves, neither request nor LM end within a test."""


async def until(what: str, check) -> None:
    await asyncio.to_thread(eventually, what, check, 15)


@asynccontextmanager
async def asking(url: str, body: dict, **headers: str) -> AsyncIterator[asyncio.Task]:
    """A caller who leaves with the block."""
    async with httpx.AsyncClient(timeout=LONG) as client:
        task = asyncio.create_task(client.post(url, json=body, headers=headers))
        yield task
        task.cancel()
        await asyncio.wait([task])


def in_flight(pod) -> float:
    return pod.metric("despina_in_flight_requests")


@pytest.fixture(scope="module")
def patient(tmp_path_factory, servers, log_model, version):
    """Pods that wait for long and do one thing at a time: a program that awaits, and one of threads."""
    from tests.support.pods import pods

    options = {"request_timeout_seconds": LONG, "lm_timeout": LONG, "max_concurrency": 1}
    with pods(tmp_path_factory.mktemp("patient"), *servers[1:]) as start:
        running = {
            "awaiting": start(version, home="awaiting", cache=CacheConfig(scope="Both"), **options),
            "threads": start(log_model("sync", "sync"), "sync", home="threads", **options),
        }
        for pod in running.values():
            eventually("ready", pod.is_ready, 90)
        yield running


WAYS = {
    "whole": ("/execute", lambda: fresh(), {}),
    "streamed": ("/execute", lambda: fresh(), {"accept": "text/event-stream"}),
    "batch": ("/execute/batch", lambda: {"inputs": [fresh() for _ in range(20)]}, {}),
}


@pytest.mark.parametrize("kind", ["awaiting", "threads"])
@pytest.mark.parametrize("way", WAYS)
async def test_who_leaves_stops_the_work(patient, lm, kind, way):
    pod, (path, body, headers), before = patient[kind], WAYS[way], lm.calls
    lm.misbehave(hang=True)
    async with asking(pod.url + path, body(), **headers):
        await until("the call", lambda: lm.calls > before)
        await until("a figure", lambda: in_flight(pod) == 1)
    await until("the end", lambda: in_flight(pod) == 0)
    assert lm.calls == before + 1
    lm.misbehave()
    answer = await asyncio.to_thread(pod.ask, fresh())
    assert answer.status_code == 200, "and its place is free"


async def test_who_leaves_an_mcp_server_stops_the_work(patient, lm):
    pod, before = patient["awaiting"], lm.calls
    lm.misbehave(hang=True)

    async def call() -> None:
        async with Client(f"{pod.url}/mcp") as client:
            await client.call_tool("triage", fresh())

    calling = asyncio.create_task(call())
    await until("the call", lambda: lm.calls > before)
    await until("a figure", lambda: in_flight(pod) == 1)
    calling.cancel()
    await asyncio.wait([calling])
    await until("the end", lambda: in_flight(pod) == 0)


async def test_who_leaves_takes_nobodys_answer_along(patient, lm):
    pod, body, before = patient["awaiting"], fresh(), lm.calls
    lm.misbehave(delay_seconds=5)
    async with asking(f"{pod.url}/execute", body) as stays:
        async with asking(f"{pod.url}/execute", body):
            await until("both", lambda: in_flight(pod) == 2)
            await until("the call", lambda: lm.calls > before)
        await until("one has left", lambda: in_flight(pod) == 1)
        assert (await stays).status_code == 200
    assert lm.calls == before + 1
