"""What a program's statuses say in figures: gauges of the last one, counts of what is new in it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from despina.api.status import ProgramStatus
from despina.cluster.observe import read_status
from despina.status.figures import FAMILIES, MOST_GATES, MOST_REMEMBERED, Figures, figures
from despina.telemetry import PROGRAMS
from tests.support.simulator.operator import KEY
from tests.support.simulator.registry import Nature
from tests.support.simulator.schedule import KINDS, run

START = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:01:00Z"


def rollout(step: str, *gates: dict[str, Any], id_: str = "r2", started: str = START) -> dict[str, Any]:
    return {"rollout": {"id": id_, "strategy": "HotSwap", "step": step, "startedAt": started, "gates": list(gates)}}


def gate(result: str, name: str = "score", **more: Any) -> dict[str, Any]:
    finished = {} if result == "Running" else {"finishedAt": LATER}
    return {"name": name, "type": "Evaluate", "result": result, "startedAt": START} | finished | more


def quarantined(reason: str) -> dict[str, Any]:
    return {"model": {"quarantined": [{"version": "2", "reason": reason, "at": LATER}]}}


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": START}


def after(*statuses: Any) -> Figures:
    """The figures when an operator has seen these, one after the other."""
    found: Figures | None = None
    for status in statuses:
        found = figures(read_status(status), found)
    assert found is not None
    return found


def series(found: Figures) -> dict[str, dict[tuple[str, ...], float]]:
    """All that is shown of one program, by metric and labels."""
    shown = {}
    for family in FAMILIES:
        rows = list(family.rows(found))
        shown[family.name] = dict(rows)
        assert len(shown[family.name]) == len(rows), "a series is shown twice"
        assert all(len(labels) == len(family.labels) for labels, _ in rows)
    return shown


def ones(rows: dict[tuple[str, ...], float]) -> set[tuple[str, ...]]:
    return {labels for labels, value in rows.items() if value}


SCORED = gate("Passed", score={"job": "j", "scorePercent": "92.5"})
REVISION = {"revision": "r", "deployment": "qa-r"}
GAUGES: dict[str, tuple[dict[str, Any], str, set[Any]]] = {
    "a program that is new": ({}, "despina_program_info", {("", "", "")}),
    "a version beside the next one": (
        {"active": REVISION | {"version": "1"}, "candidate": REVISION | {"version": "2"}} | rollout("Gate"),
        "despina_program_info", {("1", "2", "HotSwap")},
    ),
    "a strategy that is none of ours": (
        {"rollout": rollout("Gate")["rollout"] | {"strategy": "x" * 200}}, "despina_program_info", {("", "", "Other")},
    ),
    "a rollout under way": (rollout("Gate"), "despina_rollout_step", {("Gate",)}),
    "a rollout that is over": (rollout("Done"), "despina_rollout_step", set()),
    "a step that is none of ours": (rollout("Dance"), "despina_rollout_step", set()),
    "conditions": (
        {"conditions": [condition("Ready", "False", "NoReadyPods"), condition("UpToDate", "Unknown", "NotAskedYet"),
                        condition("Available", "True", "Serving")]},
        "despina_program_condition", {("Ready", "False"), ("UpToDate", "Unknown"), ("Available", "True")},
    ),
    "why they are not True": (
        {"conditions": [condition("Ready", "False", "NoReadyPods"), condition("Available", "True", "Serving"),
                        condition("UpToDate", "False", "what a pod said")]},
        "despina_program_condition_reason", {("Ready", "NoReadyPods"), ("UpToDate", "Other")},
    ),
    "a condition that is none of ours": (
        {"conditions": [condition("Happy", "True", "Serving")]}, "despina_program_condition", set(),
    ),
    "a breaker": ({"breaker": {"state": "Open"}}, "despina_program_breaker_state", {("Open",)}),
    "no breaker": ({}, "despina_program_breaker_state", set()),
    "a score": (rollout("Gate", SCORED, gate("Running", "other")), "despina_gate_score_percent", {("score",)}),
}  # fmt: skip


@pytest.mark.parametrize("case", GAUGES)
def test_gauges_are_what_the_last_status_says(case):
    status, name, expected = GAUGES[case]
    assert ones(series(after({"breaker": {"state": "HalfOpen"}} | rollout("Watch"), status))[name]) == expected


@pytest.mark.parametrize("status", ["True", "False", "Unknown"])
def test_each_status_of_a_condition_has_its_series(status):
    found = series(after({"conditions": [condition("Ready", status, "Serving")]}))["despina_program_condition"]
    assert found == {("Ready", each): float(each == status) for each in ("True", "False", "Unknown")}


@pytest.mark.parametrize("text", ["", "many", "nan", "inf", "1e999", None])
def test_a_score_that_is_no_number_is_left_out(text):
    damaged = rollout("Gate", gate("Failed", score={"job": "j", "scorePercent": text}))
    assert series(after(damaged))["despina_gate_score_percent"] == {}
    assert series(after(rollout("Gate", SCORED)))["despina_gate_score_percent"] == {("score",): 92.5}


FAILED = rollout("Failed", gate("Failed")) | quarantined("EvaluationFailed")
AT_GATE = rollout("Gate", gate("Running"))
ROLLOUTS: dict[str, tuple[list[Any], dict[tuple[str, str], int]]] = {
    "one that got through": ([AT_GATE, rollout("Watch"), rollout("Done")], {("Done", ""): 1}),
    "one that is seen again and again": ([AT_GATE, *[rollout("Done")] * 5], {("Done", ""): 1}),
    "one that was over when the operator began": ([rollout("Done"), rollout("Done")], {}),
    "one that failed": ([AT_GATE, FAILED, FAILED], {("Failed", "EvaluationFailed"): 1}),
    "one that was taken back": (
        [rollout("Watch"), rollout("RolledBack") | quarantined("WatchFailed")], {("RolledBack", "WatchFailed"): 1},
    ),
    "one that failed for a reason that is none of ours": (
        [AT_GATE, rollout("Failed") | quarantined("x" * 99)], {("Failed", "Other"): 1},
    ),
    "one that nobody wants any more": ([AT_GATE, rollout("Abandoned")], {("Abandoned", ""): 1}),
    "one that got through beside an older quarantine": (
        [AT_GATE | quarantined("LoadFailed"), rollout("Done") | quarantined("LoadFailed")], {("Done", ""): 1},
    ),
    "the same version, tried again": (
        [AT_GATE, FAILED, rollout("Gate", started=LATER), rollout("Done", started=LATER)],
        {("Failed", "EvaluationFailed"): 1, ("Done", ""): 1},
    ),
    "a status that was lost between": ([AT_GATE, rollout("Done"), {}, "damaged", None], {("Done", ""): 1}),
    "a status that was damaged, and is as it was": (
        [AT_GATE, FAILED, {"rollout": "damaged"}, FAILED, None, FAILED], {("Failed", "EvaluationFailed"): 1},
    ),
    "a status that was undone, and is as it was": (
        [AT_GATE, rollout("Done"), rollout("Gate", id_="r3"), *[rollout("Done"), rollout("Done", id_="r3")] * 3],
        {("Done", ""): 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROLLOUTS)
def test_a_rollout_counts_once_when_it_ends(case):
    statuses, expected = ROLLOUTS[case]
    found = series(after(*statuses))["despina_rollouts"]
    assert {labels: n for labels, n in found.items() if n} == expected


GATES: dict[str, tuple[list[Any], dict[tuple[str, str], int]]] = {
    "one that runs": ([AT_GATE, AT_GATE], {}),
    "one that is passed": ([AT_GATE, *[rollout("Gate", gate("Passed"))] * 3, rollout("Done", gate("Passed"))],
                           {("score", "Passed"): 1}),
    "one that was passed before the operator began": ([rollout("Gate", gate("Passed"))] * 2, {}),
    "one that fails": ([AT_GATE, FAILED], {("score", "Failed"): 1}),
    "one that is judged again, with other settings": (
        [AT_GATE, rollout("Gate", gate("Passed")), rollout("Gate", gate("Running", startedAt=LATER)),
         rollout("Gate", gate("Failed", startedAt=LATER))],
        {("score", "Passed"): 1, ("score", "Failed"): 1},
    ),
    "one whose status is lost, or undone, and back": (
        [AT_GATE, FAILED, {"rollout": "damaged"}, FAILED, AT_GATE, FAILED, rollout("Gate", id_="r3"), FAILED],
        {("score", "Failed"): 1},
    ),
    "those of the next version": (
        [AT_GATE, rollout("Gate", gate("Passed")), rollout("Gate", gate("Passed"), id_="r3")], {("score", "Passed"): 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GATES)
def test_a_gate_counts_once_when_it_is_decided(case):
    statuses, expected = GATES[case]
    found = series(after(*statuses))["despina_gate_results"]
    assert {labels: n for labels, n in found.items() if n} == expected


def test_a_counter_is_there_before_it_counts():
    found = series(after(AT_GATE))
    assert found["despina_gate_results"] == {("score", "Passed"): 0, ("score", "Failed"): 0}
    assert found["despina_rollouts"] == {("Done", ""): 0, ("Abandoned", ""): 0}


def test_gates_whose_names_change_for_ever_are_bounded():
    statuses = [rollout("Gate", gate("Passed", f"g{n}"), gate("Passed", "kept"), id_=str(n)) for n in range(100)]
    found = series(after({}, *statuses))["despina_gate_results"]
    assert len({name for name, _ in found}) == MOST_GATES
    assert (found[("kept", "Passed")], found[("g99", "Passed")]) == (100, 1)


def test_what_is_remembered_of_statuses_is_bounded():
    found = after({}, *[rollout("Done", gate("Passed"), id_=str(n)) for n in range(3 * MOST_REMEMBERED)])
    assert (len(found.decided), len(found.ended)) == (MOST_REMEMBERED + 1, MOST_REMEMBERED + 1)
    many = rollout("Gate", *[gate("Passed", f"g{n}") for n in range(3 * MOST_REMEMBERED)])
    assert after({}, many).gates == after({}, many, many).gates


DAMAGE: list[Any] = [None, 5, "x", [], {}, [None], {"a": []}, "\ud800", "a\nb", 1e999, -1]


def test_whatever_stands_in_a_status_makes_series_and_no_trouble():
    dice = random.Random(7)
    whole = FAILED | {"active": REVISION | {"version": "1"}, "conditions": [condition("Ready", "True", "Serving")]}
    found: Figures | None = None
    for _ in range(500):
        damaged = dict(whole) | {name: dice.choice(DAMAGE) for name in dice.sample(sorted(whole), 2)}
        inner = {**whole["rollout"], dice.choice(sorted(whole["rollout"])): dice.choice(DAMAGE)}
        found = figures(read_status(dice.choice([damaged, whole | {"rollout": inner}])), found)
        assert series(found)
    assert figures(ProgramStatus(), None)


RELEASE = [("alias", "2"), *[("rounds", 6)] * 3]
REFUSED = ("refused", ("DSPyProgram/status", "patch", 403))
PASSES: dict[str, tuple[str, dict[str, Nature], list[Any], dict[tuple[str, str], int]]] = {
    "a release": ("BlueGreen", {}, RELEASE, {("Done", ""): 2}),
    "a version that a gate refuses": (
        "Auto with breaker", {"2": Nature(fails=frozenset(["Smoke"]))}, RELEASE,
        {("Done", ""): 1, ("Failed", "SmokeFailed"): 1},
    ),
    "a version that is taken back": (
        "BlueGreen", {"2": Nature(errors=30)}, RELEASE, {("Done", ""): 1, ("RolledBack", "WatchFailed"): 1},
    ),
    "one that is taken back while no status can be written": (
        "BlueGreen", {"2": Nature(errors=30)}, [*RELEASE[:2], REFUSED, *RELEASE[1:]],
        {("Done", ""): 1, ("RolledBack", "WatchFailed"): 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PASSES)
def test_passes_count_each_rollout_once(case):
    kind, natures, schedule, expected = PASSES[case]
    PROGRAMS.forget(KEY)
    run(KINDS[kind], natures, schedule)
    (found,) = [m for m in PROGRAMS.collect() if m.name == "despina_rollouts"]
    counted = {tuple(s.labels.values())[2:]: s.value for s in found.samples if tuple(s.labels.values())[:2] == KEY}
    PROGRAMS.forget(KEY)
    assert {labels: n for labels, n in counted.items() if n} == expected
