"""Asking pods for the traces that they hold, when somebody wants to see one, and handing them what he says of it.

The answers are anybody's, and longer than figures: a few at a time, whole, soon and not too long, or else none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from despina.sources.pods import PodClient, read
from despina.wire import ADMIN_PORT, INTERFACE_PATH, LABELS_PATH, TRACES_PATH, Trace, TraceList
from despina.wire.labels import LABELS, REPLIES, Label, Status, is_same, sign, sign_reply
from despina.wire.predictions import Foreign, Prediction, Signer, key_of, pod_of

ANSWER_SECONDS = 5.0
MOST_ASKED = 12
"""At the same time: so many answers are in memory at once."""
MOST_BYTES, LIST_BYTES = 2**23, 2**20
"""Of a trace, and of a list or a tool host's part. A pod of ours holds no record longer than a mebibyte, and says
little in a list."""


class NoAnswer(Exception):
    """A pod does not answer, or says what cannot be read."""


class TraceAsker(PodClient):
    """Reads traces of any program's pods, and of tools' hosts."""

    def __init__(self, roots: Callable[[], Iterable[str]], port: int = ADMIN_PORT) -> None:
        super().__init__(roots, port, seconds=ANSWER_SECONDS, most_asked=MOST_ASKED, most_bytes=MOST_BYTES)

    async def listed(self, uid: str, namespace: str, pod: str, ip: str) -> TraceList:
        """What a pod of the program of this uid holds; raises NoAnswer."""
        answer = await self._ask(ip, TRACES_PATH, self._signature(uid, namespace, pod), most=LIST_BYTES)
        found = read(TraceList, answer.body) if answer and answer.status == 200 else None
        if found is None:
            raise NoAnswer
        return found

    async def one(self, uid: str, namespace: str, pod: str, ip: str, name: str) -> Trace | None:
        """A trace of this prediction, or with this id, if the pod holds it; raises NoAnswer."""
        return await self._trace(ip, name, self._signature(uid, namespace, pod))

    async def hosted(self, ip: str, trace_id: str) -> Trace | None:
        """A tool host's part of a trace, which has no words in it, and so is short; raises NoAnswer."""
        return await self._trace(ip, trace_id, most=LIST_BYTES)

    async def _trace(self, ip: str, name: str, signature: str = "", most: int = 0) -> Trace | None:
        answer = await self._ask(ip, f"{TRACES_PATH}/{name}", signature, most=most)
        if answer and answer.status == 404:
            return None
        # In a thread: a million names in a trace take longer to read than others should wait.
        found = await asyncio.to_thread(read, Trace, answer.body) if answer and answer.status == 200 else None
        if found is None:
            raise NoAnswer
        return found

    async def outputs(self, uid: str, namespace: str, pod: str, ip: str, revision: str) -> frozenset[str]:
        """What a revision's answers consist of; nothing where the pod does not hold it."""
        answer = await self._ask(ip, f"{INTERFACE_PATH}/{revision}", self._signature(uid, namespace, pod))
        try:
            said = from_json(answer.body) if answer and answer.status == 200 else None
        except ValueError:
            return frozenset()
        return frozenset(_within(_within(said, "outputs"), "properties"))

    def prediction(self, uid: str, namespace: str, name: str) -> Prediction | None:
        """What a prediction's name says; None for what this program has not called one so."""
        for key in self._keys(uid, namespace):
            try:
                return Signer(key_of(key)).read(name)
            except Foreign:
                continue
        return None

    async def hand_over(self, uid: str, namespace: str, ip: str, label: Label) -> Status:
        """What becomes of a label, as pods hand them to one another; raises NoAnswer."""
        pod, body = pod_of(ip, self._port), LABELS.dump_json([label])
        for key in map(key_of, self._keys(uid, namespace)):
            signature = sign(key, pod, body)
            answer = await self._ask(ip, LABELS_PATH, signature, body)
            if answer and answer.status == 200 and is_same(sign_reply(key, signature, answer.body), answer.signature):
                return _status(answer.body)
        raise NoAnswer


def _status(body: bytes) -> Status:
    try:
        (reply,) = REPLIES.validate_json(body)
    except (ValidationError, ValueError):
        raise NoAnswer from None
    return reply.status


def _within(value: Any, name: str) -> Mapping[str, Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
