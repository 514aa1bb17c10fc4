"""The gates of a prepared version, one after the other. What a gate found is read off pods and Jobs, each time anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from despina.api.conditions import Reason
from despina.api.gates import Evaluate, Gate, SchemaCompatibility, Shadow, Smoke
from despina.api.revision import Revision, digest, runtime_config, tool_uses
from despina.api.status import GateStatus, ProgramStatus, RolloutStatus, Score
from despina.decide.observed import JobView, Observed
from despina.decide.plan import Action, Clock, Create, Delete, Tell
from despina.decide.prepare import profile_of
from despina.decide.quarantine import parse_timestamp, timestamp
from despina.decide.schema import incompatibilities
from despina.decide.situation import Situation, holds
from despina.decide.watch import p95_millis
from despina.desired.evaluation import Evaluation, build_evaluation, evaluation_config, evaluation_name, is_compared
from despina.desired.network import preview_name
from despina.wire import EvaluationResult, RuntimeConfig, ShadowConfig, ShadowReport

REASONS = {
    "Smoke": Reason.SMOKE_FAILED,
    "SchemaCompatibility": Reason.SCHEMA_INCOMPATIBLE,
    "Evaluate": Reason.EVALUATION_FAILED,
    "Shadow": Reason.SHADOW_FAILED,
}


@dataclass(frozen=True)
class Verdict:
    """What is known of a gate: passed, failed, or (None) not yet; and what must be done to know more."""

    passed: bool | None
    message: str = ""
    actions: tuple[Action, ...] = ()
    score: Score | None = None
    is_under_way: bool = True
    """Otherwise the gate's time stands: what it needs cannot be made yet."""


@dataclass(frozen=True)
class Gates:
    """All gates of one candidate so far."""

    states: tuple[GateStatus, ...] = ()
    actions: tuple[Action, ...] = ()
    news: tuple[GateStatus, ...] = field(default=())
    """Those that were decided just now."""
    refusal: str = ""
    """Why they cannot be passed as the manifest is: none is judged then."""

    @property
    def failed(self) -> GateStatus | None:
        """The gate that stopped the candidate."""
        return next((s for s in self.states if s.result == "Failed"), None)

    @property
    def running(self) -> GateStatus | None:
        """The gate it stands at."""
        return next((s for s in self.states if s.result == "Running"), None)

    @property
    def makes(self) -> bool:
        """Whether something is made for it: that wakes the next pass, or a refusal says when to try again."""
        return any(isinstance(action, Create) for action in self.actions)


def pass_gates(r: Situation, candidate: Revision) -> Gates:
    """How far a prepared candidate gets. What was found with other settings, and the time that took, do not count."""
    known = {s.name: s for s in r.earlier.gates} if r.earlier else {}
    states: list[GateStatus] = []
    news: list[GateStatus] = []
    for n, gate in enumerate(r.policy.gates):
        status = _judged_by(gate, known.get(gate.name))
        if status and status.result == "Passed":
            states.append(status)
            continue
        started = parse_timestamp(status.started_at, r.now) if status else r.now
        clock = clock_of(status, r.now) if status else Clock()
        verdict = _judge(r, candidate, gate, clock.elapsed(r.now))
        clock = clock.running(r.now) if verdict.is_under_way else clock.stopped(r.now)
        states.append(_status(gate, verdict, started, clock, r.now))
        if verdict.passed is None:
            states += _later(r, known, r.policy.gates[n + 1 :])
            return Gates(tuple(states), verdict.actions, tuple(news))
        news.append(states[-1])
        if not verdict.passed:
            break
    return Gates(tuple(states), news=tuple(news))


def _judged_by(gate: Gate, status: GateStatus | None) -> GateStatus | None:
    """What is known of a gate with its present settings."""
    is_its_own = status and status.type == gate.type and status.settings in (None, settings_of(gate))
    return status if is_its_own else None


