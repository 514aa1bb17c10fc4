"""Asking many pods what they count, for people: often, so with as little work as it takes.

The answers are anybody's: whole, soon, not too long, neither packed nor from elsewhere, or else none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

import aiohttp
from pydantic import BaseModel, RootModel, ValidationError

from despina.sources.answers import ANSWER_SECONDS, PLAIN, TooLong, refuse_packed
from despina.wire import (
    ADMIN_PORT,
    FIGURES_PATH,
    PROGRAM_PATH,
    SIGNATURE_HEADER,
    STATE_PATH,
    Figures,
    PodState,
    program_key,
    reading,
)

log = logging.getLogger(__name__)
MOST_ASKED = 64
"""At the same time."""
MOST_BYTES = 2**18
"""Of an answer: what is read becomes far more in memory. Pods of ours say less, with all the names that they count."""
Answer = TypeVar("Answer", bound=BaseModel)


class Manifest(RootModel[dict[str, Any]]):
    """What may be one."""


class Asker:
    """Reads pods of any program with the keys that let it: the present one, and the one before it."""

    def __init__(self, roots: Callable[[], Iterable[str]], port: int = ADMIN_PORT) -> None:
        """`roots` gives what programs' read keys are made of; it is asked each time, for keys are replaced."""
        self._roots = roots
        self._port = port
        self._seats = asyncio.Semaphore(MOST_ASKED)
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            connector=aiohttp.TCPConnector(limit=MOST_ASKED, ssl=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=PLAIN,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def figures(self, uid: str, namespace: str, pod: str, ip: str) -> Figures | None:
        """What a pod of the program of this uid counts; None for what is no answer."""
        return await self._read(Figures, FIGURES_PATH, uid, namespace, pod, ip)

    async def state(self, uid: str, namespace: str, pod: str, ip: str) -> PodState | None:
        """What it holds and serves."""
        return await self._read(PodState, STATE_PATH, uid, namespace, pod, ip)

    async def program(self, ip: str) -> dict[str, Any] | None:
        """The program that is served there without a cluster: its manifest, with a status."""
        found = await self._read(Manifest, PROGRAM_PATH, "", "", "", ip)
        return found.root if found else None

    async def _read(self, kind: type[Answer], path: str, uid: str, namespace: str, pod: str, ip: str) -> Answer | None:
        keys = [program_key(root, uid, namespace) for root in self._roots()]
        host = f"[{ip}]" if ":" in ip else ip
        try:
            async with self._seats:
                body = await self._get(f"http://{host}:{self._port}{path}", reading(keys, namespace, pod))
            return kind.model_validate_json(body) if body is not None else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValidationError, TooLong, ValueError) as exc:
            log.debug("No figures pod=%s/%s error=%s", namespace, pod, type(exc).__name__)
            return None

    async def _get(self, url: str, signature: str) -> bytes | None:
        headers = {SIGNATURE_HEADER: signature}
        async with self._client.get(url, headers=headers, allow_redirects=False) as response:
            refuse_packed(response.headers)
            return await _whole(response) if response.status == 200 else None


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TooLong
    return bytes(body)
