"""A thin typed face on the Kubernetes dynamic client: the kinds that Despina uses and nothing else.

The paths of these kinds are known, so the client's discovery, a dozen requests at each start, is left out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError
from pydantic_core import from_json

from despina.api import API_VERSION
from despina.api.base import LABEL, LABEL_LENGTH, SUBDOMAIN, SUBDOMAIN_LENGTH, is_name
from despina.cluster.errors import Conflict, Gone, Refused, Unavailable, UnknownKind, error_for
from despina.telemetry import WRITES
from despina.wire import ADMIN_PORT, SIGNATURE_HEADER

Document = dict[str, Any]
Listed = tuple[list[Document], str]
FIELD_MANAGER = "despina"
STATUS_MANAGER = "despina-status"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
NO_PROXY = "the proxy's address is no URL: in a login, what is no letter, digit, - or _ is written as %XX"
TIMEOUT_SECONDS = 30
WATCH_SECONDS = 270
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

PATHS = {
    "DSPyProgram": (f"/apis/{API_VERSION}", "dspyprograms"),
    "DSPyTool": (f"/apis/{API_VERSION}", "dspytools"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "Pod": ("/api/v1", "pods"),
    "Event": ("/api/v1", "events"),
    "Job": ("/apis/batch/v1", "jobs"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
}
KINDS = {plural: kind for kind, (_, plural) in PATHS.items()}


class Cluster:
    """The API server, as far as Despina needs it."""

    def __init__(self, client: ApiClient) -> None:
        self._api = client
        self._dynamic = DynamicClient(client)

    @classmethod
    async def connect(cls, watches: int = 0) -> Self:
        """As a pod with its service account, or from KUBECONFIG. So many watches stay open, each on a connection that
        nothing else gets."""
        configuration = Configuration()
        try:
            if _is_in_pod():
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
            proxy = configuration.proxy or _proxy_of_environment(configuration.host)
            configuration.proxy, configuration.proxy_headers = _without_login(proxy) if proxy else (None, None)
        except (config.ConfigException, OSError, ValueError, yaml.YAMLError) as exc:
            raise Unavailable(f"no cluster is configured: {' '.join(str(exc).split())}") from exc
        # By itself, the session would look for a proxy and for ~/.netrc in two threads at every request, and would not
        # send a token beside what that file holds.
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.connection_pool_maxsize += watches
        return cls(ApiClient(configuration))

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> Document | None:
        """One object, or None."""
        try:
            return await self._call("get", _path(kind, namespace, name))
        except Gone:
            return None

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str | None]) -> list[Document]:
        """The objects that carry the labels; None: whatever the label says."""
        selector = ",".join(k if v is None else f"{k}={v}" for k, v in labels.items())
        answer = await self._call("get", _path(kind, namespace), label_selector=selector)
        items: list[Document] = answer["items"]
        return items

    async def listed(self, kind: str, namespace: str, **params: Any) -> Listed:
        """All objects of a kind, and the resourceVersion to watch from."""
        path = _path(kind, namespace)
        answer = await self._call("get", path, **params)
        try:
            return list(answer["items"] or ()), answer["metadata"]["resourceVersion"]
        except (KeyError, TypeError):
            raise Unavailable(f"GET {path}: the answer is no list") from None

    async def watched(self, kind: str, namespace: str, version: str, **params: Any) -> AsyncIterator[Document]:
        """What changes from a resourceVersion on: documents with `type` and `object`, until the API server ends it."""
        what = f"WATCH {_path(kind, namespace)}"
        try:
            response = await self._dynamic.request(
                "get",
                _path(kind, namespace),
                serialize=False,
                watch="true",
                resource_version=version,
                timeout_seconds=WATCH_SECONDS,
                _request_timeout=WATCH_SECONDS + TIMEOUT_SECONDS,
                **params,
            )
            async with response:
                async for line in response.content:
                    yield json.loads(line)
        except DynamicApiError as exc:
            raise error_for(exc.status, what, _said(exc) or str(exc.reason)) from exc
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, RecursionError) as exc:
            raise Unavailable(f"{what}: {_words_of(exc)}") from exc

    async def post(self, path: str, document: Document) -> Document:
        """Ask something that is put as an object and is kept nowhere, such as a review."""
        return await self._call("post", path, document)

    async def patch_program(self, namespace: str, name: str, body: Document) -> None:
        """Change some words of a DSPyProgram, as its owner does."""
        await self._call("patch", _path("DSPyProgram", namespace, name), body, content_type=MERGE)

    def of_caller(self, token: str) -> Cluster:
        """The same API server, with somebody else's rights alone; to be closed."""
        own = self._api.configuration
        configuration = Configuration(host=own.host, api_key={"BearerToken": f"Bearer {token}"})
        for name in ("ssl_ca_cert", "ca_cert_data", "verify_ssl", "tls_server_name", "proxy", "proxy_headers"):
            setattr(configuration, name, getattr(own, name, None))
        configuration.client_session_kwargs = {"trust_env": False}
        return Cluster(ApiClient(configuration))

    async def namespace_labels(self, namespace: str) -> dict[str, str]:
        """The labels of a namespace; none for one that is not there."""
        try:
            found = await self._call("get", f"/api/v1/namespaces/{_namespace(namespace)}")
        except Gone:
            return {}
        labels: dict[str, str] = found["metadata"].get("labels") or {}
        return labels

    async def create(self, document: Document) -> None:
        """Make a new object; Conflict if there is one of its name."""
        kind, namespace, _ = _identity(document)
        await self._call("post", _path(kind, namespace), document, field_manager=FIELD_MANAGER)

    async def apply(self, document: Document) -> Document:
        """Server-side apply, taking over fields that others set; Conflict if it names another resourceVersion than the
        object has."""
        return await self._apply(_path(*_identity(document)), document, FIELD_MANAGER)

    async def apply_status(self, document: Document) -> Document:
        """Server-side apply of the status subresource; what is left out is removed."""
        return await self._apply(_path(*_identity(document)) + "/status", document, STATUS_MANAGER)

    async def label(self, kind: str, namespace: str, name: str, version: str, labels: dict[str, str]) -> Document:
        """Set labels of an object, and nothing else."""
        return await self._merge(_path(kind, namespace, name), {"metadata": {"labels": labels, **_seen(version)}})

    async def scale(self, namespace: str, deployment: str, version: str | None, replicas: int) -> Document:
        """Set a Deployment's size. `version` is the resourceVersion that was read, here and below."""
        body = {"metadata": _seen(version), "spec": {"replicas": replicas}}
        return await self._merge(_path("Deployment", namespace, deployment) + "/scale", body)

    async def annotate(
        self, namespace: str, deployment: str, version: str | None, annotations: dict[str, str]
    ) -> Document:
        """Set annotations of a Deployment."""
        body = {"metadata": {"annotations": annotations, **_seen(version)}}
        return await self._merge(_path("Deployment", namespace, deployment), body)

    async def restart(
        self, namespace: str, deployment: str, version: str | None, pod_notes: dict[str, str], notes: dict[str, str]
    ) -> Document:
        """Have a Deployment replace its pods, as `kubectl rollout restart` does; `notes` are set on it in one write."""
        template = {"metadata": {"annotations": pod_notes}}
        body = {"metadata": {"annotations": notes, **_seen(version)}, "spec": {"template": template}}
        return await self._merge(_path("Deployment", namespace, deployment), body)

    async def delete(self, kind: str, namespace: str, name: str, version: str | None = None) -> None:
        """Delete in the background; an object that is gone already is fine."""
        options = {"preconditions": {"resourceVersion": version}} if version else None
        try:
            await self._call("delete", _path(kind, namespace, name), options, propagation_policy="Background")
        except Gone:
            return

    async def ensure_secret(
        self, namespace: str, name: str, data: Mapping[str, bytes], serves: Callable[[Mapping[str, bytes]], bool]
    ) -> Mapping[str, bytes]:
        """The Secret's data. Where it does not serve, or there is none, `data` is put into it; of two operators, the
        first one's counts."""
        while True:
            found = await self.get("Secret", namespace, name)
            stored = {k: base64.b64decode(v) for k, v in ((found or {}).get("data") or {}).items()}
            if found and serves(stored):
                return stored
            with contextlib.suppress(Conflict, Gone):  # somebody else was there first: look again
                await self._put_secret(namespace, name, data, found)

    async def _put_secret(self, namespace: str, name: str, data: Mapping[str, bytes], found: Document | None) -> None:
        encoded = {k: base64.b64encode(v).decode() for k, v in data.items()}
        if found is None:
            meta = {"name": name, "namespace": namespace}
            await self.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": encoded})
            return
        unchanged = {"resourceVersion": found["metadata"]["resourceVersion"]}
        await self._merge(_path("Secret", namespace, name), {"metadata": unchanged, "data": encoded})

    async def _apply(self, path: str, document: Document, manager: str) -> Document:
        return await self._call(
            "patch", path, document, content_type=APPLY, field_manager=manager, force_conflicts="true"
        )

    async def _merge(self, path: str, body: Document) -> Document:
        return await self._call("patch", path, body, content_type=MERGE, field_manager=FIELD_MANAGER)

    async def _call(self, method: str, path: str, body: Document | None = None, **params: Any) -> Document:
        what = f"{method.upper()} {path}"
        try:
            response = await self._dynamic.request(
                method, path, body=body, serialize=False, _request_timeout=TIMEOUT_SECONDS, **params
            )
            # Not `from_json`, which reads no object that is nested as deep as an API server takes.
            answer: Document = json.loads(await response.read())
        except RecursionError:
            raise Unavailable(f"{what}: the answer is nested too deep to be read") from None
        except DynamicApiError as exc:
            if exc.status == 404 and _said(exc) is None:
                raise UnknownKind(f"{what}: {exc.reason}") from exc
            raise error_for(exc.status, what, _said(exc) or str(exc.reason)) from exc
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise Unavailable(f"{what}: {_words_of(exc)}") from exc
        except ValueError:
            raise Unavailable(f"{what}: the answer is no JSON") from None
        if method != "get":
            WRITES.labels(*kind_and_verb(method, path)).inc()
        return answer


