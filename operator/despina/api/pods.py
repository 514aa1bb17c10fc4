"""How pods are sized, scaled, placed and identified: what programs and tools have in common."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from despina.api.base import (
    ApiModel,
    LabelMap,
    NameStr,
    ObjectName,
    Preserved,
    QuantityMap,
    ResourceName,
    ShortStr,
    rule,
)
from despina.api.serving import Toggle


class Autoscaling(ApiModel):
    """An autoscaling/v2 HorizontalPodAutoscaler on the active version's Deployment."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.maxReplicas >= self.minReplicas",
            "autoscaling.maxReplicas must not be less than autoscaling.minReplicas",
            ".maxReplicas",
        )
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """The least number of pods."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 5
    """The greatest number of pods."""
    cpu_utilization_percent: Annotated[int, Field(ge=1, le=1000)] = 70
    """The average CPU use to keep, in percent of the request."""
    metrics: Annotated[tuple[Preserved, ...], Field(max_length=16)] = ()
    """Further autoscaling/v2 metrics, passed through."""
    behavior: Preserved | None = None
    """The autoscaling/v2 behaviour, passed through."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("autoscaling.maxReplicas must not be less than autoscaling.minReplicas")
        return self

    def within(self, size: int) -> int:
        """The nearest size that the autoscaler may choose."""
        return min(max(self.min_replicas, size), self.max_replicas)


class Accelerator(ApiModel):
    """A device that each pod needs."""

    resource: ResourceName = "nvidia.com/gpu"
    """The extended resource's name."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many of it each pod gets."""


class Toleration(ApiModel):
    """A taint that the pods tolerate."""

    key: ShortStr | None = None
    """The taint's key; every key when left out (operator Exists)."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """How the value is compared."""
    value: Annotated[str, StringConstraints(max_length=253)] | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; every effect when left out."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated."""


class Placement(ApiModel):
    """Which nodes the pods run on."""

    profile: NameStr = "default"
    """A node pool from the operator's configuration, such as gpu or aws."""
    accelerator: Accelerator | None = None
    """Overrides the profile's accelerator."""
    node_selector: LabelMap = Field(default_factory=dict)
    """Node labels, added to the profile's."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Tolerations, added to the profile's."""
    affinity: Preserved | None = None
    """Pod affinity, passed through."""


class Resources(ApiModel):
    """What each pod asks for and may use."""

    requests: QuantityMap = Field(default_factory=dict)
    """What the scheduler reserves; CPU is 100m when left out, for the autoscaler needs a base."""
    limits: QuantityMap = Field(default_factory=dict)
    """What the kubelet enforces."""


class ServiceAccount(ApiModel):
    """The identity of the pods."""

    name: ObjectName | None = None
    """The ServiceAccount's name; the program's own when left out."""
    create: Toggle = "Enabled"
    """Disabled: use one that exists."""
    annotations: LabelMap = Field(default_factory=dict)
    """Annotations of the created one, such as eks.amazonaws.com/role-arn."""
