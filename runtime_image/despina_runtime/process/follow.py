"""`serve -f`: one program from its manifest on this machine, without a cluster, following its alias.

A new version starts in a second worker process on the same socket. When it is ready the old one drains; when
it cannot be served, the old one goes on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from despina.api.program import MlflowSource, Program
from despina.api.revision import mlflow_credentials_dir, revision_of, runtime_config, secret_path, secret_refs
from despina.api.serving import SecretKeyRef
from despina.api.status import HistoryEntry, Quarantined
from despina.wire import PROGRAM_PATH, Failure, Figures, ModelRef, Order, PodState, RuntimeConfig
from despina.wire.logs import FACTS
from despina_runtime.http.server import make_server, open_port
from despina_runtime.process.admin import OrderDesk, build_admin
from despina_runtime.process.news import News
from despina_runtime.process.shown import document, quarantined, switched
from despina_runtime.process.supervisor import Crew, close_telemetry, prepare_folder, telemetry_of
from despina_runtime.program.unservable import NotServable
from despina_runtime.surroundings import on_signals, prepare_environment
from despina_runtime.telemetry.traces import Traces
from despina_runtime.tracking import Lacking, credentials

if TYPE_CHECKING:
    from despina_runtime.feedback.desk import FeedbackDesk

log = logging.getLogger(__name__)
DRAIN_SECONDS = 2
LOOPBACK = "127.0.0.1"
MISSING = (400, 404)
"""MLflow says 400, too, where there is no such alias."""
FIRST_TRY_SECONDS = 1.0


@dataclass
class Follower:
    """One program, its current workers, and the version that failed."""

    program: Program
    host: str
    port: int
    cache: Path
    secrets: Path
    poll_seconds: float
    current: Crew | None = None
    failed: str | None = None
    """Of the versions that were meant, the last one if it failed: once another was meant, it is tried again."""
    problem: str = ""
    """Why no version is known now, as it was told."""
    desk: FeedbackDesk | None = None
    traces: Traces | None = None
    """Where they go to a collector, or there is an admin port by which they are read."""
    admin_port: int | None = None
    """Of this machine alone. What programs' pods show, and the program itself as an operator would tell of it, for
    `despina dashboard --local`."""
    history: list[HistoryEntry] = field(default_factory=list)
    quarantined: Quarantined | None = None
    _began: float = field(default_factory=time.time)

    async def run(self) -> int:
        """Serve until SIGINT or SIGTERM."""
        prepare_environment()
        prepare_folder(self.cache)
        stop = asyncio.Event()
        on_signals(stop)
        try:
            listen = open_port(self.host, self.port)
        except OSError as exc:
            raise NotServable(f"nothing can listen at {self.host}, port {self.port}: {exc.strerror}") from None
        self._open_desk()
        shown = self._show()
        async with httpx.AsyncClient(base_url=tracking_uri(self.program), timeout=10) as client:
            while not stop.is_set():
                await self.look(client, listen)
                wait = self.poll_seconds if self.current else FIRST_TRY_SECONDS
                await self._pause(stop, wait)
        await self._end()
        if shown:
            shown.cancel()
        await close_telemetry(self.desk, self.traces, DRAIN_SECONDS)
        return 0

    async def look(self, client: httpx.AsyncClient, listen: socket.socket) -> None:
        """One poll."""
        version = await self._wanted(client)
        if version and version not in (self.failed, self._version()):
            await self._switch(version, listen)

    async def _wanted(self, client: httpx.AsyncClient) -> str | None:
        try:
            version = await wanted_version(client, self.program, self.secrets)
        except NotNamed as exc:
            self._tell(str(exc))
            return None
        self._tell("")
        if version != self.failed:
            self.failed = self.quarantined = None
        return version

    def _tell(self, problem: str) -> None:
        """Once, and not at each poll."""
        if problem and problem != self.problem:
            log.warning("%s", problem)
        elif self.problem and not problem:
            log.info("MLflow says again which version is meant")
        self.problem = problem

    def _open_desk(self) -> None:
        """For what callers say, and for traces; one for all versions, for a label may be about an earlier one."""
        config = self._config("0")
        self.desk, traces = telemetry_of(config, self.cache, 0)
        if traces.are_exported or self.admin_port is not None:
            self.traces, traces.boot = traces, uuid.uuid4().hex
        elif self.desk:
            self.desk.on_spoken = None
        if self.desk:
            self.desk.start()

    def _show(self) -> asyncio.Task[None] | None:
        """To who looks on this machine; pages of others that a browser is led here by are not answered."""
        if self.admin_port is None:
            return None
        try:
            port = open_port(LOOPBACK, self.admin_port)
        except OSError as exc:
            raise NotServable(f"nothing can listen at {LOOPBACK}, port {self.admin_port}: {exc.strerror}") from None
        app = build_admin(
            lambda: bool(self.current and self.current.is_ready),
            OrderDesk(self.program.namespace, "", (), ""),
            _obey_nobody,
            self._state,
            News(self._state),
            lambda revision: self.current.told("interfaces", revision) if self.current else None,
            figures=lambda: self.current.ledger.figures() if self.current else Figures(),
            traces=self.traces,
        )
        app.routes.append(Route(PROGRAM_PATH, self._tell_program))
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        return asyncio.create_task(make_server(app, 1).serve(sockets=[port]))

    def _state(self) -> PodState:
        return self.current.state() if self.current else PodState()

    async def _tell_program(self, _: Request) -> Response:
        return JSONResponse(document(self.program, self.history, self.quarantined, self.problem, self._began))

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        """Until the next poll, a signal, or the workers' end."""
        waits = [asyncio.create_task(stop.wait())]
        if self.current:
            waits.append(asyncio.create_task(self.current.ended.wait()))
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        if self.current and self.current.ended.is_set():
            log.error("The workers ended; starting them again")
            self.current = None

    def _version(self) -> str | None:
        return self.current.config.model.version if self.current else None

    async def _switch(self, version: str, listen: socket.socket) -> None:
        config = self._servable(version)
        if config is None:
            return
        log.info("Starting version=%s", version)
        crew = Crew(config, self.cache, listen, self.desk, None, self.traces)
        failure = await crew.start()
        if failure:
            self._fail(version, failure)
            return
        old, self.current = self.current, crew
        trigger = "Alias" if self.program.spec.source.mlflow.alias else "Spec"
        self.history = switched(self.history, crew.config.revision, version, trigger, time.time())
        log.info("Serving version=%s at http://%s:%d/docs", version, self.host, self.port)
        if old:
            old.drain()

    def _fail(self, version: str, failure: Failure) -> None:
        self.failed, self.quarantined = version, quarantined(version, failure, time.time())
        log.error("Version %s is not served: %s: %s", version, failure.reason, failure.message)
        if self.current is None:
            raise NotServable(f"version {version}: {failure.reason}: {failure.message}")
        words = "Version %s goes on; version %s is tried again when the alias has been elsewhere and returns"
        log.info(words, self._version(), version)

    def _servable(self, version: str) -> RuntimeConfig | None:
        """None where it cannot be served now, and another one is: a key's file may come back by the next poll."""
        try:
            return self._config(version)
        except NotServable as exc:
            if self.current is None:
                raise
            log.error("Version %s is not served yet: %s", version, exc)
            return None

    def _config(self, version: str) -> RuntimeConfig:
        check_secrets(secret_refs(self.program), self.secrets)
        config = _of_version(self.program, version, self.secrets)
        return config.model_copy(update={"drain_seconds": DRAIN_SECONDS, "port": self.port})

    async def _end(self) -> None:
        if self.current:
            self.current.drain()
            await self.current.ended.wait()


