"""Bringing what waits in the spool to where it belongs: a prediction first, then what was said of it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

from despina.wire.labels import LONGEST_FORWARDED, Label
from despina_runtime.feedback.counts import DELIVERED, LOST, REFUSED
from despina_runtime.feedback.otlp import unrecorded
from despina_runtime.feedback.peers import Peers, Unreachable
from despina_runtime.feedback.sink import Away, NoTrace, Refused, Sink
from despina_runtime.feedback.spool import Kept, KeptLabel, Spool
from despina_runtime.telemetry.executed import Executed, read_executed

log = logging.getLogger(__name__)
AT_ONCE = 100
LABELS_TOGETHER = 8
LONGEST_PAUSE_SECONDS = 30.0
GONE_SECONDS = 120.0
"""A pod that did not answer for so long does not come back, and what it alone knew is lost with it."""
ON_ITS_WAY_SECONDS = 12.0
"""A worker hands over what it executed after a moment, which a program that computes on its loop can draw out until it
counts as hanging; if it is killed before, nobody has it."""
InSpool = Callable[..., Any]


class Delivery:
    """One pod's. `in_spool` runs a function in the thread that the spool belongs to."""

    def __init__(self, pod: str, spool: Spool, in_spool: InSpool, sink: Sink, peers: Peers) -> None:
        self._pod, self._spool, self._in_spool, self._sink, self._peers = pod, spool, in_spool, sink, peers
        self._silent_since: dict[str, float] = {}
        self.is_last = False
        """The volume goes with the pod: what was not sampled is delivered, too, and nobody is waited for."""

    async def round(self) -> int:
        """Deliver what is due, as far as it goes; how much was there. Raises Away."""
        predictions: list[Kept] = await self._in_spool(self._spool.due, AT_ONCE, self.is_last)
        if predictions:
            await self._predictions(predictions)
        arrived = math.inf if self.is_last else time.time() - ON_ITS_WAY_SECONDS
        labels: list[KeptLabel] = await self._in_spool(self._spool.labels, AT_ONCE, arrived)
        here = [one for one in labels if one.pod == self._pod]
        await self._labels(here)
        there = [one for one in labels if one.pod != self._pod]
        for pod, theirs in groupby(sorted(there, key=lambda one: one.pod), key=lambda one: one.pod):
            await self._forward(pod, list(theirs))
        return len(predictions) + len(here)

    def is_gone(self, pod: str) -> bool:
        """Whether a pod has not answered for so long that it will not come back."""
        since = self._silent_since.get(pod)
        return since is not None and (self.is_last or time.monotonic() - since > GONE_SECONDS)

    async def _predictions(self, kept: Sequence[Kept]) -> None:
        """Together; if they are refused so, each by itself."""
        try:
            await self._sink.deliver([_read(one) for one in kept])
        except Away:
            raise
        except Exception as exc:  # a worker may say anything, and what waits behind it must not wait for ever
            if len(kept) > 1:
                for one in kept:
                    await self._predictions([one])
                return
            await self._without_words(kept[0], exc)
        await self._in_spool(self._spool.delivered, [one.origin for one in kept])
        DELIVERED.labels("prediction").inc(len(kept))

    async def _without_words(self, kept: Kept, why: Exception) -> None:
        """Something in it is not taken: that it was, and what is said of it, shall not be lost with that."""
        log.warning("A prediction is delivered without what was said error=%s", _words(why))
        REFUSED.labels("prediction").inc()
        for less in (_read(kept)._replace(inputs=None, outputs=None, spans=[]), unrecorded(kept.origin, kept.at)):
            try:
                await self._sink.deliver([less])
                break
            except Away:
                raise
            except Exception as exc:
                log.error("A prediction is not taken error=%s", _words(exc))

    async def _labels(self, kept: Sequence[KeptLabel]) -> None:
        """A few at a time, of each prediction one before the others, for that may have to bring it along; what got
        there is written down together, also when one did not."""
        done: list[KeptLabel] = []

        async def give(one: KeptLabel) -> None:
            await self._label(Label.model_validate_json(one.body))
            done.append(one)

        first = {one.origin: one for one in reversed(kept)}
        others = [one for one in kept if one is not first[one.origin]]
        try:
            for some in (*_few(list(first.values())), *_few(others)):
                for wrong in filter(None, await asyncio.gather(*map(give, some), return_exceptions=True)):
                    raise wrong
        finally:
            if done:
                await self._in_spool(self._spool.done, done)

    async def _label(self, label: Label) -> None:
        try:
            await self._give(label)
            DELIVERED.labels("label").inc()
        except Away:
            raise
        except Exception as exc:
            told = {"prediction": label.prediction}
            log.error("A label is not taken prediction=%s error=%s", label.prediction, _words(exc), extra=told)
            REFUSED.labels("label").inc()

    async def _give(self, label: Label) -> None:
        """The label; where its prediction is known to nobody any more, that is delivered in its place first."""
        try:
            await self._sink.label(label)
        except NoTrace:
            await self._sink.deliver([unrecorded(label.origin, label.at)])
            await self._sink.label(label)

    async def _forward(self, pod: str, kept: Sequence[KeptLabel]) -> None:
        """To the pod that answered; if it is there no more, to where it has delivered what it knew."""
        rest = list(kept)
        try:
            while rest:
                await self._forward_some(pod, some := rest[: _fitting(rest)])
                del rest[: len(some)]
        except Unreachable:
            self._silent_since.setdefault(pod, time.monotonic())
            if self.is_gone(pod):
                await self._labels(rest)

    async def _forward_some(self, pod: str, kept: Sequence[KeptLabel]) -> None:
        """As many as the other pod reads at once. Raises Unreachable."""
        replies = await self._peers.forward(pod, [Label.model_validate_json(one.body) for one in kept])
        self._silent_since.pop(pod, None)
        status = {reply.prediction_id: reply.status for reply in replies}
        await self._in_spool(self._spool.done, [one for one in kept if status.get(one.prediction) == "Stored"])
        await self._labels([one for one in kept if status.get(one.prediction) == "Gone"])


def _fitting(kept: Sequence[KeptLabel]) -> int:
    """How many of these another pod reads at once, at least one; a byte beside each is a comma or a bracket."""
    ends = accumulate((len(one.body) + 1 for one in kept), initial=1)
    return max(1, sum(end <= LONGEST_FORWARDED for end in ends) - 1)


def _few(labels: Sequence[KeptLabel]) -> Iterator[Sequence[KeptLabel]]:
    for start in range(0, len(labels), LABELS_TOGETHER):
        yield labels[start : start + LABELS_TOGETHER]


def _read(kept: Kept) -> Executed:
    """A prediction; what a worker said may be anything, and then only its name counts."""
    try:
        return read_executed(kept.body)
    except Exception as exc:
        log.error("A record cannot be read error=%s", type(exc).__name__)
        LOST.labels("unreadable").inc()
        return unrecorded(kept.origin, kept.at)


def _words(why: Exception) -> str:
    """For the log. Only what MLflow says is meant for people."""
    return str(why) if isinstance(why, Refused) else type(why).__name__


def pause_seconds(failures: int) -> float:
    """How long to wait after so many tries in a row that failed."""
    return min(0.5 * float(2 ** min(failures, 10)), LONGEST_PAUSE_SECONDS)
