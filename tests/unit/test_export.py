"""Kept traces on their way out: what is written is what any collector reads, and what gets lost is counted."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from despina_runtime.telemetry import semconv
from despina_runtime.telemetry.answers import MOST_BYTES, Brief
from despina_runtime.telemetry.executed import Span
from despina_runtime.telemetry.export import exporter_of
from despina_runtime.telemetry.protobuf import LONGEST_VALUE, request, span
from despina_runtime.telemetry.tree import Node

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
NAMES = st.text(min_size=1, max_size=200)
VALUES = st.none() | st.text(max_size=300) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.booleans()


def node(**changes: Any) -> Node:
    return Node(SPAN, PARENT, "client", "chat m", 5.0, 0.5, "", {"a": 1})._replace(**changes)


def read(*nodes: Node, resource: dict[str, Any] | None = None) -> Any:
    sent = ExportTraceServiceRequest.FromString(request(resource or {}, [span(one, TRACE) for one in nodes]))
    (found,) = sent.resource_spans
    return found


def test_a_span_says_what_it_is():
    found = read(node(error="LMError", inputs={"q": 1}, outputs=[2]), resource={"service.name": "triage"})
    assert found.resource.attributes[0].value.string_value == "triage"
    (scope,) = found.scope_spans
    (one,) = scope.spans
    assert (scope.scope.name, one.name, one.kind) == ("despina", "chat m", 3)
    assert (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex()) == (TRACE, SPAN, PARENT)
    assert (one.start_time_unix_nano, one.end_time_unix_nano) == (5_000_000_000, 5_500_000_000)
    assert (one.status.code, one.status.message, one.flags) == (2, "LMError", 0x101)
    said = {a.key: a.value.string_value for a in one.attributes if a.value.HasField("string_value")}
    assert said == {"mlflow.spanInputs": '{"q":1}', "mlflow.spanOutputs": "[2]"}


@given(st.dictionaries(NAMES, VALUES, max_size=5), NAMES, st.floats(0, 1e9), st.floats(0, 1e6))
def test_whatever_is_said_of_a_span_can_be_read(attributes, name, at, seconds):
    (one,) = read(node(attributes=attributes, name=name, at=at, seconds=seconds)).scope_spans[0].spans
    assert one.name == name
    told = {k: v for k, v in attributes.items() if v is not None and v != ""}
    assert [a.key for a in one.attributes] == list(told)
    for found, value in zip(one.attributes, told.values(), strict=True):
        kind = found.value.WhichOneof("value")
        assert getattr(found.value, kind) == (value if kind != "string_value" else str(value))


def test_values_that_are_equal_are_none_the_less_what_they_are():
    facts = [{"a": value} for value in (1, 1.0, True, "1")]
    spans = read(*(node(attributes=one) for one in facts)).scope_spans[0].spans
    assert [one.attributes[0].value.WhichOneof("value") for one in spans] == [
        "int_value",
        "double_value",
        "string_value",
        "string_value",
    ]


def test_an_attempt_at_an_lm_that_has_a_price_is_written():
    facts = {"model": "m", "module": "", "input_tokens": 1, "output_tokens": 2, "cost_usd": "0.25", "error": ""}
    attributes = semconv.of_part(Span("lm", "main", 0.0, 0.0, facts))
    (one,) = read(node(attributes=attributes)).scope_spans[0].spans
    (cost,) = (a.value.kvlist_value.values for a in one.attributes if a.key == semconv.COST)
    assert [(part.key, part.value.double_value) for part in cost] == [("total_cost", 0.25)]


def test_what_is_long_is_cut():
    (one,) = read(node(inputs="x" * 10**6)).scope_spans[0].spans
    assert len(one.attributes[1].value.string_value) == LONGEST_VALUE


@pytest.fixture
def environment(monkeypatch):
    def put(**found: str) -> dict[str, str]:
        for name, value in found.items():
            monkeypatch.setenv(f"OTEL_{name}", value)
        return {f"OTEL_{name}": value for name, value in found.items()}

    return put


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"EXPORTER_OTLP_ENDPOINT": ""},
        {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "SDK_DISABLED": "true"},
        {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "BSP_MAX_QUEUE_SIZE": "many"},
    ],
)
def test_nothing_goes_out_where_nobody_says_where_to_or_so_that_it_cannot_be_read(environment, found):
    assert exporter_of(environment(**found), {}) is None


class Endless(BaseHTTPRequestHandler):
    """Answers without an end; a test sees what was asked for, and when the other end has had enough."""

    protocol_version, asked, sent = "HTTP/1.1", [], 0
    ended = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Accept-Encoding"], self.headers["Cookie"]))
        self.send_response(200 if self.path == "/long" else 302)
        for name, value in (("Location", "/elsewhere"), ("Set-Cookie", "a=b"), ("Content-Encoding", "gzip")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(2**40 if self.path == "/long" else 0))
        self.end_headers()
        while self.path == "/long" and not self.ended.is_set():
            try:
                self.wfile.write(b"x" * MOST_BYTES)
            except OSError:
                self.ended.set()

    def log_message(self, *_: Any) -> None:
        pass


def test_of_an_endless_answer_a_little_is_read():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, session = f"http://127.0.0.1:{server.server_port}", Brief()
    try:
        answers = [session.request("POST", f"{url}/{path}", data=b"x", timeout=20) for path in ("short", "long")]
        assert Endless.ended.wait(20)
    finally:
        Endless.ended.set()
        server.shutdown()
        server.server_close()
    assert [(one.status_code, one.content) for one in answers] == [(302, b""), (200, b"")]
    assert Endless.asked == [("/short", "identity", None), ("/long", "identity", None)]


def test_spans_go_out_so(environment):
    exporter = exporter_of(environment(EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"), {})
    assert exporter is not None
    assert isinstance(exporter._exporter._client._transport._session, Brief)
    exporter.close(1)
