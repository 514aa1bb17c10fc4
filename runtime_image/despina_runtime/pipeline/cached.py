"""Answering from the cache, and single flight for what is not in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from despina_runtime.cache.flight import is_over
from despina_runtime.cache.store import Found, Store
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.problem import Problem, deadline_exceeded

LONGEST_BODY = 4096
LONGEST_ANSWER = 8192
GRACE_SECONDS = 1.0


class Replay:
    """The shortest way: the very bytes of a request that was answered before.

    Equal bytes mean equal inputs, so neither parsing nor hashing is needed. What is kept here is as old as the process
    tier allows, and any invalidation ends it. `scope` tells apart the corridors that share the worker's memo.
    """

    def __init__(self, store: Store, scope: str, then: Step, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._scope, self._then, self._clock = store, scope, then, clock
        self._find = store.memo.get

    async def __call__(self, call: Call) -> Answer:
        """The same answer again, or what follows."""
        asked = (self._scope, call.lm, call.temperature, call.body)
        kept = self._find(asked)
        if kept is not None and kept[0] > self._clock():
            answer: Answer = kept[2]
            return answer
        answer = await self._then(call)
        if answer.tier == "process" and len(call.body) <= LONGEST_BODY and len(answer.body) <= LONGEST_ANSWER:
            until = self._store.expires(answer.key or "")
            self._store.memo.keep(asked, until, len(call.body) + len(answer.body), answer)
        return answer


class Cache:
    """The tiers by the body's JSON value; one execution for all who ask the same at one time."""

    def __init__(self, store: Store, path: str, stores_answers: bool, then: Step) -> None:
        self._store = store
        self._path = path
        self._stores_answers = stores_answers
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """The stored answer, somebody else's who asks the same, or what follows, which is then stored."""
        key = self._store.keys.of_answer(self._path, call.lm, call.temperature, call.body)
        if self._stores_answers and (found := self._store.here(key)):
            return _kept(found, key)
        if call.refusal:  # its answer is no caller's, and may differ for what was refused
            return await self._look(key) or await self._then(call)
        if call.emit or not self._store.flights.is_shared:
            return await self._look(key) or await self._make(call, key)
        return await self._together(call, key)

    async def _look(self, key: str) -> Answer | None:
        found = await self._store.get(key) if self._stores_answers else None
        return _kept(found, key) if found else None

    async def _together(self, call: Call, key: str) -> Answer:
        """One flight of this worker, led among all workers where a Redis joins them."""

        async def work() -> Answer:
            try:
                return await self._alone(call, key)
            except Problem as problem:
                if problem.status == 504 and is_over(call.deadline):
                    raise TimeoutError from None
                raise

        try:
            # A little later than its own deadline, at which a fallback may still answer.
            answer, leads = await self._store.flights.share(_flight(call, key), call.deadline + GRACE_SECONDS, work)
        except TimeoutError:
            raise deadline_exceeded() from None
        return (
            answer
            if leads
            else Answer(answer.body, answer.tier, answer.key, answer.degraded, collapsed=True, origin=answer.origin)
        )

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
        now = asyncio.get_running_loop().time()
        until = now + (call.deadline - now) / 2  # what is left then is enough for most to do it themselves
        answer: Answer = await redis.once(_flight(call, key), look, make, until)
        return answer

    async def _make(self, call: Call, key: str) -> Answer:
        answer = await self._then(call)
        if answer.degraded:
            return answer
        kept = list(call.meter.pending)
        if self._stores_answers:
            answer.key = key
            kept.append((key, b"%s\n%s" % (answer.body, answer.origin.encode()) if answer.origin else answer.body))
        self._store.put(kept)
        return answer


def _kept(found: Found, key: str) -> Answer:
    """What is kept is the body; where predictions are recorded, the prediction's name is a second line of it."""
    body, _, origin = found.value.partition(b"\n")
    return Answer(body, found.tier, key, origin=origin.decode() or None)


def _flight(call: Call, key: str) -> str:
    """Whom no other program may answer shares with his like alone: by him, others would lose their fallback."""
    return key if call.may_ask_others else f"{key}/fallback"
