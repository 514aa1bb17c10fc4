"""The status of a program, computed once at the end of each pass from facts alone."""

from __future__ import annotations

from collections.abc import Callable

from despina.api.conditions import Reason, Type
from despina.api.program import Program
from despina.api.revision import Revision, tool_uses
from despina.api.status import ModelStatus, ProgramStatus, Quarantined, RevisionStatus, RolloutStatus, ToolUseStatus
from despina.decide.memory import recall
from despina.decide.observed import Observed, PodView
from despina.decide.plan import Outcome, Plan
from despina.decide.quarantine import TAKEN_BACK, is_against, timestamp
from despina.decide.situation import holds, previous, recovered, serves
from despina.decide.sizing import asleep
from despina.decide.strategy import refusal_of
from despina.decide.versions import ENDED, model_of
from despina.desired.labels import selector_text
from despina.desired.network import preview_name
from despina.desired.toolbox import ToolView
from despina.status.conditions import Finding, merge
from despina.status.history import history, identity
from despina.status.optimization import optimization_healthy, step_in_words

UNRESOLVED = (Reason.UNKNOWN_PROFILE, Reason.TOOL_NOT_FOUND, Reason.TOOL_NOT_ALLOWED)


def report(observed: Observed, plan: Plan, outcome: Outcome, now: float) -> ProgramStatus:
    """What the operator knows, for users and for its own next pass."""
    o, memory = recovered(observed), outcome.recorded or plan.memory
    found = (
        ready(o, plan, outcome),
        available(o, plan),
        up_to_date(o, plan),
        progressing(o, plan, now),
        model_resolved(o),
        refs_resolved(o, plan),
        orders_accepted(o),
        breaker_closed(plan),
        feedback_delivered(o),
        optimization_healthy(o, plan),
        reconciled(outcome),
    )
    rollout = _rollout(o, plan, now)
    return ProgramStatus(
        observed_generation=o.program.generation,
        conditions=merge(o.status.conditions, found, o.program.generation, timestamp(now)),
        url=_url(o, o.program.name),
        cluster_ips=_addresses(o),
        preview_url=_url(o, preview_name(o.program)) if plan.candidate else None,
        replicas=len(o.pods_of(o.active)),
        ready_replicas=o.ready(o.active),
        selector=selector_text(o.program, o.active) if o.active else "",
        model=ModelStatus(
            requested=requested(o.program),
            resolved_version=o.model.version or o.status.model.resolved_version,
            quarantined=plan.quarantined,
        ),
        active=_active(o),
        candidate=_candidate(o, plan),
        previous=_previous(o, plan),
        rollout=rollout,
        step=step_in_words(rollout, plan.optimization),
        optimization=plan.optimization,
        breaker=plan.breaker,
        tools=tool_uses_status(o),
        history=history(o, _listed(o, plan), timestamp(now)),
        serial=memory.serial if memory else 0,
        handled=memory.handled if memory else {},
        promotion=memory.promotion if memory else None,
    )


def _listed(o: Observed, plan: Plan) -> tuple[Quarantined, ...]:
    """What is, and what was until now, in quarantine."""
    before = recall(o)
    return (*plan.quarantined, *(before.quarantined if before else ()))


def requested(program: Program) -> str:
    """The model as MLflow writes it: models:/NAME@ALIAS or models:/NAME/VERSION."""
    source = program.spec.source.mlflow
    return f"models:/{source.model}" + (f"@{source.alias}" if source.alias else f"/{source.version}")


def _url(o: Observed, service: str) -> str:
    return f"http://{service}.{o.program.namespace}.svc.{o.defaults.cluster_domain}"


def _addresses(o: Observed) -> tuple[str, ...]:
    service = o.objects.get(("Service", o.program.name)) or {}
    found = (service.get("spec") or {}).get("clusterIPs") or o.status.cluster_ips
    return tuple(found)[:2]


def _active(o: Observed) -> RevisionStatus | None:
    view = o.deployment(o.active)
    if view is None:
        return _gone(o.status.active)
    model = model_of(o, view)
    return RevisionStatus(
        revision=view.serves,
        **identity(model),
        deployment=view.name,
        ready_replicas=o.ready(view.revision),
        loaded=_of_pods(o, view.revision, lambda p: serves(p, view.serves)) if view.loading else None,
        remark=remark_on(o, view.revision, view.serves),
    )


def _gone(last: RevisionStatus | None) -> RevisionStatus | None:
    """The record of what callers reached, once nothing of it is left."""
    return last.model_copy(update={"ready_replicas": 0, "loaded": None}) if last else None


