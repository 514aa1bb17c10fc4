"""Which traces are kept, what a pod holds of them, and what it shows."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from despina.wire import FeedbackConfig, ModelRef, RuntimeConfig, Trace, TraceList, TraceSummary
from despina.wire.predictions import trace_id_of
from despina.wire.traces import MOST_SPANS
from despina_runtime.engine import Engine
from despina_runtime.feedback import otlp
from despina_runtime.http.traces import hosted_route
from despina_runtime.lines import LONGEST_LINE
from despina_runtime.lm.meter import LMCall
from despina_runtime.pipeline.call import Answer, Call
from despina_runtime.pipeline.recorded import Policy, Recorded
from despina_runtime.problem import Problem
from despina_runtime.telemetry import keeping, semconv
from despina_runtime.telemetry.context import Context, begun, is_chosen, ratio_of, span_id
from despina_runtime.telemetry.dropped import drop, dropped
from despina_runtime.telemetry.executed import END, WORDS, Attempt, Executed, Span, is_kept, read_executed
from despina_runtime.telemetry.hosted import HostedTraces
from despina_runtime.telemetry.prediction import Names
from despina_runtime.telemetry.recorder import Recorder
from despina_runtime.telemetry.ring import LONGEST, Ring
from despina_runtime.telemetry.traces import MOST_WAITING, Traces, span_of
from despina_runtime.telemetry.tree import tree
from despina_runtime.toolhost import host

POD = "1f900a010203"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ASKED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
NOT_ASKED = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)


async def until(what: str, check: Callable[[], Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := check()):
            await asyncio.sleep(0)
    return found


def context(**changes: Any) -> Context:
    return Context(TRACE, SPAN)._replace(**changes)


@pytest.mark.parametrize(
    ("status", "is_slow", "said", "why"),
    [
        (200, False, {}, ""),
        (502, False, {}, "error"),
        (422, False, {}, "error"),
        (200, True, {}, "slow"),
        (200, False, {"is_asked": True}, "asked"),
        (200, False, {"is_chosen": True}, "sampled"),
        (504, True, {"is_asked": True, "is_chosen": True}, "error"),
        (200, True, {"is_asked": True, "is_chosen": True}, "asked"),
        (200, True, {"is_chosen": True}, "slow"),
    ],
)
def test_why_a_trace_is_kept(status, is_slow, said, why):
    assert keeping.why_kept(status, is_slow, context(**said)) == why


@given(st.integers(0, 2**128 - 1), st.floats(0, 1))
def test_pods_agree_on_one_in_so_many(number, ratio):
    trace_id = f"{number:032x}"
    found = is_chosen(trace_id, ratio)
    assert found == is_chosen(trace_id, ratio)
    assert found or not is_chosen(trace_id, ratio / 2), "of fewer, none are others"
    assert is_chosen(trace_id, 1.0)
    new = begun((), ratio)
    assert new.is_chosen == is_chosen(new.trace_id, ratio)
    assert not is_chosen(trace_id, 0.0)


def test_one_in_ten_are_about_one_in_ten():
    assert 800 < sum(begun((), 0.1).is_chosen for _ in range(10_000)) < 1200


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=60))
def test_never_many_are_the_slowest(pattern):
    is_slow, seconds = keeping.Slowest(), pattern * 200
    found = [is_slow(one) for one in seconds]
    assert not any(found[: keeping.LEAST_SEEN])
    until_it_is_found = math.log(max(pattern) / min(pattern)) / math.log(1 + keeping.STEP * keeping.RATE)
    assert sum(found) <= len(found) * 0.011 + until_it_is_found + 1


def test_the_slowest_are_found_also_after_all_have_become_slower_or_faster():
    is_slow = keeping.Slowest()
    for level in (0.1, 10.0, 0.01):
        found = [is_slow(level * (5 if n % 100 == 0 else 1 + n % 7 / 100)) for n in range(30_000)][-1000:]
        assert 5 <= sum(found) <= 30, level


@pytest.mark.parametrize(
    "given_header",
    ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01\n"],
)  # fmt: skip
def test_what_is_no_context_is_none_and_a_new_trace_begins(given_header):
    found = begun((("traceparent", given_header),), 0.0)
    assert (found.parent_id, found.is_asked) == ("", False)
    assert len(found.trace_id) == 32
    assert found.trace_id != TRACE


def test_a_callers_trace_goes_on():
    found = begun((*ASKED, ("tracestate", "vendor=1")), 0.0)
    assert (found.trace_id, found.parent_id, found.is_asked, found.state) == (TRACE, SPAN, True, "vendor=1")
    name = span_id()
    assert found.headers(name) == (("traceparent", f"00-{TRACE}-{name}-01"), ("tracestate", "vendor=1"))
    assert begun((*ASKED, ("tracestate", "v=1\nx: y")), 0.0).state == ""
    assert begun(NOT_ASKED, 0.0).headers(name) == (("traceparent", f"00-{TRACE}-{name}-00"),)
    assert begun(NOT_ASKED, 1.0).headers(name) == (("traceparent", f"00-{TRACE}-{name}-01"),), "others keep it, too"


@pytest.mark.parametrize(
    ("environment", "ratio"),
    [
        ({}, 0.1),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.5"}, 0.5),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, 1.0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, 0.0),
        ({"OTEL_TRACES_SAMPLER_ARG": "many"}, 0.1),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, 0.1),
        ({"OTEL_TRACES_SAMPLER_ARG": "7"}, 0.1),
    ],
)
def test_the_ratio_is_what_opentelemetrys_variables_say(environment, ratio):
    assert ratio_of(environment) == ratio


OPERATIONS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["error", "slow", "marked"]), st.integers(0, 40)), max_size=80
)


@given(OPERATIONS, st.integers(1, 12), st.integers(1, 200))
def test_a_ring_is_bounded_whatever_comes(operations, most, most_bytes):
    ring = Ring(most, most_bytes)
    for number, (key, why, size) in enumerate(operations):
        is_held = ring.add(str(key), TraceSummary(id="", why=why), b"x" * size)
        assert is_held == (size <= most_bytes)
        assert len(ring) <= most
        assert ring.bytes == sum(len(one.body) for one in ring) <= most_bytes
        assert len({one.key for one in ring}) == len(ring)
        assert ring.after(ring.number) == []
        assert number >= 0


def test_an_outage_pushes_out_its_own_and_not_what_was_marked():
    ring = Ring(most=10)
    for n in range(3):
        ring.add(f"m{n}", TraceSummary(id="", why="marked"), b"x")
    for n in range(100):
        ring.add(f"e{n}", TraceSummary(id="", why="error"), b"x")
    assert [one.key for one in ring.after(0)] == ["m0", "m1", "m2", *(f"e{n}" for n in range(93, 100))]
    assert [one.key for one in ring.after(ring.number - 2)] == ["e98", "e99"]


def test_few_that_are_long_push_out_their_own_and_not_what_was_marked():
    ring = Ring(most=100, most_bytes=1000)
    for n in range(50):
        ring.add(f"m{n}", TraceSummary(id="", why="marked"), b"x")
    for n in range(30):
        ring.add(f"e{n}", TraceSummary(id="", why="error"), b"x" * 100)
    assert [one.key for one in ring.after(0)] == [*(f"m{n}" for n in range(50)), *(f"e{n}" for n in range(21, 30))]


class Worker:
    """One worker, and the pod that holds its traces."""

    def __init__(self, feedback: FeedbackConfig | None = None, ratio: float = 1.0, **changes: Any) -> None:
        self.recorder, self.names = Recorder(), Names(b"key", "abcd1234", POD)
        self.policy = Policy(ratio, feedback is not None)
        model = ModelRef(name="m", version="7", tracking_uri="")
        config = RuntimeConfig(namespace="ns", program="triage", revision="abcd1234", model=model, feedback=feedback)
        self.traces = Traces(config, self.names.signed, "boot", **changes)

    async def request(
        self, body: bytes = b'{"ticket": "it crashes"}', problem: Problem | None = None, trace: Any = ()
    ) -> str:
        """A program with two calls of one module within another; the prediction's name."""

        class Modules:
            def named_predictors(self):
                return [("react.predict", predict)]

            def named_sub_modules(self):
                return [("self", program), ("self.react", react), ("self.react.predict", predict)]

        program, react, predict = Modules(), object(), object()

        async def then(call: Call) -> Answer:
            for n in (0, 1):
                around = [program, react, predict]
                call.meter.calls.append(
                    LMCall("main", "openai/m", "react.predict", 0.0, 0.5 + n, (7, 3), "0.1", "", around)
                )
                if call.steps is not None:
                    call.steps.append((predict, {"n": n}, {"category": "bug"}))
            call.meter.note_tool("ns/search", "pods", "ok", span_id(), 0.0)
            call.meter.tools[-1] = call.meter.tools[-1]._replace(callers=[program, react])
            if problem:
                raise problem
            return Answer(b'{"category": "bug"}')

        call = Call(body, 0.0, "main")
        call.trace = trace
        recorded = Recorded(self.recorder, self.names, program, ("abcd1234", "7", ""), then, self.policy)  # type: ignore[arg-type]
        return self.names.signed((await recorded(call)).origin or "")

    def hand_over(self) -> bytes:
        found: list[bytes] = []
        self.recorder.hand_over(lambda batch: found.append(batch) is None)
        self.traces.take(b"".join(found) + b"\n")
        return b"".join(found)

    async def held(self, count: int) -> TraceList:
        await until("held", lambda: len(self.traces.told().traces) == count, 10)
        return TraceList.model_validate_json(self.traces.told().model_dump_json(exclude_defaults=True))


