"""Situations for the tests of decisions: version 1 serves, and 2 stands beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from despina.api.status import Memory
from despina.decide.observed import Observed
from despina.decide.plan import Strategy
from despina.decide.rollout import asked_revision, situation
from despina.decide.situation import Situation
from despina.wire import HeldRevision, PodState
from tests.support.gen import a_deployment, a_program, config_of, hash_of, observed, pods, serving

NOW = 1_000_000.0
P = a_program()
BESIDE = Strategy("BlueGreen", "so")


def beside(program: Any = P, target: str = "2", ready: bool = True, two: dict | None = None, **pod: Any) -> Observed:
    """Version 1 serves in two pods, and 2 has two beside it."""
    fields = serving(program, "1", 2)
    fields["deployments"] = tuple(replace(d, config=config_of(program, "1")) for d in fields["deployments"])
    fields["deployments"] += (a_deployment(program, "2", **(two or {})),)
    held = PodState(held={hash_of(program, "2"): HeldRevision(phase="Ready")})
    fields["pods"] += pods(program, "2", 2, **{"ready": ready, "report": held} | pod)
    return observed(program, target, **fields)


def at(o: Observed, memory: Memory | None = None, **changes: Any) -> Situation:
    entries = memory.quarantined if memory else ()
    return replace(situation(o, NOW, asked_revision(o), entries, memory), **{"strategy": BESIDE, **changes})
