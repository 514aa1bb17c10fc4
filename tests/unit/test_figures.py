"""What a pod counts: its workers' figures added up, bounded, and as Prometheus has them."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from httpx import ASGITransport
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_metrics

from despina.wire import FIGURES_PATH, MOST_MODULES, OTHER, SECONDS_BOUNDS, Figures, LMConfig, PodState
from despina_runtime.lines import LONGEST_LINE
from despina_runtime.pipeline.record import Record, class_of
from despina_runtime.problem import Problem, deadline_exceeded, unexpected
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.exposition import registry_of
from despina_runtime.process.genai import genai
from despina_runtime.process.ledger import FORGET_SECONDS, MOST_VERSIONS, Ledger
from despina_runtime.process.news import News
from despina_runtime.telemetry import dropped, semconv
from despina_runtime.telemetry.counting import LONGEST_NAME, Counting
from despina_runtime.telemetry.executed import Span
from despina_runtime.telemetry.prediction import Names

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")


class Pod:
    """A supervisor's ledger, and its workers."""

    def __init__(self, **held: str) -> None:
        self.now, self.held = 1000.0, held or {"a": "1"}
        self.ledger = Ledger(lambda: self.held, lambda: self.now)

    def worker(self, pid: int) -> Worker:
        self.ledger.begin(pid)
        return Worker(self, pid)

    def figures(self) -> Figures:
        return self.ledger.figures()

    def lines(self) -> dict[str, float]:
        """Every series that Prometheus would read, with its value."""
        text = generate_latest(registry_of(self.figures())).decode()
        return dict(series(plain_metrics(text)))


def series(families) -> Iterator[tuple[str, float]]:
    for family in families:
        for s in family.samples:
            yield f"{s.name}{json.dumps(s.labels, sort_keys=True)}", s.value


class Worker:
    """One worker, which counts in its own memory until it tells."""

    def __init__(self, pod: Pod, pid: int) -> None:
        self.pod, self.pid, self.counting = pod, pid, Counting()

    def answers(
        self, count: int, version: str = "1", status: int = 200, seconds: float = 0.004, tier="process"
    ) -> None:
        record = Record(self.counting.begin(version))
        for _ in range(count):
            record(status, seconds, tier)
        self.counting.end(version)

    def tells(self, **now: object) -> None:
        self.says(self.counting.take() | now)

    def says(self, said: object) -> None:
        line = json.dumps(said)
        assert len(line) < LONGEST_LINE
        self.pod.ledger.take(self.pid, json.loads(line))


def requests(pod: Pod) -> dict[str, int]:
    return {version: sum(f.requests.values()) for version, f in pod.figures().versions.items()}


def test_what_workers_count_is_added_up_and_what_is_now_is_of_those_that_live():
    pod = Pod()
    one, two = pod.worker(11), pod.worker(12)
    one.answers(3)
    one.tells(in_flight=2, queued=1, rss_bytes=100)
    two.answers(4, status=503, seconds=2.0, tier=None)
    two.tells(in_flight=1, breaker_open=True, rss_bytes=50)
    found = pod.figures()
    assert found.versions["1"].requests == {"200": 3, "503": 4}
    assert found.cache == {"process": 3}
    assert (found.in_flight, found.queued, found.breaker_open, found.rss_bytes) == (3, 1, True, 150)
    assert found.worker_rss_bytes == {"11": 100, "12": 50}
    assert sum(found.versions["1"].latency.buckets) == 7
    assert found.versions["1"].latency.seconds == pytest.approx(8.012)


