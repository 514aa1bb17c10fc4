"""What a pod keeps of what its workers hand over: without what is hidden, and what is sampled by itself."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby

import orjson
from pydantic_core import from_json

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

    def __init__(self, feedback: FeedbackConfig) -> None:
        self._payloads, self._percent = feedback.payloads, feedback.sample_percent
        self._hide = Redactor(feedback.redacted_fields, feedback.redacted_patterns)

    def __call__(self, batches: Sequence[bytes], now: float) -> Sorted:
        """What is sampled, and all others. What a worker says may be anything, for it runs a model's code: labels that
        come with it must not suffer."""
        found: Sorted = ([], [])
        for batch in batches:
            try:
                sampled, blocks = self._sorted(batch, now)
            except (TypeError, ValueError, RecursionError) as exc:
                LOST.labels("unreadable").inc()
                log.error("Records cannot be read error=%s", type(exc).__name__)
            else:
                found[0].extend(sampled)
                found[1].extend(blocks)
        return found

    def _sorted(self, batch: bytes, now: float) -> Sorted:
        sampled, rest = list[Kept](), list[tuple[str, int, bytes]]()
        for record in self._clean(batch):
            origin = origin_of(record)
            place = place_of(origin)
            if zlib.crc32(origin.encode()) % 100 < self._percent:
                sampled.append(Kept(origin, now, record))
            else:
                rest.append((*place, record))
        return sampled, list(_blocks(rest, now))

    def _clean(self, batch: bytes) -> list[bytes]:
        """The batch's records without what is hidden. Mostly there is nothing, and they are not read one by one."""
        records = batch.split(END)[:-1]
        if self._payloads == "Full":
            return records
        if self._payloads == "None":
            return [_with_words(record, NO_WORDS) for record in records]
        if not self._hide.may_hide(b"".join(_words_of(record) for record in records)):
            return records
        return [self._redacted(record) for record in records]

    def _redacted(self, record: bytes) -> bytes:
        if not self._hide.may_hide(_words_of(record)):
            return record
        words = from_json(_words_of(record))
        kept = self._hide(words)
        return record if kept == words else _with_words(record, orjson.dumps([*kept, True]))

    def clean_label(self, label: Label) -> Label:
        """A label without what is hidden."""
        if self._payloads == "Full":
            return label
        if self._payloads == "None":
            return label.model_copy(update={"reason": "", "expected": None})
        return label.model_copy(update={"reason": self._hide(label.reason), "expected": self._hide(label.expected)})


def _words_of(record: bytes) -> bytes:
    return record[record.index(WORDS) + 1 :]


def _with_words(record: bytes, words: bytes) -> bytes:
    return record[: record.index(WORDS) + 1] + words


def _blocks(found: Sequence[tuple[str, int, bytes]], now: float) -> Iterator[Block]:
    """Those of one worker together; requests of two revisions may end by turns."""
    for worker, some in groupby(sorted(found, key=lambda one: one[:2]), key=lambda one: one[0]):
        together = list(some)
        yield Block(worker, together[0][1], now, b"".join(record + END for _, _, record in together))