def tracking_uri(program: Program) -> str:
    """The registry, which the manifest must name: there is no operator here. Raises NotServable."""
    found = program.spec.source.mlflow.tracking_uri
    if found is None:
        raise NotServable("set spec.source.mlflow.trackingURI, --tracking-uri or MLFLOW_TRACKING_URI")
    return found


def check_secrets(refs: Iterable[SecretKeyRef], secrets: Path) -> None:
    """Raise NotServable where a Secret's key that the manifest names is no file here."""
    for ref in refs:
        path = Path(secret_path(ref.name, ref.key, str(secrets)))
        if not path.is_file():
            text = f"the manifest names key {ref.key} of the Secret {ref.name}: write it to the file {path}"
            raise NotServable(f"{text}, or say with --secrets in which folder there is {ref.name}/{ref.key}")


def _of_version(program: Program, version: str, secrets: Path) -> RuntimeConfig:
    name = program.spec.source.mlflow.model
    revision = revision_of(program, ModelRef(name=name, version=version, tracking_uri=tracking_uri(program)))
    return runtime_config(program, revision, secrets_dir=str(secrets))


async def config_of(program: Program, secrets: Path) -> RuntimeConfig:
    """What a pod of the version that the manifest means now would run; raises NotServable. Nobody is served by it: of
    the keys, those of LMs are needed."""
    check_secrets((lm.api_key_secret_ref for lm in program.spec.lms if lm.api_key_secret_ref), secrets)
    async with httpx.AsyncClient(base_url=tracking_uri(program), timeout=10) as client:
        try:
            version = await wanted_version(client, program, secrets)
        except NotNamed as exc:
            raise NotServable(str(exc)) from None
    return _of_version(program, version, secrets)


