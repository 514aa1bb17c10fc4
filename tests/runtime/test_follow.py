"""`despina-runtime serve -f`: a manifest served without a cluster, following its alias under traffic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import yaml

from despina.wire import Failure
from despina_runtime.main import main
from despina_runtime.process.follow import Follower
from services import BIN, free_port
from tests.support.gen import a_manifest, a_program
from tests.support.world import ROOT, TICKET, Traffic, eventually


@pytest.fixture
def serve(tmp_path, servers):
    """Serves the example's manifest with a model of the test's own; ends with the test, and leaves nothing behind."""
    running: list[subprocess.Popen] = []
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary)}

    def start(model: str, *more: str, **spec) -> tuple[str, subprocess.Popen]:
        manifest = yaml.safe_load((ROOT / "examples" / "ticket-triage" / "program.yaml").read_text())
        manifest["spec"]["source"]["mlflow"]["model"] = model
        manifest["spec"] |= spec
        path = tmp_path / "program.yaml"
        path.write_text(yaml.safe_dump(manifest))
        port = free_port()
        command = [str(BIN / "despina-runtime"), "serve", "-f", str(path), f"--port={port}", "--poll-seconds=0.5"]
        options = [f"--tracking-uri={servers[1]}", f"--lm-base-url={servers[2]}/v1"]
        with (tmp_path / "log").open("ab") as log:
            running.append(subprocess.Popen([*command, *options, *more], stdout=log, stderr=log, env=env))
        return f"http://127.0.0.1:{port}", running[-1]

    yield start
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert list(temporary.iterdir()) == []


def version_at(url: str) -> str | None:
    try:
        return httpx.post(f"{url}/execute", json=TICKET, timeout=30).headers.get("despina-model-version")
    except httpx.TransportError:
        return None


def test_a_new_version_takes_over_without_a_failed_request_and_a_broken_one_does_not(serve, log_model, tmp_path):
    first = log_model("good", "follow", "champion")
    url, process = serve("follow")
    eventually("served", lambda: version_at(url) == first, 90)
    out = tmp_path / "traffic.jsonl"
    out.touch()
    script = str(ROOT / "tests" / "support" / "load.py")
    load = subprocess.Popen([sys.executable, script, f"{url}/execute", json.dumps(TICKET), "30", str(out)])
    second = log_model("compiled", "follow", "champion")
    eventually("the new version", lambda: version_at(url) == second, 90)
    log_model("never-imports", "follow", "champion")
    eventually("the broken one's end", lambda: "is not served" in (tmp_path / "log").read_text(), 90)
    assert version_at(url) == second
    load.send_signal(signal.SIGTERM)
    load.wait(40)
    failed = Traffic(out).report("serve -f: a release and a broken one", allowed={first, second})
    assert not failed, failed[:5]
    assert process.poll() is None


@pytest.fixture
def page(tmp_path):
    """`despina dashboard --local` on an admin port; its address."""
    running: list[subprocess.Popen] = []

    def show(admin: int) -> str:
        port = free_port()
        env = {**os.environ, "DESPINA_DASHBOARD_PORT": str(port)}
        with (tmp_path / "page-log").open("ab") as log:
            running.append(
                subprocess.Popen(
                    [str(BIN / "despina"), "dashboard", f"--local={admin}"], stdout=log, stderr=log, env=env
                )
            )
        return f"http://localhost:{port}"

    yield show
    for process in running:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "page-log").read_text()


def looked_at(url: str) -> str:
    """What stands on a page; nothing while nobody answers."""
    try:
        return httpx.get(url).text
    except httpx.TransportError:
        return ""


def test_the_page_shows_what_is_served_here_and_changes_nothing(serve, page, log_model):
    first, admin = log_model("good", "follow-page", "champion"), free_port()
    site = page(admin)  # it waits for what is to be shown
    url, _ = serve("follow-page", f"--admin-port={admin}", feedback={})
    eventually("served", lambda: version_at(url) == first, 90)
    one = f"{site}/p/default/ticket-triage"
    eventually("shown", lambda: f"v{first}" in looked_at(one), 30)
    assert "ticket-triage" in looked_at(site)
    assert 'name="act"' not in looked_at(one)
    assert httpx.post(f"{one}/act", data={"act": "restart", "subject": ""}).status_code == 403
    asked = {"host": "elsewhere.example"}
    assert httpx.get(site, headers=asked).status_code == 421
    assert httpx.get(f"http://127.0.0.1:{admin}/program", headers=asked).status_code == 400
    counted = eventually("counted", lambda: httpx.get(f"http://127.0.0.1:{admin}/figures").json().get("versions"), 10)
    assert list(counted) == [first]
    asked = {"despina-trace": "keep"}
    assert httpx.post(f"{url}/execute", json=TICKET, headers=asked, timeout=60).status_code == 200
    eventually("its trace", lambda: "somebody asked for it" in looked_at(f"{one}/traces"), 20)
    second = log_model("never-imports", "follow-page", "champion")
    eventually("told", lambda: f"version {second} is not served" in looked_at(one), 90)
    assert "Quarantined" in looked_at(site)
    assert version_at(url) == first


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ({"replicas": -1}, "spec.replicas"),
        ({"lm": "other"}, "lm must be the name"),
        ({"surprise": 1}, "spec.surprise"),
        (
            {"lms": [{"name": "main", "model": "openai/x", "apiKeySecretRef": {"name": "openai", "key": "api-key"}}]},
            "key api-key of the Secret openai: write it to the file secrets/openai/api-key, or say with --secrets",
        ),
    ],
)
def test_a_bad_manifest_is_one_line_that_names_the_field(serve, tmp_path, spec, part):
    _, process = serve("follow", **spec)
    assert process.wait(60) == 2
    log = (tmp_path / "log").read_text()
    assert part in log
    assert "Traceback" not in log


def test_an_alias_that_is_not_there_yet_is_waited_for_and_told_apart_from_silence(serve, log_model, tmp_path):
    log_model("good", "follow-later", "another")
    url, _ = serve("follow-later")
    said = "MLflow's model 'follow-later' has no alias 'champion' yet"
    eventually("it says so", lambda: said in (tmp_path / "log").read_text(), 60)
    version = log_model("good", "follow-later", "champion")
    assert eventually("served", lambda: version_at(url), 90) == version
    assert "answer" not in (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count(said) == 1, "not at each poll"


class Registry:
    """An MLflow that has other models, versions and moods at each poll."""

    def __init__(self, *says: str) -> None:
        self.says = says

    def __call__(self, request: httpx.Request) -> httpx.Response:
        says = self.says[0]
        if says == "silence":
            raise httpx.ConnectError("nobody")
        if says.isdecimal():
            return httpx.Response(200, json={"model_version": {"version": says}})
        return httpx.Response(404 if says == "no model" or request.url.path.endswith("alias") else 200, json={})


@pytest.fixture
def follower(monkeypatch, tmp_path):
    """What becomes of the versions that a registry names, one poll after another; version 3 fails."""

    class Workers:
        def __init__(self, config, *_):
            self.config = config

        async def start(self):
            tried.append(self.config.model.version)
            return Failure(reason="LoadFailed", message="broken") if tried[-1] == "3" else None

        def drain(self):
            pass

    async def follow(*says: str) -> list[str]:
        own = Follower(a_program(source={"mlflow": {"model": "m", "alias": "champion", "trackingURI": "http://m"}}),
                       "127.0.0.1", 0, tmp_path, tmp_path, 0)  # fmt: skip
        for one in says:
            transport = httpx.MockTransport(Registry(one))
            async with httpx.AsyncClient(base_url="http://m", transport=transport) as client:
                await own.look(client, None)
        return tried

    tried: list[str] = []
    monkeypatch.setattr("despina_runtime.process.follow.Crew", Workers)
    return follow


async def test_a_version_that_failed_is_tried_again_once_the_alias_has_been_elsewhere(follower, caplog):
    caplog.set_level("INFO")
    assert await follower("1", "3", "3", "silence", "3") == ["1", "3"]
    assert "Version 1 goes on; version 3 is tried again when the alias has been elsewhere" in caplog.text
    assert await follower("1", "3", "1", "1", "3", "3") == ["1", "3", "1", "3", "3"]


async def test_what_mlflow_lacks_is_told_when_it_changes(follower, caplog):
    caplog.set_level("INFO")
    await follower("no model", "no model", "no alias", "no alias", "silence", "silence", "1", "1", "no alias")
    told = [one.message for one in caplog.records if "MLflow" in one.message]
    assert told == [
        "MLflow has no model 'm' yet",
        "MLflow's model 'm' has no alias 'champion' yet",
        "MLflow at http://m does not answer: ConnectError",
        "MLflow says again which version is meant",
        "MLflow's model 'm' has no alias 'champion' yet",
    ]


def test_without_an_operator_nobody_is_asked_for_a_better_version(serve, log_model):
    log_model("compiled", "follow-alone", "champion")
    optimization = {"budget": {"maxLMCalls": 100}, "requests": "Enabled"}
    url, _ = serve("follow-alone", feedback={}, optimization=optimization)
    eventually("served", lambda: version_at(url), 90)
    refused = httpx.post(f"{url}/optimize", timeout=30)
    assert (refused.status_code, refused.json()["type"]) == (501, "urn:despina:problem:no-operator")
    assert "despina-runtime optimize -f" in refused.json()["detail"]


MISTAKES = {
    "nobody listens": (
        ["feedback", "give", "x", "failure", "--url", "http://127.0.0.1:9"],
        "no program answers at http",
    ),
    "something else listens": (
        ["feedback", "give", "x", "failure", "--url", "{elsewhere}"],
        "no program answers at http",
    ),
    "a manifest that is no YAML": (["serve", "-f", "bad.yaml"], "bad.yaml is no YAML"),
    "a source without anything": (
        ["serve", "-f", "no-source.yaml", "--tracking-uri", "http://127.0.0.1:9"],
        "spec.source: Input should be",
    ),
    "an LM that is only a name": (
        ["serve", "-f", "no-lm.yaml", "--lm-base-url", "http://127.0.0.1:9"],
        "spec.lms.0: Input should be",
    ),
    "a class that is not there": (["log", "json:Tripp", "--name", "x"], "'json:Tripp' is not MODULE:NAME: json has no"),
    "no class at all": (["log", "json", "--name", "x"], "'json' is not MODULE:NAME"),
    "an MLflow that is not there": (
        ["log", "haiku:Fine", "--name", "x"],
        "MLflow does not answer at http://127.0.0.1:9; MLFLOW_TRACKING_URI says where it is",
    ),
}


FILES = {
    "bad.yaml": "a: [",
    "no-source.yaml": yaml.safe_dump(a_manifest(source=None)),
    "no-lm.yaml": yaml.safe_dump(a_manifest(lms=["main"])),
}


class Elsewhere(BaseHTTPRequestHandler):
    """Answers in JSON, but as no program does."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b'["no"]')


