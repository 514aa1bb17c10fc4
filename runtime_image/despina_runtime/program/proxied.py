"""Files that an MLflow server hands out itself (`mlflow-artifacts:`, its default), over its REST API.

MLflow's own client does the same after six seconds of imports. It still serves every other store (S3, GCS, Azure, …)
and every set-up with client certificates or signing.
Reference: https://mlflow.org/docs/latest/api_reference/rest-api.html and its `mlflow-artifacts` routes.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from despina.api.credentials import NAMES, Credentials
from despina.wire import ModelRef

SCHEME = "mlflow-artifacts:/"
TIMEOUT_SECONDS = 20
PLAIN_SETTINGS = {"MLFLOW_TRACKING_URI", *NAMES}


class NotProxied(Exception):
    """This store, or this set-up, is for MLflow's own client."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A request shows credentials, which are for the server that it is meant for."""

    def redirect_request(self, *_: Any) -> None:
        """Leaves the answer as it is: an error, by its status."""


OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class MlflowServer:
    """An MLflow server, and what is shown to it."""

    uri: str
    headers: dict[str, str] = field(repr=False)

    def open(self, path: str) -> Any:
        """An answer, to be read."""
        url = f"{self.uri.rstrip('/')}/api/2.0/{path}"
        request = urllib.request.Request(url, headers=self.headers)  # noqa: S310 - http or https by the CRD's pattern
        return OPENER.open(request, timeout=TIMEOUT_SECONDS)

    def json(self, path: str) -> dict[str, Any]:
        """A document."""
        with self.open(path) as response:
            found: dict[str, Any] = json.load(response)
            return found


def download(model: ModelRef, folder: Path, credentials: Credentials) -> None:
    """All files of a model version.

    Raises:
        NotProxied: use MLflow's client.
        urllib.error.HTTPError: the server refused, with its status.
        OSError: the server did not answer.
    """
    if any(k.startswith("MLFLOW_TRACKING_") and k not in PLAIN_SETTINGS for k in os.environ):
        raise NotProxied
    server = MlflowServer(model.tracking_uri, credentials.headers)
    asked = urlencode({"name": model.name, "version": model.version})
    uri = server.json(f"mlflow/model-versions/get-download-uri?{asked}").get("artifact_uri", "")
    if not uri.startswith(SCHEME) or uri.startswith(f"{SCHEME}/"):
        raise NotProxied
    _folder(server, PurePosixPath(uri.removeprefix(SCHEME)), folder)


def _folder(server: MlflowServer, source: PurePosixPath, target: Path) -> None:
    for entry in server.json(f"mlflow-artifacts/artifacts?{urlencode({'path': str(source)})}").get("files", ()):
        name = PurePosixPath(entry["path"]).name
        if name in ("", ".", ".."):
            continue
        if entry.get("is_dir"):
            (target / name).mkdir()
            _folder(server, source / name, target / name)
        else:
            with (
                server.open(f"mlflow-artifacts/artifacts/{quote(str(source / name))}") as response,
                (target / name).open("wb") as out,
            ):
                shutil.copyfileobj(response, out)
