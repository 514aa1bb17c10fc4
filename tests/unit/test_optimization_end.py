"""How an optimisation ends: what is told of it, and when nothing is registered."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from despina.wire import (
    BudgetConfig,
    Comparison,
    DatasetConfig,
    LabelsConfig,
    LMConfig,
    ModelRef,
    OptimizationConfig,
    OptimizationResult,
    RuntimeConfig,
)
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.optimization import job, work
from despina_runtime.optimization.job import Optimization
from despina_runtime.optimization.plan import read_plan
from despina_runtime.optimization.registry import Earlier, digest_of, files_digest, found_by, save_model
from despina_runtime.optimization.scoring import Scores
from despina_runtime.optimization.search import Found
from despina_runtime.optimization.work import Work
from despina_runtime.tracking import Lacking
from tests.support.tickets import tickets, write_labels, write_lines

FIELD = {"prefix": "T:", "description": "t"}
PARENT = {"classify": {"signature": {"instructions": "old", "fields": [FIELD]}, "demos": []}}
OTHER = {"classify": {**PARENT["classify"], "demos": [{"ticket": "x", "category": "bug"}]}}
BASE = RuntimeConfig(
    namespace="ns",
    program="triage",
    revision="r",
    model=ModelRef(name="triage", version="3", tracking_uri="http://mlflow"),
    lms=(LMConfig(name="main", model="openai/m"),),
    lm="main",
)


@pytest.fixture
def config(tmp_path) -> OptimizationConfig:
    labels = write_labels(tmp_path / "labels.jsonl", tickets(700, seed=1))
    golden = write_lines(tmp_path / "golden.jsonl", [{"ticket": "x", "category": "bug"}])
    return OptimizationConfig(
        base=BASE,
        budget=BudgetConfig(max_lm_calls=900),
        labels=LabelsConfig(file=str(labels)),
        golden=DatasetConfig(file=str(golden)),
    )


class Models:
    """A registry in memory."""

    def __init__(self, gone: dict[str, str] | None = None) -> None:
        self.gone, self.registered, self.tags = gone or {}, [], {}

    def mirror(self, *_) -> None:
        pass

    def taken_back(self, state) -> str | None:
        return self.gone.get(digest_of(state))

    def register(self, program, parent, state, tags, files) -> str:
        self.registered.append(state)
        self.tags = dict(tags)
        return "4"

    def times_used(self, _) -> int:
        return 0

    def tag(self, version, tags, is_better) -> None:
        self.tags |= tags


@pytest.fixture
def worked(config, tmp_path, monkeypatch):
    """What comes of a search that finds a state, and how far it was said to be on the way."""

    async def run(registry: Models, found: Found):
        progress = []

        class Search:
            def __init__(self, *_) -> None:
                self.found = Found()

            async def run(self, *_) -> Found:
                self.found = found
                progress.append(own.progress)
                return found

        async def score_version(*_) -> Scores:
            own.budget.reserve(None)
            progress.append(own.progress)
            heldout = len(plan.dataset.heldout)
            return Scores([float(len(progress) > 1)] * heldout, [1.0])

        monkeypatch.setattr(work, "score_version", score_version)
        monkeypatch.setattr(work, "Search", Search)
        (tmp_path / "state.json").write_text(json.dumps(PARENT))
        plan = read_plan(config)
        own = Work(plan, tmp_path, registry, tmp_path, [], asyncio.Event())
        return await own.run(Path("nobody"), None), progress

    return run


async def test_what_is_better_is_registered_and_judged_and_told_on_the_way(worked):
    registry = Models()
    result, progress = await worked(registry, Found(OTHER, 0.724))
    assert (result.reason, result.candidate_version) == ("Better", "4")
    assert registry.registered == [OTHER]
    assert progress == ["1/900", "1/900 72 %", "2/900 72 %"]


async def test_a_demonstration_that_redaction_would_hide_is_not_registered(worked):
    demos = [{"ticket": "x", "category": "bug"}, {"ticket": "jane.doe@example.com", "category": "bug"}]
    registry = Models()
    await worked(registry, Found({"classify": {**PARENT["classify"], "demos": demos}}, 0.9))
    assert registry.registered[0]["classify"]["demos"] == demos[:1]


def test_nothing_is_made_of_files_that_the_models_code_has_changed(tmp_path):
    parent, new = tmp_path / "parent", tmp_path / "new"
    (parent / "code").mkdir(parents=True)
    (parent / "code" / "triage.py").write_text("ANSWER = 42")
    (parent / ".complete").write_text("")
    digest = files_digest(parent)
    (parent / "MLmodel").write_text("what a download leaves")
    assert files_digest(parent) == digest
    for file, text in (("code/triage.py", "ANSWER = 43"), ("code/other.py", "")):
        before = (parent / file).read_text() if (parent / file).exists() else None
        (parent / file).write_text(text)
        with pytest.raises(Unusable, match="has changed the version's files"):
            save_model(str(new), parent=str(parent), digest=digest, state={})
        (parent / file).unlink() if before is None else (parent / file).write_text(before)
        shutil.rmtree(new)


async def test_the_same_program_that_was_taken_back_is_not_registered_again(worked):
    registry = Models({digest_of(OTHER): "2"})
    result, _ = await worked(registry, Found(OTHER, 0.9))
    assert (result.reason, result.candidate_version, registry.registered) == ("TakenBack", None, [])
    assert result.message == "the best program is that of version 2, and callers had to be sent away from it"


async def test_the_parent_is_unchanged_also_where_an_equal_one_was_taken_back(worked):
    result, _ = await worked(Models({digest_of(PARENT): "2"}), Found(PARENT, 0.9))
    assert result.reason == "Unchanged"


async def test_however_long_a_reason_is_it_ends_with_one(worked):
    registry = Models()
    await worked(registry, Found(OTHER, None, "x" * 10**6))
    assert len(registry.tags["ended"]) == 500


LARGE = Comparison(base=1 / 3, candidate=2 / 3, interval=(-1 / 3, 1e-300 / 3), p=1e-300 / 7, rows=2**53)
LARGE_TEXT = LARGE.model_dump_json()
EARLIER = {
    "judged": (Earlier("7", True, False), "version 7 came of the same data and settings"),
    "taken back": (
        Earlier("7", True, True),
        "version 7 came of the same data and settings, and callers had to be sent away from it",
    ),
    "taken back before it was judged": (
        Earlier("7", False, True),
        "version 7 came of the same data and settings, and callers had to be sent away from it",
    ),
}


@pytest.mark.parametrize("case", EARLIER)
async def test_what_is_done_already_is_not_done_again(config, tmp_path, monkeypatch, case):
    earlier, words = EARLIER[case]
    monkeypatch.setattr(job.Registry, "find", lambda *_: earlier)
    result = await Optimization(config, tmp_path).run()
    assert (result.reason, result.candidate_version, result.message) == ("AlreadyDone", "7", words)


@pytest.mark.parametrize("reason", ["Better", "NotBetter", "Unchanged"])
async def test_what_was_found_is_found_again_where_the_last_words_were_lost(config, tmp_path, monkeypatch, reason):
    found = OptimizationResult(reason=reason, message="as it was", candidate_version="7", heldout=LARGE)
    proposed = []
    monkeypatch.setattr(job.Registry, "find", lambda *_: Earlier("7", True, False, found))
    monkeypatch.setattr(job.Registry, "tag", lambda _, *what, is_better: proposed.append((*what, is_better)))
    result = await Optimization(config, tmp_path).run()
    assert (result.reason, result.candidate_version, result.heldout) == (reason, "7", LARGE)
    assert result.message == "found before, of the same data and settings: as it was"
    assert proposed == [("7", {}, reason == "Better")]


TAGS = {"despina.reason": "Better", "despina.message": "as it was", "despina.heldout": LARGE_TEXT, "despina.other": "{"}


def test_what_was_found_is_read_off_the_versions_tags():
    found = OptimizationResult(reason="Better", message="as it was", candidate_version="7", heldout=LARGE)
    assert found_by("7", TAGS) == found
    for damaged in ({"despina.reason": "Great"}, {"despina.heldout": "{"}, {"despina.golden": "[]"}):
        assert found_by("7", TAGS | damaged) is None


@pytest.mark.parametrize("version", [None, "7"])
async def test_told_to_end_before_anything_was_registered_it_has_found_nothing_out(
    config, tmp_path, monkeypatch, version
):
    async def ended(_) -> OptimizationResult:
        return OptimizationResult(reason="NothingFound", message="it was told to end", candidate_version=version)

    monkeypatch.setattr(Optimization, "_run", ended)
    optimization = Optimization(config, tmp_path)
    assert (await optimization.run()).reason == "NothingFound"
    optimization.stop.set()
    assert (await optimization.run()).reason == (None if version is None else "NothingFound")


def test_before_anything_is_asked_it_has_spent_nothing(config, tmp_path):
    assert Optimization(config, tmp_path).progress == "0/900"


TEXTS = {"plain": "x", "control characters": "\x01", "beyond the first plane": "\U0001f600", "quotes": '"'}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("is_error", [False, True])
async def test_whatever_the_texts_are_a_termination_message_holds_them(config, tmp_path, monkeypatch, case, is_error):
    async def work_(_) -> OptimizationResult:
        if is_error:
            raise Unusable(TEXTS[case] * 9999)
        return OptimizationResult(
            reason="TooFewExamples", message=TEXTS[case] * 9999, candidate_version="9" * 20, dataset_digest="f" * 64,
            heldout=LARGE, golden=LARGE, lm_calls=2**53, cost_usd=1e300 / 3,
        )  # fmt: skip

    monkeypatch.setattr(Optimization, "_run", work_)
    result = await Optimization(config, tmp_path).run()
    assert 400 < len(result.model_dump_json().encode()) <= 4096
    assert OptimizationResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("exc", [Lacking("Secret x holds neither"), ValueError("secret")])
async def test_a_reason_without_secrets(config, tmp_path, monkeypatch, exc):
    async def work_(_) -> OptimizationResult:
        raise exc

    monkeypatch.setattr(Optimization, "_run", work_)
    result = await Optimization(config, tmp_path).run()
    own = "the optimisation itself failed: ValueError; see the Job's log"
    assert result.error == (str(exc) if isinstance(exc, Lacking) else own)
