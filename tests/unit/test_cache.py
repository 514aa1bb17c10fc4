"""Keys, the tiers of a pod, single flight and replay."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from despina.wire import CacheConfig, LMConfig, ModelRef, RuntimeConfig
from despina_runtime.cache.flight import Flights
from despina_runtime.cache.keys import Keys, _again, digest, written
from despina_runtime.cache.store import Store
from despina_runtime.cache.tiers import NodeTier, ProcessTier
from despina_runtime.pipeline.cached import Cache, Replay
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.pipeline.validate import Parse
from despina_runtime.problem import Problem
from despina_runtime.program.interface import interface_of


def config(**changes) -> RuntimeConfig:
    model = ModelRef(name="m", version="1", tracking_uri="http://m")
    return RuntimeConfig(**{"namespace": "ns", "program": "p", "revision": "r1", "model": model, **changes})


LM = LMConfig(name="main", model="openai/x", base_url="http://a/v1")
FOREVER = float("inf")
QUESTION = written([[{"role": "user", "content": "q"}], {}])


def test_a_key_depends_on_all_that_an_answer_does():
    base = Keys(config())
    answer = base.of_answer("", "main", None, b'{"q": 1}')
    others = [
        base.of_answer("mod", "main", None, b'{"q": 1}'),
        base.of_answer("", "cheap", None, b'{"q": 1}'),
        base.of_answer("", "main", 0.5, b'{"q": 1}'),
        base.of_answer("", "main", None, b'{"q": 2}'),
        Keys(config(revision="r2")).of_answer("", "main", None, b'{"q": 1}'),
        Keys(config(program="other")).of_answer("", "main", None, b'{"q": 1}'),
        Keys(config(namespace="other")).of_answer("", "main", None, b'{"q": 1}'),
        Keys(config(), epoch="e").of_answer("", "main", None, b'{"q": 1}'),
        Keys(config(), revision_epoch="e").of_answer("", "main", None, b'{"q": 1}'),
        base.of_lm(LM, QUESTION),
    ]
    assert len({answer, *others}) == len(others) + 1


def test_an_lm_key_tells_endpoints_apart_and_survives_a_version():
    asked = [
        Keys(config()).of_lm(lm, question)
        for lm in (LM, LM.model_copy(update={"base_url": "http://b/v1"}), LM.model_copy(update={"api_key_file": "/k"}))
        for question in (QUESTION, QUESTION + b" ")
    ]
    assert len(set(asked)) == 6
    assert Keys(config(revision="r2")).of_lm(LM, QUESTION) == Keys(config()).of_lm(LM, QUESTION)


def test_the_order_of_fields_does_not_matter_and_parts_cannot_run_together():
    keys = Keys(config())
    one, other = (keys.of_answer("", None, None, body) for body in (b'{"a": 1, "b": 2}', b'{"b":2,"a":1}'))
    assert one == other
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_what_a_program_asks_and_an_lm_gives_may_be_anything_that_pydantic_writes():
    class Passage(BaseModel):
        title: str
        at: datetime

    at = datetime(2026, 1, 1, tzinfo=UTC)
    asked = {"b": Passage(title="a", at=at), "a": Decimal("0.5"), 1: dspy.Image(url="http://x/y.png")}
    assert written(asked).startswith(b'{"b":{"title":"a","at":"2026-01-01T00:00:00Z"},"a":"0.5","1":')
    for unwritable in (2**64, {"x": object()}, "\ud800"):
        assert written([unwritable]) is None


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


def test_the_node_tier_goes_on_when_it_is_full_whatever_is_kept_at_once(tiers):
    _, _, node = tiers
    for turn in range(40):
        values = [(f"{turn}/{n}", b"x" * 60_000) for n in range(6)]
        node.put_all(values)
        assert node.get(values[-1][0])
    node.put_all([("large", b"x" * 2**19), ("small", b"y")])
    assert (node.get("large"), node.get("small")) == (None, b"y")


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

    waiting = [asyncio.create_task(flights.share("k", FOREVER, work)) for _ in range(100)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who came first may leave
    go.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers[1:] == [("answer", False)] * 99
    assert len(asked) == 1
    assert not flights._flights


async def test_work_ends_with_the_last_who_waits_for_it_and_who_comes_then_begins_anew():
    flights, ended, go = Flights(), asyncio.Event(), asyncio.Event()

    async def work() -> str:
        try:
            await go.wait()
        except asyncio.CancelledError:
            ended.set()
            await go.wait()  # it takes its time
            raise
        return "answer"

    waiting = [asyncio.create_task(flights.share("k", FOREVER, work)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await asyncio.wait(waiting[:2])
    assert not ended.is_set()
    waiting[2].cancel()
    await ended.wait()
    anew = asyncio.create_task(flights.share("k", FOREVER, work))
    await asyncio.sleep(0)
    go.set()
    assert await anew == ("answer", True)
    assert not flights._flights


def test_a_key_does_not_depend_on_what_was_asked_before():
    cold = [Keys(config(program=name)).of_answer("", "main", 0.0, b"{}") for name in ("p1", "p2")]
    _again.cache_clear()
    minus = [Keys(config(program=name)).of_answer("", "main", -0.0, b"{}") for name in ("p1", "p2")]
    assert cold == minus == [Keys(config(program=n)).of_answer("", "main", 0.0, b"{}") for n in ("p1", "p2")]


async def test_a_failure_is_everybodys_and_is_not_kept():
    flights = Flights()

    async def fail() -> str:
        raise ValueError("no")

    answers = await asyncio.gather(*(flights.share("k", FOREVER, fail) for _ in range(3)), return_exceptions=True)
    assert [str(a) for a in answers] == ["no"] * 3

    async def work() -> str:
        return "yes"

    assert await flights.share("k", FOREVER, work) == ("yes", True)


async def test_replay_ends_with_an_invalidation_and_with_the_entrys_time(tmp_path):
    store = Store(config(cache=CacheConfig(scope="Both")), tmp_path, None)
    made: list[bytes] = []

    async def then(call: Call) -> Answer:
        key = store.keys.of_answer("", call.lm, call.temperature, call.body)
        found = await store.get(key)
        if found:
            return Answer(found.value, tier=found.tier, key=key)
        made.append(call.body)
        store.put([(key, b"%d" % len(made))])
        return Answer(b"%d" % len(made), key=key)

    now = [0.0]
    store.process._clock = lambda: now[0]
    replay = Replay(store, "", then, clock=lambda: now[0])

    async def ask(body: bytes) -> bytes:
        return (await replay(Call(body, 0.0))).body

    assert [await ask(b'"q"') for _ in range(4)] == [b"1"] * 4
    await store.invalidate("once")
    assert [await ask(b'"q"') for _ in range(4)] == [b"2"] * 4
    await store.invalidate("once")  # the same order again
    assert await ask(b'"q"') == b"2"
    key = store.keys.of_answer("", None, None, b'"q"')
    await store.invalidate(f"key:{key}")
    assert [await ask(b'"q"') for _ in range(3)] == [b"3"] * 3
    await store.invalidate("revision:other")
    assert await ask(b'"q"') == b"3"
    await store.invalidate("revision:r1")
    assert [await ask(b'"q"') for _ in range(3)] == [b"4"] * 3
    now[0] += 4000
    assert await ask(b'"q"') == b"5"


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60))
def test_replay_never_gives_another_requests_answer(numbers):
    async def run() -> None:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            store = Store(config(cache=CacheConfig(scope="Both", process_entries=32)), Path(folder), None)

            async def then(call: Call) -> Answer:
                return Answer(call.body, tier="process", key=call.body.decode())

            for n in numbers:
                store.process.put(str(n), b"%d" % n)
            replay = Replay(store, "", then)
            for n in numbers:
                assert (await replay(Call(b"%d" % n, 0.0))).body == b"%d" % n

    asyncio.run(run())


class Level(enum.StrEnum):
    LOW = "low"
    HIGH = "high"


class Asked(dspy.Signature):
    counts: dict[int, str] = dspy.InputField(default={})
    levels: dict[Level, int] = dspy.InputField(default={})
    number: int = dspy.InputField(default=0)
    share: float = dspy.InputField(default=0.0)
    tags: set[str] = dspy.InputField(default=set())
    password: SecretStr = dspy.InputField(default=SecretStr(""))
    answer: str = dspy.OutputField()


INTERFACE = interface_of(dspy.Predict(Asked))


def cached(folder: Path, **changes) -> tuple[Store, Step]:
    """The doors from the body to the cache; what follows tells all that it is given."""
    store = Store(config(cache=CacheConfig(scope="Both", **changes)), folder, None)

    async def then(call: Call) -> Answer:
        told = {name: getattr(value, "_secret_value", value) for name, value in call.inputs.items()}
        return Answer(json.dumps(repr(told)).encode())

    return store, Parse(INTERFACE, Cache(store, "", True, then))


def test_every_input_that_is_valid_is_cached_and_has_an_answer_of_its_own(tmp_path):
    bodies = [
        {"counts": {"1": "x"}},
        {"counts": {"-7": "x"}},
        *({"levels": {level: 1}} for level in Level),
        *({"number": number} for number in (2**63, 2**64, 2**200, 2**200 + 1)),
        *({"share": share} for share in (-0.0, 1e308, 0.5)),
        *({"password": password} for password in ("one", "two")),
        {"tags": ["a", "b"]},
    ]

    async def ask() -> list[Answer]:
        _, step = cached(tmp_path)
        first = [await step(Call(json.dumps(body).encode(), FOREVER)) for body in bodies]
        again = [await step(Call(json.dumps(body, indent=3).encode(), FOREVER)) for body in bodies]
        assert [a.body for a in again] == [a.body for a in first]
        return [*first, *again]

    answers = asyncio.run(ask())
    assert len({a.body for a in answers}) == len(bodies)
    assert [a.tier for a in answers] == [None] * len(bodies) + ["process"] * len(bodies)


ASK = """
import asyncio, sys
from pathlib import Path
from despina_runtime.pipeline.call import Call
from tests.unit.test_cache import FOREVER, cached

