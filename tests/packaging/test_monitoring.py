"""Alerts, dashboards and the page about them: they name what is there, and every alert fires when it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from despina import telemetry
from despina.api.status import ProgramStatus
from despina.cluster.observe import read_status
from despina.dashboard import promql
from despina.dashboard.curves import RANGES
from despina.dashboard.pages import COLUMNS, HEADS
from despina.wire import Figures
from despina_runtime.feedback import counts
from despina_runtime.process.exposition import registry_of
from tests.support.world import ROOT
from tools import CACHE

CHART = ROOT / "charts" / "despina"
ALERTS = CHART / "files" / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
CASES = sorted((ROOT / "tests" / "alerts").glob("*.yaml"))
PAGE = (ROOT / "docs" / "observability.md").read_text()
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
TARGET = {"namespace", "pod", "program"}
"""Labels that Prometheus gives by itself to what pods say."""
PROMTOOL = shutil.which("promtool") or str(CACHE / "packages" / "prometheus" / "usr" / "bin" / "promtool")
needs_promtool = pytest.mark.skipif(not Path(PROMTOOL).exists(), reason="there is no promtool: `make test` gets it")


class Metric(NamedTuple):
    kind: str
    labels: frozenset[str]


def listed(section: str) -> dict[str, Metric]:
    """The metrics in a table of the page, which is the one list of them."""
    _, _, rest = PAGE.partition(f"\n## {section}\n")
    rows = re.findall(r"^\| `(despina_\w+)` \| (\w+) \|([^|]*)\|", rest.partition("\n## ")[0], re.M)
    return {name: Metric(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


PODS, OPERATOR = listed("Metrics of programs"), listed("Metrics of the operator")
KNOWN = {name: m._replace(labels=m.labels | TARGET) for name, m in (PODS | OPERATOR).items()}


def promtool(*args: str, stdin: str | None = None) -> str:
    """What it prints; it must find nothing wrong."""
    done = subprocess.run([PROMTOOL, *args], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def dashboards() -> dict[str, Any]:
    found = {path.name: json.loads(path.read_text()) for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert found
    return found


def expressions(document: Any) -> Iterator[str]:
    """What a dashboard asks Prometheus for."""
    if isinstance(document, dict):
        yield from (v for k, v in document.items() if k == "expr" or (k == "query" and "(" in v))
    for inner in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from expressions(inner)


def questions() -> list[str]:
    """The page's examples."""
    rest = PAGE.partition("\n## Questions\n")[2].partition("\n## ")[0]
    return [q.replace(r"\|", "|") for q in re.findall(r"^\| [^|]+ \| `(.*)` \|$", rest, re.M)]


def of_the_page() -> Iterator[tuple[str, str]]:
    """What stands beside the page's figures."""
    for span in RANGES:
        parts = {**promql.of_program(("team-a", "qa"), span, HEADS), "list": promql.of_list("team-a", HEADS)}
        for part, queries in (parts | {"all": promql.of_list("", HEADS)}).items():
            yield from ((f"page {span} {part} {query.title}", query.text) for query in queries)


QUESTION = r"(?:^|`)((?:sum|histogram_quantile|despina_\w+\{)[^`\n]*)(?:$|`)"
ASKED = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{f"{name} {n}": e for name, d in dashboards().items() for n, e in enumerate(expressions(d))},
    **dict(of_the_page()),
    **{f"question {n}": q for n, q in enumerate(questions())},
    **{f"runbook {n}": q for n, q in enumerate(re.findall(QUESTION, RUNBOOKS, re.M))},
}


def base(name: str) -> str:
    """A metric by the name of one of its series."""
    short = re.sub(r"_(bucket|count|sum)$", "", name)
    return short if short in KNOWN and KNOWN[short].kind == "histogram" else name


def misnamed(expression: str) -> set[str]:
    """Metrics and labels in it that there are not."""
    found: set[str] = set()
    labels = {"le"}
    for name, matchers in re.findall(r"(despina_\w+)(?:\{([^}]*)\})?", expression):
        if base(name) not in KNOWN:
            found.add(name)
            continue
        its = KNOWN[base(name)].labels
        labels |= its
        found |= {f"{name}.{label}" for label in re.findall(r"(\w+)\s*(?:=|!=)~?\s*\"", matchers) if label not in its}
    grouped = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    return found | ({label for group in grouped for label in re.findall(r"\w+", group)} - labels)


@pytest.mark.parametrize("what", sorted(ASKED))
def test_what_is_asked_for_is_there(what):
    assert len(PODS) >= 18
    assert len(OPERATOR) >= 12
    assert not misnamed(ASKED[what])


def test_every_part_of_the_page_that_counts_has_its_queries():
    asked = promql.of_program(("team-a", "qa"), "15m", HEADS)
    assert [query.title for query in asked["now"]] == [hint for _, _, hint in COLUMNS]
    figures = {
        "conditions",
        "curves",
        "errors",
        "feedback",
        "gates",
        "modules",
        "now",
        "pods",
        "sides",
        "tools",
        "cache",
    }
    assert asked.keys() == figures


def test_a_name_that_is_not_there_is_found():
    assert misnamed("sum by (programm) (despina_requests_total)") == {"programm"}
    assert misnamed('despina_requests_total{klass!="a"}') == {"despina_requests_total.klass"}
    assert misnamed("rate(despina_requests[5m])") == {"despina_requests"}
    assert misnamed("rate(despina_requests_total_bucket[5m])") == {"despina_requests_total_bucket"}
    assert not misnamed('sum by (le, version) (rate(despina_request_seconds_bucket{version=~"1"}[5m]))')


