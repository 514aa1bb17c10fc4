"""Asking an MLflow server, and whom the operator tells it that it is.

Two GET requests of MLflow's REST API are all it takes, so the mlflow package (1.9 s to import, 40 MB) is not
used here; https://mlflow.org/docs/latest/rest-api.html describes them.

Anybody who may make a program names the server that is asked for it. The operator's own credentials therefore go to
the server that they were given for and to no other, no redirect is followed, and no cookie is kept.
"""

from __future__ import annotations

import re
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from despina.api.conditions import Reason
from despina.api.credentials import NOBODY, Credentials

API = "/api/2.0/mlflow"
PLAIN_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
DEFAULT_PORTS = {"http": 80, "https": 443}


class Trouble(Exception):
    """A server gave no answer that can be used; the text says why, without any secret."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def make_client(timeout: float) -> httpx.AsyncClient:
    """A client that keeps no cookies: a session that one's credentials opened must not let in another."""
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, cookies=jar)


def is_within(url: httpx.URL, home: httpx.URL) -> bool:
    """Whether a request goes to a server, which may be one of several behind one host, told apart by their paths."""
    if _origin(url) != _origin(home) or url.userinfo:
        return False
    path, base = url.raw_path.decode("ascii").partition("?")[0], home.path.rstrip("/")
    return _is_plain(path) and path.startswith(f"{base}/")


def _is_plain(path: str) -> bool:
    """Whether a path means the same to everybody who reads it on the way."""
    return bool(PLAIN_PATH.fullmatch(path)) and not {".", ".."}.intersection(path.split("/"))


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port or DEFAULT_PORTS.get(url.scheme)


class Tracking:
    """MLflow servers, as far as the operator asks them."""

    def __init__(self, client: httpx.AsyncClient, home: str | None = None, own: Credentials = NOBODY) -> None:
        self._client = client
        self._home = httpx.URL(home) if home else None
        self._own = own

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, server: str, path: str, params: dict[str, str]) -> Any:
        """One document; raises Trouble."""
        try:
            request = self._client.build_request("GET", f"{server}{API}{path}", params=params)
            request.headers.update(self._credentials(request.url).headers)
            response = await self._client.send(request)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            text = f"{server}: {type(exc).__name__}; asked again by itself"
            raise Trouble(Reason.REGISTRY_UNREACHABLE, text) from None
        return _document(response, server, params["name"])

    def _credentials(self, url: httpx.URL) -> Credentials:
        return self._own if self._home and is_within(url, self._home) else NOBODY


def _document(response: httpx.Response, server: str, model: str) -> Any:
    status = response.status_code
    if status in (401, 403):
        raise Trouble(Reason.REGISTRY_DENIED, f"{server} answered {status}")
    if status == 404 and "RESOURCE_DOES_NOT_EXIST" in response.text:
        raise Trouble(Reason.MODEL_NOT_FOUND, f"{server} has no model {model!r}")
    if response.is_redirect:
        text = f"{server} answered {status}: no redirect is followed, name the address that it leads to"
        raise Trouble(Reason.REGISTRY_UNREACHABLE, text)
    if not response.is_success:
        raise Trouble(Reason.REGISTRY_UNREACHABLE, f"{server} answered {status}; asked again by itself")
    try:
        return response.json()
    except ValueError:
        raise Trouble(Reason.REGISTRY_UNREACHABLE, f"{server} does not answer like MLflow") from None