def test_no_counter_goes_back_when_a_worker_is_replaced():
    pod, seen = Pod(), []
    one, two = pod.worker(11), pod.worker(12)
    for worker in (one, two):
        worker.answers(5)
        worker.tells(in_flight=1, rss_bytes=10)
        seen.append(pod.lines())
    pod.ledger.end(11)
    seen.append(pod.lines())
    one.answers(1)
    one.tells(in_flight=9, rss_bytes=90)  # it has said so before it ended, and it is read after that
    instead = pod.worker(13)
    instead.answers(2)
    instead.tells(in_flight=1, rss_bytes=10)
    seen.append(pod.lines())
    assert requests(pod) == {"1": 13}
    assert (pod.figures().in_flight, pod.figures().worker_rss_bytes) == (2, {"12": 10, "13": 10})
    for before, after in pairwise(seen):
        counters = [name for name in before if "_total" in name or "_bucket" in name or "_count" in name]
        assert all(after[name] >= before[name] for name in counters)


def test_what_was_told_is_not_told_again():
    worker = Pod().worker(11)
    worker.answers(2)
    worker.counting.tools.attempt("ns/search", "b1", "ok")
    assert worker.counting.take()
    assert worker.counting.take() == {}


def test_what_a_released_revision_counts_last_is_told_and_then_its_version_is_forgotten():
    pod = Pod()
    worker = pod.worker(11)
    counts = worker.counting.begin("1")
    assert worker.counting.begin("1") is counts, "two revisions of one version count together"
    worker.counting.end("1")
    worker.tells()
    assert worker.counting.begin("1") is counts, "one of them is still there"
    Record(counts)(200, 0.1)
    worker.counting.end("1")
    worker.counting.end("1")
    worker.tells()
    assert requests(pod) == {"1": 1}
    assert worker.counting.begin("1") is not counts


def test_of_a_hundred_modules_the_first_are_told_apart_and_no_call_is_lost():
    pod = Pod()
    for pid, order in ((11, range(100)), (12, range(99, -1, -1))):
        worker = pod.worker(pid)
        counts = worker.counting.begin("1")
        for n in order:
            counts.attempt("main", f"module{n}", "ok", (10, 2), 0.5)
            counts.attempt("main", f"module{n}", "LMServerError")
        assert len(worker.counting._versions["1"]._lms) == MOST_MODULES + 1
        worker.tells()
    lms = pod.figures().versions["1"].lms
    assert len({one.module for one in lms}) == len(lms) == MOST_MODULES + 1
    assert {one.module for one in lms} > {"module0", OTHER}
    assert sum(one.outcomes["ok"] for one in lms) == sum(one.outcomes["LMServerError"] for one in lms) == 200
    assert sum(one.input_tokens for one in lms) == 2000
    assert sum(one.cost_usd for one in lms) == 100


def test_no_version_that_is_held_ends_however_many_they_are():
    pod = Pod(a="1", b="2", c="3", d="4")
    worker = pod.worker(11)
    for n in range(1, 4):
        for version in "1234":
            pod.now += 1
            worker.answers(1, version)
            worker.tells()
        assert requests(pod) == dict.fromkeys("1234", n)


def test_of_those_that_are_gone_a_fourth_ends_the_one_that_was_counted_least_recently():
    pod = Pod(a="1", b="2", c="3", d="4")
    worker = pod.worker(11)
    for version in "1234":
        pod.now += 1
        worker.answers(1, version)
        worker.tells()
    pod.ledger.look()
    pod.held = {"d": "4"}
    pod.now += 1
    worker.answers(1, "1")
    worker.tells()
    assert requests(pod) == {"1": 2, "2": 1, "3": 1, "4": 1}, "whoever looks now and then has not seen the last of it"
    pod.now += FORGET_SECONDS
    worker.answers(1, "3")
    worker.tells()
    assert "2" not in pod.ledger._versions
    assert len(pod.ledger._versions) == MOST_VERSIONS


