"""The two Services of a program: callers use the active one, the preview shows what is being prepared."""

from __future__ import annotations

from typing import Any

from despina.api.program import Program
from despina.desired.labels import metadata, program_labels, selector


def preview_name(program: Program) -> str:
    """The preview Service's name."""
    return f"{program.name}-preview"


def build_service(program: Program, name: str, revision_hash: str) -> dict[str, Any]:
    """A Service on the pods of one revision. Its selector is the truth about what is active."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(program, name, program_labels(program)),
        "spec": {
            "type": "ClusterIP",
            "sessionAffinity": program.spec.sessions.affinity,
            "selector": selector(program, revision_hash),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }
