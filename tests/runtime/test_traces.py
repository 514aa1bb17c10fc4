"""A request's trace, from its caller through the program to a tool in another pod, and out to a collector."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import httpx
import pytest
from mcp import Client

from despina.wire import (
    SIGNATURE_HEADER,
    CacheConfig,
    FeedbackConfig,
    Price,
    ToolBackend,
    ToolConfig,
    ToolsConfig,
    ToolUse,
    Trace,
    TraceList,
    reading,
)
from despina.wire.predictions import trace_id_of, unsigned
from despina_runtime.lm.meter import Meter
from despina_runtime.telemetry.context import begun
from despina_runtime.telemetry.dropped import dropped
from despina_runtime.telemetry.export import exporter_of
from despina_runtime.telemetry.tree import Node
from despina_runtime.tools.grid import Grid
from services import free_port
from tests.support.collector import collector
from tests.support.hosts import contract_of, hosts, tool_config
from tests.support.labels import Seen
from tests.support.pods import Pod, fresh, lm_config
from tests.support.world import eventually

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ASKED = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
KEY = "the program's"
SIGNED = {SIGNATURE_HEADER: reading([KEY], "ns", "pod-1")}
FIND = (ToolUse(name="find", tool="ns/search"),)


@pytest.fixture(autouse=True)
def nothing_by_chance(monkeypatch):
    """What is asked for is kept, and what fails."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


