"""The actions that a decision comes to, in the order in which they must be carried out."""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.status import BreakerStatus
from despina.decide.gates import Gates, abandoned, unmirrored
from despina.decide.keep import identity, serve
from despina.decide.plan import Action, Step
from despina.decide.pods import agreed, converged, forgotten, restarted
from despina.decide.prepare import prepare
from despina.decide.retire import let_go, released
from despina.decide.situation import Situation
from despina.decide.switch import go_back, promote


def all_steps(r: Situation, step: Step | None, gates: Gates, breaker: BreakerStatus | None) -> Iterator[Action]:
    """Everything to do now."""
    current = r.current
    if current is None:
        return
    yield from identity(r)
    if r.candidate and step != "Paused":
        yield from prepare(r, r.candidate)
    yield from gates.actions
    if r.candidate and step == "Promote":
        yield from promote(r, r.candidate)
    elif r.blocked and r.is_at_target:
        yield from go_back(r)
    else:
        yield from serve(r, current)
    yield from restarted(r, breaker)
    yield from let_go(r)
    yield from converged(r)
    yield from released(r)
    yield from abandoned(r, gates)
    if not (gates.running and gates.running.type == "Shadow"):
        yield from unmirrored(r.o)
    yield from agreed(r, breaker)
    yield from forgotten(r)