async def test_a_trace_is_shown_as_a_tree_of_modules_lms_and_tools():
    worker = Worker(FeedbackConfig(payloads="Full"))
    name = await worker.request(trace=ASKED)
    worker.hand_over()
    (summary,) = (await worker.held(1)).traces
    assert (summary.id, summary.trace_id, summary.version, summary.why) == (name, TRACE, "7", "asked")
    assert (summary.status, summary.number) == (200, 1)
    found = worker.traces.find(name)
    assert found == worker.traces.find(TRACE)
    assert found is not None
    assert Trace.model_validate_json(found.model_dump_json(exclude_defaults=True)) == found
    names = {span.id: span.name for span in found.spans}
    lines = [(span.name, names.get(span.parent, span.parent), span.kind) for span in found.spans]
    assert lines == [
        ("POST /execute", SPAN, "server"),
        ("invoke_workflow triage", "POST /execute", "internal"),
        ("react", "invoke_workflow triage", "internal"),
        ("react.predict", "react", "internal"),
        ("react.predict", "react", "internal"),
        ("chat openai/m", "react.predict", "client"),
        ("chat openai/m", "react.predict", "client"),
        ("execute_tool ns/search", "react", "internal"),
    ]
    root, _, _, first, second, chat, other, tool = found.spans
    assert (root.inputs, root.outputs) == ('{"ticket":"it crashes"}', '{"category":"bug"}')
    assert (first.inputs, second.inputs) == ('{"n":0}', '{"n":1}')
    assert (chat.parent, other.parent) == (first.id, second.id)
    assert (first.seconds, second.seconds) == (0.5, 1.5)
    assert tool.attributes["despina.tool.backend"] == "pods"
    assert chat.attributes["gen_ai.usage.input_tokens"] == "7"


