"""What is written, in which order, and what becomes of it where the API server refuses, has something else, or is away."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from prometheus_client import REGISTRY

from despina.cluster.errors import Conflict, Gone, Refused, Unavailable
from despina.cluster.execute import execute
from despina.decide.plan import Apply, Chain, Create, Emit, MoveAlias, Outcome, Scale, Tag
from despina.desired.labels import MANAGED_BY, PROGRAM, REVISION, program_labels
from despina.desired.network import build_service
from despina.reconcile.carry import Carrier, write_status
from despina.reconcile.program import Reconciler
from tests.support.gen import (
    DEFAULTS,
    a_manifest,
    a_program,
    hash_of,
)
from tests.support.simulator.api import Api, Client

NOW = 1_000_000.0
P = a_program()
ONE = hash_of(P, "1")


class Stubborn:
    """An API server that refuses some kinds of writes and notes the others."""

    def __init__(self, refused: dict[str, Exception]) -> None:
        self.refused, self.done = refused, []

    async def get(self, kind, namespace, name):
        return None

    async def _write(self, kind: str, what: str):
        if kind in self.refused:
            raise self.refused[kind]
        self.done.append(what)
        return {"metadata": {"resourceVersion": "2"}}

    async def create(self, document):
        return await self._write(document["kind"], f"create {document['kind']}")

    async def apply(self, document):
        return await self._write(document["kind"], f"apply {document['kind']}")

    async def apply_status(self, document):
        return await self._write("status", "status")

    async def scale(self, namespace, deployment, version, replicas):
        return await self._write("Deployment", f"scale {replicas} at {version}")

    async def annotate(self, namespace, deployment, version, annotations):
        return await self._write("Deployment", "annotate")

    async def delete(self, kind, namespace, name, version=None):
        return await self._write(kind, f"delete {kind}")


def document(kind: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "qa", "namespace": "ns"}}


ACTIONS = (
    Apply(document("Service")),
    Chain((Create(document("ConfigMap")), Create(document("Deployment")))),
    Apply(document("PodDisruptionBudget")),
    Scale("qa-1", 3),
)
REFUSALS = {
    "a budget": ("PodDisruptionBudget", ["apply Service", "create ConfigMap", "create Deployment", "scale 3 at None"]),
    "a Service": ("Service", ["create ConfigMap", "create Deployment", "apply PodDisruptionBudget", "scale 3 at None"]),
    "a link of a chain ends that chain": (
        "ConfigMap",
        ["apply Service", "apply PodDisruptionBudget", "scale 3 at None"],
    ),
}


@pytest.mark.parametrize("sentence", REFUSALS)
@pytest.mark.parametrize("error", [Refused("403"), Conflict("409"), Unavailable("429"), Gone("404")])
async def test_what_is_refused_keeps_nothing_else_from_happening(sentence, error):
    kind, done = REFUSALS[sentence]
    if kind == "ConfigMap" and isinstance(error, Conflict):
        return  # made by an earlier pass: as good
    cluster = Stubborn({kind: error})
    carrier = Carrier(P, {}, cluster)
    assert not await carrier.carry_out(ACTIONS)
    assert cluster.done == done
    assert carrier.again is not None
    assert bool(carrier.outcome.error) is isinstance(error, Refused)
    assert bool(carrier.outcome.silence) is isinstance(error, Unavailable)


async def test_what_a_registry_is_told_waits_for_the_links_before_it_and_is_no_write_to_the_api_server():
    told: list[Any] = []
    tag, move = Tag("4", "despina.taken-back", "WatchFailed"), MoveAlias("4", "3")
    cluster = Stubborn({"ConfigMap": Refused("403")})
    carrier = Carrier(P, {}, cluster, mark=told.append)
    assert not await carrier.carry_out((tag, Chain((Create(document("ConfigMap")), move))))
    assert (told, cluster.done) == ([tag], [])
    assert await carrier.carry_out((Chain((Create(document("Job")), move)),))
    assert (told, cluster.done) == ([tag, move], ["create Job"])


def a_service(owner: str = P.uid, **labels: str) -> dict[str, Any]:
    meta = {"name": "qa", "namespace": "ns", "labels": labels, "ownerReferences": [{"uid": owner}]}
    return {"kind": "Service", "metadata": meta}


UNSEEN = {
    "it is not there": (None, None),
    "somebody else's": (a_service("another", **program_labels(P)), Refused),
    "it came meanwhile": (a_service(**program_labels(P), more="yes"), Conflict),
    "it came meanwhile, with a label that somebody changed": (a_service(**{PROGRAM: "qa", MANAGED_BY: "x"}), Conflict),
    "its labels were taken away, so that no list has it": (a_service(), Conflict),
}


@pytest.mark.parametrize("sentence", UNSEEN)
async def test_what_was_not_seen_is_not_written_over(sentence):
    there, error = UNSEEN[sentence]
    api = Api()
    if there:
        api.put(there)
    wanted = a_service(**program_labels(P)) | {"spec": {"selector": {REVISION: ONE}}}
    with pytest.raises(error) if error else nullcontext():
        await execute(Apply(wanted), P, {}, {}, Client(api))
    found = api.get("Service", "qa")
    assert ("spec" in found) is (error is None)
    assert found["metadata"]["ownerReferences"] == (there or wanted)["metadata"]["ownerReferences"]
    is_ours = found["metadata"]["ownerReferences"] == wanted["metadata"]["ownerReferences"]
    assert not is_ours or program_labels(P).items() <= found["metadata"]["labels"].items(), "the next pass sees it"


async def test_what_was_seen_and_has_changed_is_left_as_it_is():
    api = Api()
    api.put(a_service())
    with pytest.raises(Conflict):
        await execute(Apply(a_service(**program_labels(P))), P, {}, {("Service", "qa"): "77"}, Client(api))
    assert api.get("Service", "qa")["metadata"]["labels"] == {}


async def test_who_meets_another_state_again_and_again_waits_longer_each_time():
    waits = []
    for conflicts in (0, 1, 2, 50):
        carrier = Carrier(P, {}, Stubborn({"Service": Conflict("409")}), conflicts=conflicts)
        await carrier.carry_out(ACTIONS)
        waits.append(carrier.again)
    assert waits == [0.2, 0.4, 0.8, 30.0]


async def test_addresses_that_somebody_else_has_by_now_hold_nothing_up():
    class Taken(Stubborn):
        async def apply(self, document):
            if "clusterIP" in document["spec"]:
                raise Refused("provided IP is already allocated")
            return await super().apply(document)

    cluster = Taken({})
    carrier = Carrier(P, {}, cluster)
    assert await carrier.carry_out((Apply(build_service(P, "qa", ONE, addresses=("10.96.0.7",))),))
    assert cluster.done == ["apply Service"]


async def test_an_event_that_cannot_be_written_is_counted_and_never_more():
    cluster = Stubborn({"Event": Refused("forbidden")})
    carrier = Carrier(P, {}, cluster)
    await carrier.say((Emit("Warning", "RolledBack", "m"),))
    assert (carrier.outcome, carrier.again) == (Outcome(), None)


async def test_a_status_that_is_refused_is_tried_again_and_ends_nothing():
    manifest = {"kind": "DSPyProgram", "metadata": {"name": "qa", "namespace": "ns", "resourceVersion": "1"}}
    for error, soon in ((Refused("422"), 30.0), (Unavailable("429"), 5.0), (Conflict("409"), 0.2)):
        assert await write_status(Stubborn({"status": error}), manifest, {"url": "x"}) == soon


class Closed(Stubborn):
    """An API server that shows the program and nothing that belongs to it."""

    def __init__(self, why: Exception) -> None:
        super().__init__({})
        self.why = why

    async def get(self, kind, namespace, name):
        return a_manifest() | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}

    async def list(self, kind, namespace, labels):
        raise self.why

    async def apply_status(self, document):
        self.done.append(document["status"])


FAILURES = {
    "Rejected": Refused("GET /api/v1/namespaces/ns/pods: forbidden"),
    "ApiUnavailable": Unavailable("GET /api/v1/namespaces/ns/pods: TimeoutError"),
    "OperatorError": KeyError("secret-looking text"),
}


@pytest.mark.parametrize("reason", FAILURES)
async def test_a_pass_that_fails_is_told_counted_and_tried_again(reason):
    cluster, before = Closed(FAILURES[reason]), failed_passes()
    reconciler = Reconciler(cluster, None, None, None, None, None, DEFAULTS, str, lambda: NOW)
    with pytest.raises(type(cluster.why)):
        await reconciler(("ns", "qa"))
    (written,) = cluster.done
    told, ready = written["conditions"]
    assert (told["type"], told["status"], told["reason"]) == ("Reconciled", "False", reason)
    assert ("forbidden" in told["message"]) is (reason == "Rejected")
    assert "secret" not in told["message"]
    assert ready == {"type": "Ready", "status": "True"}, "what else is known stays"
    assert failed_passes() == before + 1


def failed_passes() -> float:
    return REGISTRY.get_sample_value("despina_reconcile_errors_total", {"kind": "DSPyProgram"}) or 0.0
