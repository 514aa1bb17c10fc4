"""The kept traces of a pod, in its supervisor: takes them out of what workers hand over, holds and shows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic_core import to_json

from despina.wire import RuntimeConfig, Trace, TraceList, TraceSpan, TraceSummary
from despina.wire.predictions import unsigned
from despina.wire.traces import MOST_SPANS
from despina_runtime.telemetry import semconv
from despina_runtime.telemetry.cleaning import Cleaning
from despina_runtime.telemetry.dropped import drop
from despina_runtime.telemetry.executed import END, NO_WORDS, WORDS, Executed, is_kept, origin_of, read_executed
from despina_runtime.telemetry.export import Exporter
from despina_runtime.telemetry.keeping import Why
from despina_runtime.telemetry.prediction import place_of
from despina_runtime.telemetry.ring import Kept, Ring
from despina_runtime.telemetry.tree import Node, tree

log = logging.getLogger(__name__)
MOST_WAITING = 16
"""Batches of up to a mebibyte. Nobody who serves waits for them."""
MARKED = "marked"
T = TypeVar("T")
U = TypeVar("U")
REASONS = frozenset(get_args(Why)) - {""}


class _Found(NamedTuple):
    """A record on its way into the ring, and out of the pod."""

    body: bytes
    origin: str
    why: str
    is_new: bool
    """Whether it is to be exported."""
    one: Executed
    summary: TraceSummary
    spans: Sequence[Node] = ()


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

    @property
    def are_exported(self) -> bool:
        """Whether they go to a collector, too."""
        return self._exporter is not None

    def take(self, batch: bytes) -> None:
        """A worker's records, of which those are held whose trace is kept."""
        self._later(self._kept_of, batch)

    def mark(self, records: Mapping[str, bytes]) -> None:
        """Somebody spoke of these predictions. Of one whose record is not there any more, what is held counts."""
        held = [(body, self._ring.get(origin)) for origin, body in records.items()]
        found = [(body or (kept.body if kept else b""), kept.summary.why if kept else "") for body, kept in held]
        self._later(self._marked, [(body, why == MARKED) for body, why in found if body])

    def _later(self, work: Callable[[Any], Sequence[_Found]], given: Any) -> None:
        """In a thread, for it takes a while to look for what is hidden."""
        if self._waiting >= MOST_WAITING:
            drop("traces", "busy", len(_kept(given) if isinstance(given, bytes) else given))
            return
        self._waiting += 1
        loop = asyncio.get_running_loop()
        self._thread.submit(work, given).add_done_callback(lambda done: loop.call_soon_threadsafe(self._hold, done))

    def _hold(self, done: Any) -> None:
        self._waiting -= 1
        for one in done.result():
            if not self._ring.add(one.origin, one.summary, one.body):
                drop("traces", "too_long")

    def _kept_of(self, batch: bytes) -> Sequence[_Found]:
        pairs = [(record, b"".join(record.partition(WORDS)[1:])) for record in _kept(batch)]
        return self._looked([(record, "", False) for record in self._clean(pairs)])

    def _marked(self, records: Sequence[tuple[bytes, bool]]) -> Sequence[_Found]:
        """Each with whether it was marked before. What was kept or marked before has been exported."""
        return self._looked([(record, MARKED, is_marked or is_kept(record)) for record, is_marked in records])

    def _looked(self, given: Sequence[tuple[bytes, str, bool]]) -> Sequence[_Found]:
        """Records, each with why it is kept, if it does not say so itself, and whether it has been exported; those that
        can be read. For lists it is read here, in the thread, and never again. Each step is made with all before the
        next is, for then it takes three quarters of the time."""
        found = _each(self._summed, _each(self._read, given))
        return _each(self._exported, _each(self._as_tree, found)) if self._exporter else found

    def _read(self, given: tuple[bytes, str, bool]) -> tuple[bytes, str, str, bool, Executed]:
        """As `_Found`. Raises ValueError, as what follows."""
        record, why, is_exported = given
        origin, found = origin_of(record), why or _why(record)
        place_of(origin.partition("~")[0])
        if found not in REASONS:
            raise ValueError("no reason to keep it")
        is_new = bool(self._exporter) and not is_exported
        return record, origin, found, is_new, read_executed(record if is_new else _without_words(record))

    def _summed(self, given: tuple[bytes, str, str, bool, Executed]) -> _Found:
        *_, one = given
        return _Found(*given, TraceSummary(**self._facts(one, given[1], given[2])))

    def _as_tree(self, found: _Found) -> _Found:
        return found._replace(spans=tree(self._program, found.one)) if found.is_new else found

    def _exported(self, found: _Found) -> _Found:
        if self._exporter and found.is_new:
            self._exporter.add(found.spans, found.one.trace_id)
        return found

    def told(self, after: int = 0) -> TraceList:
        """What came after a number, the oldest first."""
        found = (one.summary.model_copy(update={"number": one.number}) for one in self._ring.after(after))
        return TraceList(boot=self.boot, number=self._ring.number, traces=tuple(found))

    def find(self, name: str) -> Trace | None:
        """The trace of a prediction, by its name, or the last one that is a part of the trace of this id."""
        key = unsigned(name)
        kept = self._ring.get(key) or self._ring.get(key.partition("~")[0]) or self._part_of(name)
        return self._whole(kept) if kept else None

    def _part_of(self, trace_id: str) -> Kept | None:
        return max((one for one in self._ring if one.summary.trace_id == trace_id), default=None)

    def _whole(self, kept: Kept) -> Trace | None:
        try:
            one = read_executed(kept.body)
            nodes = tree(self._program, one)
            facts = self._facts(one, kept.key, kept.summary.why)
            facts |= {"number": kept.number, "spans_left_out": len(nodes[MOST_SPANS:]), "is_redacted": one.is_redacted}
            return Trace(**facts, spans=tuple(span_of(node) for node in nodes[:MOST_SPANS]))
        except Exception as exc:  # a worker may have said anything
            log.error("A trace cannot be read error=%s", type(exc).__name__)
            return None

    def _facts(self, one: Executed, origin: str, why: str) -> dict[str, Any]:
        same = ("trace_id", "seconds", "status", "problem", "version", "revision", "lm", "tier")
        facts = {name: getattr(one, name) for name in (*same, "input_tokens", "output_tokens", "cost_usd")}
        return facts | {"id": self._sign(origin), "at": one.at, "module": one.path, "why": why}

    async def close(self, seconds: float) -> None:
        """Export what can be in this time."""
        await asyncio.to_thread(self._thread.shutdown)
        if self._exporter:
            await asyncio.to_thread(self._exporter.close, seconds)


def _each(work: Callable[[T], U], given: Iterable[T]) -> list[U]:
    """What comes of those of which something comes: what a worker says may be anything, for it runs a model's code."""
    found = list[U]()
    for one in given:
        try:
            found.append(work(one))
        except Exception as exc:
            log.error("A trace cannot be read error=%s", type(exc).__name__)
            drop("traces", "unreadable")
    return found


def _kept(batch: bytes) -> list[bytes]:
    return [record for record in batch.strip(b"\n").split(END)[:-1] if is_kept(record)]


def _without_words(record: bytes) -> bytes:
    """They may be long."""
    return b"".join((record.partition(WORDS)[0], WORDS, NO_WORDS))


def _why(record: bytes) -> str:
    return record.partition(WORDS)[0].rpartition(b',"')[2][:-2].decode()


def span_of(node: Node) -> TraceSpan:
    """As others read it: facts that say something, but what is MLflow's alone, and words as JSON."""
    said = {name: value for name, value in node.attributes.items() if value is not None and value != ""}
    facts = {name: str(value) for name, value in said.items() if name != semconv.COST}
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
