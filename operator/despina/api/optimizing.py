"""What a run is asked to do, by the manifest: the operator gives it to a Job, and the command to itself."""

from __future__ import annotations

from despina.api.gates import Dataset
from despina.api.optimization import Optimization, OptimizationBudget
from despina.api.program import Program
from despina.api.revision import experiment_of
from despina.wire import (
    BudgetConfig,
    DatasetConfig,
    LabelsConfig,
    OptimizationConfig,
    OptimizerConfig,
    PromotionConfig,
    RuntimeConfig,
)


def optimization_config(
    program: Program, base: RuntimeConfig, modules: tuple[str, ...] | None, until: float | None, golden_file: str
) -> OptimizationConfig:
    """What `spec.optimization` asks of the version that `base` serves, from labels that were given `until` then.

    `modules` stand in the place of the manifest's; a golden set in a ConfigMap is read from `golden_file`.
    """
    asked = program.spec.optimization
    if asked is None:
        raise ValueError("the manifest has no spec.optimization")
    golden = asked.dataset.golden_ref
    return OptimizationConfig(
        base=base,
        modules=asked.modules if modules is None else modules,
        optimizer=OptimizerConfig(**asked.optimizer.model_dump()),
        metric=asked.metric,
        budget=_budget(asked.budget),
        labels=_labels(program, asked, until),
        golden=_golden(golden, golden_file) if golden else None,
        promotion=PromotionConfig(**asked.promotion.model_dump(exclude={"mode"})),
        tools=asked.tools,
    )


def _budget(asked: OptimizationBudget) -> BudgetConfig:
    return BudgetConfig(max_lm_calls=asked.max_lm_calls, max_usd=asked.max_usd, seconds=asked.max_seconds)


def _labels(program: Program, asked: Optimization, until: float | None) -> LabelsConfig:
    rows, feedback = asked.dataset, program.spec.feedback  # what serves may be of a spec from before there was any
    return LabelsConfig(
        experiment=experiment_of(program, feedback) if feedback else None,
        until=until,
        group_by=rows.group_by,
        max_percent_per_source=rows.max_percent_per_source,
    )


def _golden(ref: Dataset, file: str) -> DatasetConfig:
    if ref.config_map:
        return DatasetConfig(file=file)
    return DatasetConfig(mlflow=ref.mlflow.name if ref.mlflow else None, uri=ref.uri)
