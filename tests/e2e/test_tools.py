"""Tools on a real cluster: pods that die under traffic, tokens, contracts, MCP."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
import time

import httpx
import pytest
from mcp import Client

from clusterconfig import NODE_IP
from services import free_port
from tests.support.grid import (
    apply_package,
    are_replaced,
    backend_of,
    becomes,
    contract,
    counter,
    evict,
    is_ready,
    kill,
    outside,
    pods_of,
    running,
    sample_pods,
    status_of,
    tool,
    without_network,
)
from tests.support.world import OUT, REPORTS, ROOT, Given, Kube, eventually, log_model, traffic


@pytest.fixture(scope="module", autouse=True)
def package(kube):
    for place in (kube, Kube("elsewhere")):
        apply_package(place, changed_tools=CHANGED)


CHANGED = """
def search(query: str, limit: int = 2) -> list[dict]:
    return []
"""


@pytest.fixture
def tools(kube):
    """Applies tools, and removes them."""
    made: list[tuple[Kube, str]] = []

    def make(document: dict, place: Kube = kube) -> None:
        place.apply(document)
        made.append((place, document["metadata"]["name"]))

    yield make
    for place, name in made:
        place("delete", "dspytool", name, "--ignore-not-found", "--wait=true")


QUICK = {"consecutiveFailures": 3, "openSeconds": 2}


@pytest.mark.alone  # at 50 requests a second through tools, two cores are busy enough
def test_backends_that_die_under_traffic_fail_no_request_of_an_idempotent_tool(given, kube, tools):
    tools(tool("search", sample_pods("one"), sample_pods("two"), breaker=QUICK))
    log_model("tooled", "finding", "champion")
    uses = [{"name": "find", "ref": {"name": "search"}, "policy": "Required"}]
    program: Given = given("finding", tools=uses, replicas=1, lms=[])
    program.becomes_ready()
    becomes(kube, "search", "one", "Healthy")
    becomes(kube, "search", "two", "Healthy")
    assert kube("get", "dspytools", "search").split()[:4] == ["NAME", "READY", "BACKENDS", "CONTRACT"]
    assert kube("get", "dspyt", "search", "--no-headers").split()[1:4] == ["True", "2/2", "Verified"]
    (used,) = program.status["tools"]
    assert (used["name"], used["state"]) == ("find", "Available")
    assert status_of(kube, "search")["usedBy"] == [f"{kube.namespace}/finding"]
    with traffic(program) as requests:
        (victim,) = pods_of(kube, "search", "one")
        kill(victim["metadata"]["name"])
        eventually("it is noticed", lambda: backend_of(kube, "search", "one").get("readyReplicas") == 0, 30)
        becomes(kube, "search", "one", "Healthy")
        (victim,) = pods_of(kube, "search", "two")
        evict(kube, victim["metadata"]["name"])
        eventually("a successor", lambda: _has_successor(kube, "search", "two", victim), 60)
        (victim,) = pods_of(kube, "search", "one")
        with without_network(victim):
            eventually("it is noticed", lambda: backend_of(kube, "search", "one").get("readyReplicas") == 0, 60)
        becomes(kube, "search", "one", "Healthy", 120)
        before = running(kube, "despina.dev/tool=search")
        kube.apply(
            tool(
                "search",
                sample_pods("one"),
                sample_pods("two"),
                breaker=QUICK,
                contract=contract("search", description="Find."),
            )
        )
        eventually("both are replaced", lambda: are_replaced(kube, "despina.dev/tool=search", before), 120)
    assert not requests.report("tool backends killed, evicted, cut off and rolled", allowed={"1"})


def _has_successor(kube: Kube, name: str, backend: str, victim: dict) -> bool:
    """Whether another pod stands ready in the place of one that was evicted."""
    others = [p for p in pods_of(kube, name, backend) if p["metadata"]["uid"] != victim["metadata"]["uid"]]
    return any(map(is_ready, others))


def test_a_tool_that_is_not_idempotent_is_executed_at_most_once_a_call(given, kube, tools):
    with counter() as (url, executed):
        env = {"SAMPLE_TOOLS_COUNTER": url}
        once = contract("book", idempotency="NonIdempotent")
        tools(tool("book", sample_pods("one", env), sample_pods("two", env), contract=once, breaker=QUICK))
        log_model("booking", "booking", "champion")
        program: Given = given("booking", tools=[{"name": "book", "ref": {"name": "book"}}], replicas=1, lms=[])
        program.becomes_ready()
        becomes(kube, "book", "one", "Healthy")
        becomes(kube, "book", "two", "Healthy")
        with numbered_traffic(program.url) as answers:
            (victim,) = pods_of(kube, "book", "one")
            kill(victim["metadata"]["name"])
            becomes(kube, "book", "one", "Healthy")
            (victim,) = pods_of(kube, "book", "two")
            evict(kube, victim["metadata"]["name"])
            eventually("a successor", lambda: _has_successor(kube, "book", "two", victim), 60)
            eventually("more calls", lambda: len(answers) > 400, 60)
    failed = [a for a in answers if a != 200]
    REPORTS.append(
        f"a tool executed at most once: calls={len(answers)} executions={len(executed)} failed={len(failed)}"
    )
    assert len(set(executed)) == len(executed)
    assert len(answers) - len(failed) <= len(executed) <= len(answers)


class numbered_traffic:  # noqa: N801 - used as a statement
    """40 requests a second, each with a number of its own; gives the answers' statuses."""

    def __init__(self, url: str) -> None:
        self._url, self._answers, self._stop = url, [], threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(8)]

    def _run(self, caller: int) -> None:
        with httpx.Client(timeout=30) as client:
            for n in range(10**6):
                if self._stop.wait(0.2):
                    return
                self._answers.append(client.post(f"{self._url}/execute", json={"ticket": f"{caller}-{n}"}).status_code)

    def __enter__(self) -> list[int]:
        for thread in self._threads:
            thread.start()
        return self._answers

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_slow_backend_is_used_less_and_one_that_asks_for_a_pause_gets_it(given, kube, tools):
    with outside() as (one_url, one), outside() as (two_url, two):
        both = ({"name": "one", "url": one_url}, {"name": "two", "url": two_url})
        retried, looked = {"retryOn": ["ConnectError", "Status429"]}, {"periodSeconds": 5, "timeoutSeconds": 2}
        tools(tool("search", *both, routing=retried, health=looked))
        log_model("tooled", "looking", "champion")
        program: Given = given("looking", tools=[{"name": "find", "ref": {"name": "search"}}], replicas=1, lms=[])
        program.becomes_ready()
        becomes(kube, "search", "one", "Healthy")

        def share(calls: int) -> int:
            """How many calls the first one got, while the second one got so many."""
            before = one.calls, two.calls
            eventually("calls", lambda: two.calls - before[1] >= calls, 60)
            return one.calls - before[0]

        with traffic(program) as requests:
            one.seconds = 5.0
            becomes(kube, "search", "one", "Slow")
            slow = share(500)
            assert kube("get", "dspyt", "search", "--no-headers").split()[1:4] == ["True", "2/2", "Verified"]
            one.seconds = 0.0
            becomes(kube, "search", "one", "Healthy")
            eventually("it is used like the other again", lambda: share(50) > 25, 60)
            one.status = 429
            limited = share(300)
            one.status = 200
        REPORTS.append(f"of 500 calls {slow} more went to a backend of 5 s; of 300, {limited} to one of 429")
        assert not requests.report("a backend slowed to 5 s, then one that answers 429", allowed={"1"})
        assert 0 < slow < 100
        assert 0 < limited < 30


