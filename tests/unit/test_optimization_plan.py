"""What is known of an optimisation before an LM is asked, and what becomes of its scores."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from despina.wire import (
    BudgetConfig,
    DatasetConfig,
    FeedbackConfig,
    LabelsConfig,
    LMConfig,
    ModelRef,
    OptimizationConfig,
    OptimizerConfig,
    PromotionConfig,
    RuntimeConfig,
)
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.optimization.asked import check_asked
from despina_runtime.optimization.job import Optimization
from despina_runtime.optimization.plan import read_plan
from despina_runtime.optimization.scoring import Scores
from despina_runtime.optimization.states import UnknownModule
from despina_runtime.optimization.verdict import comparison, verdict
from despina_runtime.program.manifest import Manifest
from tests.support.tickets import tickets, write_labels, write_lines

MODEL = ModelRef(name="triage", version="3", tracking_uri="http://mlflow")
BASE = RuntimeConfig(
    namespace="ns",
    program="triage",
    revision="r",
    model=MODEL,
    lms=(LMConfig(name="main", model="openai/m"),),
    lm="main",
)


@pytest.fixture
def config(tmp_path):
    def make(rows: int = 200, golden: int | None = 4, **changes) -> OptimizationConfig:
        labels = write_labels(tmp_path / "labels.jsonl", tickets(rows, seed=1))
        lines = [{"ticket": text, "category": category} for text, category in tickets(golden or 0, seed=2)]
        own = {"labels": LabelsConfig(file=str(labels)), "budget": BudgetConfig(max_lm_calls=500)}
        golden_file = str(write_lines(tmp_path / "golden.jsonl", lines))
        own["golden"] = DatasetConfig(file=golden_file) if golden is not None else None
        return OptimizationConfig(**{"base": BASE, **own, **changes})

    return make


def test_what_is_read(config):
    plan = read_plan(config())
    dataset = plan.dataset
    assert len(dataset.train) + len(dataset.validation) + len(dataset.heldout) == 200
    assert len(plan.golden) == 4
    assert plan.questions == len(dataset.heldout) + 4
    assert plan.least_calls(3) == 2 * 3 * (len(dataset.validation) + plan.questions)
    assert (plan.limits.calls, plan.limits.seconds, plan.limits.usd) == (500, 3600, None)


OTHER = {
    "the same again": ({}, True),
    "how many pods there are": ({"base": BASE.model_copy(update={"replicas": 9, "revision": "other"})}, True),
    "a module": ({"modules": ("classify",)}, False),
    "a budget": ({"budget": BudgetConfig(max_lm_calls=501)}, False),
    "a base version": ({"base": BASE.model_copy(update={"model": MODEL.model_copy(update={"version": "4"})})}, False),
    "an LM": ({"base": BASE.model_copy(update={"lms": (LMConfig(name="main", model="openai/n"),)})}, False),
    "when it is better": ({"promotion": PromotionConfig(min_examples=7)}, False),
    "golden rows": ({"golden": 5}, False),
    "labels": ({"rows": 201}, False),
}


@pytest.mark.parametrize("case", OTHER)
def test_what_gives_a_run_another_name(config, case):
    changes, is_same = OTHER[case]
    before = read_plan(config()).settings
    assert (read_plan(config(**changes)).settings == before) is is_same


def test_where_the_files_are_gives_it_none(config, tmp_path):
    before = read_plan(config()).settings
    moved = shutil.copy(tmp_path / "labels.jsonl", tmp_path / "moved.jsonl")
    assert read_plan(config(labels=LabelsConfig(file=str(moved)))).settings == before


LACKS = {
    "too few held-out rows": ({"rows": 100}, "held-out rows of trusted sources, and it takes 100"),
    "no rows": ({"rows": 0}, "there are no labelled rows to learn from"),
    "what was left out": (
        {"rows": 20, "base": BASE.model_copy(update={"feedback": FeedbackConfig(redacted_fields=("ticket",))})},
        "there are no labelled rows to learn from: labels need `expected`, or must be of successes; left out: 20 Hidden",
    ),
    "enough": ({"rows": 100, "promotion": PromotionConfig(min_examples=5)}, ""),
}


@pytest.mark.parametrize("case", LACKS)
def test_what_is_missing(config, case):
    changes, words = LACKS[case]
    lack = read_plan(config(**changes)).lack
    assert words in lack
    assert bool(words) == bool(lack)


BROKEN = {
    "no JSON": ("{", "labels.jsonl, line 2: (line): Invalid JSON"),
    "a field of a wrong type": (
        json.dumps({"prediction_id": 1}),
        "labels.jsonl, line 2: prediction_id: Input should be",
    ),
    "an unknown label": (json.dumps({"label": "maybe"}), "labels.jsonl, line 2: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_told_by_its_number(config, tmp_path, case):
    line, words = BROKEN[case]
    own = config(rows=1)
    path = tmp_path / "labels.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(Unusable) as caught:
        read_plan(own)
    assert words in str(caught.value)


def test_a_file_that_is_not_there(config):
    with pytest.raises(Unusable, match="nowhere cannot be read: FileNotFoundError"):
        read_plan(config(labels=LabelsConfig(file="nowhere")))


GOLDEN = {
    "none is wanted": (None, None),
    "it is not there": (DatasetConfig(file="/nowhere/golden"), "the dataset's file golden is not there"),
    "it is empty": (0, "the golden set holds no examples"),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_a_golden_set(config, case):
    golden, words = GOLDEN[case]
    own = (
        config(golden=golden)
        if not isinstance(golden, DatasetConfig)
        else config().model_copy(update={"golden": golden})
    )
    if words is None:
        assert read_plan(own).golden == ()
    else:
        with pytest.raises(Unusable, match=words):
            read_plan(own)


def test_a_golden_set_that_is_no_json(config, monkeypatch):
    monkeypatch.setattr("despina_runtime.optimization.plan.load_lines", lambda *_: [{"ticket": object()}])
    with pytest.raises(Unusable, match="the golden set holds what is not JSON"):
        read_plan(config())


def test_what_is_expected_is_gone_before_a_models_code_runs(config, tmp_path):
    read_plan(config())
    assert not (tmp_path / "golden.jsonl").exists()
    assert (tmp_path / "labels.jsonl").exists(), "it holds what is learned from"


def test_labels_that_were_given_later_do_not_count(config, tmp_path):
    own = config(rows=100)
    labels = own.labels.model_copy(update={"until": 49.0})
    dataset = read_plan(own.model_copy(update={"labels": labels})).dataset
    assert len(dataset.train) + len(dataset.validation) + len(dataset.heldout) == 50


def test_without_labels(config):
    with pytest.raises(Unusable, match="nothing says where labels are"):
        read_plan(config(labels=LabelsConfig()))


def scores(heldout: list[float], golden: list[float] | None = None) -> Scores:
    return Scores(heldout, golden or [])


NONE, ALL, HALF = [0.0] * 40, [1.0] * 40, [0.0, 1.0] * 20
VERDICTS = {
    "better on both": (scores(NONE, NONE), scores(ALL, ALL), {}, "Better"),
    "better, and nothing golden to lose": (scores(NONE), scores(ALL), {}, "Better"),
    "better, and golden is as it was": (scores(NONE, HALF), scores(ALL, HALF), {}, "Better"),
    "better on its own rows only": (scores(NONE, ALL), scores(ALL, HALF), {}, "GoldenWorse"),
    "golden better only": (scores(HALF, NONE), scores(HALF, ALL), {}, "NotBetter"),
    "worse": (scores(ALL), scores(NONE), {}, "NotBetter"),
    "perhaps by chance": (scores(NONE), scores([1.0] * 2 + [0.0] * 38), {}, "NotBetter"),
    "surely, but by too little": (scores(NONE), scores([1.0] * 8 + [0.0] * 32), {"min_gain_percent": 21}, "NotBetter"),
    "surely, and by enough": (scores(NONE), scores([1.0] * 8 + [0.0] * 32), {"min_gain_percent": 20}, "Better"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_what_becomes_of_a_candidate(case):
    base, candidate, rules, expected = VERDICTS[case]
    reason, words, heldout, golden = verdict(base, candidate, PromotionConfig(**rules), times=1, seed=1)
    assert reason == expected
    assert words.count(" rows (gain ") == 1 + bool(base.golden)
    assert comparison(heldout).rows == 40
    assert (comparison(golden) is None) == (not base.golden)


def test_rows_that_were_used_before_must_show_more():
    base, candidate = scores(NONE), scores([1.0] * 5 + [0.0] * 35)
    found = [verdict(base, candidate, PromotionConfig(), times, seed=1)[0] for times in (1, 2, 3, 4)]
    assert found == ["Better", "Better", "Better", "NotBetter"]


def test_the_words_for_people():
    said = verdict(scores(NONE, HALF), scores(ALL, ALL), PromotionConfig(), 1, 1)[1]
    assert said.startswith("0.0 → 100.0 % of 40 held-out rows (gain +100.0 points, 95 % interval +100.0 to +100.0, p ")
    assert "; 50.0 → 100.0 % of 40 golden rows (gain +50.0 points" in said


MANIFEST = Manifest(
    entrypoint="triage:Triage",
    interface={"inputs": {"properties": {"ticket": {}, "customer": {}}}},
    state_sha256="",
    dspy_version="3",
)
SOURCE = "from elsewhere import borrowed as lent\n\nclass Triage: ...\n\ndef strict(e, p): ...\n\nloose = strict\n"
NAMELESS = {
    "an input": ({"labels": LabelsConfig(group_by=("ticket", "nope"))}, "groupBy: no input nope; inputs are ticket, c"),
    "a module": ({"modules": ("answer",)}, "the program has no module answer with a predictor; it has classify"),
    "a metric": ({"metric": "triage:Strict"}, "metric triage:Strict: triage has no Strict"),
    "a metric's module": ({"metric": "no_such_one:f"}, "metric no_such_one:f: there is no module no_such_one, neither"),
    "an optimiser": ({"optimizer": OptimizerConfig(name="triage:best")}, "optimizer triage:best: triage has no best"),
    "a parameter": (
        {"optimizer": OptimizerConfig(name="MIPROv2", params={"nope": 1})},
        "MIPROv2 has no parameter nope; it has ",
    ),
}
NAMED = {
    "nothing": {},
    "an input": {"labels": LabelsConfig(group_by=("customer",))},
    "a module": {"modules": ("classify",)},
    "a metric": {"metric": "triage:strict"},
    "a metric that is imported": {"metric": "triage:lent"},
    "a metric that is assigned": {"metric": "triage:loose"},
    "a metric of a distribution": {"metric": "json:loads"},
    "a parameter": {"optimizer": OptimizerConfig(name="MIPROv2", params={"num_trials": 1})},
    "a parameter of one's own": {"optimizer": OptimizerConfig(name="triage:strict", params={"any": 1})},
}


@pytest.fixture
def version(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "triage.py").write_text(SOURCE)
    (tmp_path / "state.json").write_text('{"classify": {}}')
    return tmp_path


@pytest.mark.parametrize("what", NAMELESS)
def test_a_name_that_stands_for_nothing_in_the_version_is_told(config, version, what):
    changes, said = NAMELESS[what]
    with pytest.raises((Unusable, UnknownModule)) as raised:
        check_asked(config(**changes), MANIFEST, version)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("what", NAMED)
def test_names_that_stand_for_something_are_let_be(config, version, what):
    check_asked(config(**NAMED[what]), MANIFEST, version)


async def test_that_is_told_before_any_call_is_paid(config, version, monkeypatch):
    (version / "despina.json").write_text(MANIFEST.model_dump_json())
    monkeypatch.setattr("despina_runtime.optimization.job.fetch", lambda *_, **__: version)
    monkeypatch.setattr("despina_runtime.optimization.job.read_manifest", lambda _: MANIFEST)
    monkeypatch.setattr("despina_runtime.optimization.job.read_plan", lambda _: SimpleNamespace(lack="", settings="s"))
    monkeypatch.setattr("despina_runtime.optimization.job.Registry.find", lambda *_: None)
    result = await Optimization(config(labels=LabelsConfig(group_by=("nope",))), version).run()
    assert result.error == "groupBy: no input nope; inputs are ticket, customer"
