"""Asking many pods, for people; what they count often, so with as little work as it takes.

The answers are anybody's: whole, soon, not too long, neither packed nor from elsewhere, or else none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
from pydantic import BaseModel, RootModel, ValidationError

from despina.sources.answers import ANSWER_SECONDS, PLAIN, TooLong, refuse_packed
from despina.sources.questions import Lines, NoAnswer
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
MOST_SIGNED = 4096
"""Signatures that are kept: one for each pod."""
Answer = TypeVar("Answer", bound=BaseModel)


class Manifest(RootModel[dict[str, Any]]):
    """What may be one."""


class Answered(NamedTuple):
    """What a pod answers, whole."""

    status: int
    signature: str
    body: bytes


class PodClient:
    """Asks pods of any program, with the keys that let it: the present one, and the one before it."""

    def __init__(
        self,
        roots: Callable[[], Iterable[str]],
        port: int = ADMIN_PORT,
        *,
        seconds: float,
        most_asked: int,
        most_bytes: int,
    ) -> None:
        """`roots` gives what programs' read keys are made of; it is asked each time, for keys are replaced."""
        self._roots = roots
        self._port = port
        self._most_bytes = most_bytes
        self._seats = asyncio.Semaphore(most_asked)
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=seconds),
            connector=aiohttp.TCPConnector(limit=most_asked, ssl=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=PLAIN,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def _keys(self, uid: str, namespace: str) -> list[str]:
        return _keys_of(tuple(self._roots()), uid, namespace)

    def _signature(self, uid: str, namespace: str, pod: str) -> str:
        return _signature_of(tuple(self._roots()), uid, namespace, pod)

    async def _ask(
        self, ip: str, path: str, signature: str = "", body: bytes | None = None, most: int = 0
    ) -> Answered | None:
        """What is answered, of `most` bytes if not of as many as ever; None for what is no answer. With a body it is a
        POST."""
        host = f"[{ip}]" if ":" in ip else ip
        headers = {SIGNATURE_HEADER: signature} if signature else {}
        headers |= {"content-type": "application/json"} if body is not None else {}
        asking = self._client.request(
            "GET" if body is None else "POST",
            f"http://{host}:{self._port}{path}",
            data=body,
            headers=headers,
            allow_redirects=False,
        )
        try:
            async with self._seats, asking as response:
                refuse_packed(response.headers)
                said = await _whole(response, most or self._most_bytes)
                return Answered(response.status, response.headers.get(SIGNATURE_HEADER, ""), said)
        except (aiohttp.ClientError, OSError, TimeoutError, TooLong, ValueError) as exc:
            log.debug("No answer pod=%s error=%s", ip, type(exc).__name__)
            return None


class Counted(NamedTuple):
    """What a pod counts."""

    figures: Figures | None
    """None: the same as when it said this tag before."""
    tag: str = ""


class Asker(PodClient):
    """Reads what they count."""

    def __init__(self, roots: Callable[[], Iterable[str]], port: int = ADMIN_PORT) -> None:
        super().__init__(roots, port, seconds=ANSWER_SECONDS, most_asked=MOST_ASKED, most_bytes=MOST_BYTES)
        self._lines, self._turns = Lines(port, MOST_BYTES, ANSWER_SECONDS), asyncio.Semaphore(MOST_ASKED)

    async def __aexit__(self, *_: object) -> None:
        self._lines.close()
        await super().__aexit__(*_)

    async def figures(self, uid: str, namespace: str, pod: str, ip: str, tag: str = "") -> Counted | None:
        """What a pod of the program of this uid counts, if that is not what it said with this tag; None for what is no
        answer."""
        headers = f"{SIGNATURE_HEADER}: {self._signature(uid, namespace, pod)}\r\n"
        headers += f"If-None-Match: {tag}\r\n" if tag else ""
        try:
            async with self._turns:
                reply = await self._lines.ask(ip, FIGURES_PATH, headers)
        except (NoAnswer, TooLong, OSError, ValueError) as exc:
            log.debug("No figures pod=%s/%s error=%s", namespace, pod, type(exc).__name__)
            return None
        if reply.status == 304 and tag:
            return Counted(None, tag)
        figures = read(Figures, reply.body) if reply.status == 200 else None
        return Counted(figures, reply.tag) if figures else None

    async def state(self, uid: str, namespace: str, pod: str, ip: str) -> PodState | None:
        """What it holds and serves."""
        return await self._read(PodState, STATE_PATH, uid, namespace, pod, ip)

    async def program(self, ip: str) -> dict[str, Any] | None:
        """The program that is served there without a cluster: its manifest, with a status."""
        found = await self._read(Manifest, PROGRAM_PATH, "", "", "", ip)
        return found.root if found else None

    async def _read(self, kind: type[Answer], path: str, uid: str, namespace: str, pod: str, ip: str) -> Answer | None:
        answer = await self._ask(ip, path, self._signature(uid, namespace, pod))
        return read(kind, answer.body) if answer and answer.status == 200 else None


def _keys_of(roots: tuple[str, ...], uid: str, namespace: str) -> list[str]:
    return [program_key(root, uid, namespace) for root in roots]


@lru_cache(MOST_SIGNED)
def _signature_of(roots: tuple[str, ...], uid: str, namespace: str, pod: str) -> str:
    return reading(_keys_of(roots, uid, namespace), namespace, pod)


def read(kind: type[Answer], body: bytes) -> Answer | None:
    """A document; None for what is none."""
    try:
        return kind.model_validate_json(body)
    except (ValidationError, ValueError) as exc:
        log.debug("No %s error=%s", kind.__name__, type(exc).__name__)
        return None


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLong
    return bytes(body)
