"""What answers when the program cannot: fixed outputs, or another program. Every such answer is marked."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from despina.wire import FALLBACK_HEADER, FailureReason, FallbackConfig
from despina_runtime.lm.target import KeyFile
from despina_runtime.pipeline.call import Answer, Call, Rejected, Step
from despina_runtime.pipeline.validate import render_outputs
from despina_runtime.problem import Problem
from despina_runtime.program.interface import Interface
from despina_runtime.program.unservable import ProgramError

log = logging.getLogger(__name__)
RESERVED_PERCENT = 25


class FixedResponse:
    """`fallback.response`."""

    def __init__(self, body: bytes, then: Step) -> None:
        self._body = body
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """What follows, or the fixed outputs."""
        try:
            return await self._then(call)
        except Problem as problem:
            if not problem.can_fall_back:
                raise
            return Answer(self._body, degraded=problem.type)


class OtherProgram:
    """`fallback.programRef`: it is asked within the last quarter of the deadline, or sooner if the failure is.
    It is shown the token that this program asks of its own callers."""

    def __init__(self, url: str, token: KeyFile, then: Step) -> None:
        self._url = url
        self._token = token
        self._then = then
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, call: Call) -> Answer:
        """What follows, or the other program's answer; its failure leaves the first problem standing."""
        if not call.may_ask_others:
            return await self._then(call)
        deadline, now = call.deadline, asyncio.get_running_loop().time()
        call.deadline = deadline - (deadline - now) * RESERVED_PERCENT / 100
        try:
            return await self._then(call)
        except Problem as problem:
            if not problem.can_fall_back:
                raise
            body = await self._ask(call.body, deadline)
            if body is None:
                raise
            return Answer(body, degraded=problem.type)

    async def close(self) -> None:
        """Give the connections back."""
        if self._session:
            await self._session.close()

    async def _ask(self, body: bytes, deadline: float) -> bytes | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout())
        headers = {"content-type": "application/json", FALLBACK_HEADER: "1"}
        if token := self._token.read():
            headers["authorization"] = f"Bearer {token}"
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._session.post(self._url, data=body, headers=headers) as response,
            ):
                if response.status == 200:
                    return await response.read()
                log.warning("Fallback program did not answer url=%s status=%d", self._url, response.status)
        except (aiohttp.ClientError, TimeoutError) as exc:
            log.warning("Fallback program did not answer url=%s error=%s", self._url, type(exc).__name__)
        return None


def build_fallback(config: FallbackConfig, token_file: str | None, interface: Interface, then: Step) -> Step:
    """The manifest's fallback; raises ProgramError when fixed outputs do not fit the signature."""
    if config.url:
        return OtherProgram(config.url, KeyFile(token_file), then)
    try:
        return FixedResponse(render_outputs(interface, config.response or {}), then)
    except Rejected as rejected:
        text = f"spec.fallback.response does not fit the program's outputs: {rejected}"
        raise ProgramError(FailureReason.FALLBACK_INVALID, text) from None
