"""Manifests that ask for optimisations: a good one, and bad ones with what must be said of them."""

from __future__ import annotations

from typing import Any

GOLDEN = {"configMap": {"name": "golden", "key": "rows.jsonl"}}
BUDGET = {"maxLMCalls": 300}


def loop(feedback: dict[str, Any] | None = None, alias: str | None = "champion", **optimization: Any) -> dict[str, Any]:
    """The parts of a spec that are about the loop; without an alias, a version is pinned."""
    followed: dict[str, Any] = {"alias": alias} if alias else {"version": 3}
    return {
        "source": {"mlflow": {"model": "qa", **followed}},
        "feedback": feedback or {},
        "optimization": {"budget": BUDGET} | optimization,
    }


def trigger(kind: str, **settings: Any) -> dict[str, Any]:
    return loop(triggers=[{"name": "t", "type": kind, **settings}])


WHOLE = loop(
    modules=["classify", "steps[0]"],
    optimizer={"name": "my_code.optimizers:best", "seed": 7, "params": {"num_candidate_programs": 8}},
    metric="F1",
    triggers=[
        {"name": "failures", "type": "FailureRate", "failureRate": {"threshold": "0.05", "windowSeconds": 3600, "minLabels": 20}},
        {"name": "often", "type": "FailureRate"},
        {"name": "enough", "type": "Labels", "labels": {"count": 500}},
        {"name": "nightly", "type": "Schedule", "schedule": "0 3 * * *"},
    ],
    cooldownSeconds=0,
    budget={"maxLMCalls": 2000, "maxUSD": "5", "maxSeconds": 600, "maxLMCallsPerDay": 4000},
    dataset={"goldenRef": GOLDEN, "groupBy": ["customer"], "maxPercentPerSource": 5},
    promotion={"mode": "Auto", "significancePercent": 1, "minGainPercent": 2, "minExamples": 200},
    tools="Execute",
    requests="Enabled",
)  # fmt: skip
"""Everything that can be said."""

BAD: dict[str, tuple[dict[str, Any], str]] = {
    # what is wrong: the parts of the spec, what both the API server and the operator say
    "no feedback": ({**loop(), "feedback": None}, "optimization needs feedback that keeps payloads and goes to MLflow"),
    "feedback without payloads": (
        loop({"payloads": "None"}), "optimization needs feedback that keeps payloads and goes to MLflow"),
    "feedback into files": (
        loop({"sink": {"jsonLines": {"folder": "/data"}}}), "optimization needs feedback that keeps payloads and goes to MLflow"),
    "an alias of its own making": (
        loop(alias="candidate"), "optimization gives the alias candidate to what it finds"),
    "a promotion by itself that nothing from outside guards": (
        loop(promotion={"mode": "Auto"}), "optimization.promotion.mode Auto needs optimization.dataset.goldenRef"),
    "the same, with other settings of data": (
        loop(promotion={"mode": "Auto"}, dataset={"groupBy": ["a"]}), "mode Auto needs optimization.dataset.goldenRef"),
    "a promotion by itself without an alias": (
        loop(alias=None, promotion={"mode": "Auto"}, dataset={"goldenRef": GOLDEN}),
        "optimization.promotion.mode Auto moves source.mlflow.alias, and there is none"),
    "an unknown promotion": (loop(promotion={"mode": "Always"}), "promotion.mode"),
    "no significance": (loop(promotion={"significancePercent": 0}), "significancePercent"),
    "more than a whole gain": (loop(promotion={"minGainPercent": 101}), "minGainPercent"),
    "no examples to judge by": (loop(promotion={"minExamples": 0}), "minExamples"),
    "no budget": (loop(budget=None), "spec.optimization.budget"),
    "a budget of nothing": (loop(budget={"maxLMCalls": 0}), "budget.maxLMCalls"),
    "a budget of money alone": (loop(budget={"maxUSD": "5"}), "budget.maxLMCalls"),
    "a budget in floats": (loop(budget=BUDGET | {"maxUSD": 0.5}), "budget.maxUSD"),
    "a budget of a second": (loop(budget=BUDGET | {"maxSeconds": 1}), "budget.maxSeconds"),
    "a day without a call": (loop(budget=BUDGET | {"maxLMCallsPerDay": 0}), "budget.maxLMCallsPerDay"),
    "an optimiser of no known form": (loop(optimizer={"name": "GEPA"}), "optimizer.name"),
    "a seed of less than nothing": (loop(optimizer={"seed": -1}), "optimizer.seed"),
    "a metric of no known form": (loop(metric="Accuracy"), "optimization.metric"),
    "a golden set of two kinds": (
        loop(dataset={"goldenRef": GOLDEN | {"uri": "s3://x/y"}}), "exactly one of mlflow, configMap and uri"),
    "a golden set elsewhere": (
        loop(dataset={"goldenRef": {"configMap": {"name": "a/b", "key": "k"}}}), "goldenRef.configMap.name"),
    "all from one source": (loop(dataset={"maxPercentPerSource": 101}), "maxPercentPerSource"),
    "rows by too many inputs": (loop(dataset={"groupBy": ["a"] * 9}), "groupBy"),
    "too many modules": (loop(modules=["a"] * 33), "optimization.modules"),
    "a trigger of an unknown type": (trigger("Weather"), "type"),
    "a trigger without a name": (loop(triggers=[{"type": "FailureRate"}]), "name"),
    "a rate that no trigger looks at": (trigger("Labels", labels={"count": 1}, failureRate={}), "failureRate belongs to type FailureRate"),
    "a count of no trigger": (trigger("FailureRate", labels={"count": 1}), "labels belongs to type Labels"),
    "a moment of no trigger": (trigger("FailureRate", schedule="0 3 * * *"), "schedule belongs to type Schedule"),
    "labels, without saying how many": (trigger("Labels"), "labels belongs to type Labels, which needs it"),
    "a schedule, without saying when": (trigger("Schedule"), "schedule belongs to type Schedule, which needs it"),
    "a schedule with seconds": (trigger("Schedule", schedule="0 0 3 * * *"), "schedule"),
    "a schedule by its name": (trigger("Schedule", schedule="@daily"), "schedule"),
    "labels without a count": (trigger("Labels", labels={}), "labels.count"),
    "a rate of more than all": (trigger("FailureRate", failureRate={"threshold": "1.5"}), "failureRate.threshold"),
    "a rate in floats": (trigger("FailureRate", failureRate={"threshold": 0.1}), "failureRate.threshold"),
    "a window of a second": (trigger("FailureRate", failureRate={"windowSeconds": 1}), "failureRate.windowSeconds"),
    "more triggers than there may be": (
        loop(triggers=[{"name": f"t{n}", "type": "FailureRate"} for n in range(9)]), "optimization.triggers"),
    "a pause of less than nothing": (loop(cooldownSeconds=-1), "cooldownSeconds"),
    "tools of maybe": (loop(tools="Ask"), "optimization.tools"),
    "requests of maybe": (loop(requests="Yes"), "optimization.requests"),
    "what nobody knows": (loop(teacher="gpt"), "teacher"),
}  # fmt: skip
