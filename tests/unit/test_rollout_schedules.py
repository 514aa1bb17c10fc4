"""Whatever happens in whatever order, callers are never sent where nobody answers, and everything settles.

Hundreds of schedules of each kind in `make test`, where SCHEDULES does not say how many; `make schedules` tries 10,000.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from despina.api.revision import revision_of
from tests.support.gen import a_program, ref
from tests.support.simulator import Simulator

SCHEDULES = int(os.environ.get("SCHEDULES", "0"))
VERSIONS = ["1", "2", "3", "4"]
EVENTS = st.one_of(
    st.tuples(st.just("operate"), st.none()),
    st.tuples(st.just("killed"), st.integers(0, 8)),
    st.tuples(st.just("control"), st.none()),
    st.tuples(st.just("start"), st.none()),
    st.tuples(st.just("publish"), st.none()),
    st.tuples(st.just("listen"), st.none()),
    st.tuples(st.just("serve"), st.none()),
    st.tuples(st.just("round"), st.none()),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("stale"), st.none()),
    st.tuples(st.just("orders"), st.booleans()),
    st.tuples(st.just("alias"), st.sampled_from(VERSIONS)),
    st.tuples(st.just("registry"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 40.0, 700.0])),
    st.tuples(st.just("replicas"), st.integers(1, 4)),
    st.tuples(st.just("lm"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("cpu"), st.sampled_from(["1", "2"])),
    st.tuples(st.just("paused"), st.booleans()),
    st.tuples(st.just("hpa"), st.integers(1, 4)),
    st.tuples(st.just("failing"), st.sampled_from(["Program", "Upstream", None])),
)
FATES = st.fixed_dictionaries(
    {
        "broken": st.frozensets(st.sampled_from(["2", "3"]), max_size=1),
        "other_code": st.frozensets(st.sampled_from(["3", "4"])),
        "erring": st.frozensets(st.sampled_from(["2", "4"]), max_size=1),
        "failing_gate": st.frozensets(st.sampled_from(["3"])),
    }
)
GATES = [
    {"name": "smoke", "type": "Smoke", "smoke": {"inputs": {}}},
    {"name": "schema", "type": "SchemaCompatibility"},
]


def program_with(strategy: str, **changes):
    rollout = {"strategy": strategy, "gates": GATES, "postPromotion": {"watchSeconds": 60}}
    lms = [{"name": "a", "model": "openai/a"}, {"name": "b", "model": "openai/b"}]
    return a_program(lms=lms, rollout=rollout, **changes)


def happen(world: Simulator, event: str, argument) -> None:
    match event:
        case "operate":
            world.operate()
        case "killed":
            world.operate(stop_after=argument)
        case "round":
            play(world)
        case "alias":
            world.alias = argument
        case "registry":
            world.registry_up = argument
        case "orders":
            world.loses_orders = argument
        case "wait":
            world.now += argument
        case "replicas":
            edit(world, replicas=argument)
        case "lm":
            edit(world, lm=argument)
        case "cpu":
            edit(world, resources=world.program.spec.resources.model_copy(update={"requests": {"cpu": argument}}))
        case "paused":
            state = "Paused" if argument else "Active"
            edit(world, rollout=world.program.spec.rollout.model_copy(update={"state": state}))
        case "hpa":
            world.autoscale(argument)
        case "failing":
            world.failing = argument
        case "stale":
            world.forget_generation()
        case _:
            {"control": world.control, "start": world.start_pods, "publish": world.publish, "listen": world.listen,
             "serve": world.serve, "crash": world.crash}[event]()  # fmt: skip


def edit(world: Simulator, **changes) -> None:
    spec = world.program.spec.model_copy(update=changes)
    world.program = world.program.model_copy(update={"spec": spec})


def play(world: Simulator) -> None:
    """Everybody has a turn."""
    world.operate()
    world.control()
    world.start_pods()
    world.publish()
    world.serve()
    world.listen()
    world.now += 1


def active(world: Simulator) -> str | None:
    return world.services.get(world.program.name)


def settle(world: Simulator) -> None:
    """Let everything run its course, with nothing new."""
    world.registry_up, world.loses_orders, world.failing = True, False, None
    happen(world, "paused", False)
    for _ in range(4):
        for _ in range(10):
            play(world)
        world.now += 400
    for _ in range(6):
        play(world)


def assert_settled(world: Simulator) -> None:
    wanted = revision_of(world.program, ref(world.alias)).hash
    listed = {e.version for e in world.status.model.quarantined}
    if world.alias in world.broken:
        assert world.serving != wanted, "a broken version serves"
    elif world.alias not in listed:  # one that had no time to start is listed, too
        assert world.serving == wanted
    view = next(d for d in world.deployments.values() if d.revision == active(world))
    assert world.ready(active(world)) == view.replicas >= 1
    if world.program.spec.autoscaling is None:
        assert view.replicas == world.program.spec.replicas
    answering = {
        r.config.revision for n, r in world.runtimes.items() if world.pods[n].revision == active(world) and r.config
    }
    assert answering == {world.serving}, "every pod serves what the operator means"
    assert world.operate().steps == (), "a settled world is left alone"
    serving = world.status.active
    assert serving is not None
    assert serving.revision == world.serving, "the status tells what serves"
    assert not world.promoted_in_quarantine
    for runtime in world.runtimes.values():
        assert len(runtime.held) == 1, "memory of other revisions is free"


def assert_few_restarts(world: Simulator) -> None:
    for at in world.restarts:
        assert sum(at - 3600 < other <= at for other in world.restarts) <= 3


KINDS = {
    "Auto": {"strategy": "Auto", "breaker": {}},
    "autoscaled": {"strategy": "Auto", "autoscaling": {"minReplicas": 1, "maxReplicas": 4}},
    "HotSwap": {"strategy": "HotSwap"},
    "BlueGreen": {"strategy": "BlueGreen"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_schedules(kind):
    @settings(max_examples=SCHEDULES or (600 if kind == "Auto" else 150), deadline=None)
    @given(st.lists(EVENTS, max_size=40), FATES)
    def run(events, fates):
        world = Simulator(program_with(**KINDS[kind]), **fates)
        settle(world)
        for event, argument in events:
            before = active(world)
            could_answer = world.ready(before)
            happen(world, event, argument)
            after = active(world)
            assert after, "the selector is empty"
            if after != before and could_answer:
                assert world.ready(after), "callers were sent from ready pods to none"
            if event in ("operate", "killed") and could_answer:
                assert world.ready(after) or world.pods, "a pass of the operator took the pods away"
        settle(world)
        assert_settled(world)
        assert_few_restarts(world)

    run()


@settings(max_examples=SCHEDULES or 200, deadline=None)
@given(st.lists(EVENTS, max_size=30), FATES)
def test_a_rollout_never_makes_a_program_unavailable(events, fates):
    """Without crashes and edits of the size, whatever the operator does, the active pods stay ready."""
    world = Simulator(program_with("Auto", replicas=2), **fates)
    settle(world)
    for event, argument in events:
        if event in ("crash", "replicas"):
            continue
        happen(world, event, argument)
        assert world.ready(active(world)) >= 1
        said = {c.type: c.status for c in world.status.conditions}
        assert said["Available"] == "True"


@settings(max_examples=SCHEDULES or 200, deadline=None)
@given(st.lists(EVENTS, max_size=30), FATES)
def test_recreate_settles_too(events, fates):
    world = Simulator(program_with("Recreate"), **fates)
    settle(world)
    for event, argument in events:
        happen(world, event, argument)
        assert active(world)
    settle(world)
    assert world.ready(active(world)) == world.program.spec.replicas
    assert world.operate().steps == ()
