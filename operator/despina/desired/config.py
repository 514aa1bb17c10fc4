"""The ConfigMap that tells a revision's pods what to run."""

from __future__ import annotations

from typing import Any

from despina.api.program import Program
from despina.api.revision import Revision
from despina.desired.labels import metadata, revision_labels
from despina.wire import CONFIG_FILE, RuntimeConfig


def build_config(program: Program, revision: Revision, config: RuntimeConfig) -> dict[str, Any]:
    """One immutable ConfigMap per revision: a pod of the old one that restarts mid-rollout must load the old."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(program, revision.deployment, revision_labels(program, revision)),
        "immutable": True,
        "data": {CONFIG_FILE: config.model_dump_json(exclude_none=True)},
    }
