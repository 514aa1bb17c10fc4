"""Scoring versions as an Evaluate gate's Job does: both versions, from every kind of dataset, and all that may be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from despina.wire import (
    EVALUATION_ENV,
    DatasetConfig,
    EvaluationConfig,
    EvaluationResult,
    ModelRef,
    Price,
    RuntimeConfig,
    ToolsConfig,
    ToolUse,
)
from services import free_port
from tests.support.hosts import contract_of, hosts, tool_config
from tests.support.pods import is_running, lm_config
from tests.support.world import ROOT

RUN = (
    "import asyncio, sys; from pathlib import Path; from despina_runtime.evaluation.job import evaluate;"
    "sys.exit(asyncio.run(evaluate(Path(sys.argv[1]), '127.0.0.1', int(sys.argv[2]))))"
)
READ_ALL = """
import json, sys
from despina.wire import DatasetConfig
from despina_runtime.evaluation.answering import metric_named
from despina_runtime.evaluation.examples import Shape, Unusable, load_lines, read_rows

uri, shape = sys.argv[1], Shape.model_validate_json(sys.argv[2])
for case, (dataset, metric) in json.load(sys.stdin).items():
    try:
        read_rows(load_lines(DatasetConfig.model_validate(dataset), uri), shape, "ExactMatch", 50)
        words = str(metric_named(metric))
    except Unusable as exc:
        words = str(exc)
    print("said", json.dumps([case, words]))
"""
SHAPE = {
    "inputs": {"properties": {"ticket": {}}, "required": ["ticket"]},
    "outputs": {"properties": {"category": {}}, "required": ["category"]},
}
ROWS = [json.loads(line) for line in (ROOT / "examples/ticket-triage/tickets.jsonl").read_text().splitlines()]
HELDOUT = [{"ticket": r["ticket"], "category": r["category"]} for r in ROWS if r["split"] == "heldout"]
METRICS = """
import dspy

def asking(example, prediction, trace=None):
    said = dspy.Predict("ticket, category -> fits: bool")(ticket=example.ticket, category=prediction.category)
    return float(said.fits)

def lenient(example, prediction, trace=None):
    return 1.0

def raising(example, prediction, trace=None):
    raise ValueError("cannot judge")
"""


@pytest.fixture(scope="module")
def plain(log_model) -> str:
    return log_model("good", "serving")


def write_rows(path: Path, rows) -> Path:
    if rows is not None:
        path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(r) + "\n" for r in rows))
    return path


def evaluation(
    servers, version: str, baseline: str | None = None, file: Path = Path("none"), model="serving", uses=(), **changes
):
    price = Price(input_per_million_usd="1", output_per_million_usd="1")
    lm = lm_config(servers[2], price=price)

    def runtime(v: str) -> RuntimeConfig:
        ref = ModelRef(name=model, version=v, tracking_uri=servers[1])
        own = {"revision": f"rev{v}", "model": ref, "tools": uses}
        return RuntimeConfig(namespace="ns", program="triage", lms=(lm,), lm="main", **own)

    return EvaluationConfig(
        candidate=runtime(version),
        baseline=runtime(baseline) if baseline else None,
        **{"dataset": DatasetConfig(file=str(file)), "metric": "ExactMatch", "max_examples": 50, **changes},
    )


@pytest.fixture
def score(tmp_path, servers):
    """Runs an evaluation as its Job does, which leaves nothing in the temporary directory; its result."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def run(version: str, baseline: str | None = None, rows=None, env=None, **changes) -> EvaluationResult:
        config = evaluation(servers, version, baseline, write_rows(tmp_path / "rows.jsonl", rows), **changes)
        word = tmp_path / "word"
        env = {**os.environ, "DESPINA_TERMINATION_LOG": str(word), "PYTHONPATH": str(tmp_path), **(env or {})}
        env |= {EVALUATION_ENV: config.model_dump_json(), "TMPDIR": str(temporary)}
        (tmp_path / "judges.py").write_text(METRICS)
        command = [sys.executable, "-c", RUN, str(tmp_path / "cache"), str(free_port())]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
        result = EvaluationResult.model_validate_json(word.read_text())
        assert (done.returncode == 0) == (result.error is None), done.stderr[-2000:]
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        assert list(temporary.iterdir()) == []
        return result

    return run