def side_effects(r: Situation) -> str:
    """Why the candidate cannot pass the gates as the manifest is: one of those that are left would have NonIdempotent
    tools executed, and does not say that it may."""
    known = {s.name: s for s in r.earlier.gates} if r.earlier else {}
    for gate in r.policy.gates:
        status, trial = _judged_by(gate, known.get(gate.name)), gate.trial
        if trial is None or trial[1] == "Execute" or (status and status.result == "Passed"):
            continue
        if tools := sorted(_unsafe(r, gate)):
            which = f"{', '.join(tools)} executed, which {'is' if len(tools) == 1 else 'are'} NonIdempotent"
            return f"{trial[0]}: the gate would have {which}; set it to Execute to have that done, or take the gate out"
    return ""


def _unsafe(r: Situation, gate: Gate) -> set[str]:
    """The NonIdempotent tools of what a gate executes: the candidate, and what it is compared with in an evaluation."""
    baseline = _baseline(r, gate)
    uses = {use.tool for use in (*tool_uses(r.o.program), *(baseline.tools if baseline else ()))}
    tools = {v.key: v.tool.spec.contract for v in r.o.tools if v.tool and not v.trouble}
    return {key for key, contract in tools.items() if key in uses and contract.idempotency == "NonIdempotent"}


def settings_of(gate: Gate) -> str:
    """A digest of what a gate asks for. How long it may take changes nothing that was found."""
    return digest(gate.model_dump(mode="json", exclude_defaults=True, exclude={"name", "timeout_seconds"}))


def _later(r: Situation, known: Mapping[str, GateStatus], gates: tuple[Gate, ...]) -> Iterator[GateStatus]:
    """What is known of gates behind the one where the candidate stands: one before them was changed, or is new."""
    there = ((known.get(gate.name), gate.type) for gate in gates)
    return (standing(r, status) for status, kind in there if status and status.type == kind)


def standing(r: Situation, status: GateStatus) -> GateStatus:
    """A gate that nobody judges for now. Its time stands still, but its Job goes on, and what that found is noted while
    the Job is there."""
    gate = next((g for g in r.policy.gates if g.name == status.name and g.type == "Evaluate"), None)
    score = _score(r, r.wanted, gate) if gate and r.wanted else None
    return held_up(status, r.now).model_copy(update={"score": score or status.score})


def unjudged(r: Situation, known: tuple[GateStatus, ...]) -> tuple[GateStatus, ...]:
    """How the gates stand while nobody judges them. A Job may have ended of which the status did not tell yet."""
    names = {status.name for status in known}
    new = [g for g in r.policy.gates if g.type == "Evaluate" and g.name not in names]
    found = [(gate, score) for gate in new if r.candidate and (score := _score(r, r.candidate, gate))]
    late = (_status(gate, Verdict(None, score=score), r.now, Clock(), r.now) for gate, score in found)
    return (*(standing(r, status) for status in known), *late)


def clock_of(status: GateStatus | RolloutStatus, now: float) -> Clock:
    """How much of its time a gate, or a candidate that becomes ready, has used up."""
    return Clock(status.spent_seconds, parse_timestamp(status.since, now) if status.since else None)


def watched_since(status: ProgramStatus, began: float) -> ProgramStatus:
    """The same, with all clocks that run begun anew when this operator process was: nobody saw what came before, and
    what nobody could have seen or done fails no version."""
    rollout = status.rollout
    if rollout is None:
        return status
    gates = tuple(gate.model_copy(update={"since": _no_sooner(gate.since, began)}) for gate in rollout.gates)
    seen = {"since": _no_sooner(rollout.since, began), "gates": gates}
    return status.model_copy(update={"rollout": rollout.model_copy(update=seen)})


def _no_sooner(since: str | None, began: float) -> str | None:
    at = parse_timestamp(since, math.nan)  # of what cannot be read nobody knows how long it is ago: not at all, then
    return None if math.isnan(at) else timestamp(max(at, began))


def held_up(status: GateStatus, now: float) -> GateStatus:
    """A gate that nobody looks at for now: its time stands still."""
    if status.since is None:
        return status
    return status.model_copy(update={"since": None, "spent_seconds": int(clock_of(status, now).elapsed(now))})


