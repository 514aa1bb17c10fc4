"""Labels come out of a real MLflow as they went in, whatever else is there, and its errors say what to do."""

from __future__ import annotations

import asyncio
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from despina.wire import ModelRef, RuntimeConfig
from despina.wire.labels import Label
from despina.wire.predictions import trace_id_of
from despina_runtime.evaluation.examples import Unusable
from despina_runtime.feedback.sink import MLflowSink
from despina_runtime.optimization import labels
from despina_runtime.optimization.labels import Experiment, Labels
from despina_runtime.telemetry.executed import Executed
from services import free_port

NAME = "labels/triage"
PREDICTIONS = 25


def model(uri: str) -> ModelRef:
    return ModelRef(name="triage", version="1", tracking_uri=uri)


def executed(number: int, path: str = "", **changes) -> Executed:
    found = Executed(
        f"p{number}", time.time(), 0.1, "r1", "1", path, 200, "", "main", 5, 5, "", "", {"ticket": f"t{number}"},
        {"category": "bug"}, [("module", "classify", 0.0, 0.1, {"inputs": {"x": 1}, "outputs": {"y": 2}})],
    )  # fmt: skip
    return found._replace(**changes)


def label(number: int, at: float, **changes) -> Label:
    own = {"prediction": f"p{number}", "origin": f"p{number}", "pod": "", "trace_id": trace_id_of(f"p{number}")}
    return Label(**{**own, "at": at, "label": "failure", "is_trusted": True, "source": "desk", **changes})


@pytest.fixture(scope="module")
def filled(servers) -> Experiment:
    """What the program has delivered, and what people and machines have added to that."""
    config = RuntimeConfig(namespace="labels", program="triage", revision="r1", model=model(servers[1]))
    asyncio.run(deliver(MLflowSink(config, NAME)))
    mlflow.set_tracking_uri(servers[1])
    trace, jane = f"tr-{trace_id_of('p104')}", AssessmentSource(source_type="HUMAN", source_id="jane")
    mlflow.log_feedback(trace_id=trace, name="label", value="failure", source=jane, rationale="it is an invoice")
    mlflow.log_expectation(trace_id=trace, name="expected", value={"category": "billing"}, source=jane)
    judge = AssessmentSource(source_type="LLM_JUDGE", source_id="m")
    mlflow.log_feedback(trace_id=trace, name="label", value="success", source=judge)
    return Experiment(config.model, None, NAME)


async def deliver(sink: MLflowSink) -> None:
    """Predictions that were labelled one after the other, and others beside them."""
    await sink.deliver([executed(number) for number in range(PREDICTIONS)])
    for number in range(PREDICTIONS):
        await sink.label(label(number, 1000.0 + number, expected={"category": f"c{number}"}))
    await sink.label(label(0, 1000.5, label="success"))  # given again, and nothing else is expected now
    others = [
        executed(100),  # of which nobody speaks
        executed(101, "classify"),
        executed(102, inputs={"ticket": 2**64 - 1}),  # MLflow takes it, and cannot show it again
        executed(103, inputs=None, outputs=None),
        executed(104),
    ]
    await sink.deliver(others)
    for number in (101, 102, 103):
        await sink.label(label(number, 2000.0))
    await sink.close()


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(labels, "PAGE", 7)
    monkeypatch.setattr(labels, "SPANS_AT_ONCE", 3)


@pytest.mark.usefixtures("small_pages")
def test_all_that_was_labelled_is_read_once(filled):
    found = filled.read(None)
    by_name = {one.prediction_id: one for one in found.predictions}
    assert len(found.predictions) == len(by_name) == PREDICTIONS + 1
    assert found.left_out == {"OfModule": 1, "NotGiven": 1, "Unrecorded": 1, "NotHuman": 1}
    last = by_name["p24"]
    assert (last.inputs, last.outputs, last.expected) == ({"ticket": "t24"}, {"category": "bug"}, {"category": "c24"})
    assert (last.label, last.source, last.trusted, last.at) == ("failure", "desk", True, 1024.0)
    assert (by_name["p0"].label, by_name["p0"].expected, by_name["p0"].at) == ("success", None, 1000.5)


def test_what_people_add_in_mlflow_counts_without_trust(filled):
    (added,) = (one for one in filled.read(None).predictions if one.prediction_id == "p104")
    assert (added.label, added.reason, added.expected) == ("failure", "it is an invoice", {"category": "billing"})
    assert (added.source, added.trusted) == ("jane", False)


def test_labels_that_were_given_later_do_not_count(filled):
    found = filled.read(1009.0)
    assert {one.prediction_id for one in found.predictions} == {f"p{n}" for n in range(10)}
    assert found.left_out == {}


def test_an_experiment_without_labels_gives_none(servers):
    mlflow.set_tracking_uri(servers[1])
    mlflow.create_experiment("labels/none")
    assert Experiment(model(servers[1]), None, "labels/none").read(None) == Labels()


@pytest.fixture
def answering():
    """Starts servers that answer everything in one way."""
    started = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_address[1]}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


AGAIN = "begin the run again when it answers"
ERRORS = {
    "who may not read": (403, b"{}", r"does not show .* \(403\): let the program's credentials read it"),
    "who is nobody": (401, b"", r"does not show .* \(401\): let the program's credentials read it"),
    "no such experiment": (404, b"{}", "has no experiment labels/triage: the program makes it when it delivers"),
    "a broken server": (500, b"oh", rf"\(500\): {AGAIN}"),
    "a busy server": (503, b"", rf"\(503\): {AGAIN}"),
    "no JSON": (200, b"<html>", rf"\(JSONDecodeError\): {AGAIN}"),
    "other JSON": (200, b"[1]", AGAIN),
}


@pytest.mark.parametrize("sentence", ERRORS)
def test_what_mlflow_refuses_is_told_with_what_to_do(answering, monkeypatch, sentence):
    monkeypatch.setattr(labels, "RETRIES", 0)
    status, body, words = ERRORS[sentence]
    with pytest.raises(Unusable, match=words):
        Experiment(model(answering(status, body)), None, NAME).read(None)


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(labels, "RETRIES", 0)
    with pytest.raises(Unusable, match=AGAIN):
        Experiment(model(f"http://127.0.0.1:{free_port()}"), None, NAME).read(None)


def test_a_secret_that_holds_nothing(tmp_path):
    with pytest.raises(Unusable, match="holds neither"):
        Experiment(model("http://127.0.0.1:9"), str(tmp_path), NAME).read(None)
