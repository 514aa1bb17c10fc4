"""Optimisations as the operator reads them off Jobs and pods: which Jobs they are, what they are for, what came of them."""

from __future__ import annotations

from typing import Any

import pytest

from despina.api.optimizing import optimization_config
from despina.api.runs import OptimizationRun
from despina.cluster.errors import Refused
from despina.cluster.jobs import jobs_of, optimization_view
from despina.cluster.observe import Live, observe
from despina.decide.gates import abandoned
from despina.decide.plan import Delete
from despina.desired.labels import OPTIMIZATION, PROGRAM, RUN
from despina.desired.optimization import build_optimization, golden_file
from despina.wire import OPTIMIZATION_ENV, OptimizationResult
from tests.support.gen import a_manifest, observed
from tests.support.simulator.api import Api, Client
from tests.support.situations import at
from tests.unit.test_builders import PROFILES
from tests.unit.test_observe import DISRUPTED, FAILED, a_job, scored
from tests.unit.test_optimization_job import UNTIL, optimized, serves

P = optimized(a_manifest())
BASE = serves(P)
RUN_BEGUN = OptimizationRun(
    job="qa-opt-1", trigger="failures: 30 of 200", base_version="3", base_revision=BASE.revision, labels_until=UNTIL,
    budget_lm_calls=300, started_at="2026-01-02T03:04:05Z",
)  # fmt: skip
FOUND = OptimizationResult(reason="Better", message="m", candidate_version="4", dataset_digest="d", lm_calls=120)
ERROR = OptimizationResult(error="a budget of 300 LM calls cannot suffice: it takes 420")


def made(run: OptimizationRun = RUN_BEGUN) -> dict[str, Any]:
    config = optimization_config(P, BASE, None, UNTIL / 1000, golden_file(P))
    return build_optimization(P, run, config, PROFILES["aws"], "despina-runtime:1")


def changed(**meta: Any) -> dict[str, Any]:
    """The Job with other metadata."""
    document = made()
    return document | {"metadata": document["metadata"] | {"creationTimestamp": "2026-01-02T03:04:06Z"} | meta}


async def seen(api: Api, status: dict[str, Any] | None = None, client: type[Client] = Client) -> Live:
    manifest = {"metadata": {"name": P.name, "namespace": P.namespace}, "status": status}
    return await observe(client(api), P, manifest)


def under_way() -> dict[str, Any]:
    return {"optimization": {"phase": "Running", "run": RUN_BEGUN.dump()}}


async def test_an_optimisation_is_none_of_the_evaluations_which_end_when_no_gate_needs_them():
    api = Api()
    api.put(made())
    api.put(a_job() | {"kind": "Job", "metadata": made()["metadata"] | {"name": "qa-eval-1"}})
    live = await seen(api)
    assert [job.name for job in live.jobs] == ["qa-eval-1"]
    (view,) = live.optimizations
    assert (view.name, view.run, view.ended, view.result) == ("qa-opt-1", RUN_BEGUN, False, None)
    o = observed(P, jobs=live.jobs, optimizations=live.optimizations)
    assert list(abandoned(at(o))) == [Delete(("Job", "qa-eval-1"))]


@pytest.mark.parametrize("labels", [{PROGRAM: "qa"}, {}, {PROGRAM: "another", OPTIMIZATION: "x"}])
async def test_it_is_known_by_its_name_whatever_becomes_of_its_labels(labels):
    """Were it not seen, another one would begin beside it, with a budget of its own."""
    api = Api()
    api.put(changed(labels=labels))
    live = await seen(api, under_way())
    assert [view.run for view in live.optimizations] == [RUN_BEGUN]
    assert live.jobs == ()
    if labels.get(PROGRAM) != "qa":
        assert api.get("Job", "qa-opt-1")["metadata"]["labels"][PROGRAM] == "qa"


async def test_it_is_seen_without_its_labels_where_nobody_may_write_them():
    class Deaf(Client):
        async def label(self, *_: Any) -> Any:
            raise Refused("403")

    api = Api()
    api.put(changed(labels={}))
    assert [view.name for view in (await seen(api, under_way(), Deaf)).optimizations] == ["qa-opt-1"]


async def test_somebody_elses_job_of_such_a_name_is_not_ours():
    api = Api()
    api.put(changed(ownerReferences=[]))
    live = await seen(api, under_way())
    assert (live.optimizations, live.jobs) == ((), ())


async def test_each_kinds_pods_are_listed_once_and_a_pod_counts_that_its_jobs_controller_made():
    asked: list[dict[str, Any]] = []

    def owned_by(uid: str, pod: dict[str, Any]) -> dict[str, Any]:
        return pod | {"metadata": pod["metadata"] | {"ownerReferences": [{"kind": "Job", "uid": uid}]}}

    class Labelled:
        async def list(self, kind: str, namespace: str, labels: dict[str, Any]) -> list[dict[str, Any]]:
            asked.append(labels)
            return [owned_by("another", scored(said(FOUND), at=9)), owned_by("two", scored(said(ERROR), 1))]

    jobs = [changed(name=f"qa-opt-{uid}", uid=uid) for uid in ("one", "two")]
    _, (one, two) = await jobs_of(Labelled(), P, jobs)
    assert asked == [{OPTIMIZATION: None}]
    assert (one.result, two.result) == (None, ERROR)


def said(result: OptimizationResult) -> str:
    return result.model_dump_json()


