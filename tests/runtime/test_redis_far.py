"""A Redis that is far away: whatever it takes to connect to it, it is used, and nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from despina.wire import ModelRef, RedisConfig, RuntimeConfig
from despina_runtime.cache.redis import RedisTier

PROGRAM = RuntimeConfig(
    namespace="ns", program="p", revision="r", model=ModelRef(name="m", version="1", tracking_uri="http://m")
)


@asynccontextmanager
async def slow_to_begin(seconds: float) -> AsyncIterator[int]:
    """The port of a Redis that is far away, by what a connection begins with: TLS and AUTH. Later commands are quick."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)  # the distance, which is what is tested
        while head := await reader.readline():
            for _ in range(int(head[1:])):
                await reader.readexactly(int((await reader.readline())[1:]) + 2)
            writer.write(b"+OK\r\n")

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_redis_that_takes_long_to_connect_to_is_used_all_the_same_and_nobody_waits_for_it():
    async with slow_to_begin(0.2) as port:
        url = f"redis://:password@127.0.0.1:{port}/0?protocol=2"
        tier = RedisTier(PROGRAM, RedisConfig(url_file=""), url)
        longest, found, end = 0.0, None, time.monotonic() + 10
        while found is None and time.monotonic() < end:
            began = time.monotonic()
            found = await tier.run(tier.redis.set("key", "value"), None)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.02)
        assert found
        assert longest < 0.15
        await tier.close()
