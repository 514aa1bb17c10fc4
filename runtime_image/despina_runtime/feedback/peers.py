"""Labels from one pod to the one that answered: on the admin port, signed with the key that all of a program's pods
have."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import aiohttp
import orjson
from pydantic import TypeAdapter

from despina.wire import LABELS_PATH, SIGNATURE_HEADER
from despina_runtime.feedback.label import Label, Reply
from despina_runtime.telemetry.prediction import address_of

TIMEOUT = aiohttp.ClientTimeout(total=5, connect=1)
LABELS: TypeAdapter[list[Label]] = TypeAdapter(list[Label])
REPLIES: TypeAdapter[list[Reply]] = TypeAdapter(list[Reply])


class Unreachable(Exception):
    """The pod does not answer, or another one has its address now."""


def sign(key: bytes, pod: str, body: bytes) -> str:
    """The signature of labels for a pod."""
    return hmac.new(key, pod.encode() + b" " + body, "sha256").hexdigest()


def is_signed(key: bytes, pod: str, body: bytes, signature: str) -> bool:
    """Whether a pod of the program signed them for this one."""
    return _is_same(sign(key, pod, body), signature)


def _is_same(expected: str, given: str) -> bool:
    """Whether a header holds this. As bytes, since a header may be any text, and not all texts can be compared."""
    return hmac.compare_digest(expected.encode(), given.encode(errors="surrogateescape"))


class Peers:
    """The program's other pods."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, pod: str, labels: Sequence[Label]) -> list[Reply]:
        """What the pod did with them; raises Unreachable."""
        address = address_of(pod)
        if not address:
            raise Unreachable
        body = LABELS.dump_json(list(labels))
        headers = {SIGNATURE_HEADER: sign(self._key, pod, body), "content-type": "application/json"}
        self._session = self._session or aiohttp.ClientSession(timeout=TIMEOUT)
        try:
            async with self._session.post(f"http://{address}{LABELS_PATH}", data=body, headers=headers) as answer:
                if answer.status != 200:
                    raise Unreachable
                return REPLIES.validate_json(await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, orjson.JSONDecodeError):
            raise Unreachable from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()
