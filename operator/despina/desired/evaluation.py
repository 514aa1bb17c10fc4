"""The Job that scores a candidate."""

from __future__ import annotations

from typing import Any

from despina.api.gates import Dataset, Evaluate, Gate
from despina.api.program import Program
from despina.api.revision import digest
from despina.desired.labels import EVALUATION, metadata, program_labels
from despina.desired.workload import build_container, build_pod_spec
from despina.wire import EVALUATION_ENV, DatasetConfig, EvaluationConfig, RuntimeConfig

DATASET_DIR = "/etc/despina-dataset"
KEPT_SECONDS = 3600


def evaluation_name(program: Program, gate: Gate, revision: str, started_at: str) -> str:
    """One Job for each gate of each rollout: what is tried again is scored again."""
    return f"{program.name}-eval-{digest([revision, gate.dump(), started_at])}"


def build_evaluation(
    program: Program,
    gate: Gate,
    policy: Evaluate,
    name: str,
    candidate: RuntimeConfig,
    baseline: RuntimeConfig | None,
    default_image: str,
) -> dict[str, Any]:
    """Its pod is like the program's, but for its labels: no Service ever selects it."""
    config = EvaluationConfig(
        candidate=candidate,
        baseline=baseline,
        dataset=_dataset(policy.dataset_ref),
        metric=policy.metric,
        max_examples=policy.max_examples,
        budget_usd=policy.budget_usd,
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(program, name, program_labels(program) | {EVALUATION: name}),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": gate.timeout_seconds,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {
                "metadata": {"labels": {EVALUATION: name}},
                "spec": _pod_spec(program, policy, config, default_image),
            },
        },
    }


def _dataset(ref: Dataset) -> DatasetConfig:
    if ref.config_map:
        return DatasetConfig(file=f"{DATASET_DIR}/{ref.config_map.key}")
    return DatasetConfig(mlflow=ref.mlflow.name if ref.mlflow else None, uri=ref.uri)


def _pod_spec(program: Program, policy: Evaluate, config: EvaluationConfig, default_image: str) -> dict[str, Any]:
    container = build_container(program, ["evaluate"], default_image)
    container["env"].append({"name": EVALUATION_ENV, "value": config.model_dump_json(exclude_none=True)})
    spec = build_pod_spec(program, [container]) | {"restartPolicy": "Never"}
    if policy.dataset_ref.config_map:
        spec["volumes"].append({"name": "dataset", "configMap": {"name": policy.dataset_ref.config_map.name}})
        container["volumeMounts"].append({"name": "dataset", "mountPath": DATASET_DIR, "readOnly": True})
    return spec
