"""Labels of callers meet what they are about, in a real MLflow, whichever pod they are given to and whatever ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import httpx
import pytest

from despina.wire import CacheConfig, FeedbackConfig, LimitsConfig
from despina_runtime.main import main
from tests.runtime.test_edges import mcp
from tests.support.labels import Seen
from tests.support.pods import Pod, fresh
from tests.support.relay import Relay
from tests.support.world import eventually

KEY = "the program's"


def config(seen: Seen, **changes) -> FeedbackConfig:
    return FeedbackConfig(**{"experiment": seen.experiment, "sample_percent": 0, **changes})


@pytest.fixture
def seen(mlflow_uri) -> Seen:
    return Seen(mlflow_uri)


@pytest.fixture
def relay(mlflow_uri):
    found = Relay(mlflow_uri)
    yield found
    found.close()


def name_of(answer: httpx.Response) -> str:
    return answer.headers["despina-prediction-id"]


def give(pod: Pod, prediction: str, label: str = "failure", headers: dict | None = None, **what) -> httpx.Response:
    body = {"prediction_id": prediction, "label": label, **what}
    return httpx.post(f"{pod.url}/feedback", json=body, headers=headers, timeout=30)


def ready(pod: Pod) -> Pod:
    eventually("ready", pod.is_ready, 90)
    return pod


def test_a_label_is_delivered_with_what_it_is_about(pod, version, seen):
    running = ready(pod(version, feedback=config(seen)))
    name = name_of(running.ask({"ticket": "write to jane.doe@example.com"}))
    running.ask(fresh())  # nobody speaks of it, and it is not sampled
    answer = give(running, name, reason="it is an account", expected={"category": "account"}, source="support")
    assert (answer.status_code, answer.json()) == (202, {"prediction_id": name, "status": "Stored"})
    (trace,) = eventually("delivered", lambda: [t for t in seen.traces() if len(t.get("assessments", [])) == 2], 60)
    assert trace["request_preview"] == '{"ticket":"write to [redacted]"}'
    assert json.loads(trace["response_preview"])["category"]
    label, expected = sorted(trace["assessments"], key=lambda a: a["assessment_name"] == "expected")
    assert (label["feedback"]["value"], label["rationale"]) == ("failure", "it is an account")
    assert label["source"] == {"source_type": "HUMAN", "source_id": "support"}
    assert label["metadata"]["despina.trusted"] == "false"
    assert json.loads(expected["expectation"]["serialized_value"]["value"]) == {"category": "account"}
    assert len(seen.traces()) == 1
    assert "despina_feedback_delivered_total" in running.metrics()


def test_a_label_that_is_given_again_replaces_the_one_before(pod, version, seen):
    running = ready(pod(version, feedback=config(seen)))
    name = name_of(running.ask(fresh()))
    give(running, name, "failure", expected={"category": "bug"})
    eventually("delivered", lambda: seen.has(name), 60)
    give(running, name, "success")
    eventually("replaced", lambda: seen.said() == {name: "success"}, 60)


def test_a_cached_answer_has_a_name_of_its_own_and_its_label_meets_the_first(pod, version, seen):
    cache = CacheConfig(scope="Program", process_entries=10, node_bytes=2**20)
    running = ready(pod(version, feedback=config(seen), cache=cache))
    body = fresh()
    names = [name_of(running.ask(body)) for _ in range(4)]
    assert len(set(names)) == 4
    assert running.ask(body).json() == running.ask(body).json()
    assert give(running, names[3]).status_code == give(running, names[2], "success").status_code == 202
    eventually("delivered", lambda: seen.said() == {names[3]: "failure", names[2]: "success"}, 60)
    assert len(seen.traces()) == 1, "what was executed once"


def test_any_replica_takes_a_label_and_the_pod_that_answered_gets_it(pod, version, seen):
    first = ready(pod(version, feedback=config(seen), read_key=KEY, workers=2))
    second = ready(pod(version, home="second", feedback=config(seen), read_key=KEY))
    names = [name_of(p.ask(fresh())) for p in (first, second) for _ in range(6)]
    for number, name in enumerate(names):
        assert give((first, second)[number % 2], name).status_code == 202
    eventually("delivered", lambda: seen.has(*names), 60)
    assert all(t["request_preview"] for t in seen.traces()), "each with what it is about"


def test_what_was_acknowledged_outlives_the_process_and_an_mlflow_that_is_away(pod, version, seen, relay):
    running = ready(pod(version, feedback=config(seen), workers=2, tracking_uri=relay.url))
    names = [name_of(running.ask(fresh())) for _ in range(10)]
    with relay.cut():
        assert {give(running, name).status_code for name in names[:5]} == {202}
        assert running.ask(fresh()).status_code == 200
        running.process.kill()
        running.process.wait()
    where = {"admin": running.admin_port, "tracking_uri": relay.url}  # by which it is the same pod
    again = ready(pod(version, feedback=config(seen), workers=2, **where))
    assert {give(again, name).status_code for name in names[5:]} == {202}
    os.kill(again.workers()[0], signal.SIGKILL)
    eventually("delivered", lambda: seen.has(*names), 90)


def test_a_pod_that_ends_delivers_what_it_has_also_what_was_not_sampled(pod, version, seen):
    running = ready(pod(version, feedback=config(seen), read_key=KEY))
    names = [name_of(running.ask(fresh())) for _ in range(5)]
    give(running, names[0])
    assert running.stop() == 0
    assert len(seen.traces()) == 5
    assert seen.has(names[0])
    other = ready(pod(version, home="other", feedback=config(seen), read_key=KEY))
    assert give(other, names[1]).status_code == 202  # its pod has gone, and left it where the label goes, too


def test_a_list_of_labels_says_of_each_what_became_of_it(pod, version, seen):
    running = ready(pod(version, feedback=config(seen)))
    name = name_of(running.ask(fresh()))
    given = [
        {"prediction_id": name, "label": "success"},
        {"prediction_id": "nonsense", "label": "success"},
        {"label": 1},
    ]
    answer = httpx.post(f"{running.url}/feedback", json=given, timeout=30)
    assert answer.status_code == 202
    stored, unknown, unfit = answer.json()["results"]
    assert stored == {"prediction_id": name, "status": "Stored"}
    assert (unknown["status"], unfit["status"]) == (404, 422)


async def test_batches_streams_and_mcp_name_their_predictions_and_take_labels(pod, version, seen):
    running = await asyncio.to_thread(lambda: ready(pod(version, feedback=config(seen))))
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
        batch = await client.post("/execute/batch", json={"inputs": [fresh(), fresh()]})
        names = [result["prediction_id"] for result in batch.json()["results"]]
        stream = await client.post("/execute", json=fresh(), headers={"accept": "text/event-stream"})
        names.append(json.loads(stream.text.rpartition("data: ")[2])["prediction_id"])
        called = (await mcp(client, "tools/call", name="triage", arguments=fresh())).json()["result"]
        names.append(called["_meta"]["despina-prediction-id"])
        for name in names:
            said = await mcp(
                client, "tools/call", name="triage-feedback", arguments={"prediction_id": name, "label": "success"}
            )
            assert said.json()["result"]["structuredContent"] == {"prediction_id": name, "status": "Stored"}
        refused = await mcp(client, "tools/call", name="triage-feedback", arguments={"label": "success"})
        assert refused.json()["result"]["isError"]
    await asyncio.to_thread(eventually, "delivered", lambda: seen.has(*names), 60)


BAD = {
    "no label": ({"label": None}, 422, "label"),
    "another word": ({"label": "fine"}, 422, "label"),
    "an unknown field": ({"why": "x"}, 422, "why"),
    "a reason that is too long": ({"reason": "x" * 5000}, 422, "reason"),
    "what is no output": ({"expected": {"colour": "red"}}, 422, "expected.colour"),
    "an output of another type": ({"expected": {"category": 7}}, 422, "expected.category"),
    "nothing expected": ({"expected": {}}, 422, "expected"),
    "what is nested too deep": ({"expected": {"category": json.loads("[" * 40 + "]" * 40)}}, 422, "expected"),
    "too much": ({"expected": {"category": "x" * 70000}}, 422, "expected"),
    "a name that is none": ({"prediction_id": "abc"}, 404, ""),
    "another program's name": (
        {"prediction_id": "abcd1234--01234567-6b0c3cbf-1-0123456789abcdef"},
        422,
        "prediction_id",
    ),
}


def test_what_is_wrong_with_a_label_is_said_by_its_field(pod, version, seen, tmp_path):
    token = tmp_path / "token"
    token.write_text("trusted")
    running = ready(pod(version, feedback=config(seen, trusted_token_file=str(token)), limits=LimitsConfig()))
    name = name_of(running.ask(fresh()))
    for sentence, (what, status, field) in BAD.items():
        answer = (
            give(running, **{"prediction": name, **{k: v for k, v in what.items() if k != "prediction_id"}})
            if ("prediction_id" not in what)
            else give(running, what["prediction_id"])
        )
        assert answer.status_code == status, (sentence, answer.text)
        assert not field or field in [e["field"] for e in answer.json()["errors"]], (sentence, answer.text)
    for body in (b"", b"no json", b"[]", b"7"):
        assert httpx.post(f"{running.url}/feedback", content=body).status_code == 422, body
    described = httpx.get(f"{running.url}/openapi.json").json()["paths"]["/feedback"]["post"]
    assert described["parameters"][0]["name"] == "despina-feedback-token"
    assert "401" in described["responses"]
    assert give(running, name, headers={"despina-feedback-token": "guessed"}).status_code == 401
    assert give(running, name, headers={"despina-feedback-token": "trusted"}).status_code == 202
    (found,) = eventually("delivered", seen.labels, 60)
    assert found["metadata"]["despina.trusted"] == "true"


def test_labels_of_other_pods_are_taken_from_those_of_the_program_alone(pod, version, seen):
    running = ready(pod(version, feedback=config(seen), read_key=KEY))
    for headers in ({}, {"despina-signature": "0" * 64}):
        assert httpx.post(f"{running.admin}/labels", json=[], headers=headers).status_code == 421


def test_what_callers_write_is_kept_nowhere_if_the_manifest_says_so(pod, version, seen, tmp_path):
    running = ready(pod(version, feedback=config(seen, payloads="None", sample_percent=100)))
    name = name_of(running.ask({"ticket": "SECRETWORD"}))
    give(running, name, reason="SECRETWORD", expected={"category": "account"})
    eventually("delivered", lambda: seen.has(name), 60)
    assert "SECRETWORD" not in json.dumps(seen.traces())
    files = [f.read_bytes() for f in (tmp_path / "cache" / "feedback").iterdir()]
    assert not any(b"SECRETWORD" in text for text in files)


def test_files_in_the_place_of_mlflow(pod, version, tmp_path):
    folder = tmp_path / "sink"
    running = ready(pod(version, feedback=FeedbackConfig(folder=str(folder), sample_percent=100)))
    name = name_of(running.ask(fresh()))
    give(running, name, "success")

    def lines() -> list[dict]:
        return [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]

    found = eventually("two lines", lambda: len(lines()) == 2 and lines(), 30)
    assert [line["type"] for line in found] == ["prediction", "label"]
    assert found[0]["id"] == found[1]["id"]


MANIFEST = """
apiVersion: despina.dev/v1alpha1
kind: DSPyProgram
metadata: {name: triage, namespace: ns}
spec:
  source: {mlflow: {model: serving, alias: production}}
  feedback: {sink: {mlflow: {experiment: EXPERIMENT}}}
