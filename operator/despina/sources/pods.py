"""Asking pods of any program, for people, over HTTP.

The answers are anybody's: whole, soon, not too long, neither packed nor from elsewhere, or else none.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal, NamedTuple, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from despina.sources.answers import PLAIN, TooLong, refuse_packed
from despina.wire import ADMIN_PORT, SIGNATURE_HEADER, program_key, reading

log = logging.getLogger(__name__)
MOST_SIGNED = 4096
"""Signatures that are kept: one for each pod."""
Said = TypeVar("Said", bound=BaseModel)


def session(seconds: float, most: int, tls: ssl.SSLContext | Literal[False] = False) -> aiohttp.ClientSession:
    """Of connections to those whose answers are anybody's: so many, each question answered whole within so long. They
    keep no cookies, unpack nothing, and no proxy of the environment is asked."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=seconds),
        connector=aiohttp.TCPConnector(limit=most, ssl=tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers=PLAIN,
    )


async def whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body of an answer; raises TooLong."""
    refuse_packed(response.headers)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLong
    return bytes(body)


class Reply(NamedTuple):
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
        self._client = session(seconds, most_asked)

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
    ) -> Reply | None:
        """What is answered, of `most` bytes if not of as many as ever; None for what is no answer. With a body it is a
        POST."""
        headers = {SIGNATURE_HEADER: signature} if signature else {}
        headers |= {"content-type": "application/json"} if body is not None else {}
        method, url = "GET" if body is None else "POST", self._url(ip, path)
        try:
            async with (
                self._seats,
                self._client.request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                said = await whole(response, most or self._most_bytes)
                return Reply(response.status, response.headers.get(SIGNATURE_HEADER, ""), said)
        except (aiohttp.ClientError, OSError, TimeoutError, TooLong, ValueError) as exc:
            log.debug("No answer pod=%s error=%s", ip, type(exc).__name__)
            return None

    def _url(self, ip: str, path: str) -> str:
        host = f"[{ip}]" if ":" in ip else ip
        return f"http://{host}:{self._port}{path}"


def _keys_of(roots: tuple[str, ...], uid: str, namespace: str) -> list[str]:
    return [program_key(root, uid, namespace) for root in roots]


@lru_cache(MOST_SIGNED)
def _signature_of(roots: tuple[str, ...], uid: str, namespace: str, pod: str) -> str:
    return reading(_keys_of(roots, uid, namespace), namespace, pod)


def read(kind: type[Said], body: bytes) -> Said | None:
    """A document; None for what is none."""
    try:
        return kind.model_validate_json(body)
    except (ValidationError, ValueError) as exc:
        log.debug("No %s error=%s", kind.__name__, type(exc).__name__)
        return None
