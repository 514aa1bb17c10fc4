"""What pods and containers say of themselves."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, Literal

from pydantic import Field, ValidationError

from despina.wire.base import MOST_NAMED, Amount, Count, Document, Histogram, Report, added


class FailureReason(enum.StrEnum):
    """Why a pod could not serve its revision."""

    LOAD_FAILED = "LoadFailed"
    ARTIFACT_MISSING = "ArtifactMissing"
    ARTIFACT_CORRUPT = "ArtifactCorrupt"
    ARTIFACT_CHANGED = "ArtifactChanged"
    """It is not what the revision was when it was first loaded."""
    REQUIREMENTS_MISSING = "RequirementsMissing"
    PICKLE_DENIED = "PickleDenied"
    SIGNATURE_UNKNOWN = "SignatureUnknown"
    WARMUP_FAILED = "WarmupFailed"
    FALLBACK_INVALID = "FallbackInvalid"
    UNKNOWN_MODULE = "UnknownModule"
    CODE_CHANGED = "CodeChanged"
    """Another version's code or requirements differ from what this process has imported."""
    NOT_SWAPPABLE = "NotSwappable"
    """The artefact does not separate state from code, so that a process cannot change from it or to it."""


CERTAIN = frozenset(
    {
        FailureReason.ARTIFACT_CORRUPT,
        FailureReason.ARTIFACT_CHANGED,
        FailureReason.REQUIREMENTS_MISSING,
        FailureReason.PICKLE_DENIED,
        FailureReason.SIGNATURE_UNKNOWN,
        FailureReason.FALLBACK_INVALID,
        FailureReason.UNKNOWN_MODULE,
        FailureReason.CODE_CHANGED,
        FailureReason.NOT_SWAPPABLE,
    }
)
"""Reasons that no second try can change; the others may pass."""


class Failure(Document):
    """What a container says when it gives up; at most 4 KiB, the kubelet's limit."""

    reason: FailureReason
    message: str = Field(max_length=1024)

    @classmethod
    def parse(cls, text: str | None) -> Failure | None:
        """Read a termination message; None for anything that is not ours."""
        try:
            return cls.model_validate_json(text or "")
        except ValidationError:
            return None


class Counts(Report):
    """How one revision's executions went in one pod since it was loaded there; cached answers are not among them."""

    ok: Count = 0
    caller: Count = 0
    """Refused as the caller's own mistakes."""
    program: Count = 0
    upstream: Count = 0
    timeout: Count = 0
    outage: Count = 0
    """Those of `upstream` where no LM could be reached, so that the version is not at fault."""
    seconds: Histogram = ()
    """Executions by how long they took."""
    cost_usd: Amount = 0.0

    @property
    def executed(self) -> int:
        """All but the callers' mistakes."""
        return self.ok + self.failed

    @property
    def failed(self) -> int:
        """Neither answered nor the callers' mistakes."""
        return self.program + self.upstream + self.timeout

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Several workers', or pods', counts as one."""
        known = list(parts)
        sums = {f: sum(getattr(c, f) for c in known) for f in cls.model_fields if f != "seconds"}
        return cls(**sums, seconds=added([c.seconds for c in known]))

    def since(self, base: Counts) -> Counts:
        """What came after `base`; pods that ended meanwhile took their counts with them, so nothing is below 0."""
        less = {f: max(0, getattr(self, f) - getattr(base, f)) for f in type(self).model_fields if f != "seconds"}
        buckets = zip_longest(self.seconds, base.seconds, fillvalue=0)
        return Counts(**less, seconds=tuple(max(0, now - then) for now, then in buckets))


class BreakerReport(Report):
    """The program's breaker in one worker."""

    state: Literal["Closed", "Open", "HalfOpen"] = "Closed"
    age_seconds: Amount | None = None
    """Since its last change; None when it was never anything but closed."""
    window: dict[str, Count] = Field(default_factory=dict, max_length=MOST_NAMED)
    """What it has counted: `ok`, and failures by class."""


class HeldRevision(Report):
    """A revision that a pod holds beside others."""

    phase: Literal["Preparing", "Ready", "Failed"]
    failure: Failure | None = None
    digest: str = Field(default="", max_length=64)
    """Of all that was loaded: code, compiled state, modules of other versions."""
    remark: str = Field(default="", max_length=1024)
    """What its owner should know of it though it can serve."""


class TryReport(Report):
    """How a `Try` went."""

    ok: bool
    message: str = Field(default="", max_length=1024)


class ShadowReport(Report):
    """How a candidate did on mirrored requests, beside what callers got."""

    revision: str
    mirrored: Count = 0
    dropped: Count = 0
    """Not mirrored, since too many were under way."""
    failed: Count = 0
    agreed: Count = 0
    """Equal outputs."""
    live_seconds: Histogram = ()
    seconds: Histogram = ()


class OrdersReport(Report):
    """The last order that a pod took: the next one names the same `boot` and is later. It is also the body of a 409."""

    boot: str = Field(default="", max_length=64)
    """A word that its process made up at its start; empty where no orders are taken."""
    term: int = 0
    number: int = 0


class FeedbackReport(Report):
    """How a pod fares with what it records and what callers say."""

    trouble: str = Field(default="", max_length=1024)
    """Why nothing is stored or delivered now; empty where all is well."""


class OptimizeRequest(Report):
    """Somebody asked a pod for an optimisation; it has no rights in the cluster to begin one."""

    number: Count = 0
    """Counts such requests since the container began."""
    module: str = Field(default="", max_length=253)
    """The path of the module that shall change; empty for those that the manifest names."""


class PodState(Report):
    """What one pod says of itself on its admin port: what it holds, what it serves, and how that goes."""

    revision: str = ""
    """The revision that serves; empty while its workers differ."""
    held: dict[str, HeldRevision] = Field(default_factory=dict, max_length=MOST_NAMED)
    counts: dict[str, Counts] = Field(default_factory=dict, max_length=MOST_NAMED)
    breakers: tuple[BreakerReport, ...] = Field(default=(), max_length=MOST_NAMED)
    """One for each worker."""
    tries: dict[str, TryReport] = Field(default_factory=dict, max_length=MOST_NAMED)
    shadow: ShadowReport | None = None
    feedback: FeedbackReport | None = None
    optimize: tuple[OptimizeRequest, ...] = Field(default=(), max_length=16)
    """The last requests for optimisations, the latest last."""
    uptime_seconds: Amount = 0.0
    workers: Count = 0
    """How many serve; fewer than are wanted while one that ended is not replaced yet."""
    wanted_workers: Count = 0
    """How many should; 0 where the pod does not say."""
    orders: OrdersReport = OrdersReport()
    number: Count = 0
    """Higher whenever `facts` are others or an order was carried out; whoever has read one can wait for the next. It
    begins anew with the container; 0 where the pod does not say."""

    def facts(self) -> tuple[Any, ...]:
        """What decisions look at at once: of counts, when failures have doubled. The rest is read when somebody looks
        anyway."""
        held = tuple(sorted((name, h.phase) for name, h in self.held.items()))
        failed = tuple(sorted((name, c.failed.bit_length()) for name, c in self.counts.items()))
        breakers = tuple((b.state, sum(n for kind, n in b.window.items() if kind != "ok")) for b in self.breakers)
        mirrors = self.shadow.revision if self.shadow else None
        trouble = bool(self.feedback and self.feedback.trouble)
        asked = max((r.number for r in self.optimize), default=0)
        return self.revision, held, failed, breakers, tuple(self.tries), mirrors, self.workers, trouble, asked
