"""The tier that all replicas share. A Redis that is slow, full or down is a miss, never an error.

Every command has 50 ms; after three failures in a row Redis is left alone for a second. Making a connection (TCP, TLS,
AUTH) may take longer than that: it goes on when the command is given up, for the next one. What is only to be kept is
sent while nobody waits, many commands at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from despina.wire import BreakerConfig, RedisConfig, RuntimeConfig
from despina_runtime.breaker import Breaker
from despina_runtime.cache.failures import DAMAGED, Failures
from despina_runtime.cache.seal import PLAIN, Keys, seal, unseal

T = TypeVar("T")
TIMEOUT_SECONDS = 0.05
CONNECT_SECONDS = 2.0
LEASE_SECONDS = 2.0
POLL_SECONDS = 0.02
WATCH_SECONDS = 0.4
GROWTH = 100
"""How many times as many workers there may be as the configuration says, which knows of no edit and no autoscaler."""
MOST_TOGETHER, MOST_WAITING = 100, 1000
"""Commands that go to Redis at once, and that wait while it is slow: what comes beyond that is not kept."""
RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
BREAKER = BreakerConfig(
    error_rate_percent=100, window_seconds=10, min_requests=10**6, consecutive_failures=3, open_seconds=1,
    half_open_requests=1,
)  # fmt: skip


class _Pool(ConnectionPool):
    """Its connections are made in tasks of their own, which go on when nobody waits any more."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        """A connection that is ready; raises RedisError."""
        making = self._begun(super().get_connection(*args, **options))  # type: ignore[no-untyped-call]
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._give_back)
            raise

    def _give_back(self, made: asyncio.Task[Any]) -> None:
        if not made.cancelled() and made.exception() is None:
            self._begun(self.release(made.result()))

    def _begun(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class RedisTier:
    """One program's keys in one Redis."""

    name = "redis"

    def __init__(self, config: RuntimeConfig, redis: RedisConfig, url: str, keys: Keys = lambda: (PLAIN,)) -> None:
        self._prefix = f"{redis.key_prefix}:{config.namespace}:{config.program}"
        self._ttl = redis.ttl_seconds
        self._keys = keys
        self._me = uuid4().hex
        self._most_members = GROWTH * config.replicas * config.workers
        self._breaker = Breaker(BREAKER)
        self.failures = Failures(self.name)
        self._waiting: list[tuple[Any, ...]] = []
        self._sending: asyncio.Task[None] | None = None
        # Any: its annotations say bytes or str of every answer, and here it is bytes.
        self.redis: Any = Redis.from_pool(
            _Pool.from_url(
                url,
                socket_timeout=CONNECT_SECONDS,  # of what a connection begins with, too: AUTH, HELLO; `run` has its own
                socket_connect_timeout=CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),
                max_connections=256,
            )
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
        except Exception as exc:
            self._breaker.record(ticket, "failed")
            self.failures(type(exc).__name__)
            return default
        except BaseException:
            self._breaker.release(ticket)
            raise
        self._breaker.record(ticket)
        return result

    async def get(self, key: str) -> bytes | None:
        """The value, or None. What others wrote there stays: it may be a pod's that has the next key already."""
        name = self.key(key)
        entry = await self.run(self.redis.get(name), None)
        value = unseal(self._keys(), name, entry) if entry is not None else None
        if entry is not None and value is None:
            self.failures(DAMAGED)
        return value

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value; it is there when this returns."""
        if entry := self._sealed(self.key(key), value):
            await self.run(self.redis.set(self.key(key), entry, ex=self._ttl), None)

    def keep(self, key: str, value: bytes) -> None:
        """Keep a value, a moment later."""
        if entry := self._sealed(self.key(key), value):
            self._later("SET", self.key(key), entry, "EX", self._ttl)

    def _sealed(self, name: str, value: bytes) -> bytes | None:
        key = next(iter(self._keys()), None)
        if key is None:
            self.failures("NoKey")
            return None
        return seal(key, name, value)

    def _later(self, *command: Any) -> None:
        """Send a command after those that wait, and go on."""
        if len(self._waiting) >= MOST_WAITING:
            self.failures("TooMany")
            return
        self._waiting.append(command)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            commands, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            await self.run(self._together(commands), None)

    async def _together(self, commands: list[tuple[Any, ...]]) -> Any:
        """The results of several commands, in one round trip."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute()

    async def _sent(self) -> None:
        """Wait until nothing waits to be sent."""
        if self._sending:
            await asyncio.shield(self._sending)

    async def drop(self, key: str) -> None:
        """Forget one value."""
        await self._sent()
        await self.run(self.redis.delete(self.key(key)), 0)

    async def once(
        self, key: str, look: Callable[[], Awaitable[T | None]], work: Callable[[], Awaitable[T]], until: float
    ) -> T:
        """Of all workers that share this Redis, one does the work; the others look for what it left.

        The leader holds a lease of two seconds, renews it while it is its own, and gives it back after what it left.
        When it dies, or ends without leaving anything, a waiter takes over. Without Redis everybody leads, and so does
        who has waited until the event loop's time `until`: whoever may write here can hold a lease for ever.
        """
        name, token = self.key(f"flight:{key}"), uuid4().hex
        while not await self.run(self.redis.set(name, token, nx=True, px=int(LEASE_SECONDS * 1000)), True):
            if asyncio.get_running_loop().time() > until:
                return await work()
            await asyncio.sleep(POLL_SECONDS)
            found = await look()
            if found is not None:
                return found
        renewing = asyncio.create_task(self._renew(name, token))
        try:
            found = await look()  # a leader may just have ended
            return found if found is not None else await work()
        finally:
            renewing.cancel()
            self._later("EVAL", RELEASE, 1, name, token)

    async def _renew(self, name: str, token: str) -> None:
        """Until the lease is another one's: a leader that was held up may have lost it."""
        is_ours = True
        while is_ours:
            await asyncio.sleep(LEASE_SECONDS / 3)
            is_ours = await self.run(self.redis.eval(RENEW, 1, name, token, int(LEASE_SECONDS * 1000)), True)

    async def count_members(self, seconds: float) -> int:
        """How many workers said so within the last seconds, this one included, but no more than there may well be, for
        others may write here, too; 0 without Redis."""
        name, now = self.key("members"), time.time()
        say = ("ZADD", name, now, self._me), ("ZREMRANGEBYSCORE", name, 0, now - seconds), ("ZCARD", name)
        return min(int((await self.run(self._together([*say]), [0]))[-1]), self._most_members)

    async def watch(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` at each published word, and every 0.4 s in any case: a message may be missed."""
        while True:
            with suppress(Exception):
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
        """Give the connections back, once all is sent."""
        await self._sent()
        with suppress(Exception):
            await self.redis.aclose()
