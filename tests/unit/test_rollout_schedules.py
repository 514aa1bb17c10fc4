"""Whatever happens in whatever order, callers are never sent where nobody answers, nobody's way back is undone, nothing
serves that was refused, and everything settles.

`tests/support/simulator` says what can happen and what must hold. A few dozen schedules of each kind in `make test`; `make
schedules` tries 10,000 of each.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.simulator.schedule import KINDS, NATURES, run, schedules

SCHEDULES = int(os.environ.get("SCHEDULES", "150"))


@pytest.mark.parametrize("kind", KINDS)
def test_schedules(kind):
    chosen = KINDS[kind]

    @settings(max_examples=SCHEDULES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(NATURES, schedules(chosen.events))
    def hold(natures, schedule):
        run(chosen.spec(), natures, schedule)

    hold()