def _judge(r: Situation, candidate: Revision, gate: Gate, elapsed: float) -> Verdict:
    verdict = JUDGES[gate.type](r, candidate, gate)
    if verdict.passed is None and elapsed >= gate.timeout_seconds:
        so_far = f": {verdict.message}" if verdict.message else ""
        return Verdict(False, f"no result within {gate.timeout_seconds} s{so_far}")
    return verdict


def _status(gate: Gate, verdict: Verdict, started: float, clock: Clock, now: float) -> GateStatus:
    results = {None: "Running", True: "Passed", False: "Failed"}
    is_over = verdict.passed is not None
    return GateStatus(
        name=gate.name,
        type=gate.type,
        result=results[verdict.passed],
        message=verdict.message,
        started_at=timestamp(started),
        finished_at=timestamp(now) if is_over else None,
        since=None if is_over or clock.since is None else timestamp(clock.since),
        spent_seconds=int(clock.spent),
        settings=settings_of(gate),
        score=verdict.score,
    )


def smoke(r: Situation, candidate: Revision, gate: Gate) -> Verdict:
    """One pod is asked once."""
    policy = gate.smoke or Smoke(inputs={})
    subject = f"{candidate.hash}:{gate.name}-{digest([policy.inputs, policy.tools, timestamp(r.started_at)])}"
    pods = r.o.ready_pods(candidate.base)
    for pod in pods:
        if pod.report and (found := pod.report.tries.get(subject)):
            return Verdict(found.ok, found.message)
    able = next((p for p in pods if holds(p, candidate.hash)), None)
    if able is None or able.has_been_told("Try", subject):
        return Verdict(None, "waiting for the answer")
    return Verdict(None, "asked", (Tell(able, "Try", subject, inputs=policy.inputs, tools=policy.tools),))


def schema_compatibility(r: Situation, candidate: Revision, gate: Gate) -> Verdict:
    """Both interfaces are compared."""
    if not has_answered(r):
        return Verdict(True, "nothing has served yet that callers could depend on")
    before, after = r.o.interfaces.get(r.o.serving or ""), r.o.interfaces.get(candidate.hash)
    if before is None and r.recreates and not r.o.ready(r.o.active):
        return Verdict(True, "what served has ended, and nobody is left who could say what callers depend on")
    if before is None or after is None:
        return Verdict(None, "waiting for the pods to say what they take and give")
    found = incompatibilities(before, after)
    mode = (gate.schema_compatibility or SchemaCompatibility()).mode
    return Verdict(not found or mode == "Any", "; ".join(found) or "callers need not change anything")


def evaluate(r: Situation, candidate: Revision, gate: Gate) -> Verdict:
    """A Job scores both versions."""
    policy = gate.evaluate
    if policy is None:
        return Verdict(False, "it has no settings")
    score = _score(r, candidate, gate)
    result = score.result() if score else None
    if result:
        return replace(_scored(policy, result, _baseline(r, gate) is not None), score=score)
    names = _job_names(r, candidate, gate)
    job = next(filter(None, (_found(r, name) for name in names)), None)
    if job is None:
        making = _job(r, candidate, gate, policy, names[-1])
        return Verdict(None, "the Job is being made", (making,), is_under_way=False)
    return Verdict(None, job.progress or job.trouble or f"Job {job.name} is starting")


def _job_names(r: Situation, candidate: Revision, gate: Gate) -> list[str]:
    """The Jobs that may answer the gate; the last is made where there is none. What serves may be gone for a while, as
    when somebody deletes its Deployment: one that has not compared is then no answer once it is there again, and one
    that has stays an answer."""
    ways = [True] if _baseline(r, gate) else [True, False] if is_compared(gate) else [False]
    return [evaluation_name(r.o.program, gate, candidate.hash, timestamp(r.started_at), way) for way in ways]


def _found(r: Situation, name: str) -> JobView | None:
    return next((job for job in r.o.jobs if job.name == name), None)


