"""What is known of optimisations that were begun: off their Jobs, and from the status once these are gone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from despina.api.optimization import Optimization
from despina.api.revision import source_digest
from despina.api.runs import ComparisonStatus, OptimizationRun
from despina.decide.observed import OptimizationJobView, Vote
from despina.decide.plan import Action, Delete
from despina.decide.quarantine import LAST_MOMENT, parse_timestamp, timestamp
from despina.decide.situation import Situation
from despina.decide.sizing import asleep
from despina.decide.versions import served_model
from despina.wire import ModelRef, OptimizationResult

DAY_SECONDS = 86400.0
HELDOUT_IS_A = 5
"""One of so many rows is held out (`despina_runtime.optimization.datasets`)."""
NOTED = {
    "job", "trigger", "asked", "modules", "base_version", "base_revision", "base_source", "labels_until",
    "budget_lm_calls", "started_at",
}  # fmt: skip
LEFT_NOTHING = ("Lost", "Superseded", "Cancelled", "Unjudged")
"""Runs that ended without a word on their labels: these count again."""
MAY_BE_REPEATED = (*LEFT_NOTHING, "Failed")
"""What somebody who asks for it gets once more; anything else would only be the same again."""


def known_runs(r: Situation) -> tuple[OptimizationRun, ...]:
    """All runs that are known of, the latest first: off their Jobs, else as the status has them."""
    before = r.o.status.optimization
    noted = {run.job: run for run in ((before.run,) if before and before.run else ())}
    noted |= {run.job: run for run in (before.earlier if before else ()) if run.job not in noted}
    views = {view.name: view for view in r.o.optimizations}
    found = [_told(noted.get(view.name) or _as_begun(view.run), view, r.now) for view in views.values()]
    found += [_without_job(run, r.now) for run in noted.values() if run.job not in views]
    ordered = sorted(found, key=lambda run: (run.finished_at is None, run.started_at), reverse=True)
    return tuple(ordered)


def _with(run: OptimizationRun, **what: object) -> OptimizationRun:
    """The same with other fields, cut to the room that a status has: some were written by pods."""
    return OptimizationRun.model_validate(run.model_dump() | what)


def _as_begun(run: OptimizationRun) -> OptimizationRun:
    """Of what stands on a Job, what was noted when it was made: the rest is for its pod to say."""
    begun = run.model_dump(include=NOTED)
    return OptimizationRun.model_validate(begun)


def _told(run: OptimizationRun, view: OptimizationJobView, now: float) -> OptimizationRun:
    """A run with what its Job says; what was noted at its end stays."""
    if run.finished_at is not None:
        return run
    if view.result is None and not view.ended:
        return _with(run, progress=view.progress or run.progress, message=view.trouble)
    at = timestamp(view.finished_at or now)
    if view.result is None:
        text = f"Job {view.name} ended without a result: {view.trouble or 'it left no word'}; see its log"
        return _with(run, finished_at=at, reason="Lost", message=text)
    return _with(run, finished_at=at, **_found(view.result))


def _found(result: OptimizationResult) -> dict[str, object]:
    """A result as it stands in a status."""
    return {
        "reason": "Failed" if result.error is not None else result.reason or "Lost",
        "message": result.error if result.error is not None else result.message,
        "candidate_version": result.candidate_version,
        "dataset_digest": result.dataset_digest[:8] or None,
        "heldout": ComparisonStatus.of(result.heldout),
        "golden": ComparisonStatus.of(result.golden),
        "lm_calls": result.lm_calls,
        "cost_usd": f"{result.cost_usd:.4f}",
    }


def _without_job(run: OptimizationRun, now: float) -> OptimizationRun:
    if run.finished_at is not None:
        return run
    return _with(run, finished_at=timestamp(now), reason="Lost", message="its Job is gone")


def running(runs: Sequence[OptimizationRun]) -> OptimizationRun | None:
    """The one under way."""
    return next((run for run in runs if run.finished_at is None), None)


def without_needless(
    r: Situation, policy: Optimization | None, runs: tuple[OptimizationRun, ...]
) -> tuple[tuple[OptimizationRun, ...], list[Action]]:
    """The runs, and what ends those that nobody needs any more: they cost money."""
    actions: list[Action] = []
    after, under_way = [], {view.name for view in r.o.optimizations if not (view.ended or view.result)}
    for run in runs:
        why = _needless(r, policy, run) if run.finished_at is None else None
        if why:
            actions.append(Delete(("Job", run.job)))
            run = _with(run, finished_at=timestamp(r.now), reason=why[0], message=why[1])
        elif run.finished_at and run.job in under_way:  # it was to be ended, and that was refused
            actions.append(Delete(("Job", run.job)))
        after.append(run)
    return tuple(after), actions


def _needless(r: Situation, policy: Optimization | None, run: OptimizationRun) -> tuple[str, str] | None:
    if policy is None:
        return "Cancelled", "the manifest has no optimization any more"
    if sleeps := asleep(r.o.program.spec):
        return "Cancelled", sleeps
    serves = served_model(r.o)
    if serves is not None and not _is_base(run, serves):
        return "Superseded", f"version {serves.version} serves by now"
    return None


def _is_base(run: OptimizationRun, model: ModelRef) -> bool:
    """Whether a version is the one that a run shall make better. A number is no identity, but may be all there is."""
    return run.base_version == model.version and run.base_source in (None, source_digest(model))


def new_votes(r: Situation, runs: Sequence[OptimizationRun]) -> tuple[Vote, ...]:
    """Those that no run has used yet."""
    used = max((run.labels_until for run in runs if run.reason not in LEFT_NOTHING), default=0)
    return tuple(vote for vote in (r.o.labels.votes if r.o.labels else ()) if vote.at * 1000 > used)


def too_few(policy: Optimization, votes: Sequence[Vote]) -> str:
    """Why a run could judge nothing, and would use up labels for that; empty where it may. Of all rows a fifth is held
    out, and no label is more than one row."""
    needed = HELDOUT_IS_A * policy.promotion.min_examples
    if len(votes) >= needed:
        return ""
    return f"{len(votes)} labels are there, and {policy.promotion.min_examples} held-out rows take {needed} at least"


def begun_since(r: Situation, runs: Sequence[OptimizationRun]) -> float:
    """From when on a schedule counts: the last run's beginning, or when callers came to what serves."""
    begun = [parse_timestamp(run.started_at) for run in runs]
    return min(r.now, max([*begun, served_since(r)]))