class NotNamed(Exception):
    """MLflow does not say which version is meant; the text says why, and shows no value."""


async def wanted_version(client: httpx.AsyncClient, program: Program, secrets: Path) -> str:
    """The version that the manifest means now. Raises NotNamed."""
    source = program.spec.source.mlflow
    if source.version is not None:
        return str(source.version)
    try:
        headers = credentials(mlflow_credentials_dir(program, str(secrets))).headers
        response = await _asked(client, "alias", {"name": source.model, "alias": source.alias or ""}, headers)
        if response.status_code in MISSING:
            raise NotNamed(await _what_is_missing(client, source, headers))
        return str(response.raise_for_status().json()["model_version"]["version"])
    except Lacking as exc:
        raise NotNamed(f"MLflow was not asked: {exc}") from None
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as exc:
        where = client.base_url.copy_with(userinfo=b"")
        status = f" {exc.response.status_code}" if isinstance(exc, httpx.HTTPStatusError) else ""
        what = "does not answer" if isinstance(exc, httpx.TransportError) else "gives no answer that can be used"
        raise NotNamed(f"MLflow at {where} {what}: {type(exc).__name__}{status}") from None


async def _asked(
    client: httpx.AsyncClient, what: str, params: dict[str, str], headers: Mapping[str, str]
) -> httpx.Response:
    return await client.get(f"/api/2.0/mlflow/registered-models/{what}", params=params, headers=headers)


async def _what_is_missing(client: httpx.AsyncClient, source: MlflowSource, headers: Mapping[str, str]) -> str:
    """MLflow's answer about an alias is the same for a model that is not there."""
    found = await _asked(client, "get", {"name": source.model}, headers)
    if found.status_code in MISSING:
        return f"MLflow has no model {source.model!r} yet"
    return f"MLflow's model {source.model!r} has no alias {source.alias!r} yet"


async def _obey_nobody(_: Order) -> bool:
    return False


async def follow(
    program: Program, host: str, port: int, secrets: Path, poll_seconds: float, admin_port: int | None = None
) -> int:
    """Serve a manifest on this machine."""
    FACTS["program"] = program.name
    tracking_uri(program)
    with tempfile.TemporaryDirectory(prefix="despina-models-") as cache:
        return await Follower(program, host, port, Path(cache), secrets, poll_seconds, admin_port=admin_port).run()
