"""What a registered version is worth on rows that its code never sees the answers of.

The processes are those of an Evaluate gate (`evaluation/score.py`); here each row's score is wanted, since two versions
are compared row by row, and all their calls are paid from one account.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from despina.wire import RuntimeConfig, TrialTools
from despina_runtime.evaluation.examples import CallersRow, Line, Row, Shape, Unusable, read_rows
from despina_runtime.evaluation.metrics import BUILT_IN
from despina_runtime.evaluation.score import Scorer, Start, metric_of, subjects
from despina_runtime.evaluation.subject import fresh_folder
from despina_runtime.optimization.account import ADDRESS

log = logging.getLogger(__name__)
WORKING = (sys.executable, "-m", "despina_runtime.optimization.working")


@dataclass(frozen=True)
class Questions:
    """What both versions are asked."""

    heldout: tuple[Row, ...]
    golden: tuple[Line, ...]
    """As they stand in their file."""
    metric: str
    tools: TrialTools


@dataclass(frozen=True)
class Scores:
    """A version's, row by row, from 0 to 1."""

    heldout: Sequence[float]
    golden: Sequence[float]


@asynccontextmanager
async def processes(
    runtime: RuntimeConfig, cache: Path, address: Path, command: Sequence[str]
) -> AsyncIterator[tuple[Path, Start]]:
    """A folder for one version, and what starts processes there that pay from the account."""
    with fresh_folder(cache, runtime) as folder:
        (folder / ADDRESS).write_text(str(address))
        async with subjects(command, folder) as start:
            yield folder, start


async def score_version(
    runtime: RuntimeConfig, which: str, asked: Questions, cache: Path, address: Path,
    command: Sequence[str] = WORKING,
) -> Scores:  # fmt: skip
    """One version's scores; raises Unusable, also when a call was refused that it needed."""
    async with processes(runtime, cache, address, command) as (_, start):
        model = await start(f"the {which}'s process", "model", asked.tools)
        shape = await model.first_word()
        heldout = fitting(asked.heldout, shape, asked.metric)
        golden = read_rows(asked.golden, shape, asked.metric, len(asked.golden)) if asked.golden else []
        if not heldout:
            raise Unusable("no held-out row fits the program's interface")
        metric = await metric_of(asked.metric, start, runtime.request_timeout_seconds)
        scorer = Scorer(model, shape, metric, runtime, partial(log.debug, "Scoring %s %s", which))
        return await score_rows(scorer, heldout, golden)


async def score_rows(scorer: Scorer, heldout: Sequence[Row], golden: Sequence[Row]) -> Scores:
    """In one run: a version that answers held-out rows but no golden row is worse, and can be judged."""
    try:
        scores = (await scorer.run([*heldout, *golden], None)).scores
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return Scores(scores[: len(heldout)], scores[len(heldout) :])


def fitting(rows: Iterable[Row], shape: Shape, metric: str) -> list[CallersRow]:
    """Rows as the program can be asked them now: another version of it may have had other fields."""
    found = []
    for row in rows:
        expected = {k: v for k, v in row.expected.items() if k in shape.gives or metric not in BUILT_IN}
        if expected and set(shape.inputs.required) <= row.inputs.keys() <= shape.takes:
            found.append(CallersRow(row.inputs, expected))
    return found
