"""What waits on the pod's disk to be delivered: predictions, and what was said of them. One thread writes.

Whatever it has taken in survives the process: each change is on the disk when it returns. It lives as long as its
volume, which for an emptyDir is as long as the pod.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    origin TEXT PRIMARY KEY, at REAL NOT NULL, body BLOB, is_sampled INTEGER NOT NULL, is_delivered INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS predictions_at ON predictions (at);
CREATE INDEX IF NOT EXISTS predictions_due ON predictions (at) WHERE is_sampled AND NOT is_delivered;
CREATE TABLE IF NOT EXISTS labels (
    prediction TEXT PRIMARY KEY, origin TEXT NOT NULL, pod TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL,
    is_done INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_due ON labels (at) WHERE NOT is_done;
CREATE INDEX IF NOT EXISTS labels_origin ON labels (origin);
"""
PAGE_BYTES = 4096
PRUNED_AT_ONCE = 1000


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

    def __init__(self, path: Path, limit_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._limit = limit_bytes
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)

    def take(self, predictions: Iterable[Kept], labels: Iterable[KeptLabel]) -> None:
        """Keep these; of two labels of one answer the later counts, and one that is known already changes nothing."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO predictions VALUES (?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
                [(p.origin, p.at, p.body, p.is_sampled) for p in predictions],
            )
            self._db.executemany(
                "INSERT INTO labels VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO UPDATE SET at = excluded.at, "
                "body = excluded.body, is_done = 0 WHERE excluded.at > labels.at",
                [(one.prediction, one.origin, one.pod, one.at, one.body) for one in labels],
            )

    def knows(self, origin: str) -> bool:
        """Whether this prediction is kept, or was delivered from here."""
        return self._db.execute("SELECT 1 FROM predictions WHERE origin = ?", (origin,)).fetchone() is not None

    def due(self, most: int, everything: bool = False) -> list[Kept]:
        """Predictions to be delivered, those with labels first; `everything`: also those that were not sampled."""
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

    def delivered(self, origins: Sequence[str]) -> None:
        """These are where they belong; what they were is not needed here any more."""
        with self._transaction():
            self._db.executemany(
                "UPDATE predictions SET is_delivered = 1, body = NULL WHERE origin = ?", [(o,) for o in origins]
            )

    def labels(self, most: int) -> list[KeptLabel]:
        """Labels to be delivered, the oldest first: of predictions that are here only where those have been."""
        query = (
            "SELECT l.prediction, l.origin, l.pod, l.at, l.body FROM labels l LEFT JOIN predictions p USING (origin) "
            "WHERE NOT l.is_done AND (p.is_delivered OR p.origin IS NULL) ORDER BY l.at LIMIT ?"
        )
        return [KeptLabel(*row) for row in self._db.execute(query, (most,))]

    def done(self, labels: Iterable[KeptLabel]) -> None:
        """These were delivered, unless a later one has taken one's place meanwhile."""
        with self._transaction():
            self._db.executemany(
                "UPDATE labels SET is_done = 1 WHERE prediction = ? AND at = ?",
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
        lost by that before they were delivered. A label that waits stays, and so does its prediction."""
        unspoken = "NOT EXISTS (SELECT 1 FROM labels l WHERE l.origin = predictions.origin AND NOT l.is_done)"
        with self._transaction():
            self._db.execute(f"DELETE FROM predictions WHERE at < ? AND {unspoken}", (before,))  # noqa: S608
            self._db.execute("DELETE FROM labels WHERE is_done AND at < ?", (before,))
        lost = 0
        while self._size() > self._limit:
            with self._transaction():
                oldest = f"SELECT origin, is_sampled AND NOT is_delivered FROM predictions WHERE {unspoken} ORDER BY at LIMIT ?"  # noqa: S608, E501
                found = self._db.execute(oldest, (PRUNED_AT_ONCE,)).fetchall()
                self._db.executemany("DELETE FROM predictions WHERE origin = ?", [(origin,) for origin, _ in found])
            lost += sum(was_due for _, was_due in found)
            if not found:
                break
        return lost

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _size(self) -> int:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * PAGE_BYTES

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """All of a block, or nothing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("ROLLBACK" if kind else "COMMIT")
