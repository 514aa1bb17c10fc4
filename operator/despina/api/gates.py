"""What a new version must pass before callers reach it, and how it is watched afterwards."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from despina.api.base import ApiModel, DataKey, LongStr, NameStr, ObjectName, Preserved, ShortStr, rule, rules
from despina.api.serving import DecimalStr
from despina.wire import TrialTools

Percent = Annotated[int, Field(ge=0, le=100)]
Metric = Annotated[
    str,
    StringConstraints(
        pattern=r"^(ExactMatch|F1|Contains|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$", max_length=253
    ),
]
PAIRED = {"significancePercent": "significance_percent", "minExamples": "min_examples"}
"""What only a paired test asks for. None of it has a default of its own, which would stand beside a test of means."""
PAIRED_SIGNIFICANCE = 5
PAIRED_EXAMPLES = 50
"""As many as maxExamples is by default, so that a gate that says no more than `test: Paired` can be passed."""


class Smoke(ApiModel):
    """Ask the version once."""

    inputs: Preserved
    """The program's inputs; the answer must fit its signature."""
    tools: TrialTools = "Refuse"
    """Refuse: no tool that is NonIdempotent is executed, and a version whose tools include one waits before this gate.
    Execute: they are executed for it."""


class SchemaCompatibility(ApiModel):
    """Compare the interface with that of the version that serves."""

    mode: Literal["Backward", "Any"] = "Backward"
    """Backward: no output is dropped, no input becomes required, and no type is narrowed for callers. Any: only
    report."""


class ConfigMapKey(ApiModel):
    """One key of a ConfigMap in the program's namespace."""

    name: ObjectName
    """The ConfigMap's name."""
    key: DataKey
    """The key within it; its value is JSON Lines."""


class MlflowDataset(ApiModel):
    """An MLflow evaluation dataset."""

    name: ShortStr
    """Its name on the program's MLflow server."""


class Dataset(ApiModel):
    """Examples: JSON Lines, each `{"INPUT": ..., "OUTPUT": ...}` or `{"inputs": {...}, "expectations": {...}}`."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "[has(self.mlflow), has(self.configMap), has(self.uri)].filter(x, x).size() == 1",
            "datasetRef: set exactly one of mlflow, configMap and uri",
        )
    )

    mlflow: MlflowDataset | None = None
    """An MLflow evaluation dataset."""
    config_map: ConfigMapKey | None = None
    """A ConfigMap of the namespace."""
    uri: LongStr | None = None
    """An artifact that MLflow's client can fetch: runs:/…, models:/…, s3://…, mlflow-artifacts:/…"""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if sum(x is not None for x in (self.mlflow, self.config_map, self.uri)) != 1:
            raise ValueError("datasetRef: set exactly one of mlflow, configMap and uri")
        return self


class Evaluate(ApiModel):
    """Score the version on a dataset, in a Job."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *(
                rule(f"self.test == 'Paired' || !has(self.{name})", f"evaluate: {name} belongs to test Paired")
                for name in PAIRED
            ),
            rule(
                f"self.test != 'Paired' || (has(self.minExamples) ? self.minExamples : {PAIRED_EXAMPLES})"
                " <= self.maxExamples",
                f"evaluate: minExamples ({PAIRED_EXAMPLES} when left out) must not be more than maxExamples",
            ),
        )
    )

    dataset_ref: Dataset
    """The examples."""
    metric: Metric = "ExactMatch"
    """ExactMatch, F1 (of words) or Contains over the expected fields, or `package.module:function` of the model's code,
    which is called like any DSPy metric: (example, prediction)."""
    min_score_percent: Percent | None = None
    """The least mean score, in percent."""
    max_regression_percent: Percent | None = None
    """How many points less than the version that serves, scored on the same examples in the same Job."""
    test: Literal["Mean", "Paired"] = "Mean"
    """Mean: the mean scores alone count. Paired: it must also be better than the version that serves by more than
    chance explains, example by example: by a one-sided mid-p McNemar test where all scores are 0 or 1, else by a paired
    permutation test. Where nothing has served yet, there is nothing to be better than."""
    significance_percent: Annotated[int, Field(ge=1, le=50)] | None = None
    """With test Paired: how often a version that is no better may pass, in percent; 5 when left out."""
    min_examples: Annotated[int, Field(ge=1, le=10000)] | None = None
    """With test Paired: the fewest examples that it is judged on; 50 when left out."""
    max_examples: Annotated[int, Field(ge=1, le=10000)] = 50
    """How many of the examples are used, from the first on."""
    budget_usd: DecimalStr | None = Field(default=None, alias="budgetUSD")
    """What the evaluation may cost by the LMs' prices; it fails when it would cost more."""
    tools: TrialTools = "Refuse"
    """Refuse: no tool that is NonIdempotent is executed, and a version whose tools include one waits before this gate.
    Execute: they are executed, for each example and each version."""

    @property
    def is_paired(self) -> bool:
        """Whether chance must not explain that it is better."""
        return self.test == "Paired"

    @property
    def significance(self) -> float:
        """What p may be at most, as a fraction."""
        return (PAIRED_SIGNIFICANCE if self.significance_percent is None else self.significance_percent) / 100

    @property
    def fewest(self) -> int:
        """How many examples a paired test needs."""
        return PAIRED_EXAMPLES if self.min_examples is None else self.min_examples

    @model_validator(mode="after")
    def _of_its_test(self) -> Self:
        for name, field in PAIRED.items():
            if getattr(self, field) is not None and not self.is_paired:
                raise ValueError(f"evaluate: {name} belongs to test Paired")
        if self.is_paired and self.fewest > self.max_examples:
            raise ValueError(f"evaluate: minExamples ({self.fewest}) must not be more than maxExamples")
        return self


