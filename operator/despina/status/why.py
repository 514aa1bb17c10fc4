"""A decision in sentences, for a person who wants to know why nothing happens, or why that happened.

Pure, like the decision itself: the same snapshot gives the same words. What is as it should be is not mentioned; when
all is, that is one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from despina.api import GROUP
from despina.api.conditions import Reason, Type
from despina.api.gates import PostPromotion
from despina.api.status import GateStatus, Quarantined
from despina.decide.gates import clock_of
from despina.decide.memory import asking
from despina.decide.observed import Observed, PodView
from despina.decide.plan import Action, Annotate, Apply, Create, Delete, Emit, Plan, Restart, Scale, Tell
from despina.decide.quarantine import parse_timestamp
from despina.decide.situation import amiss, holds, is_whole, previous, recovered, wanted_size
from despina.decide.sizing import asleep
from despina.decide.watch import counts_of, error_rate, promoted_at
from despina.desired.config import generation_name
from despina.desired.labels import REVISION
from despina.status.optimization import optimization_in_words
from despina.status.report import remark_on, tool_uses_status
from despina.wire import Counts, OrderName

MENDED = {Type.RECONCILED, "OrdersAccepted"}
"""Conditions that say, when they are False, that a person must mend something for the operator to get on."""
WAYS = {
    "HotSwap": "by hot swap, in the processes that run",
    "BlueGreen": "blue/green, in pods of its own",
    "Recreate": "by Recreate, after the old pods have ended",
}
ORDERS: dict[OrderName, str] = {
    "Retire": "answer with Connection: close, so that kept-alive callers leave",
    "Activate": "keep connections alive again",
    "Invalidate": "empty the cache",
    "Prepare": "load revision {} beside what it serves",
    "Commit": "serve revision {}",
    "Release": "free the memory of revision {}",
    "Try": "have revision {} answer a gate's inputs",
    "Shadow": "have revision {} asked what callers ask, or to end that",
    "OpenBreaker": "open the breaker",
    "CloseBreaker": "close the breaker",
}
BULLET = "  - "
NAMED = 3
"""So many pods are named at most; the others are counted."""


def explain(observed: Observed, plan: Plan, now: float) -> list[str]:
    """What callers reach, what is asked for, what the change waits for, and what the next pass will do."""
    o = recovered(observed)
    matters = [
        *_pods_say(o, o.active),
        *_remarks(o, plan),
        *_change(o, plan, now),
        *_watch(o, plan, now),
        *_quarantine(o, plan),
        *_breaker(o, plan, now),
        *_tools(o),
        *optimization_in_words(plan),
        *_next(observed, plan),
    ]
    refused = [*_refused(o)]  # first, since nothing gets on before that is mended
    is_known = plan.problem is None and o.model.version is not None
    if not (refused or matters) and is_known and plan.asked and o.ready(o.active):
        return [_tidy(f"Nothing to do: callers reach version {plan.asked.version}, {_source(o)}; {_ready(o)}.")]
    return [
        _tidy(line) for line in (f"{_serving(observed, o)}.", *refused, *_asked(o, plan), *matters, _again(o, plan))
    ]


def _tidy(line: str) -> str:
    """One line, with its capital and one full stop, whatever the messages in it hold: some were written by pods."""
    bullet = BULLET if line.startswith(BULLET) else ""
    text = printable(line.removeprefix(BULLET))
    text = text[:-1] if text.endswith("..") else text
    return bullet + (text if bullet else text[:1].upper() + text[1:])


def printable(text: str) -> str:
    """One line without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def duration(seconds: float) -> str:
    """A time as people say it, precise while it is short."""
    if seconds < 600:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _serving(observed: Observed, o: Observed) -> str:
    view = o.deployment(o.active)
    if o.active is None:
        return "callers reach nothing: there is no Service that sends them anywhere"
    if view is None and o.status.active is None:
        return f"nothing serves yet: the Deployment of revision {o.active} has not been made"
    if view is None:
        return f"the Service sends callers to revision {o.active}, and its Deployment is gone"
    if observed.active != o.active:
        return f"callers reach nobody, since the Service does not lead to version {view.version} any more; {_ready(o)}"
    if view.replicas == 0:
        return f"callers reach nobody: version {view.version} has no pods{_no_pods(o)}"
    if not (o.ready(o.active) or any(v.activated_at is not None for v in o.deployments)):
        return f"nothing serves yet: of version {view.version}, {_ready(o)}"
    return f"callers reach version {view.version}; {_ready(o)}"


def _no_pods(o: Observed) -> str:
    sleeps = asleep(o.program.spec)
    return f", since {sleeps}" if sleeps else ""


