"""From what is there to the next step towards what is wanted.

Level-triggered: each call looks at the whole snapshot and says what to do next, whatever was done before. Callers reach
the pods that the Service selects, and in them what their Deployment's generation says. The order of a change is fixed:
prepare the version (in new pods, or in the memory of those that run), have it pass the gates, send callers there in one
write, watch it, and let the old one go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from despina.api.revision import Revision, revision_of
from despina.api.status import GateStatus, Memory, Quarantined
from despina.decide.actions import all_steps
from despina.decide.breaker import merged
from despina.decide.failure import failure_of, relapse, remark, stopped_at
from despina.decide.gates import Gates, clock_of, pass_gates, side_effects, unjudged
from despina.decide.memory import fresh, handled, recall, remembered, sent_along
from despina.decide.observed import DeploymentView, Observed
from despina.decide.optimization import optimize
from despina.decide.plan import Action, Chain, Clock, Emit, Plan, Step
from despina.decide.pods import replacing_left
from despina.decide.problems import spec_problem
from despina.decide.quarantine import added, entry_against, parse_timestamp, still_quarantined, timestamp
from despina.decide.readiness import do_all_say, is_prepared
from despina.decide.retire import is_released, others, remaining, retention_left
from despina.decide.situation import Situation, amiss, earlier, has_served, recovered, revision_in
from despina.decide.sizing import asleep
from despina.decide.strategy import choose, patience
from despina.decide.versions import asked_model, ref_of, served_models
from despina.decide.watch import promoted, summary, watch_left

SWAP_LISTEN, WATCH_LISTEN, STEADY_LISTEN, REQUESTS_LISTEN, FEEDBACK_LISTEN = 0.15, 0.5, 5.0, 10.0, 25.0
GATE_SECONDS = WATCH_SECONDS = 1.0
SOON_SECONDS = 0.1


def decide(observed: Observed, now: float) -> Plan:
    """The next step of one program."""
    o = recovered(observed)
    before = recall(o)
    requests, entries = fresh(o, before), before.quarantined if before else ()
    problem = spec_problem(o)
    r = situation(o, now, None if problem else asked_revision(o), entries, before)
    breaker, gates = merged(o, now), gates_of(r)
    failed = failure_of(r, requests) or stopped_at(r, gates) or relapse(r, breaker)
    judged = r
    if failed:
        r = given_up(r, failed)
    step = step_of(r, gates, requests)
    optimizing = optimize(r, requests, held_up(r, step, problem))
    pending = _pending(r, requests, bool(problem)) | (
        {"optimize"} & requests.keys() if not optimizing.is_heard else set()
    )
    memory, target = _memory(r, requests, pending, bool(problem)), _target(r, step)
    r = replace(r, memory=sent_along(memory, promoted(r, target)))
    actions, events = _parted(
        [
            *all_steps(r, step, gates, breaker, requests),
            *optimizing.actions,
            *_news(r, gates, failed),
            *_in_vain(judged, requests, memory),
        ]
    )
    is_under_way = r.candidate is not None or step == "Watch" or _is_starting(r)
    return Plan(
        actions=actions,
        events=events,
        memory=memory,
        target=target,
        asked=r.asked,
        wanted=r.wanted,
        candidate=r.candidate,
        step=step,
        strategy=r.strategy,
        ends_first=r.ends_first,
        gates=_gates_seen(r, gates),
        refusal=gates.refusal if step == "Refused" else "",
        started_at=r.started_at if is_under_way else None,
        clock=_clock(r, step),
        quarantined=memory.quarantined,
        blocked=r.blocked,
        stuck=_stuck(r),
        problem=problem,
        breaker=breaker,
        remark=remark(r) if step == "Watch" else "",
        optimization=optimizing.status,
        again=_sooner(again_after(r, step, gates), optimizing.again),
        soon=SOON_SECONDS if failed or step == "Promote" or _lets_go(r) else None,
        listen=listen_of(r, step),
    )


def situation(
    o: Observed, now: float, asked: Revision | None, entries: tuple[Quarantined, ...], memory: Memory | None
) -> Situation:
    """What follows from the snapshot directly."""
    blocked = entry_against(asked, entries) if asked else None
    wanted = _instead(o, entries) if blocked else asked
    before = earlier(o, wanted)
    clock = clock_of(before, now) if before else Clock()
    is_change = wanted is not None and o.serving not in (None, wanted.hash)
    strategy = choose(o, wanted, clock.elapsed(now)) if wanted and is_change else None
    if before and strategy and strategy.name != before.strategy:
        clock = Clock()  # another way has its own time: else one that is taken late is given up as it begins
    started = _started(wanted, before.started_at if before else None, memory, now)
    return Situation(o, now, asked, blocked, wanted, entries, memory, started, clock, strategy)


def _started(wanted: Revision | None, noted: str | None, memory: Memory | None, now: float) -> float:
    """When the change began, as the status or what is remembered beside it says."""
    is_remembered = memory and wanted and memory.rollout_id == wanted.hash
    return parse_timestamp(noted, parse_timestamp(memory.rollout_started_at if memory and is_remembered else None, now))


def asked_revision(o: Observed) -> Revision | None:
    """What spec and registry ask for."""
    model = asked_model(o)
    return revision_of(o.program, model) if model else None


def _instead(o: Observed, entries: tuple[Quarantined, ...]) -> Revision | None:
    """While what is asked for is in quarantine, what serves is wanted with the present spec; or what served, where
    what serves is in quarantine itself."""
    for model in served_models(o):
        revision = revision_of(o.program, model)
        entry = entry_against(revision, entries)
        if entry is None:
            return revision
        if entry.revision is not None:
            return None  # the version is good, and the present spec is not
    return None


def _stuck(r: Situation) -> Quarantined | None:
    if r.blocked is None or r.active is None:
        return None
    return entry_against(revision_of(r.o.program, revision_in(r.o, r.active).model), r.entries)


def given_up(r: Situation, failed: Quarantined) -> Situation:
    """The situation with a new entry. Whatever is wanted instead begins with the next pass, when that is on record."""
    after = situation(r.o, r.now, r.asked, added(r.entries, failed), r.before)
    return replace(after, wanted=None, strategy=None) if after.candidate else after


def _memory(r: Situation, requests: Mapping[str, str], pending: set[str], has_problem: bool) -> Memory:
    """What is to be remembered though nothing can be written but the status: the last promotion is the one that came
    about, for one that is refused must not end the watch of what callers still reach."""
    entries = r.entries if has_problem else _kept(r, requests)
    promotion = r.before.promotion if r.before else None
    rollout = (r.candidate.hash, timestamp(r.started_at)) if r.candidate else None
    return remembered(r.before, handled(r.o, pending), entries, rollout, promotion)


def _kept(r: Situation, requests: Mapping[str, str]) -> tuple[Quarantined, ...]:
    o = r.o
    matter = [r.asked, revision_of(o.program, ref_of(o, o.model.version)) if o.model.version else None]
    matter += [revision_of(o.program, model) for model in served_models(o)[:1]]
    matter += [revision_in(o, r.active)] if r.active else []
    known, retry = r.before.quarantined if r.before else (), requests.get("retry")
    entries = [e for e in r.entries if e.version != retry or e not in known]  # the word knew nothing of a new one
    return still_quarantined(o, entries, [m for m in matter if m])


def _target(r: Situation, step: Step | None) -> Revision | None:
    """Where callers are sent in this pass."""
    if r.is_left and r.retreat:
        return r.retreat.revision
    return r.candidate if step == "Promote" else None


def held_up(r: Situation, step: Step | None, problem: tuple[str, str] | None) -> str:
    """Why no optimisation begins now: what it shall make better must serve, and stay."""
    if problem:
        return problem[1]
    if sleeps := asleep(r.o.program.spec):
        return sleeps
    if r.blocked:
        return f"version {r.blocked.version} is asked for and in quarantine ({r.blocked.reason}): move the alias first"
    if r.candidate is not None or step == "Watch" or r.is_left:
        return "a release is under way"
    return "nothing serves yet" if _is_starting(r) else ""


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _pending(r: Situation, requests: Mapping[str, str], has_problem: bool) -> set[str]:
    """What was asked for and still waits for its moment."""
    if has_problem:
        return set(requests)
    pending = set()
    if r.asked is None:  # what they are about may come back
        pending |= requests.keys() & {"promote", "abort"}
    elif r.wanted and requests.get("promote") == r.wanted.hash != r.o.serving:  # a word about another one is void
        pending.add("promote")
    if "restart" in requests and not (r.active and r.active.restarted_by == requests["restart"]):
        pending.add("restart")
    return pending


def _parted(steps: list[Action]) -> tuple[tuple[Action, ...], tuple[Emit, ...]]:
    return (
        tuple(a for a in steps if not isinstance(a, Emit) and a != Chain(())),
        tuple(a for a in steps if isinstance(a, Emit)),
    )


def gates_of(r: Situation) -> Gates:
    """How far the candidate gets at its gates, once it is prepared. One that served before needs none."""
    candidate = r.candidate
    if candidate is None or r.is_held_up or has_served(r.o, candidate):
        return Gates()
    if refusal := side_effects(r):  # before it is prepared, for under Recreate that ends what serves
        return Gates(refusal=refusal)
    return pass_gates(r, candidate) if is_prepared(r, candidate) else Gates()


def _gates_seen(r: Situation, gates: Gates) -> tuple[GateStatus, ...]:
    """How the gates stand, also while nobody judges them."""
    return gates.states or unjudged(r, r.earlier.gates if r.earlier else ())


def _clock(r: Situation, step: Step | None) -> Clock:
    """The time to become ready runs only while the candidate becomes ready."""
    match step:
        case "Prepare":
            return r.clock.running(r.now)
        case "Paused" | "Suspended" | "Refused":
            return r.clock.stopped(r.now)
    return Clock()


def _news(r: Situation, gates: Gates, failed: Quarantined | None) -> Iterator[Emit]:
    for gate in gates.news:
        if gate.result == "Passed":
            yield Emit("Normal", "GatePassed", f"Gate {gate.name}: {gate.message}")
    if failed:
        yield Emit("Warning", failed.reason, f"Version {failed.version} quarantined: {failed.message}")
    before = r.o.status.rollout
    if before and before.step == "Watch" and not failed and (said := summary(r)):
        yield Emit("Warning", "WatchInconclusive", said)


def _in_vain(r: Situation, requests: Mapping[str, str], memory: Memory) -> Iterator[Emit]:
    """A word to promote counts as heard though it names nothing that waits. Whoever gave it would wait for ever."""
    named = requests.get("promote", "")
    is_heard = bool(named) and memory.handled.get("promote") == named
    if is_heard and (said := amiss(r.o, r.candidate, named)):
        yield Emit("Warning", "NothingToPromote", said)


def step_of(r: Situation, gates: Gates, requests: Mapping[str, str]) -> Step | None:
    """Where the change stands."""
    candidate = r.candidate
    if candidate is None:
        return "Watch" if not r.is_left and watch_left(r) > 0 else None
    if r.size == 0:
        return "Suspended"
    if r.policy.state == "Paused":
        return "Paused"
    if gates.refusal:
        return "Refused"
    may_be = _may_be_promoted(r, candidate, requests)
    if r.ends_first and not may_be:
        return "AwaitPromotion"  # what serves does not end for a version that nobody has let in
    if not is_prepared(r, candidate):
        return "Prepare"
    if gates.running:
        return "Gate"
    return "Promote" if may_be else "AwaitPromotion"


def _may_be_promoted(r: Situation, candidate: Revision, requests: Mapping[str, str]) -> bool:
    """By itself, by a person's word, or because a person pinned a version that served before."""
    is_way_back = r.policy.rollback_to is not None and has_served(r.o, candidate)
    is_automatic = r.policy.blue_green.auto_promotion == "Enabled"
    return is_automatic or is_way_back or requests.get("promote") == candidate.hash


