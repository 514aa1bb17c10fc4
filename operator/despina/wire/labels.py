"""Somebody's word on an answer, on its way to a pod's admin port: `POST /labels`.

Only those hand it over who have the program's key of names: its pods, which took it from a caller, and the page, which
took it from a person. So is the reply signed, for a pod's address may be somebody else's by now.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from despina.wire.base import Document
from despina.wire.predictions import Prediction, trace_id_of

LONGEST_LABEL = 2**16
"""Bytes of one label as JSON."""
LONGEST_FORWARDED = 2**20
"""Bytes that a pod is given at once. The longest label fits, also where each letter of it was hidden."""
LONGEST_REASON, LONGEST_SOURCE = 4096, 128
DEEPEST = 32
"""Levels of lists and objects in what was expected, and in inputs and outputs of which a row is made. What is deeper
can be read here, and not by all who read it later."""
Word = Literal["success", "failure"]


class Label(Document):
    """What is kept of it: a label given again replaces the one before, since it has the same prediction."""

    prediction: str
    """The name of the answer that it is about."""
    origin: str
    """The prediction whose answer that was."""
    pod: str
    """Who made it."""
    trace_id: str
    at: Annotated[float, Field(allow_inf_nan=False)]
    """When it was given, in seconds since the epoch; the latest counts."""
    label: Word
    reason: str = ""
    expected: dict[str, Any] | None = None
    source: str = ""
    is_trusted: bool = False
    """Whether whoever gave it showed the program's credential for labels, or has the right to give them on the page."""

    @classmethod
    def on(cls, prediction: Prediction, label: Word, at: float, **more: Any) -> Label:
        """A label on an answer."""
        own = {"prediction": prediction.name, "origin": prediction.origin, "pod": prediction.pod}
        return cls(**own, trace_id=trace_id_of(prediction.origin), label=label, at=at, **more)


Status = Literal["Stored", "Gone", "Failed"]
"""Stored: it is on disk. Gone: what it is about is not kept any more. Failed: it could not be stored."""


class Reply(Document):
    """What became of one."""

    prediction_id: str
    status: Status


LABELS: TypeAdapter[list[Label]] = TypeAdapter(list[Label])
REPLIES: TypeAdapter[list[Reply]] = TypeAdapter(list[Reply])


def sign(key: bytes, pod: str, body: bytes) -> str:
    """The signature of labels for a pod."""
    return hmac.new(key, pod.encode() + b" " + body, "sha256").hexdigest()


def is_signed(key: bytes, pod: str, body: bytes, signature: str) -> bool:
    """Whether one who may has signed them for this pod."""
    return is_same(sign(key, pod, body), signature)


def sign_reply(key: bytes, asked: str, body: bytes) -> str:
    """The signature of a reply to labels that were signed so. No pod is called as it begins, so that it is never one of
    labels."""
    return sign(key, f"reply {asked}", body)


def is_same(expected: str, given: str) -> bool:
    """Whether a header holds this. As bytes, since a header may be any text, and not all texts can be compared."""
    return hmac.compare_digest(expected.encode(), given.encode(errors="surrogateescape"))


def is_deep(value: Any) -> bool:
    """Whether a JSON value has more levels than DEEPEST."""
    level = [value]
    for _ in range(DEEPEST):
        level = [one for each in level for one in _within(each)]
    return bool(level)


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