def _candidate(o: Observed, plan: Plan) -> RevisionStatus | None:
    candidate = plan.candidate
    if candidate is None:
        return None
    is_swapped = plan.strategy is not None and plan.strategy.name == "HotSwap"
    return RevisionStatus(
        revision=candidate.hash,
        **identity(candidate.model),
        deployment=candidate.deployment,
        ready_replicas=o.ready(candidate.base),
        loaded=_of_pods(o, candidate.base, lambda p: holds(p, candidate.hash)) if is_swapped else None,
        remark=remark_on(o, candidate.base, candidate.hash),
    )


def _of_pods(o: Observed, base: str, does: Callable[[PodView], bool]) -> str:
    """How many of the ready pods do something, such as 2/3, as far as they have said."""
    pods = o.ready_pods(base)
    return f"{sum(map(does, pods))}/{len(pods)}"


def _previous(o: Observed, plan: Plan) -> RevisionStatus | None:
    """The version that callers would be sent back to, or else the one that they left last, while it is still there."""
    before = previous(o, plan.quarantined) or previous(o)
    if before is None:
        return None
    revision = before.revision
    return RevisionStatus(
        revision=revision.hash,
        **identity(revision.model),
        deployment=revision.deployment,
        ready_replicas=o.ready(revision.base),
        remark=remark_on(o, revision.base, revision.hash),
    )


def remark_on(o: Observed, base: str, revision: str) -> str | None:
    """What pods say of a revision though they can serve it; at rest, when nobody listens, what they said last."""
    said = [held.remark for pod in o.pods_of(base) if (held := pod.held(revision))]
    known = (o.status.active, o.status.candidate, o.status.previous)
    said = said or [one.remark or "" for one in known if one and one.revision == revision]
    return next(filter(None, said), None)


def _rollout(o: Observed, plan: Plan, now: float) -> RolloutStatus | None:
    """The change under way; when it is over, the last one with how it ended."""
    before = o.status.rollout
    if plan.wanted is None or plan.started_at is None:
        return _ended(o, plan, before) if before and before.step not in ENDED else before
    is_same = before is not None and before.id == plan.wanted.hash and before.step not in ENDED
    name, reason = "BlueGreen", "the first version"
    if plan.strategy:
        name, reason = plan.strategy.name, plan.strategy.reason
    elif before and is_same:
        name, reason = before.strategy, before.strategy_reason
    return RolloutStatus(
        id=plan.wanted.hash,
        strategy=name,
        strategy_reason=reason,
        step=plan.step or "Prepare",
        gates=plan.gates,
        started_at=timestamp(plan.started_at),
        since=timestamp(plan.clock.since) if plan.clock.since is not None else None,
        spent_seconds=int(plan.clock.spent),
    )


def _ended(o: Observed, plan: Plan, before: RolloutStatus) -> RolloutStatus:
    said = next((e.message for e in plan.events if e.reason == "WatchInconclusive"), "")
    return before.model_copy(
        update={"step": _end(o, plan, before), "gates": plan.gates or before.gates, "since": None, "message": said}
    )


def _end(o: Observed, plan: Plan, before: RolloutStatus) -> str:
    """Done only if it led where it should."""
    against = next((q for q in _listed(o, plan) if plan.asked and is_against(q, plan.asked)), None)
    if against and plan.asked and before.id == plan.asked.hash:
        return "RolledBack" if against.reason in TAKEN_BACK else "Failed"
    return "Done" if before.id == o.serving else "Abandoned"


def _pods_say(o: Observed, revision: str | None) -> tuple[str, str] | None:
    """The first reason that pods give for not being ready, or why there are none."""
    for pod in o.pods_of(revision):
        if pod.ready:
            continue
        if pod.failure:
            return pod.failure.reason, pod.failure.message
        if pod.trouble:
            pool = o.program.spec.placement.profile
            where = f"pool {pool}: " if pod.trouble.reason == Reason.UNSCHEDULABLE else ""
            return pod.trouble.reason, f"{where}{pod.trouble.message}"
    view = o.deployment(revision)
    return (view.trouble.reason, view.trouble.message) if view and view.trouble else None


def _why_nothing_serves(o: Observed, plan: Plan) -> tuple[str, str]:
    if plan.problem:
        return plan.problem
    if o.active is None and o.model.version is None:
        return o.model.reason, o.model.message
    said = _pods_say(o, o.active)
    if said:
        return said
    reason = Reason.STARTING if plan.started_at is not None else Reason.NO_READY_PODS
    return reason, "No pod is ready yet"


def available(o: Observed, plan: Plan) -> Finding:
    """Whether callers get answers. A rollout cannot make this False, for it never touches the active pods."""
    if o.ready(o.active):
        return Finding(Type.AVAILABLE, True, Reason.SERVING)
    if sleeps := asleep(o.program.spec):
        return Finding(Type.AVAILABLE, False, Reason.SUSPENDED, sleeps)
    return Finding(Type.AVAILABLE, False, *_why_nothing_serves(o, plan))


