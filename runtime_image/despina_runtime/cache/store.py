"""The tiers as one store, front to back, and their invalidation."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from despina.wire import CacheConfig, RuntimeConfig
from despina_runtime.cache.flight import Flights
from despina_runtime.cache.keys import Keys
from despina_runtime.cache.tiers import NodeTier, ProcessTier

if TYPE_CHECKING:
    from despina_runtime.cache.redis import RedisTier

EPOCHS, DROPPED = "epochs", "dropped"
DROPPED_SECONDS = 3600


@dataclass(frozen=True)
class Found:
    """A cached value and the tier that had it."""

    value: bytes
    tier: str


class Store:
    """All tiers of one worker.

    An epoch is a word that stands in every key. Invalidating makes a new one, `TOKEN:SUBJECT`; the subject tells a
    second worker that its order has been carried out already. With Redis the epochs live there and every worker
    follows them; a Redis that lost them is told them again.
    """

    def __init__(self, config: RuntimeConfig, folder: Path, redis: RedisTier | None) -> None:
        cache = config.cache or CacheConfig()
        self.keys = Keys(config)
        self.flights = Flights()
        self.redis = redis
        self.process = ProcessTier(cache.process_entries, cache.process_ttl_seconds) if cache.process_entries else None
        self.node = (
            NodeTier(folder / "answers", cache.node_bytes, cache.process_ttl_seconds) if cache.node_bytes else None
        )
        self._revision = f"revision:{config.revision}"
        self._dropped: set[str] = set()
        self.era = 0
        """Grows with everything that is forgotten."""

    def beside(self, config: RuntimeConfig) -> Store:
        """The same tiers and flights for another revision of the program."""
        other = copy.copy(self)
        other.keys = Keys(config, epoch=self.keys.epoch)
        other._revision = f"revision:{config.revision}"
        return other

    def here(self, key: str) -> Found | None:
        """The value from this pod's own tiers; the first gets a copy."""
        for tier in (self.process, self.node):
            if tier and (value := tier.get(key)) is not None:
                self._copy(key, value, tier.name)
                return Found(value, tier.name)
        return None

    async def get(self, key: str) -> Found | None:
        """The value from the first tier that has it; those before it get a copy."""
        if found := self.here(key):
            return found
        if self.redis and (value := await self.redis.get(key)) is not None:
            self._copy(key, value, self.redis.name)
            return Found(value, self.redis.name)
        return None

    def _copy(self, key: str, value: bytes, tier: str) -> None:
        if self.process and tier != "process":
            self.process.put(key, value)
        if self.node and tier == "redis":
            self.node.put(key, value)

    def expires(self, key: str) -> float:
        """Until when the process tier gives this value."""
        return self.process.expires(key) if self.process else 0.0

    async def put(self, values: Iterable[tuple[str, bytes]]) -> None:
        """Keep values in every tier."""
        for key, value in values:
            self._copy(key, value, "redis")
            if self.redis:
                await self.redis.put(key, value)

    async def invalidate(self, subject: str) -> None:
        """Forget one key (`key:KEY`), one revision (`revision:REVISION`) or, with any other word, everything."""
        if subject.startswith("key:"):
            await self._drop(subject.removeprefix("key:"))
        elif subject.startswith("revision:") and subject.partition("#")[0] != self._revision:
            return
        else:
            await self._advance(self._field(subject), subject)
        if self.redis:
            await self.redis.publish()

    def _field(self, subject: str) -> str:
        return self._revision if subject.startswith("revision:") else "program"

    async def _drop(self, key: str) -> None:
        self._forget(key)
        if self.redis:
            await self.redis.drop(key)
            name, now = self.redis.key(DROPPED), time.time()
            await self.redis.run(self.redis.redis.zadd(name, {key: now}), 0)
            await self.redis.run(self.redis.redis.zremrangebyscore(name, 0, now - DROPPED_SECONDS), 0)

    def _forget(self, key: str) -> None:
        self.era += 1
        for tier in (self.process, self.node):
            if tier:
                tier.drop(key)

    async def _advance(self, field: str, subject: str) -> None:
        """A new epoch, unless the present one was made for the same subject."""
        if self.redis:
            await self.follow()
        if self._epoch(field).partition(":")[2] == subject:
            return
        epoch = f"{uuid4().hex[:12]}:{subject}"
        self._enter(field, epoch)
        if self.redis:
            await self.redis.run(self.redis.redis.hset(self.redis.key(EPOCHS), field, epoch), 0)

    def _epoch(self, field: str) -> str:
        return self.keys.epoch if field == "program" else self.keys.revision_epoch

    def _enter(self, field: str, epoch: str) -> None:
        if field == "program":
            self.keys.epoch = epoch
        else:
            self.keys.revision_epoch = epoch
        self.era += 1
        # The names alone would do, but for a container that starts again on this disk and has forgotten the epoch.
        for tier in (self.process, self.node):
            if tier:
                tier.clear()

    async def follow(self) -> None:
        """Take over what other workers invalidated."""
        if self.redis is None:
            return
        found = await self.redis.run(self.redis.redis.hgetall(self.redis.key(EPOCHS)), None)
        if found is None:
            return
        epochs = {k.decode(): v.decode() for k, v in found.items()}
        for field in ("program", self._revision):
            await self._meet(field, epochs.get(field, ""))
        dropped = await self.redis.run(self.redis.redis.zrange(self.redis.key(DROPPED), 0, -1), [])
        keys = {k.decode() for k in dropped}
        for key in keys - self._dropped:
            self._forget(key)
        self._dropped = keys

    async def _meet(self, field: str, theirs: str) -> None:
        ours = self._epoch(field)
        if theirs and theirs != ours:
            self._enter(field, theirs)
        elif ours and not theirs and self.redis:
            await self.redis.run(self.redis.redis.hsetnx(self.redis.key(EPOCHS), field, ours), 0)

    async def close(self) -> None:
        """Give files and connections back."""
        if self.node:
            self.node.close()
        if self.redis:
            await asyncio.shield(self.redis.close())
