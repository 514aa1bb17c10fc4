"""Sending callers to another version, in one write."""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.revision import Revision
from despina.decide.observed import PodView
from despina.decide.plan import Action, Annotate, Apply, Emit, Tell
from despina.decide.prepare import config_of, generation, made
from despina.decide.situation import Situation, holds, previous
from despina.decide.sizing import scaled
from despina.desired.labels import (
    ACTIVATED_AT,
)
from despina.desired.network import build_service


def promote(r: Situation, candidate: Revision) -> Iterator[Action]:
    """Send callers to the candidate: one write, of a selector or of a generation."""
    if r.swaps and r.active:
        before = r.active.loading.config if r.active.loading else r.active.config
        yield Apply(generation(r, r.active, config_of(r, candidate), before))
        yield from committed(r.o.ready_pods(candidate.base), candidate.hash)
    else:
        yield from _flipped(r, candidate)
    yield Emit(
        "Normal",
        "Promoted",
        f"Version {candidate.version} takes the requests ({r.strategy.name if r.strategy else ''})",
    )


def _flipped(r: Situation, revision: Revision) -> Iterator[Action]:
    if r.size == 0:
        yield from made(r, revision)
        yield from scaled(r, revision, 0)
    yield Apply(build_service(r.o.program, r.o.program.name, revision.base))
    yield Annotate(revision.deployment, {ACTIVATED_AT: repr(r.now)})


def committed(pods: tuple[PodView, ...], revision: str) -> Iterator[Action]:
    for pod in pods:
        if holds(pod, revision) and not pod.has_been_told("Commit", revision):
            yield Tell(pod, "Commit", revision)


def go_back(r: Situation) -> Iterator[Action]:
    """Send callers back to the version before: one write, since it stands ready."""
    before = previous(r.o)
    if before is None or r.active is None or r.blocked is None:
        return
    if before.config:
        yield Apply(generation(r, r.active, before.config))
        yield from committed(r.o.ready_pods(before.revision.base), before.revision.hash)
    else:
        yield from _flipped(r, before.revision)
    text = (
        f"Version {before.revision.version} takes the requests again: version {r.blocked.version} {r.blocked.message}"
    )
    yield Emit("Warning", "RolledBack", text)
