"""What changes, as server-sent events: one stream a page, with no more than its viewer sees on the screen.

Rows are compared by their numbers and not kept in a log: a stream that was lost goes on from the last number that it
had, however long ago that was, and whoever cannot keep up misses only what is old by then.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from despina.dashboard.facts import Key
from despina.dashboard.polling import Watched
from despina.dashboard.rows import Row, in_order
from despina.dashboard.world import Known, World

TICK_SECONDS, HEARTBEAT_SECONDS = 1.0, 15.0
MOST_STREAMS, MOST_OF_ONE, MOST_VISIBLE = 500, 20, 250
"""Pages that are open, those of one person, and rows of one page."""
REFRESH_SECONDS = 2.0
"""At least, between two times that a page is made anew because rows came, went or changed places."""
TABLES_SECONDS = 10
"""Tables of a program's page are made anew this often."""


class Full(Exception):
    """There are as many streams as there may be, of all people or of one."""


@dataclass
class Stream:
    """One open page."""

    person: str
    page: Key | None = None
    """The program that it shows; None for the list."""
    span: str = "15m"
    sent: int = 0
    """The last number that it has."""
    shape: str = ""
    """Of what its page was made from."""
    visible: frozenset[Key] = frozenset()
    refreshed: float = 0.0
    word: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    pictured: bytes = b""
    """Of a program's page, the figures that it shows."""


class Streams:
    """All open pages."""

    def __init__(self) -> None:
        self._open: dict[str, Stream] = {}

    def begin(self, stream: Stream) -> None:
        """Raises Full."""
        own = sum(one.person == stream.person for one in self._open.values())
        if len(self._open) >= MOST_STREAMS or own >= MOST_OF_ONE:
            raise Full
        self._open[stream.word] = stream

    def end(self, stream: Stream) -> None:
        """It is closed."""
        self._open.pop(stream.word, None)

    def look(self, word: str, person: str, keys: Collection[Key]) -> bool:
        """What somebody sees in their own page now; whether there is such a stream."""
        stream = self._open.get(word)
        if stream is None or stream.person != person:
            return False
        stream.visible = frozenset(list(keys)[:MOST_VISIBLE])
        return True

    def watched(self) -> Watched:
        """What anybody sees."""
        pages = {stream.page for stream in self._open.values() if stream.page}
        rows = frozenset().union(*(stream.visible for stream in self._open.values()))
        return Watched(rows, pages, anybody=bool(self._open))


def shape_of(rows: Sequence[Row]) -> str:
    """Changes when rows come, go or change places; rows are in their order."""
    return f"{hash(tuple((row.key, row.needs and row.needs[0].word) for row in rows)) & 2**64 - 1:x}"


def shape_of_page(known: Known, now: float) -> str:
    """Changes when a program's page is to be made anew."""
    return f"{known.changes}.{int(now // TABLES_SECONDS)}"


def list_events(world: World, stream: Stream, namespaces: Collection[str]) -> Iterator[bytes]:
    """What a list of programs is to be told now."""
    shape, now = shape_of(in_order(world.rows(namespaces))), world.clock()
    if shape != stream.shape and now - stream.refreshed >= REFRESH_SECONDS:
        stream.shape, stream.refreshed = shape, now
        yield event("refresh", b"{}")
    seen = [world.programs[key] for key in stream.visible if key in world.programs and key[0] in namespaces]
    fresh = sorted(row for row in ((e.number, e.data) for e in map(world.encoded, seen)) if row[0] > stream.sent)
    for number, data in fresh:
        yield event("row", data, number)
    stream.sent = max(stream.sent, fresh[-1][0]) if fresh else stream.sent


def page_events(world: World, stream: Stream, known: Known) -> Iterator[bytes]:
    """What a program's page is to be told now."""
    shape, now = shape_of_page(known, world.clock()), world.clock()
    if shape != stream.shape and now - stream.refreshed >= REFRESH_SECONDS:
        stream.shape, stream.refreshed = shape, now
        yield event("refresh", b"{}")
    picture = pictured(world, known, stream.span)
    if picture != stream.pictured:
        stream.pictured = picture
        yield event("page", picture, world.number())


def pictured(world: World, known: Known, span: str) -> bytes:
    """The figures and curves of a program's page."""
    row, paths, tops = world.row(known), dict[str, str](), dict[str, str]()
    for name, chart in world.charts(known, span).items():
        paths |= {f"{name}-{series}": d for series, d in chart.paths.items()}
        tops[f"top-{name}"] = chart.top
    return json.dumps({"cells": row.cells | tops, "level": row.state.level, "paths": paths}).encode()


def event(kind: str, data: bytes, number: int | None = None) -> bytes:
    """As a stream has it."""
    numbered = b"id: %d\n" % number if number is not None else b""
    return b"%sevent: %s\ndata: %s\n\n" % (numbered, kind.encode(), data)


def keys_of(said: object) -> list[Key]:
    """What a page says that it shows; whatever is no key is left out."""
    listed = said if isinstance(said, list) else []
    pairs = (key.split("/") for key in listed[:MOST_VISIBLE] if isinstance(key, str))
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
