"""What waits on the pod's disk to be delivered: predictions, and what was said of them. One thread writes.

Most predictions are neither sampled nor spoken of: they lie there together, as their worker handed them over, until
somebody speaks of one. A row for each would cost more than all the rest of recording it.

Labels have a share of the room, so that whoever gives many pushes out nobody's predictions. In it, those that were
delivered make room for new ones; where those that wait fill it, with the predictions that wait for their sake, no more
are taken.

Whatever it has taken in is on the disk when that returns. What was delivered is written down without waiting for the
disk: if a node dies just then, it is delivered again, which changes nothing. All of it lives as long as its volume,
which for an emptyDir is as long as the pod.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from despina_runtime.telemetry.executed import END, origin_of
from despina_runtime.telemetry.prediction import place_of

ROOM = "(1536 + (length({}) + 3300) / 4096 * 4096)"
"""Bytes that a label takes on the disk by the length of its body, rather more than less: a row, its place in two
indexes, and what is long lies on pages of its own."""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS predictions (
    origin TEXT PRIMARY KEY, at REAL NOT NULL, body BLOB, is_sampled INTEGER NOT NULL, is_delivered INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS predictions_at ON predictions (at);
CREATE INDEX IF NOT EXISTS predictions_due ON predictions (at) WHERE is_sampled AND NOT is_delivered;
CREATE TABLE IF NOT EXISTS blocks (worker TEXT NOT NULL, first INTEGER NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_first ON blocks (worker, first);
CREATE INDEX IF NOT EXISTS blocks_at ON blocks (at);
CREATE TABLE IF NOT EXISTS labels (
    prediction TEXT PRIMARY KEY, origin TEXT NOT NULL, pod TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL,
    is_done INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_due ON labels (at) WHERE NOT is_done;
CREATE INDEX IF NOT EXISTS labels_done ON labels (at) WHERE is_done;
CREATE INDEX IF NOT EXISTS labels_origin ON labels (origin);
CREATE TABLE IF NOT EXISTS labels_room (is_done INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO labels_room VALUES (0, 0), (1, 0);
CREATE TRIGGER IF NOT EXISTS label_came AFTER INSERT ON labels BEGIN
    UPDATE labels_room SET bytes = bytes + {ROOM.format("new.body")} WHERE is_done = new.is_done;
END;
CREATE TRIGGER IF NOT EXISTS label_changed AFTER UPDATE ON labels BEGIN
    UPDATE labels_room SET bytes = bytes - {ROOM.format("old.body")} WHERE is_done = old.is_done;
    UPDATE labels_room SET bytes = bytes + {ROOM.format("new.body")} WHERE is_done = new.is_done;
END;
CREATE TRIGGER IF NOT EXISTS label_went AFTER DELETE ON labels BEGIN
    UPDATE labels_room SET bytes = bytes - {ROOM.format("old.body")} WHERE is_done = old.is_done;
END;
"""  # noqa: S608 - of what stands here
HOLD = "EXISTS (SELECT 1 FROM labels l WHERE l.origin = p.origin AND NOT l.is_done)"
"""Whether a label waits with a prediction `p`. One that was delivered has no bytes any more."""
PAGE_BYTES = 4096
PRUNED_AT_ONCE, BLOCKS_AT_ONCE, LABELS_AT_ONCE = 1000, 20, 100
LEAST_FOR_LABELS = 2**20
"""Bytes: any label fits, also into the smallest spool."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A prediction."""

    origin: str
    at: float
    body: bytes
    """Its record as JSON."""
    is_sampled: bool = True
    """Whether it is delivered without a label, too."""


@dataclass(frozen=True, slots=True)
class Block:
    """Predictions of one worker that nobody has spoken of, in the order of their numbers."""

    worker: str
    first: int
    """The number of the first."""
    at: float
    body: bytes
    """Their records, one after the other."""

    def find(self, origin: str) -> Kept | None:
        """One of them."""
        begin = (END + self.body).find(END + b'["%s",' % origin.encode())
        return Kept(origin, self.at, self.body[begin : self.body.index(END, begin)], False) if begin >= 0 else None


@dataclass(frozen=True, slots=True)
class KeptLabel:
    """A label; `body` is it as JSON."""

    prediction: str
    origin: str
    pod: str
    at: float
    body: bytes


