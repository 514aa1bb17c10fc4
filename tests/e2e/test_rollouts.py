"""Releases that judge and undo themselves, and a breaker that heals, each under traffic."""

from __future__ import annotations

import json

import httpx
import pytest

from clusterconfig import NODE_IP
from despina.wire import SIGNATURE_HEADER, reading
from services import Processes, free_port, mlflow_command, standin_command
from tests.support.world import ROOT, StandIn, eventually, hangs, log_model, manifest, move_alias, traffic

DELAYS = {"scaleDownDelaySeconds": 30, "progressDeadlineSeconds": 60, "abortScaleDownDelaySeconds": 5}
FALLBACK = {"response": {"category": "account"}}


def rollout(*gates, strategy: str = "Auto", watch: int = 20, **more):
    return {
        "strategy": strategy,
        "blueGreen": DELAYS,
        "gates": list(gates),
        "postPromotion": {"watchSeconds": watch},
        **more,
    }


@pytest.fixture
def rows(kube):
    """Twenty held-out tickets as a ConfigMap."""
    lines = [json.loads(line) for line in (ROOT / "examples/ticket-triage/tickets.jsonl").read_text().splitlines()]
    held = [{"ticket": r["ticket"], "category": r["category"]} for r in lines if r["split"] == "heldout"][:20]
    text = "".join(json.dumps(r) + "\n" for r in held)
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rows"}, "data": {"rows.jsonl": text}})
    return {"configMap": {"name": "rows", "key": "rows.jsonl"}}


def test_a_worse_version_is_stopped_with_both_scores_and_one_that_drops_an_output_too(given, kube, rows):
    for kind in ("richer", "compiled", "good"):
        log_model(kind, "judged")
    move_alias("judged", "2")
    score = {"name": "score", "type": "Evaluate", "timeoutSeconds": 120,
             "evaluate": {"datasetRef": rows, "maxRegressionPercent": 5}}  # fmt: skip
    program = given("judged", rollout=rollout({"name": "schema", "type": "SchemaCompatibility"}, score))
    program.becomes_ready()
    with traffic(program, rate=20) as requests:
        move_alias("judged", "3")
        entry = eventually("version 3 is quarantined", lambda: program.quarantined("3"), 150)
        assert entry["reason"] == "EvaluationFailed", entry
        assert "now, on 20 examples; at most 5 points less are allowed" in entry["message"]
        gates = {g["name"]: g for g in program.status["rollout"]["gates"]}
        assert (gates["schema"]["result"], gates["score"]["result"]) == ("Passed", "Failed")
        program.becomes("UpToDate", "False", "VersionQuarantined")
        assert program.condition("Ready")["status"] == "True"
        events = kube(
            "get", "events", "--field-selector=involvedObject.name=judged", "-o", "jsonpath={.items[*].reason}"
        )
        assert {"GatePassed", "EvaluationFailed"} <= set(events.split())
    failed = requests.report("a worse version is stopped at its gate", allowed={"2"})
    assert not failed, failed[:5]
    program = given(
        "narrowed",
        model="judged",
        source=pinned("judged", 1),
        rollout=rollout({"name": "schema", "type": "SchemaCompatibility"}),
    )
    program.becomes_ready()
    kube.apply(
        manifest(
            "narrowed",
            "judged",
            source=pinned("judged", 2),
            rollout=rollout({"name": "schema", "type": "SchemaCompatibility"}),
        )
    )
    condition = program.becomes("Ready", "False", "SchemaIncompatible", 90)  # the manifest's author did this
    assert "output urgency is dropped" in condition["message"]
    assert program.is_active("1")


def pinned(model: str, version: int):
    uri = manifest(model)["spec"]["source"]["mlflow"]["trackingURI"]
    return {"mlflow": {"model": model, "version": version, "trackingURI": uri}}


