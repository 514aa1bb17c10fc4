"""Own objects that lost the labels by which lists have them: which are looked for by name, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from despina.api.status import Memory, ProgramStatus, Promotion
from despina.cluster.errors import Refused
from despina.cluster.observe import observe
from despina.cluster.unlisted import MOST_OTHERS, missing
from despina.decide.observed import DeploymentView
from despina.decide.plan import Apply, Create, each
from despina.decide.rollout import decide
from despina.desired.labels import MEMORY, PROGRAM, REVISION
from tests.support.gen import a_program, hash_of, observed
from tests.support.simulator.api import Api, Client

P = a_program()
ONE = hash_of(P, "1")
SERVICE, FIRST = ("Service", "qa"), ("Deployment", f"qa-{ONE}")


def named(*names: str) -> list[dict[str, Any]]:
    return [{"metadata": {"name": name}} for name in names]


def pods(*revisions: str) -> list[dict[str, Any]]:
    return [{"metadata": {"name": f"p{n}", "labels": {REVISION: one}}} for n, one in enumerate(revisions)]


def lists(**found: Any) -> dict[str, list[dict[str, Any]]]:
    return {"Service": [], "Deployment": [], "ConfigMap": [], "Pod": [], "Job": [], **found}


def status(revision: str, deployment: str, which: str = "active") -> ProgramStatus:
    return ProgramStatus.model_validate({which: {"revision": revision, "version": "1", "deployment": deployment}})


def running(job: str, **fields: Any) -> ProgramStatus:
    """An optimisation is under way."""
    run = {"job": job, "trigger": "t", "baseVersion": "1", "baseRevision": ONE, "labelsUntil": 0, "budgetLMCalls": 9}
    return ProgramStatus.model_validate({"optimization": {"run": run | {"startedAt": "1970-01-01T00:00:00Z"} | fields}})


def reaching(promoted: str) -> dict[str, Any]:
    """A Service that leads to the first pods, and what it remembers of how callers came there."""
    memory = Memory(serial=1, promotion=Promotion(revision=promoted, at="1.0"))
    meta = {"name": "qa", "annotations": {MEMORY: memory.text()}}
    return {"metadata": meta, "spec": {"selector": {REVISION: ONE}}}


SWAPPED = status("22222222", f"qa-{ONE}")
CASES = {
    "a first pass asks for nothing": (ProgramStatus(), lists(), []),
    "at rest, nothing": (
        status(ONE, FIRST[1]),
        lists(Service=named("qa"), Deployment=named(FIRST[1]), Pod=pods(ONE)),
        [],
    ),
    "the Service": (ProgramStatus(), lists(Deployment=named(FIRST[1]), Pod=pods(ONE)), [SERVICE]),
    "a Deployment that has pods": (ProgramStatus(), lists(Service=named("qa"), Pod=pods(ONE, ONE)), [FIRST]),
    "one that the status names": (status(ONE, FIRST[1]), lists(), [FIRST, SERVICE]),
    "what the Service leads to": (
        ProgramStatus(),
        lists(Service=[{"metadata": {"name": "qa"}, "spec": {"selector": {REVISION: ONE}}}, *named("qa-preview")]),
        [FIRST],
    ),
    "what pods were changed to, as the Service remembers": (
        ProgramStatus(),
        lists(Service=[reaching("22222222")], Deployment=named(FIRST[1])),
        [("ConfigMap", f"qa-{ONE}-generation")],
    ),
    "callers came there by new pods": (
        ProgramStatus(),
        lists(Service=[reaching(ONE)], Deployment=named(FIRST[1])),
        [],
    ),
    "what pods were changed to": (
        SWAPPED,
        lists(Service=named("qa"), Deployment=named(FIRST[1])),
        [("ConfigMap", f"qa-{ONE}-generation")],
    ),
    "what they were changed to, that is there": (
        SWAPPED,
        lists(Service=named("qa"), Deployment=named(FIRST[1]), ConfigMap=named(f"qa-{ONE}-generation")),
        [],
    ),
    "what the pods before were changed to": (
        status("22222222", f"qa-{ONE}", "previous"),
        lists(Service=named("qa"), Deployment=named(FIRST[1])),
        [("ConfigMap", f"qa-{ONE}-generation")],
    ),
    "what they are being changed to": (
        status("22222222", f"qa-{ONE}", "candidate"),
        lists(Service=named("qa"), Deployment=named(FIRST[1])),
        [("ConfigMap", f"qa-{ONE}-generation")],
    ),
    "a name whose generation can have none": (
        status("x", "a" * 250),
        lists(Service=named("qa"), Deployment=named("a" * 250)),
        [],
    ),
    "an optimisation that goes on": (running("qa-opt-1"), lists(), [("Job", "qa-opt-1")]),
    "one that is there": (running("qa-opt-1"), lists(Job=named("qa-opt-1")), []),
    "one that has ended": (running("qa-opt-1", finishedAt="1970-01-01T00:00:00Z"), lists(), []),
    "a Job that is no optimisation of this program": (running("qb-opt-1"), lists(), []),
    "a Job of no name": (running("qa-opt-../x"), lists(), []),
    "what is no name of an object": (
        status("x", "../../secrets/x"),
        lists(Service=named("qa"), Pod=pods("", "a/b", "é")),
        [],
    ),
}


@pytest.mark.parametrize("sentence", CASES)
def test_what_is_looked_for_by_its_name(sentence):
    known, found, keys = CASES[sentence]
    assert missing(P, known, found) == keys


def test_pods_with_made_up_labels_have_few_names_looked_for():
    made_up = pods(*map(str, range(1000)), "zzz")
    assert len(missing(P, ProgramStatus(), lists(Pod=made_up))) == MOST_OTHERS + 1
    assert missing(P, status("zzz", "qa-zzz"), lists(Pod=made_up))[0] == ("Deployment", "qa-zzz"), (
        "what callers reach comes first"
    )


class Deaf(Client):
    """An API server that lets nobody write labels."""

    async def label(self, *_: Any) -> Any:
        raise Refused("403")


@pytest.mark.parametrize("client", [Client, Deaf])
@pytest.mark.parametrize("lost", [{PROGRAM}, {REVISION}, {PROGRAM, REVISION, "despina.dev/model-version"}])
async def test_what_lost_its_labels_is_seen_in_the_same_pass(client, lost):
    api = Api()
    for action in each(decide(observed(P), 0.0).actions):
        if isinstance(action, Apply | Create):
            api.put(action.document)
    for pod in pods(ONE):
        api.put({"kind": "Pod", **pod, "metadata": pod["metadata"] | {"labels": {REVISION: ONE, PROGRAM: "qa"}}})
    manifest = {"metadata": {"name": "qa", "namespace": "ns"}}
    before = await observe(Client(api), P, manifest)
    for kind, name in (FIRST, SERVICE):
        meta = api.get(kind, name)["metadata"]
        kept = {name: text for name, text in meta["labels"].items() if name not in lost}
        api.change(kind, name, metadata={**meta, "labels": kept})
    after = await observe(client(api), P, manifest)
    assert after.active == before.active == ONE
    assert [_as_before(v) for v in after.deployments] == [_as_before(v) for v in before.deployments]
    is_written = client is Client or PROGRAM not in lost
    assert (PROGRAM in api.get(*FIRST)["metadata"]["labels"]) is is_written
    assert (PROGRAM in api.get(*SERVICE)["metadata"]["labels"]) is is_written
    assert after.versions[FIRST] == api.get(*FIRST)["metadata"]["resourceVersion"], "the next write is not refused"


def _as_before(view: DeploymentView) -> DeploymentView:
    return replace(view, trouble=None)


async def test_what_is_somebody_elses_keeps_its_labels():
    api = Api()
    api.put({"kind": "Service", "metadata": {"name": "qa", "labels": {}, "ownerReferences": [{"uid": "another"}]}})
    api.put({"kind": "Pod", "metadata": {"name": "p", "labels": {REVISION: ONE, PROGRAM: "qa"}}})
    live = await observe(Client(api), P, {"metadata": {"name": "qa", "namespace": "ns"}})
    assert live.active is None
    assert api.get(*SERVICE)["metadata"]["labels"] == {}
