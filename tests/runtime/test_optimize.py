"""`despina-runtime optimize` without a cluster: labels become a candidate that is judged, or the reason why not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import yaml

from tests.support.tickets import inverted, tickets, write_labels, write_lines
from tests.support.world import manifest

SEED, ROWS, CALLS = 7, 260, 900


class Optimizer:
    """The command, on one model of this tier's server."""

    def __init__(self, folder: Path, servers, model: str) -> None:
        self.folder, self.model, self.uri = folder, model, servers[1]
        document = manifest("ticket-triage", model)
        (folder / "program.yaml").write_text(yaml.safe_dump(document))
        self.options = ["--tracking-uri", servers[1], "--lm-base-url", f"{servers[2]}/v1", "--seed", str(SEED)]
        golden = [{"ticket": text, "category": category} for text, category in tickets(40, seed=2)]
        self.options += ["--golden", str(write_lines(folder / "golden.jsonl", golden)), "--min-examples", "40"]
        mlflow.set_tracking_uri(servers[1])
        self.client = mlflow.MlflowClient()

    def start(self, labels: Path, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "despina_runtime.main", "optimize", "-f", str(self.folder / "program.yaml")]
        command += ["--labels", str(labels), *self.options, *options]
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, labels: Path, *options: str) -> str:
        process = self.start(labels, *options)
        said, log = process.communicate(timeout=600)
        assert process.returncode == 0, log[-3000:]
        print(said)
        return said

    def fails(self, labels: Path, *options: str) -> str:
        process = self.start(labels, *options)
        _, log = process.communicate(timeout=300)
        assert process.returncode != 0
        return log.splitlines()[-1]

    def tags(self, version: str) -> dict[str, str]:
        return self.client.get_model_version(self.model, version).tags

    @property
    def aliases(self) -> dict[str, str]:
        return {k: str(v) for k, v in self.client.get_registered_model(self.model).aliases.items()}


@pytest.fixture(scope="module")
def optimizer(tmp_path_factory, servers, log_model):
    log_model("good", "optimized", "champion")
    return Optimizer(tmp_path_factory.mktemp("optimize"), servers, "optimized")


PARAMS = ("--param", "num_candidate_programs=2", "--param", "max_labeled_demos=40")
SMALL = ("--module", "classify", *PARAMS, "--max-lm-calls", str(CALLS))


@pytest.fixture(scope="module")
def better(optimizer, servers):
    """What was said of a good candidate, and how many calls were made for it."""
    from tests.support.world import StandIn

    labels = write_labels(optimizer.folder / "labels.jsonl", tickets(ROWS, seed=1))
    before = StandIn(servers[2]).calls
    return labels, optimizer(labels, *SMALL), StandIn(servers[2]).calls - before


def test_labels_become_a_candidate_that_is_better(optimizer, better):
    _, said, calls = better
    version = re.match(r"Better version (\d+): ", said)[1]
    tags = optimizer.tags(version)
    heldout, golden = (json.loads(tags[f"despina.{side}"]) for side in ("heldout", "golden"))
    assert heldout["candidate"] > heldout["base"] + 0.1
    assert heldout["p"] < 0.05
    assert heldout["interval"][0] > 0
    assert golden["candidate"] > golden["base"]
    assert optimizer.aliases == {"champion": "1", "candidate": version}
    expected = {"parent": "1", "judged": "yes", "reason": "Better", "seed": "7", "modules": "classify"}
    assert {name: tags[f"despina.{name}"] for name in expected} == expected
    assert calls == int(tags["despina.lm-calls"]) <= CALLS
    assert f"{calls} LM calls" in said


def test_the_candidate_is_the_parent_with_other_demonstrations(optimizer, better, tmp_path):
    version = optimizer.aliases["candidate"]
    parent, candidate = (
        Path(mlflow.artifacts.download_artifacts(f"models:/optimized/{v}", dst_path=str(tmp_path / v)))
        for v in ("1", version)
    )
    own, theirs = (json.loads((folder / "despina.json").read_text()) for folder in (parent, candidate))
    assert own.pop("state_sha256") != theirs.pop("state_sha256")
    assert own == theirs
    assert (parent / "code/triage.py").read_bytes() == (candidate / "code/triage.py").read_bytes()
    assert json.loads((candidate / "state.json").read_text())["classify"]["demos"]