SECRET = "jane.doe@example.com"


@pytest.mark.parametrize(
    ("feedback", "inputs"),
    [
        (None, ""),
        (FeedbackConfig(payloads="None"), ""),
        (FeedbackConfig(payloads="Redacted"), '{"ticket":"[redacted]"}'),
        (FeedbackConfig(payloads="Full"), json.dumps({"ticket": SECRET}, separators=(",", ":"))),
    ],
    ids=["no feedback", "None", "Redacted", "Full"],
)
async def test_words_are_held_as_payloads_says(feedback, inputs):
    worker = Worker(feedback)
    name = await worker.request(orjson.dumps({"ticket": SECRET}))
    batch = worker.hand_over()
    await worker.held(1)
    found = worker.traces.find(name)
    assert found is not None
    assert found.spans[0].inputs == inputs
    assert found.is_redacted == (feedback is None or feedback.payloads != "Full")
    if feedback is None:
        assert SECRET.encode() not in batch, "nor does the worker hand it over"
    if feedback is None or feedback.payloads == "None":
        assert not any(span.inputs or span.outputs for span in found.spans)
        assert "bug" not in found.model_dump_json()
        assert [span.name for span in found.spans][2:5] == ["react", "react.predict", "react.predict"]
    assert SECRET not in worker.traces.told().model_dump_json()


async def test_only_what_is_kept_is_handed_over_where_nothing_else_is_recorded():
    worker = Worker(ratio=0.0)
    await worker.request()
    assert worker.hand_over() == b""
    with pytest.raises(Problem):
        await worker.request(problem=Problem(502, "lm-failure", "x"))
    worker.hand_over()
    (found,) = (await worker.held(1)).traces
    assert (found.why, found.problem, found.status) == ("error", "lm-failure", 502)


