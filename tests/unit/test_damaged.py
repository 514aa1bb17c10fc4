"""Whatever stands in a status, an annotation, a label, a ConfigMap or a pod's status: it is read, and a pass goes on."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from despina.api.conditions import Condition, ConditionStatus, Reason
from despina.api.optimizing import optimization_config
from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.api.runs import OptimizationRun, OptimizationStatus
from despina.api.status import Memory, ProgramStatus, Quarantined, Tally
from despina.api.tool import BackendStatus, Tool, ToolStatus
from despina.cluster.jobs import job_view
from despina.cluster.observe import deployment_view, observe, preview_ready, read_status
from despina.cluster.pods import pod_view
from despina.cluster.tools import observe_tool, read_tool_status
from despina.decide.memory import recall
from despina.decide.observed import LabelsView, Observed, Trouble, Vote
from despina.decide.plan import Apply, Create, Outcome
from despina.decide.quarantine import parse_timestamp, timestamp
from despina.decide.rollout import decide
from despina.decide.schema import incompatibilities
from despina.desired.config import build_generation, generation_name
from despina.desired.labels import ACTIVATED_AT, EVALUATION, OPTIMIZATION, RESTARTS, RETIRED_AT, REVISION, SHAPE
from despina.desired.network import build_service
from despina.desired.optimization import build_optimization
from despina.status.report import report
from despina.wire import Comparison, Counts, EvaluationResult, Failure, FailureReason, OptimizationResult, PodState
from tests.support.gen import DEFAULTS, a_manifest, found, observed, ref
from tests.support.optimizations import trigger

CASES = int(os.environ.get("FUZZ_CASES", "200"))
NOW = 1_800_000_000.0
ENTRY = {"version": "2", "reason": "LoadFailed", "message": "boom", "at": "2026-01-01T00:00:00Z"}
LISTED = {"model": {"quarantined": [ENTRY]}}
DEEP = "[" * 5000


def versions(status: ProgramStatus) -> list[str]:
    """The quarantined ones."""
    return [entry.version for entry in status.model.quarantined]


STATUSES: dict[str, tuple[Any, list[str]]] = {
    "a later operator's field": (LISTED | {"shards": [{"name": "a"}]}, ["2"]),
    "a later operator's field of an entry": ({"model": {"quarantined": [ENTRY | {"by": "someone"}]}}, ["2"]),
    "a later operator's gate result": (
        LISTED | {"rollout": {"id": "r", "strategy": "BlueGreen", "step": "Gate", "startedAt": "x", "gates": [
            {"name": "g", "type": "Smoke", "result": "Skipped", "startedAt": "x"}]}}, ["2"]),
    "a damaged entry beside good ones": ({"model": {"quarantined": [ENTRY, {"version": 3}, "x", None, ENTRY | {"version": "4"}]}}, ["2", "4"]),
    "an entry with two damaged fields": ({"model": {"quarantined": [ENTRY | {"at": 5, "reason": []}, ENTRY]}}, ["2"]),
    "a damaged field of another kind": (LISTED | {"observedGeneration": "x", "replicas": None, "conditions": {"a": 1}}, ["2"]),
    "a rollout without a beginning": (LISTED | {"rollout": {"id": "r"}}, ["2"]),
    "more entries than this operator keeps": ({"model": {"quarantined": [ENTRY | {"version": str(n)} for n in range(30)]}}, [str(n) for n in range(10, 30)]),
    "a list that is none": ({"model": {"quarantined": ENTRY}}, []),
    "a status that is none": ("Serving", []),
    "nothing": ({}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", STATUSES)
def test_of_a_status_only_what_is_damaged_is_lost(case):
    status, quarantined = STATUSES[case]
    before = copy.deepcopy(status)
    assert versions(read_status(status)) == quarantined
    assert status == before


def test_what_can_be_read_beside_it_is_kept():
    rollout = {"id": "r", "strategy": "BlueGreen", "step": "Gate", "startedAt": "x", "later": 1}
    gates = [{"name": "a", "type": "Smoke", "result": "Passed", "startedAt": "x"}, {"name": "b", "result": "Lost"}]
    status = read_status({"rollout": rollout | {"gates": gates}, "active": {"version": 1}, "url": "http://x"})
    assert status.rollout is not None
    assert [g.name for g in status.rollout.gates] == ["a"]
    assert (status.active, status.url) == (None, "http://x")


def test_a_status_that_lost_its_list_does_not_win_over_the_copy_beside_callers():
    program = Program.parse(MANIFEST)
    memory = Memory(serial=7, quarantined=(Quarantined.model_validate(ENTRY),))
    service = build_service(program, "qa", "r", memory)
    status = read_status(LISTED | {"serial": 7, "model": {"quarantined": "none"}})
    found = recall(replace(observed(program), status=status, objects={("Service", "qa"): service}))
    assert found == memory


def test_a_tools_status_is_read_the_same_way():
    good = {"name": "a", "state": "Healthy"}
    status = read_tool_status({"backends": [good, {"name": "b", "state": "Asleep"}], "later": 1})
    assert [b.name for b in status.backends] == ["a"]


def a_deployment(notes: Any, labels: Any = None) -> dict[str, Any]:
    meta = {"name": "qa-r", "labels": {REVISION: "r"} if labels is None else labels, "annotations": notes}
    return {"metadata": meta, "spec": {"replicas": 2}}


NOTES = {
    "restarts that are a number": ({RESTARTS: "5"}, "restarts", ()),
    "restarts that are words": ({RESTARTS: '["yesterday"]'}, "restarts", ()),
    "restarts at no time": ({RESTARTS: "[NaN, Infinity, 1e999, -1e300]"}, "restarts", ()),
    "restarts without end": ({RESTARTS: DEEP}, "restarts", ()),
    "restarts that are none": ({RESTARTS: "{"}, "restarts", ()),
    "restarts as they are": ({RESTARTS: "[5.0, 7]"}, "restarts", (5.0, 7.0)),
    "a shape that is a list": ({SHAPE: '["x"]'}, "shape", None),
    "a shape of numbers": ({SHAPE: '{"image": 5}'}, "shape", None),
    "a shape without end": ({SHAPE: DEEP}, "shape", None),
    "a shape as it is": ({SHAPE: '{"image": "x"}'}, "shape", {"image": "x"}),
    "a moment in words": ({ACTIVATED_AT: "yesterday"}, "activated_at", None),
    "a moment that is none": ({ACTIVATED_AT: "NaN"}, "activated_at", None),
    "a moment that never comes": ({RETIRED_AT: "inf"}, "retired_at", None),
    "a moment after all calendars": ({RETIRED_AT: "1e300"}, "retired_at", None),
    "a moment before time": ({ACTIVATED_AT: "-1"}, "activated_at", None),
    "a moment as it is": ({ACTIVATED_AT: "5.5"}, "activated_at", 5.5),
    "notes of other types": ({ACTIVATED_AT: 5, RESTARTS: [1]}, "restarts", ()),
    "notes that are none": ("x", "restarts", ()),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_a_deployments_notes(case):
    notes, field, value = NOTES[case]
    view = deployment_view(a_deployment(notes), {})
    assert view is not None
    assert getattr(view, field) == value


@pytest.mark.parametrize("labels", [{}, {REVISION: ""}, {REVISION: 5}, "x", []])
def test_a_deployment_that_does_not_say_what_it_runs_is_left_out(labels):
    assert deployment_view(a_deployment({}, labels), {}) is None


@pytest.mark.parametrize(
    "text", ["yesterday", "", "2026", "9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00", "٢٠٢٦-01-01", "\x00"]
)
def test_any_text_is_a_moment_or_the_callers_default(text):
    found = parse_timestamp(text, 5.0)
    assert found == 5.0 or text == "2026" or timestamp(found)
    assert parse_timestamp(timestamp(NOW), 5.0) == NOW


@given(st.text(), st.floats(allow_nan=False))
def test_moments_are_total(text, seconds):
    assert timestamp(parse_timestamp(text, 0.0))
    assert timestamp(seconds)


def test_texts_of_a_status_are_cut_and_never_refused():
    fields = {"type": "Ready", "status": ConditionStatus.FALSE, "reason": "R" * 300, "last_transition_time": "x"}
    told = Condition(message="ä" * 5000, **fields)
    assert (len(told.message), told.message[-1], len(told.reason)) == (4096, "…", 253)
    assert Condition(message="\ud800 half", **fields).dump()["message"].encode()
    backend = BackendStatus(name="b", state="Unknown", message="x" * 5000, reason="y" * 300, endpoint="z" * 5000)
    assert (len(backend.message), len(backend.reason), len(backend.endpoint)) == (1024, 253, 2048)
    with pytest.raises(ValidationError):
        Condition(message=5, **fields)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([DEEP, "1e999", "[5]", "5", "{}", "x" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
GATES = [
    {"name": "g", "type": "Smoke", "smoke": {"inputs": {}}},
    {"name": "e", "type": "Evaluate", "evaluate": {"datasetRef": {"uri": "x"}, "test": "Paired"}},
]
OPTIMIZING = trigger("FailureRate")
MANIFEST = a_manifest(
    **OPTIMIZING,
    breaker={},
    rollout={"gates": GATES, "postPromotion": {"maxP95LatencyMillis": 5, "maxCostIncreasePercent": 5}},
)
OPEN = {
    "metadata": [("annotations",), ("labels",), ("ownerReferences",)],
    "status": [()],
    "data": [()],
    "endpoints": [()],
}
"""What anybody who may write such an object can put anything into, by the field it stands under."""


def a_world() -> dict[str, list[dict[str, Any]]]:
    """A program with two versions and everything that may stand around it, as documents."""
    program = Program.parse(MANIFEST)
    one, two = (revision_of(program, ref(version)) for version in ("1", "2"))
    plan = decide(observed(program, "1"), 0.0)
    made = [a.document for a in plan.steps if isinstance(a, Apply | Create)]
    made += [a.document for a in decide(observed(program, "2"), 0.0).steps if isinstance(a, Create)]
    configs = [runtime_config(program, revision) for revision in (one, two)]
    made.append(build_generation(program, one.deployment, one.hash, configs[1], NOW - 50, configs[0], plan.memory))
    owned = made[0]["metadata"]["ownerReferences"]
    made.append(
        {
            "kind": "Job",
            "metadata": {"name": "qa-e", "uid": "job", "ownerReferences": owned},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        }
    )
    made.append(an_optimization(program))
    for document in made:
        if document["kind"] == "Deployment":
            document["metadata"].setdefault("annotations", {}).update(
                {ACTIVATED_AT: "5.0", RETIRED_AT: "6.0", RESTARTS: "[5.0]"}
            )
            document["status"] = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]}
    last = {
        "terminated": {
            "message": Failure(reason=FailureReason.LOAD_FAILED, message="m").model_dump_json(),
            "exitCode": 1,
        }
    }
    waits = {"name": "program", "image": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last}
    for n, revision in enumerate((one, one, two)):
        conditions = [
            {"type": "Ready", "status": str(n < 1)},
            {"type": "PodScheduled", "status": str(n < 2), "message": "0/3"},
        ]
        status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions, "containerStatuses": [waits]}
        made.append(
            {"kind": "Pod", "metadata": {"name": f"p{n}", "labels": {REVISION: revision.hash}}, "status": status}
        )
    endpoints = [{"targetRef": {"name": "p0"}, "conditions": {"ready": True}}]
    made.append(
        {
            "kind": "EndpointSlice",
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "qa-preview"}},
            "endpoints": endpoints,
        }
    )
    ended = {
        "message": EvaluationResult(
            score_percent=5, baseline_percent=4, examples=3, gain_low_percent=0, gain_high_percent=2, p=0.5, run="0a1b"
        ).model_dump_json(),
        "exitCode": 0,
    }
    made.append(
        {
            "kind": "Evaluation",
            "metadata": {"name": "ep", "ownerReferences": [{"uid": "job"}]},
            "status": {"containerStatuses": [{"name": "program", "state": {"terminated": ended}}]},
        }
    )
    compared = Comparison(base=0.5, candidate=0.75, interval=(0.1, 0.4), p=0.01, rows=100)
    ended = {
        "message": OptimizationResult(
            reason="Better", candidate_version="3", dataset_digest="d", heldout=compared, golden=compared, lm_calls=9
        ).model_dump_json(),
        "exitCode": 0,
    }
    made.append(
        {
            "kind": "Optimization",
            "metadata": {"name": "op", "ownerReferences": [{"uid": "opt"}]},
            "status": {"containerStatuses": [{"name": "program", "state": {"terminated": ended}}]},
        }
    )
    return {kind: [d for d in made if d["kind"] == kind] for kind in {d["kind"] for d in made}}


def a_run(program: Program) -> OptimizationRun:
    """One of the version that serves first."""
    base = revision_of(program, ref("1"))
    return OptimizationRun(
        job="qa-opt-1", trigger="by hand", base_version="1", base_revision=base.hash, labels_until=5,
        budget_lm_calls=300, started_at="2026-01-01T00:00:00Z",
    )  # fmt: skip


def an_optimization(program: Program) -> dict[str, Any]:
    """Its Job, which has ended."""
    run, base = a_run(program), runtime_config(program, revision_of(program, ref("1")))
    config = optimization_config(program, base, None, 0.005, "")
    made = build_optimization(program, run, config, PlacementProfile(), "despina-runtime:1")
    made["metadata"] |= {"uid": "opt", "creationTimestamp": "2026-01-01T00:00:00Z"}
    complete = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:30:00Z"}
    return made | {"status": {"conditions": [complete]}}


def a_status() -> dict[str, Any]:
    """A status in which everything is set."""
    program = Program.parse(MANIFEST)
    revision = {"revision": revision_of(program, ref("2")).hash, "version": "2", "deployment": "qa-2", "loaded": "1/2"}
    gate = {"name": "g", "type": "Smoke", "result": "Running", "startedAt": "2026-01-01T00:00:00Z"}
    rollout = {
        "id": revision["revision"],
        "strategy": "BlueGreen",
        "step": "Gate",
        "gates": [gate],
        "startedAt": "2026-01-01T00:00:00Z",
    }
    promotion = {
        "revision": revision["revision"],
        "at": "1790000000.0",
        "base": {"ok": 5, "seconds": [1, 2], "cost": "0.1"},
    }
    history = {"revision": "r", "version": "1", "activatedAt": "x", "trigger": "Alias", "outcome": "Serving"}
    condition = {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": "x"}
    return {
        **LISTED, "conditions": [condition], "active": revision, "candidate": revision, "previous": revision,
        "rollout": rollout, "breaker": {"state": "Open", "since": "2026-01-01T00:00:00Z", "class": "Program"},
        "serial": 7, "handled": {"retry": "2"}, "promotion": promotion,
        "history": [history], "tools": [{"name": "t", "state": "Available"}],
        "optimization": OptimizationStatus(phase="Running", run=a_run(program), heard={"pod-1": "boot 1"}).dump(),
    }  # fmt: skip


def paths(node: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, itself included."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [here, *(path for key, value in children for path in paths(value, (*here, key)))]


def put(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A document with something else in one place."""
    if not path:
        return value
    changed = copy.copy(node)
    changed[path[0]] = put(node[path[0]], path[1:], value)
    return changed