@dataclass(frozen=True)
class Fill:
    """How much waits."""

    predictions: int
    labels: int


class Spool:
    """The file, and all that is done with it. Raises sqlite3.Error, as where the disk is full."""

    def __init__(self, path: Path, limit_bytes: int, pod: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._limit, self._pod = limit_bytes, pod
        self._limit_of_labels = max(limit_bytes // 2, LEAST_FOR_LABELS)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(SCHEMA)
        self._held = self._sum_of_held()

    def take(self, predictions: Iterable[Kept], labels: Sequence[KeptLabel], blocks: Iterable[Block] = ()) -> list[str]:
        """Keep these; of two labels of one answer the later counts, and one that is known already changes nothing. What
        was spoken of, now or before it came, is kept by itself. The names of those answers for whose
        labels there is no room."""
        new, refused = [*blocks], list[str]()
        with self._transaction():
            self._insert(predictions)
            self._db.executemany(
                "INSERT INTO blocks VALUES (?, ?, ?, ?)", [(b.worker, b.first, b.at, b.body) for b in new]
            )
            for one in labels:
                prediction = self._in_block(one.origin) if one.pod == self._pod else None
                if self._insert_label(one, prediction):
                    self._insert(filter(None, [prediction]))
                else:
                    refused.append(one.prediction)
            self._make_room_for_labels()
            self._insert(self._spoken_of(new))
        return refused

    def knows(self, origin: str) -> bool:
        """Whether this prediction is kept, or was delivered from here."""
        found = self._db.execute("SELECT 1 FROM predictions WHERE origin = ?", (origin,)).fetchone()
        return found is not None or self._in_block(origin) is not None

    def due(self, most: int, everything: bool = False) -> list[Kept]:
        """Predictions to be delivered, those with labels first; `everything`: also those that were not sampled."""
        found = self._due(most, everything)
        while everything and not found and self._open_a_block():  # all of one may have been delivered already
            found = self._due(most, everything)
        return found

    def _due(self, most: int, everything: bool) -> list[Kept]:
        labelled = (
            "SELECT p.origin, p.at, p.body, p.is_sampled FROM labels l JOIN predictions p USING (origin) "
            "WHERE NOT l.is_done AND NOT p.is_delivered GROUP BY p.origin LIMIT ?"
        )
        found = self._db.execute(labelled, (most,)).fetchall()
        if len(found) < most:
            which = "NOT is_delivered" if everything else "is_sampled AND NOT is_delivered"
            rest = f"SELECT origin, at, body, is_sampled FROM predictions WHERE {which} ORDER BY at LIMIT ?"  # noqa: S608
            known = {row[0] for row in found}
            found += [row for row in self._db.execute(rest, (most,)) if row[0] not in known]
        return [Kept(row[0], row[1], row[2], bool(row[3])) for row in found[:most]]

    def records(self, origins: Sequence[str]) -> dict[str, bytes]:
        """Those of predictions that lie by themselves; of one that was delivered, nothing."""
        query = "SELECT body FROM predictions WHERE origin = ?"
        found = {origin: self._db.execute(query, (origin,)).fetchone() for origin in origins}
        return {origin: bytes(row[0]) if row and row[0] else b"" for origin, row in found.items()}

    def delivered(self, origins: Sequence[str]) -> None:
        """These are where they belong; what they were is not needed here any more."""
        with self._transaction("NORMAL"):
            self._held -= sum(map(self._held_by, origins))
            self._db.executemany(
                "UPDATE predictions SET is_delivered = 1, body = NULL WHERE origin = ?", [(o,) for o in origins]
            )

    def labels(self, most: int, before: float = math.inf) -> list[KeptLabel]:
        """Labels to be delivered, the oldest first. One of a prediction that is kept here waits for that to be
        delivered; one of a prediction that should be here and is not, only if it was given `before`: it may come."""
        query = (
            "SELECT l.prediction, l.origin, l.pod, l.at, l.body FROM labels l LEFT JOIN predictions p USING (origin) "
            "WHERE NOT l.is_done AND (p.is_delivered OR (p.origin IS NULL AND (l.pod != ? OR l.at < ?))) "
            "ORDER BY l.at LIMIT ?"
        )
        return [KeptLabel(*row) for row in self._db.execute(query, (self._pod, before, most))]

    def done(self, labels: Iterable[KeptLabel]) -> None:
        """These were delivered, unless a later one has taken one's place meanwhile. What they said is not needed here
        any more, only that nothing earlier may take their place."""
        with self._transaction("NORMAL"):
            self._db.executemany(
                "UPDATE labels SET is_done = 1, body = x'' WHERE prediction = ? AND at = ?",
                [(one.prediction, one.at) for one in labels],
            )

    def fill(self) -> Fill:
        """How much waits to be delivered."""
        (predictions,) = self._db.execute(
            "SELECT count(*) FROM predictions WHERE is_sampled AND NOT is_delivered"
        ).fetchone()
        (labels,) = self._db.execute("SELECT count(*) FROM labels WHERE NOT is_done").fetchone()
        return Fill(predictions, labels)

    def prune(self, before: float) -> int:
        """Forget what is older, and where there is no room, the oldest that nobody spoke of; how many predictions were
        lost by that before they were delivered. A label that waits stays, and so does its prediction, unless it came
        when there was no room for it any more."""
        with self._transaction():
            self._forget(before)
            self._db.execute("DELETE FROM labels WHERE is_done AND at < ?", (before,))
            lost = self._forget_held()
        while self._size() > self._limit and (until := self._oldest()) is not None:
            with self._transaction():
                lost += self._forget(until)
        return lost

    def _forget(self, before: float) -> int:
        """Predictions up to then that nobody spoke of; how many of them were to be delivered."""
        which = (
            "FROM predictions WHERE at <= ? "
            "AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.origin = predictions.origin AND NOT l.is_done)"
        )
        due = f"SELECT count(*) {which} AND is_sampled AND NOT is_delivered"
        (lost,) = self._db.execute(due, (before,)).fetchone()
        self._db.execute(f"DELETE {which}", (before,))
        self._db.execute("DELETE FROM blocks WHERE at <= ?", (before,))
        return int(lost)

    def _forget_held(self) -> int:
        """Predictions that labels wait with, the newest first, where they take more than the labels' share; how many.
        Labels may be there before they are, and then nobody can be refused."""
        self._held = self._sum_of_held()
        excess, too_many = self._waiting() + self._held - self._limit_of_labels, list[tuple[str]]()
        newest = f"SELECT origin, length(body) FROM predictions p WHERE body IS NOT NULL AND {HOLD} ORDER BY at DESC"  # noqa: S608
        for origin, size in self._db.execute(newest) if excess > 0 else ():
            if excess <= 0:
                break
            too_many.append((origin,))
            excess, self._held = excess - size, self._held - size
        self._db.executemany("DELETE FROM predictions WHERE origin = ?", too_many)
        return len(too_many)

    def _oldest(self) -> float | None:
        """Until when the oldest were made that can be forgotten at once."""
        blocks = "SELECT max(at) FROM (SELECT at FROM blocks ORDER BY at LIMIT ?)"
        predictions = (
            "SELECT max(at) FROM (SELECT at FROM predictions p WHERE NOT EXISTS "
            "(SELECT 1 FROM labels l WHERE l.origin = p.origin AND NOT l.is_done) ORDER BY at LIMIT ?)"
        )
        asked = ((blocks, BLOCKS_AT_ONCE), (predictions, PRUNED_AT_ONCE))
        found = [self._db.execute(query, (most,)).fetchone()[0] for query, most in asked]
        return min((at for at in found if at is not None), default=None)

    def _insert(self, predictions: Iterable[Kept]) -> None:
        self._db.executemany(
            "INSERT INTO predictions VALUES (?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
            [(p.origin, p.at, p.body, p.is_sampled) for p in predictions],
        )

    def _insert_label(self, label: KeptLabel, prediction: Kept | None) -> bool:
        """Whether there is room for it beside those that wait, also for what it is about; one of the same answer makes
        room for it. The first may be about anything."""
        replaced = f"SELECT {ROOM.format('body')} FROM labels WHERE prediction = ? AND NOT is_done"  # noqa: S608
        query = f"SELECT bytes + {ROOM.format('?')} - ifnull(({replaced}), 0) FROM labels_room WHERE NOT is_done"  # noqa: S608
        (needed,) = self._db.execute(query, (label.body, label.prediction)).fetchone()
        brought = self._brought_by(label, prediction)
        if needed + self._held + (brought if self._held else 0) > self._limit_of_labels:
            return False
        self._held += brought
        self._db.execute(
            "INSERT INTO labels VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO UPDATE SET at = excluded.at, "
            "body = excluded.body, is_done = 0 WHERE excluded.at > labels.at",
            (label.prediction, label.origin, label.pod, label.at, label.body),
        )
        return True

    def _brought_by(self, label: KeptLabel, prediction: Kept | None) -> int:
        """Bytes of the prediction that waits from now on with this label: none if it does already, or is not here."""
        query = f"SELECT length(body), {HOLD} FROM predictions p WHERE origin = ?"  # noqa: S608
        if found := self._db.execute(query, (label.origin,)).fetchone():
            return 0 if found[1] else int(found[0] or 0)
        return len(prediction.body) if prediction else 0

    def _held_by(self, origin: str) -> int:
        query = f"SELECT length(body) FROM predictions p WHERE origin = ? AND {HOLD}"  # noqa: S608
        (size,) = self._db.execute(query, (origin,)).fetchone() or (0,)
        return int(size or 0)

    def _sum_of_held(self) -> int:
        waiting = "SELECT DISTINCT origin FROM labels WHERE NOT is_done"
        query = f"SELECT sum(length(body)) FROM predictions JOIN ({waiting}) USING (origin)"  # noqa: S608
        (found,) = self._db.execute(query).fetchone()
        return int(found or 0)

    def _waiting(self) -> int:
        (found,) = self._db.execute("SELECT bytes FROM labels_room WHERE NOT is_done").fetchone()
        return int(found)

    def _make_room_for_labels(self) -> None:
        """Forget labels that were delivered, the oldest first."""
        oldest = "SELECT prediction FROM labels WHERE is_done ORDER BY at LIMIT ?"
        delete = f"DELETE FROM labels WHERE prediction IN ({oldest})"  # noqa: S608
        while self._room_of_labels() > self._limit_of_labels:
            if not self._db.execute(delete, (LABELS_AT_ONCE,)).rowcount:
                return

    def _room_of_labels(self) -> int:
        (found,) = self._db.execute("SELECT sum(bytes) FROM labels_room").fetchone()
        return int(found)

    def _in_block(self, origin: str) -> Kept | None:
        """A prediction that lies among others."""
        worker, number = place_of(origin)
        query = "SELECT worker, first, at, body FROM blocks WHERE worker = ? AND first <= ? ORDER BY first DESC LIMIT 1"
        found = self._db.execute(query, (worker, number)).fetchone()
        return Block(*found).find(origin) if found else None

    def _spoken_of(self, new: Sequence[Block]) -> Iterator[Kept]:
        """Those that came after what was said of them."""
        query = (
            "SELECT l.origin FROM labels l LEFT JOIN predictions p USING (origin) "
            "WHERE NOT l.is_done AND p.origin IS NULL AND l.pod = ?"
        )
        for (origin,) in self._db.execute(query, (self._pod,)).fetchall() if new else ():
            worker, number = place_of(origin)
            yield from filter(None, (b.find(origin) for b in new if b.worker == worker and b.first <= number))

    def _open_a_block(self) -> bool:
        """The oldest: each prediction by itself; false if there is none."""
        found = self._db.execute("SELECT rowid, at, body FROM blocks ORDER BY at LIMIT 1").fetchone()
        if found is None:
            return False
        number, at, body = found
        with self._transaction():
            self._insert(Kept(origin_of(r), at, r, False) for r in body.split(END)[:-1])
            self._db.execute("DELETE FROM blocks WHERE rowid = ?", (number,))
        return True

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _size(self) -> int:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * PAGE_BYTES

    def _transaction(self, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> _Transaction:
        return _Transaction(self._db, synchronous)


class _Transaction:
    """All of a block, or nothing. Only what is FULL is on the disk at its end, with all that came before it:
    https://www.sqlite.org/pragma.html#pragma_synchronous"""

    def __init__(self, db: sqlite3.Connection, synchronous: Literal["FULL", "NORMAL"]) -> None:
        self._db, self._synchronous = db, synchronous

    def __enter__(self) -> None:
        self._db.execute(f"PRAGMA synchronous={self._synchronous}")
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("ROLLBACK" if kind else "COMMIT")
