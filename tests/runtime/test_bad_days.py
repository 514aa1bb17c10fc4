"""Providers on a bad day, under traffic: what callers see, how often the LM is asked, what the breakers do."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from dspy.utils.exceptions import LMNotConfiguredError, LMTimeoutError

from despina.wire import BreakerConfig, FallbackConfig, LimitsConfig, LMConfig, ProgramBreakerConfig
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.target import Target
from tests.support.pods import fresh, lm_config
from tests.support.traffic import drive
from tests.support.world import REPORTS, eventually

SECONDS = float(os.environ.get("BAD_DAY_SECONDS", "4"))
DEADLINE = 3
FAULTS = {
    "500": {"status": 500},
    "429": {"status": 429, "retry_after": 1},
    "hang": {"hang": True},
    "malformed": {"not_json": True},
    "dropped": {"drop": True},
    "garbled": {"garble": True},
}
LM_BREAKER = BreakerConfig(min_requests=10, window_seconds=2, open_seconds=1, half_open_requests=2)
PROGRAM_BREAKER = ProgramBreakerConfig(min_requests=10, window_seconds=2, open_seconds=1, half_open_requests=2)


@pytest.fixture(scope="module", params=["problem", "fallback"])
def guarded(request, tmp_path_factory, servers, version):
    """A pod with breakers, with and without a fixed fallback."""
    from tests.support.pods import pods

    main = lm_config(servers[2], retries=2, request_timeout_seconds=1, breaker=LM_BREAKER)
    fallback = FallbackConfig(response={"category": "bug"}) if request.param == "fallback" else None
    with pods(tmp_path_factory.mktemp("guarded"), *servers[1:]) as start:
        running = start(
            version, lms=(main,), request_timeout_seconds=DEADLINE, max_concurrency=64, fallback=fallback,
            breaker=PROGRAM_BREAKER, limits=LimitsConfig(max_queue=1000),
        )  # fmt: skip
        eventually("ready", running.is_ready, 90)
        yield running


@pytest.mark.parametrize("fault", FAULTS)
def test_callers_see_a_fallback_or_a_problem_within_their_deadline(guarded, lm, fault):
    before = lm.calls
    lm.misbehave(**FAULTS[fault])
    traffic = asyncio.run(drive(f"{guarded.url}/execute", fresh, 40, lambda t: t > SECONDS))
    asked = lm.calls - before
    lm.misbehave()
    sent, statuses = len(traffic.answers), traffic.statuses()
    REPORTS.append(f"LM {fault}, {'fallback' if guarded.config.fallback else 'no fallback'}: sent={sent} {statuses}")
    assert statuses.get(0, 0) == 0
    assert max(a.seconds for a in traffic.answers) < DEADLINE + 2
    # Three attempts, and once more for an answer that cannot be used.
    assert asked <= 3 * 2 * sent
    for answer in traffic.answers:
        if answer.status == 200 and "despina-degraded" not in answer.headers:
            assert answer.body == {"category": "billing"}  # a probe, or what was asked before
        elif guarded.config.fallback:
            assert (answer.status, answer.body) == (200, {"category": "bug"})
        else:
            assert answer.status in (502, 503, 504)
            assert answer.body["type"].startswith("urn:despina:problem:")
            assert "Traceback" not in str(answer.body)
    assert eventually("well again", lambda: _is_well(guarded), 15)


def test_a_stream_of_garbage_is_a_problem_or_the_fallback(guarded, lm):
    eventually("well", lambda: _is_well(guarded), 20)
    lm.misbehave(garble=True)
    answers = [guarded.ask(fresh(), headers={"accept": "text/event-stream"}) for _ in range(10)]
    lm.misbehave()
    for answer in answers:
        if answer.headers["content-type"] == "text/event-stream":
            assert "event: problem" in answer.text or '{"category":"bug"}' in answer.text, answer.text
        else:
            assert answer.status_code in (502, 503), answer.text
        assert "Traceback" not in answer.text
    assert eventually("well again", lambda: _is_well(guarded), 15)


def _is_well(pod) -> bool:
    time.sleep(0.3)
    answer = pod.ask(fresh(0))
    return answer.status_code == 200 and "despina-degraded" not in answer.headers


def test_the_program_breaker_opens_sheds_and_closes(guarded, lm):
    def closed() -> bool:
        """Probes close it, so it is asked."""
        return _is_well(guarded) and guarded.metric("despina_breaker_open") == 0

    eventually("closed", closed, 20)
    before = lm.calls
    lm.misbehave(status=500)
    traffic = asyncio.run(drive(f"{guarded.url}/execute", fresh, 40, lambda t: t > 4))
    asked = lm.calls - before
    # Most of them never reached the LM: a breaker was open.
    assert asked < len(traffic.answers)
    if not guarded.config.fallback:
        shed = [a for a in traffic.answers if a.body.get("type", "").endswith(("breaker-open", "lm-unavailable"))]
        assert shed
        assert all(a.status == 503 and int(a.headers["retry-after"]) >= 1 for a in shed)
    lm.misbehave()
    eventually("closed again", closed, 20)


EAGER = BreakerConfig(min_requests=3, open_seconds=30)


async def test_an_lm_that_had_no_time_to_answer_is_not_left_alone(lm, servers):
    """As where requests have waited for their turn for most of their time."""
    main = lm_config(servers[2], retries=0, request_timeout_seconds=20, breaker=EAGER)
    target, now = Target(main, None, 20), asyncio.get_running_loop().time

    async def ask(seconds: float) -> list:
        messages = [{"role": "user", "content": fresh()["ticket"]}]
        return await target.answer(messages, {}, Meter(now() + seconds), "", now() + seconds, None)

    lm.misbehave(delay_seconds=1)
    for _ in range(6):
        with pytest.raises(LMTimeoutError):
            await ask(0.1)
    assert len(await ask(20)) == 1
    await target.close()


class Silent:
    async def complete(self, *_):
        await asyncio.Event().wait()

    async def close(self):
        """There is nothing to give back."""


@pytest.mark.parametrize("ended", ["by the call", "by the request"])
async def test_of_an_lm_that_hangs_until_the_deadline_the_log_tells(ended, caplog):
    target = Target(LMConfig(name="main", model="openai/x"), None, 20, lambda *_: Silent())
    end = asyncio.get_running_loop().time() + 0.1
    asking = asyncio.create_task(target.answer([], {}, Meter(end), "", end, None))
    if ended == "by the request":
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - the call's own time-out shall have had no turn
        asking.cancel()
    with pytest.raises((LMTimeoutError, asyncio.CancelledError)):
        await asking
    (line,) = caplog.messages
    assert line.startswith("LM failed model=openai/x error=LMTimeoutError seconds=0.1")


async def test_of_an_lm_whose_caller_has_left_it_tells_nothing(caplog):
    target = Target(LMConfig(name="main", model="openai/x"), None, 20, lambda *_: Silent())
    end = asyncio.get_running_loop().time() + 20
    asking = asyncio.create_task(target.answer([], {}, Meter(end), "", end, None))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert not caplog.messages


LACKING = {
    "no key": (
        LMConfig(name="main", model="gpt-4o-mini"),
        "its entry of spec.lms has no apiKeySecretRef, and no baseURL of a server that wants no key;"
        " its model names no provider (PROVIDER/gpt-4o-mini)",
    ),
    "a Secret without it": (
        LMConfig(name="main", model="openai/gpt-4o-mini", api_key_file="/nowhere"),
        "the Secret that its apiKeySecretRef names holds no key",
    ),
}


class Unconfigured(Silent):
    async def complete(self, *_):
        raise LMNotConfiguredError("no API key found")


@pytest.mark.parametrize("sentence", LACKING)
async def test_of_an_lm_that_is_not_configured_the_log_says_what_the_manifest_lacks(sentence, caplog):
    config, lacks = LACKING[sentence]
    target, end = Target(config, None, 20, lambda *_: Unconfigured()), asyncio.get_running_loop().time() + 20
    with pytest.raises(LMNotConfiguredError):
        await target.answer([], {}, Meter(end), "", end, None)
    assert caplog.messages == [f"LM is not configured lm=main model={config.model}: {lacks}"]


@pytest.mark.parametrize("kind", ["compiled", "sync"])
def test_an_lm_that_has_the_whole_request_and_does_not_answer_is_left_alone(pod, log_model, lm, servers, kind):
    main = lm_config(servers[2], request_timeout_seconds=60, breaker=EAGER)
    running = pod(log_model(kind, kind), kind, lms=(main,), request_timeout_seconds=1)
    eventually("ready", running.is_ready, 90)
    lm.misbehave(hang=True)
    problems = [running.ask(fresh()).json()["type"].rpartition(":")[2] for _ in range(5)]
    assert set(problems[:3]) <= {"deadline-exceeded", "lm-timeout"}
    assert problems[3:] == ["lm-unavailable"] * 2


def test_an_answer_out_of_bounds_is_asked_for_once_more(pod, log_model, lm, servers):
    """DSPy accepts what `OutputField(ge=, le=)` forbids; the stand-in answers "stand-in" for a number."""
    running = pod(log_model("bounded", "bounded"), model="bounded", lms=(lm_config(servers[2]),))
    eventually("ready", running.is_ready, 90)
    before = lm.calls
    answer = running.ask({"question": "how sure are you?"})
    assert answer.status_code == 502
    assert answer.json()["type"].endswith("invalid-output")
    assert answer.json()["detail"] == "answer: String should have at most 3 characters"
    assert lm.calls == before + 2
    eventually("its line", lambda: "Output refused kind=unfit fields=answer" in running.log.read_text(), 10)


def test_a_program_without_await_runs_in_threads(pod, log_model, lm):
    running = pod(log_model("sync", "sync"), model="sync", max_concurrency=8)
    eventually("ready", running.is_ready, 90)
    lm.misbehave(delay_seconds=0.5)
    began = time.monotonic()
    traffic = asyncio.run(drive(f"{running.url}/execute", fresh, 100, lambda t: t > 0.16))
    assert set(traffic.statuses()) == {200}
    assert time.monotonic() - began < 5
