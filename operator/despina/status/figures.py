"""What a program's statuses say in figures, for the operator's metrics.

Gauges are what the last status says. Counters count what is new in a status beside the one before it, so that an event
counts once, however often a pass sees it. A status may be damaged, or anybody's: words that are none of ours become
`Other`, and what is no number is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar, get_args

from despina.api.conditions import ConditionStatus, Reason, Type
from despina.api.status import GateStatus, ProgramStatus, Quarantined, RolloutStatus
from despina.decide.plan import Step, StrategyName
from despina.decide.versions import ENDED
from despina.wire import FailureReason

OTHER = "Other"
STEPS = get_args(Step)
STRATEGIES = get_args(StrategyName)
BREAKER_STATES = ("Closed", "Open", "HalfOpen")
REASONS = frozenset({*map(str, Reason), *map(str, FailureReason)})
TYPES = tuple(map(str, Type))
MOST_REMEMBERED = 64
"""Gates, and rollouts, that statuses before the last one told of: one may be lost, or undone, and be back."""
MOST_GATES = 32
"""Of one program, results of so many gates are counted; the manifest has at most 8 at a time, and names may change."""


class Gate(NamedTuple):
    """A gate that was decided, as one is told from another."""

    rollout: str
    name: str
    result: str
    started_at: str
    finished_at: str


class End(NamedTuple):
    """A rollout that is over."""

    rollout: str
    started_at: str
    result: str


Event = TypeVar("Event")
Counts = Mapping[tuple[str, str], int]
NONE_YET = {("Done", ""): 0, ("Abandoned", ""): 0}


@dataclass(frozen=True)
class Figures:
    """What the statuses of one program said, as far as it is shown."""

    active: str = ""
    candidate: str = ""
    strategy: str = ""
    step: str = ""
    breaker: str = ""
    conditions: tuple[tuple[str, str, str], ...] = ()
    """Type, status and reason."""
    scores: tuple[tuple[str, float], ...] = ()
    """Of gates, in percent."""
    ended: tuple[End, ...] = ()
    decided: tuple[Gate, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    rollouts: Counts = field(default_factory=dict)
    """How many ended so, by result and reason, since the operator began."""
    gates: Counts = field(default_factory=dict)
    """How many were decided so, by gate and result, since the operator began."""


def figures(status: ProgramStatus, before: Figures | None) -> Figures:
    """The figures after this status; `before` is None where this process has seen none of the program yet: what it says
    was counted by the process before, or happened in nobody's time."""
    rollout, breaker = status.rollout, status.breaker
    ended, decided = tuple(_ended(rollout)), tuple(dict.fromkeys(_decided(rollout)))
    quarantined = status.model.quarantined
    return Figures(
        active=status.active.version if status.active else "",
        candidate=status.candidate.version if status.candidate else "",
        strategy=_word(rollout.strategy, STRATEGIES) if rollout else "",
        step=rollout.step if rollout else "",
        breaker=breaker.state if breaker else "",
        conditions=tuple(_conditions(status)),
        scores=tuple(_scores(rollout)),
        ended=_remembered(ended, before.ended if before else ()),
        decided=_remembered(decided, before.decided if before else ()),
        quarantined=quarantined,
        rollouts=_more(before.rollouts if before else NONE_YET, _come_to(ended, quarantined, before)),
        gates=_bounded(_more(_with_nothing(before.gates if before else {}, rollout), _judged(decided, before))),
    )


def _word(word: str, known: Collection[str]) -> str:
    return word if word in known else OTHER


def _conditions(status: ProgramStatus) -> Iterator[tuple[str, str, str]]:
    known = {c.type: c for c in status.conditions}
    return ((t, str(known[t].status), _word(known[t].reason, REASONS)) for t in TYPES if t in known)


def _scores(rollout: RolloutStatus | None) -> Iterator[tuple[str, float]]:
    found = {g.name: _number(g) for g in rollout.gates} if rollout else {}
    return ((name, score) for name, score in found.items() if score is not None)


def _number(gate: GateStatus) -> float | None:
    try:
        score = float(gate.score.score_percent or "") if gate.score else math.nan
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _ended(rollout: RolloutStatus | None) -> Iterator[End]:
    if rollout and rollout.step in ENDED:
        yield End(rollout.id, rollout.started_at, rollout.step)