@pytest.mark.parametrize(
    ("first", "second", "strategy"), [("guarded", "boom", "HotSwap"), ("other", "erring", "BlueGreen")]
)
def test_a_version_that_errs_in_production_is_taken_back(given, kube, first, second, strategy):
    name = f"relapse-{strategy.lower()}"
    log_model(first, name, "champion")
    log_model(second, name)
    smoke = {"name": "smoke", "type": "Smoke", "smoke": {"inputs": {"ticket": "Where is my parcel?"}}}
    program = given(name, replicas=2, rollout=rollout(smoke), fallback=FALLBACK)
    program.becomes_ready()
    with traffic(program, rate=50) as requests:
        move_alias(name, "2")
        entry = eventually("version 2 is quarantined", lambda: program.quarantined("2"), 90)
        assert entry["reason"] == "WatchFailed", entry
        eventually("version 1 is active again", lambda: program.is_active("1"), 10)
        seen = len(requests.records)
        eventually("more traffic", lambda: len(requests.records) > max(seen + 100, 1000), 60)
    failed = requests.report(f"taken back within the watch, {strategy}", allowed={"1", "2"})
    assert not failed, failed[:5]
    status = program.status
    assert (status["rollout"]["strategy"], status["rollout"]["step"]) == (strategy, "RolledBack")
    assert [(h["version"], h["outcome"]) for h in status["history"]][-3:] == [
        ("1", "Superseded"), ("2", "RolledBack"), ("1", "Serving"),
    ]  # fmt: skip
    assert {r["version"] for r in requests.records[-50:]} == {"1"}


def test_a_shadowed_version_is_asked_without_callers_noticing(given, kube):
    log_model("good", "mirrored", "champion")
    log_model("compiled", "mirrored")
    log_model("other", "mirrored")
    shadow = {
        "name": "mirror",
        "type": "Shadow",
        "shadow": {"percent": 50, "minRequests": 20, "minAgreementPercent": 90},
    }
    program = given("mirrored", rollout=rollout(shadow))
    program.becomes_ready()
    with traffic(program, rate=30) as requests:
        move_alias("mirrored", "2")  # answers otherwise
        entry = eventually("version 2 is quarantined", lambda: program.quarantined("2"), 60)
        assert entry["reason"] == "ShadowFailed"
        assert "at least 90 % must agree" in entry["message"]
        move_alias("mirrored", "3")  # other code, the same answers
        eventually("version 3 is active", lambda: program.is_active("3"), 90)
        (gate,) = program.status["rollout"]["gates"]
        assert "100 % agree" in gate["message"], gate
    failed = requests.report("shadowed versions", allowed={"1", "3"})
    assert not failed, failed[:5]


def breaker(**changes):
    return {"minRequests": 20, "windowSeconds": 10, "openSeconds": 5, **changes}


def states(program) -> dict[str, str]:
    """What each ready pod says its breaker is, to whoever has the key that stands in its configuration."""
    found, keys = {}, {json.loads(text)["read_key"] for text in program.configs()}
    for pod in program.pods():
        name, url = pod["metadata"]["name"], f"http://{pod['status']['podIP']}:8081/state"
        assert httpx.get(url, timeout=5).status_code == 403
        signed = {SIGNATURE_HEADER: reading(keys, pod["metadata"]["namespace"], name)}
        report = httpx.get(url, headers=signed, timeout=5).json()
        found[name] = {b.get("state", "Closed") for b in report["breakers"]}
    return found


@pytest.fixture
def processes(tmp_path):
    """Servers of the test's own beside the cluster, which may fail without anybody else's noticing."""
    started = Processes(tmp_path / "logs")
    yield started
    started.stop_all()


def test_an_outage_of_the_provider_leads_to_the_fallback_and_no_restart(given, kube, processes):
    log_model("good", "outage", "champion")
    port = free_port()
    processes.start("provider", standin_command(NODE_IP, port))
    provider = StandIn(f"http://{NODE_IP}:{port}")
    processes.wait_for_http("provider", f"{provider.url}/admin")
    lms = [{"name": "main", "model": "openai/stand-in", "baseURL": f"{provider.url}/v1"}]
    program = given("outage", replicas=3, lms=lms, breaker=breaker(), fallback=FALLBACK, rollout=rollout())
    program.becomes_ready()
    before = {p["metadata"]["name"] for p in program.pods()}
    with traffic(program, rate=50) as requests:
        provider.misbehave(status=500)
        try:
            eventually("open", lambda: program.condition("BreakerClosed").get("status") == "False", 30)
            status = program.status["breaker"]
            assert (status["class"], status["state"]) in {("Upstream", "Open"), ("Upstream", "HalfOpen")}, status
            eventually("all agree", lambda: all("Closed" not in s for s in states(program).values()), 2)
            seen = len(requests.records)
            eventually("more traffic", lambda: len(requests.records) > max(seen + 300, 700), 60)
        finally:
            provider.misbehave()
        eventually("closed", lambda: program.condition("BreakerClosed").get("status") == "True", 5 + 5)
        eventually("all agree", lambda: all(s == {"Closed"} for s in states(program).values()), 2)
        eventually("more traffic", lambda: len(requests.records) > 1000, 60)
    failed = requests.report("provider down, fallback answers", allowed={"1"})
    assert not failed, failed[:5]
    assert {p["metadata"]["name"] for p in program.pods()} == before, "no pod was restarted"
    assert all(p["status"]["containerStatuses"][0]["restartCount"] == 0 for p in program.pods())
    degraded = [r for r in requests.records if r.get("degraded")]
    assert degraded
    assert not requests.records[-1].get("degraded")


