"""Whatever happens in whatever order, callers are never sent where nobody answers, and everything settles."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gen import a_program, hash_of
from tests.support.simulator import Simulator

EVENTS = st.one_of(
    st.tuples(st.just("operate"), st.none()),
    st.tuples(st.just("killed"), st.integers(0, 6)),
    st.tuples(st.just("control"), st.none()),
    st.tuples(st.just("start"), st.none()),
    st.tuples(st.just("publish"), st.none()),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("alias"), st.sampled_from(["1", "2", "3"])),
    st.tuples(st.just("registry"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 40.0, 700.0])),
    st.tuples(st.just("replicas"), st.integers(1, 4)),
)


def happen(world: Simulator, event: str, argument) -> None:
    match event:
        case "operate":
            world.operate()
        case "killed":
            world.operate(stop_after=argument)
        case "control":
            world.control()
        case "start":
            world.start_pods()
        case "publish":
            world.publish()
        case "crash":
            world.crash()
        case "alias":
            world.alias = argument
        case "registry":
            world.registry_up = argument
        case "wait":
            world.now += argument
        case "replicas":
            spec = world.program.spec.model_copy(update={"replicas": argument})
            world.program = world.program.model_copy(update={"spec": spec})


def active(world: Simulator) -> str | None:
    return world.services.get(world.program.name)


def settle(world: Simulator) -> None:
    """Let everything run its course, with nothing new."""
    world.registry_up = True
    for _ in range(12):
        world.operate()
        world.control()
        world.start_pods()
        world.publish()
        world.now += 120


@settings(max_examples=600, deadline=None)
@given(st.lists(EVENTS, max_size=40), st.sets(st.sampled_from(["2", "3"])))
def test_schedules(events, broken):
    world = Simulator(a_program(), frozenset(broken))
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
    listed = {e.version for e in world.status.model.quarantined}
    if world.alias in world.broken:
        assert active(world) != hash_of(world.program, world.alias), "a broken version serves"
    elif world.alias not in listed:  # one that had no time to start is listed, too
        assert active(world) == hash_of(world.program, world.alias)
    assert world.ready(active(world)) == world.program.spec.replicas
    assert world.operate().actions == (), "a settled world is left alone"
    serving = world.status.active
    assert serving is not None
    assert serving.revision == active(world), "the status tells what serves"


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=30))
def test_a_rollout_never_makes_a_program_unavailable(events):
    """Without crashes and edits of the size, whatever the operator does, the active pods stay ready."""
    world = Simulator(a_program(replicas=2), frozenset({"2"}))
    settle(world)
    for event, argument in events:
        if event in ("crash", "replicas"):
            continue
        happen(world, event, argument)
        assert world.ready(active(world)) >= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=30), st.sets(st.sampled_from(["2", "3"])))
def test_recreate_settles_too(events, broken):
    world = Simulator(a_program(rollout={"strategy": "Recreate"}), frozenset(broken))
    settle(world)
    for event, argument in events:
        happen(world, event, argument)
        assert active(world)
    settle(world)
    assert world.ready(active(world)) == world.program.spec.replicas
    assert world.operate().actions == ()
