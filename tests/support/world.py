"""The world of the end-to-end tests, in words: given a program, when its alias moves, then …"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from localcluster import Cluster, bin_dir
from tools import Failed

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "test"
MLFLOW = os.environ.get("DESPINA_TEST_MLFLOW", "")
REPORTS: list[str] = []
"""What traffic saw, for the end of the run."""
TICKET = {"ticket": "My card was charged again after I cancelled the plan"}


def eventually(what: str, check: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for a condition with a deadline; the last value is in the message."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        # Between looks at a condition, never instead of one; each may be a kubectl that takes 0.1 s of CPU.
        time.sleep(0.5)


class Kube:
    """kubectl on the test cluster. The process runs in the cluster's network already."""

    def __init__(self, namespace: str = "default") -> None:
        cluster = Cluster(os.environ.get("DESPINA_TEST_CLUSTER", "test"))
        self.namespace = namespace
        self.folder = cluster.dir
        self._command = [str(bin_dir() / "kubectl"), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
        self._helm = [str(bin_dir() / "helm"), f"--kubeconfig={cluster.kubeconfig}"]

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self._run([*self._command, *args], stdin)

    def helm(self, *args: str) -> str:
        return self._run([*self._helm, *args], None)

    def rejection(self, document: dict[str, Any]) -> str:
        """What the API server says to a document that it does not take."""
        return self.fails("create", "--dry-run=server", "-f", "-", stdin=json.dumps(document))

    def fails(self, *args: str, stdin: str | None = None) -> str:
        """The error of a command that must fail."""
        done = subprocess.run([*self._command, *args], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode != 0, f"accepted: {done.stdout}"
        return done.stderr

    def error(self, *args: str, stdin: str | None = None) -> str:
        """What a command says on its error output; nothing when it succeeds."""
        return subprocess.run([*self._command, *args], input=stdin, capture_output=True, text=True, check=False).stderr

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "-o", "json"))

    def apply(self, document: dict[str, Any]) -> str:
        return self("apply", "-f", "-", stdin=json.dumps(document))

    def start(self, *args: str, **options) -> subprocess.Popen:
        return subprocess.Popen([*self._command, *args], **options)

    @staticmethod
    def _run(command: list[str], stdin: str | None) -> str:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{' '.join(command[1:6])}: {done.stderr}")
        return done.stdout


def manifest(name: str, model: str | None = None, **spec: Any) -> dict[str, Any]:
    """The example's manifest with the delays of the tests, for any namespace: whoever applies it says which."""
    document = yaml.safe_load((ROOT / "examples" / "ticket-triage" / "program.yaml").read_text())
    document["metadata"] = {"name": name}
    base = document["spec"]
    base["source"]["mlflow"]["model"] = model or name
    base.pop("cache")  # each request shall go the whole way
    base["runtime"] = {"drainSeconds": 6, "requestTimeoutSeconds": 20}
    base["rollout"] = {
        "strategy": "BlueGreen",
        "blueGreen": {"scaleDownDelaySeconds": 10, "progressDeadlineSeconds": 45},
    }
    base["rollout"]["blueGreen"]["abortScaleDownDelaySeconds"] = 5
    return document | {"spec": base | spec}


OPERATOR = "system:serviceaccount:despina-system:despina"


def writes_of_the_operator(kube: Kube) -> int:
    """The API server's audit log tells, by user; it holds writes only. Those to other tests' namespaces are theirs."""
    entries = map(json.loads, (kube.folder / "audit.log").read_text().splitlines())
    places = [e["objectRef"].get("namespace") for e in entries if e["user"]["username"] == OPERATOR]
    return sum(place in (kube.namespace, "despina-system", None) for place in places)


def assert_at_rest(kube: Kube, seconds: int) -> None:
    """That the operator writes nothing for a while. Nothing happens that could be waited for instead."""
    before = writes_of_the_operator(kube)
    kube.start(
        "wait", "namespace", kube.namespace, "--for=jsonpath={.x}=y", f"--timeout={seconds}s", stderr=subprocess.DEVNULL
    ).wait()
    assert writes_of_the_operator(kube) == before


def log_model(kind: str, name: str, alias: str = "", uri: str = MLFLOW, data: str | None = None) -> str:
    """Log a model version in a process of its own, as people do: code of two versions never meets in one.

    `data` is the server's folder, for the kind whose artefact is deleted. Returns the version.
    """
    command = [sys.executable, str(ROOT / "tests" / "support" / "models.py"), kind, name, *([alias] if alias else [])]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}
    env = {**os.environ, **quiet, "MLFLOW_TRACKING_URI": uri}
    if data:
        env["DESPINA_TEST_MLFLOW_DATA"] = data
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()[-1]


def move_alias(model: str, version: str, alias: str = "champion") -> None:
    """Point an alias at a version, as a person would in MLflow."""
    body = {"name": model, "alias": alias, "version": version}
    httpx.post(f"{MLFLOW}/api/2.0/mlflow/registered-models/alias", json=body, timeout=30).raise_for_status()


