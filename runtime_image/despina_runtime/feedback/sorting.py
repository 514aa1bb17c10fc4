"""What a pod keeps of what its workers hand over: without what is hidden, and what is sampled by itself."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby

from pydantic_core import from_json, to_json

from despina.wire import FeedbackConfig
from despina_runtime.feedback.counts import LOST
from despina_runtime.feedback.label import Label
from despina_runtime.feedback.spool import Block, Kept
from despina_runtime.telemetry.executed import END, NO_WORDS, WORDS, origin_of
from despina_runtime.telemetry.prediction import place_of
from despina_runtime.telemetry.redaction import Redactor

log = logging.getLogger(__name__)
Sorted = tuple[list[Kept], list[Block]]


class Sorting:
    """By the manifest."""

    def __init__(self, feedback: FeedbackConfig, pod: str) -> None:
        self._pod, self._payloads, self._percent = pod, feedback.payloads, feedback.sample_percent
        self._hide = Redactor(feedback.redacted_fields, feedback.redacted_patterns)

    def __call__(self, batches: Sequence[bytes], now: float) -> Sorted:
        """What is sampled, and all others. What a worker says may be anything, for it runs a model's code: what else
        came with it must not suffer."""
        sampled, rest = list[Kept](), list[tuple[str, int, bytes]]()
        for record in (one for batch in batches for one in self._clean(batch)):
            try:
                origin = origin_of(record)
                worker, number = self._place_of(origin)
            except ValueError:
                LOST.labels("unreadable").inc()
                log.error("A record cannot be read")
                continue
            if zlib.crc32(origin.encode()) % 100 < self._percent:
                sampled.append(Kept(origin, now, record))
            else:
                rest.append((worker, number, record))
        return sampled, list(_blocks(rest, now))

    def _place_of(self, origin: str) -> tuple[str, int]:
        if origin.split("-")[1:2] != [self._pod]:
            raise ValueError("another pod's")
        return place_of(origin)

    def _clean(self, batch: bytes) -> list[bytes]:
        """The batch's records without what is hidden. Mostly there is nothing, and they are not read one by one."""
        records = batch.split(END)[:-1]
        if self._payloads == "Full":
            return records
        if self._payloads == "None":
            return [_with_words(record, NO_WORDS) for record in records]
        words = [record.partition(WORDS)[2] for record in records]
        may_hide = self._hide.may_hide(b"".join(words))
        return [self._redacted(r, said) if may_hide(said) else r for r, said in zip(records, words, strict=True)]

    def _redacted(self, record: bytes, words: bytes) -> bytes:
        """Written anew: of a key that stands there twice, the first is not read."""
        try:
            given = from_json(words)
            kept = self._hide(given)
            return _with_words(record, to_json([*kept, True] if kept != given else kept, inf_nan_mode="null"))
        except Exception as exc:
            log.error("What callers wrote cannot be read error=%s", type(exc).__name__)
            return _with_words(record, NO_WORDS)

    def clean_label(self, label: Label) -> Label:
        """A label without what is hidden."""
        if self._payloads == "Full":
            return label
        if self._payloads == "None":
            return label.model_copy(update={"reason": "", "expected": None})
        return label.model_copy(update={"reason": self._hide(label.reason), "expected": self._hide(label.expected)})


def _with_words(record: bytes, words: bytes) -> bytes:
    return b"".join((record.partition(WORDS)[0], WORDS, words))


def _blocks(found: Sequence[tuple[str, int, bytes]], now: float) -> Iterator[Block]:
    """Those of one worker together; requests of two revisions may end by turns."""
    for worker, some in groupby(sorted(found, key=lambda one: one[:2]), key=lambda one: one[0]):
        together = list(some)
        yield Block(worker, together[0][1], now, b"".join(record + END for _, _, record in together))