async def main():
    store, step = cached(Path(sys.argv[1]), node_bytes=2**20)
    answer = await step(Call(b'{"tags":["a","b","c","d","e","f"]}', FOREVER))
    print(answer.tier, answer.key)
    await store.close()

asyncio.run(main())
"""


def in_another_process(code: str, folder: Path, seed: str = "0") -> str:
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_set_has_one_key_in_all_processes(tmp_path):
    told = [in_another_process(ASK, tmp_path, seed).split() for seed in "123"]
    assert [tier for tier, _ in told] == ["None", "node", "node"]
    assert len({key for _, key in told}) == 1


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from despina_runtime.pipeline.call import Call
from tests.unit.test_cache import FOREVER, cached

async def main():
    store, step = cached(Path(sys.argv[1]), node_bytes=2**22, process_entries=0)
    await step(Call(b'{"number":0}', FOREVER))
    size = max(p.stat().st_size for p in Path(sys.argv[1]).rglob("data.mdb"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    for number in range(1, 50):
        await step(Call(b'{"number":%d,"tags":["%s"]}' % (number, b"x" * 4000), FOREVER))
    print((await step(Call(b'{"number":0}', FOREVER))).tier)

asyncio.run(main())
"""


def test_a_disk_that_is_full_costs_no_answer(tmp_path):
    assert in_another_process(FULL_DISK, tmp_path) == "node"


