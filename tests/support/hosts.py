"""Tool hosts as processes of this machine, and backends that answer as a test tells them to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from aiohttp import web

from despina.wire import ContractConfig, ToolBackend, ToolConfig, ToolHostConfig
from despina_runtime.tools.functions import find_tools
from services import free_port
from tests.support.world import ROOT, eventually

PACKAGE = "tests.support.sample_tools"


def contract_of(name: str, **changes) -> ContractConfig:
    """The contract of one of the sample tools."""
    tool = find_tools([PACKAGE])[name]
    own = {"name": name, "description": tool.description, "parameters": tool.parameters, "returns": tool.returns}
    return ContractConfig(**{**own, "idempotent": True, **changes})


def tool_config(name: str, *urls: str, contract: ContractConfig | None = None, **changes) -> ToolConfig:
    """A tool with one backend at each address."""
    backends = tuple(ToolBackend(name=f"b{i}", url=url, tool=name) for i, url in enumerate(urls))
    return ToolConfig(**{"contract": contract or contract_of(name), "backends": backends, **changes})


class HostProcess:
    """One tool host."""

    def __init__(self, folder: Path, config: ToolHostConfig, **env: str) -> None:
        self.url = f"http://127.0.0.1:{config.port}"
        self.log = folder / f"host-{config.port}.log"
        self.executions = folder / f"executions-{config.port}"
        environment = {**os.environ, "SAMPLE_TOOLS_LOG": str(self.executions), **env}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        admin = free_port()
        self.admin = f"http://127.0.0.1:{admin}"
        self._file = folder / f"host-{config.port}.json"
        self._file.write_text(config.model_dump_json())
        code = (
            "import sys, uvloop; from pathlib import Path; from despina.wire import ToolHostConfig;"
            "from despina_runtime.toolhost.host import serve_tools;"
            "config = ToolHostConfig.model_validate_json(Path(sys.argv[1]).read_bytes());"
            "sys.exit(uvloop.run(serve_tools(config, '127.0.0.1', int(sys.argv[2]))))"
        )
        with self.log.open("wb") as log:
            command = [sys.executable, "-c", code, str(self._file), str(admin)]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/tools").status_code in (200, 401)
        except httpx.TransportError:
            return False

    def call(self, name: str, arguments: object = None, **headers: str) -> httpx.Response:
        options = {"headers": headers, "timeout": 20}
        return httpx.post(f"{self.url}/tools/{name}/execute", json=arguments or {}, **options)

    def executed(self) -> list[str]:
        """What was really executed, a line each."""
        return self.executions.read_text().splitlines() if self.executions.exists() else []

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(20)


@contextmanager
def hosts(folder: Path):
    """Starts hosts; all end with the block."""
    started: list[HostProcess] = []

    def start(wait: bool = True, env: dict[str, str] | None = None, port: int = 0, **changes) -> HostProcess:
        own = {"tool": "sample", "packages": (PACKAGE,), "port": port or free_port(), "drain_seconds": 1}
        started.append(HostProcess(folder, ToolHostConfig(**{**own, **changes}), **(env or {})))
        if wait:
            eventually("a tool host", started[-1].is_up, 30)
        return started[-1]

    yield start
    for running in started:
        running.stop(signal.SIGKILL)


class Backend:
    """A backend in this process: `answer` is called with the arguments of each call."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls = 0
        self.headers: dict[str, str] = {}


@asynccontextmanager
async def backend(answer, port: int = 0):
    """Serve `answer(arguments) -> web.Response` as every tool."""

    async def execute(request: web.Request) -> web.StreamResponse:
        found.calls += 1
        found.headers = {k.lower(): v for k, v in request.headers.items()}
        return await answer(await request.json())

    app = web.Application()
    app.add_routes([web.post("/tools/{name}/execute", execute)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = port or free_port()
    found = Backend(f"http://127.0.0.1:{port}")
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield found
    finally:
        await runner.cleanup()
