"""The two Services of a program: callers use the active one, the preview shows what is being prepared."""

from __future__ import annotations

from typing import Any

from despina.api.program import Program
from despina.api.status import Memory
from despina.desired.labels import MEMORY, metadata, program_labels, selector


def preview_name(program: Program) -> str:
    """The preview Service's name."""
    return f"{program.name}-preview"


def build_service(
    program: Program, name: str, revision_hash: str, memory: Memory | None = None, addresses: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A Service on the pods of one revision. The active one's selector is the truth about what is active, and what must
    not be forgotten is written with it. `addresses` are those that it had before it was deleted."""
    again = {"clusterIP": addresses[0], "clusterIPs": list(addresses)} if addresses else {}
    notes = {"annotations": {MEMORY: memory.text()}} if memory else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(program, name, program_labels(program)) | notes,
        "spec": {
            "type": "ClusterIP",
            "sessionAffinity": program.spec.sessions.affinity,
            "selector": selector(program, revision_hash),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            **again,
        },
    }