def _ready(o: Observed) -> str:
    view = o.deployment(o.active)
    total = view.replicas if view else 0
    return f"{o.ready(o.active)} of {total} {'pod is' if total == 1 else 'pods are'} ready"


def _source(o: Observed) -> str:
    source = o.program.spec.source.mlflow
    if o.program.spec.rollout.rollback_to is not None:
        return "to which spec.rollout.rollbackTo pins it"
    if source.alias is None:
        return "which spec.source.mlflow.version names"
    return f"for which the alias {source.alias!r} of model {source.model!r} stands"


def _asked(o: Observed, plan: Plan) -> Iterator[str]:
    if plan.problem:
        yield f"The spec cannot be carried out, {plan.problem[0]}: {plan.problem[1]}."
    if o.model.version is None:
        said = f"{o.model.reason}: {o.model.message}" if o.model.message else str(o.model.reason)
        silent = "what was known of it goes on" if plan.asked else "nothing can begin until it does"
        yield f"MLflow gives no answer, so {silent} ({said})." if o.model.is_unknown else f"MLflow says no, {said}."
    if plan.asked and (o.model.version or o.program.spec.rollout.rollback_to is not None):
        yield f"Asked for is version {plan.asked.version}, {_source(o)}."


def _pods_say(o: Observed, base: str | None) -> Iterator[str]:
    """Why pods are not ready, as far as they or the API server tell."""
    late = [p for p in o.pods_of(base) if not p.ready]
    yield from (f"Pod {p.name} is not ready: {_trouble(p)}." for p in late[:NAMED])
    view = o.deployment(base)
    if view and view.trouble:
        yield f"No more pods are made, {view.trouble.reason}: {view.trouble.message}."
    if len(late) > NAMED:
        yield f"And {len(late) - NAMED} more pods are not ready."


def _trouble(pod: PodView) -> str:
    if pod.failure:
        return f"{pod.failure.reason}: {pod.failure.message}"
    return f"{pod.trouble.reason}: {pod.trouble.message}" if pod.trouble else "it is starting"


def _change(o: Observed, plan: Plan, now: float) -> Iterator[str]:
    if plan.candidate is None:
        if plan.started_at is not None and plan.step is None and plan.wanted and o.deployment(plan.wanted.base):
            yield f"Version {plan.wanted.version} has no deadline: its pods try again until they are ready."
        return
    if plan.strategy:
        way = WAYS[plan.strategy.name]
        yield f"Version {plan.candidate.version} comes {way}: {plan.strategy.reason}."
    yield from (_judged(g) for g in plan.gates if g.result != "Running")
    yield from _in_vain(o, plan)
    match plan.step:
        case "Prepare":
            yield from _prepare(o, plan, now)
        case "Gate":
            running = [g for g in plan.gates if g.result == "Running"]
            yield from (_gate(o, g, now) for g in running[:1])
        case "AwaitPromotion":
            state = (
                "is started after what serves has ended, when a person says so"
                if plan.ends_first
                else "is ready and waits for a person"
            )
            yield f"It {state}: {_annotate(o, 'promote', plan.candidate.hash)}."
        case "Refused":
            yield f"It waits for a change of the manifest, {Reason.GATE_HAS_SIDE_EFFECTS}: {plan.refusal}."
        case "Paused":
            yield "It is held up until spec.rollout.state is Active."
        case "Suspended":
            yield "Nothing is prepared while the program runs no pods."
        case "Promote":
            yield "It is ready, and the next pass sends callers there."


def _in_vain(o: Observed, plan: Plan) -> Iterator[str]:
    """A word to promote that names nothing that waits, nor what it may have been about when it was given."""
    named = asking(o).get("promote", "")
    past = [entry.revision for entry in o.status.history]
    if named and named not in past and (said := amiss(o, plan.candidate, named)):
        yield f"{said}."


def _prepare(o: Observed, plan: Plan, now: float) -> Iterator[str]:
    left = o.program.spec.rollout.blue_green.progress_deadline_seconds - plan.clock.elapsed(now)
    waits = _to_take_in(o, plan) if plan.strategy and plan.strategy.name == "HotSwap" else _to_be_ready(o, plan)
    yield f"It waits {waits}{f'; given up in {duration(left)}' if left > 0 else ''}."
    if plan.candidate and plan.candidate.base != o.active:
        yield from _pods_say(o, plan.candidate.base)


def _to_take_in(o: Observed, plan: Plan) -> str:
    pods, revision = o.ready_pods(o.active), plan.candidate.hash if plan.candidate else ""
    late, short = [p for p in pods if not holds(p, revision)], [p for p in pods if not is_whole(p)]
    if short and not late:
        return f"for all workers of pod {short[0].name} to run"
    if pods and not late:
        return "for its Service to lead to the pods, which have taken it in"
    named = "; ".join(f"pod {p.name} {_taking_in(p, revision)}" for p in late[:NAMED])
    return f"for {len(late)} of {len(pods)} pods to take it in" + (f" ({named})" if named else "")


