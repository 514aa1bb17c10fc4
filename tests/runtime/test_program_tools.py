"""A served program that calls tools, and a served program as a tool."""

from __future__ import annotations

import httpx
import pytest
from mcp import Client

from despina.wire import CacheConfig, ToolBreakerConfig, ToolsConfig, ToolUse
from services import free_port
from tests.support.hosts import hosts, tool_config
from tests.support.world import ROOT, eventually

FIND = (ToolUse(name="find", tool="ns/search"),)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Writes the file that a pod reads of its tools."""
    path = tmp_path / "tools.json"
    monkeypatch.setenv("DESPINA_TOOLS_FILE", str(path))

    def write(**found) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(ToolsConfig(tools={f"ns/{k}": v for k, v in found.items()}).model_dump_json())
        fresh.rename(path)

    return write


@pytest.mark.parametrize("kind", ["tooled", "tooled-in-threads"])
def test_a_program_calls_a_tool_by_name_and_survives_the_loss_of_a_host(tmp_path, pod, log_model, tools, kind):
    with hosts(tmp_path) as start:
        one, two = start(), start()
        breaker = ToolBreakerConfig(consecutive_failures=5, open_seconds=1, half_open_requests=1)
        tools(search=tool_config("search", one.url, two.url, breaker=breaker))
        running = pod(log_model(kind, kind), kind, tools=FIND)
        eventually("ready", running.is_ready, 90)
        assert one.executed() + two.executed() == [], "a warm-up calls no tool"
        for n in range(10):
            assert running.ask({"ticket": f"t{n}"}).json() == {"category": f"t{n} 0"}
        one.stop()
        for n in range(20):
            assert running.ask({"ticket": f"u{n}"}).status_code == 200
        done = 'despina_tool_calls_total{backend="b1",fate="ok"'
        eventually("they are counted", lambda: running.metric(done) >= 20, 10)
        two.stop()
        problem = running.ask({"ticket": "x"})
        assert (problem.status_code, problem.json()["type"]) == (502, "urn:despina:problem:tool-failure")
        again = start(port=int(one.url.rpartition(":")[2]))
        assert again.url == one.url
        eventually("an answer", lambda: running.ask({"ticket": "y"}).status_code == 200, 60)


def test_a_program_calls_a_tool_in_dspys_threads(tmp_path, pod, log_model, tools):
    with hosts(tmp_path) as start:
        host = start()
        tools(search=tool_config("search", host.url))
        running = pod(log_model("tooled-in-dspys-threads", "in-dspys"), "in-dspys", tools=FIND)
        eventually("ready", running.is_ready, 90)
        assert host.executed() == [], "a warm-up calls no tool"
        assert running.ask({"ticket": "t"}).json() == {"category": "t 0"}


def test_the_tools_may_change_while_the_program_serves(tmp_path, pod, log_model, tools):
    with hosts(tmp_path) as start:
        host = start()
        tools()
        running = pod(log_model("tooled", "changing"), "changing", tools=FIND)
        eventually("ready", running.is_ready, 90)
        assert running.ask({"ticket": "x"}).status_code == 502
        tools(search=tool_config("search", host.url))
        eventually("the tool", lambda: running.ask({"ticket": "x"}).status_code == 200, 20)


def test_a_tool_that_the_manifest_does_not_list_is_unknown(pod, log_model, tools):
    tools()
    running = pod(log_model("tooled", "unlisted"), "unlisted")
    eventually("it gave up", lambda: running.process.poll() is not None, 90)
    assert "spec.tools does not list it" in running.termination.read_text()


def test_without_a_cluster_the_tools_function_itself_is_called(pod, log_model, monkeypatch):
    monkeypatch.setenv("DESPINA_TOOL_PACKAGES", "tests.support.sample_tools")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    running = pod(log_model("tooled", "alone"), "alone", tools=FIND)
    eventually("ready", running.is_ready, 90)
    assert running.ask({"ticket": "pie"}).json() == {"category": "pie 0"}


def test_results_are_cached_where_the_tool_allows_it(tmp_path, pod, log_model, tools):
    with hosts(tmp_path) as start:
        host = start()
        tools(search=tool_config("search", host.url, cache_ttl_seconds=60))
        running = pod(log_model("tooled", "caching"), "caching", tools=FIND, cache=CacheConfig(scope="LM"))
        eventually("ready", running.is_ready, 90)
        for _ in range(5):
            assert running.ask({"ticket": "same"}).json() == {"category": "same 0"}
        assert running.ask({"ticket": "other"}).status_code == 200
        assert host.executed() == ["search same", "search other"]


def test_react_takes_a_tool(tmp_path, pod, log_model, tools, monkeypatch):
    """Its agent is made from the tool's contract; the warm-up goes through it once."""
    tools(search=tool_config("search", f"http://127.0.0.1:{free_port()}"))
    monkeypatch.setenv("DESPINA_TOOL_PACKAGES", "reacting_tools")
    (tmp_path / "reacting_tools.py").write_text("def find(query: str, top_k: int = 2) -> list[str]:\n    return []\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    version = log_model("reacting", "reacting")
    monkeypatch.setenv("DESPINA_TOOL_PACKAGES", "")
    running = pod(version, "reacting", tools=FIND)
    eventually("ready", running.is_ready, 90)
    modules = httpx.get(f"{running.url}/modules").text
    assert "react" in modules


async def test_a_program_is_a_tool_of_the_model_context_protocol(pod, version):
    running = pod(version, auth_token_file=None)
    eventually("ready", running.is_ready, 90)
    async with Client(f"{running.url}/mcp") as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "triage"
        assert tool.input_schema["required"] == ["ticket"]
        found = await client.call_tool("triage", {"ticket": "My card was charged again after I cancelled the plan"})
        assert found.structured_content == {"category": "billing"}
        wrong = await client.call_tool("triage", {"ticket": 7})
        assert wrong.is_error
        assert "ticket" in wrong.content[0].text
