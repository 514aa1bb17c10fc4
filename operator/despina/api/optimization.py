"""How a program is made better from what callers say of it, when, and within what budget."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from cronsim import CronSim, CronSimError
from pydantic import ConfigDict, Field, StringConstraints, model_validator

from despina.api.base import ApiModel, NameStr, Preserved, ShortStr, map_list, rule, rules
from despina.api.gates import Dataset, Metric
from despina.api.serving import DecimalStr, Toggle
from despina.wire import TrialTools

OptimizerName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(BootstrapFewShotWithRandomSearch|BootstrapFewShot|LabeledFewShot|MIPROv2"
        r"|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$",
        max_length=253,
    ),
]
Fraction = Annotated[str, StringConstraints(pattern=r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$", max_length=8)]
FiveFields = Annotated[str, StringConstraints(pattern=r"^\S+( +\S+){4}$", max_length=253)]
TRIGGER_RULES = (
    (
        "self.type == 'FailureRate' || !has(self.failureRate)",
        "triggers[]: failureRate belongs to type FailureRate",
    ),
    ("(self.type == 'Labels') == has(self.labels)", "triggers[]: labels belongs to type Labels, which needs it"),
    (
        "(self.type == 'Schedule') == has(self.schedule)",
        "triggers[]: schedule belongs to type Schedule, which needs it",
    ),
)


CRON_FIELDS, SOME_DAY = 5, datetime(2024, 1, 1, tzinfo=UTC)
"""The library would also take a field for seconds."""


class Optimizer(ApiModel):
    """How a better program is searched for."""

    name: OptimizerName = "BootstrapFewShotWithRandomSearch"
    """One of DSPy's, or `package.module:function` of the model's code, which is called with a student, a trainset, a
    valset and a metric, and gives a program."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 0
    """For everything that is chosen at random."""
    params: Preserved = Field(default_factory=dict)
    """The optimiser's own settings, such as `num_candidate_programs`."""


class FailureRate(ApiModel):
    """Too many answers are labelled as failures."""

    threshold: Fraction = "0.10"
    """The rate, as a fraction, above which it must be with 95 % certainty: the lower bound of a one-sided Wilson
    interval."""
    window_seconds: Annotated[int, Field(ge=60, le=31536000)] = 86400
    """Labels that are older do not count."""
    min_labels: Annotated[int, Field(ge=1, le=100000)] = 50
    """How many labels it takes at least."""


class LabelCount(ApiModel):
    """Enough new labels are there."""

    count: Annotated[int, Field(ge=1, le=100000)]
    """How many since the last run."""


class Trigger(ApiModel):
    """One reason to begin a run; the settings stand under the type's own name."""

    model_config = ConfigDict(json_schema_extra=rules(*(rule(cel, message) for cel, message in TRIGGER_RULES)))

    name: NameStr
    """A name of your own."""
    type: Literal["FailureRate", "Labels", "Schedule"]
    """What is looked at."""
    failure_rate: FailureRate | None = None
    """Settings of type FailureRate."""
    labels: LabelCount | None = None
    """Settings of type Labels."""
    schedule: FiveFields | None = None
    """Of type Schedule: when, in the five fields of cron, in UTC."""

    @model_validator(mode="after")
    def _own_settings(self) -> Self:
        checks = (
            self.type == "FailureRate" or self.failure_rate is None,
            (self.type == "Labels") == (self.labels is not None),
            (self.type == "Schedule") == (self.schedule is not None),
        )
        for is_met, (_, message) in zip(checks, TRIGGER_RULES, strict=True):
            if not is_met:
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _is_cron(self) -> Self:
        if self.schedule is not None:
            _check_cron(self.schedule)
        return self


def _check_cron(schedule: str) -> None:
    try:
        is_one = len(schedule.split()) == CRON_FIELDS and next(CronSim(schedule, SOME_DAY), None)
    except CronSimError:
        is_one = False
    if not is_one:
        raise ValueError(f"triggers[].schedule: {schedule!r} is no moment in cron's five fields") from None


