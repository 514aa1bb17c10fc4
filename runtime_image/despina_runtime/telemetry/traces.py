"""The kept traces of a pod, in its supervisor: takes them out of what workers hand over, holds and shows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, get_args

from pydantic_core import to_json

from despina.wire import RuntimeConfig, Trace, TraceList, TraceSpan, TraceSummary
from despina_runtime.telemetry.cleaning import Cleaning
from despina_runtime.telemetry.dropped import drop
from despina_runtime.telemetry.executed import END, NO_WORDS, WORDS, Executed, is_kept, origin_of, read_executed
from despina_runtime.telemetry.export import Exporter
from despina_runtime.telemetry.keeping import Why
from despina_runtime.telemetry.prediction import place_of, unsigned
from despina_runtime.telemetry.ring import Kept, Ring
from despina_runtime.telemetry.tree import Node, tree

log = logging.getLogger(__name__)
MOST_WAITING = 16
"""Batches of up to a mebibyte. Nobody who serves waits for them."""
MARKED = "marked"
REASONS = frozenset(get_args(Why)) - {""}


class _Found(NamedTuple):
    """A record on its way into the ring."""

    origin: str
    why: str
    body: bytes


class Traces:
    """One pod's. All but `close` is called on the supervisor's event loop, and never holds it up for long."""

    def __init__(
        self, config: RuntimeConfig, sign: Callable[[str], str], boot: str = "", exporter: Exporter | None = None
    ) -> None:
        self._program, self._sign, self.boot, self._exporter = config.program, sign, boot, exporter
        self._clean = Cleaning(config.feedback)
        self._ring = Ring()
        self._thread = ThreadPoolExecutor(1, "traces")
        self._waiting = 0

    def take(self, batch: bytes) -> None:
        """A worker's records, of which those are held whose trace is kept."""
        self._later(self._kept_of, batch)

    def mark(self, records: Mapping[str, bytes]) -> None:
        """Somebody spoke of these predictions. Of one whose record is not there any more, what is held counts."""
        held = {origin: self._ring.get(origin) for origin in records}
        bodies = [body or (kept.body if (kept := held[origin]) else b"") for origin, body in records.items()]
        self._later(self._marked, list(filter(None, bodies)))

    def _later(self, work: Callable[[Any], list[_Found]], given: Any) -> None:
        """In a thread, for it takes a while to look for what is hidden."""
        if self._waiting >= MOST_WAITING:
            drop("traces", "busy", given.count(END) if isinstance(given, bytes) else len(given))
            return
        self._waiting += 1
        loop = asyncio.get_running_loop()
        self._thread.submit(work, given).add_done_callback(lambda done: loop.call_soon_threadsafe(self._hold, done))

    def _hold(self, done: Any) -> None:
        self._waiting -= 1
        for one in done.result():
            if not self._ring.add(one.origin, one.why, one.body):
                drop("traces", "unreadable")

    def _kept_of(self, batch: bytes) -> list[_Found]:
        records = [record for record in batch.strip(b"\n").split(END)[:-1] if is_kept(record)]
        pairs = [(record, b"".join(record.partition(WORDS)[1:])) for record in records]
        return [one for record in self._clean(pairs) for one in self._looked(record, "")]

    def _marked(self, records: list[bytes]) -> list[_Found]:
        return [one for record in records for one in self._looked(record, MARKED)]

    def _looked(self, record: bytes, why: str) -> list[_Found]:
        """One that can be read, else nothing: what a worker says may be anything, for it runs a model's code."""
        try:
            origin, found = origin_of(record), why or _why(record)
            place_of(origin.partition("~")[0])
            if found not in REASONS:
                raise ValueError("no reason to keep it")
            if self._exporter and not (why and is_kept(record)):  # those have been exported before
                self._exporter.add(tree(self._program, one := read_executed(record)), one.trace_id)
            return [_Found(origin, found, record)]
        except Exception as exc:
            log.error("A trace cannot be read error=%s", type(exc).__name__)
            drop("traces", "unreadable")
            return []

    def told(self, after: int = 0) -> TraceList:
        """What came after a number, the oldest first."""
        found = [self._summary(one) for one in self._ring.after(after)]
        return TraceList(boot=self.boot, number=self._ring.number, traces=tuple(filter(None, found)))

    def find(self, name: str) -> Trace | None:
        """The trace of a prediction, by its name, or the last one that is a part of the trace of this id."""
        key = unsigned(name)
        kept = self._ring.get(key) or self._ring.get(key.partition("~")[0]) or self._part_of(name)
        return self._read(kept, self._whole) if kept else None

    def _part_of(self, trace_id: str) -> Kept | None:
        within = b'"%s"' % trace_id.encode("ascii", "replace")
        found = [one for one in self._ring if within in one.body.partition(WORDS)[0]]
        return max((one for one in found if self._trace_id(one) == trace_id), default=None)

    def _trace_id(self, kept: Kept) -> str:
        return self._read(_without_words(kept), lambda _, one: one.trace_id) or ""

    def _summary(self, kept: Kept) -> TraceSummary | None:
        found: TraceSummary | None = self._read(
            _without_words(kept), lambda kept, one: TraceSummary(**self._facts(kept, one))
        )
        return found

    def _whole(self, kept: Kept, one: Executed) -> Trace:
        spans = tuple(span_of(node) for node in tree(self._program, one))
        return Trace(**self._facts(kept, one), spans=spans, is_redacted=one.is_redacted)

    def _read(self, kept: Kept, make: Callable[[Kept, Executed], Any]) -> Any:
        try:
            return make(kept, read_executed(kept.body))
        except Exception as exc:  # a worker may have said anything
            log.error("A trace cannot be read error=%s", type(exc).__name__)
            return None

    def _facts(self, kept: Kept, one: Executed) -> dict[str, Any]:
        same = ("trace_id", "seconds", "status", "problem", "version", "revision", "lm", "tier")
        facts = {name: getattr(one, name) for name in (*same, "input_tokens", "output_tokens", "cost_usd")}
        more = {"number": kept.number, "id": self._sign(kept.key), "at": one.at, "module": one.path, "why": kept.why}
        return facts | more

    async def close(self, seconds: float) -> None:
        """Export what can be in this time."""
        await asyncio.to_thread(self._thread.shutdown)
        if self._exporter:
            await asyncio.to_thread(self._exporter.close, seconds)


def _without_words(kept: Kept) -> Kept:
    """They may be long."""
    return kept._replace(body=b"".join((kept.body.partition(WORDS)[0], WORDS, NO_WORDS)))


def _why(record: bytes) -> str:
    return record.partition(WORDS)[0].rpartition(b',"')[2][:-2].decode()


def span_of(node: Node) -> TraceSpan:
    """As others read it: facts that say something, and words as JSON."""
    facts = {name: str(value) for name, value in node.attributes.items() if value is not None and value != ""}
    return TraceSpan(
        id=node.span_id,
        parent=node.parent_id,
        kind=node.kind,
        name=node.name,
        at=node.at,
        seconds=node.seconds,
        error=node.error,
        attributes=facts,
        inputs=_words(node.inputs),
        outputs=_words(node.outputs),
    )


def _words(value: Any) -> str:
    return "" if value is None else to_json(value, inf_nan_mode="null").decode()
