"""Keys, the tiers of a pod, single flight and replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from despina.wire import CacheConfig, LMConfig, ModelRef, RuntimeConfig
from despina_runtime.cache.flight import Flights
from despina_runtime.cache.keys import Keys, digest
from despina_runtime.cache.store import Store
from despina_runtime.cache.tiers import NodeTier, ProcessTier
from despina_runtime.pipeline.cached import Replay
from despina_runtime.pipeline.call import Answer, Call


def config(**changes) -> RuntimeConfig:
    model = ModelRef(name="m", version="1", tracking_uri="http://m")
    return RuntimeConfig(**{"namespace": "ns", "program": "p", "revision": "r1", "model": model, **changes})


LM = LMConfig(name="main", model="openai/x", base_url="http://a/v1")
MESSAGES = [{"role": "user", "content": "q"}]


def test_a_key_depends_on_all_that_an_answer_does():
    base = Keys(config())
    answer = base.of_answer("", "main", None, {"q": 1})
    others = [
        base.of_answer("mod", "main", None, {"q": 1}),
        base.of_answer("", "cheap", None, {"q": 1}),
        base.of_answer("", "main", 0.5, {"q": 1}),
        base.of_answer("", "main", None, {"q": 2}),
        Keys(config(revision="r2")).of_answer("", "main", None, {"q": 1}),
        Keys(config(program="other")).of_answer("", "main", None, {"q": 1}),
        Keys(config(namespace="other")).of_answer("", "main", None, {"q": 1}),
        Keys(config(), epoch="e").of_answer("", "main", None, {"q": 1}),
        Keys(config(), revision_epoch="e").of_answer("", "main", None, {"q": 1}),
        base.of_lm(LM, MESSAGES, {}),
    ]
    assert len({answer, *others}) == len(others) + 1


def test_an_lm_key_tells_endpoints_apart_and_survives_a_version():
    asked = [
        Keys(config()).of_lm(lm, MESSAGES, params)
        for lm in (LM, LM.model_copy(update={"base_url": "http://b/v1"}), LM.model_copy(update={"api_key_file": "/k"}))
        for params in ({}, {"temperature": 0})
    ]
    assert len(set(asked)) == 6
    assert Keys(config(revision="r2")).of_lm(LM, MESSAGES, {}) == Keys(config()).of_lm(LM, MESSAGES, {})


def test_the_order_of_fields_does_not_matter_and_parts_cannot_run_together():
    keys = Keys(config())
    assert keys.of_answer("", None, None, {"a": 1, "b": 2}) == keys.of_answer("", None, None, {"b": 2, "a": 1})
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_inputs_may_be_anything_that_pydantic_parses():
    class Passage(BaseModel):
        title: str
        at: datetime

    def key(title: str) -> str:
        passage = Passage(title=title, at=datetime(2026, 1, 1, tzinfo=UTC))
        inputs = {
            "passages": [passage],
            "sure": Decimal("0.5"),
            "tags": {"b"},
            "image": dspy.Image(url="http://x/y.png"),
        }
        return Keys(config()).of_answer("", None, None, inputs)

    assert key("a") == key("a") != key("b")


@pytest.fixture
def tiers(tmp_path):
    now = [100.0]
    node = NodeTier(tmp_path / "node", 2**20, 10, clock=lambda: now[0])
    yield now, ProcessTier(4, 10, clock=lambda: now[0]), node
    node.close()


def test_tiers_keep_drop_expire_and_clear(tiers):
    now, *both = tiers
    for tier in both:
        tier.put("a", b"1")
        tier.put("b", b"2")
        assert tier.get("a") == b"1"
        tier.drop("a")
        assert tier.get("a") is None
        now[0] += 11
        assert tier.get("b") is None
        tier.put("b", b"3")
        tier.clear()
        assert tier.get("b") is None


def test_the_process_tier_is_bounded_by_number_and_size(tiers):
    _, process, _ = tiers
    for name in "abcde":
        process.put(name, b"x")
    assert [n for n in "abcde" if process.get(n)] == list("bcde")
    process.put("large", b"x" * 3 * 8192)
    assert process.get("large")
    assert sum(process.get(n) is not None for n in "bcde") == 0
    process.put("too-large", b"x" * 5 * 8192)
    assert process.get("too-large") is None


def test_a_full_node_tier_starts_anew(tiers):
    _, _, node = tiers
    for n in range(400):
        node.put(f"k{n}", b"x" * 8000)
    assert node.get("k399") == b"x" * 8000
    assert node.get("k0") is None
    node.put("huge", b"x" * 2**21)
    assert node.get("huge") is None


def test_a_node_tier_is_filled_over_and_over(tmp_path):
    """Small entries fill a file to its very last page, and a file without a free page cannot be emptied."""
    node = NodeTier(tmp_path, 2**20, 60)
    for n in range(40_000):
        node.put(f"{n:032x}", b"x" * (40 if n % 2 else 300))
    assert node.get(f"{39_999:032x}")
    node.clear()
    node.close()


def test_two_processes_share_a_node_tier(tmp_path):
    import subprocess
    import sys

    mine = NodeTier(tmp_path, 2**20, 60)
    code = (
        "import sys; from pathlib import Path; from despina_runtime.cache.tiers import NodeTier;"
        "NodeTier(Path(sys.argv[1]), 2**20, 60).put('k', b'theirs')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert mine.get("k") == b"theirs"
    mine.close()


async def test_of_equal_questions_one_is_asked():
    flights, asked, go = Flights(), [], asyncio.Event()

    async def work() -> str:
        asked.append(1)
        await go.wait()
        return "answer"

    waiting = [asyncio.create_task(flights.share("k", work)) for _ in range(100)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who came first may leave
    go.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers[1:] == ["answer"] * 99
    assert len(asked) == 1
    assert not flights.is_flying("k")


async def test_a_failure_is_everybodys_and_is_not_kept():
    flights = Flights()

    async def fail() -> str:
        raise ValueError("no")

    answers = await asyncio.gather(*(flights.share("k", fail) for _ in range(3)), return_exceptions=True)
    assert [str(a) for a in answers] == ["no"] * 3

    async def work() -> str:
        return "yes"

    assert await flights.share("k", work) == "yes"


async def test_replay_ends_with_an_invalidation_and_with_the_entrys_time(tmp_path):
    store = Store(config(cache=CacheConfig(scope="Both")), tmp_path, None)
    made: list[bytes] = []

    async def then(call: Call) -> Answer:
        key = store.keys.of_answer("", call.lm, call.temperature, call.body.decode())
        found = await store.get(key)
        if found:
            return Answer(found.value, tier=found.tier, key=key)
        made.append(call.body)
        await store.put([(key, b"%d" % len(made))])
        return Answer(b"%d" % len(made), key=key)

    now = [0.0]
    store.process._clock = lambda: now[0]
    replay = Replay(store, 4, then, clock=lambda: now[0])

    async def ask(body: bytes) -> bytes:
        return (await replay(Call(body, 0.0))).body

    assert [await ask(b"q") for _ in range(4)] == [b"1"] * 4
    await store.invalidate("once")
    assert [await ask(b"q") for _ in range(4)] == [b"2"] * 4
    await store.invalidate("once")  # the same order again
    assert await ask(b"q") == b"2"
    key = store.keys.of_answer("", None, None, "q")
    await store.invalidate(f"key:{key}")
    assert [await ask(b"q") for _ in range(3)] == [b"3"] * 3
    await store.invalidate("revision:other")
    assert await ask(b"q") == b"3"
    await store.invalidate("revision:r1")
    assert [await ask(b"q") for _ in range(3)] == [b"4"] * 3
    now[0] += 4000
    assert await ask(b"q") == b"5"


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60))
def test_replay_never_gives_another_requests_answer(numbers):
    async def run() -> None:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            store = Store(config(cache=CacheConfig(scope="Both")), Path(folder), None)

            async def then(call: Call) -> Answer:
                return Answer(call.body, tier="process", key=call.body.decode())

            for n in numbers:
                store.process.put(str(n), b"%d" % n)
            replay = Replay(store, 5, then)
            for n in numbers:
                assert (await replay(Call(b"%d" % n, 0.0))).body == b"%d" % n

    asyncio.run(run())