def kind_and_verb(method: str, path: str) -> tuple[str, str]:
    """What a write is about, such as Deployment/scale, and Kubernetes' word for it."""
    _, plural, _, part = f"{path.partition('/namespaces/')[2]}///".split("/")[:4]
    kind = KINDS.get(plural, "other")
    return f"{kind}/{part}" if part else kind, "create" if method == "post" else method


def _words_of(exc: Exception) -> str:
    """What everybody may read who sees a program's status: no address, which may hold a proxy's password."""
    if isinstance(exc, aiohttp.ClientResponseError):
        return f"{exc.status} {exc.message}"
    return type(exc).__name__ if isinstance(exc, aiohttp.InvalidURL) else str(exc) or type(exc).__name__


def _seen(version: str | None) -> Document:
    return {"resourceVersion": version} if version else {}


class Onlooker(Cluster):
    """The API server for a person who only looks: nothing is written, and no Secret is read."""

    async def get(self, kind: str, namespace: str, name: str) -> Document | None:
        """One object, or None; a Secret is never asked for. Whoever looks is told that there is no such kind: it may be
        the wrong cluster."""
        if kind == "Secret":
            return None
        try:
            return await self._call("get", _path(kind, namespace, name))
        except UnknownKind:
            text = f"the API server knows no {kind}: is this the right cluster, and is Despina installed there?"
            raise UnknownKind(text) from None
        except Gone:
            return None

    async def pod_says(self, namespace: str, pod: str, path: str, signature: str) -> Document:
        """What a pod answers on its admin port, through the API server."""
        address = f"{_path('Pod', namespace, pod)}:{ADMIN_PORT}/proxy{path}"
        return await self._call("get", address, header_params={SIGNATURE_HEADER: signature})

    async def _call(self, method: str, path: str, body: Document | None = None, **params: Any) -> Document:
        if method != "get":
            raise Refused(f"{method.upper()} {path}: this one only looks")
        return await super()._call(method, path, body, **params)


