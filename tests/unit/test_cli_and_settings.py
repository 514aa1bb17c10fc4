"""The operator's command line and configuration."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from despina.cli import main, render
from despina.cluster.client import Cluster
from despina.cluster.errors import Unavailable
from despina.decide.snapshot import dump, load
from despina.main import make_registry, run
from despina.settings import Settings, read_profiles
from tests.support.world import ROOT

TOOL = "{apiVersion: despina.dev/v1alpha1, kind: DSPyTool, metadata: {name: x}, spec: {contract: {}}}"
EXAMPLE = Path(__file__).parents[2] / "examples" / "ticket-triage" / "program.yaml"


def test_render_shows_what_a_manifest_becomes():
    kinds = [d["kind"] for d in yaml.safe_load_all(render(EXAMPLE, "3"))]
    assert kinds == ["ServiceAccount", "ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "Service"]


def test_render_shows_what_tools_become():
    tools = EXAMPLE.parents[1] / "rag" / "manifests" / "tools.yaml"
    made = [(d["kind"], d["metadata"]["name"]) for d in yaml.safe_load_all(render(tools, "1"))]
    assert {
        ("Deployment", "bedrock-embed-bedrock"),
        ("Service", "bedrock-embed"),
        ("Secret", "bedrock-embed-callers"),
    } <= set(made)
    assert len(made) == len(set(made))


HEAD = "apiVersion: despina.dev/v1alpha1\nkind: DSPyProgram\n"


@pytest.mark.parametrize(
    "text",
    [
        TOOL,
        "kind: DSPyTool",
        "kind: Service",
        "{",
        "- 1",
        "text",
        f"{HEAD}metadata: [1]",
        f"{HEAD}metadata: {{name: a}}\nspec: [1]",
        f"{HEAD}metadata: {{name: a, annotations: [1]}}",
        None,
    ],
)
def test_what_cannot_be_rendered_is_an_error_that_names_the_file(tmp_path, capsys, text):
    path = tmp_path / "it.yaml"
    if text:
        path.write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["render", str(path)])
    assert left.value.code == 1
    assert str(path) in capsys.readouterr().err


SNAPSHOT = Path(__file__).parents[1] / "data" / "snapshots" / "at-a-gate.json"


def test_a_saved_snapshot_is_explained_anywhere(capsys):
    main(["why", "-f", str(SNAPSHOT)])
    out = capsys.readouterr().out
    assert out.startswith("Callers reach version 1; 2 of 2 pods are ready.\n")
    assert "It stands at gate score (Evaluate): 120 of 300 examples; 240 s left.\n" in out


@pytest.mark.parametrize("text", ["{", '{"despina": "9.1.0"}', "kind: DSPyProgram", None])
def test_what_is_no_snapshot_is_one_line_that_names_the_file(tmp_path, capsys, text):
    path = tmp_path / "it.json"
    if text:
        path.write_text(text)
    assert str(path) in one_line(capsys, 1, "-f", str(path))


def test_a_snapshot_that_cannot_be_saved_is_one_line(tmp_path, capsys):
    path = tmp_path / "nowhere" / "it.json"
    assert str(path) in one_line(capsys, 1, "-f", str(SNAPSHOT), "--save", str(path))


def test_what_a_pod_says_is_nothing_that_a_terminal_obeys(tmp_path, capsys):
    path = tmp_path / "it.json"
    escape = "\x1b]52;c;cm0=\x07\x1b[2J"
    path.write_text(dump(load(SNAPSHOT.read_text()).model_copy(update={"unseen": (f"{escape}all is well",)})))
    main(["why", "-f", str(path)])
    assert "( ]52;c;cm0= [2Jall is well)" in (out := capsys.readouterr().out)
    assert "\x1b" not in out
    path.write_text(json.dumps({"despina": f"9{escape}"}))
    assert "\x1b" not in one_line(capsys, 1, "-f", str(path))


def test_why_needs_a_program_or_a_snapshot(capsys):
    for arguments in ([], ["qa", "-f", str(SNAPSHOT)]):
        assert "name a program, or a snapshot with -f" in one_line(capsys, 2, *arguments)


def one_line(capsys, code: int, *arguments: str) -> str:
    """The last line that is said of an error; nothing else is printed."""
    with pytest.raises(SystemExit) as left:
        main(["why", *arguments])
    assert left.value.code == code
    out, err = capsys.readouterr()
    assert out == ""
    assert code == 2 or err.count("\n") == 1
    return err


async def test_the_operator_reads_whatever_an_api_server_takes(monkeypatch):
    """Its servers take 10,000 levels; kopf reads and copies what it watches, and calls handlers in threads."""

    async def nowhere() -> None:
        raise Unavailable("no cluster")

    text = '{"a":' * 9990 + "1" + "}" * 9990

    class Server:
        async def request(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(read=lambda: asyncio.sleep(0, text.encode()))

    def read() -> None:
        copy.deepcopy(json.loads(text))
        with pytest.raises(RecursionError):  # others than API servers send anything
            json.loads("[" * 400_000)

    monkeypatch.setattr(Cluster, "connect", nowhere)
    before = sys.getrecursionlimit()
    try:
        with pytest.raises(Unavailable):
            await run(Settings())
        read()
        await asyncio.to_thread(read)
        cluster = Cluster.__new__(Cluster)
        cluster._dynamic = Server()
        assert (await cluster.get("DSPyProgram", "ns", "qa")).keys() == {"a"}
    finally:
        sys.setrecursionlimit(before)


def test_crds_are_printed(capsys):
    main(["crds"])
    names = [d["metadata"]["name"] for d in yaml.safe_load_all(capsys.readouterr().out)]
    assert names == ["dspyprograms.despina.dev", "dspytools.despina.dev"]


def test_crds_are_written_to_a_folder_that_need_not_be_there(tmp_path):
    main(["crds", "--folder", str(tmp_path / "new" / "one")])
    assert {file.name for file in (tmp_path / "new" / "one").iterdir()} == {
        file.name for file in (ROOT / "crds").iterdir()
    }


@pytest.mark.parametrize(("text", "namespaces"), [("", ["own"]), ("a", ["a"]), ("a, b,", ["a", "b"])])
def test_the_operators_own_namespace_is_watched_unless_others_are_named(monkeypatch, text, namespaces):
    monkeypatch.setenv("DESPINA_NAMESPACE", "own")
    monkeypatch.setenv("DESPINA_WATCH_NAMESPACES", text)
    assert Settings().namespaces == namespaces


def test_a_mistake_in_a_profile_is_named(tmp_path):
    path = tmp_path / "profiles.yaml"
    path.write_text("gpu: {nodeSelektor: {a: b}}")
    with pytest.raises(ValidationError, match=r"gpu\.nodeSelektor"):
        read_profiles(path)
    path.write_text("")
    assert read_profiles(path) == {}
    assert read_profiles(None) == {}


def test_an_address_with_a_password_is_refused_without_showing_it(monkeypatch, capsys):
    monkeypatch.setenv("DESPINA_TRACKING_URI", "http://me:hunter2@mlflow:5000")
    with pytest.raises(SystemExit):
        main(["operator"])
    said = capsys.readouterr().err
    assert "DESPINA_TRACKING_URI" in said
    assert "hunter2" not in said


def test_settings_do_not_show_credentials():
    settings = Settings(tracking_username="me", tracking_password="hunter2", tracking_token="sesame")
    assert "hunter2" not in repr(settings)
    assert "sesame" not in f"{settings!r} {settings.tracking_credentials!r}"


async def test_half_a_pair_of_credentials_is_said_at_the_start(caplog):
    await make_registry(Settings(tracking_username="me"), lambda _: None).close()
    assert "asked without credentials" in caplog.text
