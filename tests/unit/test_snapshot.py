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
from despina.decide.observed import Observed, PodView
from despina.decide.plan import Plan, Tell
from despina.decide.rollout import decide
from despina.decide.snapshot import SnapshotError, dump, load, snapshot_of, withheld
from despina.desired.toolbox import ToolView, build_toolbox
from despina.status.why import explain
from despina.wire import PodState
from tests.support.gen import a_program, observed, serving
from tests.support.simulator import Simulator

SNAPSHOTS = Path(__file__).parents[1] / "data" / "snapshots"
P = a_program()
GATES = [{"name": "smoke", "type": "Smoke", "smoke": {"inputs": {}}}]
TURNS = ["operate", "control", "start_pods", "publish", "listen", "serve", "crash"]


def again(o: Observed, now: float = 0.0) -> Observed:
    return load(dump(snapshot_of(o, now))).observed


def tool(name: str, **tokens: str) -> ToolView:
    return ToolView(f"ns/{name}", trouble=("NotFound", "there is none"), tokens=tokens)


@given(
    turns=st.lists(st.sampled_from([*TURNS, "alias", "wait", "cpu"]), min_size=5, max_size=40),
    strategy=st.sampled_from(["Auto", "BlueGreen", "Recreate"]),
)
@settings(max_examples=int(os.environ.get("SCHEDULES", "600")) // 10, deadline=None)
def test_the_same_decision_comes_of_the_file_whatever_happened(turns, strategy):
    world = Simulator(a_program(rollout={"strategy": strategy, "gates": GATES}, breaker={}))
    for turn in turns:
        match turn:
            case "alias":
                world.alias = "2" if world.alias == "1" else "1"
            case "wait":
                world.now += 50
            case "cpu":
                resources = world.program.spec.resources.model_copy(update={"requests": {"cpu": 2}})
                spec = world.program.spec.model_copy(update={"resources": resources})
                world.program = world.program.model_copy(update={"spec": spec})
            case _:
                getattr(world, turn)()
        o = world.observed()
        assert again(o) == withheld(o) == o
        assert decide(again(o), world.now) == decide(o, world.now)
        assert all(explain(o, decide(o, world.now), world.now))


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
    documents = {(d["kind"], d["metadata"]["name"]): d for d in build_toolbox(P, views)}
    stale = base64.b64encode(b"third-token").decode()
    drifted = documents["Secret", "qa-tools"] | {"data": {"ns.search": stale}, "stringData": {"x": "fourth-token"}}
    note = {"kubectl.kubernetes.io/last-applied-configuration": '{"data": "fifth-token"}', "kept": "yes"}
    drifted["metadata"] = drifted["metadata"] | {"annotations": note, "managedFields": [{"f": "sixth-token"}]}
    for secret in (documents["Secret", "qa-tools"], drifted):
        live = {**documents, ("Secret", "qa-tools"): secret}
        o = observed(a_program({"vault/x": "seventh-token"}), tools=views, objects=live)
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
