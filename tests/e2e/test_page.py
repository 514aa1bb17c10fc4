"""The page that the chart installs, in a browser on the cluster: what happens to programs is there within seconds, what is
counted is what Prometheus counts, and everybody sees and does what the API server lets them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clusterconfig import NODE_IP
from despina.dashboard.words import number
from services import Processes, free_port, standin_command
from stage import namespace_of
from tests.support.world import TICKET, Given, Kube, StandIn, eventually, log_model, manifest, move_alias, traffic
from tools import unpacked

HERE, ELSEWHERE = namespace_of(Path(__file__)), "elsewhere"
SOON = 15
"""Seconds within which the page shows what the status says."""
CHROMIUM = shutil.which("chromium")
FALLBACK = {"response": {"category": "account"}}
VERBS = ["get", "list", "patch"]
TABLE = """(name) => [...document.querySelectorAll(`[data-part="${name}"] tbody tr`)].map(
  (row) => [...row.cells].map((cell) => cell.querySelector("bdi")?.textContent ?? cell.textContent))"""


@pytest.fixture(scope="module")
def tokens() -> Iterator[dict[str, str]]:
    """Of people: ada changes programs here, bob only looks, and eve looks elsewhere."""
    people = {"ada": (HERE, VERBS), "bob": (HERE, VERBS[:2]), "eve": (ELSEWHERE, VERBS[:2])}
    for name, (namespace, verbs) in people.items():
        meta = {"name": f"page-{name}", "namespace": namespace}
        rules = [{"apiGroups": ["despina.dev"], "resources": ["dspyprograms"], "verbs": verbs}]
        role = {"kind": "Role", "name": meta["name"], "apiGroup": "rbac.authorization.k8s.io"}
        subjects = [{"kind": "ServiceAccount", **meta}]
        rbac = "rbac.authorization.k8s.io/v1"
        for document in (
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
            {"apiVersion": rbac, "kind": "Role", "metadata": meta, "rules": rules},
            {"apiVersion": rbac, "kind": "RoleBinding", "metadata": meta, "roleRef": role, "subjects": subjects},
        ):
            Kube(namespace).apply(document)
    found = {name: Kube(place)("create", "token", f"page-{name}").strip() for name, (place, _) in people.items()}
    yield found
    for name, (namespace, _) in people.items():
        Kube(namespace)("delete", "serviceaccount,role,rolebinding", f"page-{name}", "--ignore-not-found")


@pytest.fixture(scope="module")
def site() -> str:
    """Where the chart's page is."""
    system = Kube("despina-system")
    system("rollout", "status", "deployment/despina-dashboard", "--timeout=60s")
    return f"https://{system('get', 'service', 'despina-dashboard', '-o', 'jsonpath={.spec.clusterIP}')}"


@pytest.fixture
def processes(tmp_path):
    started = Processes(tmp_path / "logs")
    yield started
    started.stop_all()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Tab:
    """Somebody's browser on one program's page."""

    def __init__(self, browser: Any, site: str, token: str, path: str) -> None:
        self.page = browser.new_context(ignore_https_errors=True).new_page()
        self.page.set_default_timeout(SOON * 1000)
        self.page.goto(site + path, timeout=60_000)
        self.page.fill("#token", token)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector('#live[data-level="ok"]')

    def shows(self, part: str, text: str) -> None:
        """It is there soon, and nobody loads the page anew for it."""
        self.page.locator(f'[data-part="{part}"]', has_text=text).first.wait_for(state="attached")

    def press(self, button: str) -> None:
        """A button, and that one is sure."""
        self.page.click(f"#{button}")
        self.page.click("#sure-yes")
        self.page.wait_for_selector("text=Asked for: ")
        self.page.wait_for_selector('#live[data-level="ok"]')

    def table(self, part: str) -> list[list[str]]:
        return self.page.evaluate(TABLE, part)


class Prometheus:
    """Debian's, on these pods."""

    def __init__(self, processes: Processes, folder: Path, program: Given) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        targets = [f"{pod['status']['podIP']}:8081" for pod in program.pods()]
        jobs = [{"job_name": "programs", "static_configs": [{"targets": targets}]}]
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({"global": {"scrape_interval": "2s"}, "scrape_configs": jobs}))
        command = [str(unpacked("prometheus") / "usr" / "bin" / "prometheus"), f"--config.file={config}"]
        command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={self.url[7:]}"]
        processes.start("prometheus", command)
        processes.wait_for_http("prometheus", f"{self.url}/-/ready")

    def sums(self, metric: str, *by: str) -> dict[tuple[str, ...], float]:
        """A counter over all pods, by some of its labels."""
        query = {"query": f"sum by ({', '.join(by)}) (max_over_time({metric}[10m]))"}
        found = httpx.get(f"{self.url}/api/v1/query", params=query, timeout=10).raise_for_status().json()
        return {tuple(one["metric"].get(b, "") for b in by): float(one["value"][1]) for one in found["data"]["result"]}