def _is_starting(r: Situation) -> bool:
    return r.candidate is None and r.wanted is not None and r.size > 0 and r.o.ready(r.o.active or r.wanted.base) == 0


def _warm(r: Situation) -> list[DeploymentView]:
    """What callers left and nobody is on the way to."""
    return [view for view in others(r) if view.replicas and view.is_retired]


def _patience_left(r: Situation) -> list[float]:
    """Seconds until another way is taken, and until the candidate is given up."""
    moments = (*patience(r.policy), r.policy.blue_green.progress_deadline_seconds)
    return [left for moment in moments if (left := moment - r.clock.elapsed(r.now)) > 0] or [1.0]


def _lets_go(r: Situation) -> bool:
    """Whether pods end in this pass because their time is over."""
    return any(remaining(r, view) <= 0 for view in _warm(r))


def again_after(r: Situation, step: Step | None, gates: Gates) -> float | None:
    """When to look again though nothing happens: at the next moment from which on something else is decided."""
    waits = [left for view in _warm(r) if (left := remaining(r, view)) > 0]
    waits += [kept for view in r.o.deployments if (kept := retention_left(r, view)) is not None]
    if step == "Prepare":
        waits += _patience_left(r)
    waits += [left for left in replacing_left(r) if left > 0]
    if step == "Gate" and not gates.makes:
        waits.append(GATE_SECONDS)
    if step == "Watch":
        waits.append(WATCH_SECONDS)
    if r.o.program.spec.breaker and r.o.status.breaker and r.o.status.breaker.state != "Closed":
        waits.append(WATCH_SECONDS)
    return max(0.05, min(waits)) if waits else None


