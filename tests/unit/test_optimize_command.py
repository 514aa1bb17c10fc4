"""`despina-runtime optimize -f`: the manifest's settings, and where options say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.wire import DatasetConfig, ModelRef, OptimizationConfig
from despina_runtime import main as command
from tests.support.gen import a_manifest

ASKED = {
    "modules": ["classify"],
    "optimizer": {"name": "MIPROv2", "seed": 3, "params": {"num_trials": 2}},
    "metric": "F1",
    "budget": {"maxLMCalls": 300, "maxUSD": "2", "maxSeconds": 120},
    "dataset": {"groupBy": ["ticket"], "maxPercentPerSource": 20},
    "promotion": {"minExamples": 7, "minGainPercent": 2},
}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the command has done; the manifest's version is known without an MLflow."""

    async def config_of(program: Program, secrets: Path):
        return runtime_config(program, revision_of(program, ModelRef(name="m", version="3", tracking_uri="http://m")))

    async def optimize(config: OptimizationConfig, _: Path):
        given.append((config, golden_of(config)))

    given: list[tuple[OptimizationConfig, str | None]] = []
    monkeypatch.setattr("despina_runtime.process.follow.config_of", config_of)
    monkeypatch.setattr("despina_runtime.optimization.job.optimize", optimize)
    monkeypatch.setattr("despina_runtime.optimization.job.tell", lambda _: 0)

    def run(spec: dict, *options: str) -> OptimizationConfig | None:
        (tmp_path / "program.yaml").write_text(yaml.safe_dump(a_manifest(**spec)))
        given.clear()
        if command.main(["optimize", "-f", str(tmp_path / "program.yaml"), *options]):
            return None
        config, run.golden = given[0]
        return config

    return run


def golden_of(config: OptimizationConfig) -> str | None:
    """What a golden file holds; where it is may be there for that run only."""
    return Path(config.golden.file).read_text() if config.golden and config.golden.file else None


LABELLED = {"feedback": {}, "optimization": ASKED}


def test_all_comes_from_the_manifest(asked):
    config = asked(LABELLED)
    assert config.modules == ("classify",)
    assert config.optimizer.model_dump() == ASKED["optimizer"]
    assert (config.metric, config.golden) == ("F1", None)
    assert config.budget.model_dump() == {"max_lm_calls": 300, "max_usd": "2", "seconds": 120}
    labels = {"file": None, "experiment": f"{config.base.namespace}/{config.base.program}", "until": None}
    assert config.labels.model_dump() == labels | {"group_by": ("ticket",), "max_percent_per_source": 20}
    assert (config.promotion.min_examples, config.promotion.min_gain_percent) == (7, 2)


OPTIONS = {
    ("--module", "a", "--module", "b"): ("modules", ("a", "b")),
    ("--optimizer", "own.search:best"): ("optimizer.name", "own.search:best"),
    ("--seed", "0"): ("optimizer.seed", 0),
    ("--param", "num_trials=5", "--param", 'auto="light"'): ("optimizer.params", {"num_trials": 5, "auto": "light"}),
    ("--metric", "Contains"): ("metric", "Contains"),
    ("--max-lm-calls", "9"): ("budget.max_lm_calls", 9),
    ("--max-usd", "0.5"): ("budget.max_usd", "0.5"),
    ("--seconds", "60"): ("budget.seconds", 60),
    ("--group-by", "x"): ("labels.group_by", ("x",)),
    ("--min-examples", "1"): ("promotion.min_examples", 1),
    ("--labels", "FILE"): ("labels.file", "FILE"),
}


def part(config: OptimizationConfig, way: str):
    for name in way.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_overrides_that_and_nothing_else(asked, options):
    way, expected = OPTIONS[options]
    before, after = asked(LABELLED), asked(LABELLED, *options)
    assert part(after, way) == expected
    for name in ("modules", "optimizer.name", "optimizer.seed", "metric", "budget.max_lm_calls", "labels.group_by"):
        assert name == way or part(after, name) == part(before, name)
    assert (after.labels.experiment is None) == (way == "labels.file")


def test_without_settings_in_the_manifest_options_are_enough(asked):
    config = asked({}, "--labels", "FILE", "--max-lm-calls", "9")
    assert (config.budget.max_lm_calls, config.metric, config.modules) == (9, "ExactMatch", ())
    assert config.optimizer.name == "BootstrapFewShotWithRandomSearch"


def test_a_golden_file_is_given_as_a_copy_for_what_is_read_is_removed(asked, tmp_path):
    own = tmp_path / "mine.jsonl"
    own.write_text("{}\n")
    config = asked(LABELLED, "--golden", str(own))
    assert config.golden.file not in (None, str(own))
    assert asked.golden == own.read_text() == "{}\n"


def golden(ref: dict) -> dict:
    return {"feedback": {}, "optimization": {**ASKED, "dataset": {"goldenRef": ref}}}


def test_a_golden_set_of_the_manifest(asked):
    assert asked(golden({"mlflow": {"name": "golden"}})).golden == DatasetConfig(mlflow="golden")


IN_A_CLUSTER = {"configMap": {"name": "golden", "key": "rows.jsonl"}}
WRONG = {
    "no budget": ({"feedback": {}}, (), "optimize needs --max-lm-calls where the manifest has no spec.optimization"),
    "no labels": ({}, ("--max-lm-calls", "9"), "optimize needs --labels where no spec.feedback brings them to MLflow"),
    "labels on a volume": (
        {"feedback": {"sink": {"jsonLines": {"folder": "/data"}}}}, ("--max-lm-calls", "9"), "optimize needs --labels",
    ),
    "a ConfigMap": (golden(IN_A_CLUSTER), (), "dataset.goldenRef names a ConfigMap, which only a cluster has"),
    "a budget that is none": (LABELLED, ("--max-lm-calls", "0"), "budget.maxLMCalls: Input should be greater than"),
    "an optimiser that is none": (LABELLED, ("--optimizer", "best"), "optimizer.name: String should match pattern"),
    "a parameter without a value": (LABELLED, ("--param", "x"), "--param takes NAME=JSON, not x"),
    "a parameter that is no JSON": (
        LABELLED, ("--param", "a=b"), "--param a=b: 'b' is no JSON; a text has quotes: --param 'a=\"…\"'",
    ),
    "a golden file that is not there": (LABELLED, ("--golden", "/nowhere"), "No such file or directory: '/nowhere'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(asked, capsys, case):
    spec, options, words = WRONG[case]
    assert asked(spec, *options) is None
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_golden_file_stands_in_the_place_of_a_config_map(asked, tmp_path):
    (tmp_path / "mine.jsonl").write_text("{}\n")
    assert asked(golden(IN_A_CLUSTER), "--golden", str(tmp_path / "mine.jsonl")).golden.file.endswith("golden.jsonl")
