"""What a pod's figures say after traffic is what was sent, whichever of its workers lived to tell."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import Counter
from decimal import Decimal

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_metrics

from despina.wire import FIGURES_PATH, CacheConfig, Figures, Price, VersionFigures
from tests.support.pods import Pod, fresh, lm_config
from tests.support.world import eventually
from tests.unit.test_figures import PROMETHEUS, expected, series

TRACE = "0af7651916cd43dd8448eb211c80319c"
PRICE = Price(input_per_million_usd="1", output_per_million_usd="2")


class Traffic:
    """Requests to a pod, and what its answers say of themselves."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.statuses, self.tiers, self.errors, self.spent = Counter(), Counter(), Counter(), Counter()
        self.cost, self.streams = Decimal(0), 0

    def ask(self, body, problem: str = "", **headers: str) -> None:
        answer = self.pod.ask(body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code != 200:
            self.errors[problem] += 1
        elif "cache-status" in answer.headers:
            state = answer.headers["cache-status"]
            self.tiers[state.partition("detail=")[2] if "; hit" in state else "none"] += 1
            self.cost += Decimal(answer.headers.get("despina-cost-usd", "0"))
            for kind in ("lm-attempts", "input-tokens", "output-tokens"):
                self.spent[kind] += int(answer.headers.get(f"despina-{kind}", 0))

    def stream(self) -> None:
        """From the cache, so that it costs nothing."""
        body = fresh()
        self.ask(body)
        self.ask(body)
        answer = self.pod.ask(body, headers={"accept": "text/event-stream"})
        assert answer.headers["content-type"].startswith("text/event-stream")
        self.statuses["200"] += 1
        self.streams += 1

    def some(self) -> None:
        """Of each kind."""
        for _ in range(10):
            body = fresh()
            self.ask(body)
            self.ask(body)
        self.ask(fresh(), traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        self.ask({"ticket": 7}, "caller")
        self.stream()

    def sent(self) -> tuple:
        return (
            self.statuses, self.errors, self.tiers.total() + self.streams, self.tiers["none"], self.statuses.total(),
            self.streams, self.spent["lm-attempts"], self.spent["input-tokens"], self.spent["output-tokens"],
            round(float(self.cost), 9),
        )  # fmt: skip

    def told(self) -> tuple:
        found = figures(self.pod)
        version = found.versions.get(self.pod.config.model.version, VersionFigures())
        lms, cache = version.lms, found.cache
        return (
            version.requests, version.errors, sum(cache.values()), cache.get("none", 0), sum(version.latency.buckets),
            sum(version.first_token.buckets), sum(one.outcomes.get("ok", 0) for one in lms),
            sum(one.input_tokens for one in lms), sum(one.output_tokens for one in lms),
            round(sum(one.cost_usd for one in lms), 9),
        )  # fmt: skip

    def check(self) -> None:
        with contextlib.suppress(AssertionError):  # the comparison below tells more
            eventually("told what was sent", lambda: self.told() == self.sent(), 10)
        assert self.told() == self.sent()


def figures(pod: Pod) -> Figures:
    return Figures.model_validate_json(httpx.get(f"{pod.admin}{FIGURES_PATH}").content)


def told(pod: Pod, accept: str = "text/plain") -> str:
    return httpx.get(f"{pod.admin}/metrics", headers={"accept": accept}).text


def check(text: str) -> None:
    """As Prometheus' own tool does, where it is installed."""
    list(plain_metrics(text))
    if tool := shutil.which("promtool"):
        ran = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_the_figures_are_what_was_sent_also_when_a_worker_was_killed(pod, version, servers, lm):
    main = lm_config(servers[2], retries=0, request_timeout_seconds=5, price=PRICE)
    running = pod(version, workers=2, lms=(main,), cache=CacheConfig(scope="Both", node_bytes=2**24))
    eventually("ready", running.is_ready, 90)
    traffic = Traffic(running)
    traffic.some()
    traffic.check()
    boot, before = figures(running).boot, set(running.workers())
    os.kill(min(before), signal.SIGKILL)
    eventually("replaced", lambda: len(set(running.workers()) - before) == 1 and running.state().workers == 2, 60)
    traffic.some()
    lm.misbehave(status=500)
    traffic.ask(fresh(), "upstream")
    lm.misbehave()
    traffic.check()
    found = figures(running)
    assert (found.boot, found.in_flight, found.queued) == (boot, 0, 0)
    alive = {str(pid) for pid in running.workers()}
    eventually("each worker's memory", lambda: set(figures(running).worker_rss_bytes) == alive, 10)
    assert running.state().orders.boot == boot
    is_the_same(running)


def is_the_same(pod: Pod) -> None:
    """In each of the forms in which it is told."""
    text = told(pod)
    check(text)
    plain = {n: v for n, v in series(plain_metrics(text)) if "_bucket" not in n and "_feedback_" not in n}
    assert plain == pytest.approx(expected(figures(pod)))
    pod.ask(fresh(), headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    eventually("its caller's trace is told", lambda: {"trace_id": TRACE} in exemplars(pod), 10)


def exemplars(pod: Pod) -> list[dict[str, str]]:
    return [s.exemplar.labels for f in open_metrics(told(pod, PROMETHEUS)) for s in f.samples if s.exemplar]


def test_callers_are_not_told_figures(pod, version):
    running = pod(version)
    eventually("ready", running.is_ready, 90)
    assert httpx.get(f"{running.url}/metrics").status_code == 404
    assert httpx.get(f"{running.url}{FIGURES_PATH}").status_code == 404
    check(told(running))