def test_a_version_that_is_released_ends_a_while_after_its_last_answer():
    pod = Pod(a="1", b="2")
    worker = pod.worker(11)
    worker.answers(1, "1")
    worker.answers(1, "2")
    worker.tells()
    pod.now += 10 * FORGET_SECONDS
    assert list(requests(pod)) == ["1", "2"], "a held one stays, however quiet it is"
    pod.held = {"b": "2"}
    worker.answers(1, "1")  # the last of its requests ends now
    worker.tells()
    pod.now += FORGET_SECONDS
    assert requests(pod) == {"1": 2, "2": 1}
    assert any('"version": "1"' in name for name in pod.lines())
    pod.now += 1
    assert requests(pod) == {"2": 1}
    assert not any('"version": "1"' in name for name in pod.lines())
    worker.answers(1, "1")
    worker.tells()
    assert requests(pod) == {"2": 1}, "and does not come again"


def test_what_a_version_did_before_it_was_released_counts_though_it_is_told_later():
    pod = Pod(a="1", b="2")
    worker = pod.worker(11)
    pod.ledger.look()
    pod.held = {"b": "2"}
    worker.answers(3, "1")
    worker.tells()
    assert requests(pod) == {"1": 3}


def test_labels_count_for_the_version_that_they_are_about():
    pod = Pod(a="1", b="2")
    for revision, value in (("a", "failure"), ("a", "failure"), ("b", "success"), ("gone", "failure")):
        pod.ledger.label(revision, value)
    lines = pod.lines()
    told = {("1", "failure"): 2, ("2", "success"): 1, (OTHER, "failure"): 1}
    for (version, label), count in told.items():
        labels = json.dumps({"label": label, "version": version})
        assert lines[f"despina_feedback_total{labels}"] == count


CLASSES = {
    "an input that does not fit": (Problem(422, "invalid-input", ""), "caller"),
    "a body that is too large": (Problem(413, "body-too-large", ""), "caller"),
    "an LM that refuses the request": (Problem(422, "lm-refused", ""), "caller"),
    "an error of the program's": (Problem(500, "program-error", "", fault="Program"), "program"),
    "an LM that cannot be used": (Problem(502, "lm-failure", "", fault="Upstream"), "upstream"),
    "an LM whose breaker is open": (Problem(503, "lm-unavailable", "", fault="Upstream"), "upstream"),
    "a request that took too long": (deadline_exceeded(), "timeout"),
    "the program's open breaker": (Problem(503, "breaker-open", ""), "overload"),
    "a full queue": (Problem(503, "overloaded", ""), "overload"),
    "a rate that is limited": (Problem(429, "rate-limited", ""), "overload"),
    "an error of the runtime's": (unexpected(RuntimeError()), "internal"),
    "an LM that failed where a tool was refused": (Problem(502, "lm-failure", ""), "upstream"),
}


@pytest.mark.parametrize("sentence", CLASSES)
def test_errors_are_told_apart_by_whose_they_are(sentence):
    problem, wanted = CLASSES[sentence]
    assert class_of(problem) == wanted
    pod = Pod()
    worker = pod.worker(11)
    Record(worker.counting.begin("1")).fail(problem)
    worker.tells()
    assert pod.figures().versions["1"].errors == {wanted: 1}


