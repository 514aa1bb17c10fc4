"""A revision: what a user asked for, together with the model version it stands for right now."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from despina.api.base import ApiModel
from despina.api.program import Program
from despina.wire import SECRETS_DIR, LMConfig, ModelRef, RuntimeConfig

# Size, delays and the alias are not part of a revision: changing them must not restart anything.
RELEVANT = ("runtime", "lms", "lm", "placement", "resources", "podTemplate", "serviceAccount", "security")


class Revision(ApiModel):
    """One set of pods that are all alike."""

    hash: str
    """Eight hexadecimal digits over the relevant spec, the model's name and its version."""
    version: str
    deployment: str


def digest(document: Any) -> str:
    """Eight hexadecimal digits that change exactly when the document does."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def revision_of(program: Program, version: str) -> Revision:
    """The revision that a program means when its model resolves to `version`."""
    spec, source = program.spec.dump(), program.spec.source.mlflow
    asked = {field: spec.get(field) for field in RELEVANT}
    hash8 = digest([asked, source.model, source.tracking_uri, version])
    return Revision(hash=hash8, version=version, deployment=f"{program.name}-{hash8}")


def secret_path(secret: str, key: str, root: str = SECRETS_DIR) -> str:
    """Where a Secret's key is mounted in the pod."""
    return f"{root}/{secret}/{key}"


def runtime_config(
    program: Program,
    revision: Revision,
    tracking_uri: str,
    order_key: str | None = None,
    secrets_dir: str = SECRETS_DIR,
) -> RuntimeConfig:
    """The document that a pod of this revision runs by; `make try` builds its own with the same function."""
    spec = program.spec
    return RuntimeConfig(
        namespace=program.namespace,
        program=program.name,
        revision=revision.hash,
        model=ModelRef(name=spec.source.mlflow.model, version=revision.version, tracking_uri=tracking_uri),
        lms=tuple(
            LMConfig(
                name=lm.name,
                model=lm.model,
                base_url=lm.base_url,
                api_key_file=secret_path(lm.api_key_secret_ref.name, lm.api_key_secret_ref.key, secrets_dir)
                if lm.api_key_secret_ref
                else None,
                params=lm.params,
                request_timeout_seconds=lm.request_timeout_seconds,
                retries=lm.retries,
            )
            for lm in spec.lms
        ),
        lm=spec.lm or (spec.lms[0].name if spec.lms else None),
        allow_pickle=spec.security.pickle == "Allow",
        max_concurrency=spec.runtime.max_concurrency,
        request_timeout_seconds=spec.runtime.request_timeout_seconds,
        drain_seconds=spec.runtime.drain_seconds,
        port=spec.runtime.port,
        order_key=order_key,
    )
