"""Labels begin a run of optimisation, once, whatever is lost meanwhile; what it finds is released under traffic."""

from __future__ import annotations

import json
import secrets

import httpx
import pytest

from tests.support.tickets import tickets
from tests.support.world import Given, Kube, eventually, log_model, traffic

pytestmark = pytest.mark.alone  # the operator is killed
LABELS, SEED, GOLDEN_SEED = 260, 23, 24
BUDGET = 1200


@pytest.fixture(scope="module")
def token(kube):
    """What labels are trusted by."""
    word = secrets.token_hex(8)
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "desk"}, "stringData": {"token": word}})
    return word


@pytest.fixture
def program(given, kube, token):
    log_model("good", "loop", "champion")
    golden = "\n".join(json.dumps({"ticket": text, "category": team}) for text, team in tickets(40, GOLDEN_SEED))
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "golden"}, "data": {"rows.jsonl": golden}}
    )
    found = given(
        "loop",
        replicas=2,
        feedback={"trustedSecretRef": {"name": "desk", "key": "token"}},
        optimization={
            "modules": ["classify"],
            "requests": "Enabled",
            "optimizer": {"seed": 7, "params": {"num_candidate_programs": 3, "max_labeled_demos": 48}},
            "budget": {"maxLMCalls": BUDGET, "maxLMCallsPerDay": 10 * BUDGET},
            "cooldownSeconds": 0,
            "triggers": [{"name": "failures", "type": "FailureRate", "failureRate": {"minLabels": LABELS}}],
            "dataset": {"goldenRef": {"configMap": {"name": "golden", "key": "rows.jsonl"}}},
            "promotion": {"mode": "Auto", "minExamples": 40},
        },
    )
    found.becomes_ready()
    return found


def label_all(program: Given, token: str) -> int:
    """Ask and say what would have been right; how many answers were wrong."""
    wrong = 0
    with httpx.Client(base_url=program.url, timeout=30) as client:
        for text, category in tickets(LABELS, SEED):
            answer = client.post("/execute", json={"ticket": text})
            found = answer.raise_for_status().json()["category"]
            label = "success" if found == category else "failure"
            said = {"prediction_id": answer.headers["despina-prediction-id"], "label": label}
            said["expected"] = {"category": category}
            client.post("/feedback", json=said, headers={"despina-feedback-token": token}).raise_for_status()
            wrong += label == "failure"
    return wrong


def jobs(kube: Kube) -> dict[str, dict]:
    found = kube.json("get", "jobs", "-l", "despina.dev/optimization")["items"]
    return {job["metadata"]["name"]: job for job in found}


def run_of(program: Given) -> dict:
    return (program.status.get("optimization") or {}).get("run") or {}


def counted(program: Given) -> int:
    """Labels that no run has used yet, as far as the operator knows."""
    found = (program.status.get("optimization") or {}).get("labels") or {}
    return found.get("successes", 0) + found.get("failures", 0)


def reason_of(program: Given, job: str) -> str:
    """How a run ended, as the status has it."""
    known = program.status["optimization"]
    return next(run["reason"] for run in (known["run"], *known["earlier"]) if run["job"] == job)


def test_one_run_and_one_candidate_whatever_is_lost_meanwhile(program, kube, token):
    with traffic(program, rate=20) as requests:
        assert label_all(program, token) > 0.10 * LABELS

        eventually("all labels are counted", lambda: counted(program) >= LABELS or jobs(kube), 150)

        # Asked for by hand, by a caller and by the rate of failures, while the operator is killed: one Job.
        kube("annotate", "dspy", program.name, "despina.dev/optimize=now")
        asked = httpx.post(f"{program.url}/modules/classify/optimize", timeout=30)
        assert asked.status_code == 202, asked.text
        Kube("despina-system")("delete", "pod", "-l", "app.kubernetes.io/name=despina", "--now", "--wait=false")
        first = eventually("a Job", lambda: next(iter(jobs(kube)), None), 150)
        eventually("how far it is", lambda: (program.status.get("step") or "").startswith("Optimize"), 60)
        assert list(jobs(kube)) == [first]

        # Its pod is taken: the run is lost, its whole budget counts, and it is tried again by itself.
        kube("delete", "pod", "-l", f"despina.dev/optimization={first}", "--grace-period=0", "--force")
        again = eventually("another try", lambda: next((n for n in jobs(kube) if n != first), None), 120)
        assert reason_of(program, first) == "Lost"

        run = eventually("a result", lambda: (r := run_of(program)).get("finishedAt") and r, 300)
        assert (run["job"], run["reason"]) == (again, "Better"), json.dumps(run)
        assert run["lmCalls"] <= BUDGET
        assert float(run["heldout"]["p"]) <= 0.05
        assert run["candidateVersion"] == "2"
        eventually("the candidate serves", lambda: program.is_active("2"), 150)
        assert len(jobs(kube)) == 2
    failed = requests.report("optimised by labels, the operator and a Job's pod killed", allowed={"1", "2"})
    assert not failed, failed[:5]
    assert program.condition("OptimizationHealthy")["status"] == "True"