def _taking_in(pod: PodView, revision: str) -> str:
    held = pod.held(revision)
    if pod.report is None:
        return "has not been heard"
    if held is None:
        return "has not begun"
    return f"could not: {held.failure.message}" if held.failure else "is loading it"


def _to_be_ready(o: Observed, plan: Plan) -> str:
    base = plan.candidate.base if plan.candidate else None
    size, ready = wanted_size(o, o.deployment(o.active)), o.ready(base)
    ending = [p for p in o.pods if p.revision == o.active]
    if plan.ends_first and ending and o.deployment(base) is None:
        return f"for {len(ending)} old pods to end"
    if ready < size:
        return f"for {size - ready} of {size} new pods to be ready"
    known = o.preview_ready.get(base or "", 0)
    return f"for its pods to be known to the network: {known} of {size} stand in the preview Service's endpoints"


def _judged(gate: GateStatus) -> str:
    return f"Gate {gate.name} {gate.result.lower()}{f': {gate.message}' if gate.message else ''}."


def _gate(o: Observed, gate: GateStatus, now: float) -> str:
    spec = next((g for g in o.program.spec.rollout.gates if g.name == gate.name), None)
    left = spec.timeout_seconds - clock_of(gate, now).elapsed(now) if spec else 0.0
    return (
        f"It stands at gate {gate.name} ({gate.type}): {gate.message or 'nothing is known yet'}; {duration(left)} left."
    )


def _annotate(o: Observed, kind: str, value: str) -> str:
    """The command. What stands there already was acted on: only what is set anew asks again."""
    command, name = f"kubectl annotate dspy {o.program.name} -n {o.program.namespace}", f"{GROUP}/{kind}"
    if o.program.annotations.get(name) == value:
        return f"{name}={value} was acted on once; take it away ({command} {name}-) and set it again"
    return f"{command} --overwrite {name}={value}"


def _remarks(o: Observed, plan: Plan) -> Iterator[str]:
    view, candidate = o.deployment(o.active), plan.candidate
    if view and (said := remark_on(o, view.revision, view.serves)):
        yield f"Of what callers reach its pods say: {said}."
    if candidate and (said := remark_on(o, candidate.base, candidate.hash)):
        yield f"Of version {candidate.version} its pods say: {said}."


def _watch(o: Observed, plan: Plan, now: float) -> Iterator[str]:
    policy, promotion = o.program.spec.rollout.post_promotion, plan.memory.promotion if plan.memory else None
    if plan.remark:
        yield f"What callers reach does badly: {plan.remark}. Nothing is done, since postPromotion.action is None."
    if plan.step == "Watch" and promotion and (view := o.deployment(o.active)):
        left = duration(promoted_at(promotion) + policy.watch_seconds - now)
        counts = counts_of(o, promotion.revision).since(promotion.base.counts())
        yield f"Version {view.version} is watched for {left} more: {_so_far(policy, counts)}."
    yield from _warm(o, plan, now)


def _so_far(policy: PostPromotion, counts: Counts) -> str:
    if counts.executed < policy.min_requests:
        return f"{counts.executed} of {policy.min_requests} requests so far"
    rate = error_rate(counts)
    return f"{counts.executed} requests, {rate:.1f} % failed, {policy.max_error_rate_percent} % may"


def _warm(o: Observed, plan: Plan, now: float) -> Iterator[str]:
    """What callers can be sent back to at once, while it is another version than those that are spoken of already."""
    before, view = previous(o, plan.quarantined), o.deployment(o.active)
    spoken_of = (view.version if view else None, plan.candidate.version if plan.candidate else None)
    if before is None or before.revision.version in spoken_of:
        return
    left = min(before.retired_at, now) + o.program.spec.rollout.blue_green.scale_down_delay_seconds - now
    if left >= 1:
        yield f"Version {before.revision.version} stays warm for {duration(left)} more: going back there is one write."


def _quarantine(o: Observed, plan: Plan) -> Iterator[str]:
    for entry in dict.fromkeys(e for e in (plan.blocked, plan.stuck) if e):
        yield f"Version {entry.version} is {_fate(o, plan, entry)}, {entry.reason} at {entry.at}: {entry.message}."
        yield _way_out(o, entry)
    for entry in plan.quarantined:
        if entry not in (plan.blocked, plan.stuck):
            yield f"Version {entry.version} is in quarantine, too, {entry.reason} at {entry.at}: {entry.message}."


