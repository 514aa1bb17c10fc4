"""Labelled predictions as an immutable dataset: pure functions.

Which side a row is on follows from its inputs alone, so that data which comes later moves no row: what was held out
once was never trained on. The dataset is named by its content. It is written to MLflow and read by people and
optimisers, so nothing that redaction would hide enters any side of it, the held-out one included: it would be stored
there as it is, or be another question than the one that was answered.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from despina.wire.base import Document
from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Row

Fields = Mapping[str, Any]
Split = Literal["train", "validation", "heldout"]
IsHidden = Callable[[Any], bool]
"""Whether redaction would hide something of a JSON value."""
TRAIN_PERCENT, VALIDATION_PERCENT = 60, 20
"""The rest is held out. Other figures would move rows from one side to another: these stay."""
MAX_PERCENT_PER_SOURCE = 10
LONGEST_REASON = 2000
"""Characters. Reasons are anybody's words."""


class LabelledPrediction(Document):
    """What is known of one answer of the program."""

    prediction_id: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    label: Literal["success", "failure"]
    reason: str | None = None
    expected: dict[str, Any] | None = None
    """The right outputs, or some of them."""
    source: str = ""
    """Who says so, by his own account."""
    trusted: bool
    """Whether he showed a credential for that."""
    at: float
    """When it was labelled, in seconds since the epoch."""

    @property
    def right(self) -> dict[str, Any] | None:
        """What the outputs should be; None where nobody said."""
        if self.expected:
            return self.expected
        return self.outputs if self.label == "success" else None


@dataclass(frozen=True)
class Reason:
    """Why an answer was wrong, where nobody said what would be right."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Rows by side; no input is on two of them."""

    train: tuple[Row, ...] = ()
    validation: tuple[Row, ...] = ()
    heldout: tuple[Row, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """Of the training side only: they tell an optimiser of their inputs."""
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)
    """How many inputs are on no side, by why: Conflicting, Hidden, Capped, Untrusted, NothingExpected."""

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits: the SHA-256 of all files, in the order of their names."""
        hashed = hashlib.sha256()
        for name, text in sorted(self.files().items()):
            hashed.update(name.encode() + b"\n" + text)
        return hashed.hexdigest()

    def files(self) -> dict[str, bytes]:
        """The dataset as it is stored: JSON Lines, sorted, by the file's name."""
        rows = {"train": self.train, "validation": self.validation, "heldout": self.heldout}
        found = {
            f"{name}.jsonl": lines_of({"inputs": r.inputs, "expectations": r.expected} for r in side)
            for name, side in rows.items()
        }
        return found | {"reasons.jsonl": lines_of(map(vars, self.reasons))}


def lines_of(documents: Iterable[Mapping[str, Any]]) -> bytes:
    """Canonical JSON Lines, sorted."""
    return b"".join(sorted(canonical(document) + b"\n" for document in documents))


def side_of(inputs: Fields, group_by: Sequence[str] = ()) -> Split:
    """Where inputs belong, whatever else there is: by the fields `group_by`, or by all if they have none of these."""
    percent = int.from_bytes(_hash({name: inputs[name] for name in group_by if name in inputs} or inputs)) % 100
    if percent < TRAIN_PERCENT:
        return "train"
    return "validation" if percent < TRAIN_PERCENT + VALIDATION_PERCENT else "heldout"


def _hash(inputs: Fields) -> bytes:
    return hashlib.sha256(_same(inputs)).digest()


def _same(value: Any) -> bytes:
    """Equal for what is the same to a program: clients write a number as 7 or as 7.0."""
    return canonical(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class _Candidate:
    """What is expected for some inputs, and who says so."""

    row: Row
    is_trusted: bool
    sources: frozenset[str]
    side: Split

    @property
    def rank(self) -> bytes:
        """By which a source's rows are chosen: at random, and the same ones whatever else there is."""
        return _hash(self.row.inputs)


def make_dataset(
    labels: Iterable[LabelledPrediction],
    *,
    group_by: Sequence[str] = (),
    max_percent_per_source: int = MAX_PERCENT_PER_SOURCE,
    is_hidden: IsHidden = lambda _: False,
) -> Dataset:
    """The dataset that the labels give, in whatever order they come."""
    left_out: Counter[str] = Counter()
    rows: list[_Candidate] = []
    reasons: list[Reason] = []
    for votes in _by_inputs(last_labels(labels)):
        side = side_of(votes[0].inputs, group_by)
        found = _candidate(votes, side, is_hidden)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            rows.append(found)
        reasons += _reasons(votes, side, is_hidden)
    kept = capped(rows, max_percent_per_source)
    left_out["Capped"] += len(rows) - len(kept)
    sides = {name: _sorted([c.row for c in kept if c.side == name]) for name in ("train", "validation", "heldout")}
    ordered = sorted(reasons, key=lambda r: canonical(vars(r)))
    return Dataset(**sides, reasons=tuple(ordered), left_out={k: n for k, n in left_out.items() if n})


def _sorted(rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: canonical(row.inputs)))


