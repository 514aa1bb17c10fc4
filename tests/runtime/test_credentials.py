"""A program's own credentials on their way from the mounted Secret to its MLflow server, a real one behind a door."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from despina.wire import DatasetConfig, ModelRef, RuntimeConfig
from despina_runtime.evaluation.run import Run, log_run
from despina_runtime.process.follow import NotNamed, wanted_version
from despina_runtime.program.fetch import fetch_beside
from tests.support.gen import a_program
from tests.support.guard import guarded

OLD, NEW = "Bearer old-token", "Bearer new-token"
PAIR = "Basic " + base64.b64encode(b"me:hunter2").decode()
BY_CLIENT = {"MLFLOW_TRACKING_INSECURE_TLS": "false"}
"""A setting that only MLflow's own client understands."""
LOAD = """
import json, sys
from despina.wire import DatasetConfig
from despina_runtime.evaluation.examples import Unusable, load_lines

try:
    print(len(load_lines(DatasetConfig.model_validate_json(sys.argv[1]), sys.argv[2], sys.argv[3] or None)))
except Unusable as exc:
    print("unusable", exc)
"""


@pytest.fixture
def secret(tmp_path):
    """Writes the mounted files; the folder."""
    folder = tmp_path / "secret"
    folder.mkdir()

    def write(**data: str) -> str:
        for name, value in data.items():
            (folder / f"MLFLOW_TRACKING_{name}").write_text(value)
        return str(folder)

    return write


def config(server: str, version: str, folder: str | None, name: str = "serving") -> RuntimeConfig:
    model = ModelRef(name=name, version=version, tracking_uri=server)
    return RuntimeConfig(
        namespace="ns", program="p", revision=f"r{version}", model=model, mlflow_credentials_dir=folder
    )


def never(_: float) -> None:
    raise AssertionError("MLflow was not to be asked again")