WHOLE = {
    "conditions": [{"type": "Ready", "status": "False", "reason": "Crashed", "lastTransitionTime": "x"}],
    "breaker": {"state": "Open"},
    "rollout": {
        "id": "r", "strategy": "HotSwap", "step": "Gate", "startedAt": "x",
        "gates": [{"name": "g", "type": "Evaluate", "result": "Passed", "startedAt": "x",
                   "score": {"job": "j", "scorePercent": "92.5"}}],
    },
}  # fmt: skip


@pytest.fixture
def scraped() -> Iterator[str]:
    """What the operator answers when there is a program of which everything can be said."""
    registry = CollectorRegistry()
    for collector in vars(telemetry).values():
        if isinstance(collector, Counter | Gauge | Histogram | telemetry.Programs):
            registry.register(collector)
    telemetry.WRITES.labels("Service", "patch").inc(0)
    telemetry.WRITES_REFUSED.labels("Service", "Refused").inc(0)
    telemetry.PASSES_FAILED.labels("DSPyProgram").inc(0)
    for status in (ProgramStatus(), read_status(WHOLE)):
        telemetry.PROGRAMS.note(("ns", "qa"), status)
    yield generate_latest(registry).decode()
    telemetry.PROGRAMS.forget(("ns", "qa"))


def shown(text: str) -> dict[str, Metric]:
    """The metrics in an answer, each of which has a series."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset({label for sample in family.samples for label in sample.labels} - {"le"})
        found[name] = Metric(family.type, labels)
    return {name: metric for name, metric in found.items() if not name.endswith("_created")}


def test_the_pages_list_is_what_the_operator_shows(scraped):
    assert shown(scraped) == OPERATOR


ONE, TIMES = {"1": 1}, {"buckets": (1,), "seconds": 0.1}
POD = Figures.model_validate(
    {
        "versions": {
            "1": {
                "requests": ONE, "errors": ONE, "latency": TIMES, "first_token": TIMES, "queue": TIMES, "feedback": ONE,
                "lms": [{"lm": "main", "module": "m", "outcomes": ONE}],
            }
        },
        "cache": ONE, "degraded": ONE, "lm_seconds": {"main": TIMES}, "tool_seconds": {"search": TIMES},
        "tools": [{"tool": "search", "backend": "b", "outcomes": ONE}], "worker_rss_bytes": ONE,
        "cache_failures": {"redis": ONE}, "dropped": {"predictions": ONE},
    }
)  # fmt: skip
"""Of a pod of which everything can be said."""


def test_the_pages_list_is_what_pods_show():
    for counter in (counts.DELIVERED, counts.REFUSED, counts.WAITING):
        counter.labels("prediction")
    counts.LOST.labels("room")
    assert shown(generate_latest(registry_of(POD, (), counts.REGISTRY)).decode()) == PODS


@needs_promtool
def test_what_the_operator_shows_is_as_prometheus_wants_it(scraped):
    assert promtool("check", "metrics", stdin=scraped) == ""


@needs_promtool
def test_the_rules_can_be_read():
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", str(ALERTS))


@needs_promtool
def test_every_question_can_be_asked(tmp_path):
    def filled(text: str) -> str:
        return re.sub(r"\$\w+", "x", text.replace("$__rate_interval", "5m"))

    asked = {what: q for what, q in ASKED.items() if not q.startswith("label_values")}
    rules = [{"record": f"asked:{n}", "expr": filled(q)} for n, q in enumerate(asked.values())]
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "asked.yaml"))


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(cases):
    promtool("test", "rules", str(cases))


def test_of_every_alert_it_is_shown_that_it_fires_and_that_it_does_not():
    fires, quiet = set(), set()
    for case in (case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]):
        for asked in case["promql_expr_test"]:
            (alert,) = re.findall(r'alertname="(\w+)"', asked["expr"])
            labels = " ".join(sample["labels"] for sample in asked["exp_samples"])
            fires |= {alert} if labels else set()
            seen = {
                name for one in case["input_series"] for name in re.findall(r'(?:program|pod)="([^"]+)"', one["series"])
            }
            quiet |= {alert} if any(f'"{name}"' not in labels for name in seen - {"a", "b"}) else set()
    assert fires == quiet == {rule["alert"] for rule in RULES}


def anchors(text: str) -> set[str]:
    return {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall(r"^## (.*)$", text, re.M)}


def test_every_alert_says_what_it_is_and_has_a_runbook():
    for rule in RULES:
        name, notes = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(notes) == {"summary", "description", "runbook"}, name
        assert notes["runbook"] == f"docs/runbooks.md#{name.lower()}"
        section = RUNBOOKS.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert [part for part in ("**Means**", "**Look**", "**Do**") if part in section] == [
            "**Means**",
            "**Look**",
            "**Do**",
        ], name
        assert f"[{name}](runbooks.md#{name.lower()})" in PAGE
    assert set(re.findall(r"^## (.*)$", RUNBOOKS, re.M)) == {rule["alert"] for rule in RULES}
    assert set(re.findall(r"\(#([\w-]+)\)", RUNBOOKS)) <= anchors(RUNBOOKS)


def test_panels_do_not_lie_upon_one_another():
    for name, board in dashboards().items():
        rows = sorted(
            (p["gridPos"]["y"], p["gridPos"]["x"], p["gridPos"]["w"], p["gridPos"]["h"]) for p in board["panels"]
        )
        assert len({p["id"] for p in board["panels"]}) == len(rows), name
        for (y, x, w, h), (other_y, other_x, *_) in pairwise(rows):
            assert (y == other_y and x + w <= other_x) or y + h <= other_y, name


def test_what_is_dropped_of_what_pods_say_is_the_operators():
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    (pattern,) = re.findall(r"regex: (despina_\S+)\}", helpers)
    taken = {name for name in KNOWN if re.fullmatch(pattern, name)}
    assert taken == set(OPERATOR)
