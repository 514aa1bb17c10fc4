"""What the Job of an Evaluate gate is asked, and what it found."""

from __future__ import annotations

from despina.wire.base import Count, Document, Points, Probability, Report, RunId, Score
from despina.wire.config import RuntimeConfig
from despina.wire.orders import TrialTools


class DatasetConfig(Document):
    """Where an evaluation's examples are; one of the three is set."""

    mlflow: str | None = None
    file: str | None = None
    uri: str | None = None


class EvaluationConfig(Document):
    """What an evaluation Job shall do."""

    candidate: RuntimeConfig
    baseline: RuntimeConfig | None = None
    """Scored on the same examples, to compare with."""
    dataset: DatasetConfig
    metric: str
    max_examples: int
    budget_usd: str | None = None
    tools: TrialTools = "Refuse"


class EvaluationResult(Report):
    """What it found, as its container's termination message."""

    score_percent: Score | None = None
    baseline_percent: Score | None = None
    examples: Count = 0
    failed: Count = 0
    """Examples that the candidate could not answer; they score 0."""
    cost_usd: Score = 0.0
    gain_low_percent: Points | None = None
    """The lower end of the 95 % interval of what the candidate scores more than the baseline, in points."""
    gain_high_percent: Points | None = None
    """Its upper end."""
    p: Probability | None = None
    """How probable so much gain is, or more, if both versions are equally good: of a one-sided paired test."""
    run: RunId = None
    """The id of the run of MLflow that holds the scores example by example, if there is one."""
    error: str | None = None
    """Why there is no score."""
