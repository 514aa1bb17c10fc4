"""Sending callers to another version, in one write, which also says what must be remembered of it."""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.revision import Revision
from despina.decide.observed import PodView
from despina.decide.plan import Action, Annotate, Apply, Chain, Emit, Tell
from despina.decide.prepare import config_of, generation
from despina.decide.quarantine import entry_against
from despina.decide.situation import Previous, Situation, holds, revision_in
from despina.desired.labels import ACTIVATED_AT
from despina.desired.network import build_service


def promote(r: Situation, candidate: Revision) -> Iterator[Action]:
    """Send callers to the candidate: one write, of a selector or of a generation."""
    how = f" ({r.strategy.name})" if r.strategy else ""
    said = Emit("Normal", "Promoted", f"Version {candidate.version} takes the requests{how}")
    if r.swaps and r.active:
        before = r.active.loading.config if r.active.loading else r.active.config
        write = Apply(generation(r, r.active, config_of(r, candidate), before), r.memory)
        yield Chain((write, said, *committed(r.o.ready_pods(candidate.base), candidate.hash)))
    else:
        yield Chain((*_left(r), *_flipped(r, candidate, said)))


def _left(r: Situation) -> Iterator[Action]:
    """That callers were answered where they leave, if it is on no record yet: by that they find the way back."""
    if r.active and r.active.activated_at is None and r.o.ready(r.active.revision):
        yield Annotate(r.active.name, {ACTIVATED_AT: repr(r.started_at)})


def _flipped(r: Situation, revision: Revision, said: Emit) -> tuple[Action, ...]:
    service = build_service(r.o.program, r.o.program.name, revision.base, r.memory)
    return Apply(service, r.memory), said, Annotate(revision.deployment, {ACTIVATED_AT: repr(r.now)})


def committed(pods: tuple[PodView, ...], revision: str) -> Iterator[Action]:
    """Have pods that hold a revision serve it."""
    for pod in pods:
        if holds(pod, revision) and not pod.has_been_told("Commit", revision):
            yield Tell(pod, "Commit", revision)


def go_back(r: Situation, before: Previous) -> Iterator[Action]:
    """Send callers back to the version before: one write, since it stands ready."""
    if r.active is None:
        return
    entry = entry_against(revision_in(r.o, r.active), r.entries)
    why = f": version {entry.version} {entry.message}" if entry else ""
    said = Emit("Warning", "RolledBack", f"Version {before.revision.version} takes the requests again{why}")
    if before.config:
        write = Apply(generation(r, r.active, before.config), r.memory)
        yield Chain((write, said, *committed(r.o.ready_pods(before.revision.base), before.revision.hash)))
    else:
        yield Chain(_flipped(r, before.revision, said))