def test_a_worn_out_program_is_restarted_within_bounds(given, kube):
    log_model("wearing", "wearing", "champion")
    restarts = {"maxPerHour": 2, "backoffSeconds": 1}
    program = given(
        "wearing", replicas=2, breaker=breaker(restart=restarts, openSeconds=30), fallback=FALLBACK, rollout=rollout()
    )
    program.becomes_ready()
    before = {p["metadata"]["name"] for p in program.pods()}
    with traffic(program, rate=50) as requests:
        eventually("open", lambda: program.condition("BreakerClosed").get("status") == "False", 60)
        assert program.status["breaker"]["class"] == "Program"
        eventually("healed", lambda: program.condition("BreakerClosed").get("status") == "True", 90)
        eventually("new pods", lambda: before.isdisjoint({p["metadata"]["name"] for p in program.pods()}), 60)
        assert program.status["breaker"]["restartsLastHour"] == 1
        eventually("more traffic", lambda: len(requests.records) > 1000, 60)
    failed = requests.report("worn out and restarted", allowed={"1"})
    assert not failed, failed[:5]


def test_pins_pauses_aborts_and_restarts(given, kube):
    log_model("good", "manual", "champion")
    log_model("compiled", "manual")
    program = given("manual", rollout=rollout())
    program.becomes_ready()
    kube("patch", "dspy", "manual", "--type=merge", "-p", '{"spec": {"rollout": {"state": "Paused"}}}')
    move_alias("manual", "2")
    program.becomes("UpToDate", "False", "Paused", 30)
    candidate = program.status["candidate"]["revision"]
    kube("annotate", "dspy", "manual", f"despina.dev/abort={candidate}")
    kube("patch", "dspy", "manual", "--type=merge", "-p", '{"spec": {"rollout": {"state": "Active"}}}')
    eventually("aborted", lambda: (program.quarantined("2") or {}).get("reason") == "Aborted", 30)
    assert program.is_active("1")
    kube("annotate", "dspy", "manual", "despina.dev/retry=2")
    eventually("version 2 is active", lambda: program.is_active("2"), 60)
    kube("patch", "dspy", "manual", "--type=merge", "-p", '{"spec": {"rollout": {"rollbackTo": 1}}}')
    eventually("pinned to version 1", lambda: program.is_active("1"), 30)
    assert "pinned" in program.becomes("UpToDate", "True", "UpToDate")["message"]
    before = {p["metadata"]["name"] for p in program.pods()}
    with traffic(program, rate=20) as requests:
        kube("annotate", "dspy", "manual", "despina.dev/restart=today")
        eventually("new pods", lambda: before.isdisjoint({p["metadata"]["name"] for p in program.pods()}), 90)
        eventually("more traffic", lambda: len(requests.records) > 300, 60)
    failed = requests.report("restarted by annotation", allowed={"1"})
    assert not failed, failed[:5]


def test_programs_serve_on_while_mlflow_is_silent(given, kube, processes, tmp_path):
    port = free_port()
    uri = f"http://{NODE_IP}:{port}"
    processes.start("mlflow", mlflow_command(tmp_path / "mlflow", NODE_IP, port, "*"))
    processes.wait_for_http("mlflow", f"{uri}/health", 120)
    log_model("good", "alone", "champion", uri=uri)
    source = manifest("alone")["spec"]["source"]["mlflow"] | {"trackingURI": uri}
    program = given("alone", source={"mlflow": source}, replicas=2, rollout=rollout())
    program.becomes_ready()
    with traffic(program, rate=50) as requests:
        with hangs(processes.started["mlflow"].pid):
            program.becomes("ModelResolved", "Unknown", "RegistryUnreachable", 60)
            eventually("more traffic", lambda: len(requests.records) > 1000, 60)
            assert program.condition("Ready")["status"] == "True"
        program.becomes("ModelResolved", "True", "ModelFound", 90)
    failed = requests.report("MLflow silent", allowed={"1"})
    assert not failed, failed[:5]
