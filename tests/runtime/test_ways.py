"""DSPy's ways of calling modules work in a pod as they do on a laptop: threads, tries, settings, usage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from despina.wire import ModuleConfig, WarmUpConfig
from tests.runtime.test_hotswap import of, prepare
from tests.support.pods import pods
from tests.support.world import eventually

THINGS = "a caller's own words"


@pytest.fixture(scope="module")
def ways(log_model) -> str:
    return log_model("ways", "ways")


@pytest.fixture(scope="module")
def running(tmp_path_factory, servers, ways):
    with pods(tmp_path_factory.mktemp("ways"), *servers[1:]) as start:
        pod = start(ways, "ways")
        eventually("ready", pod.is_ready, 90)
        yield pod


def ask(pod, way: str, calls: int | None = None) -> str:
    """What it says, after so many calls of its LM."""
    answer = pod.ask({"keys": THINGS, "way": way})
    assert answer.status_code == 200, answer.text
    assert answer.json()["values"] == [way]
    if calls is not None:
        assert int(answer.headers["despina-lm-attempts"]) == calls
    return answer.json()["items"]


def test_names_that_are_also_methods_are_names_like_others(running):
    assert ask(running, "plainly", calls=1) == "stand-in"


@pytest.mark.parametrize(("way", "calls"), [("best_of_n", 3), ("refined", 3)])
def test_a_module_is_tried_several_times(running, way, calls):
    """Between two tries Refine asks for advice."""
    assert ask(running, way, calls) == "stand-in"


@pytest.mark.parametrize("way", ["in_parallel", "in_a_batch"])
def test_modules_run_in_dspys_threads_and_count_for_their_request(running, way):
    assert ask(running, way, calls=4) == str(["stand-in"] * 4)


@pytest.mark.parametrize("way", ["raising_in_parallel", "raising_in_every_try"])
def test_what_dspy_says_of_an_error_holds_no_word_of_a_callers(running, way):
    before = running.log.read_text().count("ValueError")
    running.ask({"keys": THINGS, "way": way})
    eventually("the log", lambda: running.log.read_text().count("ValueError") == before + 2, 10)
    assert THINGS not in running.log.read_text()


def test_tries_that_failed_in_one_request_are_not_missing_in_the_next(running):
    with ThreadPoolExecutor(4) as callers:
        assert {*callers.map(lambda _: ask(running, "patiently"), range(12))} == {"None"}


def test_usage_can_be_tracked(running):
    assert ask(running, "tracked") == "['openai/main']"


def test_a_programs_settings_hold_for_its_process_and_a_requests_for_that_request(running):
    for _ in range(2):
        assert ask(running, "configured", calls=1) == "('stand-in', 7, 8, 3)"


def test_a_program_that_configures_dspy_is_swapped(running, ways):
    target = of(running.config, ways, modules=(ModuleConfig(path="sort", lm="main"),))
    assert prepare(running, target).failure is None
    assert running.order("Commit", subject=target.revision) == 200
    assert ask(running, "configured", calls=1) == "('stand-in', 7, 8, 3)"
    assert ask(running, "best_of_n", calls=3) == "stand-in", "also a module that has an LM of its own"
    assert "Failed to deep copy" not in running.log.read_text()


def test_a_program_that_awaits_threads_runs_on_the_event_loop(pod, log_model):
    running = pod(log_model("awaiting", "awaiting"), "awaiting")
    eventually("ready", running.is_ready, 90)
    answer = running.ask({"ticket": "t"})
    assert (answer.status_code, answer.json()) == (200, {"category": "stand-in stand-in"})


def test_a_program_that_waits_for_threads_runs_off_the_event_loop(pod, log_model):
    running = pod(log_model("waiting", "waiting"), "waiting")
    eventually("ready", running.is_ready, 90)
    assert "runs in threads" in running.log.read_text()
    assert running.ask({"ticket": "t"}).json() == {"category": "stand-in"}


def test_a_program_that_waits_for_threads_now_and_then_stalls_until_the_deadline_and_no_longer(pod, log_model):
    running = pod(log_model("stalling", "stalling"), "stalling", request_timeout_seconds=2)
    eventually("ready", running.is_ready, 90)
    assert running.ask({"ticket": "t"}).status_code == 200
    assert running.ask({"ticket": "wait"}).status_code >= 500
    assert running.ask({"ticket": "t"}).status_code == 200


def test_a_program_with_threads_of_its_own_is_told_what_they_lack(pod, log_model):
    running = pod(log_model("pooling", "pooling"), "pooling")
    eventually("it gave up", lambda: running.process.poll() is not None, 90)
    assert "dspy.Parallel" in running.termination.read_text()


def test_what_a_program_keeps_from_its_first_run_belongs_to_the_event_loop_that_serves(pod, log_model, servers):
    running = pod(log_model("keeping", "keeping"), "keeping")
    eventually("ready", running.is_ready, 90)
    for _ in range(3):
        answer = running.ask({"ticket": f"{servers[2]}/admin"})
        assert (answer.status_code, answer.json()) == (200, {"category": "200"})


def test_what_a_program_raises_on_made_up_values_stands_in_the_state_and_it_serves(pod, log_model):
    running = pod(log_model("scoring", "scoring"), "scoring")
    eventually("ready", running.is_ready, 90)
    held = running.state().held[running.config.revision]
    assert (held.phase, held.failure) == ("Ready", None)
    assert held.remark.startswith("WarmupInconclusive: ValueError: ")
    assert running.ask({"ticket": "t"}).json() == {"category": "10"}
    recorded = of(
        running.config, running.config.model.version, warm_up=WarmUpConfig(outputs={"sort": {"category": "stand-in"}})
    )
    assert prepare(running, recorded).remark == ""
