"""What callers get beside a plain answer: caches, single flight, sessions, batches, modules, streams, limits, tokens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid

import httpx
import pytest

from despina.wire import CacheConfig, FallbackConfig, LimitsConfig, Price
from tests.support.pods import fresh, lm_config, pods
from tests.support.world import TICKET, eventually


@pytest.fixture(scope="module")
def full(tmp_path_factory, servers, version):
    """One pod with every feature that needs no other server."""
    folder = tmp_path_factory.mktemp("full")
    token = folder / "token"
    token.write_text("s3cret\n")
    url = servers[2]
    main = lm_config(
        url, retries=1, request_timeout_seconds=5, price=Price(input_per_million_usd="1", output_per_million_usd="2")
    )
    with pods(folder, *servers[1:]) as start:
        running = start(
            version,
            lms=(main, lm_config(url, "cheap"), lm_config(url, "exact", adapter="JSON", structured_output=True)),
            cache=CacheConfig(scope="Both", node_bytes=2**24),
            limits=LimitsConfig(max_request_bytes=4096),
            auth_token_file=str(token),
            max_concurrency=128,
        )
        eventually("ready", running.is_ready, 90)
        yield running


AUTH = {"authorization": "Bearer s3cret"}


def ask(pod, body=None, path="/execute", method="POST", **headers) -> httpx.Response:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return httpx.request(method, pod.url + path, json=body, headers=AUTH | named, timeout=30)


async def at_once(pod, bodies, headers=AUTH) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:
        return await asyncio.gather(*(client.post(f"{pod.url}/execute", json=b, headers=headers) for b in bodies))


def test_headers_tell_where_an_answer_came_from_and_what_it_cost(full):
    body = fresh()
    first, second, other_form = ask(full, body), ask(full, body), httpx.post(
        f"{full.url}/execute", content=json.dumps(body, indent=3), headers=AUTH
    )  # fmt: skip
    assert "fwd=miss; stored" in first.headers["cache-status"]
    assert first.headers["despina-lm-attempts"] == "1"
    tokens = int(first.headers["despina-input-tokens"]), int(first.headers["despina-output-tokens"])
    assert float(first.headers["despina-cost-usd"]) == pytest.approx((tokens[0] + 2 * tokens[1]) / 1e6)
    for again in (second, other_form):
        assert "hit; detail=process" in again.headers["cache-status"]
        assert again.json() == first.json()
        assert again.headers["despina-prediction-id"] != first.headers["despina-prediction-id"]
    counted = 'despina_lm_tokens_total{kind="input",lm="main",module="classify"'
    eventually("they are counted", lambda: full.metric(counted) >= tokens[0], 10)


def test_a_hundred_equal_questions_at_once_are_one_call(full, lm):
    lm.misbehave(delay_seconds=0.5)
    body, before = fresh(), lm.calls
    answers = asyncio.run(at_once(full, [body] * 100))
    assert [a.status_code for a in answers] == [200] * 100
    assert lm.calls == before + 1


def test_a_caller_chooses_an_lm_for_one_request_or_for_a_session(full, lm):
    body = fresh()
    ask(full, body)
    before = lm.calls
    assert "miss" in ask(full, body, x_lm="cheap").headers["cache-status"]
    assert "miss" in ask(full, body, x_lm="exact").headers["cache-status"]
    assert lm.calls == before + 2
    unknown = ask(full, body, x_lm="dear")
    assert unknown.status_code == 422
    assert "main, cheap, exact" in unknown.json()["detail"]

    session = uuid.uuid4().hex
    path = f"/sessions/{session}/variables"
    assert ask(full, {"lm": "cheap", "temperature": 0.7}, path, "PUT").json() == {"lm": "cheap", "temperature": 0.7}
    assert ask(full, None, path, "GET").json()["lm"] == "cheap"
    assert "miss" in ask(full, body, x_session_id=session).headers["cache-status"]
    assert "hit" in ask(full, body, x_session_id=session).headers["cache-status"]
    assert "miss" in ask(full, body, x_session_id=session, x_lm="exact").headers["cache-status"]
    assert ask(full, None, path, "DELETE").status_code == 204
    assert ask(full, None, path, "GET").json() == {}
    assert ask(full, {"lm": "dear"}, path, "PUT").status_code == 422
    assert ask(full, {"temperature": 9}, path, "PUT").json()["errors"][0]["field"] == "temperature"
    assert ask(full, body, x_session_id="a b").status_code == 400


def test_a_batch_gives_each_input_its_own_result(full):
    answer = ask(full, {"inputs": [fresh(), {"nothing": 1}, fresh()]}, "/execute/batch")
    assert answer.status_code == 200
    good, bad, also = answer.json()["results"]
    assert good["outputs"]["category"] == also["outputs"]["category"] == "billing"
    assert bad["problem"]["status"] == 422
    for wrong in ({}, {"inputs": []}, {"inputs": [{}] * 257}, [], {"inputs": [{}], "more": 1}):
        assert ask(full, wrong, "/execute/batch").status_code == 422


def test_a_module_can_be_called_by_itself(full):
    assert list(ask(full, None, "/modules", "GET").json()["modules"]) == ["classify"]
    assert "ticket" in ask(full, None, "/modules/classify/schema", "GET").json()["inputs"]["properties"]
    assert ask(full, TICKET, "/modules/classify/execute").json() == {"category": "billing"}
    missing = ask(full, TICKET, "/modules/other/execute")
    assert missing.status_code == 404
    assert "classify" in missing.json()["detail"]


def test_a_better_version_can_be_asked_for_only_where_the_manifest_lets_callers(full):
    for path in ("/optimize", "/modules/classify/optimize", "/modules/other/optimize"):
        refused = ask(full, None, path)
        assert (refused.status_code, refused.json()["type"]) == (404, "urn:despina:problem:requests-disabled")
        assert "spec.optimization.requests: Enabled" in refused.json()["detail"]
    assert not [path for path in ask(full, None, "/openapi.json", "GET").json()["paths"] if "optimize" in path]
    assert full.state().optimize == ()


def events(answer: httpx.Response) -> list[tuple[str, dict]]:
    assert answer.headers["content-type"] == "text/event-stream"
    parts = [dict(line.split(": ", 1) for line in e.split("\n")) for e in answer.text.strip().split("\n\n")]
    return [(p["event"], json.loads(p["data"])) for p in parts]


def test_an_answer_streams_and_ends_with_the_one_that_counts(full):
    body = fresh()
    told = events(ask(full, body, accept="text/event-stream"))
    assert [e for e, _ in told][-2:] == ["result", "done"]
    assert "".join(d["text"] for e, d in told if e == "delta").strip() == "billing"
    assert {d["field"] for e, d in told if e == "delta"} == {"category"}
    assert told[-2][1] == {"category": "billing"}
    assert told[-1][1]["lm_attempts"] == 1
    assert [e for e, _ in events(ask(full, body, accept="text/event-stream"))] == ["result", "done"]  # from the cache
    assert ask(full, {}, accept="text/event-stream").status_code == 422


def test_only_who_has_the_token_may_ask_and_health_needs_none(full, tmp_path):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
        for path in ("/execute", "/schema", "/openapi.json", "/modules/classify/execute"):
            method = "POST" if path.endswith("execute") else "GET"
            refused = httpx.request(method, full.url + path, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
    assert httpx.post(f"{full.url}/modules/nothing/execute").status_code == 401  # nor what modules there are
    assert httpx.get(f"{full.url}/healthz").status_code == 200


def test_a_body_beyond_the_limit_is_refused(full):
    assert ask(full, {"ticket": "x" * 5000}).status_code == 413


def test_cached_answers_are_forgotten_by_order(full, lm):
    body = fresh()
    key = ask(full, body).headers["cache-status"].partition('key="')[2].rstrip('"')
    ask(full, body)
    for subject in (f"key:{key}", "revision:abcd1234", "today"):
        assert "hit" in ask(full, body).headers["cache-status"]
        assert full.order("Invalidate", subject=subject) == 200
        assert "miss" in ask(full, body).headers["cache-status"], subject
    assert full.order("Invalidate", subject="today") == 200  # the same order: nothing to do
    assert "hit" in ask(full, body).headers["cache-status"]


def test_errors_and_unusable_answers_are_not_kept(full, lm):
    body = fresh()
    for fault in ({"status": 500}, {"garble": True}, {"not_json": True}):
        lm.misbehave(**fault)
        assert ask(full, body).status_code == 502, fault
    lm.misbehave()
    assert ask(full, body).json() == {"category": "billing"}


def test_the_node_tier_outlives_a_container_and_serves_all_its_workers(pod, version, lm):
    cache = CacheConfig(scope="Both", process_entries=0, node_bytes=2**24)
    first = pod(version, cache=cache)
    eventually("ready", first.is_ready, 90)
    body = fresh()
    answer = httpx.post(f"{first.url}/execute", json=body)
    assert first.stop() == 0
    second = pod(version, cache=cache, workers=2)
    eventually("ready", second.is_ready, 90)
    before = lm.calls
    answers = [httpx.post(f"{second.url}/execute", json=body) for _ in range(10)]
    assert all("detail=node" in a.headers["cache-status"] for a in answers)
    assert all(a.json() == answer.json() for a in answers)
    assert lm.calls == before


def test_workers_without_redis_agree_on_an_invalidation_as_does_one_that_takes_anothers_place(pod, version, lm):
    cache = CacheConfig(scope="Both", process_entries=0, node_bytes=2**24)
    running = pod(version, cache=cache, workers=2)
    eventually("ready", running.is_ready, 90)
    body = fresh()

    def ask_all() -> int:
        """How many calls it takes to have both workers answer, each asked on new connections."""
        before, workers = lm.calls, set()

        def ask_one() -> bool:
            told = httpx.post(f"{running.url}/execute", json=body).headers["despina-prediction-id"]
            workers.add(told.split("-")[1])
            return len(workers) == 2

        eventually("both", lambda: any(ask_one() for _ in range(40)), 60)
        return lm.calls - before

    assert ask_all() == 1
    assert running.order("Invalidate", subject="once") == 200
    assert ask_all() == 1
    victim = running.workers()[0]
    os.kill(victim, signal.SIGKILL)
    eventually("another one", lambda: victim not in running.workers() and len(running.workers()) == 2, 60)
    eventually("its readiness", lambda: running.log.read_text().count("Serving program") == 3, 60)
    assert ask_all() == 0
    assert running.order("Invalidate", subject="twice") == 200
    assert ask_all() == 1


def test_more_than_the_rate_gets_429_and_more_than_the_queue_503(pod, version, lm):
    limits = LimitsConfig(requests_per_second=1000, burst=30, max_queue=5)
    running = pod(version, limits=limits, max_concurrency=2)
    eventually("ready", running.is_ready, 90)
    lm.misbehave(delay_seconds=1)
    answers = asyncio.run(at_once(running, [fresh() for _ in range(20)], {}))
    statuses = sorted(a.status_code for a in answers)
    assert statuses.count(200) == 7  # two execute, five wait
    assert statuses.count(503) == 13
    refused = next(a for a in answers if a.status_code == 503)
    assert refused.headers["retry-after"]
    assert refused.json()["type"].endswith("overloaded")
    lm.misbehave()
    slow = pod(version, limits=LimitsConfig(requests_per_second=1, burst=3))
    eventually("ready", slow.is_ready, 90)
    answers = asyncio.run(at_once(slow, [fresh() for _ in range(10)], {}))
    limited = [a for a in answers if a.status_code == 429]
    assert len(limited) == 7
    assert all(int(a.headers["retry-after"]) >= 1 for a in limited)


def test_another_program_answers_when_this_one_cannot(pod, version, lm, servers):
    other = pod(version, home="other")
    eventually("ready", other.is_ready, 90)
    dead = lm_config("http://127.0.0.1:9", retries=0)
    running = pod(version, lms=(dead,), fallback=FallbackConfig(url=f"{other.url}/execute"), request_timeout_seconds=8)
    eventually("ready", running.is_ready, 90)
    answer = running.ask()
    assert (answer.status_code, answer.json()) == (200, {"category": "billing"})
    assert answer.headers["despina-degraded"] == "lm-failure"
    # A request that is a fallback itself is not passed on.
    assert running.ask(headers={"despina-fallback": "1"}).status_code == 502
    other.stop()
    assert running.ask().status_code == 502


def test_a_program_with_a_token_shows_it_to_the_one_that_answers_in_its_place(pod, version, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    other = pod(version, home="other", auth_token_file=str(token))
    eventually("ready", other.is_ready, 90)
    dead, fallback = lm_config("http://127.0.0.1:9", retries=0), FallbackConfig(url=f"{other.url}/execute")
    running = pod(version, lms=(dead,), fallback=fallback, auth_token_file=str(token))
    eventually("ready", running.is_ready, 90)
    assert ask(running, fresh()).headers["despina-degraded"] == "lm-failure"
    (tmp_path / "another").write_text("secret of its own")
    strange = pod(version, home="strange", lms=(dead,), fallback=fallback, auth_token_file=str(tmp_path / "another"))
    eventually("ready", strange.is_ready, 90)
    assert strange.ask(fresh(), headers={"authorization": "Bearer secret of its own"}).status_code == 502
    eventually("the log", lambda: "Fallback program did not answer" in strange.log.read_text(), 10)


def test_a_deadline_leads_to_the_fallback_and_a_stream_says_so(pod, version, lm):
    fixed = FallbackConfig(response={"category": "bug"})
    running = pod(version, fallback=fixed, cache=CacheConfig(scope="Both"), request_timeout_seconds=2, lm_timeout=20)
    eventually("ready", running.is_ready, 90)
    lm.misbehave(hang=True)
    answer = running.ask(fresh())
    assert (answer.status_code, answer.json()) == (200, {"category": "bug"})
    assert answer.headers["despina-degraded"] in ("deadline-exceeded", "lm-timeout")
    told = events(running.ask(fresh(), headers={"accept": "text/event-stream"}))
    assert told[0] == ("result", {"category": "bug"})
    assert told[-1][1]["degraded"] in ("deadline-exceeded", "lm-timeout")


def test_a_fixed_fallback_must_fit_the_signature(pod, version):
    running = pod(version, fallback=FallbackConfig(response={"category": "nonsense"}))
    assert running.process.wait(90) == 1
    word = json.loads(running.termination.read_text())
    assert word["reason"] == "FallbackInvalid"
    assert "category" in word["message"]


def test_the_next_lm_of_the_chain_answers(pod, version, lm, servers):
    dead = lm_config("http://127.0.0.1:9", "dead", retries=1)
    running = pod(version, lms=(dead, lm_config(servers[2], "alive")), fallbacks=("alive",))
    eventually("ready", running.is_ready, 90)
    answer = running.ask()
    assert (answer.status_code, answer.json()) == (200, {"category": "billing"})
    assert answer.headers["despina-lm-attempts"] == "3"  # two at the dead one
    assert "despina-degraded" not in answer.headers


def test_one_of_two_workers_dies_and_is_replaced(pod, version):
    running = pod(version, workers=2)
    eventually("ready", running.is_ready, 90)
    victim, other = running.workers()
    os.kill(victim, signal.SIGKILL)
    eventually("one is left", lambda: victim not in running.workers(), 10)
    assert running.is_ready()
    for _ in range(20):
        assert running.ask().status_code == 200
    eventually("two again", lambda: len(running.workers()) == 2, 60)
    assert other in running.workers()
    assert running.stop() == 0


def test_a_pods_only_worker_ends_the_pod(pod, version):
    running = pod(version)
    eventually("ready", running.is_ready, 90)
    os.kill(running.workers()[0], signal.SIGKILL)
    assert running.process.wait(20) == 1


def test_memory_of_each_worker_is_reported(full):
    def reported() -> bool:
        return full.metric("despina_worker_rss_bytes") > 0

    eventually("a figure", reported, 10)
    assert full.metric("despina_worker_rss_bytes") < 200 * 2**20


def test_requests_under_way_when_the_pod_ends_are_answered_by_both_workers(pod, version, lm):
    running = pod(version, workers=2, max_concurrency=64)
    eventually("ready", running.is_ready, 90)
    lm.misbehave(delay_seconds=4)

    async def drain() -> list[httpx.Response]:
        answers, _ = await asyncio.gather(at_once(running, [fresh() for _ in range(32)], {}), asyncio.to_thread(end))
        return answers

    def end() -> None:
        eventually("all", lambda: running.metric("despina_in_flight_requests") == 32, 10)
        running.process.send_signal(signal.SIGTERM)

    answers = asyncio.run(drain())
    assert [a.status_code for a in answers] == [200] * 32
    assert running.process.wait(30) == 0


def test_an_lm_of_another_provider_goes_through_dspys_own_client(pod, version, lm, servers):
    """The same retry loop, breaker, cache and account; the client alone is another."""
    other = lm_config(servers[2], "other", model="deepseek/stand-in", retries=1)
    running = pod(version, lms=(other,), cache=CacheConfig())
    eventually("ready", running.is_ready, 90)
    body = fresh()
    answer = httpx.post(f"{running.url}/execute", json=body, timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"category": "billing"})
    assert int(answer.headers["despina-input-tokens"]) > 0
    before = lm.calls
    assert httpx.post(f"{running.url}/execute", json=body, timeout=30).json() == {"category": "billing"}
    assert lm.calls == before  # the LM call was cached, as `keyScope: LM` says
    lm.misbehave(status=500)
    assert httpx.post(f"{running.url}/execute", json=fresh(), timeout=30).status_code == 502
    assert lm.calls == before + 2
    lm.misbehave()
    stream = httpx.post(f"{running.url}/execute", json=fresh(), headers={"accept": "text/event-stream"}, timeout=30)
    told = events(stream)
    assert "".join(d["text"] for e, d in told if e == "delta").strip() == "billing"
    assert told[-2] == ("result", {"category": "billing"})
