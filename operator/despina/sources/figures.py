"""What pods count, asked of many of them often, so with as little work as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, RootModel

from despina.sources.answers import ANSWER_SECONDS, TooLong
from despina.sources.pods import PodClient, read
from despina.sources.questions import Lines, NoAnswer
from despina.wire import ADMIN_PORT, FIGURES_PATH, PROGRAM_PATH, SIGNATURE_HEADER, STATE_PATH, Figures, PodState

log = logging.getLogger(__name__)
MOST_ASKED = 64
"""At the same time."""
MOST_BYTES = 2**18
"""Of an answer: what is read becomes far more in memory. Pods of ours say less, with all the names that they count."""
Answer = TypeVar("Answer", bound=BaseModel)


class Manifest(RootModel[dict[str, Any]]):
    """What may be one."""


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
