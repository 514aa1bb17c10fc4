"""The ServiceAccount that a program's pods run as."""

from __future__ import annotations

from typing import Any

from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.desired.labels import metadata, program_labels


def service_account_name(program: Program) -> str:
    """The account's name: the user's choice, or the program's own."""
    return program.spec.service_account.name or program.name


def build_service_account(program: Program, profile: PlacementProfile) -> dict[str, Any] | None:
    """The account, or None where the user brings one."""
    account = program.spec.service_account
    if account.create == "Disabled":
        return None
    meta = metadata(program, service_account_name(program), program_labels(program))
    annotations = {**profile.service_account_annotations, **account.annotations}
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta | ({"annotations": annotations} if annotations else {}),
        "automountServiceAccountToken": False,
    }
