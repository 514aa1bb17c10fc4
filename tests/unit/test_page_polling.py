"""When pods are asked: how often hangs on who looks, and what is looked at seldom has curves without holes and spikes."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

import pytest

from despina.dashboard.history import LONGEST_BETWEEN, History
from despina.dashboard.polling import RESTING_SECONDS, Poller, Watched, due_after
from despina.dashboard.rates import Look
from despina.dashboard.stream import Stream, Streams
from despina.dashboard.world import World
from despina.sources.figures import Counted
from tests.support.page import NOW, a_manifest, a_pod, figures

KEYS = [("team-a", f"p{number}") for number in range(60)]
SEEN, HIDDEN = KEYS[0], KEYS[1]
NOBODY, LIST, PAGE = Watched(), Watched(rows=[SEEN], anybody=True), Watched(pages=[SEEN], anybody=True)
ROOM = 0.25
"""Seconds between two ticks."""


class Asked:
    """Pods that note when they are asked what."""

    def __init__(self, clock) -> None:
        self.clock, self.figured, self.stated = clock, {}, {}

    async def figures(self, uid, namespace, pod, ip, tag=""):
        self.figured.setdefault(uid, []).append(self.clock())
        return Counted(figures(100))

    async def state(self, uid, namespace, pod, ip):
        self.stated.setdefault(uid, []).append(self.clock())


class Played:
    """A poller, and seconds that pass as fast as they can."""

    def __init__(self) -> None:
        self.now, self.watched = NOW, NOBODY
        self.world = World(lambda: self.now)
        self.world.set_programs("team-a", [a_manifest(name) for _, name in KEYS])
        self.world.set_pods("team-a", [a_pod(f"{name}-1", name) for _, name in KEYS])
        self.asked = Asked(lambda: self.now)
        self.poller = Poller(self.world, self.asked, lambda: self.watched)

    async def pass_by(self, seconds: float, watched: Watched) -> None:
        self.watched = watched
        for _ in range(int(seconds / ROOM)):
            self.now += ROOM
            self.poller._tick()
            await asyncio.gather(*self.poller._asking.values())

    def times(self, key) -> list[float]:
        return self.asked.figured.get(f"uid-{key[1]}", [])

    def longest(self, key, since: float) -> float:
        times = [since, *(at for at in self.times(key) if at > since), self.now]
        return max(b - a for a, b in pairwise(times))


LOOKERS = {
    "nobody": (NOBODY, 30, 30, 4),
    "somebody, at other rows": (LIST, 1, 10, 12),
    "somebody, at a program": (PAGE, 1, 10, 12),
}


@pytest.mark.parametrize(("watched", "seen", "hidden", "times"), LOOKERS.values(), ids=LOOKERS)
async def test_how_often_pods_are_asked_hangs_on_who_looks(watched, seen, hidden, times):
    played = Played()
    await played.pass_by(60, watched)
    began = played.now
    await played.pass_by(120, watched)
    assert played.longest(SEEN, began) <= seen + ROOM
    for key in KEYS[1:]:
        assert hidden - 2 * ROOM <= played.longest(key, began) <= hidden + ROOM
        assert sum(at > began for at in played.times(key)) == times


async def test_who_opens_a_page_sees_figures_as_fresh_as_others_at_once():
    played = Played()
    await played.pass_by(90, NOBODY)
    await played.pass_by(ROOM, LIST)
    old = [played.now - played.times(key)[-1] for key in KEYS]
    assert old[0] == 0
    assert max(old) < 10
    at_once = sum(age == 0 for age in old)
    assert at_once > len(KEYS) / 2
    await played.pass_by(30, LIST)
    last = [played.times(key)[-1] for key in KEYS[1:]]
    assert max(last.count(at) for at in last) < at_once / 2, "they are spread again"


async def test_what_is_new_is_asked_soon_though_nobody_looks():
    played = Played()
    await played.pass_by(10, NOBODY)
    assert all(played.times(key) for key in KEYS)


async def test_only_pods_of_a_program_that_somebody_opened_say_their_state():
    played = Played()
    await played.pass_by(20, LIST)
    assert played.asked.stated == {}
    await played.pass_by(2, PAGE)
    assert set(played.asked.stated) == {f"uid-{SEEN[1]}"}


async def test_programs_that_are_gone_are_forgotten():
    played = Played()
    await played.pass_by(40, LIST)
    played.world.set_programs("team-a", [])
    await played.pass_by(RESTING_SECONDS, NOBODY)
    assert (played.poller._due, played.poller._asked, played.poller._queue) == ({}, {}, [])


def test_any_open_page_counts():
    streams, stream = Streams(), Stream("ada")
    assert not streams.watched().anybody
    streams.begin(stream)
    assert streams.watched().anybody
    streams.end(stream)
    assert not streams.watched().anybody


@pytest.mark.parametrize("every", [10.0, 30.0])
@pytest.mark.parametrize("place", [0, 7, -3, 2**62 + 11])
def test_each_program_has_its_own_second(every, place):
    due = due_after(NOW, every, place)
    assert NOW < due <= NOW + every
    assert due_after(due, every, place) == due + every
    assert due % every == place % int(every)


def looks(*moments: float) -> History:
    """Two requests a second, seen at these seconds."""
    history = History()
    for at in moments:
        history.look(Look(float(at), requests=2.0 * at, latency=(0.0,) * 23))
    return history


SEEN_AT = {  # and of what was before the process began, nothing is claimed
    "every ten seconds": (range(0, 130, 10), [2.0] * 12),
    "every second": (range(121), [2.0] * 12),
    "every thirty, at the start of a slot": (range(0, 130, 30), [math.nan] * 2 + [2.0] * 10),
    "every thirty, at the end of a slot": (range(9, 130, 30), [math.nan] * 2 + [2.0] * 10),
    "every second, then nobody, then every second again": ((*range(29), 57, 87, *range(93, 130)), [2.0] * 12),
    "not for longer than that: nobody knows when": ((*range(0, 40, 10), 30 + LONGEST_BETWEEN + 5, 90, 100, 110, 120),
                                                    [2.0] * 3 + [math.nan] * 4 + [None] + [2.0] * 4),
}  # fmt: skip


@pytest.mark.parametrize(("moments", "curve"), SEEN_AT.values(), ids=SEEN_AT)
def test_however_often_one_looks_an_even_curve_is_even(moments, curve):
    found = looks(*moments).fine.series("requests", 12, 129)
    expected = [value if said is None else said for value, said in zip(found, curve, strict=True)]
    assert found == pytest.approx(expected, nan_ok=True)


def test_what_was_seen_before_nobody_looked_counts_in_its_own_slot_alone():
    history = History()
    for at in range(20, 30):  # a hundred a second until somebody closed the page
        history.look(Look(float(at), requests=100.0 * (at - 20), latency=(0.0,) * 23))
    history.look(Look(59.0, requests=900.0 + 30.0, latency=(0.0,) * 23))
    assert history.fine.series("requests", 4, 59) == pytest.approx([100, 1, 1, 1])