def test_both_versions_are_scored_on_the_same_examples(score, version, plain):
    found = score(version, plain, HELDOUT)
    print(f"scores: {found.score_percent:.1f} % and {found.baseline_percent:.1f} % on {found.examples} examples")
    assert found.examples == min(50, len(HELDOUT))
    assert found.score_percent > 80 > 40 > found.baseline_percent
    assert found.cost_usd > 0
    assert found.p < 0.001
    assert found.gain_low_percent < found.score_percent - found.baseline_percent < found.gain_high_percent
    nested = [{"inputs": {"ticket": r["ticket"]}, "expectations": {"category": r["category"]}} for r in HELDOUT[:10]]
    assert score(version, rows=nested, metric="F1").score_percent > 50
    assert score(plain, rows=HELDOUT[:5], metric="judges:lenient").score_percent == 100


def test_an_evaluation_leaves_a_run_that_tells_its_scores_example_by_example(
    score, version, plain, mlflow_uri, tmp_path
):
    found = score(version, plain, HELDOUT[:12])
    client = MlflowClient(mlflow_uri)
    run = client.get_run(found.run)
    assert client.get_experiment(run.info.experiment_id).name == "triage"
    assert run.info.status == "FINISHED"
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("despina.")}
    assert tags == {
        "despina.namespace": "ns", "despina.program": "triage", "despina.model": "serving", "despina.metric": "ExactMatch",
        "despina.candidate": version, "despina.baseline": plain,
    }  # fmt: skip
    means = {"base": found.baseline_percent / 100, "candidate": found.score_percent / 100, "p": found.p}
    assert run.data.metrics | means == pytest.approx(run.data.metrics)
    text = Path(client.download_artifacts(found.run, "examples.jsonl", str(tmp_path))).read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["inputs"] for row in rows}) == len(rows) == 12
    assert sum(row["candidate"] for row in rows) / 12 == pytest.approx(means["candidate"])
    assert sum(row["base"] for row in rows) / 12 == pytest.approx(means["base"])
    assert HELDOUT[0]["ticket"] not in text
    again = score(version, rows=HELDOUT[:2])
    assert client.get_run(again.run).info.experiment_id == run.info.experiment_id
    assert client.get_run(again.run).data.metrics == {"candidate": again.score_percent / 100}


def test_a_metric_may_ask_lms_and_what_that_costs_counts(score, plain):
    found, free = (score(plain, rows=HELDOUT[:5], metric=f"judges:{name}") for name in ("asking", "lenient"))
    assert (found.score_percent, found.failed) == (100, 0)
    assert found.cost_usd > free.cost_usd > 0


def test_a_dataset_of_mlflow(score, version, servers):
    rows = [{"inputs": {"ticket": r["ticket"]}, "expectations": {"category": r["category"]}} for r in HELDOUT[:10]]
    code = (
        "import json, sys, mlflow; from mlflow.genai.datasets import create_dataset;"
        "mlflow.set_tracking_uri(sys.argv[1]); create_dataset(name='heldout').merge_records(json.loads(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, servers[1], json.dumps(rows)], check=True, capture_output=True)
    found = score(version, dataset=DatasetConfig(mlflow="heldout"))
    assert found.examples == 10
    assert found.score_percent > 50


def test_an_artifact_of_a_run(score, plain, servers, tmp_path):
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(r) + "\n" for r in HELDOUT[:4]))
    code = (
        "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); run = mlflow.start_run();"
        "mlflow.log_artifact(sys.argv[2]); print(run.info.run_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, servers[1], str(tmp_path / "few.jsonl")],
        check=True,
        capture_output=True,
        text=True,
    )
    run = next(line for line in done.stdout.split() if len(line) == 32)
    assert score(plain, dataset=DatasetConfig(uri=f"runs:/{run}/few.jsonl")).examples == 4


