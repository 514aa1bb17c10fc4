"""Labels from one pod to the one that answered: on the admin port, signed with the key that all of a program's pods
have, and so is what that one replies: a pod's address may be somebody else's by now."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

from despina.wire import LABELS_PATH, SIGNATURE_HEADER
from despina.wire.labels import LABELS, LONGEST_FORWARDED, REPLIES, Label, Reply, is_same, sign, sign_reply
from despina_runtime.lines import TooLong, read_at_most
from despina_runtime.telemetry.prediction import address_of

TIMEOUT = aiohttp.ClientTimeout(total=5, connect=1)


class Unreachable(Exception):
    """The pod does not answer, or somebody else has its address now."""


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
        signature = sign(self._key, pod, body)
        try:
            reply, signed = await self._post(f"http://{address}{LABELS_PATH}", body, signature)
            if not is_same(sign_reply(self._key, signature, reply), signed):
                raise Unreachable
            return REPLIES.validate_json(reply)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TooLong):
            raise Unreachable from None

    async def _post(self, url: str, body: bytes, signature: str) -> tuple[bytes, str]:
        """The reply as it came, and its signature."""
        self._session = self._session or aiohttp.ClientSession(timeout=TIMEOUT, auto_decompress=False)
        headers = {SIGNATURE_HEADER: signature, "content-type": "application/json"}
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            signed = answer.headers.get(SIGNATURE_HEADER, "")
            if answer.status != 200 or not signed:
                raise Unreachable
            return await read_at_most(answer.content.iter_any(), LONGEST_FORWARDED), signed

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()
