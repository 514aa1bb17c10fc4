"""`make demo-loop`: a program on a real Kubernetes that becomes better by what its callers say, measured as it happens.

It is served uncompiled by two replicas and wrong most of the time. Six hundred of its answers are labelled with what
would have been right; their failure rate begins a Job, which compiles it within a budget; the result is judged on rows
that it never saw, passes the release's gates and takes over under traffic. Then as many labels that are all wrong are
tried by hand: what they lead to is better by their own measure, and refused by the golden set.

CLUSTER, LM, LM_BASE_URL and LM_API_KEY as for `make demo`. It exits non-zero unless everything that it claims holds
(`CLAIMS`). What it started works on until `make demo-down`; after a failure nothing is left running.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import demo
from demo import NAMESPACE, STATE
from release import EXAMPLE, release
from services import BIN, QUIET, listening_socket
from stage import MLFLOW_PORT, apply
from tools import ROOT, Failed, run, say, wait_for

sys.path.insert(0, str(ROOT))
from tests.support.tickets import inverted, tickets, write_lines

SEED, DISTINCT, LABELS = 14, 1500, 600
"""Tickets: the first 600 are labelled, the next 600 wrongly, and the rest nobody ever labels."""
RATE, MOST_SECONDS = 30, 1500
LEAST_SENT = 3000
MLFLOW_AT = int(os.environ.get("MLFLOW_PORT", "5000"))
TOKEN = {"name": "ticket-triage-desk", "namespace": NAMESPACE}
JOBS = "despina.dev/optimization"
CALLERS = str(ROOT / "hack" / "loop_callers.py")
ORDER = ("sent", "failed", "labels", "failure_rate", "heldout", "golden", "budget", "poison")
Document = dict[str, Any]

CLAIMS: dict[str, Callable[[Document], bool]] = {
    "no request failed": lambda d: d["failed"] == 0,
    f"at least {LEAST_SENT} requests were sent": lambda d: d["sent"] >= LEAST_SENT,
    f"at least {LABELS} labels were given": lambda d: d["labels"] >= LABELS,
    "more than 10 % of them were failures": lambda d: d["failure_rate"] > 0.10,
    "the candidate is better on held-out rows": lambda d: d["heldout"]["candidate"] > d["heldout"]["base"],
    "so much better is no chance (p at most 0.05)": lambda d: d["heldout"]["p"] <= 0.05,
    "the interval of the gain begins above 0": lambda d: d["heldout"]["interval"][0] > 0,
    "the candidate is not worse on the golden set": lambda d: d["golden"]["candidate"] >= d["golden"]["base"],
    "the budget was kept": lambda d: 0 < d["budget"]["spent"] <= d["budget"]["max_lm_calls"],
    "wrong labels lead to what is better on their own held-out rows": lambda d: (
        d["poison"]["heldout"]["candidate"] > d["poison"]["heldout"]["base"] and d["poison"]["heldout"]["p"] <= 0.05
    ),
    "and worse on the golden set": lambda d: d["poison"]["golden"]["candidate"] < d["poison"]["golden"]["base"],
    "which is why it is refused": lambda d: d["poison"]["reason"] == "GoldenWorse",
}
"""What must hold of `out/demo-loop.json`, in words."""


def broken(document: Document) -> list[str]:
    """The claims that do not hold."""
    return [claim for claim, holds in CLAIMS.items() if not holds(document)]


class LoopDemo(demo.Demo):
    """One run of it."""

    figures_name = "demo-loop.json"
    files = ("heldout.yaml", "loop/golden.yaml", "loop/program.yaml")

    def __init__(self) -> None:
        listening_socket(MLFLOW_AT).close()
        super().__init__()
        self.document: Document = {}
        rows = tickets(DISTINCT, SEED)
        if len({text for text, _ in rows}) < DISTINCT:
            raise Failed(f"there are fewer than {DISTINCT} distinct tickets")
        self.labelled, self.misled = rows[:LABELS], rows[LABELS : 2 * LABELS]
        self.others = rows[2 * LABELS :]
        self.token = secrets.token_hex(16)

    def run(self) -> None:
        """All of it."""
        self._set_the_stage()
        self._serve()
        traffic = self._start_traffic(RATE)
        self._label()
        self._optimize()
        self._release(traffic)
        self._mislead()
        if wrong := broken(self.document):
            raise Failed(f"does not hold: {'; '.join(wrong)}\n{json.dumps(self.document, indent=1)}")
        self._leave_open()

    # --- the story ------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self.step("Logging ticket-triage version 1, uncompiled; alias champion -> 1")
        release("uncompiled", self.uri, self.lm, self.stage.prefix)
        self.step(f"kubectl create secret generic {TOKEN['name']}: whoever shows this token is trusted with labels")
        apply(
            self.stage, {"apiVersion": "v1", "kind": "Secret", "metadata": TOKEN, "stringData": {"token": self.token}}
        )
        self.step("kubectl apply -f examples/ticket-triage/heldout.yaml -f examples/ticket-triage/loop/")
        *_, self.manifest = documents = self._manifests()
        for document in documents:
            apply(self.stage, document)
        ready = ["--for=condition=Ready", "--timeout=180s"]
        self.stage.kubectl("wait", f"--namespace={NAMESPACE}", "dspy", self.name, *ready)
        say(self._get())
        self.generation = self._read("dspy", "metadata.generation")
        self.url = f"http://{self._cluster_ip()}"
        self.step(f"{DISTINCT} distinct tickets by seed {SEED}, such as: {self.labelled[0][0]}")
        self._score("1")

    def _label(self) -> None:
        self.step(f"{LABELS} of its answers are labelled with what is right, every other one at the replica that")
        say("         did not give it, with the token: POST /feedback {prediction_id, label, expected}")
        pods = {ip: f"http://{ip}:8080" for ip in self._pods()}
        if len(pods) != 2:
            raise Failed(f"expected two replicas: {sorted(pods)}")
        given = self._callers("label", url=self.url, pods=pods, token=self.token, rows=self.labelled)
        self.step(f"Acknowledged {given['labels']} labels, {given['elsewhere']} of them by the other replica")
        if given["labels"] < LABELS or given["elsewhere"] < LABELS // 2:
            raise Failed(f"expected {LABELS} labels, half of them by the other replica: {given}")
        if given["failures"] <= 0.10 * LABELS:
            raise Failed(f"{given['failures']} of {LABELS} answers are wrong: this LM leaves the loop nothing to mend")

    def _optimize(self) -> None:
        self.step("They are delivered to MLflow, where the operator counts them once a minute")
        run = self._wait_for_run(lambda run: run, 300)
        found = self._callers("votes", uri=self.uri, experiment=f"{NAMESPACE}/{self.name}")
        labels = found["success"] + found["failure"]
        rate = found["failure"] / labels
        self.document |= {"labels": labels, "failure_rate": round(rate, 4)}
        self.step(f"MLflow has {labels} labels, {rate:.1%} of them failures; Job {run['job']} begins: {run['trigger']}")
        run = self._wait_for_run(lambda run: run if run.get("finishedAt") else None, MOST_SECONDS)
        self.moved = time.time()
        self.step(f"{run.get('reason')}: {run.get('message')}")
        if run.get("reason") != "Better":
            raise Failed(f"expected a better version: {run}")
        self._tell_scores(run)

    def _tell_scores(self, run: Document) -> None:
        """By the tags of the version, which have more digits than the status."""
        self.candidate = run["candidateVersion"]
        tags = self._registry()["tags"][self.candidate]
        heldout, golden = (json.loads(tags[f"despina.{name}"]) for name in ("heldout", "golden"))
        budget = {
            "max_lm_calls": self.manifest["spec"]["optimization"]["budget"]["maxLMCalls"],
            "spent": run["lmCalls"],
        }
        self.document |= {
            "heldout": _of(heldout, "base", "candidate", "interval", "p"),
            "golden": _of(golden, "base", "candidate"),
            "budget": budget,
        }
        self._table({"held-out labels": heldout, "golden set": golden})
        self.step(f"It took {budget['spent']} LM calls of {budget['max_lm_calls']}")
        jobs = self.stage.kubectl("get", "jobs", f"--namespace={NAMESPACE}", "-l", JOBS, "-o", "name").split()
        self.step(
            f"{len(jobs)} Job of optimisation; version {self.candidate} differs in module {tags['despina.modules']}"
        )
        if len(jobs) != 1:
            raise Failed(f"expected one Job: {jobs}")

    def _release(self, traffic: Path) -> None:
        self.step(f"The operator moves the alias: champion -> {self.candidate}; the release begins")
        wait_for("the candidate in the status", lambda: self._status("active.version") == self.candidate, 240)
        self._tell_gates()
        if self._status("rollout.strategy") != "HotSwap":
            raise Failed("expected a hot swap: nothing but compiled state is another")
        wait_for("the end of the watch", lambda: self._status("rollout.step") == "Done", 90)
        wait_for("enough traffic", lambda: traffic.read_bytes().count(b"\n") > LEAST_SENT, 300)
        self._judge_traffic(traffic, self.moved)
        self.document |= {name: self.figures[name] for name in ("sent", "failed")}
        self._score(self.candidate)
        if self._read("dspy", "metadata.generation") != self.generation:
            raise Failed("the manifest was to stay as it was applied")
        self.step(f"The manifest is as it was applied (generation {self.generation}): Git has nothing to follow")
        say(self._get())

    def _mislead(self) -> None:
        self.step(f"Now {LABELS} labels on other tickets, all of them wrong: each names the next team")
        path = write_lines(STATE / "inverted.jsonl", self._wrong_labels())
        command = self._command(path)
        self.step(f"despina-runtime {' '.join(command[1:]).replace(f'{ROOT}/', '')}")
        said = run([*self.stage.prefix, *command], capture=True, env={**os.environ, **QUIET})
        say("".join(f"         {line}\n" for line in said.splitlines()).rstrip())
        found = re.match(r"(\w+) version (\d+): ", said)
        if not found:
            raise Failed(f"expected a verdict: {said}")
        registry = self._registry()
        tags = registry["tags"][found[2]]
        heldout, golden = (json.loads(tags[f"despina.{name}"]) for name in ("heldout", "golden"))
        self._table({"held-out labels, wrong": heldout, "golden set": golden})
        poison = {"heldout": _of(heldout, "base", "candidate", "p"), "golden": _of(golden, "base", "candidate")}
        self.document["poison"] = {**poison, "reason": found[1]}
        where = ", ".join(f"{alias} -> {version}" for alias, version in sorted(registry["aliases"].items()))
        self.step(
            f"Refused: version {found[2]} has no alias ({where}), and version {self._status('active.version')} serves"
        )
        if found[2] in registry["aliases"].values() or self._status("active.version") != self.candidate:
            raise Failed(f"version {found[2]} was to reach nobody")

    # --- its parts ------------------------------------------------------------------------------------

    def _score(self, version: str) -> None:
        """How often it is right on tickets that nobody labels."""
        answers = self._callers("ask", url=self.url, tickets=[text for text, _ in self.others])
        if {v for _, v, _ in answers} != {version}:
            raise Failed(f"expected answers of version {version} only")
        right = sum(category == c for (_, category), (c, _, _) in zip(self.others, answers, strict=True))
        share = right / len(answers)
        self.step(f"Version {version} is right on {share:.1%} of {len(answers)} tickets that nobody labels")

    def _wrong_labels(self) -> list[Document]:
        """A line each, as `--labels` takes them: what it answered, and a lie about it."""
        answers = self._callers("ask", url=self.url, tickets=[text for text, _ in self.misled])
        lines = []
        for (text, category), (answer, _, name) in zip(self.misled, answers, strict=True):
            wrong = inverted(category)
            what = {"prediction_id": name, "inputs": {"ticket": text}, "outputs": {"category": answer}}
            said = {"label": "success" if answer == wrong else "failure", "expected": {"category": wrong}}
            lines.append({**what, **said, "source": "desk", "trusted": True, "at": time.time()})
        return lines

    def _command(self, labels: Path) -> list[str]:
        """`despina-runtime optimize` by hand, with the manifest's own settings and its golden set."""
        (STATE / "program.yaml").write_text(yaml.safe_dump(self.manifest))
        golden = yaml.safe_load((EXAMPLE / "loop" / "golden.yaml").read_text())["data"]["tickets.jsonl"]
        (STATE / "golden.jsonl").write_text(golden)
        command = [str(BIN / "despina-runtime"), "optimize", "-f", str(STATE / "program.yaml"), "--labels", str(labels)]
        command += ["--golden", str(STATE / "golden.jsonl"), "--tracking-uri", self.uri]
        if not os.environ.get("LM"):
            return [*command, "--lm-base-url", self.lm["LM_BASE_URL"]]
        return [*command, "--secrets", str(self._secrets())]

    def _secrets(self) -> Path:
        """The LM's key where the command looks for it."""
        file = STATE / "secrets" / "lm" / "key"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(self.lm.get("LM_API_KEY", ""))
        return STATE / "secrets"

    def _wait_for_run(self, is_enough: Callable[[Document], Document | None], seconds: float) -> Document:
        """The run's status once it is enough; what is known meanwhile is told."""
        told = ""

        def look() -> Document | None:
            nonlocal told
            time.sleep(1)  # kubectl costs more than the answer
            status = json.loads(self._status("optimization") or "{}")
            if told != (words := _words(status)):
                told = words
                self.step(words)
            return is_enough(status.get("run") or {})

        return wait_for("the run", look, seconds)

    def _table(self, compared: dict[str, Document]) -> None:
        for name, found in compared.items():
            low, high = (100 * end for end in found["interval"])
            scores = f"{found['base']:6.1%} -> {found['candidate']:6.1%} of {found['rows']:3} rows"
            gain = f"95 % interval of the gain {low:+.1f} to {high:+.1f} points, p {found['p']:.2g}"
            say(f"         {name:22} {scores}, {gain}")

    def _pods(self) -> list[str]:
        """Addresses of the replicas that callers reach."""
        path = "jsonpath={.items[*].endpoints[*].addresses[0]}"
        labels = ["-l", f"kubernetes.io/service-name={self.name}"]
        return self.stage.kubectl("get", "endpointslices", f"--namespace={NAMESPACE}", *labels, "-o", path).split()

    def _registry(self) -> Document:
        return self._callers("model", uri=self.uri, name=self.name)

    def _callers(self, part: str, **asked: Any) -> Any:
        """A part of loop_callers.py, run where Services and MLflow can be reached."""
        command = [*self.stage.prefix, sys.executable, CALLERS, part]
        return json.loads(run(command, capture=True, input=json.dumps(asked)).splitlines()[-1])

    def _document(self) -> Document:
        return _of(self.document, *ORDER)

    def explain(self) -> str:
        """With what the Job said."""
        try:
            said = self.stage.kubectl("logs", f"--namespace={NAMESPACE}", "-l", JOBS, "--tail=15")
        except (Failed, OSError):
            said = ""
        return f"{super().explain()}\n--- the Job\n{said}"

    def _leave_open(self) -> None:
        self._forward("forward-mlflow", MLFLOW_AT, self.stage.host_ip, MLFLOW_PORT)
        super()._leave_open()
        say(f"  http://localhost:{MLFLOW_AT}    (MLflow: labelled predictions, runs with their datasets, versions)")
        say(f"  out/kubectl get dspy {self.name} -o jsonpath='{{.status.optimization}}'")
        say("  make demo-down    (ends all of it)")


def _words(status: Document) -> str:
    """How far an optimisation is."""
    if run := status.get("run"):
        return f"Optimize {run['progress']}" if run.get("progress") else "The Job starts"
    labels = status.get("labels") or {}
    counted = f"The operator has counted {sum(labels.get(k, 0) for k in ('successes', 'failures'))} labels"
    return ": ".join(filter(None, [counted, status.get("message")]))


def _of(found: Document, *names: str) -> Document:
    return {name: found[name] for name in names}


if __name__ == "__main__":
    sys.exit(demo.main(sys.argv[1:], LoopDemo))
