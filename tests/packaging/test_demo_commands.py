"""What the demo leaves behind to be typed: commands that reach its cluster from any shell."""

from __future__ import annotations

import os
import subprocess
import sys

import demo
import stage
from release import EXAMPLE, release_command
from services import forward_command, mlflow_command, standin_command


def run(path, *arguments: str, **env: str) -> str:
    command = [str(path), *arguments]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout


def test_a_command_gets_what_is_typed_behind_it(tmp_path):
    demo.write_commands(tmp_path, {"kubectl": ["printf", "<%s>"], "despina": ["echo", "a b;$HOME"]})
    assert run(tmp_path / "kubectl", "get", "a b", "$HOME") == "<get><a b><$HOME>"
    assert run(tmp_path / "despina") == "a b;$HOME\n"


def test_despina_looks_at_the_demos_cluster(tmp_path, monkeypatch):
    local = stage.LocalStage("some-name")
    monkeypatch.setattr(type(local.cluster), "enter", lambda _self, command: ["env", *command])
    command = local.despina()
    assert f"KUBECONFIG={local.cluster.kubeconfig}" in command
    assert command[-3:] == [sys.executable, "-m", "despina.cli"]
    demo.write_commands(tmp_path, {"despina": command})
    assert run(tmp_path / "despina", "why", "--help").startswith("usage: despina why")


def test_a_release_knows_its_server_and_writes_down_no_key(tmp_path):
    command = release_command("http://m:5000", {"LM": "openai/x", "LM_API_KEY": "secret"}, ["env", "A=1"])
    assert command[:2] == ["env", "A=1"]
    assert not [part for part in command if "secret" in part]
    shows = "import os; print(os.getcwd(), *map(os.environ.get, ['MLFLOW_TRACKING_URI', 'LM', 'LM_API_KEY']))"
    demo.write_commands(tmp_path, {"release": [*command[:-1], "-c", shows]})
    assert run(tmp_path / "release", LM_API_KEY="mine") == f"{EXAMPLE} http://m:5000 openai/x mine\n"


def test_everything_that_is_left_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "OUT", tmp_path)
    monkeypatch.setattr(demo, "STATE", tmp_path / "demo")
    demo.write_commands(tmp_path, {name: ["true"] for name in demo.COMMANDS})
    demo.down()
    assert list(tmp_path.iterdir()) == []


def test_what_it_left_running_is_known_again_and_nothing_else_is(tmp_path):
    """By what stands in a command line: a number may be another process's by then."""
    left = [
        standin_command("h", 1), mlflow_command(tmp_path, "h", 1, "*"), forward_command(3, "h", 1),
        [*stage.DESPINA, "dashboard", "--open"],
    ]  # fmt: skip
    waits = [sys.executable, "-c", "print(flush=True); input()"]
    for command, is_ours in [*((one, True) for one in left), ([], False)]:
        with subprocess.Popen([*waits, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert demo._is_ours(process.pid) == is_ours, command
            process.communicate(b"\n")
