"""The tiers as one store, front to back, and their invalidation."""

from __future__ import annotations

import asyncio
import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from despina.wire import CacheConfig, RuntimeConfig
from despina_runtime.cache.failures import DAMAGED
from despina_runtime.cache.flight import Flights
from despina_runtime.cache.keys import Keys, digest
from despina_runtime.cache.seal import PLAIN, seal, unseal
from despina_runtime.cache.tiers import NODE_ERRORS, Memo, NodeTier, ProcessTier

if TYPE_CHECKING:
    from despina_runtime.cache.redis import RedisTier

EPOCHS, DROPPED = "epochs", "dropped"
DROPPED_SECONDS = 3600
EPOCHS_BYTES, EPOCHS_SECONDS = 2**20, 10**9
T = TypeVar("T")


def tried(node: NodeTier, work: Callable[[], T]) -> T | None:
    """What the tier gives, or None if its disk is full or its file damaged."""
    try:
        return work()
    except NODE_ERRORS as exc:
        node.failures(type(exc).__name__)
        return None


@dataclass(frozen=True)
class Found:
    """A cached value and the tier that had it."""

    value: bytes
    tier: str


class Store:
    """All tiers of one worker. A tier that fails is a miss.

    An epoch is a word that stands in every key. Invalidating makes a new one, `TOKEN:SUBJECT`; the subject tells a
    second worker that its order has been carried out already. With Redis the epochs live there and every worker
    follows them; a Redis that lost them is told them again. Without it they lie beside the node tier, for the pod's
    other workers and for those that take their places.
    """

    def __init__(self, config: RuntimeConfig, folder: Path, redis: RedisTier | None) -> None:
        cache = config.cache or CacheConfig()
        self.keys = Keys(config)
        self.flights = Flights(cache.single_flight)
        self.redis = redis
        self.memo = Memo(cache.process_entries)
        self.process = ProcessTier(cache.process_entries, cache.process_ttl_seconds) if cache.process_entries else None
        self.node = (
            NodeTier(folder / "answers", cache.node_bytes, cache.process_ttl_seconds) if cache.node_bytes else None
        )
        has_own_epochs = self.node is not None and redis is None
        self._epochs = NodeTier(folder / EPOCHS, EPOCHS_BYTES, EPOCHS_SECONDS) if has_own_epochs else None
        self._revision = f"revision:{config.revision}"
        self._dropped: set[str] = set()
        self._recall()

    def beside(self, config: RuntimeConfig) -> Store:
        """The same tiers and flights for another revision of the program."""
        other = copy.copy(self)
        other.keys = Keys(config, epoch=self.keys.epoch)
        other._revision = f"revision:{config.revision}"
        other._recall()
        return other

    def here(self, key: str) -> Found | None:
        """The value from this pod's own tiers; the first gets a copy."""
        if self.process and (value := self.process.get(key)) is not None:
            return Found(value, self.process.name)
        if self.node and (value := self._of_node(self.node, key)) is not None:
            if self.process:
                self.process.put(key, value)
            return Found(value, self.node.name)
        return None

    def _of_node(self, node: NodeTier, key: str) -> bytes | None:
        entry = tried(node, lambda: node.get(key))
        value = unseal((PLAIN,), key, entry) if entry is not None else None
        if entry is not None and value is None:
            node.failures(DAMAGED)
            tried(node, lambda: node.drop(key))
        return value

    async def get(self, key: str) -> Found | None:
        """The value from the first tier that has it; those before it get a copy."""
        if found := self.here(key):
            return found
        if self.redis and (value := await self.redis.get(key)) is not None:
            self._keep([(key, value)])
            return Found(value, self.redis.name)
        return None

    def _keep(self, values: Sequence[tuple[str, bytes]]) -> None:
        """In this pod's own tiers."""
        if self.process:
            for key, value in values:
                self.process.put(key, value)
        if (node := self.node) and values:
            tried(node, lambda: node.put_all([(key, seal(PLAIN, key, value)) for key, value in values]))

    def expires(self, key: str) -> float:
        """Until when the process tier gives this value."""
        return self.process.expires(key) if self.process else 0.0

    def put(self, values: Sequence[tuple[str, bytes]]) -> None:
        """Keep values in every tier. Nobody waits for Redis: it gets them a moment later, all at once."""
        self._keep(values)
        if self.redis:
            for key, value in values:
                self.redis.keep(key, value)

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
        self.memo.clear()
        for tier in (self.process, self.node):
            if tier:
                tier.drop(key)

    async def _advance(self, field: str, subject: str) -> None:
        """A new epoch, unless the present one was made for the same subject."""
        if self.redis:
            await self.follow()
        self._recall()
        before = self._epoch(field)
        if before.partition(":")[2] == subject:
            return
        # Redis may have lost an epoch that entries in it still bear. On a disk the pod's workers shall agree on one.
        token = uuid4().hex if self.redis else digest(before.encode(), subject.encode())
        epoch = f"{token[:12]}:{subject}"
        self._enter(field, epoch)
        if self.redis:
            await self.redis.run(self.redis.redis.hset(self.redis.key(EPOCHS), field, epoch), 0)

    def _epoch(self, field: str) -> str:
        return self.keys.epoch if field == "program" else self.keys.revision_epoch

    def _enter(self, field: str, epoch: str) -> None:
        self._name(field, epoch)
        if epochs := self._epochs:
            tried(epochs, lambda: epochs.put(field, epoch.encode()))
        # The names alone would do, but for a container that starts again on this disk and has forgotten the epoch.
        if node := self.node:
            tried(node, node.clear)

    def _name(self, field: str, epoch: str) -> None:
        """Name keys by an epoch from now on."""
        if field == "program":
            self.keys.epoch = epoch
        else:
            self.keys.revision_epoch = epoch
        self.memo.clear()
        if self.process:
            self.process.clear()

    def _recall(self) -> None:
        """Take over what other workers of this pod invalidated, or those before it."""
        if (epochs := self._epochs) is None:
            return
        for field in ("program", self._revision):
            kept = tried(epochs, functools.partial(epochs.get, field))
            if kept and kept.decode() != self._epoch(field):
                self._name(field, kept.decode())

    async def follow(self) -> None:
        """Take over what other workers invalidated."""
        if self.redis is None:
            return
        found = await self.redis.run(self.redis.redis.hgetall(self.redis.key(EPOCHS)), None)
        if found is None:
            return
        epochs = {_text(k): _text(v) for k, v in found.items()}
        for field in ("program", self._revision):
            await self._meet(field, epochs.get(field, ""))
        dropped = await self.redis.run(self.redis.redis.zrange(self.redis.key(DROPPED), 0, -1), [])
        keys = set(map(_text, dropped))
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
        for tier in (self.node, self._epochs):
            if tier:
                tier.close()
        if self.redis:
            await asyncio.shield(self.redis.close())


def _text(found: bytes) -> str:
    """What stands in Redis, whoever wrote it."""
    return found.decode(errors="replace")
