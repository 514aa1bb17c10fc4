"""Asking an MLflow server, and whom the operator tells it that it is.

A few requests of MLflow's REST API are all it takes, so the mlflow package (1.9 s to import, 40 MB) is not
used here; https://mlflow.org/docs/latest/rest-api.html describes them.

Anybody who may make a program names the server that is asked for it. The operator's own credentials therefore go to
the server that they were given for and to no other, no redirect is followed, and no cookie is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from despina.api.conditions import Reason
from despina.api.credentials import NOBODY, Credentials, is_within
from despina.sources.answers import MOST_BYTES, PLAIN, TooLong, body_of, no_cookies

API = "/api/2.0/mlflow"
ANSWER_SECONDS = 20.0
"""For a whole answer; servers are asked apart from any pass."""
OF_PROGRAM = "the program's credentials (spec.source.mlflow.credentialsSecretRef)"
OF_OPERATOR = "the operator's credentials"
OF_NOBODY = "a request without credentials: set spec.source.mlflow.credentialsSecretRef"


class Trouble(Exception):
    """A server gave no answer that can be used; the text says why, without any secret."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class Silence(Trouble):
    """A server did not answer at all."""


class Overlong(Silence):
    """An answer is longer than anybody reads."""


class Absent(Trouble):
    """There is no such thing on the server."""


Method = Literal["GET", "POST"]
Millis = Annotated[int, Field(ge=0, lt=2**63)]
"""Since the epoch."""
MOST_LATEST = 20
"""MLflow names one for each of its four stages."""


def _if_readable(found: Any, read: Callable[[Any], Any]) -> Any:
    """What only saves a request is not required: nothing where it cannot be read."""
    try:
        return read(found[:MOST_LATEST] if isinstance(found, list) else [])
    except ValidationError:
        return []


