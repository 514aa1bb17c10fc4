"""What MLflow's registry takes, looked at before anything is written to it, and its refusals in a line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from despina_runtime.program.unservable import NotServable

NAME, ALIAS, OF_MLFLOW = r"(?!\.\.)[^/:]+", r"[\w-]{1,255}", r"(?i)latest|v\d+"
"""As MLflow's server has them; `latest` and `v1` are its own aliases."""
RETRIES, TIMEOUT = "2", "60"
"""MLflow's client would ask a server that is not there for four minutes."""


def check_names(model: str, alias: str | None) -> None:
    """Raise ValueError for what MLflow refuses: the alias only once the version has been made."""
    if not re.fullmatch(NAME, model) or model == "." or not model.strip():
        raise ValueError(f"MLflow takes no model of the name {model!r}: it may not be empty or hold / or :")
    if alias and not re.fullmatch(ALIAS, alias):
        raise ValueError(f"MLflow takes no alias {alias!r}: letters, digits, _ and - are allowed, 255 at most")
    if alias and re.fullmatch(OF_MLFLOW, alias):
        raise ValueError(f"MLflow takes no alias {alias!r}: `latest`, and `v` with a number, are its own")


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """What MLflow refuses, and that it does not answer, as NotServable."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT)
    import mlflow
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException

    try:
        yield
    except RestException as exc:
        raise NotServable(f"MLflow refuses: {' '.join(str(exc.message).split())}") from None
    except (MlflowException, RequestException) as exc:
        if not isinstance(exc, RequestException) and not isinstance(exc.__cause__ or exc.__context__, RequestException):
            raise NotServable(f"MLflow: {' '.join(str(exc.message).split())}") from None
        where = f"{mlflow.get_tracking_uri()}; MLFLOW_TRACKING_URI says where it is"
        raise NotServable(f"MLflow does not answer at {where}") from None
