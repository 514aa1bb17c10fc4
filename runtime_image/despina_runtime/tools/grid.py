"""From a call by name to an endpoint that answers it: one grid a worker, for all tools that its program may call.

What is remembered of an endpoint (calls under way, its breaker, a pause that it asked for) outlives changes of the
tools' configuration, which is read again when its file changes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jsonschema_rs
from pydantic_core import from_json, to_json

from despina.wire import NEVER, ContractConfig, ToolBackend, ToolBreakerConfig, ToolConfig
from despina_runtime.breaker import Breaker
from despina_runtime.cache.flight import is_over
from despina_runtime.cache.store import Store
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.target import KeyFile
from despina_runtime.telemetry.counting import ToolCounts
from despina_runtime.tools.endpoint import Addresses, Endpoint, HttpTransport, Outcome, Request, Transport, make_session
from despina_runtime.tools.errors import (
    LEFT,
    ToolArgumentsInvalid,
    ToolError,
    ToolFailed,
    ToolTimeout,
    ToolUnavailable,
    ToolUnknown,
)
from despina_runtime.tools.local import LocalTransport
from despina_runtime.tools.mcp_client import McpTransport
from despina_runtime.tools.routing import UNCOUNTED, Fate, choose, may_try_again

ROUND_SECONDS = 0.25
MOST_UNREACHED = 2
"""Addresses at which nobody listened, before the tool's Service is asked instead."""


@dataclass
class Known:
    """What the grid remembers of one tool."""

    config: ToolConfig
    addresses: dict[ToolBackend, Addresses] = field(default_factory=dict)
    endpoints: dict[tuple[ToolBackend, str], Endpoint] = field(default_factory=dict)
    services: dict[ToolBackend, Endpoint] = field(default_factory=dict)
    validators: tuple[Any, Any] | None = None
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call ends, for those that wait because all endpoints are full."""


@dataclass
class Progress:
    """How far one call has got."""

    attempts: int = 0
    last: Outcome | None = None
    patience: float | None = None
    """The event loop's time until which it waits for somebody to listen; from the first round in which nobody did."""
    tried: set[int] = field(default_factory=set)
    unreached: set[int] = field(default_factory=set)
    """Of those that were tried, the ones at which nobody listened in this round."""

    def note(self, endpoint: Endpoint, outcome: Outcome) -> None:
        """One more attempt."""
        self.tried.add(id(endpoint))
        if outcome.fate is Fate.UNREACHED:
            self.unreached.add(id(endpoint))
        self.attempts += outcome.fate not in UNCOUNTED
        self.last = outcome


