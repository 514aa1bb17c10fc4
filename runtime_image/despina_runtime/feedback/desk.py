"""A pod's desk for feedback, in the supervisor: takes in what workers record and callers say, and has it delivered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from despina.wire import FeedbackConfig, FeedbackReport, RuntimeConfig
from despina.wire.labels import LABELS, REPLIES, Label, Reply, Status, is_signed, sign_reply
from despina.wire.predictions import pod_in
from despina_runtime.feedback.counts import LOST, WAITING
from despina_runtime.feedback.delivery import AT_ONCE, ON_ITS_WAY_SECONDS, Delivery, pause_seconds
from despina_runtime.feedback.peers import Peers
from despina_runtime.feedback.sink import Away, FileSink, MLflowSink, Sink
from despina_runtime.feedback.sorting import Sorting
from despina_runtime.feedback.spool import KeptLabel, Spool
from despina_runtime.telemetry.prediction import made_at, place_of, shared_key

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
PRUNE_SECONDS = 30.0
NO_ROOM = "labels are not taken, for those that wait to be delivered fill their half of the spool"
NO_ROOM_SECONDS = 30.0
"""So long it is told that there was none for a label: what is stored meanwhile may have been shorter, or no label."""


class FeedbackDesk:
    """One pod's."""

    def __init__(self, config: RuntimeConfig, feedback: FeedbackConfig, cache: Path, pod: str) -> None:
        self._feedback, self.pod = feedback, pod
        self._sorting = Sorting(feedback, pod)
        self._spool = Spool(cache / "feedback" / "spool.sqlite", feedback.spool_bytes, pod)
        self._thread = ThreadPoolExecutor(1, "spool")
        self._sink: Sink = (
            FileSink(Path(feedback.folder), pod) if feedback.folder else MLflowSink(config, feedback.experiment)
        )
        self._key = shared_key(config)
        self._peers = Peers(self._key)
        self._delivery = Delivery(pod, self._spool, self._in_spool, self._sink, self._peers)
        self._records: list[bytes] = []
        self._labels: list[tuple[Sequence[Label], asyncio.Future[dict[str, Status]]]] = []
        self._waited_for = asyncio.Event()
        self._disk_trouble = self._sink_trouble = ""
        self._refused_at = -math.inf
        self._is_closing = False
        self.on_spoken: Callable[[Mapping[str, bytes]], None] | None = None
        """Told of what answers of this pod's labels are about: by name, the record, or nothing if it is gone."""
        self._early: set[str] = set()
        """Predictions that were spoken of before their records came."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to store and to deliver."""
        self._writing = asyncio.create_task(self._write())
        self._tasks = [asyncio.create_task(work) for work in (self._deliver(), self._prune())]

    def record(self, batch: bytes) -> None:
        """A worker's records. Nobody waits for them: they are written with the next label, or after a moment."""
        self._records.append(batch)

    async def from_peer(self, body: bytes, signature: str) -> tuple[bytes, str] | None:
        """What becomes of another pod's labels, and the reply's signature; None if they are not signed for this one."""
        if not is_signed(self._key, self.pod, body, signature):
            return None
        reply = REPLIES.dump_json(await self.store(LABELS.validate_json(body)))
        return reply, sign_reply(self._key, signature, reply)

    async def store(self, labels: Sequence[Label]) -> list[Reply]:
        """What becomes of each: Stored once it is on the disk. Raises ValueError for one that is about nothing, or that
        no text can be, before it could meet what others say."""
        for one in labels:
            place_of(one.origin)
            if one.pod != pod_in(one.origin):
                raise ValueError("another pod made what it is about")
            _kept_label(one)
        lost = {one.prediction for one in labels if await self._is_lost(one)}
        found: dict[str, Status] = dict.fromkeys(lost, "Gone")
        if given := [one for one in labels if one.prediction not in lost]:
            stored: asyncio.Future[dict[str, Status]] = asyncio.get_running_loop().create_future()
            self._labels.append((given, stored))
            self._waited_for.set()
            found |= await stored
        return [Reply(prediction_id=one.prediction, status=found.get(one.prediction, "Failed")) for one in labels]

    async def _is_lost(self, label: Label) -> bool:
        """Whether another pod that made it is gone and has not delivered it; if that cannot be found out, it is not."""
        if label.pod == self.pod or not self._delivery.is_gone(label.pod):
            return False
        try:
            async with asyncio.timeout(1):
                return not await self._sink.has(label.origin)
        except (Away, TimeoutError):
            return False

    def report(self) -> FeedbackReport:
        """What goes wrong, for whoever decides or looks."""
        room = NO_ROOM if time.monotonic() - self._refused_at < NO_ROOM_SECONDS else ""
        return FeedbackReport(trouble="; ".join(filter(None, (self._disk_trouble, room, self._sink_trouble)))[:1024])

    async def close(self, seconds: float) -> None:
        """Deliver what can be in this time; what cannot stays in the spool for as long as that lives."""
        for task in self._tasks:
            task.cancel()
        self._is_closing = True  # who writes is not cancelled, for he has in his hands what nobody else has
        self._waited_for.set()
        await asyncio.wait([*self._tasks, self._writing])
        await self._write_once()
        self._delivery.is_last = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(outcome := await self._round()):
                    await asyncio.sleep(LOOK_SECONDS if outcome[1] else 0)
        fill = await self._in_spool(self._spool.fill)
        LOST.labels("left").inc(fill.predictions)
        if fill.predictions or fill.labels:
            log.error("Feedback is left behind predictions=%d labels=%d", fill.predictions, fill.labels)
        await asyncio.gather(self._sink.close(), self._peers.close())
        await self._in_spool(self._spool.close)
        self._thread.shutdown()

    async def _in_spool(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _write(self) -> None:
        while not self._is_closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._waited_for.wait()
            await self._write_once()

    async def _write_once(self) -> None:
        """All that has come so far, in one transaction."""
        records, self._records = self._records, []
        given, self._labels = self._labels, []
        self._waited_for.clear()
        if not records and not given:
            return
        found: dict[str, Status] = {}
        try:
            found = await self._in_spool(self._take, records, [one for labels, _ in given for one in labels])
            self._disk_trouble = ""
            if "Failed" in found.values():
                self._refused_at = time.monotonic()
        except Exception as exc:  # whatever it is, who waits shall hear of it, and the next be stored
            self._disk_trouble = f"the pod's disk does not take it: {exc}"
            LOST.labels("disk").inc(len(records) + len(given))
            log.error("Feedback cannot be stored error=%s", exc)
        for _, waiting in given:
            if not waiting.done():
                waiting.set_result(found)
        await self._tell_what_was_spoken_of([one for labels, _ in given for one in labels], found)

    async def _tell_what_was_spoken_of(self, labels: Sequence[Label], found: Mapping[str, Status]) -> None:
        if self.on_spoken is None:
            return
        here = {one.origin for one in labels if one.pod == self.pod and found.get(one.prediction) == "Stored"}
        here |= self._early
        if not here:
            return
        try:
            records = await self._in_spool(self._spool.records, sorted(here))
            self._early = {origin for origin, record in records.items() if not record and _is_fresh(origin)}
            self.on_spoken(records)
        except Exception as exc:  # whatever it is, the labels are stored, and the next shall be
            log.error("Traces that labels are about are not kept error=%s", type(exc).__name__)

    def _take(self, batches: Sequence[bytes], labels: Sequence[Label]) -> dict[str, Status]:
        """What becomes of labels. In the spool's thread, where it also takes a while to look for what is hidden."""
        sampled, blocks = self._sorting(batches, time.time())
        known = [one for one in labels if self._is_known(one)]
        kept = [_kept_label(self._sorting.clean_label(one)) for one in known]
        refused = self._spool.take(sampled, kept, blocks)
        found: dict[str, Status] = {one.prediction: "Gone" for one in labels}
        found |= {one.prediction: "Stored" for one in known}
        return found | dict.fromkeys(refused, "Failed")

    def _is_known(self, label: Label) -> bool:
        """Whether what it is about is kept, here or elsewhere, or may be on its way."""
        return label.pod != self.pod or _is_fresh(label.origin) or self._spool.knows(label.origin)

    async def _deliver(self) -> None:
        failures = 0
        while True:
            count, self._sink_trouble = await self._round()
            failures = failures + 1 if self._sink_trouble else 0
            if count < AT_ONCE:
                await asyncio.sleep(pause_seconds(failures) if failures else 2 * LOOK_SECONDS)

    async def _round(self) -> tuple[int, str]:
        """How much there was to deliver, and why it could not be. A round costs as much as forty predictions in it."""
        try:
            return await self._delivery.round(), ""
        except Away as exc:
            return 0, str(exc)
        except Exception as exc:  # whatever it is, what waits must not wait for ever
            log.exception("Feedback is not delivered")
            return 0, f"{type(exc).__name__}: {exc}"

    async def _prune(self) -> None:
        while True:
            with_words = time.time() - self._feedback.label_within_seconds
            try:
                lost = await self._in_spool(self._spool.prune, with_words)
                LOST.labels("room").inc(lost)
                fill = await self._in_spool(self._spool.fill)
                WAITING.labels("prediction").set(fill.predictions)
                WAITING.labels("label").set(fill.labels)
            except (sqlite3.Error, OSError) as exc:
                log.error("The spool cannot be pruned error=%s", exc)
            await asyncio.sleep(PRUNE_SECONDS)


def _is_fresh(origin: str) -> bool:
    """Whether a prediction's record may be on its way from its worker."""
    return time.time() - made_at(origin) < ON_ITS_WAY_SECONDS


def _kept_label(label: Label) -> KeptLabel:
    return KeptLabel(label.prediction, label.origin, label.pod, label.at, label.model_dump_json().encode())
