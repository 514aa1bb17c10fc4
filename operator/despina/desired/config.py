"""The ConfigMap that tells a revision's pods what to run."""

from __future__ import annotations

from typing import Any

from despina.api.program import Program
from despina.api.revision import Revision
from despina.api.status import Memory
from despina.desired.labels import GENERATION_OF, metadata, program_labels, revision_labels
from despina.wire import CONFIG_FILE, RuntimeConfig


def build_config(program: Program, revision: Revision, config: RuntimeConfig) -> dict[str, Any]:
    """One immutable ConfigMap per revision: a pod of the old one that restarts mid-rollout must load the old."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(program, revision.deployment, revision_labels(program, revision)),
        "immutable": True,
        "data": {CONFIG_FILE: dump(config)},
    }


PREVIOUS_FILE, MEMORY_FILE, AT = "previous.json", "memory.json", "at"


def generation_name(deployment: str) -> str:
    """The ConfigMap that says what a Deployment's pods were changed to."""
    return f"{deployment}-generation"


def build_generation(
    program: Program,
    deployment: str,
    base: str,
    config: RuntimeConfig,
    at: float,
    previous: RuntimeConfig | None,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """What pods serve that were made for another revision. Writing it is what commits a hot swap: the pods are told at
    once, and those that start later read it."""
    data = {CONFIG_FILE: dump(config), AT: repr(at)} | ({PREVIOUS_FILE: dump(previous)} if previous else {})
    data |= {MEMORY_FILE: memory.text()} if memory else {}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(program, generation_name(deployment), program_labels(program) | {GENERATION_OF: base}),
        "data": data,
    }


def dump(config: RuntimeConfig) -> str:
    """Without defaults: a runtime that is older than this operator refuses what it does not know."""
    return config.model_dump_json(exclude_defaults=True)
