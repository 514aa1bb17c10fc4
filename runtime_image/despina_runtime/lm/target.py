"""One language model behind its cache, its breaker and the one retry loop that there is."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import dspy
import orjson
from dspy.clients.call_result import attributes
from dspy.utils.exceptions import LMError, LMNotConfiguredError, LMServerError, LMTimeoutError

from despina.api.breaking import OK
from despina.wire import LMConfig
from despina_runtime.breaker import Breaker
from despina_runtime.cache.flight import is_over
from despina_runtime.cache.keys import written
from despina_runtime.cache.store import Found, Store
from despina_runtime.lm.adapters import COLLECTED
from despina_runtime.lm.meter import LMCall, Meter
from despina_runtime.lm.openai_compatible import CompatibleClient, Completion, Emit, is_compatible
from despina_runtime.lm.retry import is_outage, next_delay
from despina_runtime.telemetry.counting import VersionCounts

log = logging.getLogger(__name__)
SOON_SECONDS = 0.05


class LMUnavailable(LMServerError):  # type: ignore[misc]
    """The LM's breaker is open: it was not asked."""

    def __init__(self, config: LMConfig, retry_after: float) -> None:
        super().__init__(f"the breaker of {config.name} is open", model=config.model, retry_after=retry_after)


class Client(Protocol):
    """Whatever makes one attempt."""

    async def complete(
        self, messages: list[dict[str, Any]], params: dict[str, Any], key: str | None, emit: Emit | None
    ) -> Completion:
        """One attempt; raises one of DSPy's LM errors."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


Guard = Callable[[LMConfig, Client], Client]
"""Puts something before each attempt to ask an LM."""


def unguarded(_: LMConfig, client: Client) -> Client:
    """Nothing stands before it."""
    return client


class DspyClient:
    """Everything that DSPy and LiteLLM know. They keep their connections themselves."""

    def __init__(self, config: LMConfig) -> None:
        self._config = config
        self._made: tuple[str | None, dspy.LM] | None = None

    async def complete(
        self, messages: list[dict[str, Any]], params: dict[str, Any], key: str | None, emit: Emit | None
    ) -> Completion:
        """One attempt. DSPy streams by itself, so whether it has begun is not known here: there is no second one."""
        if emit is not None:
            emit.started = True
        from dspy.utils.usage_tracker import UsageTracker

        lm, tracker = self._lm(key), UsageTracker()
        with dspy.context(usage_tracker=tracker, disable_history=True):
            outputs = await lm.acall(messages=messages, **params)
        return Completion(outputs, tracker.get_total_tokens().get(lm.model, {}))

    def _lm(self, key: str | None) -> dspy.LM:
        if self._made is None or self._made[0] != key:
            self._made = key, self._make(key)
        return self._made[1]

    def _make(self, key: str | None) -> dspy.LM:
        options: dict[str, Any] = {"timeout": self._config.request_timeout_seconds}
        if self._config.base_url:
            options["api_base"] = self._config.base_url
        if key or self._config.base_url:
            options["api_key"] = key or "none"  # a server of one's own wants none, but the client insists
        return dspy.LM(self._config.model, cache=False, num_retries=0, **options)

    async def close(self) -> None:
        """Give the connections back."""
        if self._made:
            await self._made[1].aclose()


class Target:
    """One entry of `lms`. A request leaves it `share_seconds` at least, if it is asked at once."""

    def __init__(
        self, config: LMConfig, store: Store | None, share_seconds: float, guard: Guard = unguarded,
        counts: VersionCounts | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self._store = store
        self._counts = counts or VersionCounts()
        self._client = guard(config, CompatibleClient(config) if is_compatible(config) else DspyClient(config))
        self._breaker = Breaker(config.breaker) if config.breaker else None
        self._key = KeyFile(config.api_key_file)
        self._own_seconds = min(config.request_timeout_seconds, share_seconds) / 2

    async def answer(
        self, messages: list[dict[str, Any]], params: dict[str, Any], meter: Meter, module: str, until: float,
        emit: Emit | None,
    ) -> list[Any]:  # fmt: skip
        """The outputs for a prompt, from the cache or from the provider, by the event loop's time `until`."""
        params = {k: v for k, v in {**self.config.params, **params}.items() if v is not None}
        rollout = params.pop("rollout_id", None)
        store = None if meter.is_by_hand else self._store
        question = written([messages, params]) if store else None
        if store is None or question is None:
            return (await self._ask(messages, params, meter, module, until, emit)).outputs
        key = store.keys.of_lm(self.config, question, rollout)
        if found := store.here(key):
            return _outputs(found.value)

        soon = asyncio.get_running_loop().time() + SOON_SECONDS

        async def ask() -> Found | bytes:
            # Who begins anew has waited for somebody else, and all tiers may have it by now.
            is_late = asyncio.get_running_loop().time() > soon
            if (store.redis or is_late) and (found := await store.get(key)):
                return found
            # As the key says: the program may change its messages while a second attempt waits.
            as_keyed, given = orjson.loads(question)
            return await self._write(as_keyed, given, meter, module, until, emit)

        try:
            answer = await ask() if emit else (await store.flights.share(key, until, ask))[0]
        except TimeoutError:
            raise self._late() from None
        if isinstance(answer, Found):
            return _outputs(answer.value)
        collected = COLLECTED.get()
        (meter.pending if collected is None else collected).append((key, answer))
        return _outputs(answer)

    async def _write(
        self, messages: list[dict[str, Any]], params: dict[str, Any], meter: Meter, module: str, until: float,
        emit: Emit | None,
    ) -> bytes:  # fmt: skip
        """The outputs as bytes, which each of those who get them reads for himself; TimeoutError at `until`."""
        try:
            outputs = written((await self._ask(messages, params, meter, module, until, emit)).outputs)
        except LMTimeoutError:
            if is_over(until):
                raise TimeoutError from None
            raise
        if outputs is None:
            raise LMServerError("the answer cannot be written as JSON", model=self.config.model)
        return outputs

    def _late(self) -> LMTimeoutError:
        return LMTimeoutError("no answer in time", model=self.config.model)

    async def _ask(
        self, messages: list[dict[str, Any]], params: dict[str, Any], meter: Meter, module: str, until: float,
        emit: Emit | None,
    ) -> Completion:  # fmt: skip
        """The retry loop."""
        attempt = 0
        while True:
            attempt += 1
            began = time.perf_counter()
            try:
                completion = await self._attempt(messages, params, meter, until, emit)
            except LMError as exc:
                self._count(meter.note(self.config, module, began, error=type(exc).__name__))
                remaining = until - asyncio.get_running_loop().time()
                retries = 0 if isinstance(exc, LMUnavailable) else self.config.retries
                wait = next_delay(attempt, retries, exc, random.random(), remaining)  # noqa: S311 - jitter
                if wait is None or (emit and emit.started):
                    raise
                await asyncio.sleep(wait)
            else:
                self._count(meter.spend(self.config, module, completion.usage, began))
                return completion

    def _count(self, call: LMCall) -> None:
        self._counts.attempt(call.lm, call.module, call.error or "ok", call.tokens, float(call.cost or 0))
        if call.error != LMUnavailable.__name__:  # then it was not asked
            self._counts.took(call.lm, call.seconds)

    async def _attempt(
        self, messages: list[dict[str, Any]], params: dict[str, Any], meter: Meter, until: float, emit: Emit | None
    ) -> Completion:
        """One call, if the breaker lets it; the breaker learns how it went."""
        ticket = self._breaker.admit() if self._breaker else 0
        if self._breaker and ticket is None:
            raise LMUnavailable(self.config, self._breaker.retry_after)
        meter.attempts += 1
        began = asyncio.get_running_loop().time()
        try:
            completion = await self._call(messages, params, until, emit)
        except TimeoutError:
            self._tell_of_silence(began, until)
            self._settle(ticket, self._of_silence(began), meter)
            raise self._late() from None
        except LMError as exc:
            if isinstance(exc, LMNotConfiguredError):
                log.error("LM is not configured lm=%s model=%s: %s", *_lacking(self.config, self._key.read()))
            self._settle(ticket, "outage" if is_outage(exc) else OK, meter)
            raise
        except BaseException:
            # At its deadline a request may be ended before this call's own time-out. Or the caller has left.
            self._tell_of_silence(began, until)
            self._settle(ticket, self._of_silence(began) if is_over(until) else None, meter)
            raise
        self._settle(ticket, OK, meter)
        return completion

    def _tell_of_silence(self, began: float, until: float) -> None:
        """The request may end with its time, and then nobody else says what it has waited for."""
        if is_over(until):
            waited = asyncio.get_running_loop().time() - began
            log.warning("LM failed model=%s error=LMTimeoutError seconds=%.1f", self.config.model, waited)

    def _of_silence(self, began: float) -> str | None:
        """What it says of the LM that it has not answered since: nothing, if most of the time was others'."""
        waited = asyncio.get_running_loop().time() - began
        return "outage" if waited >= self._own_seconds else None

    def _settle(self, ticket: int | None, kind: str | None, meter: Meter) -> None:
        """Tell the breaker how a call went; None says nothing of the LM."""
        if self._breaker is None or ticket is None:
            return
        if kind is None or meter.is_by_hand:
            self._breaker.release(ticket)
        else:
            self._breaker.record(ticket, kind)

    async def _call(
        self, messages: list[dict[str, Any]], params: dict[str, Any], until: float, emit: Emit | None
    ) -> Completion:
        latest = min(until, asyncio.get_running_loop().time() + self.config.request_timeout_seconds)
        async with asyncio.timeout_at(latest):
            return await self._client.complete(messages, params, self._key.read(), emit)

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()


def _lacking(config: LMConfig, key: str | None) -> tuple[str, str, str]:
    """The LM's name, its model, and what of the manifest lacks, as far as it is known."""
    if config.api_key_file is None:
        lacks = "its entry of spec.lms has no apiKeySecretRef, and no baseURL of a server that wants no key"
    elif not key:
        lacks = "the Secret that its apiKeySecretRef names holds no key"
    else:
        lacks = "its provider wants other credentials than its apiKeySecretRef gives"
    hint = "" if "/" in config.model else f"; its model names no provider (PROVIDER/{config.model})"
    return config.name, config.model, lacks + hint


def _outputs(value: bytes) -> list[Any]:
    found: list[Any] = attributes(orjson.loads(value))
    return found


class KeyFile:
    """A secret in a mounted file, read again when it changes."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self._stamp = 0
        self._value: str | None = None

    def read(self) -> str | None:
        """The secret; None without a file."""
        if self._path is None:
            return None
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._stamp, self._value = stamp, self._path.read_text().strip()
        except FileNotFoundError:
            return None
        return self._value
