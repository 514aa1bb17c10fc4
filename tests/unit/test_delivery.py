"""Bringing labels to where they belong, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from despina.wire.labels import Label
from despina_runtime.feedback.delivery import LABELS_TOGETHER, Delivery
from despina_runtime.feedback.peers import Peers
from despina_runtime.feedback.sink import Away, NoTrace
from despina_runtime.feedback.spool import Kept, KeptLabel, Spool
from despina_runtime.telemetry.executed import Executed
from tests.unit.test_hostile_records import origin, record, said
from tests.unit.test_recording import POD


class Slow:
    """A sink that takes no label before so many are there, and some not at all."""

    def __init__(self, together: int = 1, away: Sequence[str] = ()) -> None:
        self._away, self._meet = away, asyncio.Barrier(together)
        self.labelled: list[str] = []
        self.delivered: list[str] = []
        self.unknown = False
        self.together = self.most = 0

    async def deliver(self, executed: Sequence[Executed]) -> None:
        if self.unknown:
            await asyncio.sleep(0)
            self.delivered += [one.origin for one in executed]

    async def has(self, origin: str) -> bool:
        return True

    async def label(self, label: Label) -> None:
        self.together += 1
        self.most = max(self.most, self.together)
        await asyncio.sleep(0)
        await self._meet.wait()
        self.together -= 1
        if label.origin in self._away:
            raise Away("it went")
        if self.unknown and label.origin not in self.delivered:
            raise NoTrace
        self.labelled.append(label.origin)

    async def close(self) -> None:
        pass


@pytest.fixture
def names(tmp_path):
    return [origin(number) for number in range(40)]


@pytest.fixture
def spool(tmp_path, names):
    found = Spool(tmp_path / "spool.sqlite", 2**20, POD)
    labels = [said(name) for name in names]
    found.take(
        [Kept(name, 1.0, record(name)) for name in names],
        [KeptLabel(one.prediction, one.origin, POD, one.at, one.model_dump_json().encode()) for one in labels],
    )
    yield found
    found.close()


def delivery(spool: Spool, sink: Slow) -> Delivery:
    async def in_spool(work, *args):
        return work(*args)

    return Delivery(POD, spool, in_spool, sink, Peers(b"key"))


async def test_several_labels_are_on_their_way_at_a_time(spool, names):
    sink = Slow(together=LABELS_TOGETHER)
    async with asyncio.timeout(30):
        assert await delivery(spool, sink).round()
    assert sorted(sink.labelled) == sorted(names)
    assert 1 < sink.most <= 8


async def test_what_got_there_beside_one_that_did_not_is_not_delivered_again(spool, names):
    sink = Slow(together=LABELS_TOGETHER, away=names[3:4])
    with pytest.raises(Away):
        await delivery(spool, sink).round()
    assert 1 < len(sink.labelled) < len(names)
    back = Slow()
    await delivery(spool, back).round()
    assert sorted(sink.labelled + back.labelled) == sorted(names)
    assert spool.fill().labels == 0


async def test_labels_of_one_unknown_prediction_bring_it_along_once_and_go_together(tmp_path):
    spool, sink, made = Spool(tmp_path / "spool.sqlite", 2**20, POD), Slow(), origin(1)
    sink.unknown = True
    body = said(made).model_dump_json().encode()
    labels = [KeptLabel(f"{made}~{n}", made, "another", 1.0, body) for n in range(LABELS_TOGETHER + 1)]
    spool.take([], labels)
    await delivery(spool, sink)._labels(labels)
    assert (sink.delivered, sink.labelled) == ([made], [made] * len(labels))
    assert sink.most == LABELS_TOGETHER
    assert spool.fill().labels == 0
    spool.close()
