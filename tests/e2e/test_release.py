"""A release, its way back, and three broken ones, under traffic from before the first to after the last old pod."""

from __future__ import annotations

import pytest

from tests.support.world import conditions_of, eventually, log_model, manifest, move_alias, traffic


@pytest.fixture(scope="module")
def model():
    log_model("good", "release", "champion")
    log_model("compiled", "release")
    return "release"


def test_releases_lose_no_request_and_broken_ones_are_quarantined(given, kube, model):
    kube("create", "secret", "generic", "lm", "--from-literal=key=sk-of-the-tests")
    lm = manifest("release")["spec"]["lms"][0] | {"apiKeySecretRef": {"name": "lm", "key": "key"}}
    program = given("release", replicas=2, lms=[lm])
    program.becomes_ready()
    assert program.is_active("1")
    with conditions_of(program) as seen, traffic(program, rate=50) as requests:
        move_alias(model, "2")
        eventually("version 2 is active", lambda: program.is_active("2"), 90)
        move_alias(model, "1")
        eventually("version 1 is active again", lambda: program.is_active("1"), 90)
        for kind, reason in (
            ("broken-import", "LoadFailed"),
            ("gone", "ArtifactMissing"),
            ("never-ready", "ProgressDeadlineExceeded"),
        ):
            version = log_model(kind, model, "champion")
            entry = eventually(f"{kind} is quarantined", lambda v=version: program.quarantined(v), 120)
            assert entry["reason"] == reason, entry
            assert entry["message"]
            program.becomes("UpToDate", "False", "VersionQuarantined")
            assert program.condition("Ready")["status"] == "True"
            assert program.is_active("1")
        eventually("the last old pod is gone", lambda: program.only_pods_of("1"), 120)
    failed = requests.report("v1 -> v2 -> v1 -> three broken versions", allowed={"1", "2"})
    assert not failed, failed[:5]
    assert len(requests.records) > 50 * 60
    assert seen
    assert all(s.get("Available") == "True" for s in seen)
    last = [r["version"] for r in requests.records[-50:]]
    assert set(last) == {"1"}
    kube("delete", "secret", "lm")
    configs = kube("get", "configmap,deployment,dspy", "-o", "yaml") + kube("logs", "-l", "despina.dev/program=release")
    assert "sk-of-the-tests" not in configs
