"""Fetching a model version's files, in a process of its own: `python -m despina_runtime.program.fetch CONFIG CACHE`.

It goes on beside the worker's own imports; where it needs MLflow's client, that is gone from memory afterwards.
The files are kept in a folder that outlives the container, not the pod: a container that restarts loads without MLflow.
What is wrong is said on standard output, as a `Failure`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import itertools
import logging
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from despina.wire import Failure, FailureReason, ModelRef, RuntimeConfig
from despina.wire.logs import LOG_FORMAT_ENV, set_up
from despina_runtime.program import proxied
from despina_runtime.program.unservable import ProgramError
from despina_runtime.tracking import Lacking, credentials, told

log = logging.getLogger(__name__)
COMPLETE = ".complete"
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Between tries, in seconds; the last one for as long as it takes."""
TRIES = 4
"""Where it is not MLflow's silence that makes them fail."""
MISSING = (400, 404)
"""MLflow says 404 for what is not there, or 400, and anything else for a bad day."""
SILENCE = (
    urllib.error.URLError,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    http.client.HTTPException,
    ValueError,  # what is no JSON is a proxy's, which stands where MLflow should
)


def folder_of(model: ModelRef, cache: Path) -> Path:
    """Where a version's files are kept. A number that was given again, or by another server, is another version."""
    server = hashlib.sha256(model.tracking_uri.encode()).hexdigest()[:8]
    return cache / "models" / server / model.name / f"{model.version}-{model.created_at or 0}"


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


Download = Callable[[ModelRef, str, Path, str | None], None]
"""Takes a version, its URI, where its files shall be, and the folder of the program's own credentials."""


def fetch_beside(config: RuntimeConfig, cache: Path, sleep: Callable[[float], None]) -> None:
    """All that a configuration needs, from a thread of a process that serves: where MLflow's client is needed, that is
    imported elsewhere."""

    def refuse(*_: object) -> None:
        raise proxied.NotProxied

    try:
        with _alone(cache):
            for model in config.models:
                fetch(model, cache, sleep, refuse, config.mlflow_credentials_dir)
    except proxied.NotProxied:
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=cache) as file:
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
    model: ModelRef,
    cache: Path,
    sleep: Callable[[float], None] = time.sleep,
    elsewhere: Download | None = None,
    secret: str | None = None,
) -> Path:
    """The artefact's folder, from the cache or from MLflow; `elsewhere` takes the place of MLflow's client, and
    `secret` is the folder of the program's own credentials.

    A registry that does not answer is waited for: nothing is wrong with the version. So are credentials.
    """
    folder, uri = folder_of(model, cache), f"models:/{model.name}/{model.version}"
    pauses, troubles = itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])), 0
    while not (folder / COMPLETE).exists():
        try:
            _download(model, uri, folder, elsewhere or _download_by_mlflow, secret)
        except (Unanswered, Lacking) as exc:
            log.warning("MLflow did not answer uri=%s error=%s", model.tracking_uri, exc)
            sleep(next(pauses))
        except OSError as exc:
            troubles += 1
            log.warning("The artefact could not be fetched uri=%s error=%s", uri, exc)
            if troubles == TRIES:
                raise ProgramError(FailureReason.LOAD_FAILED, f"{uri} could not be fetched: {exc}") from exc
            sleep(next(pauses))
    return folder


def _download(model: ModelRef, uri: str, folder: Path, elsewhere: Download, secret: str | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _download_somehow(model, uri, folder, elsewhere, secret)
    if not (folder / "MLmodel").exists():
        raise ProgramError(FailureReason.ARTIFACT_MISSING, f"{uri} has no MLmodel file: its artefact is gone")
    (folder / COMPLETE).touch()


class Unanswered(Exception):
    """The registry has a bad day."""


def _download_somehow(model: ModelRef, uri: str, folder: Path, elsewhere: Download, secret: str | None) -> None:
    try:
        proxied.download(model, folder, credentials(secret))
    except proxied.NotProxied:
        elsewhere(model, uri, folder, secret)
    except urllib.error.HTTPError as exc:
        if exc.code in MISSING:
            raise ProgramError(FailureReason.ARTIFACT_MISSING, f"{uri} has no artefact: status {exc.code}") from exc
        raise Unanswered(f"status {exc.code}") from exc
    except SILENCE as exc:
        raise Unanswered(type(exc).__name__) from exc


def _download_by_mlflow(model: ModelRef, uri: str, folder: Path, secret: str | None) -> None:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    mlflow.set_tracking_uri(model.tracking_uri)
    try:
        with told(model.tracking_uri, secret):
            mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
    except Lacking:
        raise
    except Exception as exc:  # a store's own client raises what it likes
        raise _meaning(uri, exc) from exc


def _meaning(uri: str, exc: Exception) -> Exception:
    """What an error of MLflow's client, or of a store's, stands for."""
    import requests
    from mlflow.exceptions import MlflowException

    words = str(exc) if isinstance(exc, OSError) and exc.errno else type(exc).__name__  # others' may hold a signed URL
    status = getattr(getattr(exc, "response", None), "status_code", None)
    if isinstance(exc, MlflowException):
        status, words = exc.get_http_status_code(), exc.message
    if status in MISSING or isinstance(exc, FileNotFoundError | NotADirectoryError):
        return ProgramError(FailureReason.ARTIFACT_MISSING, f"{uri} has no artefact: {words}")
    if isinstance(exc, MlflowException | requests.RequestException | ConnectionError | TimeoutError):
        return Unanswered(getattr(exc, "error_code", type(exc).__name__))
    return OSError(words)


def _sleep_while_wanted(parent: int) -> Callable[[float], None]:
    """A pause that ends the process when its parent has gone."""

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if os.getppid() != parent:
            sys.exit(1)

    return sleep


def main(config_path: str, cache: str) -> int:
    """Fetch, unless another worker has."""
    set_up(os.environ.get(LOG_FORMAT_ENV))
    config = RuntimeConfig.model_validate_json(Path(config_path).read_bytes())
    with _alone(Path(cache)):
        try:
            for model in config.models:
                sleep = _sleep_while_wanted(os.getppid())
                fetch(model, Path(cache), sleep, secret=config.mlflow_credentials_dir)
        except ProgramError as exc:
            sys.stdout.write(exc.failure.model_dump_json())
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