def test_a_backend_that_offers_something_else_is_excluded_and_the_field_is_named(kube, tools):
    tools(
        tool(
            "search", sample_pods("good"), sample_pods("changed", package="changed_tools"), health={"periodSeconds": 5}
        )
    )
    becomes(kube, "search", "good", "Healthy")
    found = becomes(kube, "search", "changed", "Excluded")
    assert found["reason"] == "ContractMismatch"
    assert "parameters.limit is not in the contract" in found["message"]
    assert "parameters.top_k is missing at the backend" in found["message"]
    assert kube("get", "dspyt", "search", "--no-headers").split()[1:4] == ["True", "1/2", "Mismatch"]


def test_without_a_role_a_tool_on_aws_says_what_is_missing(kube, tools):
    embed = contract("bedrock-embed", "despina_runtime.tools.aws")
    off = {"name": "AWS_EC2_METADATA_DISABLED", "value": "true"}
    region = {"name": "AWS_REGION", "value": "eu-central-1"}
    template = {"spec": {"containers": [{"name": "tool", "env": [off, region]}]}}
    host = {"toolPackages": ["despina_runtime.tools.aws"], "podTemplate": template}
    tools(tool("keyless", {"name": "aws", "deployment": host}, contract=embed, health={"periodSeconds": 5}))
    eventually("the reason", lambda: backend_of(kube, "keyless", "aws").get("reason") == "CredentialsMissing", 90)
    ready = next(c for c in status_of(kube, "keyless")["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "CredentialsMissing")
    assert "eks.amazonaws.com/role-arn" in ready["message"]


def test_a_program_waits_for_a_tool_that_it_requires_and_not_for_one_that_it_does_not(given, kube, tools):
    log_model("tooled", "waiting", "champion")
    uses = [
        {"name": "find", "ref": {"name": "late"}, "policy": "Required"},
        {"name": "spare", "ref": {"name": "never"}},
    ]
    program: Given = given("waiting", tools=uses, replicas=1, lms=[])
    found = program.becomes("Ready", "False", "ToolNotFound")
    assert "spec.tools[find]" in found["message"]
    assert program.pods() == []
    tools(tool("late", sample_pods(), of="search"))
    program.becomes_ready()
    there = {"find": "Available", "spare": "NotFound"}
    eventually("the tools are known", lambda: {t["name"]: t["state"] for t in program.status["tools"]} == there, 30)
    answer = httpx.post(f"{program.url}/execute", json={"ticket": "pie"}, timeout=20)
    assert answer.json() == {"category": "pie 0"}


def test_only_whom_the_tool_allows_gets_a_token_and_without_one_it_says_401(given, kube, tools):
    everywhere = {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"tools": "yes"}}}}
    elsewhere = Kube("elsewhere")
    kube("label", "namespace", kube.namespace, "tools-", "--overwrite")
    tools(tool("theirs", sample_pods(), of="search", access=everywhere), elsewhere)
    becomes(elsewhere, "theirs", "pods", "Healthy")
    (pod,) = pods_of(elsewhere, "theirs", "pods")
    url = f"http://{pod['status']['podIP']}:8080/tools/search/execute"
    assert httpx.post(url, json={"query": "x"}).status_code == 401
    log_model("tooled", "visiting", "champion")
    uses = [{"name": "find", "ref": {"name": "theirs", "namespace": "elsewhere"}, "policy": "Required"}]
    program: Given = given("visiting", tools=uses, replicas=1, lms=[])
    program.becomes("Ready", "False", "ToolNotAllowed")
    assert "visiting-tools" not in kube("get", "secrets", "-o", "name")
    kube("label", "namespace", kube.namespace, "tools=yes", "--overwrite")
    for one, name in ((elsewhere, "dspytool/theirs"), (kube, "dspyprogram/visiting")):
        one("annotate", name, f"looked={time.time()}", "--overwrite")
    program.becomes_ready()
    eventually(
        "an answer",
        lambda: httpx.post(f"{program.url}/execute", json={"ticket": "x"}, timeout=20).status_code == 200,
        120,
    )
    kube("label", "namespace", kube.namespace, "tools-", "--overwrite")


