"""Answers of pods, tools and registries, which are anybody's: whole, soon and not too long, or else none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx  # 11 MiB, which the page, that asks otherwise, does without

log = logging.getLogger(__name__)
ANSWER_SECONDS = 2.0
"""For a whole answer: a client's own time-out counts anew with each byte."""
MOST_BYTES = 2**20
PLAIN = {"accept-encoding": "identity"}
"""What is asked for: two kilobytes may unpack to gigabytes."""


def no_cookies() -> CookieJar:
    """A jar that takes nothing: a session that one's credentials opened must not let in another, and a pod could send
    cookies without end."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


class TooLong(Exception):
    """An answer goes on and on, or may do so when it is unpacked."""


def refuse_packed(headers: Mapping[str, str]) -> None:
    """Raises TooLong for an answer that is compressed though nobody asked for that."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise TooLong


async def body_of(response: httpx.Response, most: int = MOST_BYTES) -> bytes:
    """The body of an answer; raises TooLong."""
    refuse_packed(response.headers)
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most:
            raise TooLong
    return bytes(body)


async def answer_of(
    client: httpx.AsyncClient, url: str, wait: float = 0.0, headers: Mapping[str, str] | None = None
) -> bytes | None:
    """What is answered, by one that may take `wait` seconds to begin; None for anything that is no answer."""
    seconds = ANSWER_SECONDS + wait
    patience = type(client.timeout)(seconds, connect=client.timeout.connect)
    try:
        asking = client.stream("GET", url, timeout=patience, headers=headers)
        async with asyncio.timeout(seconds), asking as response:
            return await body_of(response) if response.is_success else None
    except Exception as exc:  # whatever a pod answers must not end what asks it
        log.debug("No answer url=%s error=%s", url, type(exc).__name__)
        return None
