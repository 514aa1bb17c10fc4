"""Whatever happens in whatever order, nothing happens that must not, and everything comes to rest.

What may happen is listed in `tests/support/simulator/events.py`, what must hold in `truth.py` and `rest.py` beside it.
`make test` tries some schedules of each kind, `make schedules` 10,000.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, note, settings

from tests.support.simulator.schedule import KINDS, NATURES, run, schedules

SCHEDULES = int(os.environ.get("SCHEDULES", "0"))
USUALLY = 60


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_schedules(kind):
    # Always the same ones, unless somebody looks for others: a change is judged by what it changes.
    @settings(
        max_examples=SCHEDULES or USUALLY,
        derandomize=not SCHEDULES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(NATURES, schedules(kind.events))
    def whatever_happens(natures, schedule):
        note(f"{natures}\n{[event for event in schedule if event[0] != 'nothing']}")  # Hypothesis leaves them out
        run(kind, natures, schedule)

    whatever_happens()
