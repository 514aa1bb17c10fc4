"""One decision's situation: the snapshot and what follows from it directly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from despina.api.program import Rollout
from despina.api.revision import Revision
from despina.api.status import Quarantined, RolloutStatus
from despina.decide.observed import DeploymentView, Observed, PodView
from despina.decide.plan import Strategy
from despina.wire import RuntimeConfig

ENDED = ("Done", "Failed", "RolledBack")
"""Steps of rollouts that are over; their status stays to be looked at."""


@dataclass(frozen=True)
class Previous:
    """What callers can be sent back to at once."""

    revision: Revision
    retired_at: float
    config: RuntimeConfig | None = None
    """Set where the same pods hold it."""


@dataclass(frozen=True)
class Situation:
    """The snapshot of one program, and what follows from it directly."""

    o: Observed
    now: float
    wanted: Revision | None
    blocked: Quarantined | None
    started_at: float
    strategy: Strategy | None = None
    """How the wanted revision comes; None where it serves already."""

    @property
    def policy(self) -> Rollout:
        """What the manifest says of changes."""
        return self.o.program.spec.rollout

    @property
    def recreates(self) -> bool:
        """Whether the active pods end before the candidate's begin."""
        return self.strategy is not None and self.strategy.name == "Recreate"

    @property
    def active(self) -> DeploymentView | None:
        """The Deployment that callers reach."""
        return self.o.deployment(self.o.active)

    @property
    def swaps(self) -> bool:
        """Whether the candidate is loaded beside the active revision."""
        return self.strategy is not None and self.strategy.name == "HotSwap"

    @property
    def candidate(self) -> Revision | None:
        """What is on its way to take the active revision's place."""
        wanted = self.wanted
        if wanted is None or self.blocked or self.o.serving in (None, wanted.hash):
            return None
        if self.swaps and self.active:
            return wanted.model_copy(update={"base": self.active.revision, "deployment": self.active.name})
        there = still_there(self.o, wanted.hash)
        return wanted.model_copy(update={"base": there.revision, "deployment": there.name}) if there else wanted

    @property
    def current(self) -> Revision | None:
        """The revision that callers shall reach now: the active one, or the first one."""
        if self.o.active is None:
            return self.wanted
        view = self.active
        if view is None:  # somebody deleted the active Deployment: the wanted one is the best there is
            return None if self.blocked else self.wanted
        return Revision(hash=view.serves, version=view.version, deployment=view.name, base=view.revision)

    @property
    def is_at_target(self) -> bool:
        """Whether callers reach what is asked for."""
        return self.wanted is not None and self.o.serving == self.wanted.hash

    @property
    def size(self) -> int:
        """How many pods the program needs."""
        return wanted_size(self.o, self.active)

    @property
    def earlier(self) -> RolloutStatus | None:
        """What the status says of this very rollout."""
        status = self.o.status.rollout
        is_same = status and self.wanted and status.id == self.wanted.hash and status.step not in ENDED
        return status if is_same else None


def still_there(o: Observed, revision: str) -> DeploymentView | None:
    """A Deployment that callers left and whose pods still serve a revision."""
    return next((d for d in o.deployments if d.serves == revision and d.revision != o.active), None)


def wanted_size(o: Observed, active: DeploymentView | None) -> int:
    """What runs now, within the autoscaler's bounds, or what was asked for."""
    spec = o.program.spec
    if spec.suspend:
        return 0
    if spec.autoscaling is None:
        return spec.replicas
    running = active.replicas if active else 0
    return min(max(spec.autoscaling.min_replicas, running), spec.autoscaling.max_replicas)


def previous(o: Observed) -> Previous | None:
    """The version that callers left last and that still stands ready: in other pods, or in the memory of these."""
    found = [p for p in (_in_memory(o), *map(_in_pods, o.deployments)) if p and _is_ready(o, p)]
    return max(found, key=lambda p: p.retired_at, default=None)


def _in_memory(o: Observed) -> Previous | None:
    view = o.deployment(o.active)
    loading = view.loading if view else None
    if view is None or loading is None or loading.previous is None:
        return None
    config = loading.previous
    revision = Revision(hash=config.revision, version=config.model.version, deployment=view.name, base=view.revision)
    return Previous(revision, loading.at, config)


def _in_pods(view: DeploymentView) -> Previous | None:
    if not (view.activated_at and view.replicas):
        return None
    revision = Revision(hash=view.serves, version=view.version, deployment=view.name, base=view.revision)
    left_at = view.retired_at if view.is_retired and view.retired_at else math.inf  # inf: nobody has noted it yet
    return Previous(revision, left_at)


def _is_ready(o: Observed, p: Previous) -> bool:
    pods = o.ready_pods(p.revision.base)
    if p.config is None:
        return bool(pods) and p.revision.base != o.active
    return bool(pods) and all(holds(pod, p.revision.hash) for pod in pods)


def serves(pod: PodView, revision: str) -> bool:
    """Whether all of a pod's workers serve a revision, by its own word."""
    return pod.report is not None and pod.report.revision == revision


def holds(pod: PodView, revision: str) -> bool:
    """Whether a pod can serve a revision at once."""
    held = pod.held(revision)
    return held is not None and held.phase == "Ready"
