"""Whether a version is better than another on the same rows."""

from __future__ import annotations

import pytest

from despina_runtime.evaluation.judgement import is_better, is_worse, judge

CASES = {
    "nothing differs": ([1, 0, 1], [1, 0, 1], "equal"),
    "ten mended, none broken": ([0] * 10, [1] * 10, "better"),
    "ten broken, none mended": ([1] * 10, [0] * 10, "worse"),
    "as many mended as broken": ([0, 1] * 20, [1, 0] * 20, "equal"),
    "three of three may be chance": ([0] * 3, [1] * 3, "equal"),
    "one loss is a loss": ([1] + [0] * 9, [0] * 10, "worse"),
    "graded gains": ([0.2, 0.3, 0.1, 0.4] * 5, [0.5, 0.6, 0.5, 0.7] * 5, "better"),
    "graded losses": ([0.5, 0.6, 0.5, 0.7] * 5, [0.2, 0.3, 0.1, 0.4] * 5, "worse"),
}


@pytest.mark.parametrize("case", CASES)
def test_which_is_better(case):
    base, candidate, expected = CASES[case]
    found = judge(base, candidate, seed=1)
    assert ("better" if is_better(found, 0.05) else "worse" if is_worse(found) else "equal") == expected
    assert found.interval[0] <= found.gain <= found.interval[1]
    assert found.gain == pytest.approx(found.candidate - found.base)
    assert found == judge(base, candidate, seed=1)


def test_the_mid_p_value_of_twelve_mended_and_two_broken():
    found = judge([0] * 12 + [1] * 2, [1] * 12 + [0] * 2, seed=1)
    assert found.p == pytest.approx(0.00372, abs=1e-4)