MANY = {f"name{n}": 1 for n in range(3000)}
SOME = [f"name{n}" for n in range(70)]
UNREADABLE: dict[str, Any] = {
    "no object": [1, 2],
    "a number": 7,
    "nothing": None,
    "a text as a count": {"cache": {"process": "many"}},
    "a fraction of a request": {"versions": {"1": {"requests": {"200": 1.5}}}},
    "no number of seconds": {"lm_seconds": {"main": {"seconds": "x"}}},
    "more LMs than there can be": {"versions": {"1": {"lms": [{"lm": "main", "module": str(n)} for n in range(3000)]}}},
    "a name with words in it": {
        "versions": {"1": {"exemplars": {"0": {"kind": "trace_id", "name": "<b>x</b>", "seconds": 1, "at": 1}}}}
    },
    "an exemplar beyond all buckets": {
        "versions": {"1": {"exemplars": {"99": {"kind": "trace_id", "name": TRACE, "seconds": 1, "at": 1}}}}
    },
    "a label of its own": {
        "versions": {"1": {"exemplars": {"0": {"kind": "le", "name": TRACE, "seconds": 1, "at": 1}}}}
    },
}
BOUNDED: dict[str, Any] = {
    "versions that the pod has not": {"versions": {version: {"requests": {"200": 1}} for version in MANY}},
    "counts that go back": {"versions": {"1": {"requests": {"200": -100}}}, "cache": {"process": -1}},
    "counts beyond all": {"versions": {"1": {"requests": {"200": 10**30}, "latency": {"seconds": 1e308}}}},
    "seconds that are no number": {"versions": {"1": {"latency": {"buckets": [1], "seconds": math.nan}}}},
    "buckets without end": {"versions": {"1": {"latency": {"buckets": [1] * 5000, "seconds": math.inf}}}},
    "statuses without end": {"versions": {"1": {"requests": MANY, "errors": MANY, "feedback": MANY}}},
    "names without end": {"cache": MANY, "degraded": MANY, "other_feedback": MANY},
    "names within names": {"cache_failures": dict.fromkeys(SOME, MANY), "dropped": {n: {"x": 1} for n in MANY}},
    "outcomes without end": {
        "versions": {"1": {"lms": [{"lm": f"lm{n}", "module": f"m{n}", "outcomes": MANY} for n in range(35)]}},
        "tools": [{"tool": f"t{n}", "backend": f"b{n}", "outcomes": MANY} for n in range(35)],
    },
    "LMs and tools without end": {
        "versions": {"1": {"lms": [{"lm": f"lm{n}", "outcomes": {"ok": 1}} for n in range(2000)]}},
        "tools": [{"tool": f"t{n}", "backend": "b", "outcomes": {"ok": 1}} for n in range(1000)],
        "lm_seconds": {f"lm{n}": {"buckets": [1]} for n in range(1000)},
        "tool_seconds": {f"t{n}": {"buckets": [1]} for n in range(1000)},
    },
    "long names": {"cache": {"x" * 10**6: 1}, "versions": {"1": {"lms": [{"lm": "y" * 10**6, "outcomes": {"ok": 1}}]}}},
    "names that Prometheus has marks for": {"cache": {'"} 1\ndespina_requests_total 5 #\\': 1, "\u202e\x00\x1b[2J": 1}},
    "half a character": {"cache": {"\ud800": 1}, "tools": [{"tool": "\ud800", "backend": "b", "outcomes": {"ok": 1}}]},
    "another life's word": {"boot": "x", "worker_rss_bytes": MANY},
}


@pytest.mark.parametrize("sentence", UNREADABLE)
def test_what_cannot_be_figures_is_left_out_and_counted(sentence):
    pod = Pod()
    good, hostile = pod.worker(11), pod.worker(12)
    good.answers(3)
    good.tells(in_flight=1)
    hostile.says(UNREADABLE[sentence])
    assert requests(pod) == {"1": 3}
    assert pod.figures().dropped == {"figures": {"unreadable": 1}}
    assert pod.lines()['despina_telemetry_dropped_total{"reason": "unreadable", "signal": "figures"}'] == 1


@pytest.mark.parametrize("sentence", BOUNDED)
def test_a_worker_that_says_anything_adds_little_and_takes_nothing_away(sentence):
    pod = Pod()
    good, hostile = pod.worker(11), pod.worker(12)
    good.answers(3)
    good.tells()
    before, boot = pod.lines(), pod.figures().boot
    for _ in range(3):
        hostile.says(BOUNDED[sentence])
    found, after = pod.figures(), pod.lines()
    assert set(found.versions) == {"1"}
    assert found.boot == boot
    assert all(after[name] >= count for name, count in before.items())
    assert len(after) < 11_000
    assert all(len(name) < 1000 and math.isfinite(value) for name, value in after.items())
    Figures.model_validate_json(found.model_dump_json(exclude_defaults=True))
    names = {name.partition("{")[0] for name in after}
    assert all(name.startswith("despina_") for name in names)
    assert set(found.worker_rss_bytes) == {"11", "12"}


