"""`despina-runtime optimize` as a Job: labels of MLflow, a metric of the model's, a limit in US dollars, one candidate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import httpx
import mlflow
import pytest
import yaml

from despina.api.optimizing import optimization_config
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.wire import OPTIMIZATION_ENV, TAKEN_BACK_TAG, ModelRef, OptimizationConfig, OptimizationResult
from despina_runtime.feedback.importing import Line, take_in
from despina_runtime.feedback.sink import MLflowSink
from despina_runtime.optimization.registry import Registry
from services import free_port
from tests.support.tickets import tickets, write_lines
from tests.support.world import StandIn, manifest

RUN = (
    "import asyncio, sys; from pathlib import Path; from despina_runtime.optimization.job import optimize_job;"
    "sys.exit(asyncio.run(optimize_job(Path(sys.argv[1]), '127.0.0.1', int(sys.argv[2]))))"
)
METRIC = """
def strict(example, prediction, trace=None):
    return float(example.category == prediction.category)
"""
LABELS, GOLDEN, CALLS, USD = 90, 10, 400, "1.7"
"""An answer of 13 tokens costs 0.013 USD and may cost 0.2: some 130 calls, of which both judgements take half."""


class Job:
    """What the operator starts for a manifest, and what it left."""

    def __init__(self, folder: Path, servers) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "judges.py").write_text(METRIC)
        self.spec = manifest(
            "looped",
            feedback={},
            optimization={
                "modules": ["classify"],
                "optimizer": {"seed": 7, "params": {"num_candidate_programs": 6}},
                "metric": "judges:strict",
                "budget": {"maxLMCalls": CALLS, "maxUSD": USD},
                "dataset": {"goldenRef": {"configMap": {"name": "golden", "key": "rows.jsonl"}}},
                "promotion": {"minExamples": 10},
            },
        )
        self.spec["metadata"]["namespace"] = "default"
        lm = self.spec["spec"]["lms"][0]
        lm |= {"baseURL": f"{servers[2]}/v1", "price": {"outputPerMillionUSD": "1000"}}
        self.spec["spec"]["source"]["mlflow"]["trackingURI"] = servers[1]
        self.model = ModelRef(name="looped", version="1", tracking_uri=servers[1])
        self.words: set[str] = set()
        self.code: int | None = None

    def config(self, **feedback) -> OptimizationConfig:
        spec = self.spec["spec"] | {"feedback": feedback}
        program = Program.parse(self.spec | {"spec": spec})
        base = runtime_config(program, revision_of(program, self.model))
        write_lines(self.folder / "golden.jsonl", [{"ticket": t, "category": c} for t, c in tickets(GOLDEN, seed=2)])
        return optimization_config(program, base, None, None, str(self.folder / "golden.jsonl"))

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
        return {**os.environ, **own, "DESPINA_TERMINATION_LOG": str(self.folder / "word")}

    def run(self, config: OptimizationConfig) -> OptimizationResult:
        env = self.environment() | {OPTIMIZATION_ENV: config.model_dump_json(exclude_defaults=True)}
        command = [sys.executable, "-c", RUN, str(self.folder / "cache"), str(self.port)]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
            self.code = self._watched(process)
        said = (self.folder / "word").read_bytes()
        assert len(said) <= 4096
        return OptimizationResult.model_validate_json(said)

    def _watched(self, process: subprocess.Popen) -> int:
        """Its exit code; meanwhile what it tells is noted."""
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.3)
            with contextlib.suppress(httpx.TransportError):
                self.words.add(httpx.get(f"http://127.0.0.1:{self.port}/progress", timeout=5).text)
        process.kill()
        raise AssertionError("it has not ended")


@pytest.fixture(scope="module")
def job(tmp_path_factory, servers, log_model) -> Job:
    log_model("good", "looped", "champion")
    found = Job(tmp_path_factory.mktemp("job"), servers)
    config = found.config()
    lines = [Line(inputs={"ticket": text}, expected={"category": category}) for text, category in tickets(LABELS, 1)]
    asyncio.run(deliver(lines, MLflowSink(config.base, config.labels.experiment or "")))
    mlflow.set_tracking_uri(servers[1])
    return found


async def deliver(lines: list[Line], sink: MLflowSink) -> None:
    await take_in(lines, sink, "looped")
    await sink.close()


@pytest.fixture(scope="module")
def found(job, servers) -> tuple[OptimizationResult, int]:
    """The result, and how many calls the LM has seen."""
    before = StandIn(servers[2]).calls
    result = job.run(job.config())
    assert job.code == 0, (job.folder / "log").read_text()[-3000:]
    return result, StandIn(servers[2]).calls - before


def tags_of(result: OptimizationResult) -> dict[str, str]:
    return mlflow.MlflowClient().get_model_version("looped", result.candidate_version).tags


def test_labels_of_mlflow_become_a_candidate_that_is_judged(job, found):
    result, _ = found
    assert result.reason in ("Better", "NotBetter"), result
    tags = tags_of(result)
    assert (tags["despina.judged"], tags["despina.reason"]) == ("yes", result.reason)
    assert (tags["despina.dataset"], result.golden.rows) == (result.dataset_digest, GOLDEN)
    assert not (job.folder / "golden.jsonl").exists(), "no model's code has seen it"


def test_money_ends_the_search_and_is_not_overrun(found):
    result, calls = found
    ended = tags_of(result)["despina.ended"]
    assert re.match(rf"the budget ended: [\d.]+ of {USD} USD are spent, and a call can cost 0\.2", ended)
    assert result.lm_calls == calls < CALLS
    assert 0.5 * float(USD) < result.cost_usd <= float(USD)
    assert Decimal(tags_of(result)["despina.cost-usd"]) == Decimal(str(round(result.cost_usd, 6)))


def test_how_far_it_is_can_be_read_all_the_time(job, found):
    shown = [re.fullmatch(rf"(\d+)/{CALLS}( \d+ %)?", words) for words in job.words]
    assert all(shown), job.words
    assert len({one[1] for one in shown}) > 3
    last = max((one for one in shown if one), key=lambda one: int(one[1]))
    assert last[2], "a score, also while the candidate is judged"


def test_the_command_without_options_asks_for_the_same(job, found, tmp_path):
    (tmp_path / "program.yaml").write_text(yaml.safe_dump(job.spec))
    golden = write_lines(tmp_path / "own.jsonl", [{"ticket": t, "category": c} for t, c in tickets(GOLDEN, seed=2)])
    command = [sys.executable, "-m", "despina_runtime.main", "optimize", "-f", str(tmp_path / "program.yaml")]
    command += ["--golden", str(golden)]
    done = subprocess.run(command, env=job.environment(), capture_output=True, text=True, check=True)
    said = f"found before, of the same data and settings: {found[0].message}"
    assert done.stdout.startswith(f"{found[0].reason} version {found[0].candidate_version}: {said}")
    assert golden.exists()


def test_what_was_taken_back_is_known_by_its_state_and_by_its_settings(job, found, tmp_path):
    version, registry = found[0].candidate_version, Registry(job.model, None)
    folder = mlflow.artifacts.download_artifacts(f"models:/looped/{version}", dst_path=str(tmp_path))
    state = json.loads((Path(folder) / "state.json").read_text())
    assert registry.taken_back(state) is None
    mlflow.MlflowClient().set_model_version_tag("looped", version, TAKEN_BACK_TAG, "WatchFailed")
    assert registry.taken_back(state) == version
    assert registry.taken_back({**state, "other": {}}) is None
    again = job.run(job.config())
    assert (again.reason, again.candidate_version, again.lm_calls, job.code) == ("AlreadyDone", version, 0, 0)
    assert again.message.endswith(", and callers had to be sent away from it")


def test_a_job_that_cannot_begin_ends_with_the_reason(job):
    config = job.config(sink={"mlflow": {"experiment": "nowhere"}})
    result = job.run(config)
    assert (job.code, result.reason) == (1, None)
    assert result.error.startswith("MLflow has no experiment nowhere: ")
    assert "Traceback" not in (job.folder / "log").read_text()
