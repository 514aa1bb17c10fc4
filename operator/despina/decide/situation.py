"""One decision's situation: the snapshot and what follows from it directly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from despina.api.program import Rollout
from despina.api.revision import Revision, revision_of, source_digest
from despina.api.status import HistoryEntry, Memory, Promotion, Quarantined, RolloutStatus
from despina.decide.memory import recall
from despina.decide.observed import DeploymentView, Observed, PodView
from despina.decide.plan import Clock, Strategy
from despina.decide.quarantine import entry_against
from despina.decide.versions import ENDED, model_of, served_model
from despina.wire import RuntimeConfig


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
    asked: Revision | None
    """What spec and registry ask for."""
    blocked: Quarantined | None
    """Why that is not tried."""
    wanted: Revision | None
    """What is worked towards."""
    entries: tuple[Quarantined, ...]
    before: Memory | None
    """What was on record."""
    started_at: float
    clock: Clock
    strategy: Strategy | None = None
    """How the wanted revision comes; None where it serves already."""
    memory: Memory | None = None
    """What goes on record with what leads callers."""

    @property
    def policy(self) -> Rollout:
        """What the manifest says of changes."""
        return self.o.program.spec.rollout

    @property
    def recreates(self) -> bool:
        """Whether the active pods end before the candidate's begin."""
        return self.strategy is not None and self.strategy.name == "Recreate"

    @property
    def ends_first(self) -> bool:
        """Whether what serves ends before the candidate begins: under Recreate, or where pods that take no orders were
        made for the candidate, and changed to something else since."""
        candidate = self.candidate
        is_same = candidate is not None and candidate.base == self.o.active and not self.swaps
        return self.recreates or is_same

    @cached_property
    def active(self) -> DeploymentView | None:
        """The Deployment that callers reach."""
        return self.o.deployment(self.o.active)

    @property
    def swaps(self) -> bool:
        """Whether the candidate is loaded beside the active revision."""
        return self.strategy is not None and self.strategy.name == "HotSwap"

    @cached_property
    def candidate(self) -> Revision | None:
        """What is on its way to take the active revision's place."""
        wanted = self.wanted
        if wanted is None or self.o.serving in (None, wanted.hash) or self.is_left:
            return None
        if self.swaps and self.active:
            return wanted.model_copy(update={"base": self.active.revision, "deployment": self.active.name})
        there = still_there(self.o, wanted.hash)
        return wanted.model_copy(update={"base": there.revision, "deployment": there.name}) if there else wanted

    @property
    def current(self) -> Revision | None:
        """The revision that callers shall reach now: the active one, or the first one."""
        view = self.active
        if view:
            return revision_in(self.o, view)
        # The first one; or else somebody deleted what callers reached, and it is made again as the spec is now: even if
        # that is in quarantine, where nothing else can be run.
        again = _again(self.o)
        is_good = again is not None and entry_against(again, self.entries) is None
        return again if is_good else self.wanted or again

    @cached_property
    def is_left(self) -> bool:
        """Whether what callers reach is in quarantine while another version stands ready for them."""
        view = self.active
        return bool(view and entry_against(revision_in(self.o, view), self.entries) and self.retreat)

    @cached_property
    def retreat(self) -> Previous | None:
        """Where callers can be sent back to at once."""
        return previous(self.o, self.entries)

    @property
    def is_held_up(self) -> bool:
        """Whether a person, or a size of 0, holds the change up: no time counts then."""
        return self.policy.state == "Paused" or self.size == 0

    @cached_property
    def size(self) -> int:
        """How many pods the program needs."""
        return wanted_size(self.o, self.active)

    @property
    def earlier(self) -> RolloutStatus | None:
        """What the status says of this very rollout."""
        return earlier(self.o, self.wanted)

    @property
    def promotion(self) -> Promotion | None:
        """How callers came to what they reach."""
        found = self.before.promotion if self.before else None
        return found if found and found.revision == self.o.serving else None


def recovered(o: Observed) -> Observed:
    """The snapshot with what callers reach, or must be led to again: somebody may have deleted the Service, changed
    what it selects, or deleted the Deployment behind it."""
    memory, view = recall(o), o.deployment(o.active)
    entries = memory.quarantined if memory else ()
    standing = _left_by_hand(o, view, memory, entries) if view else _standing(o, entries)
    return replace(o, active=standing.revision) if standing else o


def _left_by_hand(
    o: Observed, view: DeploymentView, memory: Memory | None, entries: tuple[Quarantined, ...]
) -> DeploymentView | None:
    """Where callers are to be, if somebody else than the operator changed what the Service selects. The operator's own
    changes are noted with the write that makes them."""
    noted, sent = o.status.active, memory.promotion if memory else None
    if noted is None or view.serves in (noted.revision, sent.revision if sent else None):
        return None
    known = next((v for v in o.deployments if v.name == noted.deployment and v.serves == noted.revision), None)
    if known is None or entry_against(revision_in(o, known), entries):
        return None
    return known if o.ready(known.revision) or not o.ready(view.revision) else None


