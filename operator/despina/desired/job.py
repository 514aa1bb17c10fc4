"""A Job whose pod is the program's: to score versions, or to look for a better one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel

from despina.api.gates import ConfigMapKey
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.desired.labels import metadata, program_labels
from despina.desired.overlay import CONTAINER
from despina.desired.workload import PodParts, build_template, mounted_secret, secrets_of
from despina.wire import RuntimeConfig

EXAMPLES_DIR = "/etc/despina-examples"
DATASET_DIR = "/etc/despina-dataset"
DATASET, EXAMPLES = "despina-dataset", "despina-examples"
KEPT_SECONDS = 86400
"""How long an operator may be away, or unable to read the program, and still learn what was found."""
LIKE_THE_PROGRAM = ("image", "imagePullPolicy", "resources", "securityContext")


@dataclass(frozen=True)
class Work:
    """What one Job's pod is told to do."""

    name: str
    label: str
    """The label of the pod, which says the Job's name, and by which no Service of ours selects anything."""
    command: str
    """The runtime's."""
    variable: str
    """Where the configuration stands."""
    config: BaseModel
    serving: RuntimeConfig | None = None
    """What serves, where it is asked too: it may have been made with other Secrets than the manifest names by now."""
    examples: ConfigMapKey | None = None


def examples_file(source: ConfigMapKey) -> str:
    """Where a Job's pod finds the examples of a ConfigMap."""
    return f"{EXAMPLES_DIR}/{source.key}"


def build_job(program: Program, name: str, labels: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    """A Job that fails at once, and stays until somebody has read what came of it. Its labels tell people what it is
    about; the operator goes by its name."""
    fixed = {"backoffLimit": 0, "ttlSecondsAfterFinished": KEPT_SECONDS}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(program, name, program_labels(program) | labels),
        "spec": fixed | spec,
    }


def job_template(program: Program, profile: PlacementProfile, default_image: str, work: Work) -> dict[str, Any]:
    """The program's pod as a Job's.

    Of the podTemplate's containers only the program's is kept: a sidecar that never ends would keep the Job running for
    ever. One that is an init container with `restartPolicy: Always` ends with the program, and stays.
    """
    template = build_template(program, profile, default_image, _parts(program, work))
    spec = template["spec"]
    container = next(c for c in spec["containers"] if c["name"] == CONTAINER)
    spec = spec | {"restartPolicy": "Never", "containers": [container]}
    if work.examples:
        spec["initContainers"] = [_copier(work.examples, container), *spec.get("initContainers", [])]
    return template | {"spec": spec}


def _parts(program: Program, work: Work) -> PodParts:
    others = _secrets(work.serving) - set(secrets_of(program))
    secrets = [mounted_secret(f"baseline-secret-{i}", name) for i, name in enumerate(sorted(others))]
    volumes, mounts = [v for v, _ in secrets], [m for _, m in secrets]
    if work.examples:
        volumes += [{"name": DATASET, "configMap": {"name": work.examples.name}}, {"name": EXAMPLES, "emptyDir": {}}]
        mounts.append({"name": EXAMPLES, "mountPath": EXAMPLES_DIR})
    # The kubelet expands `$(NAME)` in a variable's value; JSON knows another way to write a dollar.
    config = work.config.model_dump_json(exclude_defaults=True).replace("$", "\\u0024")
    return PodParts(
        labels={work.label: work.name},
        container={"args": [work.command]},
        env=({"name": work.variable, "value": config},),
        volumes=tuple(volumes),
        mounts=tuple(mounts),
    )


def _secrets(config: RuntimeConfig | None) -> set[str]:
    """The Secrets that a version was told to read for its LMs and for MLflow: another manifest's than the present one,
    perhaps."""
    if config is None:
        return set()
    folders = {PurePosixPath(lm.api_key_file).parent for lm in config.lms if lm.api_key_file}
    folders |= {PurePosixPath(config.mlflow_credentials_dir)} if config.mlflow_credentials_dir else set()
    return {folder.name for folder in folders}


def _copier(source: ConfigMapKey, container: dict[str, Any]) -> dict[str, Any]:
    """Lays the examples where the program can read them once and take them away, before a model's code runs there."""
    command = ["python", "-m", "despina_runtime.dataset", f"{DATASET_DIR}/{source.key}", examples_file(source)]
    return {
        "name": DATASET,
        "command": command,
        "volumeMounts": [
            {"name": DATASET, "mountPath": DATASET_DIR, "readOnly": True},
            {"name": EXAMPLES, "mountPath": EXAMPLES_DIR},
        ],
        **{field: copy.deepcopy(container[field]) for field in LIKE_THE_PROGRAM if field in container},
    }
