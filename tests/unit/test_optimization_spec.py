"""What may be asked of optimisations. `tests/cluster/test_schema.py` has the same said by the API server."""

from __future__ import annotations

import pytest

from despina.api.program import Program
from despina.api.revision import revision_of
from despina.cluster.observe import Unreadable, parse
from tests.support.gen import a_manifest, a_program, ref
from tests.support.optimizations import BAD, BUDGET, GOLDEN, WHOLE, loop, trigger


@pytest.mark.parametrize("case", BAD)
def test_a_bad_optimisation_is_refused_with_the_fields_name(case):
    parts, words = BAD[case]
    found = parse(Program, a_manifest(**parts))
    assert isinstance(found, Unreadable)
    assert words in found.message


@pytest.mark.parametrize("schedule", ["60 * * * *", "0 3 * * MOON", "0 0 31 2 *", "a b c d e"])
def test_a_moment_that_never_comes_is_refused(schedule):
    """The API server knows no calendar."""
    found = parse(Program, a_manifest(**trigger("Schedule", schedule=schedule)))
    assert isinstance(found, Unreadable)
    assert f"triggers[].schedule: {schedule!r} is no moment in cron's five fields" in found.message


@pytest.mark.parametrize("schedule", ["0 3 * * *", "*/5 8-18  * * MON-FRI", "0 0 29 2 *", "0 3 L * *"])
def test_a_moment_that_comes_is_taken(schedule):
    program = parse(Program, a_manifest(**trigger("Schedule", schedule=schedule)))
    assert isinstance(program, Program)


def test_all_that_can_be_said_is_taken():
    asked = a_program(**WHOLE).spec.optimization
    assert asked is not None
    assert (asked.budget.a_day, asked.triggers[0].name, asked.promotion.mode) == (4000, "failures", "Auto")


def test_a_budget_is_enough():
    asked = a_program(**loop()).spec.optimization
    assert asked is not None
    assert (asked.budget.a_day, asked.triggers, asked.promotion.mode, asked.requests) == (
        1200,
        (),
        "Propose",
        "Disabled",
    )
    assert asked.optimizer.name == "BootstrapFewShotWithRandomSearch"


@pytest.mark.parametrize(("settings", "restarts"), [
    ({"triggers": [{"name": "a", "type": "FailureRate"}], "dataset": {"goldenRef": GOLDEN}}, False),
    ({"budget": BUDGET | {"maxUSD": "1"}}, False),
    ({"requests": "Enabled"}, True),
])  # fmt: skip
def test_pods_are_made_anew_for_what_they_need_to_know_alone(settings, restarts):
    before, after = (revision_of(a_program(**loop(**more)), ref("1")).hash for more in ({}, settings))
    assert (before != after) is restarts
