"""What an optimisation is asked, by a Job's environment or by the command, and what it found."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from despina.wire.base import Count, Document, Report, Score
from despina.wire.config import RuntimeConfig
from despina.wire.evaluation import DatasetConfig
from despina.wire.orders import TrialTools


class OptimizerConfig(Document):
    """How it is searched."""

    name: str = "BootstrapFewShotWithRandomSearch"
    """One of DSPy's, or `package.module:function` of the model's code, which is called with a student, a trainset, a
    valset and a metric, and gives a program."""
    seed: int = 0
    params: dict[str, Any] = Field(default_factory=dict)


class BudgetConfig(Document):
    """The most that a run may spend."""

    max_lm_calls: int
    """Attempts to ask a provider, retries and fallbacks among them."""
    max_usd: str | None = None
    """By the LMs' prices, as a decimal string."""
    seconds: int = 3600
    """After which no call starts."""


class LabelsConfig(Document):
    """From what the dataset is made: one of `file` and `experiment` is set."""

    file: str | None = None
    """Labelled predictions, as JSON Lines."""
    experiment: str | None = None
    """An experiment of the program's MLflow server, by its name: its traces with assessments."""
    until: float | None = None
    """Labels that were given later do not count, in seconds since the epoch: so that one dataset is meant."""
    group_by: tuple[str, ...] = ()
    """Inputs by which rows belong together, on one side of the split."""
    max_percent_per_source: int = 10


class PromotionConfig(Document):
    """When a candidate is better."""

    significance_percent: int = 5
    min_gain_percent: int = 0
    """Points by which its held-out score must be higher."""
    min_examples: int = 100
    """Held-out rows without which nothing is judged."""


class OptimizationConfig(Document):
    """What an optimisation shall do. The program is `base` with its own version as the parent."""

    base: RuntimeConfig
    modules: tuple[str, ...] = ()
    """Paths of the modules that may change; all without any."""
    optimizer: OptimizerConfig = OptimizerConfig()
    metric: str = "ExactMatch"
    budget: BudgetConfig
    labels: LabelsConfig
    golden: DatasetConfig | None = None
    """Examples from outside the feedback, as an Evaluate gate takes them, at which nothing may get worse."""
    promotion: PromotionConfig = PromotionConfig()
    tools: TrialTools = "Refuse"


TAKEN_BACK_TAG = "despina.taken-back"
"""On a model version that callers had to be sent away from; its value tells people why."""

OptimizationReason = Literal[
    "Better", "NotBetter", "GoldenWorse", "Unchanged", "Unjudged", "NothingFound", "TooFewExamples", "AlreadyDone",
    "TakenBack",
]  # fmt: skip


class Comparison(Report):
    """Two scores on the same rows, as fractions, and how sure their difference is."""

    base: Score
    candidate: Score
    interval: tuple[Score, Score]
    """Of the gain."""
    p: Score
    rows: Count


class OptimizationResult(Report):
    """What came of it."""

    reason: OptimizationReason | None = None
    message: str = ""
    candidate_version: str | None = None
    """The version that was registered; it has the alias `candidate` where the reason is Better."""
    dataset_digest: str = ""
    heldout: Comparison | None = None
    golden: Comparison | None = None
    lm_calls: Count = 0
    cost_usd: Score = 0.0
    error: str | None = None
    """Why there is no result."""