def busy() -> Pod:
    """A pod of which everything was counted once at least."""
    pod = Pod(a="1", b="2")
    worker = pod.worker(11)
    counts = worker.counting.begin("1")
    record, names = Record(counts), Names(b"key", "a", "")
    record(200, 0.004, "process", names.signed(names.origin()), ())
    record(200, 0.3, None, "a-1234-1", (TRACEPARENT,))
    record(200, 100.0, None, "z" * (LONGEST_NAME + 1))
    record(502, 0.2)
    record(504, 20.0, None, "", (TRACEPARENT,))
    record(504, 50.0, None, "", (("traceparent", "none"),))
    record.fail(Problem(502, "lm-failure", "", fault="Upstream"))
    record.degrade("lm-failure")
    record.begin_to_stream(0.2)
    counts.queue(0.01)
    counts.attempt("main", "classify", "ok", (10, 2), 0.25)
    counts.attempt("main", "classify", "LMServerError")
    counts.took("main", 0.2)
    worker.counting.tools.attempt("ns/search", "b1", "ok")
    worker.counting.tools.took("ns/search", 0.1)
    worker.answers(2, "2")
    dropped = {"predictions": {"not_taken_in_time": 2}}
    worker.tells(in_flight=1, queued=2, rss_bytes=5, cache_failures={"redis": {"TimeoutError": 1}}, dropped=dropped)
    pod.ledger.label("a", "success")
    pod.ledger.label("z", "failure")
    return pod


def expected(f: Figures) -> dict[str, float]:
    """The same figures as series, but for buckets."""
    found: dict[str, float] = {}

    def put(name: str, value: float, **labels: str) -> None:
        found[f"despina_{name}{json.dumps(labels, sort_keys=True)}"] = value

    for version, v in f.versions.items():
        for status, n in v.requests.items():
            put("requests_total", n, version=version, status=status)
        for kind, n in v.errors.items():
            put("request_errors_total", n, version=version, **{"class": kind})
        for label, n in v.feedback.items():
            put("feedback_total", n, version=version, label=label)
        times = {"request": v.latency, "time_to_first_token": v.first_token, "queue": v.queue}
        for name, timing in times.items():
            if timing.buckets:
                put(f"{name}_seconds_count", sum(timing.buckets), version=version)
                put(f"{name}_seconds_sum", timing.seconds, version=version)
        for one in v.lms:
            who = {"lm": one.lm, "module": one.module, "version": version}
            for outcome, n in one.outcomes.items():
                put("lm_calls_total", n, outcome=outcome, **who)
            put("lm_tokens_total", one.input_tokens, kind="input", **who)
            put("lm_tokens_total", one.output_tokens, kind="output", **who)
            put("lm_cost_usd_total", one.cost_usd, **who)
    for label, n in f.other_feedback.items():
        put("feedback_total", n, version=OTHER, label=label)
    put("in_flight_requests", f.in_flight)
    put("queued_requests", f.queued)
    put("breaker_open", float(f.breaker_open))
    for tier, n in f.cache.items():
        put("cache_answers_total", n, tier=tier)
    for problem, n in f.degraded.items():
        put("degraded_answers_total", n, problem=problem)
    for tier, errors in f.cache_failures.items():
        for error, n in errors.items():
            put("cache_failures_total", n, tier=tier, error=error)
    for signal, reasons in f.dropped.items():
        for reason, n in reasons.items():
            put("telemetry_dropped_total", n, signal=signal, reason=reason)
    for kind, seconds in (("lm", f.lm_seconds), ("tool", f.tool_seconds)):
        for name, timing in seconds.items():
            put(f"{kind}_call_seconds_count", sum(timing.buckets), **{kind: name})
            put(f"{kind}_call_seconds_sum", timing.seconds, **{kind: name})
    for tool in f.tools:
        for fate, n in tool.outcomes.items():
            put("tool_calls_total", n, tool=tool.tool, backend=tool.backend, fate=fate)
    for pid, size in f.worker_rss_bytes.items():
        put("worker_rss_bytes", size, pid=pid)
    return found


