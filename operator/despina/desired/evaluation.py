"""The Job that scores a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from despina.api.gates import Dataset, Evaluate, Gate
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import digest
from despina.desired.job import Work, build_job, examples_file, job_template
from despina.desired.labels import EVALUATION, GATE, REVISION
from despina.wire import EVALUATION_ENV, DatasetConfig, EvaluationConfig, RuntimeConfig

LONGEST_SECONDS = 86400
"""What any gate may take. Its own time is not the Job's: that stands still in a pause, and a person may change it."""
ONLY_DISRUPTIONS = {
    "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
}
"""Whoever's node is drained, taken or lost begins anew on another one; every other failure is the Job's, at once."""


@dataclass(frozen=True)
class Evaluation:
    """One gate's Job: what it is called, whose it is, and what it shall do."""

    name: str
    gate: Gate
    config: EvaluationConfig


def evaluation_name(program: Program, gate: Gate, revision: str, started_at: str, compares: bool) -> str:
    """One Job for all that a rollout computes alike: what is tried again is scored again, and a threshold, a time-out
    or a gate's name changes no figure. `compares` says whether it has a baseline."""
    thresholds = {"min_score_percent", "max_regression_percent", "test", "significance_percent", "min_examples"}
    settings = gate.evaluate.model_dump(mode="json", exclude_defaults=True) if gate.evaluate else {}
    computed = {name: value for name, value in settings.items() if name not in thresholds}
    return f"{program.name}-eval-{digest([revision, computed, compares, started_at])}"


def is_compared(gate: Gate) -> bool:
    """Whether what serves is scored beside the candidate."""
    policy = gate.evaluate
    return policy is not None and (policy.max_regression_percent is not None or policy.is_paired)


def evaluation_config(policy: Evaluate, candidate: RuntimeConfig, baseline: RuntimeConfig | None) -> EvaluationConfig:
    """What the Job shall do; a baseline is the version that serves, to compare with."""
    return EvaluationConfig(
        candidate=candidate,
        baseline=baseline,
        dataset=_dataset(policy.dataset_ref),
        metric=policy.metric,
        max_examples=policy.max_examples,
        budget_usd=policy.budget_usd,
        tools=policy.tools,
    )


def build_evaluation(
    program: Program, evaluation: Evaluation, profile: PlacementProfile, default_image: str
) -> dict[str, Any]:
    """Its pod is the program's, but for its labels: no Service of ours ever selects it."""
    gate, config = evaluation.gate, evaluation.config
    work = Work(
        name=evaluation.name,
        label=EVALUATION,
        command="evaluate",
        variable=EVALUATION_ENV,
        config=config,
        serving=config.baseline,
        examples=gate.evaluate.dataset_ref.config_map if gate.evaluate else None,
    )
    labels = {EVALUATION: evaluation.name, REVISION: config.candidate.revision, GATE: gate.name}
    spec = {
        "podFailurePolicy": ONLY_DISRUPTIONS,
        "activeDeadlineSeconds": LONGEST_SECONDS,
        "template": job_template(program, profile, default_image, work),
    }
    return build_job(program, evaluation.name, labels, spec)


def _dataset(ref: Dataset) -> DatasetConfig:
    if ref.config_map:
        return DatasetConfig(file=examples_file(ref.config_map))
    return DatasetConfig(mlflow=ref.mlflow.name if ref.mlflow else None, uri=ref.uri)
