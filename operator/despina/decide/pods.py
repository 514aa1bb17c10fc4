"""What pods are told or made to do beside a change of version."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping

from despina.api.serving import Restart as Bounds
from despina.api.status import BreakerStatus
from despina.decide import breaker as breakers
from despina.decide.memory import acted_on, asking
from despina.decide.observed import DeploymentView, PodView
from despina.decide.plan import Action, Annotate, Chain, Emit, Restart, Tell
from despina.decide.prepare import take_in
from despina.decide.situation import Situation, serves
from despina.decide.switch import committed
from despina.desired.labels import (
    INVALIDATE_CACHE,
    RESTARTED_BY,
    RESTARTS,
)


def restarted(r: Situation, breaker: BreakerStatus | None, requests: Mapping[str, str]) -> Iterator[Action]:
    """Restart the active pods: because a user says so, or because the breaker is open and that may heal it."""
    asked, waits = requests.get("restart"), r.candidate is not None or r.is_left
    if r.active is None:
        return
    if waits or not asked:
        yield from _erased(r)
    if waits:
        return
    if asked and asked != r.active.restarted_by:
        said = Emit("Normal", "Restarted", "The annotation despina.dev/restart asks for it")
        record = acted_on(r.memory, "restart", asked) if r.memory else None
        yield Chain((Restart(r.active.name, r.now, {RESTARTED_BY: asked}, record), said))
        return
    spec = r.o.program.spec.breaker
    is_busy = not r.o.ready(r.active.revision) or breakers.is_restarting(r.o, r.active, r.now)
    if spec and breaker and not is_busy and breakers.may_restart(spec, breaker, r.active, r.now):
        done = [*breakers.restarts_within_hour(r.active, r.now), r.now]
        said = Emit("Warning", "Restarted", f"The breaker is open: {breaker.reason}")
        yield Chain((Restart(r.active.name, r.now, {RESTARTS: json.dumps(done)}), said))


def _erased(r: Situation) -> Iterator[Action]:
    """A mark of a word that is gone, so that the same value may ask again."""
    now, bases = asking(r.o).get("restart"), {r.o.active, r.candidate.base if r.candidate else None}
    marked = [v for v in r.o.deployments if v.revision in bases and v.restarted_by not in ("", now)]
    yield from (Annotate(view.name, {RESTARTED_BY: ""}) for view in marked)


def replaced(r: Situation) -> Iterator[Action]:
    """Replace pods that serve something else than they should and take no orders: those that come in their place read
    what to serve. What pods say of that, and of their age, need not be true, so it is done a few times only."""
    for view, pod in _refusing(r):
        done = breakers.restarts_within_hour(view, r.now)
        if not breakers.restart_left(done, Bounds(), r.now) and not breakers.is_restarting(r.o, view, r.now):
            said = Emit("Warning", "Restarted", f"{pod.name} takes no orders: {pod.refusal}")
            yield Chain((Restart(view.name, r.now, {RESTARTS: json.dumps([*done, r.now])}), said))


def replacing_left(r: Situation) -> list[float]:
    """Seconds until pods may be replaced, by Deployment."""
    return [breakers.restart_left(breakers.restarts_within_hour(v, r.now), Bounds(), r.now) for v, _ in _refusing(r)]


def _refusing(r: Situation) -> Iterator[tuple[DeploymentView, PodView]]:
    """Deployments, each with the first of its pods that would have to be replaced. A version that is on its way in new
    pods does that already, unless it waits for a person."""
    waits = r.policy.state == "Paused" or r.policy.blue_green.auto_promotion == "Disabled"
    is_coming = r.candidate is not None and not waits
    for view in () if is_coming else r.o.deployments:
        late = (p for p in r.o.ready_pods(view.revision) if p.refusal and p.report and not serves(p, view.serves))
        yield from ((view, pod) for pod in itertools.islice(late, 1))


def agreed(r: Situation, breaker: BreakerStatus | None) -> Iterator[Action]:
    """Have all replicas' breakers be as the merged one, and say so when it changes."""
    before = r.o.status.breaker
    was = before.state if before else "Closed"
    if breaker and breaker.state == "Open" and was == "Closed":
        yield Emit("Warning", "BreakerOpened", breaker.reason)
    if breaker and breaker.state == "Closed" and was != "Closed":
        yield Emit("Normal", "BreakerClosed", "Requests are executed again")
    yield from breakers.orders(r.o, breaker, r.now)


def forgotten(r: Situation) -> Iterator[Action]:
    """Have every pod empty its cache, once for each value of the annotation. A pod that is told twice does it once."""
    subject = r.o.program.annotations.get(INVALIDATE_CACHE, "")[:253]
    if subject:
        yield from (
            Tell(p, "Invalidate", subject)
            for p in r.o.pods
            if p.ready and not p.ending and not p.has_been_told("Invalidate", subject)
        )


def converged(r: Situation) -> Iterator[Action]:
    """Have every pod of a Deployment serve what it says: one that came half-way is brought up to it, and so are all
    when somebody deleted the generation that they were changed to."""
    for view in r.o.deployments:
        config = view.loading.config if view.loading else view.config
        late = [p for p in r.o.ready_pods(view.revision) if p.report is not None and not serves(p, view.serves)]
        if config:
            yield from (order for pod in late for order in take_in(pod, view.serves, config))
        yield from committed(tuple(late), view.serves)
