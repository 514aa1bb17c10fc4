"""What to ask Prometheus for, to get what stands on the page (pure): one query for each figure and each curve.

Rates are those of two minutes, for which Prometheus has to have looked twice. Sums are over the pods that run; the page
also knows what pods that are gone had counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from despina.dashboard.facts import Key
from despina.dashboard.flat import CALLERS, MADE

WINDOW, DAYS_WINDOW = "2m", "5m"
"""Of rates: at the moment and over an hour, and over a day, which is drawn by five minutes."""


class Query(NamedTuple):
    """A figure, and what gives it."""

    title: str
    text: str


def quoted(value: str) -> str:
    """A label's value as PromQL has it, whoever wrote it: nothing in it ends the text."""
    return json.dumps(value.encode(errors="replace").decode(), ensure_ascii=False)


def program(key: Key) -> str:
    """The labels that Prometheus gives to all that one program's pods say."""
    return f"namespace={quoted(key[0])},program={quoted(key[1])}"


def rate(metric: str, labels: str, window: str = WINDOW, by: str = "") -> str:
    """How much more of it there is every second."""
    return f"sum{_by(by)}(rate({metric}{_chosen(labels)}[{window}]))"


def total(metric: str, labels: str, by: str = "") -> str:
    """How much of it there is."""
    return f"sum{_by(by)}({metric}{_chosen(labels)})"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _chosen(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _and(*labels: str) -> str:
    return ",".join(filter(None, labels))


OURS = f'class!="{CALLERS}"'
HIT = f'tier!="{MADE}"'


def requests(labels: str, window: str = WINDOW, by: str = "") -> str:
    """A second."""
    return rate("despina_requests_total", labels, window, by)


def errors(labels: str, window: str = WINDOW, by: str = "") -> str:
    """A second, without callers' own; 0 where no request failed yet, for then there is no such series."""
    failed = rate("despina_request_errors_total", _and(labels, OURS), window, by)
    return f"({failed} or 0 * {requests(labels, window, by)})"


def latency(share: float, labels: str, window: str = WINDOW, by: str = "") -> str:
    """Seconds."""
    buckets = rate("despina_request_seconds_bucket", labels, window, _and(by, "le").replace(",", ", "))
    return f"histogram_quantile({share:g}, {buckets})"


def curves(key: Key, window: str) -> dict[str, str]:
    """The curves of a program's page, by their names."""
    labels = program(key)
    return {
        "requests": requests(labels, window),
        "errors": errors(labels, window),
        "p50": latency(0.5, labels, window),
        "p95": latency(0.95, labels, window),
    }


def columns(labels: str, by: str = "") -> dict[str, str]:
    """The figures of a row, by their columns."""
    hits = rate("despina_cache_answers_total", _and(labels, HIT), by=by)
    answers = rate("despina_cache_answers_total", labels, by=by)
    return {
        "requests": requests(labels, by=by),
        "p50": latency(0.5, labels, by=by),
        "p95": latency(0.95, labels, by=by),
        "errors": f"{errors(labels, by=by)} / {requests(labels, by=by)}",
        "cached": f"({hits} or 0 * {answers}) / {answers}",
        "tokens": f"60 * {rate('despina_lm_tokens_total', labels, by=by)}",
        "cost": f"3600 * {rate('despina_lm_cost_usd_total', labels, by=by)}",
        "score": f"despina_gate_score_percent{_chosen(labels)}",
    }


def of_list(namespace: str, heads: Iterable[tuple[str, str]]) -> list[Query]:
    """The list's columns, by name and title; of one namespace or all."""
    found = columns(f"namespace={quoted(namespace)}" if namespace else "", "namespace, program")
    return [Query(title, found[name]) for name, title in heads]


def of_program(key: Key, span: str, heads: Iterable[tuple[str, str]]) -> dict[str, list[Query]]:
    """All of a program's page, by its parts."""
    labels, drawn = program(key), curves(key, window_of(span))
    now = columns(labels)
    return {
        "now": [Query(title, now[name]) for name, title in heads],
        "curves": [Query(title, drawn[name]) for name, title in CURVES],
        **{
            part: [Query(title, text.replace("LABELS", labels)) for title, text in found]
            for part, found in PARTS.items()
        },
    }


def window_of(span: str) -> str:
    """Over which the rates of a time span's curves are counted."""
    return DAYS_WINDOW if span == "24h" else WINDOW


CURVES = (
    ("requests", "Requests a second"),
    ("errors", "Errors a second"),
    ("p50", "Median"),
    ("p95", "95th percentile"),
)


def _share(part: str, whole: str) -> str:
    return f"({part} or 0 * {whole}) / {whole}"


_VERSION = "version"
_REQUESTS = total("despina_requests_total", "LABELS", _VERSION)
_ANSWERS = total("despina_cache_answers_total", "LABELS")
_ASKED = total("despina_lm_calls_total", "LABELS", "module, lm")
_CALLED = total("despina_tool_calls_total", "LABELS", "tool, backend")


def _middle(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share:g}, {total(metric, 'LABELS', f'{by}, le')})"


PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "sides": (
        ("Score", "despina_gate_score_percent{LABELS}"),
        ("Requests", _REQUESTS),
        ("Errors", _share(total("despina_request_errors_total", f"LABELS,{OURS}", _VERSION), _REQUESTS)),
        ("Median", _middle(0.5, "despina_request_seconds_bucket", _VERSION)),
        ("95th percentile", _middle(0.95, "despina_request_seconds_bucket", _VERSION)),
        ("Tokens a request", f"{total('despina_lm_tokens_total', 'LABELS', _VERSION)} / {_REQUESTS}"),
        ("Cost of 1,000 requests", f"1000 * {total('despina_lm_cost_usd_total', 'LABELS', _VERSION)} / {_REQUESTS}"),
    ),
    "conditions": (("Conditions", "despina_program_condition{LABELS} == 1"),
                   ("Reasons", "despina_program_condition_reason{LABELS}")),
    "gates": (("Gates that were decided", total("despina_gate_results_total", "LABELS", "gate, result")),
              ("Score", "despina_gate_score_percent{LABELS}")),
    "modules": (
        ("Calls", _ASKED),
        ("Failed", _share(total("despina_lm_calls_total", 'LABELS,outcome!="ok"', "module, lm"), _ASKED)),
        ("Median", _middle(0.5, "despina_lm_call_seconds_bucket", "lm")),
        ("Tokens", total("despina_lm_tokens_total", "LABELS", "module, lm")),
        ("Cost", total("despina_lm_cost_usd_total", "LABELS", "module, lm")),
    ),
    "errors": (("Answers by class", total("despina_request_errors_total", "LABELS", "class")),
               ("Answers of the fallback", total("despina_degraded_answers_total", "LABELS", "problem"))),
    "cache": (("Answers", total("despina_cache_answers_total", "LABELS", "tier")),
              ("Share", f"{total('despina_cache_answers_total', 'LABELS', 'tier')} / scalar({_ANSWERS})")),
    "tools": (("Calls", _CALLED),
              ("Failed", _share(total("despina_tool_calls_total", 'LABELS,fate!="ok"', "tool, backend"), _CALLED))),
    "feedback": (("Labels", total("despina_feedback_total", "LABELS", "version, label")),),
    "pods": (("Under way", total("despina_in_flight_requests", "LABELS")),
             ("Waiting", total("despina_queued_requests", "LABELS")),
             ("Breaker open in so many pods", total("despina_breaker_open", "LABELS"))),
}  # fmt: skip
"""What the parts of a program's page show; LABELS choose the program."""
