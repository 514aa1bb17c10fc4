"""LMs that do not take a request, and answers that cannot be used: whoever asks can bring these about."""

from __future__ import annotations

import pytest

from despina.wire import BreakerConfig, CacheConfig, ProgramBreakerConfig
from services import Processes, free_port, standin_command
from tests.support.pods import fresh, lm_config
from tests.support.world import StandIn, eventually

EAGER = {"min_requests": 3, "open_seconds": 60}


@pytest.fixture
def second(tmp_path):
    """Another LM."""
    processes = Processes(tmp_path / "logs")
    port = free_port()
    processes.start("second", standin_command("127.0.0.1", port))
    processes.wait_for_http("second", f"http://127.0.0.1:{port}/admin")
    yield StandIn(f"http://127.0.0.1:{port}")
    processes.stop_all()


def type_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def counted(pod) -> dict[str, int]:
    return pod.state().counts["abcd1234"].model_dump(include={"caller", "upstream", "ok"})


@pytest.mark.parametrize("kind", ["compiled", "sync"])
def test_what_callers_bring_about_does_not_open_the_breaker(pod, log_model, lm, servers, kind):
    main = lm_config(servers[2], retries=0, breaker=BreakerConfig(**EAGER))
    running = pod(log_model(kind, kind), kind, lms=(main,), breaker=ProgramBreakerConfig(**EAGER))
    eventually("ready", running.is_ready, 90)
    for status in (400, 413, 422):
        lm.misbehave(status=status)
        assert [type_of(running.ask(fresh())) for _ in range(3)] == [(422, "lm-refused")] * 3
    lm.misbehave()
    assert running.ask(fresh()).status_code == 200
    eventually("the counts", lambda: counted(running) == {"caller": 9, "upstream": 0, "ok": 1}, 10)

    lm.misbehave(garble=True)
    assert [type_of(running.ask(fresh())) for _ in range(6)] == [(502, "invalid-output")] * 6
    lm.misbehave()
    assert running.ask(fresh()).status_code == 200
    eventually("the counts", lambda: counted(running) == {"caller": 9, "upstream": 6, "ok": 2}, 10)

    lm.misbehave(status=404)  # there is no such model: nobody's input is at fault
    answers = [type_of(running.ask(fresh())) for _ in range(4)]
    assert (answers[0], answers[-1]) == ((502, "lm-failure"), (503, "breaker-open"))


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_one_lm_does_not_take_the_next_of_the_chain_is_asked(pod, version, lm, servers, second, status):
    lms = lm_config(servers[2], retries=2), lm_config(second.url, "second", retries=0)
    running = pod(version, lms=lms, fallbacks=("second",), cache=CacheConfig())
    eventually("ready", running.is_ready, 90)
    before = lm.calls
    lm.misbehave(status=status)
    answer = running.ask(fresh())
    assert (answer.status_code, answer.json()) == (200, {"category": "billing"})
    assert (lm.calls, second.calls) == (before + 1, 1)
    second.misbehave(status=500)
    refused = (502, "lm-failure") if status == 404 else (422, "lm-refused")
    assert type_of(running.ask(fresh())) == refused, "though the second one is down"
