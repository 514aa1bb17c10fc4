"""Answering from the cache, and single flight for what is not in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from despina_runtime.cache.store import Store
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.problem import Problem, deadline_exceeded

LONGEST_BODY = 4096
LONGEST_ANSWER = 8192
GRACE_SECONDS = 1.0
Asked = tuple[str | None, float | None, bytes]


class Replay:
    """The shortest way: the very bytes of a request that was answered before.

    Equal bytes mean equal inputs, so neither parsing nor hashing is needed. What is kept here is as old as the process
    tier allows and of the store's present era: any invalidation ends the era.
    """

    def __init__(self, store: Store, size: int, then: Step, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._size, self._then, self._clock = store, size, then, clock
        self._era = store.era
        self._kept: dict[Asked, tuple[float, Answer]] = {}

    async def __call__(self, call: Call) -> Answer:
        """The same answer again, or what follows."""
        asked = (call.lm, call.temperature, call.body)
        kept = self._kept.get(asked)
        if kept is not None and self._era == self._store.era and kept[0] > self._clock():
            return kept[1]
        answer = await self._then(call)
        if answer.tier == "process" and len(call.body) <= LONGEST_BODY and len(answer.body) <= LONGEST_ANSWER:
            self._keep(asked, answer)
        return answer

    def _keep(self, asked: Asked, answer: Answer) -> None:
        """From the second time on. The older half goes when there are too many."""
        if self._era != self._store.era:
            self._kept.clear()
            self._era = self._store.era
        if len(self._kept) >= self._size:
            for old in list(self._kept)[: self._size // 2 + 1]:
                del self._kept[old]
        self._kept[asked] = (self._store.expires(answer.key or ""), answer)


class Cache:
    """The tiers by the inputs' canonical form; one execution for all who ask the same at one time."""

    def __init__(self, store: Store, path: str, stores_answers: bool, single_flight: bool, then: Step) -> None:
        self._store = store
        self._path = path
        self._stores_answers = stores_answers
        self._single_flight = single_flight
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """The stored answer, somebody else's who asks the same, or what follows, which is then stored."""
        key = self._store.keys.of_answer(self._path, call.lm, call.temperature, call.inputs)
        if self._stores_answers and (found := self._store.here(key)):
            return Answer(found.value, tier=found.tier, key=key)
        if call.emit or not self._single_flight:
            return await self._look(key) or await self._make(call, key)
        return await self._together(call, key)

    async def _look(self, key: str) -> Answer | None:
        found = await self._store.get(key) if self._stores_answers else None
        return Answer(found.value, found.tier, key) if found else None

    async def _together(self, call: Call, key: str) -> Answer:
        """One flight of this worker, led among all workers where a Redis joins them."""
        while True:
            leads = not self._store.flights.is_flying(key)
            try:
                # A little later than its own deadline, at which a fallback may still answer.
                async with asyncio.timeout_at(call.deadline + GRACE_SECONDS):
                    answer = await self._store.flights.share(key, lambda: self._alone(call, key))
            except TimeoutError:
                raise deadline_exceeded() from None
            except Problem as problem:
                if leads or problem.type != "deadline-exceeded":
                    raise
                continue  # it was the leader's deadline, not ours
            return answer if leads else Answer(answer.body, answer.tier, answer.key, answer.degraded, collapsed=True)

    async def _alone(self, call: Call, key: str) -> Answer:
        """What Redis has, or what is made by one of all workers. A crowd of one worker asks Redis only once."""

        async def look() -> Answer | None:
            return await self._look(key)

        async def make() -> Answer:
            return await self._make(call, key)

        redis = self._store.redis
        if redis is None:
            return await make()
        if found := await look():
            return found
        answer: Answer = await redis.once(key, look, make)
        return answer

    async def _make(self, call: Call, key: str) -> Answer:
        answer = await self._then(call)
        if answer.degraded:
            return answer
        kept = list(call.meter.pending)
        if self._stores_answers:
            answer.key = key
            kept.append((key, answer.body))
        await self._store.put(kept)
        return answer