async def test_what_somebody_speaks_of_is_held_afterwards():
    worker = Worker(FeedbackConfig(payloads="Full"), ratio=0.0)
    name = await worker.request()
    origin = name.rpartition("-")[0]
    (record,) = worker.hand_over().split(END)[:-1]
    assert not is_kept(record)
    worker.traces.mark({origin: record})
    (found,) = (await worker.held(1)).traces
    assert (found.id, found.why) == (name, "marked")
    worker.traces.mark({origin: b"", "unknown": b""})
    await until("marked again", lambda: worker.traces.told().number == 2, 10)
    assert [one.number for one in worker.traces.told(after=1).traces] == [2]


def hostile(**changes: Any) -> bytes:
    origin = f"abcd1234-{POD}-aaaaaaaa-66666666-1"
    fields: dict[str, Any] = {
        "origin": origin, "at": 1.0, "seconds": 1.0, "revision": "r", "version": "7", "path": "", "status": 200,
        "problem": "", "lm": "main", "inputs": 1, "outputs": 1, "cost": "", "traceparent": "", "attempts": [],
        "waited": 0.0, "trace_id": TRACE, "span_id": SPAN, "tier": "", "calls": [], "tools": [], "why": "asked",
    }  # fmt: skip
    fields |= changes
    return orjson.dumps(list(fields.values())) + WORDS + b"[null,null,[]]" + END


HOSTILE = {
    "no name": hostile(origin="x"),
    "no reason": hostile(why="because"),
    "nonsense": b'nonsense"]' + WORDS + b"[]" + END,
    "a call before its caller": hostile(calls=[["a", 1], ["b", 0]]),
    "calls that are none": hostile(calls=7),
    "no trace": hostile(trace_id="x" * 32),
    "no span": hostile(span_id=7),
    "a moment beyond all": hostile(at=1e308, seconds=1e308),
    "words for numbers": hostile(seconds="x", status="y"),
    "a tool that is none": hostile(tools=[["t", "b", "ok", 7, 0.0, 0.1, -7]]),
    "an attempt that is none": hostile(attempts=[[1, 2]]),
}


@pytest.mark.parametrize("batch", HOSTILE.values(), ids=HOSTILE)
async def test_whatever_a_worker_says_the_others_traces_are_shown(batch):
    worker = Worker()
    worker.traces.take(batch + b"\n")
    name = await worker.request()
    worker.hand_over()
    await until("held", lambda: worker.traces.find(name), 10)
    assert worker.traces.told().traces[-1].id == name
    worker.traces.find(TRACE)


def test_names_that_anybody_makes_up_are_shown_in_one_line_and_short():
    found = TraceSummary(
        id="x y", module="a\nb\x1b[2J\u2028" + "m" * 999, at=float("nan"), seconds=-1, input_tokens=2**80
    )
    assert (found.id, found.at, found.seconds) == ("", 0.0, 0.0)
    assert found.module.startswith("a b [2J m")
    assert len(found.module) == 256


async def test_where_there_is_too_much_at_once_it_is_dropped_and_counted():
    worker, before = Worker(), dropped().get("traces", {}).get("busy", 0)
    name = await worker.request()
    batch = worker.hand_over()
    other = hostile(why="")
    for _ in range(2 * MOST_WAITING):
        worker.traces.take(other + batch + b"\n")
    assert dropped()["traces"]["busy"] == before + MOST_WAITING + 1, "and only what is kept"
    await until("held", lambda: worker.traces.find(name), 10)


def test_an_old_records_spans_have_no_callers():
    attempt = Attempt("main", "openai/m", "classify", 0.0, 0.5, (7, 3), "", "")
    head = ["o", 1.0, 0.5, "r", "7", "", 200, "", "main", 7, 3, "", "", [attempt[:-1]]]
    found = read_executed(orjson.dumps(head) + WORDS + b'[null,null,[["classify",{},{}]]]')
    assert [(s.kind, s.parent, s.seconds) for s in found.spans] == [("module", -1, 0.5), ("lm", -1, 0.5)]
    with pytest.raises(ValueError, match="no trace"):
        tree("p", found)


def test_a_long_record_is_read_in_a_moment():
    head = ["o", 1.0, 0.5, "r", "7", "", 200, "", "main", 7, 3, "", "", [], 0.0, TRACE, SPAN, ""]
    calls = [["", -1], *(["a", 0] for _ in range(10_000))]
    steps = [[f"a.b{n % 5000}[0]" if n % 2 else "c", {}, {}] for n in range(20_000)]
    record = orjson.dumps([*head, calls, [], "asked"]) + WORDS + orjson.dumps([None, None, steps])
    began = time.process_time()
    spans = read_executed(record).spans
    assert time.process_time() - began < 2, "it is linear: the square of it took minutes"
    assert [(s.name, s.parent) for s in spans[-2:]] == [("c", 0), ("a.b4999[0]", 10_000)]
    assert len(spans) == 30_001