async def test_a_damaged_entry_is_a_miss_and_is_removed(tmp_path):
    store, step = cached(tmp_path, node_bytes=2**20, process_entries=0)
    first = await step(Call(b"{}", FOREVER))
    assert (await step(Call(b"{}", FOREVER))).tier == "node"
    good = store.node.get(first.key)
    for damaged in (b"", b"{", good[:-1], good[:-1] + b"?", b"null"):
        store.node.put(first.key, damaged)
        assert store.here(first.key) is None
        assert store.node.get(first.key) is None
        assert (await step(Call(b"{}", FOREVER))).body == first.body
    other = await step(Call(b'{"number":1}', FOREVER))
    store.node.put(first.key, store.node.get(other.key))
    assert (await step(Call(b"{}", FOREVER))).body == first.body, "another key's entry"
    await store.close()


async def test_all_replays_of_a_worker_share_what_there_is_for_them(tmp_path):
    first = Store(config(cache=CacheConfig(scope="Both", process_entries=64)), tmp_path, None)

    async def then(call: Call) -> Answer:
        first.process.put("k", b"x")
        return Answer(b"x" * 8000, tier="process", key="k")

    stores = [first.beside(config(revision=f"r{n}")) for n in range(4)]
    replays = [Replay(store, f"{store._revision}/{m}", then) for store in stores for m in range(4)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for replay in replays:
        for n in range(64):
            await replay(Call(b"%4000d" % n, 0.0))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 64 * 8192, "of what the process tier may hold"


async def test_who_waits_along_for_a_whole_answer_has_its_own_deadline(tmp_path):
    store = Store(config(cache=CacheConfig(scope="Both")), tmp_path, None)
    began = asyncio.Event()

    async def then(call: Call) -> Answer:
        if began.is_set():
            return Answer(b"{}")
        began.set()
        await until_over(call.deadline)
        raise Problem(504, "lm-timeout", "The language model took too long")

    step = Cache(store, "", True, then)
    first = asyncio.create_task(step(Call(b"{}", asyncio.get_running_loop().time() + 0.3)))
    await began.wait()
    others = [asyncio.create_task(step(Call(b"{}", FOREVER))) for _ in range(3)]
    with pytest.raises(Problem):
        await first
    answers = await asyncio.gather(*others)
    assert [a.collapsed for a in answers] == [False, True, True]


async def test_whom_no_other_program_may_answer_takes_nobodys_fallback_away(tmp_path):
    store = Store(config(cache=CacheConfig(scope="Both")), tmp_path, None)
    asked = []

    async def then(call: Call) -> Answer:
        asked.append(call)
        await asyncio.sleep(0)
        if call.may_ask_others:
            return Answer(b"{}", degraded="lm-failure")
        raise Problem(502, "lm-failure", "The language model could not be used")

    step, calls = Cache(store, "", True, then), [Call(b"{}", FOREVER) for _ in range(4)]
    for fallback in calls[:2]:
        fallback.may_ask_others = False
    results = await asyncio.gather(*map(step, calls), return_exceptions=True)
    assert [getattr(r, "degraded", None) for r in results] == [None, None, "lm-failure", "lm-failure"]
    assert len(asked) == 2, "each kind has its flight"


async def until_over(deadline: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await asyncio.Event().wait()
