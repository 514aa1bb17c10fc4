"""What a failed download means: a bad day is waited out, trouble of this machine is tried again a few times, and what is
gone is said at once. And a revision that a running process takes in gets a second try, where that can change anything."""

from __future__ import annotations

import email.message
import http.client
import io
import json
import ssl
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import mlflow.artifacts
import pytest
import requests
from mlflow.exceptions import MlflowException

from despina.wire import CERTAIN, FailureReason, ModelRef
from despina_runtime.engine import twice
from despina_runtime.program import proxied
from despina_runtime.program.fetch import PAUSES, TRIES, fetch
from despina_runtime.program.unservable import ProgramError

MODEL = ModelRef(name="qa", version="1", tracking_uri="http://mlflow:5000")


def status(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://mlflow:5000", code, "no", email.message.Message(), None)


def response(code: int) -> requests.HTTPError:
    found = requests.Response()
    found.status_code = code
    return requests.HTTPError("no", response=found)


class Download:
    """An MLflow server, or its client, that fails a few times first."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.pauses: list[float] = []

    def fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def open(self, request: urllib.request.Request, timeout: float):
        self.fail()
        if "get-download-uri" in request.full_url:
            return nullcontext(io.BytesIO(b'{"artifact_uri": "mlflow-artifacts:/1"}'))
        if "artifacts?path" in request.full_url:
            return nullcontext(io.BytesIO(json.dumps({"files": [{"path": "MLmodel"}]}).encode()))
        return nullcontext(io.BytesIO(b"flavors: {}"))

    def by_mlflow(self, uri: str, dst_path: str) -> None:
        self.fail()
        (Path(dst_path) / "MLmodel").write_text("flavors: {}")


@pytest.fixture(params=["the server's own files", "another store"])
def fetched(request, tmp_path, monkeypatch):
    def run(*failures: Exception) -> Download:
        download = Download(*failures)
        if request.param == "another store":
            monkeypatch.setattr(proxied, "download", refuse)
            monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download.by_mlflow)
        else:
            monkeypatch.setattr(proxied.OPENER, "open", download.open)
        assert (fetch(MODEL, tmp_path, download.pauses.append) / "MLmodel").exists()
        return download

    run.store = request.param
    return run


def refuse(*_: object) -> None:
    raise proxied.NotProxied


BAD_DAYS = {
    "the server's own files": [
        urllib.error.URLError(ConnectionRefusedError()),
        urllib.error.URLError(OSError(113, "No route to host")),
        ConnectionResetError(),
        TimeoutError(),
        ssl.SSLError(),
        http.client.IncompleteRead(b""),
        http.client.RemoteDisconnected(),
        ValueError("not JSON"),
        *map(status, (429, 500, 502, 503, 504, 401)),
    ],
    "another store": [
        requests.ConnectionError(),
        requests.Timeout(),
        requests.exceptions.ChunkedEncodingError(),
        ConnectionResetError(),
        TimeoutError(),
        response(503),
        MlflowException("no answer"),
    ],
}


def test_a_bad_day_of_the_registry_is_waited_out_with_growing_pauses(fetched):
    download = fetched(*BAD_DAYS[fetched.store])
    assert len(download.pauses) == len(BAD_DAYS[fetched.store])
    assert download.pauses[: len(PAUSES)] == list(PAUSES) == sorted(PAUSES)
    assert set(download.pauses[len(PAUSES) :]) <= {PAUSES[-1]}


MISSING = {
    "the server's own files": [status(404), status(400)],
    "another store": [
        FileNotFoundError("/artifacts/1"),
        response(404),
        MlflowException("no such model", error_code=mlflow.exceptions.RESOURCE_DOES_NOT_EXIST),
    ],
}


def test_what_is_gone_is_said_at_once(fetched):
    for failure in MISSING[fetched.store]:
        with pytest.raises(ProgramError) as said:
            fetched(failure)
        assert said.value.failure.reason == "ArtifactMissing"


def test_trouble_of_this_machine_is_tried_again_a_few_times_and_then_told(fetched):
    trouble = OSError(28, "No space left on device")
    fetched(*[trouble] * (TRIES - 1))


def test_and_then_told(fetched):
    """What was fetched stays, so that this is a test of its own."""
    with pytest.raises(ProgramError) as said:
        fetched(*[OSError(28, "No space left on device")] * TRIES)
    assert said.value.failure.reason == "LoadFailed"
    assert "No space left on device" in said.value.failure.message


def test_what_a_stores_client_raises_is_told_without_its_words(fetched):
    """They may hold a signed address."""
    if fetched.store == "another store":
        with pytest.raises(ProgramError) as said:
            fetched(*[RuntimeError("https://bucket?X-Amz-Signature=s3cret")] * TRIES)
        assert "RuntimeError" in said.value.failure.message
        assert "s3cret" not in said.value.failure.message


@pytest.mark.parametrize("reason", FailureReason)
def test_a_second_try_is_made_where_it_can_change_anything(reason):
    pauses, tries = [], []

    def load() -> str:
        tries.append(reason)
        if len(tries) == 1:
            raise ProgramError(reason, "broken")
        return "loaded"

    if reason in CERTAIN:
        with pytest.raises(ProgramError):
            twice(load, pauses.append)
    else:
        assert twice(load, pauses.append) == "loaded"
    assert len(pauses) == len(tries) - 1 == (reason not in CERTAIN)


def test_the_second_failure_is_told():
    with pytest.raises(ProgramError, match="broken"):
        twice(broken, lambda _: None)


def broken() -> None:
    raise ProgramError(FailureReason.WARMUP_FAILED, "broken")