def _score(r: Situation, candidate: Revision, gate: Gate) -> Score | None:
    """What was found."""
    return next(filter(None, (_score_of(r, name) for name in _job_names(r, candidate, gate))), None)


def _score_of(r: Situation, name: str) -> Score | None:
    """As the Job says or, once that is gone, the status: whichever gate's it is, nothing is computed twice."""
    job = _found(r, name)
    found = _outcome(job) if job else None
    if found:
        return Score.of(name, found)
    noted = r.earlier.gates if r.earlier else ()
    return next((s.score for s in noted if s.score and s.score.job == name), None)


def _outcome(job: JobView) -> EvaluationResult | None:
    """How it ended, if it did."""
    if job.result or not job.ended:
        return job.result
    why = f": {job.trouble}" if job.trouble else ""
    return EvaluationResult(error=f"Job {job.name} ended without a result{why}; see its log")


def abandoned(r: Situation) -> Iterator[Action]:
    """End evaluations that the candidate does not need: they cost money. Whether the status tells of one yet is no
    matter; the write that should have noted it may be lost."""
    needed = {name for gate in r.policy.gates if r.candidate for name in _job_names(r, r.candidate, gate)}
    for job in r.o.jobs:
        if not job.ended and job.name not in needed:
            yield Delete(("Job", job.name))


def _job(r: Situation, candidate: Revision, gate: Gate, policy: Evaluate, name: str) -> Action:
    config = runtime_config(r.o.program, candidate)
    evaluation = Evaluation(name, gate, evaluation_config(policy, config, _baseline(r, gate)))
    return Create(build_evaluation(r.o.program, evaluation, profile_of(r.o), r.o.defaults.runtime_image))


def _baseline(r: Situation, gate: Gate) -> RuntimeConfig | None:
    """What serves, where an evaluation scores it beside the candidate."""
    active = r.active
    serving = (active.loading.config if active.loading else active.config) if active else None
    return serving if is_compared(gate) and has_answered(r) else None


def has_answered(r: Situation) -> bool:
    """Whether callers were ever answered where they are now."""
    return r.active is not None and r.active.activated_at is not None


def _scored(policy: Evaluate, result: EvaluationResult, is_compared: bool) -> Verdict:
    """What a score means; `is_compared` says whether there is a version that serves to compare with."""
    if result.error is not None or result.score_percent is None or result.examples < 1:
        return Verdict(False, result.error or "there is no score")
    gain, why = _gain(result) if policy.is_paired else "", _too_low(policy, result)
    if not why and policy.is_paired and is_compared:
        why = _no_better(policy, result)
    return Verdict(not why, "; ".join(filter(None, (_figures(result), gain, why))))


def _figures(result: EvaluationResult) -> str:
    score, baseline = result.score_percent, result.baseline_percent
    text = f"score {score:.1f} %" + (f", {baseline:.1f} % now" if baseline is not None else "")
    text += f", on {result.examples} examples" + (f", {result.failed} unanswered" if result.failed else "")
    return text + (f", {result.cost_usd:.4f} USD" if result.cost_usd else "")


def _gain(result: EvaluationResult) -> str:
    """What a paired test says, and where its scores can be read example by example."""
    score, baseline, low, high = (
        result.score_percent, result.baseline_percent, result.gain_low_percent, result.gain_high_percent,
    )  # fmt: skip
    text = f"gain {score - baseline:+.1f} points" if score is not None and baseline is not None else ""
    text += f" (95 % interval {low:+.1f} to {high:+.1f})" if text and low is not None and high is not None else ""
    p, run = f"p {result.p:.2g}" if result.p is not None else "", f"MLflow run {result.run}" if result.run else ""
    return ", ".join(filter(None, (text, p, run)))


def _too_low(policy: Evaluate, result: EvaluationResult) -> str:
    score, baseline = result.score_percent or 0.0, result.baseline_percent
    if policy.min_score_percent is not None and score < policy.min_score_percent:
        return f"at least {policy.min_score_percent} % is asked for"
    allowed = policy.max_regression_percent
    if allowed is not None and baseline is not None and score < baseline - allowed:
        return f"at most {allowed} points less are allowed"
    return ""


