"""When the operator looks again though nothing happens, and what it says and remembers of what could not be written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from despina.api.placement import PlacementProfile
from despina.api.pods import Accelerator
from despina.cluster import execute
from despina.cluster.errors import Refused
from despina.decide.observed import Observed, Trouble
from despina.decide.plan import Apply, Chain, Emit, Outcome, Scale
from despina.decide.rollout import decide
from despina.decide.strategy import MOST_PATIENCE_SECONDS
from despina.reconcile.carry import REFUSED_AGAIN_SECONDS, Carrier
from despina.status.report import report
from despina.wire import Counts, PodState
from tests.support.gen import DEFAULTS, a_deployment, a_program, config_of, found, hash_of, observed, pods, serving
from tests.support.simulator.api import Client
from tests.support.simulator.operator import NAME
from tests.support.simulator.registry import Nature
from tests.support.simulator.schedule import KINDS, happen, rest, simulated
from tests.support.simulator.world import World
from tests.unit.test_decisions_hold import NOW, active, served, status
from tests.unit.test_refusals import Stubborn, document


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


class Busy(Client):
    """A cluster in which somebody writes a note on the program whenever a pass reads what belongs to it."""

    async def list(self, kind, namespace, labels):
        self.api.note("DSPyProgram", NAME, {"example.com/seen": str(self.api.version)})
        return await super().list(kind, namespace, labels)


def test_whoever_notes_something_on_the_program_in_every_pass_keeps_it_from_no_rollback(said):
    world = World(KINDS["BlueGreen"].spec(), {"2": Nature(errors=30)})
    rest(world)
    world.operators[0].client = Busy(world.api)
    happen(world, "alias", "2")
    reached = []
    for _ in range(36):
        world.play()
        reached += [version_of(world)]
    assert (set(reached), reached[-1]) == ({"1", "2"}, "1")


def test_an_evaluation_that_cannot_be_made_is_not_tried_in_haste(said):
    world = after("BlueGreen", ("refused", ("Job", "create", 403)), ("alias", "2"))
    passes = []
    while world.now < 1_004_000 + 3600:
        happen(world, "rounds", 1)
        passes.append(world.operators[0].waits)
        world.now += min(world.operators[0].waits or 0, 60)
    assert min(wait for wait in passes[20:] if wait is not None) > 25


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


def test_pods_load_a_version_while_the_operator_writes_down_that_they_do(said, monkeypatch):
    world = after("HotSwap")
    done, order = world.api.writes, World.order
    monkeypatch.setattr(World, "order", lambda self, tell: done.append(tell.order) or order(self, tell))
    done.clear()
    happen(world, "alias", "2")
    happen(world, "rounds", 10)
    prepared, written = done.index("Prepare"), done.index(("patch", "Service", "qa"))
    assert prepared < written < done.index("Commit")


# What could not be written


@pytest.mark.parametrize("kind", ["BlueGreen", "HotSwap"])
def test_callers_who_cannot_be_sent_elsewhere_are_not_said_to_be_and_nothing_is_tried_in_haste(said, kind):
    what = "Service" if kind == "BlueGreen" else "ConfigMap"
    world = after(kind, ("alias", "2"), ("rounds", 2), ("refused", (what, "patch", 403)), ("rounds", 20))
    assert world.status["rollout"]["step"] == "Promote"
    said.clear()
    serial, written, tried = world.status["serial"], len(world.api.writes), 0
    for _ in range(60):
        before = world.operators[0].due
        happen(world, "rounds", 1)
        tried += world.operators[0].due != before
    assert (version_of(world), said["Promoted"]) == ("1", 0)
    assert (world.status["serial"], world.api.writes[written:]) == (serial, []), "at rest nothing is written"
    assert tried <= 60 / REFUSED_AGAIN_SECONDS
    happen(world, "permitted", None)
    happen(world, "rounds", int(REFUSED_AGAIN_SECONDS) + 2)
    assert (version_of(world), said["Promoted"]) == ("2", 1)


def test_a_restart_that_is_refused_is_not_told_of(said):
    world = after("BlueGreen", ("refused", ("Deployment", "patch", 403)), ("restart", "x"), ("rounds", 5))
    assert said["Restarted"] == 0
    happen(world, "permitted", None)
    happen(world, "rounds", int(REFUSED_AGAIN_SECONDS) + 2)
    assert said["Restarted"] == 1


async def test_an_event_in_a_chain_tells_of_the_writes_before_it_and_comes_after_the_status():
    moved, scaled = Emit("Normal", "Promoted", "m"), Emit("Normal", "Restarted", "m")
    cluster = Stubborn({"Deployment": Refused("403")})
    carrier = Carrier(a_program(), {}, cluster)
    await carrier.carry_out((Chain((Apply(document("Service")), moved)), Chain((Scale("qa-1", 3), scaled))))
    assert cluster.done == ["apply Service"]
    await carrier.say((Emit("Warning", "SmokeFailed", "m"),))
    assert cluster.done == ["apply Service", "create Event", "create Event"]


def watched() -> Observed:
    """Version 2 is watched, and 3 stands ready to take its place."""
    program = a_program(rollout={"strategy": "BlueGreen"})
    two, three = hash_of(program, "2"), hash_of(program, "3")
    fields = serving(program, "2")
    fields["deployments"] += (
        a_deployment(program, "1", activated_at=1.0, retired_at=NOW),
        a_deployment(program, "3"),
    )
    fields["pods"] += pods(program, "1", ready=True) + pods(program, "3", ready=True)
    past = served("1", program=program) + served("2", program=program, outcome="Serving")
    known = status(promotion={"revision": two, "at": repr(NOW)}, active=active("2", program=program), history=past)
    return observed(program, "3", **fields, preview_ready={three: 1}, status=known)


def test_a_promotion_that_is_refused_does_not_end_the_watch_of_what_serves():
    o = watched()
    two = hash_of(o.program, "2")
    plan = decide(o, NOW + 20)
    assert plan.step == "Promote"
    o = replace(o, status=report(o, plan, Outcome(error="services qa: forbidden"), NOW + 20), model=found("2"))
    assert o.status.promotion.revision == two
    bad = PodState(revision=two, counts={two: Counts(ok=10, program=90)})
    o = replace(o, pods=tuple(replace(pod, report=bad) if pod.revision == two else pod for pod in o.pods))
    assert [q.reason for q in decide(o, NOW + 60).quarantined] == ["WatchFailed"]


async def test_the_status_remembers_a_promotion_as_soon_as_it_is_made():
    o, cluster = watched(), Stubborn({})
    plan = decide(o, NOW + 20)
    carrier = Carrier(o.program, o.objects, cluster)
    await carrier.carry_out(plan.actions)
    after = report(o, plan, carrier.outcome, NOW + 20)
    assert after.promotion.revision == hash_of(o.program, "3")
    assert after.serial > plan.memory.serial, "the copy that went with the write counts"