def served_since(r: Situation) -> float:
    """When callers came to what serves; now, if they did not."""
    return r.active.activated_at if r.active and r.active.activated_at else r.now


def cooldown_left(policy: Optimization, runs: Sequence[OptimizationRun], now: float) -> float:
    """Seconds until a run may begin by itself."""
    ended = max((min(now, parse_timestamp(run.finished_at)) for run in runs if run.finished_at), default=-math.inf)
    return ended + policy.cooldown_seconds - now


def budget_spent(policy: Optimization, runs: Sequence[OptimizationRun], now: float) -> str:
    """Why another run may cost more than the day's budget has left; empty where it may not."""
    recent = [run for run in runs if _is_of_today(run, now)]
    spent = sum(run.budget_lm_calls if run.lm_calls is None else run.lm_calls for run in recent)
    if spent + policy.budget.max_lm_calls <= policy.budget.a_day:
        return ""
    return f"{spent} of {policy.budget.a_day} LM calls of the last 24 hours are spent, and a run may take" + (
        f" {policy.budget.max_lm_calls}"
    )


def _is_of_today(run: OptimizationRun, now: float) -> bool:
    return now - parse_timestamp(run.finished_at, now) < DAY_SECONDS


def newest(r: Situation) -> int:
    """When the last label was given, in milliseconds since the epoch."""
    votes = r.o.labels.votes if r.o.labels else ()
    return math.ceil(1000 * min(max((vote.at for vote in votes), default=0.0), LAST_MOMENT))
