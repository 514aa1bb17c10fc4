"""What must be executed once is executed once: whatever an LM answers, and whoever else asks the program."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

import pytest

from despina.wire import TOOLS_HEADER, CacheConfig, ShadowConfig, ToolsConfig, ToolUse
from tests.runtime.test_engine import at_once, events
from tests.runtime.test_hotswap import of, prepare
from tests.support.hosts import contract_of, hosts, tool_config
from tests.support.pods import fresh, pods
from tests.support.world import eventually

BOOK = (ToolUse(name="book", tool="ns/book"),)
REQUESTS, AT_A_TIME = int(os.environ.get("ONCE_REQUESTS", "300")), 10


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with hosts(tmp_path_factory.mktemp("host")) as start:
        yield start()


@pytest.fixture(scope="module")
def booking(tmp_path_factory, servers, log_model, host):
    """A pod whose program calls a NonIdempotent tool between two questions to its LM, and holds a second revision."""
    folder = tmp_path_factory.mktemp("booking")
    with pytest.MonkeyPatch.context() as patch, pods(folder, *servers[1:]) as start:
        tools = folder / "tools.json"
        book = tool_config("book", host.url, contract=contract_of("book", idempotent=False))
        tools.write_text(ToolsConfig(tools={"ns/book": book}).model_dump_json())
        patch.setenv("DESPINA_TOOLS_FILE", str(tools))
        version = log_model("booking-between", "booking")
        running = start(version, "booking", tools=BOOK, cache=CacheConfig(scope="Both"))
        eventually("ready", running.is_ready, 90)
        assert prepare(running, of(running.config, version)).phase == "Ready"
        yield running


def booked(host, ticket: dict) -> int:
    return host.executed().count(f"book {ticket['ticket']}")


@pytest.mark.parametrize(("times", "status", "calls"), [(2, 200, 3), (3, 502, 3)])
def test_an_unreadable_answer_is_asked_for_again_once_and_what_came_before_is_not_done_again(
    booking, host, lm, times, status, calls
):
    """That of the second predictor is cut within its field; that of the first one can be read as it is."""
    ticket, before = fresh(), lm.calls
    lm.misbehave(cut=True, times=times)
    answer = booking.ask(ticket)
    assert answer.status_code == status, answer.text
    assert (booked(host, ticket), lm.calls - before) == (1, calls)
    assert status == 200 or answer.json()["detail"] == "category: Input should be 'billing' or 'bug'"


def try_out(pod, subject: str, **changes):
    """How a Smoke gate's question went."""
    assert pod.order("Try", subject=subject, **changes) == 200
    return eventually("an answer", lambda: pod.state().tries.get(subject), 20)


def test_a_smoke_gate_executes_it_only_where_it_says_so(booking, host):
    ticket = fresh()
    refused = try_out(booking, "beef0002:ask-1", inputs=ticket)
    assert not refused.ok
    assert "tool book: " in refused.message
    assert "spec.rollout.gates[].smoke.tools is Execute" in refused.message
    assert booked(host, ticket) == 0
    assert try_out(booking, "beef0002:ask-2", inputs=ticket, tools="Execute").ok
    assert booked(host, ticket) == 1


def mirrored(pod, ticket: dict, **changes) -> None:
    """Ask while a Shadow gate is on, until the other revision was asked, too."""
    assert pod.order("Shadow", shadow=ShadowConfig(revision="beef0002", percent=100, **changes)) == 200
    assert pod.ask(ticket).status_code == 200
    eventually("mirrored", lambda: mirrors(pod), 20)
    assert pod.order("Shadow") == 200


def mirrors(pod) -> int:
    shadow = pod.state().shadow
    return shadow.mirrored if shadow else 0


def test_a_shadow_gate_executes_it_only_where_it_says_so(booking, host):
    first, second = fresh(), fresh()
    mirrored(booking, first)
    assert booked(host, first) == 1
    mirrored(booking, second, tools="Execute")
    assert booked(host, second) == 2


def test_a_shadow_gate_asks_pods_of_their_own_to_refuse_it_too(booking, host, pod):
    """As before a blue/green change; nothing of such a request is kept for callers."""
    ticket = fresh()
    there = {"shadow": ShadowConfig(revision="beef0002", percent=100, url=f"{booking.url}/execute")}
    live = pod(booking.config.model.version, "booking", tools=BOOK)
    eventually("ready", live.is_ready, 90)
    assert live.order("Shadow", **there) == 200
    assert live.ask(ticket).status_code == 200
    eventually("mirrored", lambda: mirrors(live), 20)
    assert live.state().shadow.failed == 1
    assert booked(host, ticket) == 1


def test_a_request_may_ask_for_that_itself_and_nothing_of_it_is_kept(booking, host):
    ticket = fresh()
    refused = booking.ask(ticket, headers={TOOLS_HEADER: "Refuse"})
    assert (refused.status_code, booked(host, ticket)) == (403, 0)
    assert "shadow.tools" in refused.json()["detail"]
    assert booking.ask(ticket).status_code == 200
    assert "hit" in booking.ask(ticket).headers["cache-status"]
    assert booking.ask(ticket, headers={TOOLS_HEADER: "Refuse"}).status_code == 200
    assert booked(host, ticket) == 1


def test_no_call_is_executed_twice_among_unreadable_answers_gates_and_shadows(booking, host, lm):
    tickets, chance, before = [fresh() for _ in range(REQUESTS)], random.Random(7), len(host.executed())
    assert booking.order("Shadow", shadow=ShadowConfig(revision="beef0002", percent=100)) == 200
    statuses: Counter[int] = Counter()
    for n in range(0, REQUESTS, AT_A_TIME):
        asked = tickets[n : n + AT_A_TIME]
        lm.misbehave(garble=True, times=chance.randrange(2 * AT_A_TIME))
        assert booking.order("Try", subject=f"beef0002:n-{n}", inputs=asked[0]) == 200
        statuses.update(answer.status_code for answer in asyncio.run(at_once(booking, asked, {})))
    assert booking.order("Shadow") == 200
    executed = Counter(host.executed()[before:])
    print(f"{REQUESTS} calls, {executed.total()} executions, {dict(statuses)}")
    assert set(statuses) == {200, 502}
    assert statuses[200] <= executed.total() <= REQUESTS
    assert max(executed.values()) == 1


def test_the_deltas_of_a_second_try_are_not_sent_after_those_of_the_first(booking, lm):
    """The second predictor's first answer ends within its field; that of the first one can be read as it is."""
    lm.misbehave(cut=True, times=2)
    told = events(booking.ask(fresh(), headers={"accept": "text/event-stream"}))
    assert [event for event, _ in told][-2:] == ["result", "done"]
    assert told[-2][1] == {"category": "billing"}
    assert told[-1][1]["lm_attempts"] == 3
    assert "billing".startswith("".join(d["text"] for e, d in told if e == "delta").strip())
