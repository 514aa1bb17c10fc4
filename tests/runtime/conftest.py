"""A real MLflow server on SQLite and the stand-in LM over HTTP, both on loopback, shared by the tier."""

from __future__ import annotations

import functools

import pytest

from services import Processes, free_port, mlflow_command, standin_command
from tests.support import world
from tests.support.pods import pods
from tests.support.world import StandIn


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
    """Log a model version on this tier's server."""
    folder, uri, _ = servers
    return functools.partial(world.log_model, uri=uri, data=str(folder / "mlflow"))


@pytest.fixture
def pod(tmp_path, servers):
    with pods(tmp_path, *servers[1:]) as start:
        yield start


@pytest.fixture(scope="session")
def version(log_model) -> str:
    return log_model("compiled", "serving")
