"""A process of the operator: the real pass, over servers that are in memory.

`Reconciler` and all that it calls run as they are. Around them, the requests of a pass are answered one after the other and
without an event loop, a pass may be stopped before any of its requests (to go on later, or never: the process was killed),
and documents that were parsed once are not parsed again.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from despina.api import revision
from despina.api.program import MlflowSource
from despina.cluster import observe, tools
from despina.cluster.errors import ClusterError
from despina.decide.observed import Observed, PodView, Resolution, kind_of
from despina.decide.plan import Plan, Tell
from despina.decide.rollout import decide
from despina.reconcile import program
from despina.reconcile.carry import CONFLICT_AGAIN_SECONDS
from despina.reconcile.clock import SteadyClock
from despina.reconcile.program import Reconciler
from despina.sources.outbox import ATTEMPTS
from despina.sources.runtime_admin import FORGET_SECONDS, REFUSALS, TAKEN, UNSENT
from despina.wire import PodState, RuntimeConfig
from tests.support.simulator.api import Client, Document
from tests.support.simulator.loop import Labels, Marks

if TYPE_CHECKING:
    from tests.support.simulator.world import World

A_MOMENT = 0.001
"""No two passes are at the same time."""
NAMESPACE, NAME = KEY = ("ns", "qa")


@dataclass
class Orders:
    """What the process told whom. Pods hear it at once, or never; what they did not take is told again after a while."""

    operator: Operator
    given: dict[str, dict[str, tuple[str, float]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def told(self, _: Any, pods: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        present, oldest = set(pods), self.operator.clock() - FORGET_SECONDS
        self.given = {pod: orders for pod, orders in self.given.items() if pod in present}
        self.refused = {pod: why for pod, why in self.refused.items() if pod in present}
        return {pod: {k: what for k, (what, at) in o.items() if at > oldest} for pod, o in self.given.items()}

    def again(self, _: Any) -> float | None:
        given = [orders for pod, orders in self.given.items() if pod not in self.refused]
        left = [at + FORGET_SECONDS - self.operator.clock() for orders in given for _, at in orders.values()]
        return min((seconds for seconds in left if 0 < seconds < math.inf), default=None)

    def refusals(self, _: Any) -> Mapping[str, str]:
        return self.refused

    def tell(self, _: Any, tell: Tell) -> None:
        if tell.pod.ip is None:
            return
        status = self.operator.world.order(tell)
        lasts = status == TAKEN and tell.order in ATTEMPTS
        what = f"{tell.order} {tell.subject}", math.inf if lasts else self.operator.clock()
        self.given.setdefault(tell.pod.name, {})[kind_of(tell.order)] = what
        before = self.refused.get(tell.pod.name)
        if status != UNSENT:
            self.refused.pop(tell.pod.name, None)
        if status in REFUSALS:
            self.refused[tell.pod.name] = REFUSALS[status]
        self.operator.is_woken |= before != self.refused.get(tell.pod.name)


@dataclass
class Reports:
    """What the process heard when it last listened; it listens only while it is told to."""

    operator: Operator
    news: dict[str, PodState] = field(default_factory=dict)
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    listens: bool = False
    left: set[str] = field(default_factory=set)
    awaited: set[str] = field(default_factory=set)

    def expect(self, _: Any, pod: str) -> None:
        self.awaited.add(pod)

    def expected(self, _: Any) -> set[str]:
        return self.awaited

    def said(self, _: Any) -> Mapping[str, PodState]:
        return self.news

    def heard(self, _: Any) -> set[str]:
        return self.left

    def listen(self, _: Any, pods: Iterable[PodView], period: float | None) -> None:
        present = {p.name for p in pods if not p.ending}
        self.left = set() if period is not None else (self.left | self.news.keys()) & present
        begins = period is not None and not self.listens
        self.listens = period is not None
        if begins:
            self.hear()
        self.news = {name: said for name, said in self.news.items() if name in present} if self.listens else {}

    def forget(self, _: Any) -> None:
        self.news, self.left, self.awaited, self.listens = {}, set(), set(), False

    def hear(self) -> None:
        """One round of listening. News wake the program."""
        if self.listens:
            before, said = self.news, self.operator.world.reports()
            # Of a pod that cannot be understood once, the last word counts for a few rounds.
            self.news = {name: now for name, one in said.items() if (now := one or before.get(name))}
            self.awaited -= {name for name, one in said.items() if one}
            self.operator.is_woken |= _facts(before) != _facts(self.news)

    async def interfaces(
        self, _: Any, pods: Iterable[PodView], revisions: Iterable[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        for one in revisions:
            for runtime in self.operator.world.holders(one):
                self.known.setdefault(one, runtime.interface(one))
        return {one: self.known[one] for one in revisions if one in self.known}

    async def with_progress(self, jobs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            replace(j, progress="" if j.ip is None or j.result else self.operator.world.progress_of(j.name))
            for j in jobs
        )


@dataclass
class Registry:
    """The operator's side of MLflow."""

    operator: Operator

    async def resolve(self, _: Any, source: MlflowSource, default: str | None, *_more: Any) -> Resolution:
        self.operator.resolved = self.operator.world.mlflow.answer(source, default)
        return self.operator.resolved

    def forget(self, _: Any) -> None:
        return


