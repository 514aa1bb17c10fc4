"""The list of programs: what stands in a row, and what needs attention first (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from despina.dashboard import words
from despina.dashboard.counting import Gauges
from despina.dashboard.facts import Facts, Key
from despina.dashboard.rates import Sample
from despina.status.why import duration

BAD, WARN, BUSY, OFF, OK = "bad", "warn", "busy", "off", "ok"
ICONS = {BAD: "✕", WARN: "▲", BUSY: "◐", OFF: "○", OK: "✓"}
STUCK_SECONDS = 1800.0
HELD_UP = {"Refused": "waits for a manifest that a gate can accept", "AwaitPromotion": "waits to be promoted by hand"}


class Notice(NamedTuple):
    """What a program's owner should know, the worst first."""

    rank: int
    level: str
    word: str
    text: str


class Row(NamedTuple):
    """One program as the list shows it."""

    key: Key
    state: Notice
    needs: tuple[Notice, ...]
    """What needs attention; nothing where all is well."""
    cells: dict[str, str]


def row_of(facts: Facts, sample: Sample, gauges: Gauges, degraded: float, now: float) -> Row:
    """A program at this moment."""
    needs = tuple(sorted(_needs(facts, gauges, degraded, now)))
    state = needs[0] if needs else _state(facts)
    return Row(facts.key, state, needs, _cells(facts, sample, state))


def in_order(rows: list[Row]) -> list[Row]:
    """What needs attention first, the worst of it at the top; the rest by name."""
    return sorted(rows, key=lambda row: (row.needs[0].rank if row.needs else 9, row.key))


def _needs(facts: Facts, gauges: Gauges, degraded: float, now: float) -> Iterator[Notice]:
    if facts.is_suspended:
        return
    if facts.ready.status == "False":
        yield Notice(0, BAD, "Not ready", f"{facts.ready.reason}: {facts.ready.message}")
    if facts.breaker == "Open" or gauges.breakers_open:
        yield Notice(1, BAD, "Breaker open", facts.breaker_said or "too many requests failed; nothing is executed")
    if facts.up_to_date.reason == "VersionQuarantined":
        yield Notice(2, WARN, "Quarantined", facts.up_to_date.message)
    if facts.step and facts.step in HELD_UP:
        yield Notice(3, WARN, "Held up", f"version {facts.candidate} {HELD_UP[facts.step]}")
    elif facts.progressing.status == "False" or (facts.step and now - facts.step_since > STUCK_SECONDS):
        yield Notice(3, WARN, "Rollout stuck", _stuck(facts, now))
    if facts.breaker == "HalfOpen":
        yield Notice(4, WARN, "Breaker half open", facts.breaker_said)
    if degraded:
        yield Notice(5, WARN, "Degraded", f"{words.number(degraded)} answers of the fallback just now")


def _stuck(facts: Facts, now: float) -> str:
    if facts.progressing.status == "False":
        return f"{facts.progressing.reason}: {facts.progressing.message}"
    return f"version {facts.candidate} stands at {facts.step} for {duration(now - facts.step_since)}"


def _state(facts: Facts) -> Notice:
    if facts.is_suspended:
        return Notice(9, OFF, "Suspended", "spec.suspend is true")
    if facts.step:
        return Notice(9, BUSY, "Rolling out", f"version {facts.candidate}: {facts.step}")
    if facts.ready.status == "True":
        return Notice(9, OK, "Ready", facts.ready.message)
    return Notice(9, BUSY, "Starting", facts.ready.message or "the operator has said nothing of it yet")


def _cells(facts: Facts, sample: Sample, state: Notice) -> dict[str, str]:
    return {
        "icon": ICONS[state.level],
        "word": state.word,
        "version": f"v{facts.version}" if facts.version else words.NOTHING,
        "step": f"v{facts.candidate} {facts.step}" if facts.step else "",
        "requests": words.number(sample.requests),
        "p50": words.seconds(sample.p50),
        "p95": words.seconds(sample.p95),
        "errors": words.share(words.ratio(sample.errors, sample.requests)),
        "cached": words.share(sample.cached),
        "tokens": words.number(sample.tokens),
        "cost": words.dollars(sample.cost),
        "score": facts.score or words.NOTHING,
    }
