"""`make try`: the example served on this machine, with no cluster, following its alias.

MLflow on SQLite and the stand-in LM run beside it. Ctrl-C ends all of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

from release import EXAMPLE, lm_environment, release
from services import BIN, Processes, free_port, listening_socket, mlflow_command, standin_command
from tools import Failed, say, wait_for

PORT = int(os.environ.get("PORT", "8080"))
PAGE_PORT = int(os.environ.get("PAGE_PORT", "8088"))
URL = f"http://localhost:{PORT}"
TICKET = "My card was charged again after I cancelled the plan"


HOW = """
Ready after {seconds:.0f} s.  Try it: {url}/docs  (Ctrl-C ends it)
See it: http://localhost:{page}/  (what it does, live; for this machine alone)
Say what was wrong with an answer, by the name in its header despina-prediction-id, and find it in MLflow:
  .venv/bin/despina-runtime feedback give PREDICTION failure --url {url} --expected '{{"category": "account"}}'
Serve a program of your own beside it:
  export MLFLOW_TRACKING_URI={mlflow}
  .venv/bin/despina-runtime log MODULE:CLASS --name NAME --alias champion
  .venv/bin/despina-runtime serve -f MANIFEST --port 8081   (the language model is at {lm})"""


def ask() -> tuple[str, str]:
    """One prediction: the category, and the version that answered."""
    request = urllib.request.Request(
        f"{URL}/execute", json.dumps({"ticket": TICKET}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["category"], response.headers["despina-model-version"]


def main() -> int:
    """Start everything, show a release, then serve until Ctrl-C (or end at once with ONCE=1)."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="despina-try-"))
    os.environ["TMPDIR"] = str(folder)  # what a process leaves that had to be killed goes, too
    processes = Processes(folder / "logs")
    try:
        for port in (PORT, PAGE_PORT):
            listening_socket(port).close()
        mlflow, lm = _show(processes, folder)
        say(HOW.format(seconds=time.monotonic() - started, url=URL, page=PAGE_PORT, mlflow=mlflow, lm=lm))
        if not os.environ.get("ONCE"):
            signal.pause()
    except KeyboardInterrupt:
        say("")
    except Failed as exc:
        say(f"FAILED: {exc}")
        return 1
    finally:
        processes.stop_all()
        shutil.rmtree(folder)
    return 0


def _show(processes: Processes, folder: Path) -> tuple[str, str]:
    """Addresses of MLflow and the LM."""
    mlflow, lm = free_port(), free_port()
    uri = f"http://127.0.0.1:{mlflow}"
    environment = lm_environment(f"http://127.0.0.1:{lm}/v1")
    say("Starting an MLflow server (SQLite) and the stand-in LM")
    processes.start("mlflow", mlflow_command(folder / "mlflow", "127.0.0.1", mlflow, "*"))
    processes.start("stand-in-lm", standin_command("127.0.0.1", lm))
    processes.wait_for_http("mlflow", f"{uri}/health")
    processes.wait_for_http("stand-in-lm", f"http://127.0.0.1:{lm}/admin")
    say("Logging ticket-triage version 1, uncompiled; alias champion -> 1")
    release("uncompiled", uri, environment)
    _serve(processes, folder, uri, environment)
    say(f'POST /execute {{"ticket": "{TICKET}"}}')
    say("  {} (version {})".format(*wait_for("an answer", _answered, 60)))
    say("Logging version 2, compiled with BootstrapFewShot on 60 tickets; alias champion -> 2")
    release("compiled", uri, environment)
    say("The new version starts in a second process and takes over when it is ready")
    answer = wait_for("version 2", lambda: (a := ask())[1] == "2" and a, 60)
    say("  {} (version {})".format(*answer))
    return uri, environment.get("LM_BASE_URL", "")


def _serve(processes: Processes, folder: Path, uri: str, environment: dict[str, str]) -> None:
    """`despina-runtime serve -f`, with the LM that was asked for in the manifest."""
    manifest = yaml.safe_load((EXAMPLE / "program.yaml").read_text())
    manifest["spec"]["feedback"] = {}
    lm = manifest["spec"]["lms"][0]
    lm["model"] = environment["LM"]
    lm.pop("baseURL")
    if environment.get("LM_BASE_URL"):
        lm["baseURL"] = environment["LM_BASE_URL"]
    if environment.get("LM_API_KEY"):
        lm["apiKeySecretRef"] = {"name": "lm", "key": "key"}
        key = folder / "secrets" / "lm" / "key"
        key.parent.mkdir(parents=True)
        key.touch(mode=0o600)
        key.write_text(environment["LM_API_KEY"])
    path = folder / "program.yaml"
    path.write_text(yaml.safe_dump(manifest))
    admin = free_port()
    command = [str(BIN / "despina-runtime"), "serve", "-f", str(path), f"--port={PORT}", f"--admin-port={admin}"]
    say("despina-runtime serve -f (examples/ticket-triage/program.yaml, with these addresses and feedback: {})")
    processes.start("runtime", [*command, f"--tracking-uri={uri}", f"--secrets={folder / 'secrets'}"])
    page = {"DESPINA_DASHBOARD_PORT": str(PAGE_PORT)}
    processes.start("page", [str(BIN / "despina"), "dashboard", f"--local={admin}"], page)
    processes.wait_for_http("runtime", f"{URL}/readyz")
    processes.wait_for_http("page", f"http://localhost:{PAGE_PORT}/healthz")


def _answered() -> tuple[str, str] | None:
    try:
        return ask()
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main())
