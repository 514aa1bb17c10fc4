"""Metrics say what is, and nothing of what was."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest

from despina.api.status import BreakerStatus, ProgramStatus
from despina.cluster.client import kind_and_verb
from despina.reconcile.program import Reconciler
from despina.telemetry import PROGRAMS
from tests.support.gen import DEFAULTS, a_manifest

KEY = ("ns", "qa")
OPEN = ProgramStatus(breaker=BreakerStatus(state="Open"))
NONE = dict.fromkeys(("Closed", "Open", "HalfOpen"))


@pytest.fixture(autouse=True)
def _nothing_is_known():
    yield
    for key in (KEY, ("ns", "other")):
        PROGRAMS.forget(key)


def breaker(key: tuple[str, str] = KEY) -> dict[str, float | None]:
    """What the metric says of each state."""
    names = {"namespace": key[0], "program": key[1]}
    return {s: REGISTRY.get_sample_value("despina_program_breaker_state", names | {"state": s}) for s in NONE}


def test_a_breakers_state_is_one_of_three():
    PROGRAMS.note(KEY, OPEN)
    assert breaker() == {"Closed": 0, "Open": 1, "HalfOpen": 0}


def test_a_program_without_a_breaker_has_no_state_of_one():
    PROGRAMS.note(KEY, OPEN)
    PROGRAMS.note(("ns", "other"), ProgramStatus(breaker=BreakerStatus()))
    PROGRAMS.note(KEY, ProgramStatus())
    assert breaker() == NONE
    assert breaker(("ns", "other"))["Closed"] == 1


class Nothing:
    """A cluster, a registry, orders and reports where there is nothing."""

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        return None

    def forget(self, key: Any) -> None:
        pass

    def told(self, key: Any, pods: Any) -> None:
        pass


class Unreadable(Nothing):
    """A cluster where a program's manifest cannot be read; the status says so already."""

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        mark = {"type": "Ready", "status": "False", "reason": "InvalidSpec", "lastTransitionTime": "x"}
        return a_manifest(replicas="many") | {"status": {"conditions": [mark]}}

    async def apply_status(self, document: Any) -> None:
        pass


async def one_pass(nothing: Any) -> None:
    await Reconciler(nothing, nothing, nothing, nothing, nothing, nothing, DEFAULTS, str)(KEY)


async def test_a_program_that_is_gone_leaves_no_state_behind():
    PROGRAMS.note(KEY, OPEN)
    await one_pass(Nothing())
    assert breaker() == NONE
    assert 'program="qa"' not in generate_latest().decode()


async def test_a_program_that_cannot_be_read_is_shown_as_not_ready():
    await one_pass(Unreadable())
    names = {"namespace": "ns", "program": "qa", "type": "Ready"}
    assert REGISTRY.get_sample_value("despina_program_condition", names | {"status": "False"}) == 1
    assert REGISTRY.get_sample_value("despina_program_condition_reason", names | {"reason": "InvalidSpec"}) == 1


@pytest.mark.parametrize(
    ("method", "path", "kind", "verb"),
    [
        ("post", "/api/v1/namespaces/a/services", "Service", "create"),
        ("patch", "/apis/apps/v1/namespaces/a/deployments/qa", "Deployment", "patch"),
        ("patch", "/apis/apps/v1/namespaces/a/deployments/qa/scale", "Deployment/scale", "patch"),
        ("patch", "/apis/despina.dev/v1alpha1/namespaces/a/dspyprograms/qa/status", "DSPyProgram/status", "patch"),
        ("delete", "/api/v1/namespaces/deployments/secrets/services", "Secret", "delete"),
        ("put", "/version", "other", "put"),
    ],
)
def test_a_write_is_counted_by_what_it_is_about(method, path, kind, verb):
    assert kind_and_verb(method, path) == (kind, verb)
