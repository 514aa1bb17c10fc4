"""What a manifest asks of a run, as the Job and the command are told it."""

from __future__ import annotations

import pytest

from despina.api.optimizing import optimization_config
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.wire import BudgetConfig, DatasetConfig, LabelsConfig, ModelRef, OptimizationConfig
from tests.support.gen import a_manifest

MODEL = ModelRef(name="triage", version="3", tracking_uri="http://mlflow")
GOLDEN = {
    "a ConfigMap": ({"configMap": {"name": "golden", "key": "rows.jsonl"}}, DatasetConfig(file="/golden")),
    "a dataset of MLflow": ({"mlflow": {"name": "golden"}}, DatasetConfig(mlflow="golden")),
    "an artefact": ({"uri": "runs:/1/golden.jsonl"}, DatasetConfig(uri="runs:/1/golden.jsonl")),
}


def asked(optimization: dict, modules: tuple[str, ...] | None = None, until: float | None = None) -> OptimizationConfig:
    program = Program.parse(a_manifest(feedback={}, optimization=optimization))
    base = runtime_config(program, revision_of(program, MODEL))
    return optimization_config(program, base, modules, until, "/golden")


def test_what_a_manifest_says_by_default():
    config = asked({"budget": {"maxLMCalls": 300}})
    defaults = OptimizationConfig(base=config.base, budget=BudgetConfig(max_lm_calls=300), labels=config.labels)
    assert config == defaults
    assert config.labels == LabelsConfig(experiment=f"{config.base.namespace}/{config.base.program}")


def test_all_that_a_manifest_says():
    config = asked(
        {
            "modules": ["classify"],
            "optimizer": {"name": "MIPROv2", "seed": 7, "params": {"num_trials": 2}},
            "metric": "own.metrics:score",
            "budget": {"maxLMCalls": 300, "maxUSD": "1.5", "maxSeconds": 60},
            "dataset": {"groupBy": ["ticket"], "maxPercentPerSource": 20},
            "promotion": {"significancePercent": 1, "minGainPercent": 2, "minExamples": 3},
            "tools": "Execute",
        },
        until=5.5,
    )
    assert config.modules == ("classify",)
    assert config.optimizer.model_dump() == {"name": "MIPROv2", "seed": 7, "params": {"num_trials": 2}}
    assert config.budget.model_dump() == {"max_lm_calls": 300, "max_usd": "1.5", "seconds": 60}
    assert (config.labels.until, config.labels.group_by, config.labels.max_percent_per_source) == (5.5, ("ticket",), 20)
    own = {"significance_percent": 1, "min_gain_percent": 2, "min_examples": 3}
    assert (config.promotion.model_dump(), config.metric, config.tools) == (own, "own.metrics:score", "Execute")


def test_modules_that_somebody_asked_for_stand_in_the_place_of_the_manifests():
    spec = {"modules": ["classify"], "budget": {"maxLMCalls": 300}}
    assert asked(spec, modules=("answer",)).modules == ("answer",)
    assert asked(spec, modules=()).modules == ()


@pytest.mark.parametrize("case", GOLDEN)
def test_where_golden_rows_are(case):
    ref, expected = GOLDEN[case]
    assert asked({"budget": {"maxLMCalls": 300}, "dataset": {"goldenRef": ref}}).golden == expected


def test_a_manifest_that_asks_for_nothing():
    program = Program.parse(a_manifest())
    with pytest.raises(ValueError, match=r"no spec\.optimization"):
        optimization_config(program, runtime_config(program, revision_of(program, MODEL)), None, None, "")
