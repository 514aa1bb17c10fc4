"""Fetching a model version's files, in a process of its own: `python -m despina_runtime.program.fetch CONFIG CACHE`.

It goes on beside the worker's own imports; where it needs MLflow's client, that is gone from memory afterwards.
The files are kept in a folder that outlives the container, not the pod: a container that restarts loads without MLflow.
What is wrong is said on standard output, as a `Failure`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from despina.wire import Failure, FailureReason, ModelRef, RuntimeConfig
from despina_runtime.program import proxied
from despina_runtime.program.errors import ProgramError

log = logging.getLogger(__name__)
COMPLETE = ".complete"
RETRY_SECONDS = 3.0
MISSING = (400, 404)
"""MLflow says 404 for what is not there, or 400, and anything else for a bad day."""


def folder_of(model: ModelRef, cache: Path) -> Path:
    """Where a version's files are kept."""
    return cache / "models" / model.name / model.version


class Fetching:
    """A fetch under way, while the one who needs it imports what takes long."""

    def __init__(self, config_path: str, config: RuntimeConfig, cache: Path) -> None:
        self._process: subprocess.Popen[str] | None = None
        if not all((folder_of(model, cache) / COMPLETE).exists() for model in config.models):
            command = [sys.executable, "-m", __name__, config_path, str(cache)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self) -> None:
        """Wait until everything is there; raises ProgramError."""
        if self._process:
            said, _ = self._process.communicate()
            if self._process.returncode:
                raise ProgramError(*_reason(said, self._process.returncode))


def _reason(said: str, code: int) -> tuple[FailureReason, str]:
    try:
        failure = Failure.model_validate_json(said)
    except ValidationError:
        return FailureReason.LOAD_FAILED, f"fetching the model ended with code {code}"
    return failure.reason, failure.message


Download = Callable[[ModelRef, str, Path], None]


def fetch_beside(config: RuntimeConfig, cache: Path, sleep: Callable[[float], None]) -> None:
    """All that a configuration needs, from a thread of a process that serves: where MLflow's client is needed, that is
    imported elsewhere."""

    def refuse(model: ModelRef, uri: str, folder: Path) -> None:
        raise proxied.NotProxied

    try:
        with _alone(cache):
            for model in config.models:
                fetch(model, cache, sleep, refuse)
    except proxied.NotProxied:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(config.model_dump_json())
            file.flush()
            Fetching(file.name, config, cache).result()


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One fetch at a time in a pod."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(
    model: ModelRef, cache: Path, sleep: Callable[[float], None] = time.sleep, elsewhere: Download | None = None
) -> Path:
    """The artefact's folder, from the cache or from MLflow; `elsewhere` takes the place of MLflow's client."""
    folder = folder_of(model, cache)
    while not (folder / COMPLETE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if _download(model, folder, elsewhere or _download_by_mlflow):
            (folder / COMPLETE).touch()
        else:
            sleep(RETRY_SECONDS)
    return folder


def _download(model: ModelRef, folder: Path, elsewhere: Download) -> bool:
    """True when the artefact is there, False when MLflow does not answer."""
    uri = f"models:/{model.name}/{model.version}"
    try:
        _download_somehow(model, uri, folder, elsewhere)
    except Unanswered as exc:
        log.warning("MLflow did not answer uri=%s error=%s", model.tracking_uri, exc)
        return False
    if not (folder / "MLmodel").exists():
        raise ProgramError(FailureReason.ARTIFACT_MISSING, f"{uri} has no MLmodel file: its artefact is gone")
    return True


class Unanswered(Exception):
    """The registry has a bad day."""


def _download_somehow(model: ModelRef, uri: str, folder: Path, elsewhere: Download) -> None:
    try:
        proxied.download(model, folder)
    except proxied.NotProxied:
        elsewhere(model, uri, folder)
    except urllib.error.HTTPError as exc:
        if exc.code in MISSING:
            raise ProgramError(FailureReason.ARTIFACT_MISSING, f"{uri} has no artefact: status {exc.code}") from exc
        raise Unanswered(f"status {exc.code}") from exc
    except (OSError, ValueError) as exc:
        raise Unanswered(type(exc).__name__) from exc


def _download_by_mlflow(model: ModelRef, uri: str, folder: Path) -> None:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(model.tracking_uri)
    try:
        mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
    except MlflowException as exc:
        if exc.get_http_status_code() in MISSING:
            raise ProgramError(FailureReason.ARTIFACT_MISSING, f"{uri} has no artefact: {exc.message}") from exc
        raise Unanswered(exc.error_code) from exc
    except OSError as exc:
        raise ProgramError(FailureReason.ARTIFACT_MISSING, f"{uri}: {exc}") from exc


def _sleep_while_wanted(parent: int) -> Callable[[float], None]:
    """A pause that ends the process when its parent has gone."""

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if os.getppid() != parent:
            sys.exit(1)

    return sleep


def main(config_path: str, cache: str) -> int:
    """Fetch, unless another worker has."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = RuntimeConfig.model_validate_json(Path(config_path).read_bytes())
    with _alone(Path(cache)):
        try:
            for model in config.models:
                fetch(model, Path(cache), _sleep_while_wanted(os.getppid()))
        except ProgramError as exc:
            sys.stdout.write(exc.failure.model_dump_json())
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
