"""What is shipped is what was made: generated files, wheel, examples, and the tree's own rules."""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import yaml

from despina.api.conditions import Reason
from despina.api.program import Program
from despina.api.revision import revision_of, runtime_config
from despina.cli import crds
from tests.support.gen import ref

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "operator").rglob("*.py"), *(ROOT / "runtime_image").rglob("*.py")])


def test_the_committed_crds_are_those_of_the_models():
    for folder in (ROOT / "crds", ROOT / "charts" / "despina" / "files" / "crds"):
        for name, text in crds().items():
            assert (folder / name).read_text() == text, f"{folder}: run `make crds`"


def test_every_http_client_of_the_operator_keeps_no_cookies():
    """Pods and servers are anybody's; whoever makes a client gives it a jar that takes nothing."""
    sources = {path.name: path.read_text() for path in (ROOT / "operator").rglob("*.py")}
    made = {name: text.count("AsyncClient(") for name, text in sources.items() if "AsyncClient(" in text}
    assert made == {name: sources[name].count("cookies=no_cookies()") for name in ("tracking.py", "mcp_session.py")}


def test_the_folder_operator_never_shadows_the_standard_library():
    assert not (ROOT / "operator" / "__init__.py").exists()
    code = "import operator; print(operator.__file__)"
    for path in ("", str(ROOT)):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
        )
        assert not done.stdout.startswith(str(ROOT))


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"despina", "despina_runtime"}
    assert "despina/py.typed" in names
    entry_points = next(n for n in names if n.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "despina = despina.cli:main" in text
    assert "despina-runtime = despina_runtime.main:main" in text


def test_the_image_and_the_chart_start_the_operator():
    assert 'CMD ["operator"]' in (ROOT / "Dockerfile").read_text()
    assert "args: [operator]" in (ROOT / "charts" / "despina" / "templates" / "deployment.yaml").read_text()
    help_text = subprocess.run(
        [sys.executable, "-m", "despina.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert re.search(r"^ +operator +run the operator$", help_text.stdout, re.M)


def test_every_example_is_a_valid_manifest():
    found = [
        d
        for path in (ROOT / "examples").rglob("*.yaml")
        for d in yaml.safe_load_all(path.read_text())
        if d["kind"] == "DSPyProgram"
    ]
    assert found
    for document in found:
        Program.parse(document)


def test_the_gates_examples_are_the_held_out_ones():
    folder = ROOT / "examples" / "ticket-triage"
    rows = [json.loads(line) for line in (folder / "tickets.jsonl").read_text().splitlines()]
    held = [{"ticket": r["ticket"], "category": r["category"]} for r in rows if r["split"] == "heldout"]
    data = yaml.safe_load((folder / "heldout.yaml").read_text())["data"]["tickets.jsonl"]
    assert [json.loads(line) for line in data.splitlines()] == held


def test_functions_and_files_stay_small():
    lengths = []
    for path in SOURCES:
        text = path.read_text()
        assert len(text.splitlines()) <= 600, path
        tree = ast.parse(text)
        assert not text.strip() or ast.get_docstring(tree), f"{path}: no module docstring"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths.append(node.end_lineno - node.lineno + 1)
    assert statistics.median(lengths) <= 10


def test_the_docs_name_what_is_there():
    rooms = dict(re.findall(r"^\| `(\w+)/` \| (.*)$", (ROOT / "docs" / "architecture.md").read_text(), re.M))
    for room in (
        "operator/despina/dashboard",
        "runtime_image/despina_runtime/process",
        "runtime_image/despina_runtime/telemetry",
    ):
        there = {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py"}
        assert there - set(re.findall(r"`(\w+\.py)`", rooms[Path(room).name])) == set(), room
    helpers = {"support", "data", "__pycache__"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - helpers
    assert set(re.findall(r"^\| `tests/(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)) == folders


def test_locks_name_no_registry():
    for path in (ROOT / "locks").glob("*.txt"):
        assert "://" not in path.read_text(), path


def test_every_entry_point_leads_to_something():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"scripts": project["scripts"], **project["entry-points"]}
    for name, where in ((name, where) for group in groups.values() for name, where in group.items()):
        assert EntryPoint(name, where, "any").load()


def test_the_manifest_in_the_serving_page_is_one_that_the_schema_accepts():
    text = (ROOT / "docs" / "serving.md").read_text()
    block, *more = re.findall(r"```yaml\n(.*?)```", text, re.S)
    manifest = yaml.safe_load(block)
    for part in more:
        manifest["spec"] |= yaml.safe_load(part)["spec"]
    head = {"apiVersion": "despina.dev/v1alpha1", "kind": "DSPyProgram", "metadata": {"name": "shown"}}
    program = Program.parse(head | manifest)
    config = runtime_config(program, revision_of(program, ref("1")))
    assert config.mlflow_credentials_dir.endswith("/mlflow")
    assert config.warm_up.outputs == {"score": {"score": "7"}}
    assert config.cache.redis.url_file.endswith("redis/url")
    assert config.fallbacks == ("cheap",)
    shown = set(manifest["spec"]) | {"replicas", "autoscaling", "placement", "resources", "podTemplate"}
    assert {"cache", "limits", "breaker", "fallback", "sessions", "security", "runtime", "lms"} <= shown


def test_the_manifest_in_the_rollouts_page_is_one_that_the_schema_accepts():
    text = (ROOT / "docs" / "rollouts.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    manifest = yaml.safe_load(block)
    manifest["spec"]["source"] = {"mlflow": {"model": "m", "alias": "champion"}}
    manifest["spec"]["lms"] = [{"name": "cheap", "model": "openai/x"}]
    head = {"apiVersion": "despina.dev/v1alpha1", "kind": "DSPyProgram", "metadata": {"name": "shown"}}
    spec = Program.parse(head | manifest).spec
    shown = set(re.findall(r"^\| (\w+) \|", text.split("## Gates")[1], re.M))
    assert {g.type for g in spec.rollout.gates} <= shown
    for reason in re.findall(r"\b\w+(?:Failed|Incompatible)\b", text):
        assert reason in {*Reason} | {"GateFailed"}, reason
