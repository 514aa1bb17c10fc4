"""The labels and annotations that tell Despina's objects apart."""

from __future__ import annotations

from typing import Any

from despina.api import API_VERSION, GROUP
from despina.api.base import Owner
from despina.api.program import Program
from despina.api.revision import Revision
from despina.api.tool import Tool

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "despina"
PROGRAM = f"{GROUP}/program"
TOOL = f"{GROUP}/tool"
BACKEND = f"{GROUP}/backend"
REVISION = f"{GROUP}/revision"
MODEL_VERSION = f"{GROUP}/model-version"

ACTIVATED_AT = f"{GROUP}/activated-at"
RETIRED_AT = f"{GROUP}/retired-at"
PROMOTE = f"{GROUP}/promote"
RETRY = f"{GROUP}/retry"
INVALIDATE_CACHE = f"{GROUP}/invalidate-cache"
ABORT = f"{GROUP}/abort"
OPTIMIZE = f"{GROUP}/optimize"
RESTART = f"{GROUP}/restart"

SHAPE = f"{GROUP}/shape"
CONFIG = f"{GROUP}/config"
GENERATION_OF = f"{GROUP}/generation-of"
EVALUATION = f"{GROUP}/evaluation"
OPTIMIZATION = f"{GROUP}/optimization"
RUN = f"{GROUP}/run"
GATE = f"{GROUP}/gate"
RESTARTED_AT = f"{GROUP}/restarted-at"
RESTARTED_BY = f"{GROUP}/restarted-by"
RESTARTS = f"{GROUP}/restarts"
SIZE = f"{GROUP}/size"
MEMORY = f"{GROUP}/memory"


def program_labels(program: Program) -> dict[str, str]:
    """The labels of everything that belongs to a program. Nothing is copied from the program's own."""
    return {MANAGED_BY: MANAGER, PROGRAM: program.name}


def revision_labels(program: Program, revision: Revision) -> dict[str, str]:
    """The labels of what belongs to one revision, pods included."""
    return {
        **program_labels(program),
        REVISION: revision.hash,
        MODEL_VERSION: revision.version,
    }


def selector(program: Program, revision_hash: str) -> dict[str, str]:
    """What selects the pods of one revision."""
    return {PROGRAM: program.name, REVISION: revision_hash}


def selector_text(program: Program, revision_hash: str) -> str:
    """The same, as the scale subresource and kubectl want it."""
    return ",".join(f"{k}={v}" for k, v in selector(program, revision_hash).items())


def tool_labels(tool: Tool, backend: str | None = None) -> dict[str, str]:
    """The labels of everything that belongs to a tool, or to one of its backends."""
    return {MANAGED_BY: MANAGER, TOOL: tool.name} | ({BACKEND: backend} if backend else {})


def metadata(owner: Owner, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """An object's metadata. The owner reference makes Kubernetes clean up: Despina needs no finalizer."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": dict(labels),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
            }
        ],
    }
