"""The Job that scores a candidate."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from despina.api.gates import ConfigMapKey, Dataset, Evaluate, Gate
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import digest
from despina.desired.labels import EVALUATION, GATE, REVISION, metadata, program_labels
from despina.desired.overlay import CONTAINER
from despina.desired.workload import PodParts, build_template, mounted_secret, secrets_of
from despina.wire import EVALUATION_ENV, DatasetConfig, EvaluationConfig, RuntimeConfig

EXAMPLES_DIR = "/etc/despina-examples"
DATASET_DIR = "/etc/despina-dataset"
DATASET, EXAMPLES = "despina-dataset", "despina-examples"
KEPT_SECONDS = 86400
"""How long an operator may be away, or unable to read the program, and still learn what an evaluation found."""
LONGEST_SECONDS = 86400
"""What any gate may take. Its own time is not the Job's: that stands still in a pause, and a person may change it."""
ONLY_DISRUPTIONS = {
    "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
}
"""Whoever's node is drained, taken or lost begins anew on another one; every other failure is the Job's, at once."""
LIKE_THE_PROGRAM = ("image", "imagePullPolicy", "resources", "securityContext")


@dataclass(frozen=True)
class Evaluation:
    """One gate's Job: what it is called, whose it is, and what it shall do."""

    name: str
    gate: Gate
    config: EvaluationConfig


def evaluation_name(program: Program, gate: Gate, revision: str, started_at: str) -> str:
    """One Job for all that a rollout computes alike: what is tried again is scored again, and a threshold, a time-out
    or a gate's name changes no figure."""
    thresholds = {"min_score_percent", "max_regression_percent", "test", "significance_percent", "min_examples"}
    settings = gate.evaluate.model_dump(mode="json", exclude_defaults=True) if gate.evaluate else {}
    computed = {name: value for name, value in settings.items() if name not in thresholds}
    return f"{program.name}-eval-{digest([revision, computed, is_compared(gate), started_at])}"


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
    """Its pod is the program's, but for its labels: no Service of ours ever selects it.

    The labels of the Job itself tell people what it scores; the operator goes by its name.
    """
    gate, name = evaluation.gate, evaluation.name
    labels = {EVALUATION: name, REVISION: evaluation.config.candidate.revision, GATE: gate.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(program, name, program_labels(program) | labels),
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": ONLY_DISRUPTIONS,
            "activeDeadlineSeconds": LONGEST_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": _template(program, evaluation, profile, default_image),
        },
    }


def _dataset(ref: Dataset) -> DatasetConfig:
    if ref.config_map:
        return DatasetConfig(file=f"{EXAMPLES_DIR}/{ref.config_map.key}")
    return DatasetConfig(mlflow=ref.mlflow.name if ref.mlflow else None, uri=ref.uri)


def _template(
    program: Program, evaluation: Evaluation, profile: PlacementProfile, default_image: str
) -> dict[str, Any]:
    """The program's pod as a Job's.

    Of the podTemplate's containers only the program's is kept: a sidecar that never ends would keep the Job running for
    ever. One that is an init container with `restartPolicy: Always` ends with the program, and stays.
    """
    source = evaluation.gate.evaluate.dataset_ref.config_map if evaluation.gate.evaluate else None
    template = build_template(program, profile, default_image, _parts(program, evaluation, source))
    spec = template["spec"]
    container = next(c for c in spec["containers"] if c["name"] == CONTAINER)
    spec = spec | {"restartPolicy": "Never", "containers": [container]}
    if source:
        spec["initContainers"] = [_copier(source, container), *spec.get("initContainers", [])]
    return template | {"spec": spec}


def _parts(program: Program, evaluation: Evaluation, source: ConfigMapKey | None) -> PodParts:
    others = _secrets(evaluation.config.baseline) - set(secrets_of(program))
    secrets = [mounted_secret(f"baseline-secret-{i}", name) for i, name in enumerate(sorted(others))]
    volumes, mounts = [v for v, _ in secrets], [m for _, m in secrets]
    if source:
        volumes += [{"name": DATASET, "configMap": {"name": source.name}}, {"name": EXAMPLES, "emptyDir": {}}]
        mounts.append({"name": EXAMPLES, "mountPath": EXAMPLES_DIR})
    # The kubelet expands `$(NAME)` in a variable's value; JSON knows another way to write a dollar.
    config = evaluation.config.model_dump_json(exclude_defaults=True).replace("$", "\\u0024")
    return PodParts(
        labels={EVALUATION: evaluation.name},
        container={"args": ["evaluate"]},
        env=({"name": EVALUATION_ENV, "value": config},),
        volumes=tuple(volumes),
        mounts=tuple(mounts),
    )


def _secrets(config: RuntimeConfig | None) -> set[str]:
    """The Secrets that a version was told to read for its LMs and for MLflow: another manifest's than the candidate's,
    perhaps."""
    if config is None:
        return set()
    folders = {PurePosixPath(lm.api_key_file).parent for lm in config.lms if lm.api_key_file}
    folders |= {PurePosixPath(config.mlflow_credentials_dir)} if config.mlflow_credentials_dir else set()
    return {folder.name for folder in folders}


def _copier(source: ConfigMapKey, container: dict[str, Any]) -> dict[str, Any]:
    """Lays the examples where the program can read them once and take them away, before a model's code runs there."""
    command = ["python", "-m", "despina_runtime.dataset", f"{DATASET_DIR}/{source.key}", f"{EXAMPLES_DIR}/{source.key}"]
    return {
        "name": DATASET,
        "command": command,
        "volumeMounts": [
            {"name": DATASET, "mountPath": DATASET_DIR, "readOnly": True},
            {"name": EXAMPLES, "mountPath": EXAMPLES_DIR},
        ],
        **{field: copy.deepcopy(container[field]) for field in LIKE_THE_PROGRAM if field in container},
    }
