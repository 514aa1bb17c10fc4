"""What people and servers undo while callers ask: each returns how many seconds callers waited for it to be made good.

The end-to-end tests play each once, `make bench-rollout` for longer. Every one is called while traffic runs, and leaves
the program as it expects to be found: with its first version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.world import Given, Kube, eventually, move_alias

FALLBACK = {"response": {"category": "account"}}
"""Answers for a version that errs, so that callers see no failure while it is found out."""


def rollout(strategy: str = "Auto", watch: int = 30, keep: int = 60) -> dict[str, Any]:
    """Delays under which all of this can be seen within a minute."""
    delays = {"scaleDownDelaySeconds": keep, "progressDeadlineSeconds": 90, "abortScaleDownDelaySeconds": 5}
    return {"strategy": strategy, "blueGreen": delays, "postPromotion": {"watchSeconds": watch}}


def since(started: float) -> float:
    return time.time() - started


COLLECTOR = "--as=system:serviceaccount:kube-system:generic-garbage-collector"


def delete_the_service(program: Given, good: str) -> float:
    """Somebody deletes the Service, and what is behind it, while the version that the alias names is in quarantine: it is
    refused."""
    before = program.kube.json("get", "service", program.name)
    started = time.time()
    for which in (["service", program.name], ["service", "--all"], ["deployment", "--all"]):
        said = program.kube.fails("delete", "--wait=false", *which)
        assert f"serves the callers of DSPyProgram {program.name} and goes with it" in said, said
    assert program.kube.json("get", "service", program.name) == before
    assert program.is_active(good)
    return since(started)


def lose_the_service(program: Given, good: str) -> float:
    """It is deleted nevertheless, by one who may."""
    before = program.kube.json("get", "service", program.name)
    started = time.time()
    program.kube("delete", "service", program.name, "--wait=false", COLLECTOR)

    def again() -> dict[str, Any] | None:
        found = program.kube("get", "service", program.name, "--ignore-not-found", "-o", "json")
        service = json.loads(found) if found else before
        return service if service["metadata"]["uid"] != before["metadata"]["uid"] else None

    after = eventually("the Service is there again", again, 30)
    seconds = since(started)
    assert after["spec"]["selector"] == before["spec"]["selector"]
    assert after["spec"]["clusterIP"] == before["spec"]["clusterIP"]
    eventually("its version serves", lambda: program.is_active(good), 30)
    return seconds


def go_back_by_hand(program: Given, earlier: str, later: str) -> float:
    """A person moves the alias back to a version that is warm and that had erred, and means it."""
    move_alias(program.model, later)
    eventually(f"version {later} is active", lambda: program.is_active(later), 90)
    started = time.time()
    move_alias(program.model, earlier)
    eventually(f"version {earlier} is active again", lambda: program.is_active(earlier), 60)
    seconds = since(started)
    for _ in range(3):  # whoever would undo it had time to
        looked_at = program.status["observedGeneration"], len(program.status["history"])
        stays(program, earlier, 8)
        assert (program.status["observedGeneration"], len(program.status["history"])) == looked_at
    assert not program.quarantined(earlier)
    return seconds


def stays(program: Given, version: str, seconds: float) -> None:
    """That a version serves at every look for a while."""
    deadline = time.monotonic() + seconds

    def is_over() -> bool:
        assert program.is_active(version), program.status.get("active")
        return time.monotonic() > deadline

    eventually("some time has passed", is_over, seconds + 10)


def replace_the_key(program: Given, later: str) -> float:
    """The Secret with the key of the orders is deleted, the operator restarts, and a version is released."""
    system = Kube("despina-system")
    before = system("get", "pods", "-l", "app.kubernetes.io/name=despina", "-o", "name")
    system("delete", "secret", "despina-order-key")
    system("delete", "pod", "-l", "app.kubernetes.io/name=despina", "--wait=false")

    def is_another() -> bool:
        pods = system.json("get", "pods", "-l", "app.kubernetes.io/name=despina")["items"]
        ready = [p for p in pods if all(c["ready"] for c in p["status"].get("containerStatuses", [{"ready": False}]))]
        return bool(ready) and all(f"pod/{p['metadata']['name']}" not in before for p in ready)

    eventually("another operator", is_another, 90)
    started = time.time()
    move_alias(program.model, later)
    eventually(f"version {later} is active", lambda: program.is_active(later), 120)
    assert program.status["rollout"]["strategy"] == "BlueGreen", program.status["rollout"]
    assert not program.quarantined(later)
    return since(started)


@contextmanager
def events_refused(kube: Kube) -> Iterator[None]:
    """The API server's admission refuses every Event of the namespace."""
    name = f"no-events-in-{kube.namespace}"
    match = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["events"]}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [match]},
            "validations": [{"expression": "false", "message": "no Events here"}],
        },
    }
    chosen = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kube.namespace}}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": chosen},
    }
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "try-"},
        "involvedObject": {"kind": "Namespace", "name": kube.namespace, "namespace": kube.namespace},
        "reason": "Try", "message": "is it refused?", "type": "Normal",
    }  # fmt: skip
    kube.apply(policy)
    kube.apply(binding)
    try:
        eventually(
            "Events are refused",
            lambda: "no Events here" in kube.error("create", "-f", "-", stdin=json.dumps(event)),
            30,
        )
        yield
    finally:
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            kube("delete", kind, name, "--ignore-not-found")


def err_while_events_are_refused(program: Given, good: str, bad: str) -> float:
    """A version that errs is watched, and no Event can be written."""
    with events_refused(program.kube):
        move_alias(program.model, bad)
        eventually(f"version {bad} was reached", lambda: bad in reached(program), 90)
        started = time.time()
        entry = eventually(f"version {bad} is taken back", lambda: program.quarantined(bad), 60)
        assert entry["reason"] == "WatchFailed", entry
        eventually(f"version {good} serves", lambda: program.is_active(good), 30)
        return since(started)


def reached(program: Given) -> set[str]:
    """The versions that callers were ever sent to."""
    return {entry["version"] for entry in program.status.get("history", [])}


def suspend(program: Given) -> None:
    """No pods for now."""
    set_spec(program, suspend=True)
    eventually("no pods", lambda: not program.pods(), 90)


def resume_after_a_bad_release(program: Given, good: str, bad: str) -> float:
    """While nothing runs, the alias moves to a version that is broken; then the program is to run again."""
    move_alias(program.model, bad)
    eventually("the move is known", lambda: program.status["model"].get("resolvedVersion") == bad, 60)
    assert program.status["active"]["version"] == good
    started = time.time()
    set_spec(program, suspend=False)
    eventually(f"version {good} serves", lambda: program.is_active(good), 90)
    return since(started)


def set_spec(program: Given, **fields: Any) -> None:
    """Change fields of the spec."""
    program.kube("patch", "dspy", program.name, "--type=merge", "-p", json.dumps({"spec": fields}))
