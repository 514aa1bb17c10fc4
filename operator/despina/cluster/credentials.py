"""Reading a program's own credentials for MLflow from its Secret."""

from __future__ import annotations

import base64
import binascii

from despina.api.conditions import Reason
from despina.api.credentials import NAMES, WANTED, Credentials
from despina.api.program import Program
from despina.cluster.client import Cluster, Document
from despina.cluster.errors import Refused


class Lacking(Exception):
    """The spec names a Secret that holds nothing usable; the text says what to do and shows no value."""

    reason = Reason.SECRET_NOT_FOUND


async def mlflow_credentials(cluster: Cluster, program: Program) -> Credentials | None:
    """The program's own, if it brings any; raises Lacking. The Secret is read by name, for the operator may not list
    Secrets."""
    ref = program.spec.source.mlflow.credentials_secret_ref
    if ref is None:
        return None
    what = f"Secret {program.namespace}/{ref.name}"
    try:
        found = await cluster.get("Secret", program.namespace, ref.name)
    except Refused as exc:
        raise Lacking(f"{what} cannot be read: {exc}") from exc
    if found is None:
        raise Lacking(f"there is no {what}: make it with {WANTED}")
    credentials = Credentials.of({name: _value(found, name) for name in NAMES})
    if credentials.problem:
        raise Lacking(f"{what} {credentials.problem}")
    return credentials


def _value(secret: Document, key: str) -> str:
    try:
        return base64.b64decode((secret.get("data") or {}).get(key, ""), validate=True).decode(errors="replace")
    except binascii.Error:
        return ""