class Grid:
    """Finds an endpoint for each call."""

    def __init__(self, counts: ToolCounts | None = None) -> None:
        self._counts = counts or ToolCounts()
        self._session: aiohttp.ClientSession | None = None
        self._tools: dict[str, Known] = {}
        self._turns = itertools.count(1)

    async def call(
        self, key: str, config: ToolConfig, arguments: dict[str, Any], deadline: float,
        store: Store | None = None, meter: Meter | None = None,
    ) -> Any:  # fmt: skip
        """The tool's result, as JSON.

        Args:
            key: the tool's NAMESPACE/NAME.
            config: what is known of it.
            arguments: by name, as JSON.
            deadline: the event loop's time at which the call must have ended.
            store: where results are kept, if the tool allows it.
            meter: the request's account, where it is made in one.

        Raises:
            ToolError: the call did not succeed; the class says how far it got.
        """
        contract = config.contract
        if contract is None:
            raise ToolUnknown(key, config.missing or "there is no such tool")
        known = self._known(key, config)
        self._check(key, known, arguments)
        began = time.perf_counter()
        try:
            if config.cache_ttl_seconds and store:
                return await self._cached(key, known, contract, arguments, deadline, store, meter)
            return await self._execute(key, known, contract, arguments, deadline, meter)
        finally:
            self._counts.took(key, time.perf_counter() - began)

    def _known(self, key: str, config: ToolConfig) -> Known:
        known = self._tools.get(key)
        if known is None or known.config != config:
            before = known or Known(config)
            known = self._tools[key] = Known(config, before.addresses, before.endpoints, before.services)
        return known

    def _check(self, key: str, known: Known, arguments: dict[str, Any]) -> None:
        error = next(_validators(key, known)[0].iter_errors(arguments), None)
        if error:
            where = ".".join(map(str, error.instance_path))
            raise ToolArgumentsInvalid(key, f"{where or 'arguments'}: {error.message}"[:500])

    async def _cached(
        self, key: str, known: Known, contract: ContractConfig, arguments: dict[str, Any], deadline: float,
        store: Store, meter: Meter | None,
    ) -> Any:  # fmt: skip
        name = store.keys.of_tool(key, contract, arguments)
        found = await store.get(name)
        if found and (kept := from_json(found.value))["until"] > time.time():
            return kept["result"]

        async def execute() -> bytes:
            try:
                result = await self._execute(key, known, contract, arguments, deadline, meter)
            except ToolTimeout:
                if is_over(deadline):
                    raise TimeoutError from None
                raise
            until = time.time() + known.config.cache_ttl_seconds
            kept = to_json({"until": until, "result": result})
            store.put([(name, kept)])
            return kept

        try:
            made, _ = await store.flights.share(name, deadline, execute)
        except TimeoutError:
            raise ToolTimeout(key, "no result in time") from None
        return from_json(made)["result"]

    async def _execute(
        self, key: str, known: Known, contract: ContractConfig, arguments: dict[str, Any], deadline: float,
        meter: Meter | None,
    ) -> Any:  # fmt: skip
        """Attempts, until one succeeds or no other may be made.

        Where nobody listens at any of the tool's own pods, the call waits for its turn as it would at a pod that is
        full: they may just be replaced, or the names be out of date.
        """
        config, progress = known.config, Progress()
        while True:
            endpoint = await self._next(known, progress, deadline)
            if endpoint is None:
                if not await _another_round(known, progress, deadline):
                    raise _error(key, progress.last, config)
                continue
            outcome = await self._attempt(key, known, endpoint, arguments, deadline, meter)
            progress.note(endpoint, outcome)
            if outcome.fate is Fate.DONE:
                return self._result(key, known, outcome)
            attempts, most = progress.attempts, config.max_attempts
            if not may_try_again(outcome.fate, contract.idempotent, config.retry_on, attempts, most):
                raise _error(key, outcome, config)

    async def _next(self, known: Known, progress: Progress, deadline: float) -> Endpoint | None:
        """The endpoint that is tried next in this round."""
        found = None
        if len(progress.unreached) < MOST_UNREACHED:
            found = await self._choose(known, progress.tried, deadline)
        return found or self._last_resort(known, progress.tried)

    async def _attempt(
        self, key: str, known: Known, endpoint: Endpoint, arguments: dict[str, Any], deadline: float,
        meter: Meter | None,
    ) -> Outcome:  # fmt: skip
        now = asyncio.get_running_loop().time()
        until = min(deadline, now + known.config.timeout_seconds)
        name, trace = meter.passed_on() if meter else ("", ())
        request = Request(endpoint.backend.tool, arguments, until, trace)
        began, fate = time.perf_counter(), LEFT
        try:
            outcome = await endpoint.call(request, next(self._turns))
            fate = outcome.fate.value
        finally:
            known.freed.set()
            if meter:
                meter.note_tool(key, endpoint.backend.name, fate, name, began)
        self._counts.attempt(key, endpoint.backend.name, fate)
        is_gone = outcome.is_leaving or outcome.fate in (Fate.UNREACHED, Fate.BROKEN, Fate.STALE)
        if is_gone and endpoint.backend in known.addresses:
            known.addresses[endpoint.backend].suspect()
        return outcome

    def _last_resort(self, known: Known, tried: set[int]) -> Endpoint | None:
        """The tool's Service, whose endpoints the cluster knows sooner than callers know the addresses of its pods."""
        service = known.config.service
        if service is None:
            return None
        if service not in known.services:
            # No breaker: each connection may lead to another pod.
            never = ToolBreakerConfig(error_rate_percent=NEVER)
            known.services[service] = Endpoint(
                service, self._transport(known.config, service, service.url), Breaker(never), None
            )
        endpoint = known.services[service]
        return endpoint if id(endpoint) not in tried else None

    async def _choose(self, known: Known, tried: set[int], deadline: float) -> Endpoint | None:
        """An endpoint that was not tried yet, once one that is full or asked for a pause can be used again.

        A pause is waited for only where the manifest says to try again after a 429.
        """
        config, now = known.config, asyncio.get_running_loop().time()
        turn = min(deadline, now + config.queue_timeout_seconds)
        is_on_time = True
        while is_on_time:
            endpoints = [e for e in await self._endpoints(known) if id(e) not in tried]
            views = [e.view(config.max_in_flight) for e in endpoints]
            index = choose(config.policy, views, random.random())  # noqa: S311 - a choice, no secret
            if index is not None:
                return endpoints[index]
            pauses = [e.limited_until - e.clock() for e, v in zip(endpoints, views, strict=True) if v.is_limited]
            if any(v.is_full and not (v.is_open or v.is_limited) for v in views):
                is_on_time = await _freed(known, turn)
            elif pauses and "Status429" in config.retry_on:
                is_on_time = await _paused(min(pauses), deadline)
            else:
                return None
        return None

    async def _endpoints(self, known: Known) -> list[Endpoint]:
        """All endpoints of the backends that may be used, as they are now."""
        wanted = [(b, url) for b in known.config.backends if not b.excluded for url in await self._urls(known, b)]
        for place in wanted:
            if place not in known.endpoints:
                known.endpoints[place] = self._make(known.config, *place)
        if len(known.endpoints) > len(wanted):
            await self._forget(known, set(wanted))
        return [known.endpoints[place] for place in wanted]

    async def _urls(self, known: Known, backend: ToolBackend) -> Iterable[str]:
        if not backend.is_headless:
            return [backend.url]
        if backend not in known.addresses:
            known.addresses[backend] = Addresses(backend.url)
        return await known.addresses[backend].get()

    def _make(self, config: ToolConfig, backend: ToolBackend, url: str) -> Endpoint:
        slow = config.breaker.slow_call_millis
        seconds = slow / 1000 if slow else None
        return Endpoint(backend, self._transport(config, backend, url), Breaker(config.breaker), seconds)

    def _transport(self, config: ToolConfig, backend: ToolBackend, url: str) -> Transport:
        if backend.kind == "Local":
            return LocalTransport(backend.url)
        token = KeyFile(backend.token_file)
        if backend.kind == "Mcp":
            return McpTransport(backend, token)
        self._session = self._session or make_session()
        return HttpTransport(self._session, url, token, keeps=backend != config.service)

    async def _forget(self, known: Known, wanted: set[tuple[ToolBackend, str]]) -> None:
        """Endpoints that are gone, once their last call has ended."""
        for place, endpoint in list(known.endpoints.items()):
            if place not in wanted and not endpoint.in_flight:
                del known.endpoints[place]
                await endpoint.transport.close()

    def _result(self, key: str, known: Known, outcome: Outcome) -> Any:
        """The result, if it is what the contract says."""
        validator = _validators(key, known)[1]
        error = next(validator.iter_errors(outcome.result), None) if validator else None
        if error:
            where = ".".join(map(str, error.instance_path))
            raise ToolFailed(key, f"the result does not fit the contract: {where or 'result'}: {error.message}"[:500])
        return outcome.result

    async def close(self) -> None:
        """Give connections back."""
        for known in self._tools.values():
            for endpoint in known.endpoints.values():
                await endpoint.transport.close()
        if self._session:
            await self._session.close()