@dataclass
class StandIn:
    """A stand-in LM."""

    url: str

    def misbehave(self, **faults: Any) -> None:
        """With these faults from now on; without any, it behaves again."""
        httpx.post(f"{self.url}/admin", json=faults).raise_for_status()

    @property
    def calls(self) -> int:
        return httpx.get(f"{self.url}/admin").json()["calls"]

    @property
    def distinct(self) -> int:
        """How many of the calls' contents differ."""
        return httpx.get(f"{self.url}/admin").json()["distinct"]


@contextmanager
def hangs(group: int):
    """A server, by its process group, accepts connections and says nothing while the block runs."""
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


class Given:
    """One program in the cluster."""

    def __init__(self, kube: Kube, document: dict[str, Any]) -> None:
        self.kube = kube
        self.document = document
        self.name = document["metadata"]["name"]
        self.model = document["spec"]["source"]["mlflow"]["model"]
        kube.apply(document)

    @property
    def status(self) -> dict[str, Any]:
        return self.kube.json("get", "dspy", self.name).get("status") or {}

    def condition(self, kind: str) -> dict[str, Any]:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    def is_active(self, version: str) -> bool:
        status = self.status
        return (status.get("active") or {}).get("version") == version and status.get("readyReplicas", 0) > 0

    def quarantined(self, version: str) -> dict[str, Any] | None:
        entries = self.status.get("model", {}).get("quarantined", [])
        return next((e for e in entries if e["version"] == version), None)

    def pods(self) -> list[dict[str, Any]]:
        return self.kube.json("get", "pods", "-l", f"despina.dev/program={self.name}")["items"]

    def deployments(self) -> dict[str, dict[str, Any]]:
        found = self.kube.json("get", "deployments", "-l", f"despina.dev/program={self.name}")["items"]
        return {d["metadata"]["labels"]["despina.dev/model-version"]: d for d in found}

    def configs(self) -> list[str]:
        """What pods are made to run, as noted on their Deployments."""
        return [d["metadata"]["annotations"]["despina.dev/config"] for d in self.deployments().values()]

    def becomes_ready(self, seconds: float = 120) -> None:
        eventually(f"{self.name} Ready", lambda: self.condition("Ready").get("status") == "True", seconds)

    def becomes(self, kind: str, status: str, reason: str, seconds: float = 60) -> dict[str, Any]:
        def matches() -> dict[str, Any] | None:
            found = self.condition(kind)
            return found if (found.get("status"), found.get("reason")) == (status, reason) else None

        try:
            return eventually(f"{kind}={status} ({reason})", matches, seconds)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; it is {self.condition(kind)}") from None

    def only_pods_of(self, version: str) -> bool:
        """Whether every pod object that is left is the version's."""
        return {p["metadata"]["labels"]["despina.dev/model-version"] for p in self.pods()} == {version}

    @property
    def url(self) -> str:
        """The Service by its cluster IP, which this process reaches."""
        return f"http://{self.kube('get', 'service', self.name, '-o', 'jsonpath={.spec.clusterIP}')}"

    def delete(self) -> None:
        self.kube("delete", "dspy", self.name, "--wait=true")


class Traffic:
    """What steady traffic saw."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def goes_on(self, count: int) -> None:
        """Wait for so many more requests."""
        enough = len(self.records) + count
        eventually(f"{count} more requests", lambda: len(self.records) >= enough, 60)

    def failures(self, allowed: set[str]) -> list[dict[str, Any]]:
        """Every request that was not answered 200 by an allowed version."""
        return [r for r in self.records if r.get("status") != 200 or r.get("version") not in allowed]

    def report(self, what: str, allowed: set[str]) -> list[dict[str, Any]]:
        """Put sent and failed into the summary of the test run, with the first failures; returns all of them."""
        failed = self.failures(allowed)
        REPORTS.append(f"{what}: sent={len(self.records)} failed={len(failed)}")
        REPORTS.extend(json.dumps(record) for record in failed[:3])
        return failed


@contextmanager
def traffic(program: Given, rate: float = 50, body: dict[str, Any] = TICKET):
    """POST requests at a steady rate, on new and on kept-alive connections, until the block ends."""
    path = OUT / f"traffic-{program.name}-{time.time_ns()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    script = str(ROOT / "tests" / "support" / "load.py")
    command = [sys.executable, script, f"{program.url}/execute", json.dumps(body), str(rate), str(path)]
    process = subprocess.Popen(command)
    found = Traffic(path)
    try:
        eventually("traffic", lambda: len(found.records) > rate, 30)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


@contextmanager
def conditions_of(program: Given):
    """Every status that passes by while the block runs, as a watch sees it."""
    path = OUT / f"watch-{program.name}-{time.time_ns()}.json"
    seen: list[dict[str, Any]] = []
    with path.open("w") as out:
        template = "jsonpath={.status.conditions}{'\\n'}"
        process = program.kube.start("get", "dspy", program.name, "--watch", "-o", template, stdout=out)
        try:
            yield seen
        finally:
            process.terminate()
            process.wait()
    for line in path.read_text().splitlines():
        seen.append({c["type"]: c["status"] for c in json.loads(line or "[]")})
