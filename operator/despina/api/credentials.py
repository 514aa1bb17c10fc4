"""Credentials for an MLflow server, by the names that MLflow's own client gives them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
NAMES = (USERNAME, PASSWORD, TOKEN)
HEADER_VALUE = re.compile(r"[!-~]+")
DEFAULT_PORTS = {"http": 80, "https": 443}
WANTED = f"{TOKEN}, or {USERNAME} and {PASSWORD}"


@dataclass(frozen=True)
class Credentials:
    """What a client shows of itself. They can be told apart and compared, and never seen in a log."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """From an environment, or what is like one."""
        return cls(*(values.get(name, "").strip() for name in NAMES))

    @property
    def problem(self) -> str:
        """Why nothing can be shown, as the end of a sentence whose subject holds them; empty when it can."""
        if self.username and self.password:
            return ""
        if not self.token:
            return f"holds neither {TOKEN}, nor {USERNAME} and {PASSWORD}"
        return "" if HEADER_VALUE.fullmatch(self.token) else f"holds a {TOKEN} that does not fit into a header"

    @property
    def headers(self) -> dict[str, str]:
        """As MLflow's client sends them: a name and a password go before a token."""
        if self.problem:
            return {}
        if self.username and self.password:
            pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {"Authorization": f"Bearer {self.token}"}


NOBODY = Credentials()


def server_of(uri: str) -> str:
    """A server's one spelling, whichever way its address is written."""
    try:
        url = urlsplit(uri)
        port = "" if url.port in (None, DEFAULT_PORTS.get(url.scheme)) else f":{url.port}"
    except ValueError:
        return uri
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}{port}{url.path.rstrip('/')}" if host else uri


def is_within(url: str, server: str) -> bool:
    """Whether a request's address, as a client has parsed it, is a server's; one host may have several, told apart by
    their paths."""
    try:
        asked, own = urlsplit(url), urlsplit(server)
        if _origin(asked) != _origin(own) or "@" in asked.netloc:
            return False
    except ValueError:
        return False
    base = own.path.rstrip("/")
    return not base or (asked.path.startswith(f"{base}/") and not _climbs(asked.path))


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)


def _climbs(path: str) -> bool:
    """Whether anybody on the way could read it as one that leads out of a folder."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return any(part.partition(";")[0] in (".", "..") for part in re.split(r"[/\\]", path))
