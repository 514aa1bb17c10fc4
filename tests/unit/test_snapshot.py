"""Snapshots as files: the same decision comes of them, no secret is in them, and a bad one is a clear error.

Every file in `tests/data/snapshots` is replayed: `despina why NAME --save FILE` writes one, wherever Despina runs.
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from despina import __version__
from despina.api.program import Program
from despina.api.runs import ComparisonStatus, LabelsStatus, OptimizationRun, OptimizationStatus
from despina.api.status import ModelStatus, ProgramStatus, Quarantined
from despina.decide.observed import (
    DeploymentView,
    JobView,
    LabelsView,
    Loading,
    Observed,
    OptimizationJobView,
    PodView,
    Trouble,
    Vote,
)
from despina.decide.plan import Plan, Tell
from despina.decide.rollout import decide
from despina.decide.snapshot import SnapshotError, dump, load, snapshot_of, withheld
from despina.desired.toolbox import ToolView, build_toolbox
from despina.status.why import explain
from despina.wire import (
    BreakerReport,
    Comparison,
    Counts,
    EvaluationResult,
    Failure,
    FailureReason,
    HeldRevision,
    OptimizationResult,
    OptimizeRequest,
    PodState,
)
from tests.support.gen import a_deployment, a_program, config_of, hash_of, observed, serving

SNAPSHOTS = Path(__file__).parents[1] / "data" / "snapshots"
P = a_program()
GATES = [{"name": "smoke", "type": "Smoke", "smoke": {"inputs": {}}}]


def again(o: Observed, now: float = 0.0) -> Observed:
    return load(dump(snapshot_of(o, now))).observed


def tool(name: str, **tokens: str) -> ToolView:
    return ToolView(f"ns/{name}", trouble=("NotFound", "there is none"), tokens=tokens)


MOMENTS = st.one_of(st.none(), st.floats(0, 5000))
FAILURE = Failure(reason=FailureReason.LOAD_FAILED, message="boom")


def deployments(program: Program) -> st.SearchStrategy[DeploymentView]:
    """Deployments of the program, as they may stand."""
    config = st.sampled_from(["1", "2"]).map(lambda v: config_of(program, v))
    loading = config.flatmap(lambda c: st.builds(Loading, st.just(c.revision), st.just(c.model.version), st.just(c),
                                                 st.floats(0, 5000), st.one_of(st.none(), config)))  # fmt: skip
    return st.builds(
        lambda version, **fields: a_deployment(program, version, **fields),
        st.sampled_from(["1", "2", "3"]),
        replicas=st.integers(0, 3),
        activated_at=MOMENTS,
        retired_at=MOMENTS,
        config=st.one_of(st.none(), config),
        loading=st.one_of(st.none(), loading),
        restarts=st.lists(st.floats(0, 5000), max_size=2).map(tuple),
        size=st.one_of(st.none(), st.integers(0, 3)),
    )


def pods(program: Program) -> st.SearchStrategy[PodView]:
    """Pods of the program, with what they may say of themselves."""
    revisions = st.sampled_from([hash_of(program, v) for v in "123"])
    counts = st.builds(Counts, ok=st.integers(0, 50), program=st.integers(0, 50), cost_usd=st.floats(0, 1))
    held = st.builds(HeldRevision, phase=st.sampled_from(["Preparing", "Ready"]))
    breaker = st.builds(BreakerReport, state=st.sampled_from(["Closed", "Open"]), age_seconds=MOMENTS)
    report = st.builds(
        PodState,
        revision=revisions,
        held=st.dictionaries(revisions, held),
        counts=st.dictionaries(revisions, counts),
        breakers=st.lists(breaker, max_size=2).map(tuple),
        uptime_seconds=st.floats(0, 5000),
        optimize=st.lists(
            st.builds(OptimizeRequest, number=st.integers(0, 9), module=st.sampled_from(["", "a"])), max_size=2
        ).map(tuple),
    )
    return st.builds(
        PodView,
        name=st.text("ab-", min_size=1, max_size=5),
        revision=revisions,
        ready=st.booleans(),
        ending=st.booleans(),
        ip=st.sampled_from([None, "10.0.0.1"]),
        failure=st.sampled_from([None, FAILURE]),
        trouble=st.sampled_from([None, Trouble("Unschedulable", "no node")]),
        told=st.dictionaries(st.sampled_from(["Retire", "Try"]), st.text(max_size=5)),
        report=st.one_of(st.none(), report),
    )


def quarantines() -> st.SearchStrategy[Quarantined]:
    texts = {"version": st.sampled_from("12"), "message": st.text(max_size=5), "at": st.just("1970-01-01T00:00:00Z")}
    return st.builds(Quarantined, reason=st.just("LoadFailed"), revision=st.none(), source=st.none(), **texts)


COMPARED = Comparison(base=0.03, candidate=0.72, interval=(0.5, 0.8), p=1e-6, rows=29)
RESULT = OptimizationResult(reason="GoldenWorse", candidate_version="4", heldout=COMPARED, lm_calls=7, cost_usd=0.5)


def runs() -> st.SearchStrategy[OptimizationRun]:
    """Optimisations, as they may be noted."""
    fields = {
        "job": st.sampled_from(["qa-opt-1", "qa-opt-2"]),
        "trigger": st.text(max_size=5),
        "base_version": st.sampled_from("12"),
        "base_revision": st.sampled_from([hash_of(P, v) for v in "12"]),
        "labels_until": st.integers(0, 5_000_000),
        "budget_lm_calls": st.integers(0, 300),
        "started_at": st.just("1970-01-01T00:00:01Z"),
        "finished_at": st.sampled_from([None, "1970-01-01T00:30:00Z"]),
        "reason": st.sampled_from([None, "Better", "Lost"]),
        "heldout": st.sampled_from([None, ComparisonStatus.of(COMPARED)]),
        "lm_calls": st.one_of(st.none(), st.integers(0, 300)),
    }
    return st.fixed_dictionaries(fields).map(OptimizationRun.model_validate)


def optimizations() -> st.SearchStrategy[OptimizationJobView]:
    """Their Jobs."""
    return st.builds(
        OptimizationJobView,
        name=st.sampled_from(["qa-opt-1", "qa-opt-2"]),
        run=runs(),
        ended=st.booleans(),
        result=st.sampled_from([None, RESULT, OptimizationResult(error="e")]),
        finished_at=MOMENTS,
        progress=st.text(max_size=3),
    )


def labels() -> st.SearchStrategy[LabelsView]:
    """What may be known of labels."""
    votes = st.lists(st.builds(Vote, at=st.floats(0, 5000), is_failure=st.booleans()), max_size=3)
    return st.builds(LabelsView, votes=votes.map(tuple), problem=st.text(max_size=3))


def optimized() -> st.SearchStrategy[OptimizationStatus]:
    """Where optimisations may stand."""
    return st.builds(
        OptimizationStatus,
        labels=st.builds(LabelsStatus, successes=st.integers(0, 9), failures=st.integers(0, 9)),
        run=st.one_of(st.none(), runs()),
        earlier=st.lists(runs(), max_size=2).map(tuple),
        heard=st.dictionaries(st.sampled_from(["pod-1"]), st.sampled_from(["boot 1", "boot 2"])),
    )


OPTIMIZATION = {
    "budget": {"maxLMCalls": 300},
    "triggers": [{"name": "failures", "type": "FailureRate"}, {"name": "nightly", "type": "Schedule", "schedule": "0 3 * * *"}],
    "requests": "Enabled",
}  # fmt: skip


@st.composite
def snapshots(draw: st.DrawFn) -> Observed:
    """Snapshots of all kinds, also such as never come about."""
    rollout = {"strategy": draw(st.sampled_from(["Auto", "BlueGreen", "Recreate"])), "gates": GATES}
    asked = {"despina.dev/promote": draw(st.text(max_size=3)), "despina.dev/retry": draw(st.sampled_from("12"))}
    loop = {"feedback": {}, "optimization": OPTIMIZATION} if draw(st.booleans()) else {}
    program = a_program(asked, rollout=rollout, breaker={}, replicas=draw(st.integers(0, 3)), **loop)
    listed = tuple(draw(st.lists(quarantines(), max_size=2)))
    results = st.sampled_from([None, EvaluationResult(score_percent=90, examples=5, p=0.02)])
    stand = {d.name: d for d in draw(st.lists(deployments(program), max_size=3))}
    return observed(
        program,
        draw(st.sampled_from([None, "1", "2"])),
        status=ProgramStatus(
            serial=draw(st.integers(0, 2)),
            model=ModelStatus(quarantined=listed),
            optimization=draw(st.one_of(st.none(), optimized())),
        ),
        deployments=tuple(stand.values()),
        pods=tuple(draw(st.lists(pods(program), max_size=4))),
        active=draw(st.sampled_from([None, "1", "2"])),
        preview_ready=draw(st.dictionaries(st.sampled_from([hash_of(program, "2")]), st.integers(0, 3))),
        jobs=tuple(draw(st.lists(st.builds(JobView, st.text(max_size=3), result=results), max_size=2))),
        optimizations=tuple(draw(st.lists(optimizations(), max_size=2))),
        labels=draw(st.one_of(st.none(), labels())),
        interfaces={"r": {"inputs": {}}},
    )


@given(o=snapshots(), now=st.floats(0, 10000))
@settings(max_examples=int(os.environ.get("SCHEDULES", "600")) // 4, deadline=None)
def test_the_same_decision_comes_of_the_file_and_can_be_said_in_words(o, now):
    assert again(o) == withheld(o) == o
    plan = decide(o, now)
    assert decide(again(o), now) == plan
    assert all(explain(o, plan, now))


ODD: dict[str, Observed] = {
    "moments that are no numbers of seconds": observed(
        P, **serving(P, "1") | {"deployments": (replace(serving(P, "1")["deployments"][0], retired_at=float("inf")),)}
    ),
    "a pod's report that a newer runtime wrote": observed(
        P, pods=(PodView("p", "r", report=PodState.model_validate({"revision": "r", "novel": 1})),)
    ),
    "names with slashes": observed(P, objects={("Service", "a/b"): {"metadata": {"name": "a/b"}}}),
    "texts of all kinds": observed(a_program({"despina.dev/retry": 'ü\n\x00"{}'})),
    "numbers and texts as quantities": observed(a_program(resources={"requests": {"cpu": "1", "memory": 2}})),
}


@pytest.mark.parametrize("sentence", ODD)
def test_what_is_odd_comes_back_as_it_was(sentence):
    assert again(ODD[sentence]) == ODD[sentence]


def test_no_secret_is_in_a_file_and_the_decision_is_the_same():
    views = (tool("search", **{"ns.search": "s3cret-token"}), tool("embed", **{"ns.embed": "other-token"}))
    documents = {(d["kind"], d["metadata"]["name"]): d for d in build_toolbox(P, views, "eighth-token")}
    stale = base64.b64encode(b"third-token").decode()
    drifted = documents["Secret", "qa-tools"] | {"data": {"ns.search": stale}, "stringData": {"x": "fourth-token"}}
    note = {"kubectl.kubernetes.io/last-applied-configuration": '{"data": "fifth-token"}', "kept": "yes"}
    drifted["metadata"] = drifted["metadata"] | {"annotations": note, "managedFields": [{"f": "sixth-token"}]}
    for secret in (documents["Secret", "qa-tools"], drifted):
        live = {**documents, ("Secret", "qa-tools"): secret}
        o = observed(a_program({"vault/x": "seventh-token"}), tools=views, objects=live, redis_seal="eighth-token")
        text = dump(snapshot_of(o, 1.0))
        assert "token" not in text.replace("tokens", "")
        assert stale not in text
        assert kinds(decide(load(text).observed, 1.0)) == kinds(decide(o, 1.0))
    assert load(text).observed.objects["Secret", "qa-tools"]["metadata"]["annotations"] == {"kept": "yes"}


def test_the_file_says_who_wrote_it_and_what_was_not_seen():
    text = dump(snapshot_of(observed(P), 7.0, ("The pods were not heard.",)))
    found = load(text)
    assert (found.despina, found.now, found.unseen) == (__version__, 7.0, ("The pods were not heard.",))


BAD = {
    "no JSON": ("apiVersion: v1", "this is not a snapshot"),
    "a list": ("[]", "this is not a snapshot"),
    "something else": ('{"kind": "Service"}', "this is not a snapshot"),
    "bytes that are no text": (b"\xff\xfe\x00", "this is not a snapshot"),
    "endlessly nested": ("[" * 100_000, "this is not a snapshot"),
    "a later Despina's": (
        '{"despina": "9.1.0", "now": 0, "observed": {}, "novel": 1}',
        r"Despina 9\.1\.0 wrote this snapshot, and this one \(.*\) cannot read it: observed\.program: Field required",
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_what_is_no_snapshot_is_a_clear_error(sentence):
    text, message = BAD[sentence]
    with pytest.raises(SnapshotError, match=message):
        load(text)


def kinds(plan: Plan) -> list[str]:
    """The actions in a word or two each."""
    return [type(a).__name__ + (f" {a.order}" if isinstance(a, Tell) else "") for a in plan.steps]


def decision(path: Path) -> dict[str, Any]:
    found = load(path.read_bytes())
    plan = decide(found.observed, found.now)
    return {
        "step": plan.step,
        "wanted": plan.wanted and plan.wanted.version,
        "blocked": plan.blocked and str(plan.blocked.reason),
        "actions": kinds(plan),
        "why": explain(found.observed, plan, found.now),
    }


@pytest.mark.parametrize("path", sorted(SNAPSHOTS.glob("*.json")), ids=lambda p: p.stem)
def test_snapshots_are_decided_as_before(path):
    """UPDATE_GOLDENS=1 writes what is decided now beside the snapshot, for the diff to be read."""
    found, expected = decision(path), path.with_suffix(".yaml")
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(yaml.safe_dump(found, sort_keys=False, width=120, allow_unicode=True))
    assert expected.exists(), f"{expected} is missing: UPDATE_GOLDENS=1 writes it"
    assert found == yaml.safe_load(expected.read_text())