class OptimizationBudget(ApiModel):
    """The most that may be spent. No limit is overrun, not by one call."""

    max_lm_calls: Annotated[int, Field(ge=1, le=1000000)] = Field(alias="maxLMCalls")
    """In one run: attempts to ask an LM, the scoring of both versions, retries and fallbacks among them."""
    max_usd: DecimalStr | None = Field(default=None, alias="maxUSD")
    """In one run, by the LMs' prices; each call's `max_tokens` are reserved before it is made."""
    max_seconds: Annotated[int, Field(ge=60, le=86400)] = 3600
    """In one run: no call starts after so many seconds."""
    max_lm_calls_per_day: Annotated[int, Field(ge=1, le=100000000)] | None = Field(
        default=None, alias="maxLMCallsPerDay"
    )
    """By all runs of any 24 hours; a run begins only if its whole budget is left. Four runs' when left out. Of a run of
    which nobody knows what it spent, the whole budget counts."""

    @property
    def a_day(self) -> int:
        """LM calls in 24 hours."""
        return self.max_lm_calls_per_day or 4 * self.max_lm_calls


class OptimizationDataset(ApiModel):
    """How labelled predictions become rows."""

    golden_ref: Dataset | None = None
    """Examples from outside the feedback at which a candidate may not get worse: labels that are wrong together, by
    mistake or on purpose, show in nothing else."""
    group_by: Annotated[tuple[ShortStr, ...], Field(max_length=8)] = ()
    """Inputs by which rows belong together, on one side of the split; all inputs when left out."""
    max_percent_per_source: Annotated[int, Field(ge=1, le=100)] = 10
    """How much of what is learned from may come from one source that is not trusted."""


class CandidatePromotion(ApiModel):
    """What becomes of a version that is better."""

    mode: Literal["Propose", "Auto"] = "Propose"
    """Propose: it gets the alias `candidate`, and somebody moves the program's alias there. Auto: the operator does,
    and the release with its gates takes over; it needs dataset.goldenRef."""
    significance_percent: Annotated[int, Field(ge=1, le=50)] = 5
    """How often a version that is no better may pass, in percent; divided by how often the held-out rows were used."""
    min_gain_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Points by which its held-out score must be higher."""
    min_examples: Annotated[int, Field(ge=1, le=100000)] = 100
    """Held-out rows without which no run judges anything."""


class Optimization(ApiModel):
    """Make a better version from labelled predictions, and judge it on rows that it never saw."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "!has(self.promotion) || self.promotion.mode != 'Auto'"
            " || (has(self.dataset) && has(self.dataset.goldenRef))",
            "optimization.promotion.mode Auto needs optimization.dataset.goldenRef",
        )
    )

    modules: Annotated[tuple[ShortStr, ...], Field(max_length=32)] = ()
    """Paths of the modules that may change, such as `classify`; all when left out. GET /modules lists them."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """How it is searched."""
    metric: Metric = "ExactMatch"
    """ExactMatch, F1 (of words) or Contains over the expected fields, or `package.module:function` of the model's code,
    which is called like any DSPy metric: (example, prediction)."""
    triggers: Annotated[tuple[Trigger, ...], Field(max_length=8, json_schema_extra=map_list("name"))] = ()
    """When a run begins by itself; only by hand without any."""
    cooldown_seconds: Annotated[int, Field(ge=0, le=31536000)] = 21600
    """How long after a run none begins by itself."""
    budget: OptimizationBudget
    """The most that may be spent."""
    dataset: OptimizationDataset = Field(default_factory=OptimizationDataset)
    """How labelled predictions become rows."""
    promotion: CandidatePromotion = Field(default_factory=CandidatePromotion)
    """What becomes of a version that is better."""
    tools: TrialTools = "Refuse"
    """Refuse: no tool that is NonIdempotent is executed in a run, and its rows fail that need one."""
    requests: Toggle = "Disabled"
    """Enabled: whoever may call the program may ask for a run, by POST /optimize and POST /modules/PATH/optimize."""

    @model_validator(mode="after")
    def _auto_has_golden_rows(self) -> Self:
        if self.promotion.mode == "Auto" and self.dataset.golden_ref is None:
            raise ValueError("optimization.promotion.mode Auto needs optimization.dataset.goldenRef")
        return self
