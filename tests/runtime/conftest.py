"""A real MLflow server on SQLite and the stand-in LM over HTTP, both on loopback, shared by the tier."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services import Processes, free_port, mlflow_command, standin_command
from tests.support.world import ROOT

QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass
class StandIn:
    url: str

    def misbehave(self, **faults) -> None:
        httpx.post(f"{self.url}/admin", json=faults).raise_for_status()

    @property
    def calls(self) -> int:
        return httpx.get(f"{self.url}/admin").json()["calls"]


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    processes = Processes(folder / "logs")
    mlflow, lm = free_port(), free_port()
    processes.start("mlflow", mlflow_command(folder / "mlflow", "127.0.0.1", mlflow, "*"))
    processes.start("stand-in-lm", standin_command("127.0.0.1", lm))
    processes.wait_for_http("mlflow", f"http://127.0.0.1:{mlflow}/health", 120)
    processes.wait_for_http("stand-in-lm", f"http://127.0.0.1:{lm}/admin")
    yield folder, f"http://127.0.0.1:{mlflow}", f"http://127.0.0.1:{lm}"
    processes.stop_all()


@pytest.fixture
def lm(servers):
    stand_in = StandIn(servers[2])
    yield stand_in
    stand_in.misbehave()


@pytest.fixture(scope="session")
def mlflow_uri(servers) -> str:
    return servers[1]


@pytest.fixture(scope="session")
def log_model(servers):
    """Log a model version in a process of its own, as people do: code of two versions never meets in one."""

    def log(kind: str, name: str, alias: str = "") -> str:
        script = ROOT / "tests" / "support" / "models.py"
        env = {
            **os.environ,
            **QUIET,
            "MLFLOW_TRACKING_URI": servers[1],
            "DESPINA_TEST_MLFLOW_DATA": str(Path(servers[0]) / "mlflow"),
        }
        command = [sys.executable, str(script), kind, name, *([alias] if alias else [])]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.split()[-1]

    return log
