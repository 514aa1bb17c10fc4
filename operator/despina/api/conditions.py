"""The vocabulary of conditions: every type and every reason, with what it means.

All types have positive polarity and all of them are present from the first visit on.
"""

from __future__ import annotations

import enum

from despina.api.base import ApiModel, Text, Word


class Type(enum.StrEnum):
    """What can be known about a program."""

    READY = "Ready"
    """Available, the spec is accepted, and no edit of the spec has failed; the one to `kubectl wait` on."""
    AVAILABLE = "Available"
    """The active version answers. A rollout never makes this False."""
    UP_TO_DATE = "UpToDate"
    """The active version is the requested one."""
    PROGRESSING = "Progressing"
    """As on a Deployment: False when a change missed its deadline, or when nothing can get on, and why."""
    MODEL_RESOLVED = "ModelResolved"
    """The alias or version was found in MLflow; Unknown while MLflow cannot be reached."""
    REFS_RESOLVED = "RefsResolved"
    """What the spec refers to (Secrets, placement profile) exists."""
    ORDERS_ACCEPTED = "OrdersAccepted"
    """The pods that callers reach take the operator's orders, as far as is known; else versions come in new pods."""
    BREAKER_CLOSED = "BreakerClosed"
    """The program is executed; False while its breaker is open or probing."""
    RECONCILED = "Reconciled"
    """The operator could look at everything and write what it wanted to."""


class ToolType(enum.StrEnum):
    """What can be known about a tool, beside Ready and Available."""

    CONTRACT_VERIFIED = "ContractVerified"
    """Its backends offer what its contract says."""
    BACKENDS_HEALTHY = "BackendsHealthy"
    """All of its backends can be used."""


class Reason(enum.StrEnum):
    """Why a condition is as it is. The runtime's own failure reasons (`wire.FailureReason`) join these."""

    SERVING = "Serving"
    """The active version has ready pods."""
    STARTING = "Starting"
    """The first version is on its way."""
    NO_READY_PODS = "NoReadyPods"
    """No pod of the active version is ready; the message says why, as far as the pods tell."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is true, or `spec.replicas` is 0."""
    INVALID_SPEC = "InvalidSpec"
    """The API server accepted a spec that this operator cannot read."""
    INVALID_POD_TEMPLATE = "InvalidPodTemplate"
    """`spec.podTemplate` overrides something that is Despina's."""
    UNKNOWN_PROFILE = "UnknownProfile"
    """`spec.placement.profile` is not in the operator's configuration."""
    IN_PROGRESS = "InProgress"
    """A new version is being prepared."""
    AWAITING_PROMOTION = "AwaitingPromotion"
    """A new version is ready and waits for the promote annotation."""
    UP_TO_DATE = "UpToDate"
    """Nothing to do."""
    PAUSED = "Paused"
    """`spec.rollout.state` is Paused."""
    ABORTED = "Aborted"
    """Someone ended the rollout by annotation."""
    SMOKE_FAILED = "SmokeFailed"
    """The new version did not answer a gate's inputs."""
    SCHEMA_INCOMPATIBLE = "SchemaIncompatible"
    """Callers of the serving version would break."""
    EVALUATION_FAILED = "EvaluationFailed"
    """The new version's score is too low, or could not be found out."""
    SHADOW_FAILED = "ShadowFailed"
    """The new version did worse on what callers ask."""
    WATCH_FAILED = "WatchFailed"
    """The new version misbehaved when callers reached it, and was taken back."""
    ORDERS_ACCEPTED = "OrdersAccepted"
    """No pod is known to refuse orders."""
    ORDERS_REFUSED = "OrdersRefused"
    """Pods know none of the operator's keys, or do not understand its orders."""
    BREAKER_OPEN = "BreakerOpen"
    """Too many requests failed."""
    CLOSED = "Closed"
    """The breaker is closed, or there is none."""
    VERSION_QUARANTINED = "VersionQuarantined"
    """The requested version failed; the one before it keeps serving."""
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    """The new version was not ready in time."""
    MODEL_FOUND = "ModelFound"
    """The registry answered with a version."""
    MODEL_NOT_FOUND = "ModelNotFound"
    """No model of that name is registered."""
    ALIAS_NOT_FOUND = "AliasNotFound"
    """The model has no such alias."""
    VERSION_NOT_FOUND = "VersionNotFound"
    """The model has no such version."""
    REGISTRY_DENIED = "RegistryDenied"
    """MLflow refused the credentials that it was asked with; the message says whose they are."""
    REGISTRY_UNREACHABLE = "RegistryUnreachable"
    """MLflow did not answer."""
    NOT_ASKED_YET = "NotAskedYet"
    """The registry has not been asked yet."""
    NO_TRACKING_URI = "NoTrackingURI"
    """Neither the program nor the operator names an MLflow server."""
    REFS_FOUND = "RefsFound"
    """Everything referred to exists."""
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason, not a secret
    """A Secret, or a key of it, is not there."""
    TOOL_NOT_FOUND = "ToolNotFound"
    """A tool that the spec requires is not there."""
    TOOL_NOT_ALLOWED = "ToolNotAllowed"
    """A tool that the spec requires does not let this namespace's programs call it."""
    GATE_HAS_SIDE_EFFECTS = "GateHasSideEffects"
    """A gate would have tools executed that are NonIdempotent, and does not say that it may; the new version waits."""
    USABLE = "Usable"
    """At least one backend can be used."""
    NO_BACKEND_USABLE = "NoBackendUsable"
    """No backend can be used; the backends' own status says why."""
    SOME_BACKENDS_UNHEALTHY = "SomeBackendsUnhealthy"
    """Some backends cannot be used, or are slow."""
    VERIFIED = "Verified"
    """Every backend that was asked offers what the contract says."""
    CONTRACT_MISMATCH = "ContractMismatch"
    """A backend offers something else than the contract says; it is not used."""
    TOOL_NOT_OFFERED = "ToolNotOffered"
    """A backend does not have the tool; it is not used."""
    UNREACHABLE = "Unreachable"
    """A backend did not answer, several times in a row."""
    REACHABLE = "Reachable"
    """A backend is there; what it offers was not asked."""
    SLOW = "Slow"
    """A backend answers, but late."""
    IMAGE_NOT_PULLED = "ImageNotPulled"
    """A node could not get the image."""
    UNSCHEDULABLE = "Unschedulable"
    """No node suits the pods."""
    PODS_REFUSED = "PodsRefused"
    """The API server takes no more pods: a quota, a LimitRange, Pod Security or another admission."""
    CRASHED = "Crashed"
    """A pod's container ended without saying why."""
    REJECTED = "Rejected"
    """The API server refused something that the operator wanted to read or to write."""
    API_UNAVAILABLE = "ApiUnavailable"
    """The API server did not answer, or put the operator off."""
    OPERATOR_ERROR = "OperatorError"
    """The operator could not understand something that it read; this is a fault of Despina's."""
    RECONCILED = "Reconciled"
    """Nothing was refused."""


class ConditionStatus(enum.StrEnum):
    """The three values of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One observation, in the form of metav1.Condition."""

    type: Word
    """The condition's name."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Word
    """One word for programs."""
    message: Text = ""
    """A sentence for people: what is wrong and what to do."""
    last_transition_time: Word
    """When the status last changed."""
    observed_generation: int = 0
    """The generation of the spec that this was seen on."""
