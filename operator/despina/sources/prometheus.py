"""Asking Prometheus what was: `query_range`, bounded in time and in bytes. What is asked for is made by the page, never
by who looks at it."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
from pydantic_core import from_json

from despina.sources.answers import TooLong
from despina.sources.pods import session, whole

log = logging.getLogger(__name__)
SECONDS = 5.0
"""For a whole answer."""
MOST_BYTES = 2**18
"""Of an answer: one curve has some hundred points."""
MOST_ASKED = 8
"""Queries at the same time."""
TOKEN, AUTHORITY = "token", "ca.crt"
"""Files in the folder of credentials, each of which may be missing."""
Points = list[tuple[float, float]]


class NoPast(Exception):
    """Prometheus gave no answer, or none that can be used; the text says why in a few words of ours."""


class Prometheus:
    """One Prometheus, or what speaks like it."""

    def __init__(self, url: str, credentials: Path | None = None) -> None:
        """`credentials`: a folder with `token`, read at each question, and `ca.crt`, read now. Raises OSError and
        ssl.SSLError for a certificate that is none."""
        self._url = f"{url.rstrip('/')}/api/v1/query_range"
        self._token = credentials / TOKEN if credentials else None
        authority = credentials / AUTHORITY if credentials and (credentials / AUTHORITY).exists() else None
        self._seats = asyncio.Semaphore(MOST_ASKED)
        self._client = session(SECONDS, MOST_ASKED, ssl.create_default_context(cafile=authority))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def curve(self, query: str, start: float, end: float, step: float) -> Points:
        """What a query that gives one series was at each step: moments in seconds since the epoch, and values. Raises
        NoPast."""
        asked = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        try:
            async with self._seats:
                return points_of(await self._answer(asked), math.ceil((end - start) / step) + 1)
        except (aiohttp.ClientError, OSError, TimeoutError, TooLong, ValueError) as exc:
            raise NoPast(type(exc).__name__) from exc

    async def _answer(self, asked: Mapping[str, str]) -> bytes:
        headers = {"Authorization": f"Bearer {token}"} if (token := self._token_now()) else {}
        async with self._client.post(self._url, data=asked, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise NoPast(f"status {response.status}")
            return await whole(response, MOST_BYTES)

    def _token_now(self) -> str:
        try:
            return self._token.read_text().strip() if self._token else ""
        except OSError:
            return ""


def points_of(body: bytes, most: int) -> Points:
    """The points of an answer's first series, so many at most; none where there is no series. Raises NoPast, and
    ValueError for what is no JSON."""
    said = from_json(body)
    if _within(said, "status") != "success":
        raise NoPast("no success")
    series = _within(_within(said, "data"), "result")
    values = _within(series[0], "values") if isinstance(series, list) and series else None
    return [point for one in (values if isinstance(values, list) else [])[:most] if (point := _point(one))]


def _within(said: Any, name: str) -> Any:
    return said.get(name) if isinstance(said, dict) else None


def _point(said: Any) -> tuple[float, float] | None:
    try:
        at, value = said
        return float(at), float(value)
    except (TypeError, ValueError, OverflowError):
        return None
