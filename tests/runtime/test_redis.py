"""A real Redis beside real workers: shared answers, one call among all, and what happens when Redis is not well."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time

import httpx
import pytest

from despina.wire import CacheConfig, LimitsConfig, ModelRef, RedisConfig, RuntimeConfig
from despina_runtime.cache.failures import take
from despina_runtime.cache.redis import GROWTH, RedisTier
from despina_runtime.cache.store import Found, Store
from despina_runtime.pipeline.cached import Cache
from despina_runtime.pipeline.call import Answer, Call
from services import free_port
from tests.support.pods import fresh
from tests.support.world import REPORTS, eventually

REDIS = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(not REDIS, reason="redis-server is not installed; `make test` installs it")


class Redis:
    """One server on loopback, without persistence."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self, *options: str) -> None:
        command = [REDIS, f"--port {self.port}", "--bind 127.0.0.1", "--save ''", "--appendonly no", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually("redis", lambda: self.cli("ping") == "PONG", 10)

    def cli(self, *args: str) -> str:
        command = ["redis-cli", "-p", str(self.port), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis():
    server = Redis()
    yield server
    server.stop()


@pytest.fixture
def shared(pod, version, redis, tmp_path):
    """A pod with two workers and Redis."""
    url = tmp_path / "redis-url"
    url.write_text(f"redis://127.0.0.1:{redis.port}/0\n")
    cache = CacheConfig(scope="Both", redis=RedisConfig(url_file=str(url), ttl_seconds=600))

    def start(**changes):
        running = pod(version, **{"workers": 2, "cache": cache, "max_concurrency": 256, **changes})
        eventually("ready", running.is_ready, 90)
        return running

    return start


def ask(pod, body) -> httpx.Response:
    """On a new connection, so that either worker may get it."""
    return httpx.post(f"{pod.url}/execute", json=body, timeout=30)


async def burst(pod, bodies) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(bodies), max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:
        return await asyncio.gather(*(client.post(f"{pod.url}/execute", json=b) for b in bodies))


def test_a_hundred_equal_questions_to_two_workers_are_one_call(shared, lm):
    running = shared()
    lm.misbehave(delay_seconds=0.5)
    body, before = fresh(), lm.calls
    answers = asyncio.run(burst(running, [body] * 100))
    assert [a.status_code for a in answers] == [200] * 100
    assert lm.calls == before + 1
    assert {a.text for a in answers} == {'{"category":"billing"}'}


def test_two_replicas_make_one_call(shared, lm):
    pods = [shared(workers=1, home=name) for name in ("one", "two")]
    lm.misbehave(delay_seconds=0.5)
    body, before = fresh(), lm.calls

    async def scene() -> list[list[httpx.Response]]:
        return await asyncio.gather(*(burst(pod, [body] * 50) for pod in pods))

    answers = [a for found in asyncio.run(scene()) for a in found]
    assert {a.status_code for a in answers} == {200}
    assert lm.calls == before + 1


def test_a_waiter_takes_over_when_the_leader_dies(shared, lm):
    leader, waiter = (shared(workers=1, home=name) for name in ("leader", "waiter"))
    lm.misbehave(delay_seconds=20)
    body, before = fresh(), lm.calls

    async def scene() -> list[httpx.Response]:
        first = asyncio.create_task(burst(leader, [body]))
        await asyncio.to_thread(eventually, "the call", lambda: lm.calls > before, 10)
        waiting = asyncio.create_task(burst(waiter, [body] * 20))
        await asyncio.to_thread(eventually, "they wait", lambda: waiter.metric("despina_in_flight_requests") == 20, 10)
        lm.misbehave()
        os.kill(leader.workers()[0], signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await first
        return await waiting

    answers = asyncio.run(scene())
    assert {a.status_code for a in answers} == {200}
    assert lm.calls == before + 2


def test_all_workers_forget_within_a_second(shared, lm):
    running = shared()
    body = fresh()
    for _ in range(20):
        ask(running, body)
    assert running.order("Invalidate", subject="now") == 200
    before = lm.calls
    for _ in range(20):
        ask(running, body)
    assert lm.calls == before + 1


def test_a_replica_follows_another_ones_invalidation(shared, redis, lm):
    running = shared()
    body = fresh()
    for _ in range(10):
        ask(running, body)
    prefix = f"despina:{running.config.namespace}:{running.config.program}"
    redis.cli("hset", f"{prefix}:epochs", "program", "abc:elsewhere")
    began = time.monotonic()
    before = lm.calls
    eventually("asked again", lambda: ask(running, body) and lm.calls > before, 5)
    assert time.monotonic() - began < 3
    redis.cli("flushall")  # Redis forgets; the workers do not
    eventually("told again", lambda: redis.cli("hget", f"{prefix}:epochs", "program") == "abc:elsewhere", 5)


def test_every_worker_sees_a_session(shared):
    running = shared()
    path = f"{running.url}/sessions/me/variables"
    httpx.put(path, json={"temperature": 0.3}).raise_for_status()
    assert all(httpx.get(path).json() == {"temperature": 0.3} for _ in range(20))


def test_the_rate_limit_is_shared_by_all_workers_that_redis_sees(shared):
    running = shared(limits=LimitsConfig(requests_per_second=40, burst=40))
    time.sleep(1.5)  # the workers count each other once a second
    answers = asyncio.run(burst(running, [fresh() for _ in range(120)]))
    served = sum(a.status_code == 200 for a in answers)
    assert {a.status_code for a in answers} == {200, 429}
    assert 15 <= served <= 75  # one worker may have got most of them, and each has a half


@pytest.mark.parametrize("trouble", ["killed", "frozen", "full"])
def test_a_redis_that_is_not_well_fails_no_request(shared, redis, trouble):
    running = shared()
    bodies = [fresh() for _ in range(20)]
    for body in bodies:
        assert ask(running, body).status_code == 200
    statuses: list[int] = []

    def traffic(count: int) -> None:
        statuses.extend(ask(running, bodies[n % 20] if n % 2 else fresh()).status_code for n in range(count))

    if trouble == "killed":
        redis.stop()
    elif trouble == "frozen":
        redis.process.send_signal(signal.SIGSTOP)
    else:
        redis.cli("config", "set", "maxmemory", "1")
    began = time.monotonic()
    traffic(60)
    spent = time.monotonic() - began
    if trouble == "killed":
        redis.start()
    elif trouble == "frozen":
        redis.process.send_signal(signal.SIGCONT)
    else:
        redis.cli("config", "set", "maxmemory", "0")
    traffic(60)
    told = eventually(
        "it is counted", lambda: (found := running.metric("despina_cache_failures_total{")) >= 3 and found, 5
    )
    assert 1 <= running.log.read_text().count("The cache failed") < told, "once a minute and worker"
    failed = sum(s != 200 for s in statuses)
    REPORTS.append(f"redis {trouble}: sent={len(statuses)} failed={failed}")
    assert failed == 0
    assert spent < 30

    def is_shared() -> bool:
        """Whether one worker finds in Redis what the other answered. A new ticket, for an answer that Redis did not get
        stays with its worker."""
        body = fresh()
        return any("detail=redis" in ask(running, body).headers["cache-status"] for _ in range(10))

    eventually("answers go to Redis again", is_shared, 20)


class Relay:
    """Between a worker and Redis: it holds back what is said while its gate is closed, and keeps it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.gate = asyncio.Event()
        self.turns: list[bytes] = []
        self.gate.set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_) -> None:
        self._server.close()

    async def _serve(self, reader, writer) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._pass(reader, ours, True), self._pass(theirs, writer, False))

    async def _pass(self, reader, writer, is_said: bool) -> None:
        while said := await reader.read(2**20):
            if is_said:
                self.turns.append(said)
            await self.gate.wait()
            writer.write(said)
        writer.close()


PROGRAM = RuntimeConfig(
    namespace="ns", program="p", revision="r", model=ModelRef(name="m", version="1", tracking_uri="http://m"),
    cache=CacheConfig(scope="Both"),
)  # fmt: skip


def tier_at(port: int) -> RedisTier:
    return RedisTier(PROGRAM, RedisConfig(url_file=""), f"redis://127.0.0.1:{port}/0")


async def seen(what: str, check) -> None:
    await asyncio.to_thread(eventually, what, check, 10)


async def test_nobody_waits_while_redis_is_told_ten_answers_at_once(redis, tmp_path):
    async with Relay(redis.port) as relay:
        tier = tier_at(relay.port)
        store = Store(PROGRAM, tmp_path, tier)

        async def then(call: Call) -> Answer:
            call.meter.pending += [(f"{n:032}", b"[]") for n in range(10)]
            relay.gate.clear()
            relay.turns.clear()
            take()
            return Answer(call.body)

        step = Cache(store, "", True, then)
        await step(Call(b"{}", asyncio.get_running_loop().time() + 20))
        assert "redis" not in take(), "an answer that waited for Redis would have waited in vain"
        relay.gate.set()
        await tier.close()
    told = [said.count(b"SET") for said in relay.turns]
    assert max(told) == sum(told) == 11


async def test_a_damaged_entry_of_redis_is_a_miss_and_is_replaced(redis, tmp_path):
    writer = Store(PROGRAM, tmp_path, tier_at(redis.port))
    reader = Store(PROGRAM, tmp_path, tier_at(redis.port))
    key = "0" * 32
    writer.put([(key, b"[1]")])
    await writer.close()
    assert (await reader.get(key)).tier == "redis"
    reader.process.clear()
    redis.cli("setrange", f"despina:ns:p:{key}", "3", "damage")
    assert await reader.get(key) is None
    reader.put([(key, b"[2]")])
    await reader.redis._sent()
    reader.process.clear()
    assert await reader.get(key) == Found(b"[2]", "redis")
    await reader.close()


async def test_what_others_wrote_into_a_shared_redis_is_not_there(redis):
    """Who may write to the Redis, and even knows the name of a key and how entries look, lacks the program's key."""
    redis_config, url = RedisConfig(url_file=""), f"redis://127.0.0.1:{redis.port}/0"
    keys = [b"current"]
    mine = RedisTier(PROGRAM, redis_config, url, lambda: keys)
    forger, before = (RedisTier(PROGRAM, redis_config, url, lambda key=key: [key]) for key in (b"guess", b"previous"))
    plain = RedisTier(PROGRAM, redis_config, url)
    for name, writer in (("forged", forger), ("plain", plain), ("before", before), ("own", mine)):
        await writer.put(name, b"value")
    found = [await mine.get(name) for name in ("forged", "plain", "before", "own")]
    assert found == [None, None, None, b"value"]
    keys.append(b"previous")
    assert await mine.get("before") == b"value", "while the key is replaced"
    redis.cli("rename", "despina:ns:p:own", "despina:ns:p:other")
    assert await mine.get("other") is None, "an entry is kept under its name"
    keys.clear()
    await mine.put("unsealed", b"value")
    mine.keep("unsealed", b"value")
    keys.append(b"current")
    assert (await mine.get("unsealed"), redis.cli("exists", "despina:ns:p:unsealed")) == (None, "0")
    for tier in (mine, forger, before, plain):
        await tier.close()


async def test_a_leader_that_lost_its_lease_does_not_renew_another_ones(redis):
    tier, leads, go = tier_at(redis.port), asyncio.Event(), asyncio.Event()
    lease = "despina:ns:p:flight:k"

    async def nothing() -> None:
        return None

    async def work() -> str:
        leads.set()
        await go.wait()
        return "done"

    leading = asyncio.create_task(tier.once("k", nothing, work, float("inf")))
    await leads.wait()
    redis.cli("set", lease, "another", "px", "1500")
    await seen("the other's lease ends", lambda: redis.cli("exists", lease) == "0")
    redis.cli("set", lease, "another")
    go.set()
    assert await leading == "done"
    await tier.close()
    assert redis.cli("get", lease) == "another"


async def test_a_lease_that_somebody_else_holds_for_ever_is_waited_for_within_half_the_deadline(redis, tmp_path):
    store = Store(PROGRAM, tmp_path, tier_at(redis.port))
    key = store.keys.of_answer("", None, None, b"{}")
    redis.cli("set", f"despina:ns:p:flight:{key}", "theirs")
    loop = asyncio.get_running_loop()

    async def then(call: Call) -> Answer:
        assert call.deadline - loop.time() > 0.5
        return Answer(b"[]")

    assert (await Cache(store, "", True, then)(Call(b"{}", loop.time() + 2))).body == b"[]"
    await store.close()


async def test_members_that_others_add_lower_a_workers_share_to_a_bound(redis):
    tier = tier_at(redis.port)
    assert await tier.count_members(3) == 1
    redis.cli("zadd", "despina:ns:p:members", *(part for n in range(500) for part in (str(time.time()), str(n))))
    assert await tier.count_members(3) == GROWTH
    await tier.close()


async def test_a_user_who_may_touch_one_programs_keys_is_enough_and_changes_no_others(redis, tmp_path):
    redis.cli("acl", "setuser", "p", "on", ">pw", "~despina:ns:p:*", "&despina:ns:p:*", "+@all", "-@dangerous")
    url = f"redis://p:pw@127.0.0.1:{redis.port}/0"
    mine = RedisTier(PROGRAM, RedisConfig(url_file=""), url)
    store = Store(PROGRAM, tmp_path, mine)

    async def then(call: Call) -> Answer:
        return Answer(call.body)

    step = Cache(store, "", True, then)
    answer = await step(Call(b"{}", asyncio.get_running_loop().time() + 20))
    await store.invalidate("once")
    await store.invalidate(f"key:{answer.key}")
    assert await mine.count_members(3) == 1
    watching = asyncio.create_task(mine.watch(store.follow))
    redis.cli("hset", "despina:ns:p:epochs", "program", "abc:elsewhere")
    await seen("the other's epoch", lambda: store.keys.epoch == "abc:elsewhere")
    watching.cancel()
    assert mine.failures._quiet_until < 0, "nothing failed"
    others = RedisTier(PROGRAM.model_copy(update={"program": "other"}), RedisConfig(url_file=""), url)
    await others.put("k", b"forged")
    assert redis.cli("keys", "despina:ns:other:*") == ""
    await others.close()
    await store.close()