def test_the_run_keeps_the_dataset_and_what_changed(optimizer, better, tmp_path):
    tags = optimizer.tags(optimizer.aliases["candidate"])
    run = optimizer.client.search_runs([mlflow.get_experiment_by_name("ticket-triage").experiment_id])[-1]
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=str(tmp_path)))
    sides = {p.stem: len(p.read_text().splitlines()) for p in (folder / "dataset").iterdir()}
    assert sides.pop("reasons") == 0
    assert sum(sides.values()) == ROWS
    assert sides["train"] > sides["heldout"] >= 40
    assert "+classify demonstration {" in (folder / "candidate.diff").read_text()
    from mlflow.genai.datasets import get_dataset

    for side, count in sides.items():
        assert len(get_dataset(name=f"ticket-triage-{side}-{tags['despina.dataset'][:8]}").to_df()) == count


def test_the_same_again_asks_nothing(optimizer, better, lm):
    labels, _, _ = better
    before = lm.calls
    again = optimizer(labels, *SMALL)
    said = "found before, of the same data and settings: "
    assert again.startswith(f"Better version {optimizer.aliases['candidate']}: {said}")
    assert lm.calls == before


def test_inverted_labels_are_better_on_their_own_rows_and_refused(optimizer, better):
    rows = [(text, inverted(category)) for text, category in tickets(ROWS, seed=3)]
    said = optimizer(write_labels(optimizer.folder / "poison.jsonl", rows, "poison"), *SMALL)
    version = re.match(r"GoldenWorse version (\d+): ", said)[1]
    tags = optimizer.tags(version)
    heldout, golden = (json.loads(tags[f"despina.{side}"]) for side in ("heldout", "golden"))
    assert heldout["p"] < 0.05
    assert heldout["candidate"] > heldout["base"]
    assert golden["candidate"] < golden["base"]
    assert optimizer.aliases["candidate"] != version


def test_when_the_budget_ends_the_best_by_then_is_judged_with_what_was_set_aside(optimizer, better, lm):
    words = optimizer.fails(better[0], "--module", "classify", "--max-lm-calls", "1")
    limit = int(re.search(r"it takes (\d+) at least", words)[1]) + 20
    before = lm.calls
    said = optimizer(better[0], "--module", "classify", "--max-lm-calls", str(limit))
    tags = optimizer.tags(re.match(r"\w+ version (\d+): ", said)[1])
    assert tags["despina.ended"].startswith("the budget ended: ")
    assert tags["despina.judged"] == "yes"
    assert lm.calls - before == int(tags["despina.lm-calls"]) <= limit


def test_a_run_that_is_told_to_end_keeps_its_best_for_the_next_one_to_judge(optimizer, better, lm):
    settings = ("--module", "classify", "--max-lm-calls", "3000")
    aliases, process = optimizer.aliases, optimizer.start(better[0], *settings)
    found = (line for line in process.stderr if "Found a better program" in line)
    assert next(found) != next(found), "the first is the parent without demonstrations"
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    said, _ = process.communicate(timeout=60)
    version = re.match(r"Unjudged version (\d+): it was told to end", said)[1]
    print(f"ended {time.monotonic() - told:.1f} s after SIGTERM")
    assert optimizer.tags(version)["despina.judged"] == "no"
    assert optimizer.aliases == aliases
    before = lm.calls
    again = optimizer(better[0], *settings)
    assert re.match(rf"\w+ version {version}: ", again)
    assert optimizer.tags(version)["despina.judged"] == "yes"
    heldout = json.loads(optimizer.tags(version)["despina.heldout"])
    assert lm.calls - before == 2 * (heldout["rows"] + 40), "nothing is searched for again"


def test_a_budget_that_cannot_be_enough_is_refused_with_the_figure_that_would(optimizer, better, lm):
    before = lm.calls
    words = optimizer.fails(better[0], "--module", "classify", "--max-lm-calls", "100")
    least = int(re.search(r"100 LM calls cannot be enough: it takes (\d+) at least", words)[1])
    assert 2 * (40 + 2 * 40) <= least <= CALLS
    assert lm.calls == before


def test_what_is_wrong_is_said_before_any_call(optimizer, better, lm, tmp_path):
    before = lm.calls
    few = write_labels(tmp_path / "few.jsonl", tickets(50, seed=1))
    assert optimizer(few, *SMALL).startswith("TooFewExamples: ")
    assert "has no module nothing with a predictor; it has classify" in optimizer.fails(
        better[0], "--module", "nothing", "--max-lm-calls", "900"
    )
    (tmp_path / "broken.jsonl").write_text('{"prediction_id": 1}\n')
    assert "broken.jsonl, line 1: prediction_id: Input should be a valid string" in optimizer.fails(
        tmp_path / "broken.jsonl", *SMALL
    )
    assert lm.calls == before
