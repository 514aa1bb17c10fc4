"""The ServiceAccounts that pods run as."""

from __future__ import annotations

from typing import Any

from despina.api.base import Owner
from despina.api.placement import PlacementProfile
from despina.api.pods import ServiceAccount
from despina.api.program import Program
from despina.desired.labels import metadata


def service_account_name(program: Program) -> str:
    """The account's name: the user's choice, or the program's own."""
    return program.spec.service_account.name or program.name


def build_service_account(
    owner: Owner, account: ServiceAccount, name: str, labels: dict[str, str], profile: PlacementProfile
) -> dict[str, Any] | None:
    """The account, or None where the user brings one."""
    if account.create == "Disabled":
        return None
    annotations = {**profile.service_account_annotations, **account.annotations}
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner, name, labels) | ({"annotations": annotations} if annotations else {}),
        "automountServiceAccountToken": False,
    }
