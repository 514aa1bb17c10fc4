"""The tool host as a process: answers, refusals, drain, and MCP through the official SDK's client."""

from __future__ import annotations

import signal
import threading
import time

import httpx
import pytest
from mcp import Client

from despina.wire import HostReport
from tests.support.hosts import contract_of, hosts
from tests.support.world import eventually


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with hosts(tmp_path_factory.mktemp("hosts")) as start:
        yield start()


def test_a_typed_function_is_a_tool(host):
    answer = host.call("search", {"query": "pie", "top_k": 1})
    assert answer.status_code == 200
    assert answer.json() == {"result": [{"text": "pie 0", "score": 1.0}]}
    report = HostReport.model_validate(httpx.get(f"{host.url}/tools").json())
    assert set(report.tools) == {"search", "echo", "book", "boom", "lie", "locked"}
    assert report.tools["search"].parameters["required"] == ["query"]


@pytest.mark.parametrize(
    ("name", "arguments", "status", "kind", "field"),
    [
        ("search", {}, 422, "invalid-input", "query"),
        ("search", {"query": "x", "top_k": 99}, 422, "invalid-input", "top_k"),
        ("search", {"query": "x", "other": 1}, 422, "invalid-input", "other"),
        ("search", [1], 422, "invalid-input", ""),
        ("nothing", {}, 404, "not-found", ""),
        ("locked", {"text": "x"}, 503, "credentials-missing", ""),
    ],
)
def test_what_was_not_executed_says_so(host, name, arguments, status, kind, field):
    answer = host.call(name, arguments)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:despina:problem:{kind}")
    assert answer.headers["despina-executed"] == "no"
    assert not field or answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("name", "said"), [("boom", "RuntimeError: no x"), ("lie", "something else than its annotation")]
)
def test_what_was_executed_and_failed_is_a_500(host, name, said):
    answer = host.call(name, {"text": "x"})
    assert answer.status_code == 500
    assert said in answer.json()["detail"]
    assert "despina-executed" not in answer.headers


def test_the_callers_deadline_counts(host):
    began = time.monotonic()
    answer = host.call("echo", {"text": "x", "seconds": 10}, **{"despina-deadline-seconds": "0.2"})
    assert answer.status_code == 504
    assert time.monotonic() - began < 5


def test_a_token_opens_the_host_and_its_removal_closes_it(tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "ns").write_text("right\n")
    with hosts(tmp_path) as start:
        host = start(tokens_dir=str(folder))
        assert host.call("echo", {"text": "x"}).status_code == 401
        assert host.call("echo", {"text": "x"}, authorization="Bearer wrong").status_code == 401
        assert httpx.get(f"{host.url}/tools").status_code == 401
        assert httpx.post(f"{host.url}/mcp", json={}).status_code == 401
        assert host.call("echo", {"text": "x"}, authorization="Bearer right").status_code == 200
        (folder / "ns").unlink()
        right = {"authorization": "Bearer right"}
        eventually("it is closed", lambda: host.call("echo", {"text": "x"}, **right).status_code == 401, 10)


def test_a_host_whose_tool_differs_from_its_contract_executes_nothing(tmp_path):
    contract = contract_of("search")
    contract = contract.model_copy(update={"parameters": contract.parameters | {"required": ["query", "top_k"]}})
    with hosts(tmp_path) as start:
        host = start(contract=contract)
        answer = host.call("search", {"query": "x"})
        assert answer.status_code == 409
        assert "parameters.top_k is required by the contract only" in answer.json()["detail"]
        assert answer.headers["despina-executed"] == "no"
        assert host.executed() == []


def test_calls_above_the_limit_wait_and_then_go_elsewhere(tmp_path):
    with hosts(tmp_path) as start:
        host = start(max_in_flight=1, queue_timeout_seconds=1)
        first = threading.Thread(target=host.call, args=("echo", {"text": "long", "seconds": 4}))
        first.start()
        eventually("it began", host.executed, 10)
        answer = host.call("echo", {"text": "next"})
        assert (answer.status_code, answer.headers["despina-executed"]) == (503, "no")
        first.join()
        assert host.executed() == ["echo long"]


def test_a_thread_that_took_too_long_keeps_its_place_until_it_ends(tmp_path):
    with hosts(tmp_path) as start:
        env = {"SAMPLE_TOOLS_DELAY": "4"}
        host = start(env=env, max_in_flight=1, queue_timeout_seconds=1, timeout_seconds=1)
        assert host.call("search", {"query": "slow"}).status_code == 504
        answer = host.call("search", {"query": "next"})
        assert (answer.status_code, answer.headers["despina-executed"]) == (503, "no")
        assert host.executed() == ["search slow"]
        eventually("it is free", lambda: host.call("echo", {"text": "x"}).status_code == 200, 20)


def test_a_host_that_is_told_to_end_answers_what_it_has(tmp_path):
    with hosts(tmp_path) as start:
        host = start(drain_seconds=1)
        answers = []
        call = threading.Thread(target=lambda: answers.append(host.call("echo", {"text": "x", "seconds": 2.5})))
        call.start()
        eventually("it began", host.executed, 10)
        host.process.send_signal(signal.SIGTERM)
        call.join()
        assert answers[0].json() == {"result": "x"}
        assert host.process.wait(10) == 0


async def test_an_mcp_client_lists_and_calls_the_tools(host):
    for mode in ("auto", "legacy"):
        async with Client(f"{host.url}/mcp", mode=mode) as client:
            tools = {t.name: t for t in (await client.list_tools()).tools}
            assert tools["search"].input_schema["required"] == ["query"]
            found = await client.call_tool("search", {"query": "pie", "top_k": 1})
            assert found.structured_content == {"result": [{"text": "pie 0", "score": 1.0}]}
            failed = await client.call_tool("search", {"top_k": 1})
            assert failed.is_error
            assert "query" in failed.content[0].text
