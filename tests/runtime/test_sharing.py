"""What callers share (LM calls, results of tools, entries of the cache), and what each has for himself."""

from __future__ import annotations

import asyncio
import os
import re

import httpx
import pytest
from dspy.utils.exceptions import LMTimeoutError

from despina.wire import CacheConfig, ModelRef, RuntimeConfig, ToolsConfig, ToolUse
from despina_runtime.cache.keys import written
from despina_runtime.cache.store import Store
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.target import Target
from tests.support.hosts import hosts, tool_config
from tests.support.pods import fresh, lm_config
from tests.support.world import eventually


class Asking:
    """One LM behind its cache, as the programs of one worker ask it."""

    def __init__(self, lm_url: str, folder, single_flight: bool = True) -> None:
        model = ModelRef(name="m", version="1", tracking_uri="http://m")
        cache = CacheConfig(single_flight=single_flight)
        config = RuntimeConfig(namespace="ns", program="p", revision="r", model=model, cache=cache)
        self.store = Store(config, folder, None)
        self.target = Target(lm_config(lm_url, retries=1, request_timeout_seconds=20), self.store, 20)

    async def ask(self, messages, seconds: float = 20, params=None, emit=None) -> list:
        meter = Meter(asyncio.get_running_loop().time() + seconds)
        outputs = await self.target.answer(messages, params or {}, meter, "", meter.deadline, emit)
        self.kept = meter.pending
        self.store.put(self.kept)
        return outputs


@pytest.fixture
async def asking(servers, tmp_path):
    made = []

    def make(**options) -> Asking:
        made.append(Asking(servers[2], tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        await one.target.close()
        await one.store.close()


def chat() -> list[dict]:
    return [{"role": "user", "content": fresh()["ticket"]}]


async def until(what: str, check) -> None:
    await asyncio.to_thread(eventually, what, check, 10)


async def test_each_of_those_who_share_an_lm_call_has_an_answer_of_his_own(asking, lm):
    one, messages, before = asking(), chat(), lm.calls
    lm.misbehave(delay_seconds=0.5)
    first, second = await asyncio.gather(one.ask(messages), one.ask(messages))
    first.append("a secret")
    third = await one.ask(messages)
    third.append("another secret")
    assert [len(answer) for answer in (first, second, third, await one.ask(messages))] == [2, 1, 2, 1]
    assert lm.calls == before + 1


async def test_what_a_program_adds_to_its_messages_is_not_sent_under_the_key_of_the_first_ones(asking, lm):
    one, messages, before = asking(), chat(), lm.calls
    distinct = lm.distinct
    lm.misbehave(status=503, retry_after=2, times=1)
    waiting = asyncio.create_task(one.ask(messages))
    await until("the first attempt", lambda: lm.calls > before)
    messages[0]["content"] += " and a secret"
    await waiting
    assert lm.calls == before + 2
    assert lm.distinct == distinct + 1


async def hanging(one, messages, lm, seconds: float) -> asyncio.Task:
    """A question that the LM has and does not answer."""
    before = lm.calls
    lm.misbehave(hang=True, times=1)
    asked = asyncio.create_task(one.ask(messages, seconds=seconds))
    await until("the call", lambda: lm.calls > before)
    return asked


async def test_who_waits_along_does_not_die_of_the_first_ones_deadline(asking, lm):
    one, messages, before = asking(), chat(), lm.calls
    first = await hanging(one, messages, lm, seconds=3)
    others = [asyncio.create_task(one.ask(messages)) for _ in range(5)]
    with pytest.raises(LMTimeoutError):
        await first
    assert [len(answer) for answer in await asyncio.gather(*others)] == [1] * 5
    assert lm.calls == before + 2


async def test_who_begins_anew_finds_what_another_worker_was_told_meanwhile(asking, lm):
    one, another, messages, before = asking(), asking(), chat(), lm.calls
    first = await hanging(one, messages, lm, seconds=3)
    second = asyncio.create_task(one.ask(messages))
    await another.ask(messages)
    one.store.put(another.kept)  # as the pod's disk has it for all
    with pytest.raises(LMTimeoutError):
        await first
    assert len(await second) == 1
    assert lm.calls == before + 2


async def test_who_waits_along_waits_no_longer_than_it_may(asking, lm):
    one, messages = asking(), chat()
    first = await hanging(one, messages, lm, seconds=15)
    with pytest.raises(LMTimeoutError):
        await one.ask(messages, seconds=0.2)
    assert not first.done()
    first.cancel()


async def test_without_single_flight_each_asks_for_himself(asking, lm):
    one, messages, before = asking(single_flight=False), chat(), lm.calls
    lm.misbehave(delay_seconds=0.5)
    await asyncio.gather(*(one.ask(messages) for _ in range(10)))
    assert lm.calls == before + 10


@pytest.mark.parametrize("params", [{}, {"n": 3}, {"logprobs": True}, {"reasoning_effort": "low"}], ids=str)
async def test_an_answer_that_was_streamed_is_kept_as_the_one_that_came_whole(asking, lm, params):
    one, messages, told = asking(), chat(), Told()
    whole = await one.ask(messages, params=params | {"seed": 1})
    streamed = await one.ask(messages, params=params | {"seed": 2}, emit=told)
    before = lm.calls
    kept = await one.ask(messages, params=params | {"seed": 2})
    assert written(whole) == written(streamed) == written(kept)
    assert len(whole) == params.get("n", 1)
    assert told.text == (whole[0]["text"] if isinstance(whole[0], dict) else whole[0])
    assert lm.calls == before


class Told:
    """What is passed on of a stream."""

    started = False
    text = ""

    async def __call__(self, text: str) -> None:
        self.text += text


CALLERS, TURNS = 64, int(os.environ.get("SHARING_TURNS", "10"))


def test_no_secret_of_one_caller_is_in_the_answer_of_another(tmp_path, pod, log_model, monkeypatch):
    """All ask the same of LM and tool, and add their secret to all that they are given."""
    tools = tmp_path / "tools.json"
    monkeypatch.setenv("DESPINA_TOOLS_FILE", str(tools))
    with hosts(tmp_path) as start:
        search = tool_config("search", start().url, cache_ttl_seconds=60)
        tools.write_text(ToolsConfig(tools={"ns/search": search}).model_dump_json())
        cache = CacheConfig(scope="Both", node_bytes=2**24)
        running = pod(
            log_model("meddling", "meddling"),
            "meddling",
            tools=(ToolUse(name="find", tool="ns/search"),),
            cache=cache,
            max_concurrency=CALLERS,
        )
        eventually("ready", running.is_ready, 90)
        answers = asyncio.run(everybody(running))
    assert [a.status_code for a in answers.values()] == [200] * CALLERS * TURNS
    for secret, answer in answers.items():
        assert set(re.findall(r"secret-\d+-\d+", answer.text)) == {secret}


async def everybody(running) -> dict[str, httpx.Response]:
    """Each question is asked by all at once, and by all once more."""
    limits = httpx.Limits(max_connections=CALLERS)
    answers = {}
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:
        for turn in range(TURNS):
            bodies = {f"secret-{n}-{turn}": f"question {turn // 2}" for n in range(CALLERS)}
            asked = [
                client.post(f"{running.url}/execute", json={"question": q, "secret": s}) for s, q in bodies.items()
            ]
            answers |= zip(bodies, await asyncio.gather(*asked), strict=True)
    return answers