def _fate(o: Observed, plan: Plan, entry: Quarantined) -> str:
    if entry == plan.stuck and entry != plan.blocked:
        return "not tried with the present spec"
    if plan.asked is None or plan.asked.hash != o.serving:
        return "not tried"
    return "taken back" if previous(o, plan.quarantined) else "in quarantine, and no other stands ready for callers"


def _way_out(o: Observed, entry: Quarantined) -> str:
    pinned = o.program.spec.rollout.rollback_to or o.program.spec.source.mlflow.version
    elsewhere = "pin another version and this one again" if pinned else "move the alias elsewhere and back"
    edit = "edit the spec" if entry.revision else elsewhere
    return f"To have it tried again, {edit}, or: {_annotate(o, 'retry', entry.version)}."


def _breaker(o: Observed, plan: Plan, now: float) -> Iterator[str]:
    breaker, spec = plan.breaker, o.program.spec.breaker
    if breaker is None or spec is None or breaker.state == "Closed":
        return
    state = "open" if breaker.state == "Open" else "half open, so that a few requests are tried,"
    age = f" since {breaker.since}, {duration(now - parse_timestamp(breaker.since))}" if breaker.since else ""
    yield f"The breaker is {state}{age}: {breaker.reason}."
    if "Restart" in spec.on_open:
        done = f"{breaker.restarts_last_hour} of {spec.restart.max_per_hour}"
        yield f"It has caused {done} restarts within the last hour; only the program's own failures cause one."


def _refused(o: Observed) -> Iterator[str]:
    """What the last pass could not do, by its own word."""
    for condition in o.status.conditions:
        if condition.reason == Reason.INVALID_SPEC or (condition.type in MENDED and condition.status == "False"):
            yield f"The last pass did not get through, {condition.reason}: {condition.message}."
    seen, there = o.status.observed_generation, o.program.generation
    if seen < there:
        known = (
            f"it has acted on generation {seen}, and this is {there}" if seen else "it has said nothing of this program"
        )
        yield f"The operator lags behind the manifest: {known}. Is it running?"


def _tools(o: Observed) -> Iterator[str]:
    bad = (use for use in tool_uses_status(o) if use.state != "Available")
    yield from (f"Calls of tool {use.name} fail, {use.state}: {use.message}." for use in bad)


def _next(o: Observed, plan: Plan) -> Iterator[str]:
    done = dict.fromkeys([*_writes(o, plan), *_orders(plan.steps)])
    if done:
        yield "The next pass:"
        yield from (f"{BULLET}{text}" for text in done)


def _writes(o: Observed, plan: Plan) -> Iterator[str]:
    for action in plan.steps:
        match action:
            case Create(document) | Apply(document):
                sends = f", which sends callers to version {_target(o, plan)}" if _sends_callers(o, document) else ""
                yield f"writes {document['kind']} {document['metadata']['name']}{sends}"
            case Scale(deployment, replicas):
                yield f"scales Deployment {deployment} to {replicas}"
            case Annotate(deployment, notes):
                yield f"notes {', '.join(n.rpartition('/')[2] for n in notes)} on Deployment {deployment}"
            case Restart(deployment, _, _):
                yield f"restarts the pods of Deployment {deployment}, each after its successor is ready"
            case Delete((kind, name)):
                yield f"deletes {kind} {name}"
            case Emit(_, reason, _):
                yield f"writes the Event {reason}"


def _sends_callers(o: Observed, document: dict[str, Any]) -> bool:
    """Whether a write is one of the two that move callers: of a selector, or of a generation."""
    kind, name, view = document["kind"], document["metadata"]["name"], o.deployment(o.active)
    if kind == "Service":
        return bool(name == o.program.name and document["spec"]["selector"].get(REVISION) != o.active)
    return bool(kind == "ConfigMap" and view and name == generation_name(view.name))


def _target(o: Observed, plan: Plan) -> str:
    """The version that callers are sent to by a pass that moves them."""
    before = previous(o, plan.quarantined)
    found = plan.target or plan.wanted or (before and before.revision)
    return found.version if found else ""


def _orders(actions: Iterable[Action]) -> Iterator[str]:
    told = [(action.order, action.subject) for action in actions if isinstance(action, Tell)]
    for (order, subject), number in Counter(told).items():
        to_do = ORDERS[order].format(subject.partition(":")[0])
        yield f"tells {number} pod{'s' if number > 1 else ''} to {to_do}"


def _again(o: Observed, plan: Plan) -> str:
    again = plan.again if plan.soon is None else plan.soon
    soon = "" if again is None else f" in {duration(again)}, or sooner," if again >= 1 else " at once, or"
    is_asked = o.model.reason != Reason.NO_TRACKING_URI
    mlflow = f", and asks MLflow every {o.program.spec.source.mlflow.poll_period_seconds} s" if is_asked else ""
    return f"The operator looks again{soon} when something changes{mlflow}."
