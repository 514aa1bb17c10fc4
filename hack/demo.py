"""`make demo`: a DSPy program on a real Kubernetes, and a release under traffic, measured as it happens.

CLUSTER=kind|local|current chooses the cluster; LM, LM_BASE_URL and LM_API_KEY choose the language model. It exits
non-zero unless no request failed and the compiled version is more accurate on tickets it never saw. What it started
works on until `make demo-down`; after a failure nothing is left running.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from release import EXAMPLE, lm_environment, release, release_command
from services import Processes, forward_command, free_port, listening_socket, stop_group
from stage import (
    LM_PORT,
    apply,
    choose,
    expose_services,
    install_operator,
    mlflow_uri,
    start_services,
    wait_for_services,
)
from tools import ROOT, Failed, run, say, wait_for

OUT = ROOT / "out"
STATE = OUT / "demo"
PORT = int(os.environ.get("PORT", "8080"))
PAGE_PORT = int(os.environ.get("PAGE_PORT", "8088"))
NAMESPACE = "default"
COMMANDS = ("kubectl", "despina", "inside", "release")
RATE = 50
MAX_COSINE = 0.8


class Demo:
    """One run of the demo, and what it measured."""

    name = "ticket-triage"
    figures_name = "demo.json"
    files = ("heldout.yaml", "program.yaml")
    """Manifests of the example; the program is the last."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.stage = choose("demo")
        self.processes = Processes(STATE / "logs")
        kind = type(self.stage).__name__.removesuffix("Stage").lower()
        self.figures: dict[str, Any] = {"cluster": kind, "seconds": {}}
        self.figures_file = OUT / self.figures_name
        self.figures_file.unlink(missing_ok=True)  # an earlier run's would stand beside a failure of this one
        STATE.mkdir(parents=True, exist_ok=True)
        (STATE / "cluster").write_text(kind)  # for demo-down

    def step(self, text: str) -> None:
        """Say what comes next, and when."""
        say(f"[{time.monotonic() - self.started:4.0f} s] {text}")

    def run(self) -> None:
        """All of it."""
        self._set_the_stage()
        self._first_version()
        self._second_version()
        accuracy = self.figures["accuracy"]
        if self.figures["failed"] or accuracy["2"] <= accuracy["1"]:
            raise Failed(f"expected no failed request and a more accurate version 2: {self.figures}")
        self._leave_open()

    def _set_the_stage(self) -> None:
        self.step("Building what is missing (the first time, Kubernetes from source: up to 10 minutes)")
        self.stage.prepare()
        self.step(f"Starting the cluster ({self.figures['cluster']})")
        self.stage.up()
        start_services(self.stage, self.processes, STATE / "mlflow")
        self.step("Loading the images of operator and runtime")
        self.stage.load_images()
        self.step("helm install despina charts/despina --set watchNamespaces={default}")
        expose_services(self.stage, NAMESPACE)
        install_operator(self.stage, "despina-system", [NAMESPACE])
        self.step("Waiting for MLflow (SQLite) and the stand-in LM")
        wait_for_services(self.stage, self.processes)
        self.uri = mlflow_uri(self.stage)
        self.lm = lm_environment(f"http://{self.stage.host_ip}:{LM_PORT}/v1")

    def _first_version(self) -> None:
        self.step("Logging ticket-triage version 1, uncompiled; alias champion -> 1")
        release("uncompiled", self.uri, self.lm, self.stage.prefix)
        self.step("kubectl apply -f examples/ticket-triage/")
        for document in self._manifests():
            apply(self.stage, document)
        self.stage.kubectl(
            "wait", f"--namespace={NAMESPACE}", "dspy", self.name, "--for=condition=Ready", "--timeout=180s"
        )
        say(self._get())
        self.url = f"http://{self._cluster_ip()}"
        self.step(f'POST {self.url}/execute {{"ticket": "{self._tickets("heldout")[0]["ticket"]}"}}')
        category, version = self._ask(self._tickets("heldout")[0]["ticket"])
        say(f'         {{"category": "{category}"}}   (version {version})')
        self.figures["seconds"]["to_first_answer"] = round(time.monotonic() - self.started, 1)

    def _second_version(self) -> None:
        self._check_split()
        accuracy = self.figures["accuracy"] = {"1": self._accuracy("1")}
        self.step(f"Version 1 is right on {accuracy['1']:.0%} of the held-out tickets")
        traffic = self._start_traffic(RATE)
        self.step("Logging version 2, compiled with BootstrapFewShot on 60 tickets; alias champion -> 2")
        release("compiled", self.uri, self.lm, self.stage.prefix)
        moved = time.time()
        wait_for("version 2 in the status", lambda: self._status("active.version") == "2", 180)
        self._tell_gates()
        wait_for("the end of the watch", lambda: self._status("rollout.step") == "Done", 60)
        accuracy["2"] = self._accuracy("2")
        self.step(f"Version 2 is right on {accuracy['2']:.0%} of the held-out tickets")
        self.step("Logging version 3, not compiled; alias champion -> 3")
        release("uncompiled", self.uri, self.lm, self.stage.prefix)
        wait_for("version 3 to be refused", lambda: self._status("model.quarantined[*].message"), 180)
        self.step(f"Version 3 is quarantined: {self._status('model.quarantined[*].message')}")
        say(self._get())
        self._judge_traffic(traffic, moved)

    def _start_traffic(self, rate: int) -> Path:
        """Where a line is written for each request, of which no two are alike."""
        self.step(f"Steady traffic: {rate} requests/s, new and kept-alive connections, no retries")
        path = STATE / "traffic.jsonl"
        script = ROOT / "tests" / "support" / "load.py"
        body = json.dumps({"ticket": self._tickets("heldout")[0]["ticket"]})
        self.processes.start(
            "traffic", [sys.executable, str(script), f"{self.url}/execute", body, str(rate), str(path)]
        )
        return path

    def _tell_gates(self) -> None:
        self.step(f"{self._status('rollout.strategy')}: {self._status('rollout.strategyReason')}")
        for gate in json.loads(self._status("rollout.gates") or "[]"):
            say(f"         gate {gate['name']}: {gate['result']}: {gate['message']}")

    def _judge_traffic(self, path: Path, moved: float) -> None:
        """End the traffic, and say what became of it since the alias moved and before."""
        self.processes.stop("traffic", seconds=40)
        records = [json.loads(line) for line in path.read_text().splitlines()]
        failed = [r for r in records if r.get("status") != 200 or r.get("version") not in ("1", "2")]
        first_new = min(r["until"] for r in records if r.get("version") == "2")
        self.figures |= {"sent": len(records), "failed": len(failed)}
        self.figures["seconds"]["switch"] = round(first_new - moved, 1)
        milliseconds = statistics.median(r["until"] - r["at"] for r in records) * 1000
        self.step(f"Requests sent {len(records)}, failed {len(failed)}; median answer {milliseconds:.0f} ms")
        moment = time.strftime("%H:%M:%S", time.localtime(first_new))
        self.step(f"The switch came at {moment}, {first_new - moved:.1f} s after the alias moved")
        for record in failed[:5]:
            say(f"         failed: {record}")

    def _leave_open(self) -> None:
        self.figures["seconds"]["total"] = round(time.monotonic() - self.started, 1)
        self.figures_file.write_text(json.dumps(self._document(), indent=1) + "\n")
        self._forward("forward", PORT, self._cluster_ip(), 80)
        self._open_page()
        commands = self._commands()
        write_commands(OUT, commands)
        (STATE / "pids.json").write_text(json.dumps(self.processes.pids))
        self.step(
            f"Done. Figures are in {self.figures_file.relative_to(ROOT)}; everything runs until `make demo-down`.\n"
        )
        say(f"  out/kubectl get dspy,dspyt\n  out/despina why {self.name}")
        if "release" in commands:
            say("  out/release compiled    (logs a version and moves the alias there)")
            say("  out/release 1           (moves the alias to a version that there is)")
        say(f"  out/inside curl -s {self.uri}/version    (MLflow; the cluster's addresses are reached from inside)")
        say(f"  http://localhost:{PORT}/docs")
        say(f"  http://localhost:{PAGE_PORT}/    (the page: what every program does, live)")

    def _document(self) -> dict[str, Any]:
        """What is written down of the figures."""
        return self.figures

    def _open_page(self) -> None:
        """`despina dashboard --open` within the cluster's network, and a way there: both for this machine alone."""
        port = free_port()
        settings = {"NAMESPACE": "despina-system", "WATCH_NAMESPACES": NAMESPACE, "DASHBOARD_PORT": str(port)}
        environment = {f"DESPINA_{name}": value for name, value in settings.items()}
        self.processes.start("page", [*self.stage.despina(), "dashboard", "--open"], environment)
        self.processes.wait_for_http("page", f"http://127.0.0.1:{port}/healthz")
        self._forward("page-forward", PAGE_PORT, "127.0.0.1", port)

    def _forward(self, name: str, port: int, host: str, target: int) -> None:
        """From a port of this machine to one within the cluster's network."""
        listen = listening_socket(port)
        listen.set_inheritable(True)
        command = forward_command(listen.fileno(), host, target)
        self.processes.start(name, command, pass_fds=[listen.fileno()])
        listen.close()

    def _commands(self) -> dict[str, list[str]]:
        inside = [*self.stage.prefix, "env"]
        found = {"kubectl": self.stage.wrapper(), "despina": self.stage.despina(), "inside": inside}
        if self.name == Demo.name:
            found["release"] = release_command(self.uri, self.lm, self.stage.prefix)
        return found

    def _manifests(self) -> list[dict[str, Any]]:
        """The example's manifests; another LM than the stand-in takes its place, its key in a Secret."""
        *others, manifest = (yaml.safe_load((EXAMPLE / file).read_text()) for file in self.files)
        if not os.environ.get("LM"):
            return [*others, manifest]
        lm = manifest["spec"]["lms"][0]
        lm["model"] = self.lm["LM"]
        lm.pop("baseURL")
        if "LM_BASE_URL" in self.lm:
            lm["baseURL"] = self.lm["LM_BASE_URL"]
        if "LM_API_KEY" not in self.lm:
            return [*others, manifest]
        lm["apiKeySecretRef"] = {"name": "lm", "key": "key"}
        meta = {"name": "lm", "namespace": NAMESPACE}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"key": self.lm["LM_API_KEY"]}}
        return [secret, *others, manifest]

    def _cluster_ip(self) -> str:
        return self._read("service", "spec.clusterIP")

    def _read(self, kind: str, path: str) -> str:
        return self.stage.kubectl("get", kind, self.name, f"--namespace={NAMESPACE}", "-o", f"jsonpath={{.{path}}}")

    def _status(self, path: str) -> str:
        return self._read("dspy", f"status.{path}")

    def _get(self) -> str:
        return self.stage.kubectl("get", "dspy", self.name, f"--namespace={NAMESPACE}")

    def _tickets(self, split: str) -> list[dict[str, str]]:
        rows = map(json.loads, (EXAMPLE / "tickets.jsonl").read_text().splitlines())
        return [r for r in rows if r["split"] == split]

    def _check_split(self) -> None:
        """No held-out ticket may be a near-copy of one that the program was shown."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = {split: [t["ticket"] for t in self._tickets(split)] for split in ("train", "heldout")}
        vectors = TfidfVectorizer().fit(texts["train"] + texts["heldout"])
        nearest = (vectors.transform(texts["heldout"]) @ vectors.transform(texts["train"]).T).max()
        self.step(f"Nearest held-out ticket to a training one: TF-IDF cosine {nearest:.2f} (limit {MAX_COSINE})")
        if nearest > MAX_COSINE:
            raise Failed("a held-out ticket is a near-copy of a training ticket")

    def _accuracy(self, version: str) -> float:
        tickets = self._tickets("heldout")
        answers = self._ask_all([t["ticket"] for t in tickets])
        if {v for _, v in answers} != {version}:
            raise Failed(f"expected answers of version {version} only")
        return sum(t["category"] == c for t, (c, _) in zip(tickets, answers, strict=True)) / len(tickets)

    def _ask(self, ticket: str) -> tuple[str, str]:
        return self._ask_all([ticket])[0]

    def _ask_all(self, tickets: list[str]) -> list[tuple[str, str]]:
        """Category and version of each, asked from where Services can be reached."""
        code = (
            "import json, sys, urllib.request as u\n"
            "for t in json.load(sys.stdin):\n"
            "    q = u.Request(sys.argv[1] + '/execute', json.dumps({'ticket': t}).encode())\n"
            "    with u.urlopen(q, timeout=60) as r:\n"
            "        print(json.dumps([json.load(r)['category'], r.headers['despina-model-version']]))\n"
        )
        command = [*self.stage.prefix, sys.executable, "-c", code, self.url]
        lines = run(command, capture=True, input=json.dumps(tickets)).splitlines()
        return [tuple(json.loads(line)) for line in lines]

    def explain(self) -> str:
        """The end of what the cluster's parts said, for a step that failed."""
        parts = [("operator", ["logs", "--namespace=despina-system", "deployment/despina", "--tail=15"])]
        parts += [("program", ["describe", "dspy", self.name, f"--namespace={NAMESPACE}"])]
        texts = []
        for name, args in parts:
            try:
                texts.append(f"--- {name}\n{self.stage.kubectl(*args)[-2500:]}")
            except (Failed, OSError):
                continue
        return "\n".join(texts)


