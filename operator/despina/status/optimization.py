"""What is said of optimisations in conditions and columns."""

from __future__ import annotations

from collections.abc import Iterator

from despina.api.conditions import Reason, Type
from despina.api.runs import OptimizationStatus
from despina.api.status import RolloutStatus
from despina.decide.observed import Observed
from despina.decide.plan import Plan
from despina.decide.versions import ENDED
from despina.status.conditions import Finding

GAVE_NOTHING = ("Failed", "Lost")
KIND = Type.OPTIMIZATION_HEALTHY


def step_in_words(rollout: RolloutStatus | None, optimization: OptimizationStatus | None) -> str | None:
    """What is under way, the rollout first, for callers reach what it leads to."""
    if rollout and rollout.step not in ENDED:
        return rollout.step
    if optimization and optimization.run and optimization.phase == "Running":
        return f"Optimize {optimization.run.progress}".strip()
    return rollout.step if rollout else None


def optimization_healthy(o: Observed, plan: Plan) -> Finding:
    """Whether labels can be counted, runs begun, and the last one gave a result."""
    found = plan.optimization
    if found is None or o.program.spec.optimization is None:
        return Finding(KIND, True, Reason.OPTIMIZATION_HEALTHY)
    if found.labels.problem:
        return Finding(KIND, False, Reason.LABELS_UNREADABLE, found.labels.problem)
    if o.mark_trouble:
        return Finding(KIND, False, Reason.ALIAS_NOT_MOVED, o.mark_trouble)
    run = found.run
    if run and run.reason in GAVE_NOTHING:
        return Finding(KIND, False, Reason.OPTIMIZATION_FAILED, run.message)
    if found.phase == "BudgetSpent":
        return Finding(KIND, False, Reason.BUDGET_SPENT, found.message)
    return Finding(KIND, True, Reason.OPTIMIZATION_HEALTHY, found.message)


def optimization_in_words(plan: Plan) -> Iterator[str]:
    """What a person would say of optimisations; nothing where there is nothing to say."""
    found = plan.optimization
    if found is None:
        return
    run = found.run
    if found.phase == "Running" and run:
        done = run.progress or "it begins"
        yield f"an optimisation of version {run.base_version} is under way ({run.trigger}): {done}."
    elif found.phase != "Idle":
        yield f"an optimisation is asked for and waits: {found.message}."
    elif found.message:
        yield f"{found.message}."
    if found.labels.problem:
        yield f"labels cannot be counted: {found.labels.problem}."
    if run and run.reason in GAVE_NOTHING:
        yield f"the last optimisation gave nothing: {run.message}."
