"""Which endpoint gets a call, and whether a call may be made again: pure functions over what is known of each one."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from despina.wire import RetryOn, RoutingPolicy


@dataclass(frozen=True)
class View:
    """One endpoint as it stands."""

    priority: int = 0
    weight: int = 1
    in_flight: int = 0
    last_used: int = 0
    """Grows with every call that any endpoint of the tool got; 0 for never."""
    is_open: bool = False
    """Its breaker lets no call through."""
    is_limited: bool = False
    """It asked for a pause (429)."""
    is_slow: bool = False
    is_leaving: bool = False
    """It said that it is about to end."""
    is_full: bool = False
    """This worker has as many calls under way there as it may."""


def choose(policy: RoutingPolicy, views: Sequence[View], chance: float) -> int | None:
    """The index of the endpoint that gets the next call; None when all are down, limited or full.

    Slow is not down: a slow endpoint is used while no faster one is left, and one that is about to end while it has
    no equal.

    Args:
        policy: `spec.routing.policy`.
        views: the endpoints that may be used for this call.
        chance: a random number of [0, 1).
    """
    usable = [i for i, v in enumerate(views) if not (v.is_open or v.is_limited or v.is_full)]
    if policy == "Weighted":
        usable = [i for i in usable if views[i].weight]
    left = [i for i in usable if not views[i].is_slow] or usable
    if policy == "Priority":
        first = min((views[i].priority for i in left), default=0)
        left = [i for i in left if views[i].priority == first]
    left = [i for i in left if not views[i].is_leaving] or left
    if policy == "Weighted":
        return _by_weight(left, views, chance)
    if policy == "RoundRobin":
        return min(left, key=lambda i: views[i].last_used, default=None)
    return min(left, key=lambda i: (views[i].in_flight, views[i].last_used), default=None)


def _by_weight(left: list[int], views: Sequence[View], chance: float) -> int | None:
    mark = chance * sum(views[i].weight for i in left)
    for i in left:
        mark -= views[i].weight
        if mark < 0:
            return i
    return left[-1] if left else None


class Fate(enum.Enum):
    """How an attempt ended, as far as trying again is concerned."""

    DONE = "ok"
    UNREACHED = "unreached"
    """There was no connection: the call was not executed."""
    REFUSED = "refused"
    """The endpoint said that it did nothing."""
    LIMITED = "limited"
    """429: it did nothing, and asked for a pause."""
    BROKEN = "broken"
    """The connection broke before the answer: whether the call was executed is unknown."""
    STALE = "stale"
    """The same, where the connection was kept from an earlier call: most likely it was closed at the other end."""
    TIMEOUT = "timeout"
    """There was no answer in time: whether it was executed is unknown."""
    ERROR = "error"
    """A 5xx: the same."""
    INVALID = "invalid"
    """The endpoint does not take these arguments: no other will."""


WORD: dict[Fate, RetryOn] = {
    Fate.UNREACHED: "ConnectError", Fate.BROKEN: "ConnectError", Fate.STALE: "ConnectError",
    Fate.TIMEOUT: "Timeout", Fate.ERROR: "Status5xx", Fate.LIMITED: "Status429",
}  # fmt: skip
HARMLESS = (Fate.UNREACHED, Fate.LIMITED)
UNCOUNTED = (Fate.UNREACHED, Fate.REFUSED, Fate.STALE)
"""What does not count as an attempt."""
FAILURES = (Fate.UNREACHED, Fate.BROKEN, Fate.STALE, Fate.TIMEOUT, Fate.ERROR)
"""What a breaker counts."""


def may_try_again(fate: Fate, idempotent: bool, retry_on: Sequence[RetryOn], attempts: int, most: int) -> bool:
    """Whether a call that met this fate may go to another endpoint, after so many attempts that reached somebody.

    A call that may have been executed is made again only where its tool is idempotent, whatever the manifest says.
    """
    if fate is Fate.REFUSED:
        return True
    if fate in (Fate.DONE, Fate.INVALID) or attempts >= most:
        return False
    return WORD[fate] in retry_on and (idempotent or fate in HARMLESS)