def test_prometheus_is_told_what_the_figures_say_and_nothing_else():
    pod = busy()
    wanted, found = expected(pod.figures()), pod.lines()
    assert {name: value for name, value in found.items() if "_bucket" not in name} == pytest.approx(wanted)
    buckets = {name.partition("{")[0] for name in found if "_bucket" in name}
    assert len(buckets) == 5
    last = json.dumps({"le": "+Inf", "version": "1"})
    assert found[f"despina_request_seconds_bucket{last}"] == 6
    below = json.dumps({"le": "0.3", "version": "1"})
    assert found[f"despina_request_seconds_bucket{below}"] == 3, "a bound is within its bucket"


class Admin:
    """The admin port of a busy pod."""

    def __init__(self, pod: Pod, is_reader=lambda _: True) -> None:
        def figures() -> Figures:
            asyncio.get_running_loop()  # which no other thread has: there, what is counted meanwhile would be in the way
            return pod.figures()

        desk, news = OrderDesk("ns", "qa-1", (), "boot"), News(PodState)
        app = build_admin(lambda: True, desk, None, PodState, news, lambda _: None, is_reader, figures=figures)
        self._client = httpx.AsyncClient(transport=ASGITransport(app), base_url="http://pod")

    async def get(self, path: str, accept: str = "*/*") -> httpx.Response:
        async with self._client as client:
            return await client.get(path, headers={"accept": accept})


async def test_the_admin_port_tells_figures_to_readers():
    pod = busy()
    answer = await Admin(pod).get(FIGURES_PATH)
    assert Figures.model_validate_json(answer.content) == pod.figures()
    assert (await Admin(pod, lambda _: False).get(FIGURES_PATH)).status_code == 403
    assert (await Admin(pod, lambda _: False).get("/metrics")).status_code == 200


PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


async def test_only_open_metrics_has_exemplars_and_none_lets_anybody_label_an_answer():
    pod = busy()
    plain, told = await Admin(pod).get("/metrics"), await Admin(pod).get("/metrics", PROMETHEUS)
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "trace_id" not in plain.text
    assert told.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(open_metrics(told.text))
    found = [s for f in families for s in f.samples if s.exemplar]
    assert {s.name for s in found} == {"despina_request_seconds_bucket"}
    by_bound = {s.labels["le"]: s.exemplar for s in found}
    assert set(by_bound) == {"0.005", "0.3", "30.0"}, "a name that is too long, or none, is left out"
    assert by_bound["0.3"].labels == by_bound["30.0"].labels == {"trace_id": TRACE}
    name = by_bound["0.005"].labels["prediction_id"]
    assert (name.count("-"), by_bound["0.005"].value) == (4, 0.004), "its last part, the MAC, is left out"
    same = dict(series(plain_metrics(plain.text)))
    assert {n: v for n, v in series(families) if "_created" not in n} == {
        n: v for n, v in same.items() if "_created" not in n
    }


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x", "text/plain;version=abc", ";;,", "\u00ff"]
)
async def test_whatever_form_is_asked_for_there_is_an_answer(accept):
    answer = await Admin(busy()).get("/metrics", accept.encode("latin-1"))
    assert answer.status_code == 200


def test_a_callers_trace_that_is_none_is_told_nowhere():
    pod = Pod()
    worker = pod.worker(11)
    Record(worker.counting.begin("1"))(200, 0.1, None, "a-1-1", (("tracestate", "x=secret"), ("traceparent", "secret")))
    worker.tells()
    (one,) = pod.figures().versions["1"].exemplars.values()
    assert (one.kind, one.name) == ("prediction_id", "a-1-1")


