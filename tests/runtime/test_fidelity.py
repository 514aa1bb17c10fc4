"""Every program that DSPy can run, Despina serves, or says when it is logged why not: `docs/fidelity.md` is made here."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.support.fidelity.rows import ROWS
from tests.support.fidelity.trial import FAILS, STEPS, Found, Row, trial

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
HEAD = """# What of DSPy is served

Made by `tests/runtime/test_fidelity.py`: each line is a program that was logged, tried out as a pod does before it serves, asked
for two answers, for a batch and for a stream, swapped for another version under it, and asked as an evaluation asks. Each answer
fits the schema that `/schema` publishes. *refused*: `log_program` says the sentence at the line's end. What `log_program` and the
pod only remark on stands there, too; such a version is served.
"""


@pytest.fixture(scope="module")
def found(servers, tmp_path_factory) -> dict[str, list[tuple[Row, Found]]]:
    """Processes are forked off one that has imported everything, so that each costs little."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.fidelity.trial"])
    folder = tmp_path_factory.mktemp("fidelity")
    with ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:
        going = {
            group: [(row, pool.submit(trial, row, servers[2], folder / row.entry)) for row in rows]
            for group, rows in ROWS.items()
        }
        return {group: [(row, done.result(120)) for row, done in rows] for group, rows in going.items()}


def test_no_program_that_dspy_runs_fails(found):
    troubles = {
        f"{group}: {row.name}: {step}": result
        for group, rows in found.items()
        for row, one in rows
        for step, result in one.steps.items()
        if result.startswith(FAILS)
    }
    assert troubles == {}


def test_the_page_says_what_was_found(found):
    page = HEAD + "".join(_group(group, rows) for group, rows in found.items())
    if os.environ.get("UPDATE_GOLDENS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def _group(name: str, rows: list[tuple[Row, Found]]) -> str:
    head = f"\n## {name}\n\n| | {' | '.join(STEPS)} | |\n|{' --- |' * (len(STEPS) + 2)}\n"
    return head + "".join(_line(row, one) for row, one in rows)


def _line(row: Row, one: Found) -> str:
    cells = [one.steps.get(step, "") for step in STEPS]
    return f"| {row.name} | {' | '.join(cells)} | {one.said.replace('|', '/')} |\n"
