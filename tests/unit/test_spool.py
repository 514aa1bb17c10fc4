"""Whoever gives many labels, for an answer that was given again many times: what that leaves of the disk to others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from despina.wire.labels import LONGEST_LABEL
from despina_runtime.feedback import desk as desks
from despina_runtime.feedback.spool import Block, Kept, KeptLabel, Spool
from despina_runtime.telemetry.executed import END
from despina_runtime.telemetry.prediction import place_of
from tests.unit.test_hostile_records import Desk, record, said
from tests.unit.test_hostile_records import origin as fresh
from tests.unit.test_predictions import POD, kept, origin

LIMIT = 2**22
LONG = b"x" * LONGEST_LABEL


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


@pytest.fixture
def spool(file: Path) -> Iterator[Spool]:
    """One with predictions of others, which are all delivered but one."""
    found = Spool(file, LIMIT, POD)
    found.take([*map(kept, range(100)), Kept(origin(100), 100.0, b"[]", False)], [])
    found.delivered([origin(n) for n in range(100)])
    yield found
    found.close()


def hit(n: int, body: bytes = b"{}", at: float | None = None) -> KeptLabel:
    """A label of an answer that was cached."""
    return KeptLabel(f"{origin(1)}~{n:09x}-mac", origin(1), POD, 1000.0 + n if at is None else at, body)


def used(file: Path) -> int:
    """Bytes of the pages that hold something."""
    db = sqlite3.connect(file)
    ((pages,), (free,)) = (db.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "freelist_count"))
    db.close()
    return int(pages - free) * 4096


def knows_all(spool: Spool) -> bool:
    return spool.prune(-1.0) == 0 and all(spool.knows(origin(n)) for n in range(101))


def give(spool: Spool, *labels: KeptLabel) -> None:
    """What is taken and delivered at once."""
    assert spool.take([], labels) == []
    spool.done(spool.labels(len(labels)))


def test_of_what_was_delivered_the_words_are_not_kept(spool, file):
    before = used(file)
    for n in range(32):
        give(spool, hit(n, LONG))
    assert used(file) < before + 32 * 1024
    assert knows_all(spool)


def test_nor_do_many_short_ones_take_more_than_their_share(spool, file):
    for first in range(0, 10_000, 500):
        give(spool, *(hit(n, b"x" * 200) for n in range(first, first + 500)))
        assert used(file) < LIMIT
    assert knows_all(spool)


@pytest.mark.parametrize("length", [2, 500, 780, 1200, 3000, 5000, LONGEST_LABEL])
def test_those_that_wait_take_no_more_than_their_share_and_push_nobody_out(spool, file, length):
    before, n = used(file), 0
    while not spool.take([], [hit(n, b"x" * length)]):
        n += 1
    assert LIMIT / 16 < used(file) - before < LIMIT / 2 + 2**16
    assert knows_all(spool)
    assert spool.fill().labels == n, "what was acknowledged waits"


def test_when_they_are_delivered_there_is_room_again(spool):
    n = 0
    while not spool.take([], [hit(n, LONG)]):
        n += 1
    spool.done(spool.labels(1))
    assert spool.take([], [hit(n, LONG), hit(n + 1, LONG)]) == [hit(n + 1).prediction]
    assert spool.fill().labels == n


def test_where_there_is_no_room_what_waits_may_be_given_again(spool):
    n = 0
    while not spool.take([], [hit(n, LONG)]):
        n += 1
    again, later = hit(0, LONG), hit(0, LONG, at=2000.0)
    assert spool.take([], [again, hit(n, LONG), later]) == [hit(n).prediction]
    assert spool.fill().labels == n
    assert later in spool.labels(n)


def test_of_delivered_ones_the_oldest_are_forgotten_and_a_waiting_one_never(spool):
    spool.take([], [hit(0, at=1.0)])
    sent = [hit(n) for n in range(1, 3001)]
    for first in range(0, 3000, 500):
        spool.take([], sent[first : first + 500])
        spool.done(sent[first : first + 500])
    assert [one.prediction for one in spool.labels(10)] == [hit(0).prediction]
    spool.take([], [sent[-1]])
    assert spool.fill().labels == 1, "the newest is known to have been delivered"
    spool.take([], [sent[0]])
    assert spool.fill().labels == 2, "the oldest is not"


def test_a_label_of_which_the_words_are_gone_is_replaced_by_a_later_one_only(spool):
    give(spool, hit(1, b'"a"', at=5.0))
    spool.take([], [hit(1, b'"b"', at=4.0)])
    assert spool.labels(10) == []
    spool.take([], [hit(1, b'"c"', at=6.0)])
    assert [one.body for one in spool.labels(10)] == [b'"c"']


def test_what_is_given_again_and_again_takes_the_room_of_one(spool):
    for n in range(200):
        assert spool.take([], [hit(1, LONG, at=float(n))]) == []
    assert spool.fill().labels == 1


def large(n: int, is_sampled: bool = False) -> Kept:
    return Kept(origin(n), float(n), b"x" * 100_000, is_sampled)


def about(n: int) -> KeptLabel:
    return KeptLabel(f"{origin(n)}-mac", origin(n), POD, 1000.0 + n, b"{}")


def others_are_kept(spool: Spool, file: Path) -> bool:
    """Whether those that come after all that are labelled stay, in the room that there is."""
    spool.take([Kept(origin(n), 2000.0 + n, b"x" * 10_000) for n in range(1000, 1100)], [])
    lost = spool.prune(-1.0)
    return used(file) <= LIMIT and lost == 0 and all(spool.knows(origin(n)) for n in range(1000, 1100))


def test_what_waits_with_labels_is_in_their_share(file):
    spool = Spool(file, LIMIT, POD)
    taken = next(n for n in range(60) if spool.take([large(n)], [about(n)]))
    assert taken == 20
    assert others_are_kept(spool, file)
    assert all(spool.knows(origin(n)) for n in range(20)), "what was acknowledged waits"
    spool.close()


def test_also_where_they_were_there_before_it(file):
    spool = Spool(file, LIMIT, POD)
    assert spool.take([], [about(n) for n in range(60)]) == []
    spool.take([large(n, n % 2 == 0) for n in range(60)], [])
    lost = spool.prune(-1.0)
    assert 35 < lost < 45
    assert others_are_kept(spool, file)
    assert spool.fill().labels == 60
    assert all(spool.knows(origin(n)) for n in range(15)), "the newest go"
    spool.close()


def test_what_is_delivered_makes_room_for_others(file):
    spool = Spool(file, LIMIT, POD)
    spool.take([large(n) for n in range(21)], [about(n) for n in range(20)])
    again = KeptLabel(f"{origin(1)}~1-mac", origin(1), POD, 5000.0, b"{}")
    assert spool.take([], [about(20), again]) == [about(20).prediction], "a second label brings nothing"
    spool.delivered([origin(1)])
    assert spool.take([], [about(20)]) == []
    spool.close()
    spool = Spool(file, LIMIT, POD)
    spool.take([large(30)], [])
    assert spool.take([], [about(30)]) == [about(30).prediction], "the next container counts them, too"
    spool.close()


def test_what_many_labels_wait_with_is_counted_once(file):
    spool, (worker, number) = Spool(file, LIMIT, POD), place_of(origin(1))
    spool.take([], [], [Block(worker, number, 1.0, b'["%s",%s]' % (origin(1).encode(), b"x" * 100_000) + END)])
    assert spool.take([], [hit(n) for n in range(60)]) == []
    spool.close()


def test_into_the_smallest_spool_fits_a_label_of_the_largest_prediction(tmp_path):
    spool = Spool(tmp_path / "small.sqlite", 2**10, POD)
    assert spool.take([Kept(origin(1), 1.0, b"x" * 2**21)], [about(1)]) == []
    spool.close()


def test_a_spool_that_got_smaller_keeps_what_waits(spool, file):
    for n in range(24):
        spool.take([], [hit(n, LONG)])
    smaller = Spool(file, 2**10, POD)
    assert smaller.take([], [hit(30)]) == [hit(30).prediction]
    assert smaller.fill().labels == 24
    smaller.close()


def test_into_the_smallest_spool_fits_the_longest_label(tmp_path):
    spool = Spool(tmp_path / "small.sqlite", 2**10, POD)
    assert spool.take([], [hit(1, LONG * 11)]) == []
    spool.close()


async def test_who_gives_a_label_for_which_there_is_no_room_is_told_so(tmp_path, monkeypatch):
    labels = [said(fresh(f"{n:x}"), expected={"a": "x" * (LONGEST_LABEL - 100)}) for n in range(40)]
    async with Desk(tmp_path, spool_bytes=2**21) as own:
        replies = [one.status for one in await own.desk.store(labels)]
        own.desk.record(record(fresh("ff")))
        (short,) = await own.desk.store([said(fresh("fe"))])
        trouble = own.desk.report().trouble
        monkeypatch.setattr(desks, "NO_ROOM_SECONDS", 0.0)
        later = own.desk.report().trouble
    stored = replies.count("Stored")
    assert 8 < stored < 20
    assert replies == ["Stored"] * stored + ["Failed"] * (40 - stored)
    assert short.status == "Stored"
    assert ("half of the spool" in trouble, later) == (True, ""), "whatever is stored meanwhile"
    assert sum(line["type"] == "label" for line in own.delivered()) == stored + 1
