"""When the operator looks again though nothing happens, and what it says and remembers of what could not be written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from despina.api.placement import PlacementProfile
from despina.api.pods import Accelerator
from despina.cluster import execute
from despina.decide.observed import Observed, Trouble
from despina.decide.plan import Outcome
from despina.decide.rollout import decide
from despina.decide.strategy import MOST_PATIENCE_SECONDS
from despina.status.report import report
from tests.support.gen import DEFAULTS, a_deployment, a_program, config_of, observed, pods, serving
from tests.support.simulator.registry import Nature
from tests.support.simulator.schedule import KINDS, happen, rest, simulated
from tests.support.simulator.world import World
from tests.unit.test_decisions_hold import NOW, status


@pytest.fixture
def said(monkeypatch):
    """The reasons of all Events, and how often."""
    reasons: Counter[str] = Counter()

    async def emit(event, owner, cluster):
        reasons[event.reason] += 1

    monkeypatch.setattr(execute, "emit", emit)
    with simulated():
        yield reasons


def after(kind: str, *schedule: tuple[str, object]) -> World:
    """A program of some kind whose first version serves, and to which all this has happened."""
    world = World(KINDS[kind].spec(), {version: Nature() for version in "1234"})
    rest(world)
    for name, value in schedule:
        happen(world, name, value)
    return world


def version_of(world: World) -> str:
    return world.truth.configs[world.reached or ""].model.version


# Moments


def test_pods_that_cannot_be_heard_are_waited_for_for_a_while_and_replaced(said):
    world = after("Auto with breaker", ("mute", True), ("alias", "2"), ("rounds", MOST_PATIENCE_SECONDS - 1))
    assert world.status["rollout"]["strategy"] == "HotSwap"
    happen(world, "rounds", 4)
    assert world.status["rollout"]["strategy"] == "BlueGreen"
    happen(world, "mute", False)
    happen(world, "rounds", 10)
    assert version_of(world) == "2"


def test_an_order_that_was_lost_is_given_again(said):
    world = after("HotSwap", ("orders_lost", True), ("alias", "2"), ("rounds", 2), ("orders_lost", False))
    happen(world, "rounds", 10)
    assert version_of(world) == "2"


def without_room() -> Observed:
    program = a_program(placement={"profile": "gpu"}, rollout={"strategy": "Auto"})
    fields = serving(program, "1")
    fields["deployments"] = tuple(
        replace(view, shape={"code": "other"}, config=config_of(program, view.version))
        for view in (*fields["deployments"], a_deployment(program, "2"))
    )
    no_room = Trouble("Unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu")
    fields["pods"] += pods(program, "2", trouble=no_room)
    pools = {"gpu": PlacementProfile(accelerator=Accelerator(resource="nvidia.com/gpu"))}
    return observed(program, "2", **fields, status=status(), defaults=replace(DEFAULTS, profiles=pools))


def test_new_pods_without_a_device_take_the_old_ones_place_before_they_are_given_up():
    o, now, ways = without_room(), NOW, []
    while not (plan := decide(o, now)).quarantined:
        ways.append((now - NOW, plan.strategy.name))
        o, now = replace(o, status=report(o, plan, Outcome(), now)), now + plan.again
    assert ways == [(0, "BlueGreen"), (20, "BlueGreen"), (300, "Recreate"), (320, "Recreate"), (600, "Recreate")]
    assert now - NOW == 900, "each way has its own time"


def test_another_way_that_is_found_when_time_is_over_is_not_given_up_as_it_begins():
    o = without_room()
    plan = decide(replace(o, status=report(o, decide(o, NOW), Outcome(), NOW)), NOW + 700)
    assert (plan.strategy.name, plan.step, plan.quarantined) == ("Recreate", "Prepare", ())
    assert plan.clock.elapsed(NOW + 700) == 0
