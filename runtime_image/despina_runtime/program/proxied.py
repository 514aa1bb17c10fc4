"""Files that an MLflow server hands out itself (`mlflow-artifacts:`, its default), over its REST API.

MLflow's own client does the same after six seconds of imports. It still serves every other store (S3, GCS, Azure, …)
and every set-up with client certificates or signing.
Reference: https://mlflow.org/docs/latest/api_reference/rest-api.html and its `mlflow-artifacts` routes.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode

from despina.wire import ModelRef

SCHEME = "mlflow-artifacts:/"
TIMEOUT_SECONDS = 20
PLAIN_SETTINGS = {
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
}


class NotProxied(Exception):
    """This store, or this set-up, is for MLflow's own client."""


def download(model: ModelRef, folder: Path) -> None:
    """All files of a model version.

    Raises:
        NotProxied: use MLflow's client.
        urllib.error.HTTPError: the server refused, with its status.
        OSError: the server did not answer.
    """
    if any(k.startswith("MLFLOW_TRACKING_") and k not in PLAIN_SETTINGS for k in os.environ):
        raise NotProxied
    asked = urlencode({"name": model.name, "version": model.version})
    uri = _json(model, f"mlflow/model-versions/get-download-uri?{asked}").get("artifact_uri", "")
    if not uri.startswith(SCHEME) or uri.startswith(f"{SCHEME}/"):
        raise NotProxied
    _folder(model, PurePosixPath(uri.removeprefix(SCHEME)), folder)


def _folder(model: ModelRef, source: PurePosixPath, target: Path) -> None:
    for entry in _json(model, f"mlflow-artifacts/artifacts?{urlencode({'path': str(source)})}").get("files", ()):
        name = PurePosixPath(entry["path"]).name
        if name in ("", ".", ".."):
            continue
        if entry.get("is_dir"):
            (target / name).mkdir()
            _folder(model, source / name, target / name)
        else:
            with (
                _open(model, f"mlflow-artifacts/artifacts/{quote(str(source / name))}") as response,
                (target / name).open("wb") as out,
            ):
                shutil.copyfileobj(response, out)


def _json(model: ModelRef, path: str) -> dict:  # type: ignore[type-arg]
    with _open(model, path) as response:
        found: dict = json.load(response)  # type: ignore[type-arg]
        return found


def _open(model: ModelRef, path: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - urllib names no public type
    url = f"{model.tracking_uri.rstrip('/')}/api/2.0/{path}"
    request = urllib.request.Request(url, headers=_credentials())  # noqa: S310 - http or https by the CRD's pattern
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310


def _credentials() -> dict[str, str]:
    """As MLflow's client takes them from the environment."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    return {}
