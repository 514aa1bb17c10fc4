"""Metrics say what is, and nothing of what was."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from despina.reconcile.program import Reconciler
from despina.telemetry import measure_breaker
from tests.support.gen import DEFAULTS

KEY = ("ns", "qa")


def breaker(key: tuple[str, str] = KEY) -> dict[str, float | None]:
    """What the metric says of each state."""
    names = {"namespace": key[0], "program": key[1]}
    states = ("Closed", "Open", "HalfOpen")
    return {s: REGISTRY.get_sample_value("despina_program_breaker_state", names | {"state": s}) for s in states}


NONE = dict.fromkeys(("Closed", "Open", "HalfOpen"))


def test_a_breakers_state_is_one_of_three():
    measure_breaker(KEY, "Open")
    assert breaker() == {"Closed": 0, "Open": 1, "HalfOpen": 0}


def test_a_program_without_a_breaker_has_no_state_of_one():
    measure_breaker(KEY, None)
    measure_breaker(KEY, "Open")
    measure_breaker(("ns", "other"), "Closed")
    measure_breaker(KEY, None)
    assert breaker() == NONE
    assert breaker(("ns", "other"))["Closed"] == 1


class Nothing:
    """A cluster, a registry, orders and reports where there is nothing."""

    async def get(self, kind: str, namespace: str, name: str) -> None:
        return None

    def forget(self, key: Any) -> None:
        pass

    def told(self, key: Any, pods: Any) -> None:
        pass


async def test_a_program_that_is_gone_leaves_no_state_behind():
    measure_breaker(KEY, "Open")
    nothing: Any = Nothing()
    await Reconciler(nothing, nothing, nothing, nothing, nothing, nothing, DEFAULTS, str)(KEY)
    assert breaker() == NONE