def write_commands(folder: Path, commands: dict[str, list[str]]) -> None:
    """What works on the cluster from any shell of this machine."""
    for name, command in commands.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        path.chmod(0o755)


def down() -> None:
    """End everything that a demo left."""
    path, cluster = STATE / "pids.json", STATE / "cluster"
    if path.exists():
        for pid in json.loads(path.read_text()).values():
            if _is_ours(pid):
                stop_group(pid)
    if cluster.exists():
        say("Ending the demo's cluster …")
        choose("demo", cluster.read_text()).down()
    shutil.rmtree(STATE, ignore_errors=True)
    for name in COMMANDS:
        (OUT / name).unlink(missing_ok=True)


def _is_ours(pid: int) -> bool:
    """Whether a recorded process group still is what was recorded: numbers are used again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return False
    marks = "mlflow", "standin_lm", "start_server", "despina.cli", "fake_bedrock", "moto", "postgres"
    return any(mark in command for mark in marks)


def main(args: list[str], kind: type[Demo] = Demo) -> int:
    """Run the demo, or end it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    demo = None
    try:
        down()
        if args == ["down"]:
            say("The demo is down.")
            return 0
        for port in (PORT, PAGE_PORT):
            listening_socket(port).close()
        demo = kind()
        demo.run()
    except (Failed, subprocess.SubprocessError, OSError) as exc:
        say(f"FAILED: {exc}")
        if demo:
            say(demo.explain())
        return _give_up(demo)
    except (KeyboardInterrupt, SystemExit):
        return _give_up(demo)
    except BaseException:  # a fault of the demo's own: nothing is left running all the same
        _give_up(demo)
        raise
    return 0


def _give_up(demo: Demo | None) -> int:
    if demo:
        demo.processes.stop_all()
        demo.stage.down()
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