def listen_of(r: Situation, step: Step | None) -> float | None:
    """How often the pods are asked how they do, in seconds; None where nothing depends on it."""
    is_swapping = r.candidate is not None and r.swaps and step in ("Prepare", "Promote")
    unlike = [v for v in r.o.deployments if v.loading and v.replicas]
    if is_swapping or any(not do_all_say(r.o, v) for v in unlike):
        return SWAP_LISTEN
    if step in ("Gate", "Watch", "AwaitPromotion") or r.candidate or r.o.program.spec.breaker or not _are_as_left(r):
        return WATCH_LISTEN
    if unlike or _may_hold_more(r):
        return STEADY_LISTEN
    optimization = r.o.program.spec.optimization
    if optimization and optimization.requests == "Enabled":
        return REQUESTS_LISTEN
    return FEEDBACK_LISTEN if r.o.program.spec.feedback else None


def _may_hold_more(r: Situation) -> bool:
    """Whether there are pods that nobody has heard: they may have been told things of which there is no record, and
    hold, or serve, something else than they should."""
    return any(p.ready and not p.ending and p.report is None and not p.was_heard for p in r.o.pods)


def _are_as_left(r: Situation) -> bool:
    """Whether pods can be left alone: none was told to load anything just now, and they hold what they should."""
    is_loading = any("Prepare" in pod.told for pod in r.o.pods)
    return not is_loading and is_released(r)
