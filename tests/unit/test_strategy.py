"""How a version comes and why so, case by case."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import pytest

from despina.api.placement import PlacementProfile
from despina.api.program import Program
from despina.api.revision import revision_of, shape_of
from despina.api.status import ProgramStatus
from despina.decide.observed import Observed, PodView, Trouble
from despina.decide.strategy import choose, why_not_in_place
from despina.wire import Failure, HeldRevision, PodState
from tests.support.gen import DEFAULTS, a_deployment, a_program, hash_of, observed, pods, ref, serving

P = a_program()
TWO = revision_of(P, ref("2"))
REPORT = PodState()
IN_PLACE = ("HotSwap", "only compiled state, LMs or modules changed")
SILENT = ("BlueGreen", "pods do not answer on their admin port")


def running(program: Program = P, report: PodState | None = REPORT, **changes: Any) -> Observed:
    """Version 1 serves in pods that were made for the program as it is, and version 2 is wanted."""
    fields = serving(program, "1", 2)
    shape = shape_of(program, ref("1"), DEFAULTS.runtime_image)
    fields["deployments"] = tuple(replace(d, **{"shape": shape, **changes}) for d in fields["deployments"])
    fields["pods"] = tuple(replace(p, report=report) for p in fields["pods"])
    return observed(program, "2", **fields)


def before(strategy: str, revision: str = TWO.hash) -> ProgramStatus:
    rollout = {"id": revision, "strategy": strategy, "strategyReason": "as before", "step": "Prepare", "startedAt": "t"}
    return ProgramStatus.model_validate({"rollout": rollout})


def failed(reason: str, revision: str = TWO.hash) -> PodState:
    return PodState(held={revision: HeldRevision(phase="Failed", failure=Failure(reason=reason, message="qa.py"))})


def with_two(o: Observed, **changes: Any) -> Observed:
    return replace(o, deployments=(*o.deployments, a_deployment(o.program, "2", **changes)))


def asked(strategy: str, deadline: int = 600) -> Program:
    return a_program(rollout={"strategy": strategy, "blueGreen": {"progressDeadlineSeconds": deadline}})


def made_for_it(program: Program = P, **pod: Any) -> Observed:
    """Version 1 serves in pods that were made for version 2, which is wanted again."""
    view = replace(a_deployment(program, "2", activated_at=1.0), version="1")
    ready = tuple(replace(p, report=REPORT, **pod) for p in pods(program, "2", 2, ready=True))
    return observed(program, "2", active="2", deployments=(view,), pods=ready)


ITS_OWN = ("HotSwap", "its pods were made for it")
CHOICES: dict[str, tuple[Observed, float, tuple[str, str]]] = {
    # sentence: snapshot, seconds since the change began; strategy and reason
    "what running processes can take in": (running(), 0, IN_PLACE),
    "what callers left and still stands": (with_two(running(), activated_at=1.0), 0, ("BlueGreen", "its pods are still there")),
    "even where another strategy is asked for": (
        with_two(running(asked("HotSwap")), activated_at=1.0), 0, ("BlueGreen", "its pods are still there")),
    "what callers left and has no pods": (with_two(running(), activated_at=1.0, replicas=0), 0, IN_PLACE),
    "what callers never reached": (with_two(running()), 0, IN_PLACE),
    "what the running pods were made for": (made_for_it(), 0, ITS_OWN),
    "what the running pods were made for, though new ones are asked for": (made_for_it(asked("BlueGreen")), 0, ITS_OWN),
    "what the running pods were made for, and they take no orders": (
        made_for_it(asked("BlueGreen"), refusal="why"), 0, ("BlueGreen", "spec.rollout.strategy")),
    "what the running pods were made for, and they are to end first": (
        made_for_it(asked("Recreate")), 0, ("Recreate", "spec.rollout.strategy")),
    "asked for": (running(asked("BlueGreen")), 0, ("BlueGreen", "spec.rollout.strategy")),
    "asked to go first": (running(asked("Recreate")), 0, ("Recreate", "spec.rollout.strategy")),
    "asked for, though the pods differ": (running(asked("HotSwap"), shape={}), 0, ("HotSwap", "spec.rollout.strategy")),
    "as it began": (replace(running(), status=before("BlueGreen")), 0, ("BlueGreen", "as before")),
    "as it began, in place of the old pods": (replace(running(), status=before("Recreate")), 0, ("Recreate", "as before")),
    "as it began, but that was in place": (replace(running(shape=None), status=before("HotSwap")), 0, (
        "BlueGreen", "the running pods were made by an earlier Despina")),
    "as another change began": (replace(running(), status=before("BlueGreen", "other")), 0, IN_PLACE),
    "no Deployment": (replace(running(), deployments=()), 0, ("BlueGreen", "no pod is ready that could take it in")),
    "no pod": (replace(running(), pods=()), 0, ("BlueGreen", "no pod is ready that could take it in")),
    "no ready pod": (replace(running(), pods=pods(P, "1")), 0, ("BlueGreen", "no pod is ready that could take it in")),
    "pods made of something else": (running(shape={**shape_of(P, ref("1"), DEFAULTS.runtime_image), "image": "x", "cache": "y"}), 0, (
        "BlueGreen", "cache, image changed")),
    "pods that nobody has heard for less than one waits": (running(report=None), 19, IN_PLACE),
    "pods that nobody has heard for as long as one waits": (running(report=None), 20, SILENT),
    "pods that nobody has heard, and little time": (running(asked("Auto", 10), report=None), 5, SILENT),
    "one pod that nobody has heard": (replace(running(), pods=running().pods[:1] + running(report=None).pods[1:]), 21, SILENT),
    "pods that have been heard": (running(), 21, IN_PLACE),
    "pods that found other code": (running(report=failed("CodeChanged")), 0, ("BlueGreen", "CodeChanged: qa.py")),
    "pods that cannot change": (running(report=failed("NotSwappable")), 0, ("BlueGreen", "NotSwappable: qa.py")),
    "pods that could not load it": (running(report=failed("LoadFailed")), 0, IN_PLACE),
    "pods that found other code in another version": (running(report=failed("CodeChanged", "other")), 0, IN_PLACE),
}  # fmt: skip


@pytest.mark.parametrize("sentence", CHOICES)
def test_choices(sentence):
    o, seconds, wanted = CHOICES[sentence]
    assert astuple(choose(o, revision_of(o.program, ref("2")), seconds)) == wanted


def test_a_pod_that_is_ending_says_nothing_about_what_the_others_can_take_in():
    o = running()
    ending = replace(o.pods[0], ending=True, report=failed("CodeChanged"))
    assert why_not_in_place(replace(o, pods=(ending, o.pods[1])), TWO) is None


# Devices

GPU = a_program(placement={"accelerator": {"resource": "nvidia.com/gpu"}})
POOL = a_program(placement={"profile": "gpu"})
POOLS = {"gpu": PlacementProfile.model_validate({"accelerator": {"resource": "amd.com/gpu"}})}


def waiting(
    program: Program, message: str, version: str = "2", reason: str = "Unschedulable", **changes: Any
) -> Observed:
    o = running(program)
    waits = PodView("new", hash_of(program, version), trouble=Trouble(reason, message), **changes)
    return replace(o, pods=(*o.pods, waits), defaults=replace(DEFAULTS, profiles=POOLS))


NONE_FREE = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
RECREATED = ("Recreate", "no node has a free nvidia.com/gpu")
DEVICES: dict[str, tuple[Observed, float, tuple[str, str]]] = {
    "half of its deadline has gone by": (waiting(GPU, NONE_FREE), 300, RECREATED),
    "it may still come": (waiting(GPU, NONE_FREE), 299, IN_PLACE),
    "the pool's device": (
        waiting(POOL, "1 Insufficient amd.com/gpu."),
        300,
        ("Recreate", "no node has a free amd.com/gpu"),
    ),
    "no device": (waiting(P, NONE_FREE), 300, IN_PLACE),
    "something else is missing": (waiting(GPU, "1 Insufficient cpu."), 300, IN_PLACE),
    "something else is the matter": (waiting(GPU, NONE_FREE, reason="ImageNotPulled"), 300, IN_PLACE),
    "another version waits": (waiting(GPU, NONE_FREE, "3"), 300, IN_PLACE),
    "who waits is ending": (waiting(GPU, NONE_FREE, ending=True), 300, IN_PLACE),
    "nobody waits": (running(GPU), 300, IN_PLACE),
}


@pytest.mark.parametrize("sentence", DEVICES)
def test_devices(sentence):
    o, seconds, wanted = DEVICES[sentence]
    assert astuple(choose(o, revision_of(o.program, ref("2")), seconds)) == wanted