def listed(admin: str, headers=SIGNED, **params) -> TraceList:
    answer = httpx.get(f"{admin}/traces", headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    return TraceList.model_validate_json(answer.content)


def one(admin: str, name: str) -> Trace:
    return Trace.model_validate_json(httpx.get(f"{admin}/traces/{name}", headers=SIGNED).content)


def ready(pod: Pod) -> Pod:
    eventually("ready", pod.is_ready, 90)
    return pod


@pytest.mark.parametrize("kind", ["tooled", "tooled-in-threads"])
def test_a_callers_trace_goes_through_the_program_to_a_tool_in_another_pod(tmp_path, pod, log_model, monkeypatch, kind):
    tools = tmp_path / "tools.json"
    monkeypatch.setenv("DESPINA_TOOLS_FILE", str(tools))
    with collector() as sink, hosts(tmp_path) as start:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20ours")
        host = start()
        tools.write_text(ToolsConfig(tools={"ns/search": tool_config("search", host.url)}).model_dump_json())
        name = f"traced-{kind}"
        running = ready(pod(log_model(kind, name), name, tools=FIND, read_key=KEY))
        assert running.ask({"ticket": "not asked for"}).status_code == 200
        answer = running.ask({"ticket": "t"}, headers=ASKED)
        (summary,) = eventually("kept", lambda: listed(running.admin).traces, 10)
        assert (summary.id, summary.trace_id, summary.why) == (answer.headers["despina-prediction-id"], TRACE, "asked")
        found = one(running.admin, summary.id)
        spans = {span.name: span for span in found.spans}
        root, own, tool = (spans[n] for n in ("POST /execute", "invoke_workflow triage", "execute_tool ns/search"))
        assert (root.parent, own.parent) == (SPAN, root.id)
        assert (tool.attributes["despina.tool.backend"], tool.attributes["despina.tool.fate"]) == ("b0", "ok")
        hosted = one(host.admin, TRACE)
        assert (hosted.trace_id, hosted.spans[0].parent, hosted.module) == (TRACE, tool.id, "search")
        for path in ("/traces", "/traces/", f"/traces/{hosted.id}"):
            assert httpx.get(f"{host.admin}{path}").status_code == 404, "only who knows a trace's id is told of it"
        ids = {span.id for span in found.spans}
        assert all(span.parent in ids for span in found.spans[1:])
        count = len(found.spans) + 1
        eventually("collected", lambda: len(sink.spans) >= count, 20)
        assert {span.trace_id.hex() for span in sink.spans} == {TRACE}
        sent = {span.span_id.hex(): span.parent_span_id.hex() for span in sink.spans}
        assert sent == {span.id: span.parent for span in (*found.spans, *hosted.spans)}
        assert sink.headers[0]["Authorization"] == "Bearer ours"
        assert sink.services == {"triage", "sample"}
        assert "ours" not in running.log.read_text()


def spans_in_mlflow(uri: str, trace_id: str) -> dict[str, str]:
    """Its spans, each with the one that it lies in."""
    asked = {"trace_ids": trace_id}
    (trace,) = httpx.get(f"{uri}/api/3.0/mlflow/traces/batchGet", params=asked).raise_for_status().json()["traces"]
    hexadecimal = [
        [base64.b64decode(s.get(k, "")).hex() for k in ("span_id", "parent_span_id")] for s in trace["spans"]
    ]
    return dict(hexadecimal)


def test_in_mlflow_a_request_is_one_trace_with_what_its_tool_did_elsewhere_and_what_was_said_of_it(
    tmp_path, pod, log_model, mlflow_uri, lm, monkeypatch
):
    """The tool's host and the pod export to MLflow, and the pod's feedback goes there, too."""
    seen, tools = Seen(mlflow_uri), tmp_path / "tools.json"
    made = httpx.post(f"{mlflow_uri}/api/2.0/mlflow/experiments/create", json={"name": seen.experiment}).json()
    monkeypatch.setenv("DESPINA_TOOLS_FILE", str(tools))
    price = Price(input_per_million_usd="1", output_per_million_usd="1000")
    own = {"lms": (lm_config(lm.url, price=price),), "read_key": KEY, "tools": FIND}
    own["feedback"] = FeedbackConfig(experiment=seen.experiment, sample_percent=0, payloads="Full")
    version = log_model("retrieving", "retrieving")
    with hosts(tmp_path) as start, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", mlflow_uri)
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mlflow-experiment-id={made['experiment_id']}")
        host = start()
        tools.write_text(ToolsConfig(tools={"ns/search": tool_config("search", host.url)}).model_dump_json())
        running = ready(pod(version, "retrieving", **own))
        ticket = fresh()
        answer = running.ask(ticket, headers={"despina-trace": "keep"})
        name = answer.headers["despina-prediction-id"]
        label = {"prediction_id": name, "label": "failure", "reason": "no", "expected": {"category": "bug"}}
        eventually("taken", lambda: httpx.post(f"{running.url}/feedback", json=label).status_code == 202, 20)
        found = one(running.admin, name)
        hosted = one(host.admin, found.trace_id)
        module, tool = (next(s for s in found.spans if s.name == n) for n in ("retrieve", "execute_tool ns/search"))
        assert (tool.parent, hosted.spans[0].parent) == (module.id, tool.id)
        whole = {span.id: span.parent for span in (*found.spans, *hosted.spans)}
        eventually("labelled", lambda: seen.has(name), 60)
        eventually("whole", lambda: spans_in_mlflow(mlflow_uri, f"tr-{found.trace_id}") == whole, 30)
    (trace,) = seen.traces()
    assert (trace["trace_id"], trace["state"]) == (f"tr-{found.trace_id}", "OK")
    assert (json.loads(trace["request_preview"]), json.loads(trace["response_preview"])) == (ticket, answer.json())
    assert {one["assessment_name"] for one in trace["assessments"]} == {"label", "expected"}
    tokens, cost = (json.loads(trace["trace_metadata"][f"mlflow.trace.{what}"]) for what in ("tokenUsage", "cost"))
    assert (tokens["input_tokens"], tokens["output_tokens"]) == (found.input_tokens, found.output_tokens)
    assert cost["total_cost"] == pytest.approx(float(found.cost_usd))
    assert float(found.cost_usd) > 0


def test_in_its_callers_trace_a_prediction_has_one_of_its_own_in_mlflow(pod, version, mlflow_uri):
    """Of a caller's trace many predictions may be a part; each has labels of its own."""
    seen = Seen(mlflow_uri)
    running = ready(pod(version, feedback=FeedbackConfig(experiment=seen.experiment, sample_percent=100)))
    names = [running.ask(fresh(), headers=ASKED).headers["despina-prediction-id"] for _ in range(2)]
    traces = eventually("delivered", lambda: len(found := seen.traces()) == 2 and found, 60)
    assert {t["trace_id"] for t in traces} == {f"tr-{trace_id_of(unsigned(name))}" for name in names}
    for trace in traces:
        assert list(spans_in_mlflow(mlflow_uri, trace["trace_id"]).values()).count("") == 1


def test_only_who_may_read_the_pod_reads_its_traces(pod, version):
    running = ready(pod(version, read_key=KEY))
    for path in ("/traces", "/traces/x"):
        assert httpx.get(f"{running.admin}{path}").status_code == 403
        assert httpx.get(f"{running.admin}{path}", headers={SIGNATURE_HEADER: "x"}).status_code == 403
    assert httpx.get(f"{running.admin}/traces/x", headers=SIGNED).status_code == 404
    assert httpx.get(f"{running.admin}/traces?after=x", headers=SIGNED).status_code == 400


def test_without_payloads_no_word_of_a_caller_is_anywhere(pod, version, tmp_path):
    with collector() as sink, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        running = ready(pod(version))
        running.ask({"ticket": "my very own words"}, headers={"despina-trace": "keep"})
        (summary,) = eventually("kept", lambda: listed(running.admin).traces, 10)
        found = one(running.admin, summary.id)
        assert [span.name for span in found.spans if span.name == "classify"] == ["classify"]
        assert "very own" not in found.model_dump_json()
        assert found.is_redacted
        eventually("collected", lambda: sink.named("classify"), 20)
        assert "very own" not in str(sink.spans)
        assert "very own" not in running.log.read_text()


def test_what_a_label_is_about_is_kept_and_what_failed(pod, version, lm, tmp_path):
    running = ready(pod(version, feedback=FeedbackConfig(folder=str(tmp_path), sample_percent=0, payloads="Full")))
    body = fresh()
    name = running.ask(body).headers["despina-prediction-id"]
    assert listed(running.admin).traces == ()
    label = {"prediction_id": name, "label": "failure"}
    eventually("taken", lambda: httpx.post(f"{running.url}/feedback", json=label).status_code == 202, 20)
    (marked,) = eventually("marked", lambda: listed(running.admin).traces, 10)
    assert (marked.id, marked.why) == (name, "marked")
    assert body["ticket"] in one(running.admin, name).spans[0].inputs
    lm.misbehave(status=500)
    assert running.ask(fresh()).status_code == 502
    (failed,) = eventually("failed", lambda: listed(running.admin, after=marked.number).traces, 10)
    assert (failed.why, failed.status, failed.problem) == ("error", 502, "lm-failure")


def test_an_endpoint_that_is_down_holds_nobody_up(pod, version, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    running = ready(pod(version, read_key=KEY))
    slowest = 0.0
    for _ in range(50):
        began = time.monotonic()
        assert running.ask(fresh()).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 5
    eventually("kept", lambda: len(listed(running.admin).traces) == 50, 10)
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 15


def test_a_cached_answer_is_traced_only_where_that_is_asked_for(pod, version):
    cache = CacheConfig(scope="Program", process_entries=10)
    running = ready(pod(version, cache=cache))
    body = fresh()
    for _ in range(5):
        running.ask(body)
    name = running.ask(body, headers=ASKED).headers["despina-prediction-id"]
    (found,) = eventually("kept", lambda: listed(running.admin).traces, 10)
    assert (found.id, found.tier, found.trace_id) == (name, "process", TRACE)


def test_a_pod_logs_json_that_names_program_revision_and_trace_and_quotes_nobody(pod, version, lm):
    running = ready(pod(version, log_format="json"))
    lm.misbehave(status=500)
    assert running.ask({"ticket": "my very own words\nsecond line"}, headers=ASKED).status_code == 502
    eventually("logged", lambda: "LM failed" in running.log.read_text(), 10)
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    (failed,) = [line for line in lines if line["message"].startswith("LM failed")]
    assert (failed["program"], failed["revision"], failed["trace_id"]) == ("triage", "abcd1234", TRACE)
    assert failed["level"] == "WARNING"
    assert "very own" not in running.log.read_text()


async def test_a_trace_goes_on_over_mcp(tmp_path):
    meta = {"traceparent": ASKED["traceparent"], "tracestate": 7}
    with hosts(tmp_path) as start:
        host, grid = start(), Grid()
        async with Client(f"{host.url}/mcp") as client:  # the SDK is imported by then, on both sides
            await client.call_tool("echo", {"text": "x"}, meta=meta)
        assert [span.parent for span in one(host.admin, TRACE).spans] == [SPAN]
        meter = Meter(asyncio.get_running_loop().time() + 20)
        meter.context = begun(tuple(ASKED.items()), 0.0)
        backend = ToolBackend(name="there", kind="Mcp", url=f"{host.url}/mcp", tool="echo")
        config = ToolConfig(contract=contract_of("echo"), backends=(backend,))
        assert await grid.call("ns/echo", config, {"text": "x"}, meter.deadline, meter=meter) == "x"
        await grid.close()
        (attempt,) = meter.tools
        assert (attempt.backend, attempt.fate) == ("there", "ok")
        assert [span.parent for span in one(host.admin, TRACE).spans] == [SPAN, attempt.span_id]


def node(**changes) -> Node:
    return Node(SPAN, "", "client", "chat m", 5.0, 0.5, "", {"a": 1})._replace(**changes)


def environment(monkeypatch, **found: str) -> dict[str, str]:
    made = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in found.items()}
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


def test_spans_arrive_compressed(monkeypatch):
    with collector() as sink:
        found = environment(monkeypatch, ENDPOINT=sink.url, COMPRESSION="gzip")
        exporter = exporter_of(found, {"service.name": "triage"})
        assert exporter is not None
        exporter.add([node(), node(span_id="b7ad6b7169203331")], TRACE)
        exporter.close(20)
        assert [one.span_id.hex() for one in sink.spans] == [SPAN, "b7ad6b7169203331"]
        assert sink.services == {"triage"}


def test_where_nobody_takes_them_spans_are_dropped_and_counted_and_nobody_waits(monkeypatch):
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    exporter = exporter_of(environment(monkeypatch, ENDPOINT=url), {})
    assert exporter is not None
    before = dropped().get("traces", {})
    began = time.monotonic()
    for _ in range(1000):
        exporter.add([node()] * 3, TRACE)
    assert time.monotonic() - began < 5
    exporter.close(0.5)
    lost = {reason: count - before.get(reason, 0) for reason, count in dropped()["traces"].items()}
    assert lost["queue_full"] >= 3 * (1000 - 600 - 256)
