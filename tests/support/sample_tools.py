"""A package of tools as a user would write one. Each execution is told to SAMPLE_TOOLS_LOG, a file, or to the server
SAMPLE_TOOLS_COUNTER, where they are named."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request

from pydantic import BaseModel, Field

from despina_runtime.tools.errors import NotReady


class Passage(BaseModel):
    text: str
    score: float


def _note(text: str) -> None:
    if url := os.environ.get("SAMPLE_TOOLS_COUNTER"):
        urllib.request.urlopen(url, text.encode(), timeout=5).read()  # noqa: S310 - the test's own server
    if path := os.environ.get("SAMPLE_TOOLS_LOG"):
        with open(path, "a") as log:
            log.write(f"{text}\n")


def search(query: str, top_k: int = Field(default=2, ge=1, le=9)) -> list[Passage]:
    """Find passages that say what is asked."""
    _note(f"search {query}")
    time.sleep(float(os.environ.get("SAMPLE_TOOLS_DELAY", "0")))
    return [Passage(text=f"{query} {n}", score=1 / (n + 1)) for n in range(top_k)]


async def echo(text: str, seconds: float = 0.0) -> str:
    """Say it again, after a while."""
    _note(f"echo {text}")
    await asyncio.sleep(seconds)
    return text


def book(order: str) -> int:
    """Book something; to be done once only."""
    _note(f"book {order}")
    return len(order)


def boom(text: str) -> str:
    """Raise."""
    raise RuntimeError(f"no {text}")


def lie(text: str) -> int:
    """Give something else than it says."""
    return text  # type: ignore[return-value]


def locked(text: str) -> str:
    """Need what is not there."""
    raise NotReady("CredentialsMissing", "give the service account a role")