def test_an_mcp_server_is_a_backend_and_a_hosted_tool_is_an_mcp_server(kube, tools):
    port = free_port()
    script = ROOT / "tests" / "support" / "mcp_example.py"
    source = script.read_text().replace('"127.0.0.1"', repr(NODE_IP))
    example = OUT / "mcp_example.py"
    example.write_text(source)
    with (OUT / "mcp.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, str(example), str(port), "streamable-http"], stdout=log, stderr=log)
    try:
        numbers = {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        }
        adding = {"name": "add", "parameters": numbers, "returns": {"type": "integer"}, "idempotency": "Idempotent"}
        there = {"name": "there", "mcp": {"url": f"http://{NODE_IP}:{port}/mcp"}}
        tools(tool("add", there, contract=adding, health={"periodSeconds": 5}))
        becomes(kube, "add", "there", "Healthy")
    finally:
        process.kill()
        process.wait()
    found = becomes(kube, "add", "there", "Unhealthy")
    assert found["reason"] == "Unreachable"
    tools(tool("spoken", sample_pods(), of="search"))
    becomes(kube, "spoken", "pods", "Healthy")
    (pod,) = pods_of(kube, "spoken", "pods")
    secret = json.loads(kube("get", "secret", "spoken-callers", "-o", "json"))["data"]
    assert set(secret) == {kube.namespace}
    asyncio.run(_speak(f"http://{pod['status']['podIP']}:8080/mcp", kube))


async def _speak(url: str, kube: Kube) -> None:
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    encoded = json.loads(kube("get", "secret", "spoken-callers", "-o", "json"))["data"][kube.namespace]
    headers = {"Authorization": f"Bearer {base64.b64decode(encoded).decode()}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        assert [t.name for t in (await client.list_tools()).tools] == ["search"]
        found = await client.call_tool("search", {"query": "pie", "top_k": 1})
        assert found.structured_content == {"result": [{"text": "pie 0", "score": 1.0}]}