def open_paths(document: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (field, *below, *path)
        for field, belows in OPEN.items()
        for below in belows
        if field in document and (not below or below[0] in document[field])
        for path in paths(document[field][below[0]] if below else document[field])
    ]


WORLD, STATUS = a_world(), a_status()
LABELS = LabelsView(tuple(Vote(NOW - 60 + n, is_failure=True) for n in range(60)))
"""Enough to begin an optimisation."""
PLACES = [
    (kind, n, path)
    for kind, documents in sorted(WORLD.items())
    for n, d in enumerate(documents)
    for path in open_paths(d)
]
DAMAGES = st.lists(st.tuples(st.sampled_from(PLACES), JSON), max_size=4)
STATUS_DAMAGES = st.lists(st.tuples(st.sampled_from(paths(STATUS)), JSON), max_size=3)


def damaged(damages: list[tuple[tuple[str, int, tuple[Any, ...]], Any]]) -> dict[str, list[dict[str, Any]]]:
    world = {kind: list(documents) for kind, documents in WORLD.items()}
    for (kind, n, path), value in damages:
        try:
            world[kind][n] = put(world[kind][n], path, value)
        except (TypeError, LookupError):
            continue  # an earlier damage took the place away
    return world


def damaged_status(damages: list[tuple[tuple[Any, ...], Any]]) -> Any:
    status: Any = STATUS
    for path, value in damages:
        try:
            status = put(status, path, value)
        except (TypeError, LookupError):
            continue
    return status