def counted_by(prometheus: Prometheus, version: str) -> dict[str, Any]:
    """What a program's page should say, by Prometheus: counts are written as people read them."""
    calls = prometheus.sums("despina_lm_calls_total", "module", "lm")
    tokens = prometheus.sums("despina_lm_tokens_total", "module", "lm")
    errors = prometheus.sums("despina_request_errors_total", "class")
    degraded = prometheus.sums("despina_degraded_answers_total", "problem")
    named = {word: n for (word,), n in errors.items()} | {f"degraded: {word}": n for (word,), n in degraded.items()}
    return {
        "requests": number(prometheus.sums("despina_requests_total", "version").get((version,), 0)),
        "errors": {word: number(n) for word, n in named.items() if n},
        "modules": {who: (number(n), number(tokens.get(who, 0))) for who, n in calls.items()},
        "feedback": {f"v{v} {label}": number(n) for (v, label), n in prometheus.sums(
            "despina_feedback_total", "version", "label").items() if n},
    }  # fmt: skip


def counted_on(tab: Tab) -> dict[str, Any]:
    """What it says."""
    return {
        "requests": dict(row[:2] for row in tab.table("sides"))["Requests"],
        "errors": dict(row[:2] for row in tab.table("t-errors")),
        "modules": {(module, lm): (calls, tokens) for module, lm, calls, _, _, tokens, _ in tab.table("t-modules")},
        "feedback": {f"{v} {label}": n for v, label, n in tab.table("t-feedback")},
    }


def both_count_the_same(prometheus: Prometheus, tab: Tab, sent: int) -> dict[str, Any]:
    """What both say once Prometheus has seen the last request: until then each may know another part of them."""
    eventually("all seen", lambda: sum(prometheus.sums("despina_requests_total", "version").values()) >= sent, 30)
    said = counted_by(prometheus, "1")
    with contextlib.suppress(AssertionError):
        eventually("the same", lambda: counted_on(tab) == said, 30)
    assert counted_on(tab) == said
    return said


def gate(text: str) -> list[dict[str, Any]]:
    return [{"name": "smoke", "type": "Smoke", "smoke": {"inputs": {"ticket": text}}}]


def through(text: str) -> dict[str, Any]:
    """A rollout through a gate that asks this, and then by somebody's hand."""
    slow = {"scaleDownDelaySeconds": 120, "progressDeadlineSeconds": 60, "autoPromotion": "Disabled"}
    return {"strategy": "Auto", "blueGreen": slow, "gates": gate(text), "postPromotion": {"watchSeconds": 20}}


@pytest.fixture
def programs(given, processes) -> tuple[Given, Given, StandIn]:
    """One of which a version errs in production, and one whose provider can fail."""
    log_model("guarded", "page", "champion")
    log_model("boom", "page")
    log_model("compiled", "page-outage", "champion")
    port = free_port()
    processes.start("provider", standin_command(NODE_IP, port))
    provider = StandIn(f"http://{NODE_IP}:{port}")
    processes.wait_for_http("provider", f"{provider.url}/admin")
    lms = [{"name": "main", "model": "openai/stand-in", "baseURL": f"{provider.url}/v1"}]
    breaker = {"minRequests": 20, "windowSeconds": 10, "openSeconds": 5}
    told = given(
        "page", replicas=2, rollout=through(TICKET["ticket"]), fallback=FALLBACK, feedback={},
        optimization={"budget": {"maxLMCalls": 100}}, breaker={"minRequests": 1000},  # no restart: the pods stay
    )  # fmt: skip
    failing = given("page-outage", lms=lms, breaker=breaker, fallback=FALLBACK)
    for program in (told, failing):
        program.becomes_ready()
    return told, failing, provider


