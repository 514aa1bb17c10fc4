"""As whom MLflow is asked: with the program's own credentials, read anew at each use, or with the environment's.

A program's own are for its tracking server alone. MLflow's client would show what its environment holds to every
server that it is led to (an artefact's location is anybody's word), so it gets them by its plug-in for requests'
auth, which sees each address: `MLFLOW_TRACKING_AUTH`, and the entry point in pyproject.toml.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from despina.api.credentials import NAMES, NOBODY, Credentials, is_within

AUTH_ENV, AUTH_NAME = "MLFLOW_TRACKING_AUTH", "despina"


def without_passwords(text: str) -> str:
    """A text of others, whose addresses may hold a user and a password."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


class Lacking(Exception):
    """The mounted Secret holds nothing usable yet; the text shows no value."""


def credentials(folder: str | None) -> Credentials:
    """Those of a mounted Secret, which follows a rotation; without one, those of the environment. Raises Lacking."""
    if folder is None:
        return Credentials.of(os.environ)
    found = Credentials.of({name: _text(Path(folder) / name) for name in NAMES})
    if found.problem:
        raise Lacking(f"Secret {Path(folder).name} {found.problem}")
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


_told: tuple[str, Credentials] = ("", NOBODY)
"""A server, and what MLflow's client shows to it."""


@contextlib.contextmanager
def told(server: str, folder: str | None) -> Iterator[None]:
    """MLflow's client, in this process, asks that server with a program's own credentials; raises Lacking."""
    global _told
    if folder is None:
        yield
        return
    before, environment = _told, {name: os.environ.pop(name, None) for name in (*NAMES, AUTH_ENV)}
    try:
        _told = server, credentials(folder)
        os.environ[AUTH_ENV] = AUTH_NAME
        yield
    finally:
        _told = before
        os.environ.pop(AUTH_ENV, None)
        os.environ.update({name: value for name, value in environment.items() if value is not None})


class OwnServerOnly:
    """What MLflow's client takes for a plug-in."""

    def get_name(self) -> str:
        """As `MLFLOW_TRACKING_AUTH` names it."""
        return AUTH_NAME

    def get_auth(self) -> Callable[[Any], Any]:
        """What requests calls with each request."""
        return _show


def _show(request: Any) -> Any:
    server, own = _told
    if is_within(request.url, server):
        request.headers.update(own.headers)
    return request
