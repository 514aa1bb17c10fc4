"""The contract between the operator and the pods it runs: one document down, one report up.

The operator writes a `RuntimeConfig` into a ConfigMap that the pod mounts; `despina-runtime serve -f`
makes the same document itself. A container that gives up leaves a `Failure` as its termination message,
so that the operator learns the reason from the pod object, without a network path to the pod.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CONFIG_DIR = "/etc/despina"
CONFIG_FILE = "config.json"
SECRETS_DIR = "/etc/despina-secrets"
CACHE_DIR = "/var/lib/despina"
ADMIN_PORT = 8081
ORDERS_PATH = "/orders"
SIGNATURE_HEADER = "despina-signature"
VERSION_HEADER = "despina-model-version"
REVISION_HEADER = "despina-revision"
ENV_PREFIX = "DESPINA_"
POD_NAME_ENV = "DESPINA_POD_NAME"
SECRET_CHECK_ENV = "DESPINA_SECRET_"  # noqa: S105 - a variable's name
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_ENV = "DESPINA_TERMINATION_LOG"


class Document(BaseModel):
    """A frozen document that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LMConfig(Document):
    """One language model a program may call."""

    name: str
    model: str
    base_url: str | None = None
    api_key_file: str | None = None
    """A mounted file, re-read when it changes; the key itself is in no document of ours."""
    params: dict[str, Any] = Field(default_factory=dict)
    request_timeout_seconds: int = 30
    retries: int = 2


class ModelRef(Document):
    """One version of one registered model."""

    name: str
    version: str
    tracking_uri: str


class RuntimeConfig(Document):
    """What one pod shall run. Immutable for the life of a revision."""

    namespace: str
    program: str
    revision: str
    model: ModelRef
    lms: tuple[LMConfig, ...] = ()
    lm: str | None = None
    allow_pickle: bool = False
    max_concurrency: int = 16
    request_timeout_seconds: int = 60
    drain_seconds: int = 30
    port: int = 8080
    order_key: str | None = None
    """Base64 of the Ed25519 public key that orders must be signed with; without one, orders are refused."""


class FailureReason(enum.StrEnum):
    """Why a pod could not serve its revision."""

    LOAD_FAILED = "LoadFailed"
    ARTIFACT_MISSING = "ArtifactMissing"
    ARTIFACT_CORRUPT = "ArtifactCorrupt"
    REQUIREMENTS_MISSING = "RequirementsMissing"
    PICKLE_DENIED = "PickleDenied"
    SIGNATURE_UNKNOWN = "SignatureUnknown"
    WARMUP_FAILED = "WarmupFailed"


class Failure(Document):
    """What a container says when it gives up; at most 4 KiB, the kubelet's limit."""

    reason: FailureReason
    message: str = Field(max_length=1024)

    @classmethod
    def parse(cls, text: str | None) -> Failure | None:
        """Read a termination message; None for anything that is not ours."""
        try:
            return cls.model_validate_json(text or "")
        except ValidationError:
            return None


class Order(Document):
    """A signed instruction to one pod.

    `Retire`: answer on, each time with `Connection: close`, so that kept-alive callers reconnect to the
    new version. `Activate` takes that back. `issued_at` (seconds since the epoch) must grow from order to
    order and `pod` must be the receiver's name, so that an order can be replayed neither later nor elsewhere.
    """

    order: Literal["Retire", "Activate"]
    namespace: str
    pod: str
    issued_at: float