def ready(o: Observed, plan: Plan, outcome: Outcome) -> Finding:
    """Available, with a spec that is accepted. A version that came by an alias and failed does not count here."""
    base = available(o, plan)
    if plan.problem:
        return Finding(Type.READY, False, *plan.problem)
    if outcome.error:
        return Finding(Type.READY, False, Reason.REJECTED, outcome.error)
    failed = plan.blocked if plan.blocked and plan.asked and _is_spec_driven(o, plan.asked) else plan.stuck
    if failed:
        return Finding(Type.READY, False, failed.reason, failed.message)
    if plan.refusal and plan.asked and _is_spec_driven(o, plan.asked):
        return Finding(Type.READY, False, Reason.GATE_HAS_SIDE_EFFECTS, plan.refusal)
    return Finding(Type.READY, base.status, base.reason, base.message)


def _is_spec_driven(o: Observed, wanted: Revision) -> bool:
    """Whether the change that failed was made in the manifest, so that its author should see it fail."""
    active = o.deployment(o.active)
    spec = o.program.spec
    names_a_version = spec.source.mlflow.version is not None or spec.rollout.rollback_to is not None
    return names_a_version or (active is not None and active.version == wanted.version)


def up_to_date(o: Observed, plan: Plan) -> Finding:
    """Whether callers reach what is asked for."""
    kind = Type.UP_TO_DATE
    if plan.problem:
        return Finding(kind, False, *plan.problem)
    if plan.blocked:
        entry, going = plan.blocked, _on_its_way(o, plan)
        meanwhile = f"; meanwhile {going[1]}" if going else ""
        text = f"version {entry.version}: {entry.reason}: {entry.message}{meanwhile}"
        return Finding(kind, False, Reason.VERSION_QUARANTINED, text)
    if plan.asked is None:
        return Finding(kind, None, o.model.reason, o.model.message)
    going = _on_its_way(o, plan)
    if going is None:
        view = o.deployment(o.active)
        remarks = (plan.remark or _pinned(o), remark_on(o, view.revision, view.serves) if view else None)
        return Finding(kind, True, Reason.UP_TO_DATE, "; ".join(filter(None, remarks)))
    return Finding(kind, False, *going)


def _on_its_way(o: Observed, plan: Plan) -> tuple[str, str] | None:
    """Where the candidate is, as a reason and a sentence."""
    if plan.candidate is None:
        return None
    version = f"version {plan.candidate.version}"
    match plan.step:
        case "AwaitPromotion":
            note = f'set the annotation despina.dev/promote: "{plan.candidate.hash}" to go on'
            state = "is started after what serves has ended" if plan.ends_first else "is ready"
            return Reason.AWAITING_PROMOTION, f"{version} {state}: {note}"
        case "Refused":
            return Reason.GATE_HAS_SIDE_EFFECTS, f"{version} waits: {plan.refusal}"
        case "Paused":
            return Reason.PAUSED, f"{version} waits: set spec.rollout.state to Active to go on"
        case "Suspended":
            return Reason.SUSPENDED, f"{version} waits: nothing is prepared while the program runs no pods"
    gate = next((g for g in plan.gates if g.result == "Running"), None)
    if gate and plan.step == "Gate":
        return Reason.IN_PROGRESS, f"{version} is at gate {gate.name}: {gate.message}"
    is_apart = plan.candidate.base != o.active  # what pods that serve complain of is not about the candidate
    said = _pods_say(o, plan.candidate.base) if is_apart and plan.step == "Prepare" else None
    return Reason.IN_PROGRESS, f"{version} is being prepared" + (": {}: {}".format(*said) if said else "")


def _pinned(o: Observed) -> str:
    pinned = o.program.spec.rollout.rollback_to
    return f"pinned to version {pinned} by spec.rollout.rollbackTo" if pinned is not None else ""


def progressing(o: Observed, plan: Plan, now: float) -> Finding:
    """As on a Deployment: True at rest and on the way, False after a missed deadline or where nothing can get on."""
    deadline = o.program.spec.rollout.blue_green.progress_deadline_seconds
    if plan.blocked and plan.blocked.reason == Reason.PROGRESS_DEADLINE_EXCEEDED:
        return Finding(Type.PROGRESSING, False, plan.blocked.reason, plan.blocked.message)
    if plan.problem:
        return Finding(Type.PROGRESSING, False, *plan.problem)
    if plan.asked is None:
        return Finding(Type.PROGRESSING, None if o.model.is_unknown else False, o.model.reason, o.model.message)
    if plan.refusal:
        return Finding(Type.PROGRESSING, False, Reason.GATE_HAS_SIDE_EFFECTS, plan.refusal)
    said = _pods_say(o, plan.candidate.base if plan.candidate else o.active)
    if said and said[0] == Reason.PODS_REFUSED:
        return Finding(Type.PROGRESSING, False, *said)
    if plan.started_at is None:
        return Finding(Type.PROGRESSING, True, Reason.UP_TO_DATE)
    if plan.candidate is None and now - plan.started_at >= deadline:
        message = f"No pod was ready within {deadline} s"
        return Finding(Type.PROGRESSING, False, Reason.PROGRESS_DEADLINE_EXCEEDED, message)
    return Finding(Type.PROGRESSING, True, Reason.IN_PROGRESS)


