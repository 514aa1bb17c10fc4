"""A pod's figures as Prometheus has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Example

from despina.wire import OTHER, SECONDS_BOUNDS, Exemplar, Figures, Timing, VersionFigures
from despina_runtime.http.prometheus import DROPPED

BOUNDS = *(str(float(bound)) for bound in SECONDS_BOUNDS), "+Inf"
Rows = Iterator[tuple[tuple[str, ...], float]]
"""Label values, and what was counted."""


View = Callable[[Figures], Iterator[Metric]]
"""Figures as metrics."""


class Exposition(Collector):
    """The figures of one moment."""

    def __init__(self, figures: Figures, views: Iterable[View]) -> None:
        self._figures, self._views = figures, views

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        for view in self._views:
            yield from view(self._figures)

    def describe(self) -> tuple[Metric, ...]:
        """Nothing beforehand, so that nothing is counted to register this."""
        return ()


def registry_of(figures: Figures, views: Iterable[View] = (), *others: Collector) -> CollectorRegistry:
    """Figures, in these views as well, and what others collect."""
    found = CollectorRegistry()
    for collector in (Exposition(figures, (families, *views)), *others):
        found.register(collector)
    return found


def families(f: Figures) -> Iterator[Metric]:
    """A pod's metrics."""
    yield from _of_versions(f.versions, f.other_feedback)
    yield _gauge("in_flight_requests", "Requests being answered.", f.in_flight)
    yield _gauge("queued_requests", "Requests that wait for a slot.", f.queued)
    yield _gauge("breaker_open", "1 while a worker's breaker of the program is open.", f.breaker_open)
    text = "Answers by the cache's tier; `none` for those that were made."
    yield _counter("cache_answers", text, "tier", _rows(f.cache))
    text = "What a tier of the cache failed at; each time a miss."
    yield _counter("cache_failures", text, "tier error", _nested(f.cache_failures))
    yield _counter("degraded_answers", "Answers of a fallback, by what had failed.", "problem", _rows(f.degraded))
    yield _histogram("lm_call_seconds", "Attempts to ask a language model.", "lm", f.lm_seconds)
    fates = (((t.tool, t.backend, fate), n) for t in f.tools for fate, n in t.outcomes.items())
    yield _counter(
        "tool_calls", "Attempts to have a tool executed, by what became of them.", "tool backend fate", fates
    )
    yield _histogram("tool_call_seconds", "Calls of tools, with all their attempts.", "tool", f.tool_seconds)
    yield _counter("telemetry_dropped", DROPPED, "signal reason", _nested(f.dropped))
    memory = GaugeMetricFamily("despina_worker_rss_bytes", "Resident memory of one worker.", labels=["pid"])
    for pid, size in f.worker_rss_bytes.items():
        memory.add_metric([pid], size)
    yield memory


def _of_versions(versions: Mapping[str, VersionFigures], other_feedback: Mapping[str, int]) -> Iterator[Metric]:
    yield _counter(
        "requests", "Answers given.", "version status", _nested({v: f.requests for v, f in versions.items()})
    )
    errors = {v: f.errors for v, f in versions.items()}
    yield _counter("request_errors", "Answers that are errors, by whose.", "version class", _nested(errors))
    exemplars = {v: f.exemplars for v, f in versions.items()}
    latency = {v: f.latency for v, f in versions.items()}
    yield _histogram("request_seconds", "Time to answer.", "version", latency, exemplars)
    first = {v: f.first_token for v, f in versions.items()}
    yield _histogram("time_to_first_token_seconds", "Of streams, the time to their first chunk.", "version", first)
    queue = {v: f.queue for v, f in versions.items()}
    yield _histogram("queue_seconds", "How long executions waited for a slot.", "version", queue)
    yield from _of_lms(versions)
    labels = {v: f.feedback for v, f in versions.items()} | ({OTHER: other_feedback} if other_feedback else {})
    yield _counter("feedback", "What callers said of answers.", "version label", _nested(labels))


def _of_lms(versions: Mapping[str, VersionFigures]) -> Iterator[Metric]:
    asked = [((one.lm, one.module), version, one) for version, f in versions.items() for one in f.lms]
    calls = (((*who, outcome, v), n) for who, v, one in asked for outcome, n in one.outcomes.items())
    text = "Attempts to call a language model, by outcome."
    yield _counter("lm_calls", text, "lm module outcome version", calls)
    kinds = [(who, v, {"input": one.input_tokens, "output": one.output_tokens}) for who, v, one in asked]
    tokens = (((*who, kind, v), n) for who, v, counts in kinds for kind, n in counts.items())
    yield _counter("lm_tokens", "Tokens that providers counted.", "lm module kind version", tokens)
    cost = (((*who, v), one.cost_usd) for who, v, one in asked)
    yield _counter("lm_cost_usd", "What calls cost by the manifest's prices.", "lm module version", cost)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"despina_{name}", text, float(value))


def _counter(name: str, text: str, labels: str, rows: Rows) -> Metric:
    found = CounterMetricFamily(f"despina_{name}", text, labels=labels.split())
    for values, count in rows:
        found.add_metric(values, count)
    return found


def _rows(counts: Mapping[str, int]) -> Rows:
    return (((name,), count) for name, count in counts.items())


def _nested(counts: Mapping[str, Mapping[str, int]]) -> Rows:
    return (((outer, name), count) for outer, inner in counts.items() for name, count in inner.items())


def _histogram(
    name: str, text: str, label: str, times: Mapping[str, Timing],
    exemplars: Mapping[str, Mapping[int, Exemplar]] | None = None,
) -> Metric:  # fmt: skip
    found = HistogramMetricFamily(f"despina_{name}", text, labels=[label])
    for value, timing in times.items():
        if timing.buckets:
            found.add_metric([value], buckets_of(timing, (exemplars or {}).get(value, {})), timing.seconds)
    return found


def buckets_of(timing: Timing, exemplars: Mapping[int, Exemplar] = MappingProxyType({})) -> list[Any]:
    """Each counts all that took at most so long."""
    counts = [*timing.buckets, *[0] * (len(BOUNDS) - len(timing.buckets))]
    rows = zip(BOUNDS, accumulate(counts), strict=True)
    return [(*row, _example(exemplars[n])) if n in exemplars else row for n, row in enumerate(rows)]


def _example(one: Exemplar) -> Example:
    return Example({one.kind: one.name}, one.seconds, one.at)