def _standing(o: Observed, entries: tuple[Quarantined, ...]) -> DeploymentView | None:
    """Of what callers were sent to, what the status names, or what they were sent to last; never one in quarantine
    while another is there."""
    named = o.status.active.deployment if o.status.active else None
    served = [v for v in o.deployments if v.activated_at is not None or v.name == named]
    if o.active is not None:  # what it selects is gone: whoever answers is better than nobody
        served = [v for v in served if o.ready(v.revision)]

    def rank(view: DeploymentView) -> tuple[bool, bool, float]:
        is_good = entry_against(revision_in(o, view), entries) is None
        return is_good, view.name == named, view.activated_at or 0.0

    found = max(served, key=rank, default=None)
    return found if found and (o.active is None or rank(found)[0]) else None


def _again(o: Observed) -> Revision | None:
    """What served, with the present spec."""
    model = served_model(o)
    return revision_of(o.program, model) if model else None


def earlier(o: Observed, wanted: Revision | None) -> RolloutStatus | None:
    """What the status says of the rollout that leads to a revision."""
    status = o.status.rollout
    return status if status and wanted and status.id == wanted.hash and status.step not in ENDED else None


def revision_in(o: Observed, view: DeploymentView) -> Revision:
    """What the pods of a Deployment serve."""
    return Revision(hash=view.serves, model=model_of(o, view), deployment=view.name, base=view.revision)


def still_there(o: Observed, revision: str) -> DeploymentView | None:
    """A Deployment that callers left and whose pods still serve a revision."""
    return next((d for d in o.deployments if d.serves == revision and d.revision != o.active), None)


def has_served(o: Observed, revision: Revision) -> bool:
    """Whether callers were at a revision before and did not have to be sent away from it. Whoever pins a version wants
    it back as it served, and what else the spec says by now is not in the way."""
    past = [entry for entry in o.status.history if entry.revision == revision.hash or _is_pinned(o, entry, revision)]
    if past:
        return past[-1].outcome != "RolledBack"
    there, active = still_there(o, revision.hash), o.deployment(o.active)
    kept = active.loading.previous if active and active.loading else None
    return bool(there and there.activated_at) or bool(kept and kept.revision == revision.hash)


def _is_pinned(o: Observed, entry: HistoryEntry, revision: Revision) -> bool:
    """Whether an entry is about the version that is pinned, and that does not serve now: an edit of what does is no way
    back. A number alone does not say which version it is."""
    is_pinned = o.program.spec.rollout.rollback_to is not None and revision.model.created_at is not None
    return is_pinned and entry.source == source_digest(revision.model) and served_model(o) != revision.model


def amiss(o: Observed, candidate: Revision | None, promote: str) -> str:
    """What is wrong with a word that is to promote something; empty where nothing is."""
    if promote in (candidate.hash if candidate else None, o.serving):
        return ""
    waits = f"the candidate is {candidate.hash}" if candidate else "nothing does"
    return f"The annotation despina.dev/promote names {promote}, which does not wait: {waits}"


def wanted_size(o: Observed, active: DeploymentView | None) -> int:
    """What runs now, within the autoscaler's bounds, or what was asked for."""
    spec = o.program.spec
    if spec.suspend:
        return 0
    if spec.autoscaling is None:
        return spec.replicas
    running = (active.replicas or active.size or 0) if active else 0
    return spec.autoscaling.within(running)


def previous(o: Observed, entries: Iterable[Quarantined] = ()) -> Previous | None:
    """The version that callers left last and that still stands ready: in other pods, or in the memory of these."""
    listed = tuple(entries)
    found = [p for p in (_in_memory(o), *(_in_pods(o, v) for v in o.deployments)) if p and _is_ready(o, p)]
    good = [p for p in found if entry_against(p.revision, listed) is None]
    return max(good, key=lambda p: p.retired_at, default=None)


def _in_memory(o: Observed) -> Previous | None:
    view = o.deployment(o.active)
    loading = view.loading if view else None
    if view is None or loading is None or loading.previous is None:
        return None
    config = loading.previous
    revision = Revision(hash=config.revision, model=config.model, deployment=view.name, base=view.revision)
    return Previous(revision, loading.at, config)


def _in_pods(o: Observed, view: DeploymentView) -> Previous | None:
    if not (view.activated_at and view.replicas):
        return None
    left_at = view.retired_at if view.is_retired and view.retired_at else math.inf  # inf: nobody has noted it yet
    return Previous(revision_in(o, view), left_at)


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


def is_whole(pod: PodView) -> bool:
    """Whether all of a pod's workers run, as far as it says."""
    return pod.report is None or pod.report.workers >= pod.report.wanted_workers
