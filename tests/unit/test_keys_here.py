"""Without a cluster, Secrets' keys are files: who needs which, and what goes on without one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from despina.api.program import Program
from despina_runtime.process import follow
from despina_runtime.process.follow import Follower, config_of
from despina_runtime.process.supervisor import close_telemetry
from despina_runtime.program.unservable import NotServable
from despina_runtime.telemetry.prediction import KEY_ENV, POD_ENV
from tests.support.gen import a_program

LM_KEY = {"lms": [{"name": "main", "model": "openai/m", "apiKeySecretRef": {"name": "openai", "key": "api-key"}}]}
TOKENS = {"security": {"auth": {"type": "BearerSecret", "secretRef": {"name": "callers", "key": "tokens"}}}}
SOURCE = {"mlflow": {"model": "m", "version": 3, "trackingURI": "http://mlflow"}}


def a_key(secrets: Path, name: str) -> Path:
    file = secrets / name
    file.parent.mkdir(parents=True)
    file.write_text("x")
    return file


class Crews:
    """Stands in for the class `Crew`; remembers which versions were started, and what became of them."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.drained: list[str] = []

    def __call__(self, config, *_):
        async def start() -> None:
            self.started.append(config.model.version)

        drain = lambda: self.drained.append(config.model.version)  # noqa: E731
        return SimpleNamespace(config=config, start=start, drain=drain, ended=asyncio.Event())


@pytest.fixture
def crews(monkeypatch) -> Crews:
    crews = Crews()
    monkeypatch.setattr(follow, "Crew", crews)
    return crews


def a_follower(program: Program, folder: Path) -> Follower:
    return Follower(program, "127.0.0.1", 0, folder, folder / "secrets", 0.01)


async def test_the_version_that_serves_goes_on_while_the_next_ones_key_is_gone(crews, tmp_path, caplog):
    key = a_key(tmp_path / "secrets", "openai/api-key")
    follower = a_follower(a_program(source=SOURCE, **LM_KEY), tmp_path)
    await follower._switch("1", None)
    key.unlink()
    await follower._switch("2", None)
    assert (crews.started, crews.drained, follower.failed) == (["1"], [], None)
    assert "Version 2 is not served yet: the manifest names key api-key of the Secret openai" in caplog.text
    key.write_text("x")
    await follower._switch("2", None)
    assert (crews.started, crews.drained) == (["1", "2"], ["1"])


async def test_without_a_version_that_serves_a_key_that_is_gone_is_the_end(crews, tmp_path):
    with pytest.raises(NotServable, match="names key api-key of the Secret openai"):
        await a_follower(a_program(source=SOURCE, **LM_KEY), tmp_path)._switch("1", None)


async def test_callers_tokens_are_for_serving_only(crews, tmp_path):
    program = a_program(source=SOURCE, **LM_KEY, **TOKENS)
    with pytest.raises(NotServable, match="names key api-key of the Secret openai"):
        await config_of(program, tmp_path / "secrets")
    a_key(tmp_path / "secrets", "openai/api-key")
    assert (await config_of(program, tmp_path / "secrets")).model.version == "3"
    with pytest.raises(NotServable, match="names key tokens of the Secret callers"):
        await a_follower(program, tmp_path)._switch("3", None)


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:9"])
async def test_traces_are_held_only_where_they_go_to_a_collector(tmp_path, monkeypatch, endpoint):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    follower = a_follower(a_program(source=SOURCE, feedback={}), tmp_path)
    monkeypatch.setenv(KEY_ENV, "")
    monkeypatch.setenv(POD_ENV, "")  # given back what they were: it sets both
    follower._open_desk()
    assert follower.desk is not None
    assert bool(follower.traces) == bool(follower.desk.on_spoken) == bool(endpoint)
    await close_telemetry(follower.desk, follower.traces, 1)
