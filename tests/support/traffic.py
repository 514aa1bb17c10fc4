"""Load on one pod of this machine, open loop, with every answer kept: what was asked, what came back, when."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp


@dataclass
class Given:
    """One answer."""

    asked: dict
    status: int
    body: dict
    headers: dict
    seconds: float
    at: float = 0.0
    """When it had come back, by `time.monotonic`."""


@dataclass
class Traffic:
    """What came back; a status of 0 is a connection that failed."""

    answers: list[Given] = field(default_factory=list)

    def statuses(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for answer in self.answers:
            found[answer.status] = found.get(answer.status, 0) + 1
        return found


async def drive(
    url: str, body_of: Callable[[int], dict], rate: float, stop: Callable[[float], bool], connections: int = 0
) -> Traffic:
    """Send `rate` requests a second until `stop(seconds since the start)`; all answers are waited for. At most so many
    connections are open, as behind a proxy; 0 is no limit."""
    traffic, started, tasks = Traffic(), time.monotonic(), set()
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as client:
        for n in itertools.count():
            if stop(time.monotonic() - started):
                break
            task = asyncio.create_task(_one(client, url, body_of(n), traffic))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(0.0, started + (n + 1) / rate - time.monotonic()))
        await asyncio.gather(*tasks)
    return traffic


async def _one(client: aiohttp.ClientSession, url: str, body: dict, traffic: Traffic) -> None:
    began = time.monotonic()

    def given(status: int, document: dict, headers: dict[str, str]) -> Given:
        now = time.monotonic()
        return Given(body, status, document, headers, now - began, now)

    try:
        async with client.post(url, json=body) as response:
            document = await response.json(content_type=None)
            headers = {k.lower(): v for k, v in response.headers.items()}
            traffic.answers.append(given(response.status, document, headers))
    except (aiohttp.ClientError, TimeoutError) as exc:
        traffic.answers.append(given(0, {"error": repr(exc)}, {}))


async def capacity(url: str, body_of: Callable[[int], dict], seconds: float = 4, callers: int = 32) -> float:
    """Requests a second that come back when so many callers each ask again at once."""
    counter, until, traffic = itertools.count(10**6), time.monotonic() + seconds, Traffic()

    async def call(client: aiohttp.ClientSession) -> None:
        while time.monotonic() < until:
            await _one(client, url, body_of(next(counter)), traffic)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        await asyncio.gather(*(call(client) for _ in range(callers)))
    return len(traffic.answers) / seconds