def reconciled(outcome: Outcome) -> Finding:
    """Whether everything that was to be written could be."""
    if outcome.error:
        return Finding(Type.RECONCILED, False, Reason.REJECTED, outcome.error)
    if outcome.silence:
        return Finding(Type.RECONCILED, False, Reason.API_UNAVAILABLE, outcome.silence)
    return Finding(Type.RECONCILED, True, Reason.RECONCILED)


def model_resolved(o: Observed) -> Finding:
    """What the registry said; silence is Unknown, not False."""
    if o.model.version is not None:
        return Finding(Type.MODEL_RESOLVED, True, Reason.MODEL_FOUND)
    status = None if o.model.is_unknown else False
    return Finding(Type.MODEL_RESOLVED, status, o.model.reason, o.model.message)


def orders_accepted(o: Observed) -> Finding:
    """Whether pods take orders, as far as is known."""
    refusal = refusal_of(o)
    if not refusal:
        return Finding(Type.ORDERS_ACCEPTED, True, Reason.ORDERS_ACCEPTED)
    message = f"{refusal}; the next version comes with new pods"
    return Finding(Type.ORDERS_ACCEPTED, False, Reason.ORDERS_REFUSED, message)


def breaker_closed(plan: Plan) -> Finding:
    """Whether the program is executed."""
    breaker = plan.breaker
    if breaker is None or breaker.state == "Closed":
        return Finding(Type.BREAKER_CLOSED, True, Reason.CLOSED)
    return Finding(Type.BREAKER_CLOSED, False, Reason.BREAKER_OPEN, f"{breaker.state}: {breaker.reason}")


def feedback_delivered(o: Observed) -> Finding:
    """False while a pod says that what it keeps of predictions gets nowhere."""
    pods = [p for p in o.pods_of(o.active) if p.report and p.report.feedback and p.report.feedback.trouble]
    if not pods:
        return Finding(Type.FEEDBACK_DELIVERED, True, Reason.DELIVERED)
    report = pods[0].report
    trouble = report.feedback.trouble if report and report.feedback else ""
    return Finding(Type.FEEDBACK_DELIVERED, False, Reason.NOT_DELIVERED, f"{pods[0].name}: {trouble}")


def refs_resolved(o: Observed, plan: Plan) -> Finding:
    """Whether what the spec names exists, as far as the configuration and the pods tell."""
    if plan.problem and plan.problem[0] in UNRESOLVED:
        return Finding(Type.REFS_RESOLVED, False, *plan.problem)
    if o.model.reason == Reason.SECRET_NOT_FOUND:
        return Finding(Type.REFS_RESOLVED, False, Reason.SECRET_NOT_FOUND, o.model.message)
    # Pods of a revision that was abandoned lack for ever what its spec named.
    matter = (*o.pods_of(o.active), *(o.pods_of(plan.candidate.base) if plan.candidate else ()))
    for pod in matter:
        if pod.trouble and pod.trouble.reason == Reason.SECRET_NOT_FOUND:
            return Finding(Type.REFS_RESOLVED, False, Reason.SECRET_NOT_FOUND, pod.trouble.message)
    return Finding(Type.REFS_RESOLVED, True, Reason.REFS_FOUND)


def tool_uses_status(o: Observed) -> tuple[ToolUseStatus, ...]:
    """The tools that the spec lists, as they stand."""
    views = {view.key: view for view in o.tools}
    uses = ((use.name, views.get(use.tool)) for use in tool_uses(o.program))
    return tuple(_tool_use(name, view) for name, view in uses if view)


def _tool_use(name: str, view: ToolView) -> ToolUseStatus:
    if view.trouble:
        state, message = view.trouble
        return ToolUseStatus(name=name, state=state, message=message)
    available = next((c for c in view.status.conditions if c.type == Type.AVAILABLE), None)
    if available is None or available.status != "True":
        text = available.message if available else "its backends have not been looked at yet"
        return ToolUseStatus(name=name, state="Unavailable", message=text)
    return ToolUseStatus(name=name, state="Available")