def _decided(rollout: RolloutStatus | None) -> Iterator[Gate]:
    for gate in rollout.gates if rollout else ():
        if rollout and gate.result != "Running":
            yield Gate(rollout.id, gate.name, gate.result, gate.started_at, gate.finished_at or "")


def _remembered(now: tuple[Event, ...], before: tuple[Event, ...]) -> tuple[Event, ...]:
    """What a status tells of, behind the latest of what those before it told of."""
    still = set(now)
    return (*[event for event in before if event not in still][-MOST_REMEMBERED:], *now)


def _come_to(
    ended: Iterable[End], quarantined: Collection[Quarantined], before: Figures | None
) -> Iterator[tuple[str, str]]:
    """The rollout that ended with this status, and why it came to nothing: what was quarantined in the same pass."""
    for end in ended:
        if before and end not in before.ended:
            new = [q.reason for q in quarantined if q not in before.quarantined]
            yield end.result, _word(new[-1], REASONS) if new and end.result != "Done" else ""


def _judged(decided: Iterable[Gate], before: Figures | None) -> list[tuple[str, str]]:
    known = set(before.decided) if before else set(decided)
    return [(gate.name, gate.result) for gate in decided if gate not in known]


def _with_nothing(counts: Counts, rollout: RolloutStatus | None) -> Counts:
    """With a 0 for each gate that is at work: Prometheus sees an increase only of what was there before. These come
    last, as those that matter most."""
    names = [gate.name for gate in rollout.gates] if rollout else []
    others = {event: n for event, n in counts.items() if event[0] not in names}
    return others | {(name, result): counts.get((name, result), 0) for name in names for result in ("Passed", "Failed")}


def _more(counts: Counts, events: Iterable[tuple[str, str]]) -> Counts:
    after = dict(counts)
    for event in events:
        after[event] = after.get(event, 0) + 1
    return after


def _bounded(counts: Counts) -> Counts:
    """Without the gates that were counted first, where there are too many."""
    names = list(dict.fromkeys(name for name, _ in counts))[-MOST_GATES:]
    return {event: n for event, n in counts.items() if event[0] in names}


Row = tuple[tuple[str, ...], float]


@dataclass(frozen=True)
class Family:
    """One metric of programs: its name, what it is, its labels after namespace and program, and its series of one
    program. Counters are named without `_total`."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]
    rows: Callable[[Figures], Iterable[Row]]


def _info(f: Figures) -> list[Row]:
    return [((f.active, f.candidate, f.strategy), 1.0)]


def _step(f: Figures) -> Iterator[Row]:
    return (((step,), float(step == f.step)) for step in STEPS)


def _condition(f: Figures) -> Iterator[Row]:
    return (((kind, s), float(s == status)) for kind, status, _ in f.conditions for s in ConditionStatus)


def _why(f: Figures) -> Iterator[Row]:
    return (((kind, reason), 1.0) for kind, status, reason in f.conditions if status != ConditionStatus.TRUE)


def _breaker(f: Figures) -> Iterator[Row]:
    return (((state,), float(state == f.breaker)) for state in BREAKER_STATES if f.breaker)


def _scored(f: Figures) -> Iterator[Row]:
    return (((gate,), score) for gate, score in f.scores)


def _counted(counts: Counts) -> Iterator[Row]:
    return ((labels, float(count)) for labels, count in counts.items())


FAMILIES = (
    Family(
        "despina_program_info", "gauge", "1 for each program, with the versions and the strategy of its last rollout.",
        ("active", "candidate", "strategy"), _info,
    ),
    Family("despina_rollout_step", "gauge", "1 for the step of the rollout under way.", ("step",), _step),
    Family("despina_program_condition", "gauge", "1 for the status of a condition.", ("type", "status"), _condition),
    Family(
        "despina_program_condition_reason", "gauge", "1 for the reason of a condition that is not True.",
        ("type", "reason"), _why,
    ),
    Family(
        "despina_program_breaker_state", "gauge", "1 for the state of a program's breaker over all replicas.",
        ("state",), _breaker,
    ),
    Family("despina_gate_score_percent", "gauge", "The last candidate's score at a gate.", ("gate",), _scored),
    Family(
        "despina_gate_results", "counter", "Gates that were decided, by result.", ("gate", "result"),
        lambda f: _counted(f.gates),
    ),
    Family(
        "despina_rollouts", "counter", "Rollouts that ended, by how and why.", ("result", "reason"),
        lambda f: _counted(f.rollouts),
    ),
)  # fmt: skip
"""All metrics of programs that the operator shows."""
