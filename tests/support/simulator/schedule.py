"""Kinds of programs, and schedules of what happens to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from despina.api.program import Program
from tests.support.gen import a_manifest
from tests.support.simulator import events
from tests.support.simulator.events import EVENTS, OPTIMIZATION
from tests.support.simulator.operator import simulated
from tests.support.simulator.registry import Nature
from tests.support.simulator.rest import check_rest, condition, settle
from tests.support.simulator.world import World

GATES = [
    {"name": "smoke", "type": "Smoke", "smoke": {"inputs": {}}},
    {"name": "schema", "type": "SchemaCompatibility"},
]
SCORE = {
    "name": "score",
    "type": "Evaluate",
    "timeoutSeconds": 300,
    "evaluate": {"datasetRef": {"configMap": {"name": "held-out", "key": "all.jsonl"}}, "test": "Paired"},
}
NATURES = st.fixed_dictionaries(
    {
        "1": st.sampled_from([Nature(), Nature(), Nature(errors=5)]),
        "2": st.sampled_from([Nature(), Nature(errors=30), Nature(broken=True), Nature(slow=True)]),
        "3": st.sampled_from(
            [Nature(), *(Nature(fails=frozenset([g])) for g in ("Smoke", "SchemaCompatibility", "Evaluate"))]
        ),
        "4": st.sampled_from([Nature(), Nature(code="other"), Nature(code="other", errors=30), Nature(errors=30)]),
    }
)


def manifest(
    strategy: str = "Auto", evaluates: bool = False, blue_green: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """The spec of a program that is released in some way."""
    rollout = {
        "strategy": strategy,
        "gates": [*GATES, *([SCORE] if evaluates else [])],
        "postPromotion": {"watchSeconds": 60, "maxP95LatencyMillis": 5000},
        **({"blueGreen": blue_green} if blue_green else {}),
    }
    lms = [{"name": "a", "model": "openai/a"}, {"name": "b", "model": "openai/b"}]
    found = a_manifest(lms=lms, rollout=rollout, **spec)["spec"]
    Program.parse(a_manifest(**found))
    return found


WAY = (
    "rounds",
    "rounds",
    "rounds",
    "rounds",
    "operate",
    "control",
    "start",
    "publish",
    "listen",
    "serve",
    "jobs",
    "wait",
)
PEOPLE = ("alias", "alias", "alias", "lm", "cpu", "paused", "replicas", "pin", "suspend", "scaled_by_hand")
HANDS = ("promote", "promote", "abort", "retry", "restart", "auto_promotion")
SOURCES = ("default_server", "model_made_anew", "model_exists", "source_version", "registry")
MISFORTUNE = (
    "interrupted", "killed", "away", "crash", "starts_with_old_news", "orders_lost", "orders_refused", "failing", "evicted", "unready_for_a_moment", "worker_lost",
    "start_fails_once", "quota", "mute", "drained", "clock_jumps", "key_replaced", "refused", "unreadable", "permitted", "deleted",
)  # fmt: skip
DAMAGE = (
    "status_damaged", "status_lost", "note_damaged", "memory_lost", "odd_reports", "backup", "restored", "selector_edited",
    "unlabelled", "second_operator", "second_operator",
)  # fmt: skip
LOOP = ("labelled", "labelled", "optimize", "finds", "optimization", "marks_lost", "rounds", "rounds")
ALL = (*WAY, *PEOPLE, *HANDS, *SOURCES, *MISFORTUNE)
MINIMUM, MAXIMUM = 16, 44


def schedules(names: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Lists of events. What cannot be left out shrinks to nothing."""
    one = st.one_of([st.tuples(st.just(name), EVENTS[name][1]) for name in ("nothing", *names)])
    return st.lists(one, min_size=MINIMUM, max_size=MAXIMUM)


@dataclass(frozen=True)
class Kind:
    """Programs that are released in one way, and what happens to them."""

    spec: Callable[[], dict[str, Any]]
    events: tuple[str, ...]
    always: Callable[[World], None] = lambda world: None
    """What must hold after each event, beside what must hold for all kinds."""
    is_up: bool = True
    """Whether the first version has come up before anything happens."""


