"""What all workers of a pod shall hold, serve and do, by the orders that it took (pure).

Who is there hears an order; who comes later is brought to what all of them together have made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from despina.wire import Failure, Order, OrderName, PodState, RuntimeConfig, ShadowConfig


class Wanted:
    """The revisions that are known, the one that serves, and what lasts until it is taken back."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.committed = config
        self.known = {config.revision: config}
        self._is_retired = self._is_opened = False
        self._shadow: ShadowConfig | None = None

    def take(self, order: Order) -> None:
        """From now on this shall be so, too. A `Commit` is of a revision that is known."""
        match order.order:
            case "Prepare" if order.config:
                self.known[order.config.revision] = order.config
            case "Commit" if order.subject != self.committed.revision:
                self.committed = self.known[order.subject]
                self._is_opened, self._shadow = False, None  # those were the other revision's
            case "Release" if order.subject != self.committed.revision:
                self.known.pop(order.subject, None)
            case "Retire" | "Activate":
                self._is_retired = order.order == "Retire"
            case "Shadow":
                self._shadow = order.shadow
            case "OpenBreaker" | "CloseBreaker":
                self._is_opened = order.order == "OpenBreaker"

    def versions(self) -> dict[str, str]:
        """In the registry, by revision."""
        return {name: config.model.version for name, config in self.known.items()}

    def to_prepare(self, worker: PodState) -> list[Order]:
        """For a worker that comes: what it shall load beside what it has."""
        return [self._order("Prepare", config=c) for name, c in self.known.items() if name not in worker.held]

    def failure(self, worker: PodState) -> Failure | None:
        """Why a worker that comes can never serve what shall be served."""
        held = worker.held.get(self.committed.revision)
        return held.failure if held and held.phase == "Failed" else None

    def is_held(self, worker: PodState, pod: PodState) -> bool:
        """Whether a worker that comes may join the others: it has what serves, and has tried whatever they hold ready,
        so that no revision is less ready in the pod for its coming. What they still load it may load beside them."""
        ready = {name for name in self.known if name in pod.held and pod.held[name].phase == "Ready"}
        settled = {name for name, held in worker.held.items() if held.phase != "Preparing"}
        return ready | {self.committed.revision} <= settled

    def to_join(self, worker: PodState, pod: PodState) -> Iterator[Order]:
        """What makes a worker that holds all of it as the others are; what those still load, it begins to load, too. A
        breaker that was opened closes with time."""
        yield from self.to_prepare(worker)
        yield self._order("Commit", subject=self.committed.revision)
        yield from (self._order("Release", subject=name) for name in worker.held if name not in self.known)
        if self._is_retired:
            yield self._order("Retire")
        if self._shadow:
            yield self._order("Shadow", shadow=self._shadow)
        if self._is_opened and any(b.state != "Closed" for b in pod.breakers):
            yield self._order("OpenBreaker")

    def _order(self, name: OrderName, **what: Any) -> Order:
        return Order(order=name, namespace=self.committed.namespace, pod="", boot="", number=0, **what)
