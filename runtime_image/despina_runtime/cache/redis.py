"""The tier that all replicas share. A Redis that is slow, full or down is a miss, never an error.

Every command has 50 ms; after three failures in a row Redis is left alone for a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from despina.wire import BreakerConfig, RedisConfig, RuntimeConfig
from despina_runtime.breaker import Breaker

log = logging.getLogger(__name__)
T = TypeVar("T")
TIMEOUT_SECONDS = 0.05
LEASE_SECONDS = 2.0
POLL_SECONDS = 0.02
WATCH_SECONDS = 0.4
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
BREAKER = BreakerConfig(
    error_rate_percent=100, window_seconds=10, min_requests=10**6, consecutive_failures=3, open_seconds=1,
    half_open_requests=1,
)  # fmt: skip


class RedisTier:
    """One program's keys in one Redis."""

    name = "redis"

    def __init__(self, config: RuntimeConfig, redis: RedisConfig, url: str) -> None:
        self._prefix = f"{redis.key_prefix}:{config.namespace}:{config.program}"
        self._ttl = redis.ttl_seconds
        self._me = uuid4().hex
        self._breaker = Breaker(BREAKER)
        # Any: its annotations say bytes or str of every answer, and here it is bytes.
        self.redis: Any = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            max_connections=256,
        )

    def key(self, name: str) -> str:
        """A key of this program's, which an ACL can allow by its beginning."""
        return f"{self._prefix}:{name}"

    async def run(self, command: Awaitable[T], default: T) -> T:
        """A command's result, or the default if Redis does not give one in time."""
        ticket = self._breaker.admit()
        if ticket is None:
            command.close()  # type: ignore[attr-defined]
            return default
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                result = await command
        except (RedisError, OSError, TimeoutError) as exc:
            self._breaker.record(ticket, "failed")
            log.debug("Redis did not answer error=%s", type(exc).__name__)
            return default
        except BaseException:
            self._breaker.release(ticket)
            raise
        self._breaker.record(ticket)
        return result

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        return await self.run(self.redis.get(self.key(key)), None)

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        await self.run(self.redis.set(self.key(key), value, ex=self._ttl), None)

    async def drop(self, key: str) -> None:
        """Forget one value."""
        await self.run(self.redis.delete(self.key(key)), 0)

    async def once(self, key: str, look: Callable[[], Awaitable[T | None]], work: Callable[[], Awaitable[T]]) -> T:
        """Of all workers that share this Redis, one does the work; the others look for what it left.

        The leader holds a lease of two seconds and renews it. When it dies, or ends without leaving anything, a waiter
        takes over. Without Redis everybody leads.
        """
        name, token = self.key(f"flight:{key}"), uuid4().hex
        while not await self.run(self.redis.set(name, token, nx=True, px=int(LEASE_SECONDS * 1000)), True):
            await asyncio.sleep(POLL_SECONDS)
            found = await look()
            if found is not None:
                return found
        renewing = asyncio.create_task(self._renew(name))
        try:
            found = await look()  # a leader may just have ended
            return found if found is not None else await work()
        finally:
            renewing.cancel()
            await asyncio.shield(self.run(self.redis.eval(RELEASE, 1, name, token), None))

    async def _renew(self, name: str) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            await self.run(self.redis.pexpire(name, int(LEASE_SECONDS * 1000)), None)

    async def count_members(self, seconds: float) -> int:
        """How many workers said so within the last seconds, this one included; 0 without Redis."""
        name, now = self.key("members"), time.time()

        async def count() -> int:
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.zadd(name, {self._me: now}).zremrangebyscore(name, 0, now - seconds).zcard(name)
                return int((await pipe.execute())[-1])

        return await self.run(count(), 0)

    async def watch(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` at each published word, and every 0.4 s in any case: a message may be missed."""
        while True:
            with suppress(RedisError, OSError, TimeoutError):
                async with self.redis.pubsub() as subscription:
                    await subscription.subscribe(self.key("changed"))
                    while True:
                        await changed()
                        await subscription.get_message(ignore_subscribe_messages=True, timeout=WATCH_SECONDS)
            await asyncio.sleep(WATCH_SECONDS)

    async def publish(self) -> None:
        """Tell the other workers that something changed."""
        await self.run(self.redis.publish(self.key("changed"), b"1"), 0)

    async def close(self) -> None:
        """Give the connections back."""
        with suppress(RedisError, OSError, TimeoutError, Exception):
            await self.redis.aclose()