def test_a_tool_that_must_not_be_executed_twice_is_executed_only_where_the_gate_says_so(score, log_model, tmp_path):
    version, rows = log_model("booking", "scored-booking"), [{"ticket": "t" * n, "category": str(n)} for n in (3, 4)]
    with hosts(tmp_path) as start:
        host, tools = start(), tmp_path / "tools.json"
        book = tool_config("book", host.url, contract=contract_of("book", idempotent=False))
        tools.write_text(ToolsConfig(tools={"ns/book": book}).model_dump_json())
        own = {"model": "scored-booking", "uses": (ToolUse(name="book", tool="ns/book"),)}
        own["env"] = {"DESPINA_TOOLS_FILE": str(tools)}
        refused = score(version, rows=rows, **own)
        assert "none of 2 examples was answered: 403 The tool book is not executed" in refused.error
        assert host.executed() == []
        assert score(version, rows=rows, tools="Execute", **own).score_percent == 100
        assert sorted(host.executed()) == ["book ttt", "book tttt"]


PROBLEMS = {
    "no such file": ({"file": "/nowhere/rows.jsonl"}, "rows.jsonl is not there"),
    "no such MLflow dataset": ({"mlflow": "nothing"}, "MLflow has no dataset 'nothing'"),
    "no such artifact": ({"uri": "runs:/0123/rows.jsonl"}, "cannot be fetched"),
    "not JSON Lines": ("ticket,category\n", "not JSON Lines"),
    "not objects": ("[1]\n", "must be a JSON object"),
    "empty": ("\n", "no examples"),
    "nothing expected": ([{"ticket": "x"}], "example 1 of the dataset has no expected outputs"),
    "an input is missing": ([{"category": "bug"}], "has no ticket"),
    "no such metric": (HELDOUT[:2], "metric judges:absent: AttributeError"),
    "no such module": (HELDOUT[:2], "metric absent:judge: ModuleNotFoundError"),
    "a folder": ("folder", "cannot be read and removed"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory, servers) -> dict[str, str]:
    """What is said of each case, by one process."""
    folder = tmp_path_factory.mktemp("problems")
    (folder / "judges.py").write_text(METRICS)
    (folder / "folder").mkdir()
    cases = {}
    for number, (case, (rows, _)) in enumerate(PROBLEMS.items()):
        file = folder / "folder" if rows == "folder" else folder / f"rows-{number}.jsonl"
        dataset = rows if isinstance(rows, dict) else {"file": str(file)}
        if file.name != "folder" and not isinstance(rows, dict):
            write_rows(file, rows)
        cases[case] = (dataset, "absent:judge" if case == "no such module" else "judges:absent")
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, servers[1], json.dumps(SHAPE)], input=json.dumps(cases), text=True,
        env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return dict(json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("said "))


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_is_wrong_is_said(said, case):
    assert PROBLEMS[case][1] in said[case]


RUNS = {
    "an input of a wrong type": ({"rows": [{"ticket": 1, "category": "bug"}]}, "does not fit the program's inputs"),
    "a metric that raises": ({"rows": HELDOUT[:2], "metric": "judges:raising"}, "raised ValueError: cannot judge"),
}


@pytest.mark.parametrize("case", RUNS)
def test_what_a_run_finds_wrong_is_said(score, plain, case):
    changes, words = RUNS[case]
    assert words in score(plain, **changes).error


def test_a_model_that_lies_about_its_score_is_scored_as_it_answers(score, log_model, version, tmp_path):
    """It says a result itself, leaves a process behind that writes last words for ever, changes the metrics in its own
    process, spoils what others keep in the cache, and looks for what is expected of it."""
    liar, pids = log_model("lying", "serving"), tmp_path / "pids"
    lies = {"WORD": "word", "DATASET": "rows.jsonl", "PIDS": "pids", "CACHE": "cache"}
    env = {f"LIE_{name}": str(tmp_path / path) for name, path in lies.items()}
    found = score(liar, version, HELDOUT[:10], env=env)
    assert (found.score_percent, found.examples, found.failed) == (0.0, 10, 0)
    assert found.baseline_percent > 50
    left = [int(pid) for pid in pids.read_text().split()]
    assert left
    assert [pid for pid in left if is_running(pid)] == []


def test_a_version_that_cannot_be_loaded_and_one_that_nobody_answers(score, plain, lm):
    assert "no artefact" in score("999", rows=HELDOUT[:2]).error
    lm.misbehave(status=500)
    assert "none of 3 examples was answered: 502 The language model" in score(plain, rows=HELDOUT[:3]).error
    lm.misbehave(status=500, times=3)  # one example, with its retries
    found = score(plain, rows=HELDOUT[:3] * 5)
    assert found.score_percent is not None
    assert found.failed <= 3