def test_each_time_falls_into_the_bucket_of_the_bound_above_it():
    worker = Pod().worker(11)
    counts = worker.counting.begin("1")
    for seconds in (*SECONDS_BOUNDS, SECONDS_BOUNDS[-1] + 1):
        counts.queue(seconds)
    assert counts.queue.take()["buckets"] == [1] * (len(SECONDS_BOUNDS) + 1)


def test_what_is_lost_in_many_threads_is_all_counted_and_can_be_read_meanwhile(monkeypatch):
    monkeypatch.setattr(dropped, "_COUNTS", Counter())
    reasons, begin = [f"reason{n}" for n in range(5000)], Event()

    def lose() -> None:
        begin.wait(10)
        for reason in reasons:
            dropped.drop("traces", reason)  # type: ignore[arg-type]

    losing = [Thread(target=lose) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in losing:
            thread.start()
        begin.set()
        while any(thread.is_alive() for thread in losing):
            dropped.dropped()
    finally:
        sys.setswitchinterval(interval)
        for thread in losing:
            thread.join()
    assert dropped.dropped() == {"traces": dict.fromkeys(reasons, 4)}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("openai/gpt-4o-mini", ("openai", "gpt-4o-mini")),
        ("openrouter/meta-llama/llama-3", ("openrouter", "meta-llama/llama-3")),
        ("gpt-4o", ("", "gpt-4o")),
        ("", ("", "")),
    ],
)
def test_a_models_provider_is_the_same_in_spans_and_in_metrics(name, found):
    assert semconv.provider_and_model(name) == found
    facts = {"model": name, "input_tokens": 1, "output_tokens": 1, "module": "", "cost_usd": "", "error": ""}
    attributes = semconv.of_part(Span("lm", "main", 0.0, 0.1, facts))
    assert (attributes["gen_ai.provider.name"], attributes["gen_ai.request.model"]) == found


def test_tokens_by_model_do_not_go_back_when_a_version_is_forgotten():
    pod = Pod(a="1", b="2")
    worker = pod.worker(11)
    for version in "12":
        worker.counting.begin(version).attempt("main", "classify", "ok", (10, 2))
    worker.tells()
    pod.ledger.look()
    pod.held = {"b": "2"}
    pod.now += FORGET_SECONDS + 1
    assert set(pod.figures().versions) == {"2"}
    assert pod.figures().lm_tokens == {"main": {"input": 20, "output": 4}}


def test_who_asks_for_the_names_of_the_genai_conventions_has_them_by_model():
    pod = Pod()
    counts = pod.worker(11).counting
    version = counts.begin("1")
    for lm in ("main", "same", "gone"):
        version.attempt(lm, "classify", "ok", (10, 2))
        version.took(lm, 0.3)
    pod.ledger.take(11, counts.take())
    lms = [LMConfig(name=name, model="openai/gpt-4o-mini") for name in ("main", "same", "idle")]
    found = dict(
        series(plain_metrics(generate_latest(registry_of(pod.figures(), [partial(genai, lambda: lms)])).decode()))
    )
    chat = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-4o-mini"}
    model, text = json.dumps(chat), json.dumps(chat | {"gen_ai_token_modality": "text"})
    assert found[f"gen_ai_client_inference_duration_seconds_count{model}"] == 2
    assert found[f"gen_ai_client_inference_duration_seconds_sum{model}"] == pytest.approx(0.6)
    assert found[f"gen_ai_client_inference_usage_input_tokens_total{text}"] == 20
    assert found[f"gen_ai_client_inference_usage_output_tokens_total{text}"] == 4
    unknown = json.dumps(chat | {"gen_ai_provider_name": "", "gen_ai_request_model": "gone"})
    assert found[f"gen_ai_client_inference_duration_seconds_count{unknown}"] == 1