class Operator:
    """One process. Passes over the program follow one another; another process may be at it at the same time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.due: float | None = None
        """When it looks again though nothing happens."""
        self.client = Client(world.api)
        self.observed: Observed | None = None
        self.plan: Plan | None = None
        self.has_decided = False
        self.starts = 0
        self.start()

    def start(self) -> None:
        """A new process remembers nothing."""
        self.starts += 1
        self.clock = SteadyClock(lambda: self.world.now + self.world.skew, lambda: self.world.now)
        self.began = self.clock()
        self.orders, self.reports = Orders(self), Reports(self)
        self.conflicts: dict[Any, int] = {}
        self.running: Coroutine[Any, Any, float | None] | None = None
        self.resolved: Resolution | None = None
        self.is_woken = True

    @property
    def waits(self) -> float | None:
        """Seconds until it looks again; None: until something happens."""
        if self._is_awake():
            return 0.0
        return None if self.due is None else max(0.0, self.due - self.world.now)

    def _is_awake(self) -> bool:
        source, default = self.world.program.spec.source.mlflow, self.world.defaults.tracking_uri
        return self.is_woken or self.resolved != self.world.mlflow.answer(source, default)

    def work(self) -> None:
        """A pass, if there is a reason for one as in a cluster: something that is watched has changed, a pod or the
        registry has news, or it is time to look again. So a moment that the operator forgets is forgotten here, too."""
        waits = self.waits
        if waits is not None and waits <= A_MOMENT:
            self.begin()

    def begin(self, pause_in: int | None = None) -> None:
        """Begin a pass; the one before is ended first."""
        self.go_on()
        self.world.now += A_MOMENT
        self.client.pause_in = pause_in
        self.due, self.is_woken = None, False
        self.is_whole, self.has_decided = pause_in is None, False
        reconciler = Reconciler(
            self.client,
            Registry(self),
            Labels(self),
            Marks(self),
            self.orders,
            self.reports,
            self.world.defaults,
            _mint,
            self.clock,
            self.began,
            self.conflicts,
        )
        self.running = reconciler._pass(KEY)
        self._run()

    def go_on(self) -> None:
        """End the pass that was stopped, if one was."""
        self.client.pause_in = None
        while self.running:
            self._run()

    def kill(self) -> None:
        """The process ends where it is, and another one is started."""
        if self.running:
            self.running.close()
            self.world.truth.unwritten()
        self.start()

    def _run(self) -> None:
        self.world.actor, program.decide = self, self.decide
        try:
            self.running.send(None)
        except StopIteration as done:
            self._ended(done.value)
            self.world.truth.passed(self, None)
        except ClusterError as error:
            self.is_whole = False
            self._ended(1.0)
            self.world.truth.passed(self, error)
        finally:
            self.world.actor = None

    def _ended(self, again: float | None) -> None:
        self.running, self.due = None, None if again is None else self.world.now + again
        if again == CONFLICT_AGAIN_SECONDS or self.conflicts.get(KEY):
            self.world.truth.unwritten()
        elif self.is_whole:
            self.world.truth.doubted.clear()

    def decide(self, o: Observed, now: float) -> Plan:
        """The real decision, remembered for those who hold it to account."""
        self.observed, self.plan, self.has_decided = o, decide(o, now), True
        self.world.truth.decided(self)
        return self.plan


def _facts(heard: Mapping[str, PodState]) -> dict[str, Any]:
    return {name: state.facts() for name, state in heard.items()}


def _mint(uid: str, namespace: str) -> tuple[str, ...]:
    return (f"{uid}{namespace}", "before")


async def _in_turn(*each: Coroutine[Any, Any, Any]) -> list[Any]:
    try:
        return [await one for one in each]
    finally:
        for one in each:
            one.close()


def _by_identity(
    parse: Callable[..., Any], parts: Callable[..., tuple[Any, ...]], size: int = 64
) -> Callable[..., Any]:
    """Documents are never changed here, so that the same parts mean the same."""
    known: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def parsed(*args: Any) -> Any:
        read = parts(*args)
        key = tuple(map(id, read))
        if key not in known:
            while len(known) >= size:
                known.pop(next(iter(known)))
            known[key] = read, parse(*args)
        return known[key][1]

    return parsed


def _parts_of(kind: type, manifest: Document) -> tuple[Any, ...]:
    meta = manifest["metadata"]
    return kind, manifest["spec"], meta.get("annotations"), meta["uid"], meta["generation"]


class _Configs:
    model_validate_json = staticmethod(functools.lru_cache(1000)(RuntimeConfig.model_validate_json))


@contextmanager
def simulated():
    """What makes the operator's code run without an event loop, and fast."""
    in_turn = types.SimpleNamespace(gather=_in_turn)
    with (
        patch.object(observe, "asyncio", in_turn),
        patch.object(tools, "asyncio", in_turn),
        patch.object(observe, "RuntimeConfig", _Configs),
        patch.object(observe, "read_status", _by_identity(observe.read_status, lambda status: (status,))),
        patch.object(program, "read_status", _by_identity(observe.read_status, lambda status: (status,))),
        patch.object(program, "parse", _by_identity(program.parse, _parts_of)),
        patch.object(revision, "asked_of", _by_identity(revision.asked_of, lambda asking: (asking.spec,))),
        patch.object(program, "decide", program.decide),  # each process puts its own there while it is at work
    ):
        yield
