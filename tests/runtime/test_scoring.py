"""Who is scored cannot say its own score, and whatever its process does ends with a result or a clear reason.

The processes here are fakes without dspy (`tests/support/fake_subject.py`); `test_evaluate.py` has the real ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from despina.wire import EVALUATION_ENV, DatasetConfig, EvaluationConfig, EvaluationResult, ModelRef, RuntimeConfig
from despina_runtime.evaluation import apart, subject
from despina_runtime.evaluation.job import Evaluation
from despina_runtime.evaluation.run import Run, log_run
from services import free_port
from tests.support.pods import is_running
from tests.support.world import ROOT, eventually

FAKE = (sys.executable, str(ROOT / "tests/support/fake_subject.py"))
ROWS = [{"text": f"t{i}", "echo": f"t{i}"} for i in range(6)]
RUN = (
    "import asyncio, sys; from pathlib import Path; from despina_runtime.evaluation.job import evaluate;"
    "sys.exit(asyncio.run(evaluate(Path(sys.argv[1]), '127.0.0.1', int(sys.argv[2]), sys.argv[3:])))"
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(subject, "LATE_SECONDS", 1.0)  # after a request's deadline, which is one second
    monkeypatch.setattr(subject, "EXIT_SECONDS", 0.5)


def evaluation(
    folder: Path, kind: str, baseline: str | None = None, concurrency: int = 16, **changes
) -> EvaluationConfig:
    def runtime(name: str) -> RuntimeConfig:
        model = ModelRef(name=name, version="1", tracking_uri="http://mlflow")
        return RuntimeConfig(
            namespace="ns", program="p", revision="r", model=model, lms=(), lm=None, request_timeout_seconds=1,
            max_concurrency=concurrency,
        )  # fmt: skip

    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    base = {"dataset": DatasetConfig(file=str(folder / "rows.jsonl")), "metric": "ExactMatch", "max_examples": 50}
    return EvaluationConfig(
        candidate=runtime(kind), baseline=runtime(baseline) if baseline else None, **{**base, **changes}
    )


@pytest.fixture
def logged() -> list[Run]:
    """The runs that an evaluation wanted to be made."""
    return []


@pytest.fixture
def score(tmp_path, logged):
    """The result of an evaluation of fakes, which must come soon."""

    async def log(run: Run) -> str:
        logged.append(run)
        return "run1"

    async def run(kind: str, baseline: str | None = None, **changes) -> EvaluationResult:
        config = evaluation(tmp_path, kind, baseline, **changes)
        return await asyncio.wait_for(Evaluation(config, tmp_path / "cache", FAKE, log).run(), 30)

    return run


NO_ANSWER = "said something that is no answer to what it was asked"
ENDINGS = {
    "honest": {"score_percent": 100.0, "failed": 0, "cost_usd": 0.06},
    "wrong": {"score_percent": 0.0, "failed": 0},
    "greedy": {"score_percent": 0.0, "failed": 0},
    "printing": {"score_percent": 100.0, "failed": 0},
    "late": {"score_percent": 50.0, "failed": 3},
    "lacking": "none of 6 examples was answered: an answer lacks outputs",
    "failing": "none of 6 examples was answered: 502 The LM is away",
    "refusing": "an example does not fit the program's inputs: text: too long",
    "garbage": NO_ANSWER,
    "deep": NO_ANSWER,
    "binary": NO_ANSWER,
    "huge": NO_ANSWER,
    "unasked": NO_ANSWER,
    "twice": NO_ANSWER,
    "refunded": NO_ANSWER,
    "priceless": NO_ANSWER,
    "ruinous": NO_ANSWER,
    "shapeless": NO_ANSWER,
    "mumbling": NO_ANSWER,
    "silent": "the candidate's process has not answered anything",
    "closing": "the candidate's process ended with code -9",
    "dying": "the candidate's process ended with code 3; see the Job's log",
    "stillborn": "the candidate's process ended with code 4; see the Job's log",
    "broken": "PickleDenied: no",
}


@pytest.mark.parametrize("kind", ENDINGS)
async def test_whatever_a_models_process_does_there_is_a_result_or_a_reason(score, kind):
    found, expected = await score(kind), ENDINGS[kind]
    if isinstance(expected, str):
        assert found.error is not None
        assert expected in found.error
        assert found.score_percent is None
    else:
        assert found.error is None
        assert found.model_dump() | expected == found.model_dump()


METRICS = {
    "judge:half": 50.0,
    "judge:raising": "the metric raised ValueError: no",
    "judge:nan": "said something that is no answer",
    "judge:none": "the metric gave None, and not a number from 0 to 1",
    "judge:generous": "the metric gave 5.0, and not a number from 0 to 1",
    "judge:silent": "the process of metric judge:silent has not answered anything",
    "judge:absent": "metric judge:absent: no such module",
}


@pytest.mark.parametrize("metric", METRICS)
async def test_whatever_a_models_own_metric_does_there_is_a_result_or_a_reason(score, metric):
    found, expected = await score("honest", metric=metric), METRICS[metric]
    if isinstance(expected, str):
        assert expected in (found.error or "")
    else:
        assert (found.score_percent, found.error) == (expected, None)


async def test_both_versions_share_a_budget_and_no_folder(score, tmp_path):
    found = await score("wrong", "honest", budget_usd="0.12")
    assert (found.score_percent, found.baseline_percent, found.error) == (0.0, 100.0, None)
    found = await score("honest", "honest", budget_usd="0.1", concurrency=1)
    assert found.error == "it costs more than budgetUSD: 0.0500 USD after 4 examples"
    assert list((tmp_path / "cache").iterdir()) == []


COMPARED: dict[str, tuple[str, str, dict[str, object]]] = {
    "three of six are mended": ("honest", "late", {"p": 1 / 16}),
    "three of six are broken": ("late", "honest", {"p": 15 / 16}),
    "all are mended": ("honest", "wrong", {"p": 1 / 128, "gain_low_percent": 100.0, "gain_high_percent": 100.0}),
    "nothing differs": ("honest", "honest", {"p": 0.5, "gain_low_percent": 0.0, "gain_high_percent": 0.0}),
}


@pytest.mark.parametrize("sentence", COMPARED)
async def test_both_versions_are_compared_example_by_example(score, sentence):
    kind, baseline, expected = COMPARED[sentence]
    found = await score(kind, baseline)
    assert found.model_dump() | expected == found.model_dump()
    gain = found.score_percent - found.baseline_percent
    assert found.gain_low_percent <= gain <= found.gain_high_percent


async def test_a_graded_metric_is_compared_by_flips(score):
    found = await score("honest", "late", metric="judge:half")
    assert (found.score_percent, found.baseline_percent, found.p) == (50.0, 25.0, 1 / 8)


async def test_one_version_alone_is_compared_with_nothing(score, logged):
    found = await score("honest")
    assert (found.p, found.gain_low_percent, found.gain_high_percent, found.run) == (None, None, None, "run1")
    assert logged[0].metrics == {"candidate": 1.0}
    assert {json.loads(line)["base"] for line in logged[0].rows.splitlines()} == {None}


async def test_a_run_tells_scores_example_by_example_and_nothing_that_may_be_private(score, logged):
    await score("honest", "late")
    (run,) = logged
    assert (run.experiment, run.tracking_uri) == ("p", "http://mlflow")
    assert run.tags == {
        "despina.namespace": "ns", "despina.program": "p", "despina.model": "honest", "despina.candidate": "1",
        "despina.baseline": "1", "despina.metric": "ExactMatch",
    }  # fmt: skip
    assert run.metrics | {"base": 0.5, "candidate": 1.0, "gain": 0.5, "p": 1 / 16} == run.metrics
    assert run.metrics["gain_low"] < 0.5 < run.metrics["gain_high"]
    lines = [json.loads(line) for line in run.rows.splitlines()]
    assert [(line["base"], line["candidate"]) for line in lines] == [(1, 1), (0, 1)] * 3
    digests = [line["inputs"] for line in lines]
    assert digests[1] == hashlib.sha256(b'{"text":"t1"}').hexdigest()
    assert len(set(digests)) == 6
    assert set(lines[0]) == {"inputs", "base", "candidate"}


A_RUN = Run(
    tracking_uri="http://127.0.0.1:9", credentials_dir=None, experiment="p", name="n", tags={}, metrics={}, rows=""
)
COMMANDS = {
    "one that says an id": (("-c", "print('abc')"), "abc"),
    "one that says an id and fails": (("-c", "print('abc'); raise SystemExit(1)"), None),
    "one that says nothing": (("-c", ""), None),
    "one that never ends": (("-c", "print('abc', flush=True); import time; time.sleep(600)"), None),
    "MLflow's client, where no MLflow is": (("-m", "despina_runtime.evaluation.run"), None),
}


@pytest.mark.parametrize("sentence", COMMANDS)
async def test_a_run_that_cannot_be_logged_is_none_and_no_evaluation_waits_for_it_long(sentence, capfd, caplog):
    command, expected = COMMANDS[sentence]
    seconds = 1 if "never" in sentence else 60
    assert await asyncio.wait_for(log_run(A_RUN, (sys.executable, *command), seconds), 90) == expected
    said = capfd.readouterr().err + caplog.text
    assert ("The run was not logged" in said) == ("never" in sentence or "MLflow" in sentence)
    assert "Traceback" not in said


async def test_a_pod_that_leaves_its_node_takes_no_run_with_it(tmp_path):
    pid, code = (
        tmp_path / "pid",
        "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()}.'); time.sleep(600)",
    )
    logging_ = asyncio.create_task(log_run(A_RUN, (sys.executable, "-c", code, str(pid))))
    while not (pid.exists() and pid.read_text().endswith(".")):
        await asyncio.sleep(0.05)
    logging_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await logging_
    assert not is_running(int(pid.read_text()[:-1]))


async def test_what_cannot_even_be_started_costs_no_evaluation(caplog):
    assert await log_run(A_RUN, ("/nowhere/python",)) is None
    assert "The run was not logged" in caplog.text


async def test_a_score_counts_without_a_run(tmp_path):
    async def refuse(_: Run) -> None:
        return None

    config = evaluation(tmp_path, "honest", "wrong")
    found = await Evaluation(config, tmp_path / "cache", FAKE, refuse).run()
    assert (found.score_percent, found.p, found.run, found.error) == (100.0, 1 / 128, None, None)


async def test_an_error_of_the_serving_version_is_told_as_its_own(score):
    found = await score("honest", "broken")
    assert found.error == "the serving version could not be scored: PickleDenied: no"


async def test_what_is_expected_is_gone_before_a_models_code_runs(score, tmp_path):
    assert (await score("honest")).score_percent == 100
    assert not (tmp_path / "rows.jsonl").exists()


async def test_an_example_that_is_no_json_has_a_clear_reason(score, monkeypatch):
    monkeypatch.setattr("despina_runtime.evaluation.job.load_lines", lambda *_: [{"text": object(), "echo": "x"}])
    assert "holds what is not JSON" in ((await score("honest")).error or "")


async def test_a_mistake_of_the_evaluation_itself_is_no_traceback_in_the_result(score, monkeypatch):
    monkeypatch.setattr("despina_runtime.evaluation.job.load_lines", lambda *_: 1 / 0)
    found = await score("honest")
    assert found.error == "the evaluation itself failed: ZeroDivisionError; see the Job's log"


async def test_processes_that_start_another_and_end_are_followed_until_none_is_left(monkeypatch):
    """Each look at the processes takes a while, so one that sees nobody alive may have missed a newborn: it counts only
    when the next one sees the very same dead."""
    looks = iter(
        [[], [(7, True)], [(7, False)], [(7, False), (8, True)], [(7, False), (8, False)], [(7, False), (8, False)]]
    )
    killed = []
    monkeypatch.setattr(apart, "_below", lambda _: next(looks))
    monkeypatch.setattr(apart.os, "kill", lambda pid, _: killed.append(pid))
    assert await apart.Below().end()
    assert killed == [7, 8]
    assert list(looks) == []


@pytest.fixture
def job(tmp_path):
    """Starts the whole program of the Job; gives the process, where its last words stand, and its admin port."""
    started = []

    def start(kind: str, baseline: str | None = None) -> tuple[subprocess.Popen, Path, int]:
        word, port = tmp_path / "word", free_port()
        env = {**os.environ, "DESPINA_TERMINATION_LOG": str(word)}
        env[EVALUATION_ENV] = evaluation(tmp_path, kind, baseline).model_dump_json()
        command = [sys.executable, "-c", RUN, str(tmp_path / "cache"), str(port), *FAKE]
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        return started[-1], word, port

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_a_model_leaves_behind_is_ended_before_the_result_is_told(job, tmp_path):
    process, word, _ = job("leaving")
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert EvaluationResult.model_validate_json(word.read_text()).score_percent == 100
    left = json.loads((tmp_path / "cache" / "left.json").read_text())
    assert len(left) == 2
    assert [pid for pid in left if is_running(pid)] == []


def test_a_pod_that_leaves_its_node_ends_at_once_and_says_nothing(job, tmp_path):
    process, word, port = job("never")

    def progress() -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/progress").text
        except httpx.TransportError:
            return ""

    eventually("it tells how far it is", lambda: progress() == "candidate: loading")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not word.exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


SEEN = """
import ctypes, os
from despina_runtime.evaluation.apart import keep_apart

def seen():
    read, write = os.pipe()
    if os.fork() == 0:
        found = []
        for name, mode in (("environ", "rb"), ("mem", "r+b"), ("fd/0", "rb")):
            try:
                open(f"/proc/{os.getppid()}/{name}", mode).close()
                found.append(name)
            except OSError:
                pass
        os.write(write, ",".join(found).encode() or b"nothing")
        os._exit(0)
    os.wait()
    return os.read(read, 100).decode()

if os.getuid() == 0:  # root may do anything; pods run as somebody else
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
print(seen())
keep_apart()
print(seen())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a pod runs on Linux")
def test_a_models_process_can_neither_read_nor_change_the_one_that_scores_it():
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert "environ" in before, "then this test would show nothing"
    assert after == "nothing"
