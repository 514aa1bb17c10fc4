"""Time for decisions goes on steadily, whatever is done to the machine's clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from despina.reconcile.clock import SteadyClock


class Machine:
    wall, monotonic = 1_000_000.0, 50.0

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.mark.parametrize("jump", [600.0, -600.0])
def test_a_clock_that_is_set_moves_no_deadline_at_once_and_is_followed_in_time(jump):
    machine = Machine()
    clock = machine.clock()
    machine.wall += jump
    assert clock() == 1_000_000.0
    machine.wait(10)
    assert clock() == pytest.approx(1_000_010 + (1 if jump > 0 else -1))
    for _ in range(700):
        machine.wait(10)
        clock()
    assert clock() == pytest.approx(machine.wall)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6))))
def test_it_never_goes_back_nor_much_faster_than_time(moments):
    machine = Machine()
    clock = machine.clock()
    now = clock()
    for passed, jump in moments:
        machine.wait(passed)
        machine.wall += jump
        before, now = now, clock()
        assert 0.89 * passed - 1e-3 <= now - before <= 1.11 * passed + 1e-3
