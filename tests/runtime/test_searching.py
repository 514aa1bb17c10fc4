"""Whatever becomes of the process that optimises, what it has found by then is kept, or there is a clear reason.

The processes here are fakes without dspy (`tests/support/fake_optimizer.py`); `test_optimize.py` has the real ones.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from despina.wire import ModelRef, OptimizerConfig, RuntimeConfig
from despina_runtime.evaluation import subject
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.optimization import search
from despina_runtime.optimization.budget import Budget, Limits
from despina_runtime.optimization.search import Found, Search
from despina_runtime.optimization.states import NotThatProgram
from despina_runtime.optimization.task import Task, TaskRow
from tests.support.world import ROOT

FAKE = (sys.executable, str(ROOT / "tests/support/fake_optimizer.py"))
FIELD = {"prefix": "T:", "description": "t"}
PARENT = {name: {"signature": {"instructions": "old", "fields": [FIELD]}, "demos": []} for name in ("stays", "learns")}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(search, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(subject, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(subject, "EXIT_SECONDS", 0.5)


async def searched(kind: str, cache: Path, stop: asyncio.Event | None = None, seconds: float = 20) -> Found:
    row = TaskRow(inputs={"t": "x"}, expected={"c": "y"})
    task = Task(
        names=("learns",), optimizer=OptimizerConfig(), metric="ExactMatch", seconds=seconds, tools="Refuse",
        train=(row,), validation=(row,),
    )  # fmt: skip
    model = ModelRef(name=kind, version="1", tracking_uri="http://mlflow")
    runtime = RuntimeConfig(namespace="ns", program="p", revision="r", model=model, request_timeout_seconds=1)
    budget = Budget(Limits(calls=9, seconds=9))
    own = Search(task, PARENT, budget, stop or asyncio.Event())
    return await asyncio.wait_for(own.run(runtime, cache, Path("nobody"), FAKE), 30)


KEPT = {
    "finishing": (0.5, ""),
    "improving": (0.75, "the budget ended: 7 calls"),
    "dying": (0.5, "the optimiser's process ended with code 3; see the Job's log"),
    "silent": (0.5, "the optimiser's process has not answered anything for 1 s"),
    "garbage": (0.5, "the optimiser's process said something that is no answer to what it was asked"),
    "boundless": (0.5, "the optimiser's process said something that is no news"),
    "alien": (0.5, "the signature of learns has another number of fields"),
}


@pytest.mark.parametrize("kind", KEPT)
async def test_the_best_is_kept(tmp_path, kind):
    found, (score, ended) = await searched(kind, tmp_path), KEPT[kind]
    assert (found.score, found.ended) == (score, ended)
    assert found.state["learns"]["signature"]["instructions"] == "new"
    assert list(tmp_path.iterdir()) == [], "nothing of it is left"


async def test_of_what_it_gives_only_the_named_modules_are_taken(tmp_path):
    found = await searched("meddling", tmp_path)
    assert found.state["stays"] == PARENT["stays"]
    assert found.state["learns"] != PARENT["learns"]


REASONS = {
    "stillborn": "the optimiser's process ended with code 3",
    "refusing": "there is no such optimiser",
}


@pytest.mark.parametrize("kind", REASONS)
async def test_where_nothing_was_found_there_is_a_reason(tmp_path, kind):
    with pytest.raises((Unusable, NotThatProgram), match=REASONS[kind]):
        await searched(kind, tmp_path)
    assert await searched("fruitless", tmp_path) == Found(ended="it failed")


async def test_an_optimiser_that_hangs_is_ended_when_its_last_call_must_have_ended(tmp_path):
    found = await searched("endless", tmp_path, seconds=0.5)
    assert (found.score, found.ended) == (0.5, "the optimiser did not end within 2 s")


async def test_a_signal_ends_it_with_what_there_is(tmp_path):
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(1, stop.set)
    assert (await searched("endless", tmp_path, stop)).ended == "it was told to end"


async def test_no_held_out_row_lies_in_its_folder(tmp_path):
    assert (await searched("reading", tmp_path)).ended == "account config.json task.json"
