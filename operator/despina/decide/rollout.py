"""From what is there to the next step towards what is wanted.

Level-triggered: each call looks at the whole snapshot and says what to do next, whatever was done before. Callers reach
the pods that the Service selects, and in them what their Deployment's generation says. The order of a change is fixed:
prepare the version (in new pods, or in the memory of those that run), have it pass the gates, send callers there in one
write, watch it, and let the old one go.
"""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.conditions import Reason
from despina.api.revision import Revision, revision_of, tool_uses
from despina.api.status import BreakerStatus, Quarantined
from despina.decide.actions import all_steps
from despina.decide.breaker import merged
from despina.decide.gates import REASONS, Gates, pass_gates
from despina.decide.observed import DeploymentView, Observed
from despina.decide.plan import Action, Emit, Plan, Step
from despina.decide.quarantine import (
    LIMIT,
    TAKEN_BACK,
    entry_against,
    parse_timestamp,
    quarantine,
    still_quarantined,
)
from despina.decide.retire import remaining, retention_left
from despina.decide.situation import ENDED, Situation, holds, previous, serves
from despina.decide.strategy import NOT_IN_THIS_PROCESS, choose
from despina.decide.watch import breach_of, counts_of, watch_left
from despina.desired.labels import ABORT, PROMOTE, RETRY
from despina.desired.overlay import overlay_problem

SWAP_LISTEN, WATCH_LISTEN, STEADY_LISTEN = 0.15, 0.5, 5.0
GATE_SECONDS = WATCH_SECONDS = 1.0


def decide(o: Observed, now: float) -> Plan:
    """The next step of one program."""
    problem = spec_problem(o)
    entries = still_quarantined(o)
    wanted = None if problem else wanted_revision(o)
    r = notes(o, now, wanted, entries)
    breaker = merged(o, now)
    gates = gates_of(r)
    failed = failure_of(r) or _stopped_at(r, gates) or _relapse(r, breaker)
    if failed:
        entries = (*entries, failed)[-LIMIT:]
        r = notes(o, now, wanted, entries)
    step = step_of(r, gates)
    actions = (*_news(gates, failed), *all_steps(r, step, gates, breaker))
    is_under_way = r.candidate is not None or step == "Watch" or _is_starting(r)
    return Plan(
        actions=actions,
        wanted=wanted,
        candidate=r.candidate,
        step=step,
        strategy=r.strategy,
        gates=gates.states if gates.states else (r.earlier.gates if r.earlier else ()),
        started_at=r.started_at if is_under_way else None,
        quarantined=entries,
        blocked=r.blocked,
        problem=problem,
        breaker=breaker,
        remark=_remark(r),
        writes_status_first=bool(failed) and r.is_at_target,
        again=again_after(r, step),
        listen=listen_of(r, step),
    )


def notes(o: Observed, now: float, wanted: Revision | None, entries: tuple[Quarantined, ...]) -> Situation:
    """What follows from the snapshot directly."""
    blocked = entry_against(wanted, entries) if wanted else None
    if blocked and wanted and wanted.hash == o.serving and not _is_taken_back(o, blocked, entries):
        blocked = None  # what callers already reach is never taken from them by an entry in a list
    is_paused = o.program.spec.rollout.state == "Paused"
    before = Situation(o, now, wanted, blocked, now).earlier
    started = parse_timestamp(before.started_at) if before and not is_paused else now
    is_change = wanted is not None and o.serving not in (None, wanted.hash)
    strategy = choose(o, wanted, started, now) if wanted and is_change else None
    return Situation(o, now, wanted, blocked, started, strategy)


def _is_taken_back(o: Observed, entry: Quarantined, entries: tuple[Quarantined, ...]) -> bool:
    """Whether callers shall leave a version that they reach: it misbehaved, and a good one stands ready."""
    before = previous(o)
    return entry.reason in TAKEN_BACK and before is not None and entry_against(before.revision, entries) is None


def spec_problem(o: Observed) -> tuple[str, str] | None:
    """Why the spec cannot be built, as a reason and a message that names the field."""
    spec, profiles = o.program.spec, o.defaults.profiles
    if spec.placement.profile != "default" and spec.placement.profile not in profiles:
        valid = ", ".join(sorted({*profiles, "default"}))
        return (
            Reason.UNKNOWN_PROFILE,
            f"spec.placement.profile: {spec.placement.profile!r} is not one of {valid}",
        )
    problem = overlay_problem(spec.pod_template) if spec.pod_template is not None else None
    if problem:
        return Reason.INVALID_POD_TEMPLATE, problem
    return missing_tool(o) or _repeated_tool(o)


