"""What runs in a pod, as far as a rollout sees it: revisions that it holds, counts, trials, and each one's breaker.

A runtime obeys an order that is signed with one of its keys, unless orders are lost. It loads what it is told to prepare, if the code is
what it runs already; what it counts of a revision begins when that is loaded and ends when it is released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from despina.decide.plan import Tell
from despina.wire import (
    SECONDS_BOUNDS,
    BreakerReport,
    Counts,
    Failure,
    FailureReason,
    HeldRevision,
    ModelRef,
    PodState,
    RuntimeConfig,
    TryReport,
)
from tests.support.simulator.registry import Nature

BROKEN = Failure(reason=FailureReason.LOAD_FAILED, message="broken")
OTHER_CODE = Failure(reason=FailureReason.CODE_CHANGED, message="changed: program.py")
INTERFACE = {"inputs": {"properties": {}}, "outputs": {"properties": {"answer": {"type": "string"}}}}
NARROWER = {"inputs": {"properties": {}}, "outputs": {"properties": {}}}
REQUESTS = 30
FAST, SLOW = (tuple(int(bound == at) for bound in (*SECONDS_BOUNDS, 0)) for at in (0.1, 15))
OPEN_SECONDS = 30


@dataclass(frozen=True)
class Held:
    """One revision in memory."""

    config: RuntimeConfig
    nature: Nature
    failure: Failure | None = None


@dataclass
class Breaker:
    """One revision's."""

    state: str = "Closed"
    changed_at: float | None = None
    window: dict[str, int] = field(default_factory=dict)

    def set(self, state: str, now: float) -> None:
        if self.state != state:
            self.state, self.changed_at = state, now
            self.window = {} if state == "Closed" else self.window

    def trip(self, kind: str, now: float) -> None:
        self.window = {kind: REQUESTS}
        self.set("Open", now)

    def is_open(self, now: float) -> bool:
        if self.state != "Closed" and now - (self.changed_at or 0) >= OPEN_SECONDS:
            self.set("Closed", now)
        return self.state != "Closed"

    def say(self, now: float) -> BreakerReport:
        age = None if self.changed_at is None else now - self.changed_at
        return BreakerReport(state=self.state, age_seconds=age, window=self.window)


@dataclass
class Runtime:
    """What really is the case in one pod."""

    config: RuntimeConfig
    nature_of: Callable[[ModelRef], Nature]
    started_at: float
    held: dict[str, Held] = field(default_factory=dict)
    tries: dict[str, TryReport] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    is_retired: bool = False
    breakers: dict[str, Breaker] = field(default_factory=dict)
    whole_at: float = 0.0
    """When the last of its workers is replaced that ended."""

    def __post_init__(self) -> None:
        self.keys = frozenset(self.config.order_keys)
        self.held[self.config.revision] = Held(self.config, self.nature_of(self.config.model))

    @property
    def breaker(self) -> Breaker | None:
        """That of the revision that serves, if it has one."""
        revision = self.config.revision
        return self.breakers.setdefault(revision, Breaker()) if self.config.breaker else None

    @property
    def nature(self) -> Nature:
        """What the version is like that serves."""
        return self.held[self.config.revision].nature

    def trusts(self, keys: Iterable[str]) -> bool:
        """Whether an order that is signed with these keys counts: a process knows those that it was started with."""
        return not self.keys.isdisjoint(keys)

    def obey(self, tell: Tell, now: float) -> None:
        match tell.order:
            case "Retire" | "Activate":
                self.is_retired = tell.order == "Retire"
            case "Prepare" if tell.config and tell.subject not in self.held:
                self.held[tell.subject] = self._load(tell.config)
            case "Commit" if tell.subject in self.held and not self.held[tell.subject].failure:
                self.config = self.held[tell.subject].config
            case "Release" if tell.subject != self.config.revision:
                self.held.pop(tell.subject, None)
                self.counts.pop(tell.subject, None)
                self.breakers.pop(tell.subject, None)
            case "Try":
                held = self.held.get(tell.subject.partition(":")[0])
                if held:
                    self.tries[tell.subject] = TryReport(ok="Smoke" not in held.nature.fails)
            case "OpenBreaker" | "CloseBreaker" if self.breaker:
                self.breaker.set("Open" if tell.order == "OpenBreaker" else "Closed", now)

    def _load(self, config: RuntimeConfig) -> Held:
        nature = self.nature_of(config.model)
        failure = BROKEN if nature.broken else OTHER_CODE if nature.code != self.nature.code else None
        return Held(config, nature, failure)

    def answer(self, failing: str | None, now: float) -> bool:
        """Thirty requests. `failing` is what all of them meet, whatever the version; an open breaker lets none in.
        Returns whether they opened it."""
        breaker = self.breaker
        if not failing:
            if breaker and breaker.is_open(now):
                return False
            self._count(self.nature.errors)
        kind = failing or ("Program" if self.nature.errors == REQUESTS else None)
        if breaker and kind:
            breaker.trip(kind, now)
            return True
        return False

    def _count(self, wrong: int) -> None:
        buckets = SLOW if self.nature.slow else FAST
        more = Counts(ok=REQUESTS - wrong, program=wrong, seconds=tuple(REQUESTS * n for n in buckets))
        before = self.counts.get(self.config.revision)
        self.counts[self.config.revision] = Counts.total([before, more]) if before else more

    def say(self, now: float) -> PodState:
        """The report that the operator gets when it listens."""
        held = {
            name: HeldRevision(phase="Failed" if h.failure else "Ready", failure=h.failure, digest=_digest(h))
            for name, h in self.held.items()
        }
        return PodState(
            revision=self.config.revision,
            held=held,
            counts=dict(self.counts),
            breakers=(self.breaker.say(now),) if self.breaker else (),
            tries=dict(self.tries),
            uptime_seconds=now - self.started_at,
            workers=1 if now < self.whole_at else 2,
            wanted_workers=2,
        )

    def interface(self, revision: str) -> dict[str, object]:
        return NARROWER if "SchemaCompatibility" in self.held[revision].nature.fails else INTERFACE


def _digest(held: Held) -> str:
    model = held.config.model
    return "" if held.failure else f"{model.version} of {model.created_at}"
