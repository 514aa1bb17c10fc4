"""What the operator reports of optimisations: in a DSPyProgram's status."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from despina.api.base import ApiModel, Sentence, Word
from despina.wire import Comparison

MOST_RUNS = 12
MOST_PODS = 2000
"""More than `replicas` allows, with all that a rollout may add."""
LAST_MILLIS = 2**53
Millis = Annotated[int, Field(ge=0, le=LAST_MILLIS)]
"""Since the epoch."""
MOST_CALLS = 2**53
Calls = Annotated[int, Field(ge=0, le=MOST_CALLS)]


class ComparisonStatus(ApiModel):
    """Two scores on the same rows. A status holds no floats."""

    base_percent: Word
    """Of the version that served."""
    candidate_percent: Word
    """Of the version that was found."""
    gain_low_percent: Word
    """The lower end of the 95 % interval of the gain, in points."""
    gain_high_percent: Word
    """Its upper end."""
    p: Word
    """How probable so much gain is, or more, if both versions are equally good."""
    rows: int
    """How many were answered by both."""

    @classmethod
    def of(cls, found: Comparison | None) -> Self | None:
        """A result as it stands in a status."""
        if found is None:
            return None
        base, candidate, low, high = (
            f"{100 * x:.1f}" for x in (found.base, found.candidate, *found.interval)
        )  # fmt: skip
        return cls(
            base_percent=base,
            candidate_percent=candidate,
            gain_low_percent=low,
            gain_high_percent=high,
            p=f"{found.p:.2g}",
            rows=found.rows,
        )


class OptimizationRun(ApiModel):
    """One run: what began it, and what came of it."""

    job: Word
    """The Job. Its name follows from program, base version, labels and settings: the same again is the same Job."""
    trigger: Sentence
    """Why it was begun: a trigger's name and figures, or who asked."""
    asked: Word | None = None
    """The word by which somebody asked for it: the value of the annotation despina.dev/optimize, or POD/LIFE/NUMBER of
    a request."""
    modules: Annotated[tuple[Word, ...], Field(max_length=32)] = ()
    """Paths of the modules that may change; all without any."""
    base_version: Word
    """The model version that shall become better."""
    base_revision: Word = ""
    """The revision in which that served."""
    base_source: Word | None = None
    """Digest of the base's server, model, number and making."""
    labels_until: Millis = 0
    """When the last label was given that counts for it."""
    budget_lm_calls: Calls = Field(alias="budgetLMCalls")
    """What it may spend at most, in calls of LMs."""
    started_at: Word
    """When it was begun."""
    finished_at: Word | None = None
    """When it had ended."""
    progress: Word = ""
    """LM calls of those it may make, and the best score on the validation rows: `120/300 72 %`."""
    reason: Word | None = None
    """How it ended: Better, NotBetter, GoldenWorse, Unchanged, Unjudged, NothingFound, TooFewExamples, AlreadyDone;
    TakenBack (it found again what callers had to be sent away from); Failed (the message says why); Lost (its pod was
    taken, and left nothing); Superseded (the base no longer serves); Cancelled (the manifest wants none any more)."""
    message: Sentence = ""
    """The figures, or what is wrong."""
    candidate_version: Word | None = None
    """The model version that was registered."""
    dataset_digest: Word | None = None
    """The first digits of the dataset's SHA-256."""
    is_taken_back: bool = False
    """Whether callers had to be sent away from that version."""
    heldout: ComparisonStatus | None = None
    """On labelled rows that neither version has seen."""
    golden: ComparisonStatus | None = None
    """On the golden set."""
    lm_calls: int | None = Field(default=None, alias="lmCalls")
    """What it spent; unknown where it left no word."""
    cost_usd: Word | None = Field(default=None, alias="costUSD")
    """The same by the LMs' prices."""


class LabelsStatus(ApiModel):
    """What is known of labels."""

    successes: int = 0
    """Since the last run."""
    failures: int = 0
    """Since the last run."""
    problem: Sentence = ""
    """Why they could not be counted the last time."""


class OptimizationStatus(ApiModel):
    """Optimisations of this program."""

    phase: Literal["Idle", "Running", "Waiting", "BudgetSpent"] = "Idle"
    """Idle: nothing asks for a run. Running: one is under way. Waiting: one is asked for, and held up; BudgetSpent: by
    what the day's budget has left."""
    message: Sentence = ""
    """What is waited for, or what can be done with what was found."""
    labels: LabelsStatus = Field(default_factory=LabelsStatus)
    """Counted once a minute."""
    run: OptimizationRun | None = None
    """The run under way, or the last one."""
    earlier: Annotated[tuple[OptimizationRun, ...], Field(max_length=MOST_RUNS)] = ()
    """Those before it, the latest first."""
    heard: Annotated[dict[str, Word], Field(max_length=MOST_PODS)] = Field(default_factory=dict)
    """The last request for a run that was acted on, by the pod that took it."""