def missing_tool(o: Observed) -> tuple[str, str] | None:
    """The first tool that the spec requires and that cannot be called by this program."""
    troubles = {v.key: v.trouble for v in o.tools if v.trouble}
    for use, known in zip(o.program.spec.tools, tool_uses(o.program), strict=True):
        if use.policy == "Required" and (trouble := troubles.get(known.tool)):
            reason = Reason.TOOL_NOT_FOUND if trouble[0] == "NotFound" else Reason.TOOL_NOT_ALLOWED
            return reason, f"spec.tools[{use.name}]: {trouble[1]}"
    return None


def _repeated_tool(o: Observed) -> tuple[str, str] | None:
    """A tool that a Shadow gate would have executed twice though it must not be."""
    shadows = [g.name for g in o.program.spec.rollout.gates if g.type == "Shadow"]
    unsafe = [v.key for v in o.tools if v.tool and v.tool.spec.contract.idempotency == "NonIdempotent"]
    if not shadows or not unsafe:
        return None
    text = f"spec.rollout.gates[{shadows[0]}]: it would have {', '.join(unsafe)} executed twice, which is NonIdempotent"
    return Reason.SHADOW_HAS_SIDE_EFFECTS, text


def wanted_revision(o: Observed) -> Revision | None:
    """What is asked for. While the registry is silent, what is under way goes on, and else what runs."""
    pinned = o.program.spec.rollout.rollback_to
    if pinned is not None:
        return revision_of(o.program, str(pinned))
    version = o.model.version or (_last_known(o) if o.model.is_unknown else None)
    return revision_of(o.program, version) if version else None


def _last_known(o: Observed) -> str | None:
    rollout, candidate = o.status.rollout, o.status.candidate
    if rollout and candidate and rollout.step not in ENDED and candidate.revision == rollout.id:
        return candidate.version
    view = o.deployment(o.active)
    return view.version if view else None


def gates_of(r: Situation) -> Gates:
    """How far the candidate gets at its gates, once it is prepared. One that served and is still warm needs none."""
    candidate = r.candidate
    if candidate is None or _is_paused(r) or not is_prepared(r, candidate) or r.size == 0 or _is_warm(r, candidate):
        return Gates()
    return pass_gates(r, candidate)


def _is_warm(r: Situation, candidate: Revision) -> bool:
    before = previous(r.o)
    return before is not None and before.revision.hash == candidate.hash


def _is_paused(r: Situation) -> bool:
    return r.policy.state == "Paused"


def failure_of(r: Situation) -> Quarantined | None:
    """Why the candidate must be given up, if it must.

    A first version is never given up: nothing better serves, and its pods try again by themselves.
    """
    candidate = r.candidate
    if candidate is None or _is_paused(r):
        return None
    asked = r.o.program.annotations
    if asked.get(ABORT) == candidate.hash and asked.get(RETRY) != candidate.version:
        return quarantine(r.o, candidate, Reason.ABORTED, "the annotation despina.dev/abort names it", r.now)
    said = _swap_failure(r, candidate) if r.swaps else _start_failure(r, candidate)
    if said:
        return quarantine(r.o, candidate, *said, r.now)
    limit = r.policy.blue_green.progress_deadline_seconds
    if r.now - r.started_at < limit or is_prepared(r, candidate):
        return None
    message = f"not ready within {limit} s{_trouble(r, candidate)}"
    return quarantine(r.o, candidate, Reason.PROGRESS_DEADLINE_EXCEEDED, message, r.now)


def _start_failure(r: Situation, candidate: Revision) -> tuple[str, str] | None:
    """What a pod of the candidate's own said when it gave up."""
    failure = next((p.failure for p in r.o.pods_of(candidate.base) if p.failure), None)
    return (failure.reason, failure.message) if failure else None


def _swap_failure(r: Situation, candidate: Revision) -> tuple[str, str] | None:
    """What a pod said that could not take the candidate in: it ends the swap for all."""
    for pod in r.o.pods_of(candidate.base):
        held = pod.held(candidate.hash)
        if held and held.failure:
            asked = held.failure.reason in NOT_IN_THIS_PROCESS
            advice = "; set spec.rollout.strategy to Auto or BlueGreen" if asked else ""
            return held.failure.reason, f"{pod.name}: {held.failure.message}{advice}"
    return None


def _trouble(r: Situation, candidate: Revision) -> str:
    if r.swaps:
        missing = [p.name for p in r.o.ready_pods(candidate.base) if not holds(p, candidate.hash)]
        return f": {', '.join(missing)} did not take it in" if missing else ""
    trouble = next((p.trouble for p in r.o.pods_of(candidate.base) if p.trouble), None)
    pool = f"pool {r.o.program.spec.placement.profile}: " if trouble and trouble.reason == Reason.UNSCHEDULABLE else ""
    return f": {trouble.reason}: {pool}{trouble.message}" if trouble else ""