class Fake:
    """Gives out documents."""

    def __init__(self, world: dict[str, list[dict[str, Any]]]) -> None:
        self.world = world

    async def list(self, kind: str, namespace: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        kinds = {EVALUATION: "Evaluation", OPTIMIZATION: "Optimization"}
        return self.world.get(next((own for label, own in kinds.items() if label in labels), kind), [])

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return None


def seen(
    world: dict[str, list[dict[str, Any]]], status: Any, notes: dict[str, str], report_of: PodState | None
) -> Observed:
    """A pass's snapshot of it."""
    manifest = copy.deepcopy(MANIFEST) | {"status": status}
    manifest["metadata"]["annotations"] = notes
    program = Program.parse(manifest)
    live = asyncio.run(observe(Fake(world), program, manifest))  # type: ignore[arg-type]
    return Observed(
        program=program, status=live.status, defaults=DEFAULTS, model=found("2"), deployments=live.deployments,
        pods=tuple(replace(p, report=report_of) for p in live.pods), active=live.active,
        preview_ready=live.preview_ready, objects=live.objects, configs=live.configs, jobs=live.jobs,
        optimizations=live.optimizations, labels=LABELS,
    )  # fmt: skip


def test_the_undamaged_world_is_read_whole():
    o = seen(WORLD, STATUS, {}, None)
    assert len(o.deployments) == len({d.revision for d in o.deployments}) >= 1
    assert o.deployments[0].loading is not None
    assert (len(o.pods), len(o.jobs), o.preview_ready) == (3, 1, {o.pods[0].revision: 1})
    assert o.jobs[0].result is not None
    (view,) = o.optimizations
    assert (view.run, view.ended, view.result is not None) == (a_run(o.program), True, True)
    assert o.status.dump() == ProgramStatus.model_validate(STATUS).dump()
    assert o.active == o.pods[0].revision


@settings(max_examples=CASES, deadline=None)
@given(damages=DAMAGES, status_damages=STATUS_DAMAGES)
def test_whatever_stands_there_is_read(damages, status_damages):
    seen(damaged(damages), damaged_status(status_damages), {}, None)


WORDS = st.sampled_from(
    ["properties", "type", "anyOf", "enum", "const", "required", "items", "minimum", "$ref", "$defs"]
)
INTERFACE = JSON | st.dictionaries(
    WORDS, JSON | st.dictionaries(WORDS, st.dictionaries(WORDS, JSON, max_size=3), max_size=3), max_size=4
)
COUNT = st.integers() | st.sampled_from([0, 1, 10**400, -(10**400)])
NUMBER = st.floats() | st.just(0.0)
COUNTS = st.fixed_dictionaries({}, optional={
    **dict.fromkeys(("ok", "caller", "program", "upstream", "timeout", "outage"), COUNT),
    "seconds": st.lists(COUNT, max_size=20), "cost_usd": NUMBER,
})  # fmt: skip
HASHES = st.sampled_from([revision_of(Program.parse(MANIFEST), ref(v)).hash for v in ("1", "2")])
SAID = st.fixed_dictionaries({}, optional={
    "revision": HASHES, "uptime_seconds": NUMBER, "counts": st.dictionaries(HASHES, COUNTS),
    "held": st.dictionaries(HASHES, st.sampled_from([{"phase": "Ready"}, {"phase": "Failed", "failure": {"reason": "CodeChanged", "message": "\x00"}}])),
    "breakers": st.lists(st.fixed_dictionaries({"state": st.sampled_from(["Open", "Closed", "HalfOpen"]), "age_seconds": NUMBER, "window": st.dictionaries(st.sampled_from(["ok", "Program", "x"]), COUNT)}), max_size=2),
    "shadow": st.fixed_dictionaries({"revision": HASHES, "mirrored": COUNT, "failed": COUNT, "live_seconds": st.lists(COUNT, max_size=3)}),
})  # fmt: skip


def test_what_pods_count_is_bounded():
    """Sums and shares of what they say must be numbers."""
    said = {"ok": -5, "program": 10**400, "seconds": [10**400, -1], "cost_usd": float("inf")}
    counts = state_of({"counts": {"r": said}, "uptime_seconds": float("nan")}).counts["r"]
    assert counts == Counts(ok=0, program=2**53, seconds=(2**53, 0), cost_usd=2**53)
    assert Counts.total([counts, counts]).program == 2**53
    for score in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            EvaluationResult(score_percent=score)


def test_a_histogram_has_no_more_buckets_than_there_are():
    """What callers left is told in a status, whose histograms are bounded."""
    many = [1] * 65
    said = state_of(
        {"counts": {"r": {"seconds": many}}, "shadow": {"revision": "r", "seconds": many, "live_seconds": many}}
    )
    assert said is not None
    assert said.shadow is not None
    assert {len(h) for h in (said.counts["r"].seconds, said.shadow.seconds, said.shadow.live_seconds)} == {23}
    assert len(Tally.of(Counts.model_construct(seconds=tuple(many))).seconds) == 23


def state_of(said: dict[str, Any]) -> PodState | None:
    """A report as far as it is one."""
    try:
        return PodState.model_validate_json(json.dumps(said))
    except ValidationError:
        return None


@settings(max_examples=CASES, deadline=None)
@given(
    damages=DAMAGES,
    status_damages=STATUS_DAMAGES,
    notes=st.dictionaries(
        st.sampled_from(
            [f"despina.dev/{n}" for n in ("promote", "retry", "abort", "restart", "invalidate-cache", "optimize")]
        ),
        st.text() | HASHES,
        max_size=3,
    ),
    said=SAID,
)
def test_a_pass_over_it_ends_and_its_status_can_be_written(damages, status_damages, notes, said):
    o = seen(damaged(damages), damaged_status(status_damages), notes, state_of(said))
    plan = decide(o, NOW)
    status = report(o, plan, Outcome(), NOW).dump()
    assert ProgramStatus.model_validate(json.loads(json.dumps(status, allow_nan=False)))
    for action in plan.steps:
        document = getattr(action, "document", None)
        assert json.dumps(document, allow_nan=False)


SIDES = st.fixed_dictionaries({}, optional={"inputs": INTERFACE, "outputs": INTERFACE, "instructions": JSON})


@given(SIDES, SIDES)
def test_whatever_pods_call_an_interface_is_compared(before, after):
    assert isinstance(incompatibilities(before, after), list)
    assert isinstance(incompatibilities(before, before), list)


TOOL = {
    "apiVersion": "despina.dev/v1alpha1", "kind": "DSPyTool", "metadata": {"name": "t", "namespace": "ns", "uid": "u"},
    "spec": {"contract": {"name": "t", "parameters": {"type": "object"}}, "backends": [{"name": "b", "url": "http://x"}]},
}  # fmt: skip


def test_a_tools_refused_pods_are_seen():
    owned = {"ownerReferences": [{"uid": "u"}], "labels": {"despina.dev/backend": "b"}}
    refused = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]}
    world = {"Deployment": [{"metadata": {"name": "t-b", **owned}, "spec": {}, "status": refused}]}
    live = asyncio.run(observe_tool(Fake(world), Tool.parse(TOOL), TOOL))  # type: ignore[arg-type]
    assert live.refused == {"b": Trouble(Reason.PODS_REFUSED, "quota")}


@given(status=JSON, damages=DAMAGES)
def test_a_tools_world_is_read_too(status, damages):
    live = asyncio.run(observe_tool(Fake(damaged(damages)), Tool.parse(TOOL), TOOL | {"status": status}))  # type: ignore[arg-type]
    assert isinstance(live.status, ToolStatus)


@given(status=JSON, labels=JSON, word=JSON)
def test_each_parser_takes_anything(status, labels, word):
    meta = {"name": "x", "labels": labels, "annotations": labels}
    pod = {"metadata": meta, "status": status}
    containers = [{"name": "program", "state": {"terminated": {"message": word, "exitCode": word}, "waiting": word}}]
    assert pod_view(pod).name == "x"
    assert pod_view({"metadata": meta, "status": {"containerStatuses": containers, "conditions": word}}).name == "x"
    assert job_view(pod, [pod, {"metadata": meta, "status": {"containerStatuses": containers}}]).name == "x"
    assert preview_ready([{"metadata": meta, "endpoints": word}], "s", ()) == {}
    config = {"metadata": meta, "data": {"config.json": word, "at": word}}
    view = deployment_view(
        a_deployment(labels), {"qa-r": config, generation_name("qa-r"): {"metadata": meta, "data": word}}
    )
    assert view is not None
