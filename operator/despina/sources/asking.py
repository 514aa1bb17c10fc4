"""Asking one pod, for people: questions by hand, and what forms and comparisons are made of.

What pods answer is anybody's: whole, not too long, neither packed nor from elsewhere, or else nothing.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from despina.sources.answers import ANSWER_SECONDS, MOST_BYTES, PLAIN, TooLong, refuse_packed
from despina.sources.keys import asking_key
from despina.wire import (
    ADMIN_PORT,
    ASK_PATH,
    INTERFACE_PATH,
    LONGEST_QUESTION,
    PROMPTS_PATH,
    SIGNATURE_HEADER,
    STATE_PATH,
    TRACES_PATH,
    Answered,
    OrdersReport,
    PodState,
    Question,
    Trace,
    program_key,
    reading,
)

log = logging.getLogger(__name__)
MOST_READ, MOST_NUMBERED = 8, 4096
"""Pods of one namespace that are read at the same time, so that slow ones hold up no others; and pods of which it is
known which number comes next."""
MOST_PROMPTS_BYTES, MOST_TRACE_BYTES = 2**21, 2**22
RENUMBERINGS = 3
TAKEN, NOT_NEW, NOT_ANSWERED = 200, 409, 504
NOT_TAKEN = "the pod takes no question of this page: is it of this release, and does it know the present key?"
BUSY = "others ask this pod by hand at this moment: try again soon"
LOST = "the pod has not answered in time, or its answer cannot be read; it may have worked on the question all the same"
UNREACHED = "the pod cannot be reached: does a NetworkPolicy let this page reach port 8081?"
Read = TypeVar("Read", bound=BaseModel)


class Place(NamedTuple):
    """One pod of one program."""

    uid: str
    namespace: str
    pod: str
    ip: str


class NotAsked(Exception):
    """The pod has not begun to work on a question, so that another one may be asked."""


class Unanswered(Exception):
    """Whether the pod has worked on a question is not known."""


class ByHand:
    """Asks with the keys that let it: the present ones of all programs, and those before them."""

    def __init__(self, roots: Callable[[], Iterable[str]], port: int = ADMIN_PORT) -> None:
        """`roots` gives what programs' read keys are made of; it is asked each time, for keys are replaced."""
        self._roots, self._port = roots, port
        self._seats: defaultdict[str, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, MOST_READ))
        self._last: OrderedDict[Place, OrdersReport] = OrderedDict()
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            connector=aiohttp.TCPConnector(limit=0, ssl=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=PLAIN,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def state(self, place: Place) -> PodState | None:
        """What it holds and serves; None for what is no answer."""
        return _as(PodState, await self._read(place, STATE_PATH, MOST_BYTES))

    async def interface(self, place: Place, revision: str) -> bytes:
        """What a revision takes and gives, as JSON Schema that nobody has looked at; empty where it is not told."""
        return await self._read(place, f"{INTERFACE_PATH}/{revision}", MOST_BYTES)

    async def prompts(self, place: Place, revision: str) -> bytes:
        """What its prompts are made of, as JSON of `Prompts`; empty where it is not told."""
        return await self._read(place, f"{PROMPTS_PATH}/{revision}", MOST_PROMPTS_BYTES)

    async def trace(self, place: Place, name: str) -> Trace | None:
        """One of the traces that it holds."""
        found = await self._read(place, f"{TRACES_PATH}/{name}", MOST_TRACE_BYTES)
        return await asyncio.to_thread(_as, Trace, found)  # which may take a while

    async def ask(self, place: Place, revision: str, inputs: str, seconds: float) -> Answered:
        """What becomes of a question, which may take so many seconds. Raises NotAsked and Unanswered."""
        for _ in range(RENUMBERINGS):
            status, body = await self._ask(place, self._numbered(place, revision, inputs), seconds)
            if status == TAKEN:
                if answered := _as(Answered, body):
                    return answered
                raise Unanswered(LOST)
            if status != NOT_NEW or (last := _as(OrdersReport, body)) is None:
                break
            self._note(place, last)
        if status == NOT_ANSWERED:
            raise Unanswered(LOST)
        raise NotAsked(BUSY if status == 503 else NOT_TAKEN)

    def _numbered(self, place: Place, revision: str, inputs: str) -> bytes:
        last = self._last.get(place, OrdersReport())
        number = self._note(place, OrdersReport(boot=last.boot, number=last.number + 1)).number
        question = Question(
            namespace=place.namespace, pod=place.pod, boot=last.boot, number=number, revision=revision, inputs=inputs
        )
        body = question.model_dump_json().encode()
        if len(body) > LONGEST_QUESTION:
            raise NotAsked(f"the inputs are too long: a question has {LONGEST_QUESTION} bytes at most")
        return body

    def _note(self, place: Place, last: OrdersReport) -> OrdersReport:
        self._last[place] = last
        self._last.move_to_end(place)
        while len(self._last) > MOST_NUMBERED:
            self._last.popitem(last=False)
        return last

    async def _ask(self, place: Place, body: bytes, seconds: float) -> tuple[int, bytes]:
        keys = [asking_key(root, place.uid, place.namespace) for root in self._roots()]
        signatures = ", ".join(base64.b64encode(key.sign(body)).decode() for key in keys)
        headers = {SIGNATURE_HEADER: signatures, "Content-Type": "application/json"}
        patience = aiohttp.ClientTimeout(total=seconds, sock_connect=ANSWER_SECONDS)
        asked = self._client.post(self._url(place, ASK_PATH), data=body, headers=headers, timeout=patience,
                                  allow_redirects=False)  # fmt: skip
        try:
            async with asked as response:
                refuse_packed(response.headers)
                return response.status, await _whole(response, MOST_PROMPTS_BYTES)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise NotAsked(UNREACHED) from None
        except (aiohttp.ClientError, OSError, TimeoutError, TooLong, ValueError):
            raise Unanswered(LOST) from None

    async def _read(self, place: Place, path: str, most: int) -> bytes:
        keys = [program_key(root, place.uid, place.namespace) for root in self._roots()]
        headers = {SIGNATURE_HEADER: reading(keys, place.namespace, place.pod)}
        try:
            async with (
                self._seats[place.namespace],
                self._client.get(self._url(place, path), headers=headers, allow_redirects=False) as response,
            ):
                refuse_packed(response.headers)
                return await _whole(response, most) if response.status == TAKEN else b""
        except (aiohttp.ClientError, OSError, TimeoutError, TooLong, ValueError) as exc:
            log.debug("No answer pod=%s/%s error=%s", place.namespace, place.pod, type(exc).__name__)
            return b""

    def _url(self, place: Place, path: str) -> str:
        host = f"[{place.ip}]" if ":" in place.ip else place.ip
        return f"http://{host}:{self._port}{path}"


async def _whole(response: Any, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLong
    return bytes(body)


def _as(kind: type[Read], body: bytes) -> Read | None:
    try:
        return kind.model_validate_json(body) if body else None
    except (ValidationError, ValueError):
        return None