async def _paused(seconds: float, until: float) -> bool:
    """Wait so long, if there is the time."""
    wait = max(0.01, seconds)
    if asyncio.get_running_loop().time() + wait >= until:
        return False
    await asyncio.sleep(wait)
    return True


async def _freed(known: Known, until: float) -> bool:
    """Wait until a call ends; whether that was in time."""
    known.freed.clear()
    try:
        async with asyncio.timeout_at(until):
            await known.freed.wait()
    except TimeoutError:
        return False
    return True


async def _another_round(known: Known, progress: Progress, deadline: float) -> bool:
    """Whether all endpoints shall be tried again: nobody listened at one of the tool's own pods, and there is time."""
    if not progress.unreached or known.config.service is None:
        return False
    now = asyncio.get_running_loop().time()
    progress.patience = progress.patience or min(deadline, now + known.config.queue_timeout_seconds)
    if now + ROUND_SECONDS >= progress.patience:
        return False
    await asyncio.sleep(ROUND_SECONDS)
    for addresses in known.addresses.values():
        addresses.suspect()
    progress.tried -= progress.unreached
    progress.unreached.clear()
    return True


def _validators(key: str, known: Known) -> tuple[Any, Any]:
    """Of the arguments, and of the result if the contract says anything of it."""
    if known.validators is None:
        contract = known.config.contract
        assert contract is not None  # noqa: S101 - asked for by `call` first
        returns = contract.returns
        known.validators = _validator(key, contract.parameters), None if returns is None else _validator(key, returns)
    return known.validators


def _validator(key: str, schema: dict[str, Any]) -> Any:
    try:
        return jsonschema_rs.validator_for(schema, retriever=_fetch_nothing)
    except ValueError as exc:
        raise ToolUnavailable(key, f"its contract cannot be used: {exc}"[:500]) from None


def _fetch_nothing(uri: str) -> Any:
    raise ValueError("a contract refers to its own parts only")


def _error(key: str, outcome: Outcome | None, config: ToolConfig) -> ToolError:
    """What a program is told."""
    if outcome is None:
        excluded = "; ".join(f"{b.name}: {b.excluded}" for b in config.backends if b.excluded)
        return ToolUnavailable(key, f"no backend can be used now{f' ({excluded})' if excluded else ''}")
    match outcome.fate:
        case Fate.INVALID:
            return ToolArgumentsInvalid(key, outcome.message)
        case Fate.TIMEOUT:
            return ToolTimeout(key, outcome.message)
        case Fate.ERROR:
            return ToolFailed(key, outcome.message)
    return ToolUnavailable(key, outcome.message)
