"""What a pod keeps of what its workers hand over: without what is hidden, and what is sampled by itself."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from despina.wire import FeedbackConfig
from despina.wire.labels import Label
from despina_runtime.feedback.counts import LOST
from despina_runtime.feedback.spool import Block, Kept
from despina_runtime.telemetry.cleaning import Cleaning
from despina_runtime.telemetry.executed import END, WORDS

log = logging.getLogger(__name__)
Sorted = tuple[list[Kept], list[Block]]
Found = tuple[bytes, re.Match[bytes]]
"""A record, and in it its origin, the worker that made it, and its number there in hexadecimal digits."""


class Sorting:
    """By the manifest."""

    def __init__(self, feedback: FeedbackConfig, pod: str) -> None:
        self._percent = feedback.sample_percent
        self._clean = Cleaning(feedback)
        worker = rb"[0-9a-z]{1,16}-%s-[0-9a-f]{8}" % pod.encode()
        self._begins = re.compile(rb'\["((%s)-[0-9a-f]{8}(?:x[0-9a-f]{1,15})?-([0-9a-f]{1,15}))",' % worker)

    def __call__(self, batches: Sequence[bytes], now: float) -> Sorted:
        """What is sampled, and all others. What a worker says may be anything, for it runs a model's code: what else
        came with it must not suffer."""
        sampled, rest = list[Kept](), list[tuple[bytes, int, bytes]]()
        for batch in batches:
            found = self._readable(batch)
            for (_, name), record in zip(found, self._cleaned(found), strict=True):
                origin, worker, number = name.groups()
                if zlib.crc32(origin) % 100 < self._percent:
                    sampled.append(Kept(origin.decode(), now, record))
                else:
                    rest.append((worker, int(number, 16), record))
        return sampled, list(_blocks(rest, now))

    def _readable(self, batch: bytes) -> list[Found]:
        """The batch's records that this pod's workers can have made."""
        records, begins = batch.split(END)[:-1], self._begins.match
        found = [(record, name) for record in records if (name := begins(record))]
        if lost := len(records) - len(found):
            LOST.labels("unreadable").inc(lost)
            log.error("Records cannot be read count=%d", lost)
        return found

    def _cleaned(self, found: Sequence[Found]) -> Iterable[bytes]:
        return self._clean([(record, b"".join(record.partition(WORDS)[1:])) for record, _ in found])

    def clean_label(self, label: Label) -> Label:
        """A label without what is hidden."""
        if self._clean.payloads == "Full":
            return label
        if self._clean.payloads == "None":
            return label.model_copy(update={"reason": "", "expected": None})
        return label.model_copy(
            update={"reason": self._clean.hide(label.reason), "expected": self._clean.hide(label.expected)}
        )


def _blocks(found: Sequence[tuple[bytes, int, bytes]], now: float) -> Iterator[Block]:
    """Those of one worker together; requests of two revisions may end by turns."""
    for worker, some in groupby(sorted(found), key=itemgetter(0)):
        together = list(some)
        yield Block(worker.decode(), together[0][1], now, b"".join([record + END for _, _, record in together]))