@pytest.fixture(scope="module")
def elsewhere():
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line(mistake, elsewhere, tmp_path):
    arguments, said = MISTAKES[mistake]
    for name, text in (FILES | OWN).items():
        (tmp_path / name).write_text(text)
    command = [str(BIN / "despina-runtime"), *(a.format(elsewhere=elsewhere) for a in arguments)]
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "http://anna:sesame@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    if arguments[0] in ("serve", "feedback"):
        del env["MLFLOW_TRACKING_URI"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"despina-runtime: {said.format(folder=tmp_path)}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sesame" not in done.stderr


UNLOGGABLE = {
    "no module": ([":Trip"], "':Trip' is not MODULE:NAME"),
    "a module that is not there": (["tripp:Trip"], "tripp cannot be imported: ModuleNotFound"),
    "a module that is no Python": (
        ["broken:Broken"],
        "broken cannot be imported: {folder}/broken.py, line 2: SyntaxError: ",
    ),
    "a module that fails": (
        ["failing:Failing"],
        "failing cannot be imported: {folder}/failing.py, line 1: ZeroDivisionError: ",
    ),
    "a class that takes an argument": (
        ["haiku:Haiku"],
        "haiku:Haiku cannot be called without topic, and a pod calls it without arguments",
    ),
    "a class that fails": (
        ["haiku:Worse"],
        "haiku:Worse fails when called: {folder}/haiku.py, line 8: KeyError: 'topic'",
    ),
    "a class that is no program": (["haiku:Paper"], "haiku:Paper gives no dspy.Module but a Pa"),
    "a state that is none": (
        ["haiku:Fine", "--state", "state.json"],
        "--state state.json cannot be loaded: ",
    ),
    "a name that MLflow refuses": (["haiku:Fine", "--name", "a/b"], "MLflow takes no model of the name 'a/b'"),
    "an alias of MLflow's own": (["haiku:Fine", "--alias", "v22"], "MLflow takes no alias 'v22': `latest`, and `v`"),
    "its other alias": (["haiku:Fine", "--alias", "Latest"], "MLflow takes no alias 'Latest': `latest`, and `v`"),
    "no alias": (["haiku:Fine", "--alias", "a b"], "MLflow takes no alias 'a b': letters, digits"),
}
OWN = {
    "broken.py": "class Broken:\n    def\n",
    "failing.py": "1 / 0\n",
    "state.json": "{}",
    "haiku.py": """import dspy

class Haiku(dspy.Module):
    def __init__(self, topic): super().__init__()

class Worse(dspy.Module):
    def __init__(self, **given):
        given["topic"]

class Paper: pass

class Fine(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("topic -> haiku")

    def forward(self, topic):
        return self.answer(topic=topic)
""",
}


@pytest.mark.parametrize("mistake", UNLOGGABLE)
def test_a_program_that_cannot_be_logged_is_told_in_a_line(mistake, tmp_path, monkeypatch, capsys):
    arguments, said = UNLOGGABLE[mistake]
    for name, text in OWN.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("haiku", None)  # another test's
    assert main(["log", "--name", "x", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"despina-runtime: {said.format(folder=tmp_path)}")
    assert told.count("\n") == 1


def test_optimize_says_that_mlflow_does_not_answer(tmp_path, capsys):
    (tmp_path / "program.yaml").write_text(yaml.safe_dump(a_manifest()))
    options = ["--labels", "x", "--max-lm-calls", "9", "--tracking-uri", "http://127.0.0.1:9"]
    assert main(["optimize", "-f", str(tmp_path / "program.yaml"), *options]) == 2
    assert capsys.readouterr().err == ("despina-runtime: MLflow at http://127.0.0.1:9 does not answer: ConnectError\n")


@pytest.mark.parametrize("job", ["evaluate", "optimize"])
def test_a_jobs_command_without_a_job_is_told_in_a_line(job, capsys):
    assert main([job]) == 2
    assert f"DESPINA_{'EVALUATION' if job == 'evaluate' else 'OPTIMIZATION'}" in capsys.readouterr().err


def test_an_alias_that_mlflow_refuses_makes_no_version(servers):
    command = [str(BIN / "despina-runtime"), "log", "triage:TicketTriage", "--name", "aliased", "--alias", "v1"]
    env = {**os.environ, "MLFLOW_TRACKING_URI": servers[1]}
    folder = ROOT / "examples" / "ticket-triage"
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("despina-runtime: MLflow takes no alias 'v1'")
    asked = {"name": "aliased"}
    assert httpx.get(f"{servers[1]}/api/2.0/mlflow/registered-models/get", params=asked).status_code == 404


def test_a_program_is_logged_from_the_command_line(servers):
    command = [str(BIN / "despina-runtime"), "log", "triage:TicketTriage", "--name", "by-hand", "--alias", "champion"]
    env = {**os.environ, "MLFLOW_TRACKING_URI": servers[1], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    folder = ROOT / "examples" / "ticket-triage"
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "by-hand version 1"
