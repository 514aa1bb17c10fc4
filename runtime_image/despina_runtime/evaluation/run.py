"""An evaluation as a run on the program's MLflow server: its figures, and its scores row by row as an artifact.

The run is one of our own, in an experiment that is called like the program: the candidate's source run may be somebody
else's. A row is told by a digest of its inputs, for a dataset may be private.

MLflow's client is asked in a process of its own (`python -m despina_runtime.evaluation.run`), which can be ended when
it takes too long, once all processes of the models have ended. A run that cannot be made costs nothing but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError

from despina.wire import Document, EvaluationConfig
from despina.wire.logs import LOG_FORMAT_ENV, set_up
from despina_runtime.cache.keys import canonical
from despina_runtime.evaluation.examples import Row
from despina_runtime.evaluation.judgement import Judgement
from despina_runtime.evaluation.score import Scored
from despina_runtime.tracking import Lacking, told

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
COMMAND = (sys.executable, "-m", "despina_runtime.evaluation.run")
ROWS_FILE = "examples.jsonl"
SECONDS = 60.0
"""How long an evaluation waits for its run: a pod with little CPU needs half of it to import MLflow's client."""


class Run(Document):
    """What a run holds."""

    tracking_uri: str
    credentials_dir: str | None
    """The program's own credentials for MLflow; else the environment's."""
    experiment: str
    name: str
    tags: dict[str, str]
    metrics: dict[str, float]
    rows: str
    """JSON Lines."""


def run_of(config: EvaluationConfig, candidate: Scored, baseline: Scored | None, judgement: Judgement | None) -> Run:
    """The run of an evaluation. Scores are fractions in it."""
    runtime, before = config.candidate, config.baseline
    tags = {
        "despina.namespace": runtime.namespace,
        "despina.program": runtime.program,
        "despina.model": runtime.model.name,
        "despina.candidate": runtime.model.version,
        "despina.metric": config.metric,
    }
    return Run(
        tracking_uri=runtime.model.tracking_uri,
        credentials_dir=runtime.mlflow_credentials_dir,
        experiment=runtime.program,
        name=f"evaluation of {runtime.model.name} {runtime.model.version}",
        tags=tags | ({"despina.baseline": before.model.version} if before else {}),
        metrics=_metrics(candidate, judgement),
        rows=_lines(candidate, baseline),
    )


def _metrics(candidate: Scored, judgement: Judgement | None) -> dict[str, float]:
    if judgement is None:
        return {"candidate": candidate.percent / 100}
    low, high = judgement.interval
    means = {"base": judgement.base, "candidate": judgement.candidate, "gain": judgement.gain}
    return means | {"gain_low": low, "gain_high": high, "p": judgement.p}


def _lines(candidate: Scored, baseline: Scored | None) -> str:
    before: Iterable[float | None] = baseline.scores if baseline else repeat(None, len(candidate.scores))
    sides = zip(candidate.rows, before, candidate.scores, strict=True)
    lines = ({"inputs": digest(row), "base": base, "candidate": score} for row, base, score in sides)
    return "".join(f"{orjson.dumps(line).decode()}\n" for line in lines)


def digest(row: Row) -> str:
    """The SHA-256 of a row's inputs, in hexadecimal: of the same JSON values the same."""
    return hashlib.sha256(canonical(row.inputs)).hexdigest()


async def log_run(run: Run, command: Sequence[str] = COMMAND, seconds: float = SECONDS) -> str | None:
    """Make the run; its id, or None where MLflow has none of it, which a warning says."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    except OSError as exc:
        log.warning("The run was not logged uri=%s error=%s", run.tracking_uri, exc)
        return None
    try:
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate(run.model_dump_json().encode())
    except TimeoutError:
        log.warning("The run was not logged uri=%s error=no end within %.0f s", run.tracking_uri, seconds)
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode(errors="replace").strip() or None if process.returncode == 0 else None


def main() -> int:
    """Make the run that standard input says; its id goes to standard output, whatever MLflow's client prints there."""
    set_up(os.environ.get(LOG_FORMAT_ENV))
    run = Run.model_validate_json(sys.stdin.buffer.read())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            made = _made(run)
    except Exception as exc:  # a store's own client raises what it likes, and may quote a signed URL
        log.warning("The run was not logged uri=%s error=%s", run.tracking_uri, _words(exc))
        return 1
    sys.stdout.write(made)
    return 0


def _made(run: Run) -> str:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    with told(run.tracking_uri, run.credentials_dir):
        client = MlflowClient(run.tracking_uri)
        made = client.create_run(_experiment(client, run.experiment), tags=run.tags, run_name=run.name).info.run_id
        try:
            client.log_batch(made, [Metric(name, value, now, 0) for name, value in run.metrics.items()])
            client.log_text(made, run.rows, ROWS_FILE)
        except Exception:
            client.set_terminated(made, "FAILED")
            raise
        client.set_terminated(made)
    return str(made)


def _experiment(client: MlflowClient, name: str) -> str:
    """Its id. Another evaluation may make it at the same moment."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _words(exc: Exception) -> str:
    """What an error may say of itself in a log."""
    from mlflow.exceptions import MlflowException

    own = isinstance(exc, Lacking | MlflowException | ValidationError)
    return str(exc)[:300] if own else type(exc).__name__


if __name__ == "__main__":
    sys.exit(main())