def last_labels(labels: Iterable[LabelledPrediction]) -> list[LabelledPrediction]:
    """One label a prediction: the last one; but nobody without a credential replaces what one with it said."""
    found: dict[str, LabelledPrediction] = {}
    for label in labels:
        before = found.get(label.prediction_id)
        if before is None or _standing(label) > _standing(before):
            found[label.prediction_id] = label
    return list(found.values())


def _standing(label: LabelledPrediction) -> tuple[bool, float, bytes]:
    """The last part only decides between labels of the same moment, so that their order does not matter."""
    return label.trusted, label.at, canonical(label.model_dump())


def _by_inputs(labels: Iterable[LabelledPrediction]) -> list[list[LabelledPrediction]]:
    found: dict[bytes, list[LabelledPrediction]] = defaultdict(list)
    for label in labels:
        found[_same(label.inputs)].append(label)
    return [sorted(votes, key=lambda vote: canonical(vote.model_dump())) for votes in found.values()]


def _candidate(votes: Sequence[LabelledPrediction], side: Split, is_hidden: IsHidden) -> _Candidate | str:
    """What the labels of the same inputs say together, or why it is of no use."""
    voters = [v for v in votes if v.trusted and v.right is not None] or [v for v in votes if v.right is not None]
    if not voters:
        return "NothingExpected"
    is_trusted = voters[0].trusted
    expected = agreed([v.right or {} for v in voters])
    # Those who were trusted less than the voters are not asked.
    wrong = [v.outputs for v in votes if v.right is None and v.trusted >= is_trusted]
    if not expected or any(_holds(outputs, expected) for outputs in wrong):
        return "Conflicting"
    if is_hidden(voters[0].inputs) or is_hidden(expected):
        return "Hidden"
    if side == "heldout" and not is_trusted:
        return "Untrusted"
    return _Candidate(Row(voters[0].inputs, expected), is_trusted, frozenset(v.source for v in voters), side)


def agreed(claims: Sequence[Fields]) -> dict[str, Any] | None:
    """All that is expected, where nobody contradicts; None where somebody does."""
    found: dict[str, Any] = {}
    for claim in claims:
        if any(name in found and _same(found[name]) != _same(value) for name, value in claim.items()):
            return None
        found |= claim
    return found


def _holds(outputs: Fields, expected: Fields) -> bool:
    """Whether outputs are all that is expected."""
    return all(name in outputs and _same(outputs[name]) == _same(v) for name, v in expected.items())


def _reasons(votes: Sequence[LabelledPrediction], side: Split, is_hidden: IsHidden) -> list[Reason]:
    if side != "train":
        return []
    found = [v for v in votes if v.right is None and v.reason]
    shown = [v for v in found if not any(map(is_hidden, (v.inputs, v.outputs, v.reason)))]
    return [Reason(v.inputs, v.outputs, (v.reason or "")[:LONGEST_REASON]) for v in shown]


def capped(rows: Sequence[_Candidate], max_percent: int) -> list[_Candidate]:
    """Without those by which one source alone would be more than `max_percent` of what an optimiser sees, after the
    cap; but one row each may have.

    A percent of what came in would be no bound to a source that sends most of it. Trusted rows are not capped: one who
    imports labels, or gave somebody a credential, answers for them, and is often the only source. What several sources
    say stays if one of them has room, so that nobody can use up another's by repeating him.
    """
    free = [row for row in rows if row.is_trusted]
    seen = sum(row.side != "heldout" for row in free)
    by_source: dict[str, list[_Candidate]] = defaultdict(list)
    for row in sorted((row for row in rows if not row.is_trusted), key=lambda row: row.rank):
        for source in row.sources:
            by_source[source].append(row)
    places = sorted(_places(by_source).values())
    cap = max(map(len, by_source.values()), default=0)
    while cap > 1 and cap > (most := max_percent * (seen + bisect_left(places, cap)) // 100):
        cap = max(1, most)  # fewer rows are a smaller bound, down to the greatest that holds for itself
    return free + _first(by_source, cap)


def _places(by_source: Mapping[str, Sequence[_Candidate]]) -> dict[Any, int]:
    """Each row's, in the list of the source in which it comes first: from there on it is among the first of one."""
    found: dict[Any, int] = {}
    for rows in by_source.values():
        for place, row in enumerate(rows):
            found[row.rank] = min(place, found.get(row.rank, place))
    return found


def _first(by_source: Mapping[str, Sequence[_Candidate]], cap: int) -> list[_Candidate]:
    """Up to so many rows of each source."""
    return list({row.rank: row for rows in by_source.values() for row in rows[:cap]}.values())