def test_the_page_shows_what_happens_counts_what_prometheus_counts_and_its_buttons_act(
    programs, kube, site, tokens, browser, processes, tmp_path
):
    told, failing, provider = programs
    prometheus = Prometheus(processes, tmp_path, told)
    tab = Tab(browser, site, tokens["ada"], f"/p/{HERE}/page")
    asked_for = httpx.post(f"{told.url}/execute", json=TICKET, timeout=30)
    label = {"prediction_id": asked_for.headers["despina-prediction-id"], "label": "failure"}
    httpx.post(f"{told.url}/feedback", json=label, timeout=30).raise_for_status()
    with traffic(told, rate=20) as requests, traffic(failing, rate=20) as others:
        # A gate refuses.
        move_alias("page", "2")
        eventually("refused", lambda: (told.quarantined("2") or {}).get("reason") == "SmokeFailed", 60)
        tab.shows("state", "Quarantined")
        tab.shows("t-gates", "Failed")
        # Somebody has it tried again by a gate that asks something else, and promotes it: it is taken back.
        kube.apply(told.document | {"spec": told.document["spec"] | {"rollout": through("Where is my parcel?")}})
        eventually("read", lambda: told.status["observedGeneration"] == 2, 30)
        tab.press("act-retry-2")
        assert kube.json("get", "dspy", "page")["metadata"]["annotations"]["despina.dev/retry"] == "2"
        eventually("held up", lambda: told.status["rollout"]["step"] == "AwaitPromotion", 60)
        tab.shows("state", "Held up")
        tab.press(f"act-promote-{told.status['candidate']['revision']}")
        eventually("switched", lambda: "2" in [entry["version"] for entry in told.status["history"]], 60)
        tab.shows("lanes", "Version 2 from")
        eventually("taken back", lambda: told.status["rollout"]["step"] == "RolledBack" and told.is_active("1"), 60)
        tab.shows("lanes", "RolledBack")
        tab.shows("lanes", "WatchFailed")
        # An optimisation runs, once nobody asks for the version that was taken back.
        move_alias("page", "1")
        tab.press("act-optimise-")
        eventually("a run", lambda: (told.status.get("optimization") or {}).get("run"), 90)
        tab.shows("lanes", "Optimisation")
        # A breaker trips.
        beside = Tab(browser, site, tokens["ada"], "/")
        provider.misbehave(status=500)
        try:
            eventually("open", lambda: failing.condition("BreakerClosed").get("status") == "False", 30)
            beside.shows("needs", "page-outage")
            beside.page.wait_for_selector(f'[data-key="{HERE}/page-outage"] >> text=/Breaker (half )?open/')
        finally:
            provider.misbehave()
        requests.goes_on(40)
    failed = requests.report("gate, switch, rollback and optimisation, seen on the page", allowed={"1", "2"})
    failed += others.report("provider down, seen on the page", allowed={"1"})
    assert not failed, failed[:5]
    same = both_count_the_same(prometheus, tab, len(requests.records) + 1)
    assert int(same["requests"]) > 300
    assert same["modules"]
    assert same["feedback"] == {"v1 failure": "1"}


def test_who_may_only_look_has_no_button_and_others_programs_are_not_there(given, kube, site, tokens, browser):
    here, hidden = given("page-seen", suspend=True), Given(Kube(ELSEWHERE), manifest("page-hidden", suspend=True))
    people = {name: {"authorization": f"Bearer {token}"} for name, token in tokens.items()}
    with httpx.Client(base_url=site, verify=False, timeout=30) as client:  # noqa: S501 - made at each start

        def answers(who: str, path: str) -> int:
            return client.get(path, headers=people[who]).status_code

        try:
            eventually("seen", lambda: answers("ada", f"/p/{HERE}/page-seen") == 200, SOON)
            eventually("seen there", lambda: answers("eve", f"/p/{ELSEWHERE}/page-hidden") == 200, SOON)
            assert answers("ada", f"/p/{ELSEWHERE}/page-hidden") == answers("eve", f"/p/{HERE}/page-seen") == 404
            assert "page-hidden" not in client.get("/", headers=people["ada"]).text
            act = f"/p/{HERE}/page-seen/act", {"act": "restart", "subject": ""}
            assert client.post(act[0], data=act[1], headers=people["bob"]).status_code == 403
            assert client.post(act[0], data=act[1], headers=people["eve"]).status_code == 404
            assert client.post(act[0], data=act[1]).status_code == 401
            assert not asked(kube, here)
            tab = Tab(browser, site, tokens["bob"], f"/p/{HERE}/page-seen")
            assert tab.page.locator("form[action$=act]").count() == 0
            assert client.post(act[0], data=act[1], headers=people["ada"]).status_code == 303
            eventually("asked for", lambda: asked(kube, here), SOON)
        finally:
            hidden.delete()


def asked(kube: Kube, program: Given) -> str:
    """The restart that somebody asked for."""
    found = kube.json("get", "dspy", program.name)["metadata"].get("annotations") or {}
    return str(found.get("despina.dev/restart", ""))
