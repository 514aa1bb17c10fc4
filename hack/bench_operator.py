"""`make bench-operator`: the operator with 100 programs on fake nodes (kwok).

Measures the time from a program's creation to its Deployment's, the operator's memory, its writes at rest over two
minutes, and how soon it acts on edits right after. Times come from the API server's audit log. The figures go to
out/bench-operator.json; it exits non-zero unless nothing was written at rest and every edit was acted on in time.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from localcluster import bin_dir
from services import Processes
from stage import LocalStage, apply, expose_services, install_operator, mlflow_uri, start_services, wait_for_services
from tools import ROOT, Failed, run, say, wait_for

PROGRAMS = int(os.environ.get("PROGRAMS", "100"))
REST_SECONDS = int(os.environ.get("REST_SECONDS", "120"))
EDITS = 5
EDIT_SECONDS = 5.0
NAMESPACE = "bench"
OPERATOR = "system:serviceaccount:despina-system:despina"
OUT = ROOT / "out"


class Bench:
    """One run."""

    def __init__(self) -> None:
        self.stage = LocalStage("bench", extras=True)
        self.processes = Processes(OUT / "bench" / "logs")

    def run(self) -> dict[str, Any]:
        """The figures."""
        self._set_up()
        say(f"Applying {PROGRAMS} programs")
        apply(self.stage, {"apiVersion": "v1", "kind": "List", "items": [program(n) for n in range(PROGRAMS)]})
        wait_for("all programs Ready", lambda: self._ready() == PROGRAMS, 600)
        delays = sorted(self._apply_to_deployment())
        wait_for("the operator's rest", self._is_resting, 120)
        say(f"Counting the operator's writes for {REST_SECONDS} s")
        before = len(self._writes())
        time.sleep(REST_SECONDS)
        figures = {
            "programs": PROGRAMS,
            "apply_to_deployment_seconds": {"p50": percentile(delays, 50), "p99": percentile(delays, 99)},
            "rss_mib": round(self._rss() / 2**20),
            "writes_at_rest": len(self._writes()) - before,
        }
        self.edits = self._edit()
        return figures

    def _set_up(self) -> None:
        self.stage.prepare()
        shutil.rmtree(OUT / "bench", ignore_errors=True)
        self.stage.up()
        start_services(self.stage, self.processes, OUT / "bench" / "mlflow")
        kwok = [str(bin_dir() / "kwok"), f"--kubeconfig={self.stage.cluster.kubeconfig}", "--manage-all-nodes=false"]
        kwok += ["--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--node-lease-duration-seconds=40"]
        self.processes.start("kwok", kwok)
        self.stage.load_images()
        self.stage.kubectl("create", "namespace", NAMESPACE)
        expose_services(self.stage, NAMESPACE)
        apply(self.stage, node())
        install_operator(self.stage, "despina-system", [NAMESPACE])
        wait_for_services(self.stage, self.processes)
        for path, body in (
            ("registered-models/create", {"name": "bench"}),
            ("model-versions/create", {"name": "bench", "source": "s3://nowhere/model"}),
            ("registered-models/alias", {"name": "bench", "alias": "champion", "version": "1"}),
        ):
            self._post(f"{mlflow_uri(self.stage)}/api/2.0/mlflow/{path}", body)

    def _post(self, url: str, body: dict[str, str]) -> None:
        code = (
            "import sys, urllib.request as u\n"
            "u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), {'Content-Type': 'application/json'}))"
        )
        run([*self.stage.prefix, sys.executable, "-c", code, url, json.dumps(body)], capture=True)

    def _ready(self) -> int:
        template = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
        found = self.stage.kubectl("get", "dspy", f"--namespace={NAMESPACE}", "-o", f"jsonpath={template}")
        return found.split().count("True")

    def _audit(self) -> list[dict[str, Any]]:
        """The API server's log of writes, the rotated parts included."""
        files = sorted(self.stage.cluster.dir.glob("audit*.log"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]

    def _writes(self) -> list[dict[str, Any]]:
        return [entry for entry in self._audit() if entry["user"]["username"] == OPERATOR]

    def _is_resting(self) -> bool:
        last = max((moment(e) for e in self._writes()), default=0.0)
        return time.time() - last > 10

    def _apply_to_deployment(self) -> list[float]:
        created: dict[str, float] = {}
        deployed: dict[str, float] = {}
        for entry in self._audit():
            reference = entry.get("objectRef") or {}
            if entry["verb"] != "create" or reference.get("namespace") != NAMESPACE:
                continue
            name = reference.get("name") or ""
            if reference["resource"] == "dspyprograms":
                created[name] = moment(entry)
            elif reference["resource"] == "deployments":
                deployed[name.rpartition("-")[0]] = moment(entry)
        return [deployed[name] - created[name] for name in created]

    def _rss(self) -> int:
        """The resident memory of the operator's process, in bytes."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"despina.cli\0operator" in path.read_bytes():
                    pages = (path.parent / "statm").read_text().split()[1]
                    return int(pages) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
        raise Failed("the operator's process was not found")

    def _edit(self) -> list[float]:
        """Seconds from each of a few edits to the change of scale that it asks for."""
        names = [f"p{n}" for n in range(EDITS)]
        started = time.time()
        for name in names:
            patch = '{"spec": {"replicas": 2}}'
            self.stage.kubectl("patch", "dspy", name, f"--namespace={NAMESPACE}", "--type=merge", "-p", patch)
        edited = {e["objectRef"]["name"]: moment(e) for e in self._audit() if is_edit(e, "dspyprograms", started)}

        def scaled() -> dict[str, float]:
            found = [e for e in self._writes() if is_edit(e, "deployments", started)]
            return {e["objectRef"]["name"].rpartition("-")[0]: moment(e) for e in found}

        wait_for("the edits' effect", lambda: set(scaled()) >= set(names), 60)
        return [round(scaled()[name] - edited[name], 2) for name in names]

    def close(self) -> None:
        """End everything."""
        self.processes.stop_all()
        self.stage.down()


def is_edit(entry: dict[str, Any], resource: str, since: float) -> bool:
    """Whether an audit entry is a patch of an object of this kind, and new; a status is another subresource."""
    reference = entry.get("objectRef") or {}
    wanted = "scale" if resource == "deployments" else None
    is_wanted = reference.get("resource") == resource and reference.get("subresource") == wanted
    return is_wanted and entry["verb"] == "patch" and moment(entry) >= since


def moment(entry: dict[str, Any]) -> float:
    """When the API server had done what an audit entry tells."""
    return datetime.datetime.fromisoformat(entry["stageTimestamp"]).timestamp()


def percentile(values: list[float], percent: int) -> float:
    """The nearest-rank percentile of sorted values."""
    return round(values[math.ceil(len(values) * percent / 100) - 1], 2)


def program(number: int) -> dict[str, Any]:
    """A program whose pods run on the fake node."""
    source = {"model": "bench", "alias": "champion", "trackingURI": f"http://mlflow.{NAMESPACE}:5000"}
    placement = {"nodeSelector": {"type": "kwok"}, "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]}
    return {
        "apiVersion": "despina.dev/v1alpha1",
        "kind": "DSPyProgram",
        "metadata": {"name": f"p{number}", "namespace": NAMESPACE},
        "spec": {"source": {"mlflow": source}, "placement": placement},
    }


def node() -> dict[str, Any]:
    """A node that kwok plays."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "kwok-0",
            "labels": {"type": "kwok"},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"cpu": "1000", "memory": "1000Gi", "pods": "2000"},
            "capacity": {"cpu": "1000", "memory": "1000Gi", "pods": "2000"},
        },
    }


def main() -> int:
    """Measure, write and judge."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench()
    try:
        figures = bench.run()
    except Failed as exc:
        say(f"FAILED: {exc}")
        return 1
    finally:
        bench.close()
    (OUT / "bench-operator.json").write_text(json.dumps(figures, indent=1) + "\n")
    say(json.dumps(figures, indent=1))
    say(f"Edits acted on after {bench.edits} s")
    return 0 if figures["writes_at_rest"] == 0 and max(bench.edits) <= EDIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