def present_namespace() -> str:
    """That of the kubeconfig's present context, or of the pod that this runs in."""
    if _is_in_pod():
        return OWN_NAMESPACE.read_text()
    try:
        _, present = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
    except (config.ConfigException, OSError, ValueError, yaml.YAMLError):
        return "default"  # connecting says what is wrong
    return str(present["context"].get("namespace", "default"))


def _proxy_of_environment(address: str) -> str | None:
    parts = urlsplit(address)
    host = parts.hostname or ""
    with contextlib.suppress(ValueError):
        host = str(ip_address(host))
    return None if proxy_bypass(host) else getproxies().get(parts.scheme)


def _without_login(proxy: str) -> tuple[str, dict[str, str] | None]:
    """A proxy's address, and the header that has its login: errors quote addresses."""
    try:
        parts = urlsplit(proxy)
    except ValueError:
        raise ValueError(NO_PROXY) from None  # what is wrong with it may be in its password
    login, at, place = parts.netloc.rpartition("@")
    if not at:
        if "@" in proxy:  # a password with a slash: what stands before that is taken to be the host
            raise ValueError(NO_PROXY)
        return proxy, None
    login = unquote(login if ":" in login else f"{login}:")
    header = {"Proxy-Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    return parts._replace(netloc=place).geturl(), header


def _is_in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


def _path(kind: str, namespace: str, name: str | None = None) -> str:
    """Where an object, or all of its kind, is found. Names come from manifests too, so they are looked at first."""
    prefix, plural = PATHS[kind]
    folder = f"{prefix}/namespaces/{_namespace(namespace)}/{plural}"
    return folder if name is None else f"{folder}/{_checked(name, 'name', SUBDOMAIN, SUBDOMAIN_LENGTH)}"


def _namespace(name: str) -> str:
    return _checked(name, "namespace", LABEL, LABEL_LENGTH)


def _checked(name: str, what: str, pattern: str, length: int) -> str:
    if not is_name(name, pattern, length):
        raise Refused(f"{name[:80]!r} is no {what} of an object")
    return name


def _identity(document: Document) -> tuple[str, str, str]:
    meta = document["metadata"]
    return document["kind"], meta["namespace"], meta["name"]


def _said(exc: DynamicApiError) -> str | None:
    """The API server's own sentence; its bodies hold no secrets of ours, for we send none but one key. It says
    nothing of a path that it does not know."""
    try:
        return str(from_json(exc.body)["message"])
    except (TypeError, ValueError, KeyError):
        return None