def _stopped_at(r: Situation, gates: Gates) -> Quarantined | None:
    failed = gates.failed
    if failed is None or r.candidate is None:
        return None
    return quarantine(r.o, r.candidate, REASONS[failed.type], f"gate {failed.name}: {failed.message}", r.now)


def _relapse(r: Situation, breaker: BreakerStatus | None) -> Quarantined | None:
    """Why the version that callers have just been sent to must be taken back."""
    breach = breach_of(r)
    if r.wanted is None:
        return None
    if breach and r.policy.post_promotion.action == "Rollback":
        return quarantine(r.o, r.wanted, Reason.WATCH_FAILED, breach, r.now)
    if breaker and _trips_while_watched(r, breaker):
        return quarantine(r.o, r.wanted, Reason.BREAKER_OPEN, breaker.reason, r.now)
    return None


def _remark(r: Situation) -> str:
    """What was found while watching, where nothing shall be done about it."""
    is_left = r.blocked is None and r.policy.post_promotion.action == "None"
    return (breach_of(r) or "") if is_left else ""


def _trips_while_watched(r: Situation, breaker: BreakerStatus) -> bool:
    spec = r.o.program.spec.breaker
    if spec is None or breaker.state == "Closed" or "Rollback" not in spec.on_open:
        return False
    counts = counts_of(r.o, r.wanted.hash) if r.wanted else None
    is_outage = counts is not None and 2 * counts.outage > counts.program + counts.upstream + counts.timeout
    return watch_left(r) > 0 and not is_outage


def _news(gates: Gates, failed: Quarantined | None) -> Iterator[Action]:
    for gate in gates.news:
        if gate.result == "Passed":
            yield Emit("Normal", "GatePassed", f"Gate {gate.name}: {gate.message}")
    if failed:
        yield Emit("Warning", failed.reason, f"Version {failed.version} quarantined: {failed.message}")


def step_of(r: Situation, gates: Gates) -> Step | None:
    """Where the change stands."""
    if r.candidate is None:
        return "Watch" if r.blocked is None and watch_left(r) > 0 else None
    if _is_paused(r):
        return "Paused"
    if not is_prepared(r, r.candidate):
        return "Prepare"
    if gates.running:
        return "Gate"
    policy = r.policy.blue_green.auto_promotion
    promoted = r.o.program.annotations.get(PROMOTE) == r.candidate.hash
    return "Promote" if policy == "Enabled" or promoted else "AwaitPromotion"


def is_prepared(r: Situation, candidate: Revision) -> bool:
    """Whether callers can be sent to a revision.

    In new pods, it must stand ready in the preview Service's endpoints, which shows that the network knows them; pods
    that served before have shown that already. In running pods, all that are ready must hold it.
    """
    o, pods = r.o, r.o.ready_pods(candidate.base)
    if r.swaps:
        return bool(pods) and all(holds(p, candidate.hash) for p in pods)
    view = o.deployment(candidate.base)
    if r.size == 0:
        return True
    if view is None or len(pods) < r.size or not is_converged(o, view, candidate):
        return False
    return view.activated_at is not None or o.preview_ready.get(candidate.base, 0) >= r.size


def is_converged(o: Observed, view: DeploymentView, revision: Revision) -> bool:
    """Whether all ready pods of a Deployment serve a revision, which is a question only after they were changed."""
    return view.serves == revision.hash and (view.loading is None or _say(o, view))


def _is_starting(r: Situation) -> bool:
    return r.candidate is None and r.wanted is not None and r.size > 0 and r.o.ready(r.o.active or r.wanted.base) == 0


def again_after(r: Situation, step: Step | None) -> float | None:
    """When to look again though nothing happens: at the next deadline."""
    waits = [remaining(r, view) for view in r.o.deployments if view.replicas and view.is_retired]
    waits += [left for view in r.o.deployments if (left := retention_left(r, view)) is not None]
    if r.candidate:
        deadline = r.policy.blue_green.progress_deadline_seconds
        waits.append(max(1.0, r.started_at + deadline - r.now))
    if step == "Gate":
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
    if is_swapping or any(not _say(r.o, v) for v in unlike):
        return SWAP_LISTEN
    if step in ("Gate", "Watch", "AwaitPromotion") or r.candidate or r.o.program.spec.breaker:
        return WATCH_LISTEN
    return STEADY_LISTEN if unlike else None


def _say(o: Observed, view: DeploymentView) -> bool:
    return all(serves(p, view.serves) for p in o.ready_pods(view.revision))
