"""Named node pools, as the operator's configuration defines them for `placement.profile`."""

from __future__ import annotations

from pydantic import Field

from despina.api.base import ApiModel
from despina.api.pods import Accelerator, Toleration


class PlacementProfile(ApiModel):
    """What it takes for a pod to run on one pool of nodes."""

    accelerator: Accelerator | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    service_account_annotations: dict[str, str] = Field(default_factory=dict)
    """Such as eks.amazonaws.com/role-arn, so that pods on AWS get their role."""
