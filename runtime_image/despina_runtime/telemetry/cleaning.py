"""What of callers' words leaves a worker's records, by what the manifest says of payloads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic_core import from_json, to_json

from despina.wire import FeedbackConfig
from despina_runtime.telemetry.executed import NO_WORDS, WORDS
from despina_runtime.telemetry.redaction import Redactor

log = logging.getLogger(__name__)
Payloads = Literal["None", "Redacted", "Full"]


class Cleaning:
    """By the manifest; where it says nothing of feedback, nothing is kept."""

    def __init__(self, feedback: FeedbackConfig | None) -> None:
        self.payloads: Payloads = feedback.payloads if feedback else "None"
        self.hide = Redactor(feedback.redacted_fields, feedback.redacted_patterns) if feedback else Redactor()

    def __call__(self, found: Sequence[tuple[bytes, bytes]]) -> Iterable[bytes]:
        """Records, each with its words, without what is hidden. Mostly there is nothing, and they are not read one by
        one."""
        if self.payloads == "Full":
            return (record for record, _ in found)
        if self.payloads == "None":
            return (_with_words(record, NO_WORDS) for record, _ in found)
        hide = self.hide.narrowed(b"".join([said for _, said in found]))
        return [_redacted(record, said, hide) if hide else record for record, said in found]


def _redacted(record: bytes, words: bytes, hide: Redactor) -> bytes:
    """Written anew: of a key that stands there twice, the first is not read."""
    if not hide.may_find(words):
        return record
    try:
        given = from_json(words[len(WORDS) :])
        kept = hide(given)
        return _with_words(record, to_json([*kept, True] if kept != given else kept, inf_nan_mode="null"))
    except Exception as exc:
        log.error("What callers wrote cannot be read error=%s", type(exc).__name__)
        return _with_words(record, NO_WORDS)


def _with_words(record: bytes, words: bytes) -> bytes:
    return b"".join((record.partition(WORDS)[0], WORDS, words))