def _all_or_none(found: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(found)
    except ValidationError:
        return None


class _Alias(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    alias: str
    version: str


class _Times(BaseModel):
    creation_timestamp: Millis | None = None
    last_updated_timestamp: Millis | None = None


class _Latest(_Times):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    version: str


class _Model(_Times):
    aliases: list[_Alias] | None = None
    latest_versions: Annotated[list[_Latest], WrapValidator(_if_readable)] = []


class _ModelAnswer(BaseModel):
    registered_model: _Model


class _Tag(BaseModel):
    key: str
    value: str = ""


class _Version(_Times):
    tags: Annotated[list[_Tag] | None, WrapValidator(_all_or_none)] = []


class _VersionAnswer(BaseModel):
    model_version: _Version = _Version()


@dataclass(frozen=True)
class Model:
    """A registered model."""

    aliases: Mapping[str, str]
    stamp: Mapping[str, Any] | None
    """While it stays the same, so do the model's versions; None where the server does not tell. A version that is
    deleted and made anew changes when the model was last updated; moving an alias need not."""
    created: Mapping[str, int] = field(default_factory=dict)
    """When its latest versions were made, in milliseconds since the epoch: a release is one of them as a rule."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    created: int | None
    """When it was made, in milliseconds since the epoch, if the server tells."""
    tags: Mapping[str, str] | None
    """None where they cannot be read."""


def make_client(timeout: float | httpx.Timeout) -> httpx.AsyncClient:
    """A client that keeps no cookies and follows no redirect. Pods that wait with their answers hold no others up."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        timeout=timeout, limits=limits, follow_redirects=False, cookies=no_cookies(), headers=PLAIN
    )


class Tracking:
    """MLflow servers, as far as the operator asks them."""

    def __init__(self, client: httpx.AsyncClient, home: str | None = None, own: Credentials = NOBODY) -> None:
        self._client = client
        self._home = _parsed(home) if home else None
        self._own = own

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def model(self, server: str, name: str, own: Credentials | None) -> Model:
        """A registered model; raises Trouble."""
        try:
            found = await self.ask("GET", server, f"{API}/registered-models/get", own, params={"name": name})
            model = _ModelAnswer.model_validate_json(found).registered_model
        except Absent:
            raise Trouble(Reason.MODEL_NOT_FOUND, f"{server} has no model {name!r}") from None
        except ValidationError:
            raise unlike_mlflow(server) from None
        is_told = model.creation_timestamp is not None and model.last_updated_timestamp is not None
        stamp = model.model_dump(exclude={"aliases"}) if is_told else None
        made = {v.version: at for v in model.latest_versions if (at := v.creation_timestamp) is not None}
        return Model({a.alias: a.version for a in model.aliases or ()}, stamp, made)

    async def version(self, server: str, name: str, own: Credentials | None, version: str) -> Version:
        """A version of a registered model; raises Trouble."""
        params = {"name": name, "version": version}
        try:
            answer = await self.ask("GET", server, f"{API}/model-versions/get", own, params=params)
            found = _VersionAnswer.model_validate_json(answer).model_version
        except Absent:
            raise Trouble(Reason.VERSION_NOT_FOUND, f"model {name!r} has no version {version}") from None
        except ValidationError:
            raise unlike_mlflow(server) from None
        tags = {tag.key: tag.value for tag in found.tags} if found.tags is not None else None
        return Version(found.creation_timestamp, tags)

    async def ask(
        self,
        method: Method,
        server: str,
        path: str,
        own: Credentials | None,
        *,
        params: Mapping[str, str] | None = None,
        document: Mapping[str, Any] | None = None,
        most: int = MOST_BYTES,
    ) -> bytes:
        """The answer to a request, as it was sent; raises Trouble. `own` are the program's credentials."""
        try:
            request = self._client.build_request(method, f"{server}{path}", params=params, json=document)
            credentials, whose = (own, OF_NOBODY if own == NOBODY else OF_PROGRAM) if own else self._for(request.url)
            request.headers.update(credentials.headers)
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await self._client.send(request, stream=True)
                async with contextlib.aclosing(response):
                    content = await body_of(response, most)
        except Exception as exc:  # whatever an address in a manifest leads to must not end the polling
            text = f"{server}: {type(exc).__name__}; asked again by itself"
            kind = Overlong if isinstance(exc, TooLong) else Silence
            raise kind(Reason.REGISTRY_UNREACHABLE, text) from None
        if response.status_code in (401, 403):
            text = f"{server} answered {response.status_code} to {whose}"
            raise Trouble(Reason.REGISTRY_DENIED, text)
        return _checked(response, content, server)

    def _for(self, url: httpx.URL) -> tuple[Credentials, str]:
        """What is shown there for a program that brings nothing of its own, and whose it is."""
        is_home = self._home is not None and is_within(str(url), self._home)
        return (self._own, OF_OPERATOR) if is_home and self._own.headers else (NOBODY, OF_NOBODY)


def _parsed(uri: str) -> str:
    """An address as this client reads it, in ASCII."""
    try:
        return str(httpx.URL(uri))
    except (httpx.InvalidURL, ValueError):
        return uri


def _checked(response: httpx.Response, content: bytes, server: str) -> bytes:
    """An answer as it was sent: neither the character set that it claims nor how deep it nests can do any harm."""
    status = response.status_code
    if status == 404 and b"RESOURCE_DOES_NOT_EXIST" in content:
        raise Absent(Reason.REGISTRY_UNREACHABLE, f"{server} has no such thing")
    if response.is_redirect:
        text = f"{server} answered {status}: no redirect is followed, name the address that it leads to"
        raise Trouble(Reason.REGISTRY_UNREACHABLE, text)
    if not response.is_success:
        raise Trouble(Reason.REGISTRY_UNREACHABLE, f"{server} answered {status}; asked again by itself")
    return content


def unlike_mlflow(server: str) -> Trouble:
    """What answers is something else."""
    return Trouble(Reason.REGISTRY_UNREACHABLE, f"{server} does not answer like MLflow")
