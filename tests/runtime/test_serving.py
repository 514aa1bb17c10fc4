"""The runtime as a pod runs it: processes, ports, answers, errors, drain."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from despina.wire import SIGNATURE_HEADER, LMConfig, ModelRef, Order, RuntimeConfig
from services import free_port
from tests.support.world import TICKET, eventually

RUN = (
    "import asyncio, sys; from pathlib import Path; from despina.wire import RuntimeConfig;"
    "from despina_runtime.supervisor import serve_pod;"
    "config = RuntimeConfig.model_validate_json(Path(sys.argv[1]).read_bytes());"
    "sys.exit(asyncio.run(serve_pod(config, Path(sys.argv[2]), '127.0.0.1', int(sys.argv[3]))))"
)


class Pod:
    """One runtime as a process of this machine."""

    def __init__(self, folder, config: RuntimeConfig, admin: int) -> None:
        self.config, self.admin = config, f"http://127.0.0.1:{admin}"
        self.url = f"http://127.0.0.1:{config.port}"
        self.termination = folder / "termination-log"
        (folder / "config.json").write_text(config.model_dump_json())
        env = {
            **os.environ,
            "DESPINA_POD_NAME": "pod-1",
            "DESPINA_TERMINATION_LOG": str(self.termination),
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        }
        (folder / "metrics").mkdir(exist_ok=True)
        command = [sys.executable, "-c", RUN, str(folder / "config.json"), str(folder / "cache"), str(admin)]
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return httpx.get(f"{self.admin}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, body=None, **options) -> httpx.Response:
        return httpx.post(f"{self.url}/execute", json=TICKET if body is None else body, timeout=30, **options)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def pods(folder, mlflow_uri: str, lm_url: str):
    """Starts pods; all end with the block."""
    started: list[Pod] = []

    def start(version: str, model: str = "serving", **changes) -> Pod:
        uri, timeout = changes.pop("tracking_uri", mlflow_uri), changes.pop("lm_timeout", 10)
        main = LMConfig(
            name="main", model="openai/stand-in", base_url=f"{lm_url}/v1", retries=0, request_timeout_seconds=timeout
        )
        config = RuntimeConfig(
            namespace="ns",
            program="triage",
            revision="abcd1234",
            model=ModelRef(name=model, version=version, tracking_uri=uri),
            lms=(main,),
            lm="main",
            port=free_port(),
            **{"drain_seconds": 1, "request_timeout_seconds": 20, **changes},
        )
        started.append(Pod(folder, config, free_port()))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.fixture
def pod(tmp_path, servers):
    with pods(tmp_path, *servers[1:]) as start:
        yield start


@pytest.fixture(scope="module")
def version(log_model) -> str:
    return log_model("compiled", "serving")


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
    assert answer.headers["despina-revision"] == "abcd1234"
    schema = httpx.get(f"{ready.url}/schema").json()
    assert schema["inputs"]["properties"]["ticket"]["description"] == "what the customer wrote"
    openapi = httpx.get(f"{ready.url}/openapi.json").json()
    assert openapi["components"]["schemas"]["Outputs"]["properties"]["category"]["enum"]
    page = httpx.get(f"{ready.url}/docs").text
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"docs/assets/{asset}" in page
        assert httpx.get(f"{ready.url}/docs/assets/{asset}").status_code == 200
    assert 'despina_requests_total{status="200"' in httpx.get(f"{ready.admin}/metrics").text


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


def test_a_pod_becomes_ready_without_asking_any_provider(pod, version, lm):
    lm.misbehave(status=500)
    before = lm.calls
    running = pod(version)
    eventually("ready", running.is_ready, 90)
    assert lm.calls == before


def test_a_container_that_restarts_needs_no_registry(pod, version, tmp_path):
    first = pod(version)
    eventually("ready", first.is_ready, 90)
    assert first.stop() == 0
    second = pod(version, tracking_uri="http://127.0.0.1:9")
    eventually("ready again", second.is_ready, 90)


def test_every_accepted_request_is_answered_when_the_pod_ends(pod, version, lm):
    ready = pod(version)
    eventually("ready", ready.is_ready, 90)
    lm.misbehave(delay_seconds=2)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(ready.ask().status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually("all eight", lambda: "despina_in_flight_requests 8.0" in httpx.get(f"{ready.admin}/metrics").text, 10)
    assert ready.stop() == 0
    for thread in threads:
        thread.join()
    assert answers == [200] * 8


def signed(key: Ed25519PrivateKey, **changes) -> tuple[bytes, dict[str, str]]:
    order = {"order": "Retire", "namespace": "ns", "pod": "pod-1", "issued_at": time.time()}
    body = Order.model_validate(order | changes).model_dump_json().encode()
    return body, {SIGNATURE_HEADER: base64.b64encode(key.sign(body)).decode()}


def test_only_the_operators_new_orders_to_this_pod_count(pod, version):
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    running = pod(version, order_key=public)
    eventually("ready", running.is_ready, 90)

    def give(body: bytes, headers: dict[str, str]) -> int:
        return httpx.post(f"{running.admin}/orders", content=body, headers=headers).status_code

    assert "connection" not in running.ask().headers
    assert give(*signed(Ed25519PrivateKey.generate())) == 403
    assert give(*signed(key, pod="pod-2")) == 403
    assert give(b"{}", {}) == 403
    body, headers = signed(key)
    assert give(body, headers) == 200
    assert give(body, headers) == 403  # the same again
    eventually("retired", lambda: running.ask().headers.get("connection") == "close")
    assert running.ask().status_code == 200
    assert give(*signed(key, order="Activate")) == 200
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
