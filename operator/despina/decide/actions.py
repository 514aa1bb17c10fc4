"""The actions that a decision comes to, in the order in which they are carried out: what leads callers comes first,
except where nobody can be led to anything yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from despina.api.revision import Revision
from despina.api.status import BreakerStatus
from despina.decide.gates import Gates, abandoned, unmirrored
from despina.decide.keep import identity, keep, lead
from despina.decide.plan import Action, Step
from despina.decide.pods import agreed, converged, forgotten, replaced, restarted
from despina.decide.prepare import prepare, put_off, put_to_sleep
from despina.decide.retire import let_go, released
from despina.decide.situation import Situation
from despina.decide.switch import go_back, promote


def all_steps(
    r: Situation, step: Step | None, gates: Gates, breaker: BreakerStatus | None, requests: Mapping[str, str]
) -> Iterator[Action]:
    """Everything to do now."""
    current = r.current
    if current is None:  # nobody knows what shall run; whatever does shall not while the program is suspended
        for view in r.o.deployments if r.size == 0 else ():
            yield from put_to_sleep(r, view)
        return
    is_first = not r.o.deployments  # pods are longest in coming, and nobody answers before
    if not is_first:
        yield from _led(r, step, current)
    yield from identity(r)
    if r.candidate and (step == "Suspended" or (r.ends_first and step in ("AwaitPromotion", "Refused"))):
        yield from put_off(r, r.candidate)
    elif r.candidate and step not in ("Paused", "Refused"):
        yield from prepare(r, r.candidate)
    yield from gates.actions
    if step != "Promote" and not r.is_left:
        yield from keep(r, current, step)
    if is_first:
        yield from _led(r, step, current)
    yield from restarted(r, breaker, requests)
    yield from let_go(r)
    yield from converged(r)
    yield from replaced(r)
    yield from released(r)
    yield from abandoned(r)
    if not (gates.running and gates.running.type == "Shadow"):
        yield from unmirrored(r.o)
    yield from agreed(r, breaker)
    yield from forgotten(r)


def _led(r: Situation, step: Step | None, current: Revision) -> Iterator[Action]:
    retreat = r.retreat if r.is_left else None
    if retreat:
        yield from go_back(r, retreat)
    elif r.candidate and step == "Promote":
        yield from promote(r, r.candidate)
    else:
        yield from lead(r, current)