RESULTS: dict[str, tuple[list[dict[str, Any]], OptimizationResult | None]] = {
    # what its pod did: the pod, what counts of its last words
    "it ended well": ([scored(said(FOUND))], FOUND),
    "it was told to end, and left the best so far": ([scored(said(FOUND), 143, conditions=[DISRUPTED])], FOUND),
    "it could not do it, and says why": ([scored(said(ERROR), 1)], ERROR),
    # The model's code runs beside it and can write last words.
    "it was killed with a result written": ([scored(said(FOUND), 137)], None),
    "it was killed with an error written": ([scored(said(ERROR), 137)], None),
    "it failed with a result written": ([scored(said(FOUND), 1)], None),
    "a sidecar says something": ([scored(said(FOUND), name="sidecar")], None),
    "it was killed": ([scored("", 137)], None),
    "its node was lost while it failed": ([scored(said(ERROR), 1, conditions=[DISRUPTED])], None),
    "it runs": ([scored(None, phase="Running")], None),
    "it has not begun": ([], None),
    "its words are another's": ([scored('{"reason": "Splendid"}')], None),
}  # fmt: skip


@pytest.mark.parametrize("what", RESULTS)
def test_what_came_of_it(what):
    pods, counts = RESULTS[what]
    assert optimization_view(changed(), pods).result == counts


def test_a_newer_runtimes_words_are_read():
    words = said(FOUND).replace('"lm_calls":', '"novel":1,"lm_calls":')
    assert optimization_view(changed(), [scored(words)]).result == FOUND


AT = "2026-01-02T04:00:00Z"
ENDS: dict[str, tuple[list[dict[str, Any]], bool, float | None]] = {
    "it is complete": ([{"type": "Complete", "status": "True", "lastTransitionTime": AT}], True, 1767326400.0),
    "it has failed": ([FAILED | {"lastTransitionTime": AT}], True, 1767326400.0),
    "it is about to fail": ([FAILED | {"type": "FailureTarget", "lastTransitionTime": AT}], False, None),
    "it goes on": ([], False, None),
    "nobody can say when": ([FAILED | {"lastTransitionTime": "soon"}], True, None),
    "nobody says when": ([FAILED], True, None),
}


@pytest.mark.parametrize("what", ENDS)
def test_when_it_ended(what):
    conditions, has_ended, at = ENDS[what]
    view = optimization_view(changed() | {"status": {"conditions": conditions}}, [])
    assert (view.ended, view.finished_at) == (has_ended, at)


TROUBLES = {
    "its pod was taken from its node": [scored(None, conditions=[DISRUPTED])],
    "OOMKilled: container program ended with code 137": [scored("", 137, ended={"reason": "OOMKilled"})],
    "DeadlineExceeded: too long": [],
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_why_nothing_came_of_it(trouble):
    job = changed() | {"status": {"conditions": [FAILED]}}
    assert optimization_view(job, TROUBLES[trouble]).trouble == trouble


def test_its_pod_is_asked_how_far_it_is():
    assert optimization_view(changed(), [scored(None, phase="Running", podIP="10.0.0.7")]).ip == "10.0.0.7"


DAMAGED = {
    "it is gone": None,
    "no JSON": "{",
    "a list": "[]",
    "half of it": '{"job": "qa-opt-1", "trigger": "t"}',
    "less than nothing": RUN_BEGUN.model_dump_json(by_alias=True).replace(":300", ":-300"),
    "endlessly nested": "[" * 100_000,
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_run_whose_note_is_damaged_is_still_a_run_with_its_budget(what):
    """Its budget counts for the day, whatever somebody does to an annotation."""
    note = DAMAGED[what]
    run = optimization_view(changed(annotations={RUN: note} if note else None), []).run
    assert (run.job, run.base_version, run.base_revision) == ("qa-opt-1", "3", BASE.revision)
    assert (run.labels_until, run.budget_lm_calls) == (UNTIL, 300)
    assert run.started_at == "2026-01-02T03:04:06Z"
    assert run.trigger.startswith("unknown")


def test_a_note_of_a_later_operator_is_read_as_far_as_it_can_be():
    note = RUN_BEGUN.model_dump_json(by_alias=True).replace('"trigger"', '"novel":[1],"trigger"')
    assert optimization_view(changed(annotations={RUN: note}), []).run == RUN_BEGUN


def test_a_note_of_another_jobs_run_is_this_jobs():
    note = RUN_BEGUN.model_copy(update={"job": "qa-opt-2"}).model_dump_json(by_alias=True)
    assert optimization_view(changed(annotations={RUN: note}), []).run == RUN_BEGUN


@pytest.mark.parametrize("config", [None, "{", '{"budget": {}}', "x", {"until": "Infinity"}, {"until": -1}])
def test_a_job_that_tells_nothing_is_still_a_run(config):
    """Another operator's, perhaps: what it may spend is not known."""
    document = changed(annotations={})
    (container,) = document["spec"]["template"]["spec"]["containers"]
    (variable,) = (one for one in container["env"] if one["name"] == OPTIMIZATION_ENV)
    if isinstance(config, dict):
        until = f'"until":{UNTIL / 1000}'
        assert until in variable["value"]
        variable["value"] = variable["value"].replace(until, f'"until":{config["until"]}')
    else:
        variable["value"] = config
    run = optimization_view(document, []).run
    assert (run.job, run.base_revision, run.labels_until) == ("qa-opt-1", BASE.revision, 0)
    assert run.started_at == "2026-01-02T03:04:06Z"
    assert run.budget_lm_calls == (300 if isinstance(config, dict) else 0)