async def test_of_one_with_too_many_spans_the_first_are_told_and_the_others_counted():
    worker = Worker()
    worker.traces.take(hostile(calls=[["", -1], *([f"m{n}", 0] for n in range(12_000))]) + b"\n")
    found = await until("held", lambda: worker.traces.find(TRACE), 10)
    assert (len(found.spans), found.spans[0].kind) == (MOST_SPANS, "server")
    assert found.spans_left_out == 12_002 - MOST_SPANS
    assert Trace.model_validate_json(found.model_dump_json()) == found


async def test_one_that_is_too_long_is_dropped_as_such():
    worker, before = Worker(FeedbackConfig(payloads="Full")), dropped().get("traces", {})
    worker.traces.take(hostile(problem="x" * (LONGEST + 1)) + b"\n")
    await until("dropped", lambda: dropped().get("traces", {}).get("too_long", 0) > before.get("too_long", 0), 10)
    assert dropped()["traces"].get("unreadable", 0) == before.get("unreadable", 0)


class Sent:
    """An exporter that keeps names of traces."""

    def __init__(self) -> None:
        self.traces: list[str] = []

    def add(self, nodes: Any, trace_id: str) -> None:
        self.traces.append(trace_id)

    def close(self, seconds: float) -> None:
        pass


@pytest.mark.parametrize("ratio", [0.0, 1.0], ids=["not kept", "kept"])
async def test_a_trace_goes_out_once_however_often_somebody_speaks_of_it(ratio):
    sent = Sent()
    worker = Worker(FeedbackConfig(payloads="Full"), ratio, exporter=sent)
    name = await worker.request()
    batch = worker.hand_over()
    for n in range(1, 4):
        worker.traces.mark({name.rpartition("-")[0]: batch.rstrip(b"\n").split(END)[0]})
        await until("marked", lambda n=n: worker.traces.told().number == n + ratio, 10)
    assert [len(one) for one in sent.traces] == [32]


async def test_a_list_reads_no_record_again(monkeypatch):
    worker = Worker()
    name = await worker.request()
    worker.hand_over()
    await worker.held(1)
    monkeypatch.setattr("despina_runtime.telemetry.traces.read_executed", lambda _: pytest.fail("it takes a while"))
    assert [one.id for one in worker.traces.told().traces] == [name]
    assert worker.traces.told(after=1).traces == ()


async def test_it_ends_in_time():
    worker = Worker()
    await asyncio.wait_for(worker.traces.close(1.0), 5)


async def test_a_request_that_asks_for_ever_has_a_record_that_fits():
    worker = Worker(FeedbackConfig(payloads="Full"))

    async def then(call: Call) -> Answer:
        call.meter.calls += [LMCall("main", "openai/m", "a", 0.0, 0.5, (7, 3), "0.1", "", [object()])] * 50_000
        return Answer(b"{}")

    program: Any = SimpleNamespace(named_predictors=list, named_sub_modules=list)
    await Recorded(worker.recorder, worker.names, program, ("abcd1234", "7", ""), then)(Call(b"{}", 0.0, "main"))
    assert len(worker.hand_over()) < LONGEST_LINE // 4


def test_a_tool_host_shows_a_trace_to_who_knows_its_id_and_tells_nobody_which_there_are():
    traces, parents = HostedTraces(), ["00f067aa0ba902b7", "b7ad6b7169203331"]
    for parent in parents:
        traces.take("search", (("traceparent", f"00-{TRACE}-{parent}-01"),), 0.5, 200, "")
    traces.take("search", (), 0.5, 500, "tool-error")
    found = traces.find(TRACE)
    assert found is not None
    assert ([span.parent for span in found.spans], found.module, found.why) == (parents, "search", "asked")
    assert all(traces.find(name) is None for name in ("", found.id, "0" * 32))
    client = TestClient(Starlette(routes=[hosted_route(traces.find)]))
    asked = {path: client.get(path).status_code for path in ("/traces", "/traces/", f"/traces/{TRACE}", "/traces/x")}
    assert asked == {"/traces": 404, "/traces/": 404, f"/traces/{TRACE}": 200, "/traces/x": 404}


