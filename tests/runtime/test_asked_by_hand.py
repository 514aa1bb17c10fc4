"""A held revision asked by hand over the admin port: by whom, what of, and what does not move for it."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from despina.sources.asking import ByHand, NotAsked, Place
from despina.sources.keys import asking_key
from despina.sources.traces import TraceAsker
from despina.wire import (
    SIGNATURE_HEADER,
    Answered,
    CacheConfig,
    Order,
    OrdersReport,
    ProgramBreakerConfig,
    Prompts,
    Question,
    ToolsConfig,
    ToolUse,
    Trace,
    program_key,
    reading,
)
from tests.runtime.test_hotswap import of
from tests.support.hosts import contract_of, hosts, tool_config
from tests.support.pods import KEY as OPERATORS
from tests.support.pods import Pod, fresh, public_half, signature_of
from tests.support.world import eventually

KEY = program_key("root", "uid", "ns")
ASKING, ANOTHER = (asking_key(root, "uid", "ns") for root in ("root", "another"))
KEYS = {"read_key": KEY, "ask_key": public_half(ASKING)}
SIGNED = {SIGNATURE_HEADER: reading([KEY], "ns", "pod-1")}


class Asker:
    """Somebody with the key, who numbers questions as the pod says."""

    def __init__(self, running: Pod) -> None:
        self.running = running
        self.last = OrdersReport()

    def question(self, inputs, revision: str = "abcd1234", **changes) -> bytes:
        text = inputs if isinstance(inputs, str) else json.dumps(inputs)
        base = {"namespace": "ns", "pod": "pod-1", "boot": self.last.boot, "number": self.last.number + 1}
        return Question(**base | {"revision": revision, "inputs": text} | changes).model_dump_json().encode()

    def send(self, body: bytes, signature: str | None = None) -> httpx.Response:
        headers = {SIGNATURE_HEADER: signature_of(ASKING, body) if signature is None else signature}
        return httpx.post(f"{self.running.admin}/ask", content=body, headers=headers, timeout=40)

    def ask(self, inputs, revision: str = "abcd1234") -> Answered:
        answer = self.send(self.question(inputs, revision))
        if answer.status_code == 409:
            self.last = OrdersReport.model_validate_json(answer.content)
            answer = self.send(self.question(inputs, revision))
        assert answer.status_code == 200, answer.text
        self.last = OrdersReport(boot=self.last.boot, number=self.last.number + 1)
        return Answered.model_validate_json(answer.content)


def state(running: Pod):
    return httpx.get(f"{running.admin}/state", headers=SIGNED).json()


def prepare(running: Pod, version: str) -> str:
    """A candidate is held beside what serves."""
    target = of(running.config, version, "beef0002")
    last = OrdersReport.model_validate(state(running)["orders"])
    body, headers = running_signed(running, last, config=target)
    assert running.give(body, headers) == 200
    eventually("held", lambda: state(running)["held"].get("beef0002", {}).get("phase") == "Ready", 60)
    return "beef0002"


def running_signed(running: Pod, last: OrdersReport, **changes):
    base = {"order": "Prepare", "namespace": "ns", "pod": "pod-1", "boot": last.boot, "number": last.number + 1}
    body = Order.model_validate(base | changes).model_dump_json().encode()
    return body, {SIGNATURE_HEADER: signature_of(OPERATORS, body)}


@pytest.fixture
def running(pod, version):
    cache = CacheConfig(scope="Both", process_entries=10)
    breaker = ProgramBreakerConfig(consecutive_failures=1)
    started = pod(version, cache=cache, breaker=breaker, **KEYS)
    eventually("ready", started.is_ready, 90)
    return started


def test_any_held_revision_answers_and_nothing_that_decides_moves(running, log_model, lm):
    asker = Asker(running)
    candidate = prepare(running, log_model("good", "serving"))
    body = fresh()
    before = state(running)
    first = asker.ask(body)
    assert (first.status, first.version) == (200, running.config.model.version)
    assert set(json.loads(first.said)) == {"category"}
    assert first.input_tokens > 0
    assert first.lm_attempts == 1
    calls = lm.calls
    again, other = asker.ask(body), asker.ask(body, candidate)
    assert lm.calls == calls + 2, "no cache answers, neither the program's nor an LM's"
    assert again.said == first.said
    assert (other.status, other.version != first.version) == (200, True)
    wrong = asker.ask({"tickett": "x"})
    assert wrong.status == 422
    assert {error["field"] for error in json.loads(wrong.said)["errors"]} == {"ticket", "tickett"}
    lm.misbehave(status=500)
    failed = asker.ask(fresh(), candidate), asker.ask(fresh()), asker.ask(fresh())
    assert {one.status for one in failed} == {502}
    lm.misbehave()
    after = state(running)
    assert {name: after[name] for name in ("counts", "breakers", "held")} == {
        name: before[name] for name in ("counts", "breakers", "held")
    }
    assert running.metric("despina_requests_total") == 0
    assert running.ask(body).status_code == 200


def test_its_trace_is_kept_whatever_came_of_it(running, lm):
    asker = Asker(running)
    good = asker.ask(fresh())
    lm.misbehave(status=500)
    bad = asker.ask(fresh())

    def kept(name: str) -> Trace | None:
        answer = httpx.get(f"{running.admin}/traces/{name}", headers=SIGNED)
        return Trace.model_validate_json(answer.content) if answer.status_code == 200 else None

    found = [eventually("kept", lambda one=one: kept(one.id), 10) for one in (good, bad)]
    assert [(one.why, one.status) for one in found] == [("asked", 200), ("error", 502)]


def test_who_captured_a_header_or_a_question_asks_nothing(running):
    asker, before = Asker(running), state(running)["counts"]
    asker.ask(fresh())
    body = asker.question(fresh())
    refused = {
        "unsigned": (body, ""),
        "what signs a read": (body, SIGNED[SIGNATURE_HEADER]),
        "another key": (body, signature_of(ANOTHER, body)),
        "another question's": (body, signature_of(ASKING, asker.question(fresh()))),
    }
    assert {why: asker.send(*sent).status_code for why, sent in refused.items()} == dict.fromkeys(refused, 403)
    assert asker.send(asker.question(fresh(), pod="pod-2")).status_code == 421
    assert asker.send(asker.question(fresh(), boot="another")).status_code == 409
    assert asker.send(body).status_code == 200
    assert asker.send(body).status_code == 409, "the same once more"
    assert asker.send(b"{}").status_code == 400
    assert asker.send(asker.question("x" * 2**20)).status_code == 413
    asker.last = OrdersReport(boot=asker.last.boot, number=asker.last.number + 1)
    assert asker.send(asker.question({}, "never-held")).status_code == 504
    assert state(running)["counts"] == before


def test_no_tool_is_executed_that_must_not_be_executed_twice(tmp_path, pod, log_model, monkeypatch):
    tools = tmp_path / "tools.json"
    monkeypatch.setenv("DESPINA_TOOLS_FILE", str(tools))
    with hosts(tmp_path) as start:
        host = start()
        book = tool_config("book", host.url, contract=contract_of("book", idempotent=False))
        tools.write_text(ToolsConfig(tools={"ns/book": book}).model_dump_json())
        name = "asked-booking"
        running = pod(log_model("booking", name), name, tools=(ToolUse(name="book", tool="ns/book"),), **KEYS)
        eventually("ready", running.is_ready, 90)
        answer = Asker(running).ask({"ticket": "t"})
        assert answer.status == 403
        assert "question by hand" in answer.said
        assert list(host.executed()) == []


async def test_the_page_asks_a_pod_and_hears_of_it_all(running):
    place = Place("uid", "ns", "pod-1", "127.0.0.1")
    async with (
        ByHand(lambda: ["root", "before"], running.admin_port) as hand,
        ByHand(lambda: ["no"], running.admin_port) as other,
        TraceAsker(lambda: ["root"], running.admin_port) as tracer,
    ):
        assert "abcd1234" in (await hand.state(place)).held
        assert b"ticket" in await hand.interface(place, "abcd1234")
        assert b"classify" in await hand.prompts(place, "abcd1234")
        answered = [await hand.ask(place, "abcd1234", json.dumps(fresh()), 30) for _ in range(3)]
        assert [one.status for one in answered] == [200, 200, 200]
        held = None
        async with asyncio.timeout(10):
            while held is None:
                held = await tracer.one(*place, answered[0].id)
        assert held.id == answered[0].id
        with pytest.raises(NotAsked):
            await other.ask(place, "abcd1234", "{}", 5)
        with pytest.raises(NotAsked):
            await hand.ask(place._replace(pod="pod-2"), "abcd1234", "{}", 5)
        assert await other.state(place) is None


def test_what_prompts_are_made_of_is_told_to_who_may_read(running):
    url = f"{running.admin}/prompts/abcd1234"
    assert httpx.get(url).status_code == 403
    (told,) = Prompts.model_validate_json(httpx.get(url, headers=SIGNED).content).modules
    assert (told.path, told.lm) == ("classify", "main")
    assert told.demo_count == len(told.demos) > 0
    assert "ticket" in json.loads(told.demos[0])
    assert told.instructions
    assert httpx.get(f"{running.admin}/prompts/never-held", headers=SIGNED).status_code == 404