"""


def test_labels_that_exist_already_are_taken_in_once(seen, tmp_path, mlflow_uri, capsys):
    labels, manifest = tmp_path / "labels.jsonl", tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST.replace("EXPERIMENT", seen.experiment))
    lines = [
        {"inputs": {"ticket": "it crashes"}, "expected": {"category": "bug"}},
        {"inputs": {"ticket": "charged"}, "outputs": {"category": "bug"}, "label": "failure", "reason": "no"},
    ]
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["feedback", "import", str(labels), "-f", str(manifest), "--tracking-uri", mlflow_uri]
    for _ in range(2):
        assert main(command) == 0
    assert f"2 labels in the experiment {seen.experiment}" in capsys.readouterr().out
    assert sorted(seen.said().values()) == ["failure", "success"]
    assert {a["metadata"]["despina.trusted"] for a in seen.labels()} == {"true"}
    labels.write_text('{"inputs": 7}\n')
    assert main(command) == 2
    assert "line 1: inputs: Input should be an object" in capsys.readouterr().err


def test_a_label_by_the_command_line(pod, version, seen, capsys):
    running = ready(pod(version, feedback=config(seen)))
    name = name_of(running.ask(fresh()))
    command = ["feedback", "give", name, "failure", "--url", running.url, "--expected", '{"category": "bug"}']
    assert main(command) == 0
    assert capsys.readouterr().out == f"{name} Stored\n"
    assert main(["feedback", "give", "nonsense", "success", "--url", running.url]) == 2
    assert "There is no such prediction" in capsys.readouterr().err