class Shadow(ApiModel):
    """Ask the version a part of what callers ask, without their noticing."""

    percent: Annotated[int, Field(ge=1, le=100)] = 10
    """How many of the live requests that are executed."""
    min_requests: Annotated[int, Field(ge=1, le=100000)] = 20
    """How many must have been asked before it is judged."""
    max_error_rate_percent: Percent = 5
    """How many may fail that the serving version answered."""
    min_agreement_percent: Percent = 0
    """How many answers must equal those that callers got."""
    max_latency_increase_percent: Annotated[int, Field(ge=0, le=10000)] | None = None
    """How much longer the 95th percentile may be."""
    tools: TrialTools = "Refuse"
    """Refuse: no tool that is NonIdempotent is executed, and a version whose tools include one waits before this gate.
    Execute: they are executed a second time, for each request that is mirrored."""


KINDS = {
    "Smoke": "smoke", "SchemaCompatibility": "schema_compatibility", "Evaluate": "evaluate", "Shadow": "shadow",
}  # fmt: skip


class Gate(ApiModel):
    """One gate; the settings stand under the type's own name."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("(self.type == 'Smoke') == has(self.smoke)", "gates[]: smoke belongs to type Smoke, which needs it"),
            rule(
                "self.type == 'SchemaCompatibility' || !has(self.schemaCompatibility)",
                "gates[]: schemaCompatibility belongs to type SchemaCompatibility",
            ),
            rule(
                "(self.type == 'Evaluate') == has(self.evaluate)",
                "gates[]: evaluate belongs to type Evaluate, which needs it",
            ),
            rule("self.type == 'Shadow' || !has(self.shadow)", "gates[]: shadow belongs to type Shadow"),
        )
    )

    name: NameStr
    """A name of your own."""
    type: Literal["Smoke", "SchemaCompatibility", "Evaluate", "Shadow"]
    """What is done."""
    smoke: Smoke | None = None
    """Settings of type Smoke."""
    schema_compatibility: SchemaCompatibility | None = None
    """Settings of type SchemaCompatibility."""
    evaluate: Evaluate | None = None
    """Settings of type Evaluate."""
    shadow: Shadow | None = None
    """Settings of type Shadow."""
    timeout_seconds: Annotated[int, Field(ge=1, le=86400)] = 300
    """How long it may take; then it has failed."""

    @property
    def trial(self) -> tuple[str, TrialTools] | None:
        """Where a gate that executes the program says what becomes of NonIdempotent tools, and what it says."""
        given = self.smoke or self.evaluate or self.shadow or (Shadow() if self.type == "Shadow" else None)
        return (f"spec.rollout.gates[{self.name}].{KINDS[self.type]}.tools", given.tools) if given else None

    @model_validator(mode="after")
    def _own_settings(self) -> Self:
        for kind, field in KINDS.items():
            given: Any = getattr(self, field)
            if given is not None and kind != self.type:
                raise ValueError(f"gates[]: {field} belongs to type {kind}")
        if self.type in ("Smoke", "Evaluate") and getattr(self, KINDS[self.type]) is None:
            raise ValueError(f"gates[]: type {self.type} needs its settings")
        return self


class PostPromotion(ApiModel):
    """Watching a new version while the one before is warm. A breach leads back, and the version is quarantined."""

    watch_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """How long; 0 watches nothing. No longer than the old version is kept: rollout.blueGreen.scaleDownDelaySeconds."""
    min_requests: Annotated[int, Field(ge=1, le=1000000)] = 20
    """How many executions the figures need before they mean anything."""
    max_error_rate_percent: Percent = 10
    """Failed executions, without those where no LM could be reached; and only if they are more than before."""
    max_p95_latency_millis: Annotated[int, Field(ge=1, le=3600000)] | None = Field(
        default=None, alias="maxP95LatencyMillis"
    )
    """The 95th percentile of executions; and only if it was less before."""
    max_cost_increase_percent: Annotated[int, Field(ge=0, le=100000)] | None = None
    """How much more an execution may cost than with the version before, by the LMs' prices."""
    action: Literal["Rollback", "None"] = "Rollback"
    """None: only say so, in the condition UpToDate."""