def test_what_a_tool_host_loses_is_in_its_metrics():
    drop("traces", "queue_full", 3)
    line = 'despina_telemetry_dropped_total{reason="queue_full",signal="traces"} '
    (found,) = [one for one in generate_latest(host.REGISTRY).decode().splitlines() if "queue_full" in one]
    assert (found.replace('signal="traces",reason="queue_full"', 'reason="queue_full",signal="traces"')).startswith(
        line
    )
    assert float(found.rpartition(" ")[2]) == dropped()["traces"]["queue_full"] >= 3


LOST = {
    "with feedback": (FeedbackConfig(), {"predictions": {"unwritable": 2}, "traces": {"not_taken_in_time": 1}}),
    "without": (None, {"traces": {"unwritable": 2, "not_taken_in_time": 1}}),
}


@pytest.mark.parametrize("sentence", LOST)
def test_what_a_worker_loses_is_named_by_what_it_was_recorded_for(sentence):
    feedback, lost = LOST[sentence]
    engine: Any = SimpleNamespace(
        recorder=SimpleNamespace(take_dropped=lambda: {"unwritable": 2}),
        traced=SimpleNamespace(take_dropped=lambda: {"not_taken_in_time": 1}),
        current=SimpleNamespace(config=SimpleNamespace(feedback=feedback)),
    )
    assert Engine._dropped(engine) == lost


def ended(origin: str, **changes: Any) -> Executed:
    """A request that asked one LM, as it is delivered."""
    facts = {"model": "openai/m", "module": "classify", "input_tokens": 3, "output_tokens": 2, "cost_usd": "0.004"}
    spans = [Span("lm", "main", 0.1, 0.2, facts | {"error": ""})]
    counted = (origin, 100.0, 0.5, "abcd1234", "7", "", 200, "", "main", 3, 2, "0.004", "", {"a": 1}, {"b": 2}, spans)
    return Executed(*counted)._replace(**changes)


def delivered(one: Executed) -> list[dict[str, Any]]:
    (resource,) = orjson.loads(orjson.dumps(otlp.traces("qa", "ns", [one])))["resourceSpans"]
    return resource["scopeSpans"][0]["spans"]


def test_what_is_delivered_to_mlflow_are_the_spans_that_the_pod_shows_with_what_they_cost():
    made = Names(b"key", "abcd1234", POD)
    begun_as, own = made.begin()
    one = ended(made.origin(begun_as), trace_id=own, span_id=SPAN)
    spans = delivered(one)
    assert [(s["traceId"], s["spanId"], s.get("parentSpanId", "")) for s in spans] == [
        (own, node.span_id, node.parent_id) for node in tree("qa", one)
    ]
    facts = {a["key"]: a["value"] for a in spans[-1]["attributes"]}
    assert facts["mlflow.llm.cost"] == {
        "kvlistValue": {"values": [{"key": "total_cost", "value": {"doubleValue": 0.004}}]}
    }
    assert all("mlflow.llm.cost" not in span_of(node).attributes for node in tree("qa", one))


@pytest.mark.parametrize(
    "changes", [{"trace_id": TRACE, "span_id": SPAN, "traceparent": ASKED[0][1]}, {"span_id": "no id"}]
)
def test_a_part_of_a_callers_trace_is_delivered_as_a_trace_of_its_own(changes):
    one = ended(Names(b"key", "abcd1234", POD).origin("x1"), **changes)
    root, *parts = delivered(one)
    assert {span["traceId"] for span in (root, *parts)} == {trace_id_of(one.origin)}
    assert "parentSpanId" not in root
    assert {part["parentSpanId"] for part in parts} <= {root["spanId"], *(part["spanId"] for part in parts)}
    said = {a["key"]: a["value"].get("stringValue") for a in root["attributes"]}
    assert said.get("despina.trace_id", "") == changes.get("trace_id", "")


def test_of_what_was_not_executed_here_there_is_the_prediction_alone():
    (span,) = delivered(otlp.unrecorded("import-1", 5.0))
    assert span["status"] == {"code": 2, "message": "unrecorded"}


@pytest.mark.parametrize("cost", ["", "much", "nan", "1e999", None])
def test_a_cost_that_is_no_number_is_none(cost):
    facts = {"model": "m", "module": "", "input_tokens": 0, "output_tokens": 0, "cost_usd": cost, "error": ""}
    assert semconv.of_part(Span("lm", "main", 0.0, 0.0, facts))[semconv.COST] is None