def _no_better(policy: Evaluate, result: EvaluationResult) -> str:
    """Why a paired test is not passed. A p without both means, or against them, proves nothing."""
    score, baseline = result.score_percent, result.baseline_percent
    if result.p is None or score is None or baseline is None:
        return "it was not compared with the version that serves example by example, which test Paired needs"
    if result.examples < policy.fewest:
        return f"test Paired needs at least {policy.fewest} examples"
    if score <= baseline:
        return "it is no better than the version that serves"
    if result.p > policy.significance:
        return f"chance may explain the gain: p must be at most {policy.significance:.2f}"
    return ""


def shadow(r: Situation, candidate: Revision, gate: Gate) -> Verdict:
    """The active pods ask it what they are asked."""
    policy = gate.shadow or Shadow()
    wanted = shadow_of(r, candidate, policy)
    reports = [p.report.shadow for p in r.o.ready_pods(r.o.active) if p.report and p.report.shadow]
    reports = [s for s in reports if s.revision == candidate.hash]
    verdict = _compared(policy, reports)
    if verdict.passed is not None:
        return verdict
    return Verdict(None, verdict.message, tuple(_mirrored(r.o, wanted)))


def shadow_of(r: Situation, candidate: Revision, policy: Shadow) -> ShadowConfig:
    """What the active pods are told."""
    url = None if r.swaps else f"http://{preview_name(r.o.program)}.{r.o.program.namespace}/execute"
    return ShadowConfig(revision=candidate.hash, percent=policy.percent, url=url, tools=policy.tools)


def _mirrored(o: Observed, wanted: ShadowConfig) -> Iterator[Action]:
    for pod in o.ready_pods(o.active):
        mirrors = pod.report.shadow.revision if pod.report and pod.report.shadow else None
        if pod.report and mirrors != wanted.revision and not pod.has_been_told("Shadow", wanted.revision):
            yield Tell(pod, "Shadow", wanted.revision, shadow=wanted)


def unmirrored(o: Observed) -> Iterator[Action]:
    """End what no gate needs any more."""
    for pod in o.pods:
        if pod.report and pod.report.shadow and not pod.has_been_told("Shadow"):
            yield Tell(pod, "Shadow")


def _compared(policy: Shadow, reports: list[ShadowReport]) -> Verdict:
    asked, failed = sum(s.mirrored for s in reports), sum(s.failed for s in reports)
    text = f"{asked} of {policy.min_requests} requests mirrored"
    if asked < policy.min_requests:
        return Verdict(None, text)
    agreed = 100 * sum(s.agreed for s in reports) / max(1, asked - failed)
    live, mirrored = (_p95(reports, name) for name in ("live_seconds", "seconds"))
    text = f"{asked} requests mirrored: {failed} failed, {agreed:.0f} % agree, 95th percentile {mirrored:.0f} ms"
    text += f" beside {live:.0f} ms"
    if 100 * failed > policy.max_error_rate_percent * asked:
        return Verdict(False, f"{text}; at most {policy.max_error_rate_percent} % may fail")
    if agreed < policy.min_agreement_percent:
        return Verdict(False, f"{text}; at least {policy.min_agreement_percent} % must agree")
    limit = policy.max_latency_increase_percent
    if limit is not None and mirrored > live * (1 + limit / 100):
        return Verdict(False, f"{text}; at most {limit} % more is allowed")
    return Verdict(True, text)


def _p95(reports: list[ShadowReport], name: str) -> float:
    return p95_millis(map(sum, zip(*(getattr(s, name) for s in reports), strict=False))) or 0.0


JUDGES: dict[str, Callable[[Situation, Revision, Gate], Verdict]] = {
    "Smoke": smoke,
    "SchemaCompatibility": schema_compatibility,
    "Evaluate": evaluate,
    "Shadow": shadow,
}
