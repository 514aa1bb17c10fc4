"""The runtime as a pod runs it: processes, ports, answers, errors, drain."""

from __future__ import annotations

import json
import threading

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.guard import guarded
from tests.support.pods import pods
from tests.support.world import eventually


@pytest.fixture(scope="module")
def ready(tmp_path_factory, servers, version):
    """One pod for all tests that leave it as it was."""
    with pods(tmp_path_factory.mktemp("pod"), *servers[1:]) as start:
        running = start(version, lm_timeout=2)
        eventually("ready", running.is_ready, 90)
        yield running


def test_answers_name_their_version_and_fit_the_signature(ready, version):
    answer = ready.ask()
    assert answer.status_code == 200
    assert answer.json() == {"category": "billing"}
    assert answer.headers["despina-model-version"] == version
    assert answer.headers["despina-prediction-id"].startswith("abcd1234-")
    schema = httpx.get(f"{ready.url}/schema").json()
    assert schema["inputs"]["properties"]["ticket"]["description"] == "what the customer wrote"
    openapi = httpx.get(f"{ready.url}/openapi.json").json()
    assert openapi["components"]["schemas"]["Outputs"]["properties"]["category"]["enum"]
    page = httpx.get(f"{ready.url}/docs").text
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"docs/assets/{asset}" in page
        assert httpx.get(f"{ready.url}/docs/assets/{asset}").status_code == 200
    counted = 'despina_requests_total{status="200"'  # after the answer was sent
    eventually("the request is counted", lambda: counted in httpx.get(f"{ready.admin}/metrics").text, 10)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "ticket"),
        ({"ticket": 5}, "ticket"),
        ({"ticket": None}, "ticket"),
        ({"ticket": "x", "extra": 1}, "extra"),
        ([], "(body)"),
        ("text", "(body)"),
    ],
)
def test_bad_input_is_a_problem_that_names_the_field(ready, body, field):
    answer = ready.ask(body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == field
    assert field in answer.json()["detail"]


def test_what_is_not_json_or_not_post_or_not_there_is_a_problem_too(ready):
    broken = httpx.post(f"{ready.url}/execute", content=b'{"ticket": ')
    assert broken.status_code == 422
    assert "Traceback" not in broken.text
    assert httpx.get(f"{ready.url}/execute").status_code == 405
    missing = httpx.get(f"{ready.url}/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    large = httpx.post(f"{ready.url}/execute", content=b"x" * (17 * 2**20), timeout=30)
    assert large.status_code == 413


@pytest.mark.parametrize(
    ("faults", "status", "kind"),
    [
        ({"status": 500}, 502, "lm-failure"),
        ({"status": 401}, 502, "lm-failure"),
        ({"status": 429, "retry_after": 1}, 503, "lm-rate-limited"),
        ({"garble": True}, 502, "invalid-output"),
        ({"hang": True}, 504, "lm-timeout"),
    ],
)
def test_an_lm_that_fails_is_a_problem_and_no_trace(ready, lm, faults, status, kind):
    lm.misbehave(**faults)
    answer = ready.ask()
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"urn:despina:problem:{kind}"
    assert "Traceback" not in answer.text
    lm.misbehave()
    assert ready.ask().status_code == 200


def test_the_deadline_holds_for_the_whole_request(pod, version, lm):
    running = pod(version, request_timeout_seconds=1, lm_timeout=30)
    eventually("ready", running.is_ready, 90)
    lm.misbehave(delay_seconds=5)
    answer = running.ask()
    assert answer.status_code == 504
    assert answer.json()["type"] == "urn:despina:problem:deadline-exceeded"
    assert "error=LMTimeoutError" in running.log.read_text()


def test_a_pod_becomes_ready_without_asking_any_provider(pod, version, lm):
    lm.misbehave(status=500)
    before = lm.calls
    running = pod(version)
    eventually("ready", running.is_ready, 90)
    assert lm.calls == before


def test_a_container_that_restarts_needs_no_registry(pod, version, mlflow_uri):
    with guarded(mlflow_uri, None) as server:
        first = pod(version, tracking_uri=server.url)
        eventually("ready", first.is_ready, 90)
    assert first.stop() == 0
    second = pod(version, tracking_uri=server.url)  # where nobody is any more
    eventually("ready again", second.is_ready, 90)


def test_every_accepted_request_is_answered_when_the_pod_ends(pod, version, lm):
    ready = pod(version)
    eventually("ready", ready.is_ready, 90)
    lm.misbehave(delay_seconds=4)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(ready.ask().status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually("all eight", lambda: ready.metric("despina_in_flight_requests") == 8, 10)
    assert ready.stop() == 0
    for thread in threads:
        thread.join()
    assert answers == [200] * 8


def test_only_the_operators_new_orders_to_this_pod_count(pod, version):
    running = pod(version)
    eventually("ready", running.is_ready, 90)

    assert "connection" not in running.ask().headers
    assert running.give(*running.signed(Ed25519PrivateKey.generate())) == 403
    assert running.give(*running.signed(pod="pod-2")) == 421
    assert running.give(b"{}", {}) == 403
    body, headers = running.signed()
    assert running.give(body, headers) == 200
    assert running.give(body, headers) == 409  # the same again
    assert running.give(*running.signed(boot="before")) == 409
    eventually("retired", lambda: running.ask().headers.get("connection") == "close")
    assert running.ask().status_code == 200
    assert running.order("Activate") == 200
    assert running.state().orders.number == 2
    eventually("active", lambda: "connection" not in running.ask().headers)


@pytest.mark.parametrize(
    ("kind", "reason", "part"),
    [
        ("broken-import", "LoadFailed", "broken on import"),
        ("gone", "ArtifactMissing", "artefact"),
        ("pickled", "PickleDenied", "spec.security.pickle: Allow"),
    ],
)
def test_what_cannot_be_served_says_why_and_ends(pod, log_model, kind, reason, part):
    running = pod(log_model(kind, f"cannot-{kind}"), model=f"cannot-{kind}")
    assert running.process.wait(90) == 1
    word = json.loads(running.termination.read_text())
    assert word["reason"] == reason
    assert part in word["message"]


def test_pickles_load_only_when_allowed(pod, log_model):
    running = pod(log_model("pickled", "pickled"), model="pickled", allow_pickle=True)
    eventually("ready", running.is_ready, 90)
    assert running.ask().status_code == 200