def run(kind: Kind, natures: dict[str, Nature], schedule: list[tuple[str, Any]]) -> World:
    """A program's first version comes up, everything happens, and it comes to rest: as it is, and with all going on."""
    with simulated():
        world = World(kind.spec(), natures)
        if kind.is_up:
            rest(world)
        for name, value in schedule:
            happen(world, name, value)
            kind.always(world)
        finish(world)
        return world


def happen(world: World, name: str, value: Any) -> None:
    EVENTS[name][0](world, value)
    complain(world)


def complain(world: World) -> None:
    """All violations of one moment have one cause, so that one of them is enough."""
    if world.truth.violations:
        raise AssertionError(world.truth.violations[0])


def rest(world: World) -> None:
    settle(world)
    complain(world)
    check_rest(world)
    complain(world)


def finish(world: World) -> None:
    """Misfortune ends, and what people asked for must come about; then they ask for everything to go on."""
    if world.api.refused:
        happen(world, "rounds", 10)
    heal(world)
    rest(world)
    if resume(world):
        rest(world)


def heal(world: World) -> None:
    for operator in world.operators:
        operator.go_on()
    world.api.refused.clear()
    world.hiccups.clear()
    world.mlflow.is_up, world.failing, world.pods_allowed = True, None, None
    world.loses_orders = world.refuses_orders = world.is_mute = world.loop.is_deaf = False
    world.truth.people_asked()


def resume(world: World) -> bool:
    """Whether there was anything to go on with."""
    before = world.spec, world.mlflow.exists, world.mlflow.aliases.copy()
    world.mlflow.exists = True
    if None in world.mlflow.aliases.values():
        events.alias(world, "1")
    world.edit(suspend=None, replicas=world.spec.get("replicas", 1) or 1)
    events.rollout(world, state="Active")
    world.truth.people_asked()
    return (world.spec, world.mlflow.exists, world.mlflow.aliases) != before


def answers(world: World) -> None:
    """Whatever the operator does, callers find pods that are ready, and the status says so."""
    assert world.ready(world.active), "no pod that callers reach is ready"
    assert condition(world, "Available")[0] != "False", "Available is False"


QUIET = {"crash", "evicted", "unready_for_a_moment", "quota", "deleted", "replicas", "suspend", "scaled_by_hand"}
KINDS = {
    "Auto with breaker": Kind(partial(manifest, breaker={}, evaluates=True), ALL),
    "autoscaled": Kind(
        partial(manifest, autoscaling={"minReplicas": 1, "maxReplicas": 4}), (*ALL, "autoscale", "autoscale")
    ),
    "HotSwap": Kind(partial(manifest, "HotSwap", replicas=2), ALL),
    "BlueGreen": Kind(partial(manifest, "BlueGreen", evaluates=True, replicas=2), ALL),
    "Recreate": Kind(partial(manifest, "Recreate", evaluates=True), ALL),
    "by hand": Kind(
        partial(manifest, evaluates=True, blue_green={"autoPromotion": "Disabled"}),
        (*WAY, *PEOPLE, *HANDS, *HANDS, *MISFORTUNE),
    ),
    "first start": Kind(partial(manifest, replicas=2), ALL, is_up=False),
    "optimized": Kind(
        partial(manifest, replicas=1, feedback={}, optimization=OPTIMIZATION),
        (*WAY, *PEOPLE, *LOOP, *LOOP, *LOOP, *(e for e in MISFORTUNE if e not in ("clock_jumps", "key_replaced"))),
    ),
    "damaged": Kind(partial(manifest, evaluates=True), (*WAY, *PEOPLE, *HANDS, *DAMAGE, *DAMAGE)),
    "availability": Kind(
        partial(manifest, replicas=2),
        tuple(name for name in (*ALL, "status_lost", "second_operator") if name not in QUIET),
        answers,
    ),
}