def fetch_apart(tmp_path, wanted: RuntimeConfig, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as a worker starts it."""
    (tmp_path / "config.json").write_text(wanted.model_dump_json())
    command = [
        sys.executable,
        "-m",
        "despina_runtime.program.fetch",
        str(tmp_path / "config.json"),
        str(tmp_path / "c"),
    ]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"TOKEN": "old-token\n"}, OLD),
        ({"USERNAME": "me", "PASSWORD": "hunter2"}, PAIR),
        ({"USERNAME": "me", "PASSWORD": "hunter2", "TOKEN": "old-token"}, PAIR),
    ],
    ids=["token", "pair", "both"],
)
@pytest.mark.parametrize("env", [{}, BY_CLIENT], ids=["by REST", "by MLflow's client"])
def test_a_program_fetches_with_its_own_credentials_alone(tmp_path, servers, version, secret, files, shown, env):
    with guarded(servers[1], shown) as guard:
        done = fetch_apart(tmp_path, config(guard.url, version, secret(**files)), MLFLOW_TRACKING_TOKEN="pods", **env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert guard.shown == {shown}
    assert "old-token" not in done.stderr + done.stdout
    assert (tmp_path / "c").exists()


def test_without_a_secret_the_environment_goes_on_working(tmp_path, servers, version):
    with guarded(servers[1], OLD) as guard:
        done = fetch_apart(tmp_path, config(guard.url, version, None), MLFLOW_TRACKING_TOKEN="old-token")
    assert done.returncode == 0, done.stderr[-2000:]
    assert guard.shown == {OLD}


def test_what_was_rotated_counts_from_the_next_request_on_in_an_old_process(tmp_path, servers, version, secret):
    """First while MLflow refuses, as a pod that starts; then for the next version, as in a hot swap."""
    folder, cache = secret(TOKEN="old-token"), tmp_path / "cache"
    with guarded(servers[1], NEW) as guard:
        fetch_beside(config(guard.url, version, folder), cache, lambda _: secret(TOKEN="new-token") and None)
        assert guard.shown == {OLD, NEW}
        guard.lets_in = {PAIR}
        secret(USERNAME="me", PASSWORD="hunter2")
        fetch_beside(config(guard.url, version, folder), tmp_path / "another", never)
        assert PAIR in guard.shown


def test_a_secret_that_comes_late_is_waited_for_and_nobody_is_asked_meanwhile(
    tmp_path, servers, version, secret, caplog
):
    folder = secret()
    with guarded(servers[1], NEW) as guard:
        fetch_beside(config(guard.url, version, folder), tmp_path / "c", lambda _: secret(TOKEN="new-token") and None)
    assert guard.shown == {NEW}
    assert "holds neither MLFLOW_TRACKING_TOKEN" in caplog.text


@pytest.mark.parametrize("folder", [True, False], ids=["its own", "the environment's"])
def test_no_redirect_is_followed(tmp_path, version, secret, folder, monkeypatch):
    class Enough(Exception):
        pass

    def stop(_: float) -> None:
        raise Enough

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "old-token")
    with guarded("", OLD) as guard, guarded() as stranger:
        guard.redirect = stranger.url
        with pytest.raises(Enough):
            fetch_beside(
                config(guard.url, version, secret(TOKEN="old-token") if folder else None), tmp_path / "c", stop
            )
    assert guard.shown == {OLD}
    assert stranger.seen == []


def test_files_that_lie_on_another_server_are_asked_for_without_credentials(tmp_path, servers, version, secret):
    """Where a version's files are was said by whoever registered it; MLflow allows no http: there, older ones do."""
    with guarded(servers[1], OLD) as guard, guarded("", None) as stranger:
        guard.says["get-download-uri"] = {"artifact_uri": f"{stranger.url}/api/2.0/mlflow-artifacts/artifacts/m"}
        done = fetch_apart(tmp_path, config(guard.url, version, secret(TOKEN="old-token")))
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert guard.shown == {OLD}
    assert stranger.shown == {None}


def lines_of(dataset: DatasetConfig, server: str, folder: str) -> str:
    command = [sys.executable, "-c", LOAD, dataset.model_dump_json(), server, folder]
    env = {**os.environ, "MLFLOW_TRACKING_TOKEN": "pods", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_a_dataset_comes_with_the_same_credentials_and_one_from_elsewhere_with_none(tmp_path, servers, secret):
    (tmp_path / "few.jsonl").write_text(json.dumps({"ticket": "x", "category": "y"}) + "\n")
    code = (
        "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); run = mlflow.start_run();"
        "mlflow.log_artifact(sys.argv[2]); print(); print(run.info.run_id)"
    )
    log = [sys.executable, "-c", code, servers[1], str(tmp_path / "few.jsonl")]
    said = subprocess.run(log, check=True, capture_output=True, text=True).stdout
    run = next(line for line in said.split() if len(line) == 32)
    folder = secret(TOKEN="old-token")
    with guarded(servers[1], OLD) as guard, guarded("", None) as stranger:
        assert lines_of(DatasetConfig(uri=f"runs:/{run}/few.jsonl"), guard.url, folder) == "1"
        assert "no dataset" in lines_of(DatasetConfig(mlflow="nothing"), guard.url, folder)
        elsewhere = DatasetConfig(uri=f"{stranger.url}/api/2.0/mlflow-artifacts/artifacts/few.jsonl")
        assert lines_of(elsewhere, guard.url, folder).startswith("unusable")
    assert guard.shown == {OLD}
    assert stranger.shown == {None}


@pytest.mark.parametrize("lets_in", [OLD, NEW], ids=["let in", "refused"])
async def test_an_evaluations_run_is_made_with_the_same_credentials_alone(servers, secret, monkeypatch, capfd, lets_in):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "pods")
    with guarded(servers[1], lets_in) as guard:
        run = Run(
            tracking_uri=guard.url, credentials_dir=secret(TOKEN="old-token"), experiment="refusing", name="n", tags={},
            metrics={"candidate": 1.0}, rows="{}\n",
        )  # fmt: skip
        made = await log_run(run, seconds=90)
    assert guard.shown == {OLD}
    said = capfd.readouterr().err
    assert "old-token" not in said
    assert (made is None) == (lets_in == NEW) == ("The run was not logged" in said)


async def test_a_manifest_that_is_served_without_a_cluster_is_followed_with_them_too(secret):
    folder = Path(secret())
    program = a_program(source={"mlflow": {"model": "qa", "alias": "x", "credentialsSecretRef": {"name": folder.name}}})
    with guarded("", OLD) as guard:
        guard.says["registered-models/alias"] = {"model_version": {"version": "3"}}
        async with httpx.AsyncClient(base_url=guard.url) as client:
            with pytest.raises(NotNamed, match="MLflow was not asked: Secret"):
                await wanted_version(client, program, folder.parent)
            secret(TOKEN="old-token")
            assert await wanted_version(client, program, folder.parent) == "3"
    assert guard.shown == {OLD}
