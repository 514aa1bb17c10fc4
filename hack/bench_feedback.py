"""`make bench-feedback`: what feedback costs, and whether a label is lost.

- cost: a pod with `feedback` beside one without, in short turns one after the other: CPU of all of the pod's processes
  for a request that is answered from the cache, and for one that is executed, with all that is done afterwards. The
  program is the smallest there is, one prediction of one LM, of which any addition is the largest part. Ratios are
  medians over the turns. Then labels at 200 a second.
- loss: four pods on the local cluster, whose workers and containers are killed, 50 in all, while callers ask and label
  every answer; MLflow hangs for a minute, other code is released beside the old, and two pods are taken away. What
  became of each label that was acknowledged is read from MLflow at the end.

`.venv/bin/python hack/bench_feedback.py cost` makes one of them. TURNS (30) of each kind. Figures go to
out/bench-feedback.json; the exit code is 1 when one missed its goal.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
import uuid

import aiohttp

from bench_serving import Bench, System
from despina.wire import FeedbackConfig
from services import Processes
from stage import LocalStage
from tools import ROOT, Failed, say
from turns import LOADS, compared

sys.path.insert(0, str(ROOT))
from tests.support.grid import is_ready, processes_of
from tests.support.labels import Callers, Held, Seen, compare
from tests.support.world import MLFLOW, Given, Kube, eventually, hangs, log_model, manifest, move_alias

OUT = ROOT / "out" / "bench-feedback.json"
TURNS = int(os.environ.get("TURNS", "30"))
LABEL_RATE, LABELS = 200, 3_000
NAMESPACE, ASK_RATE, ENOUGH = "bench", 40, 10_500
PATIENCE_SECONDS = 120
FOUND = ROOT / "out" / "test" / "labels.json"
GOALS = {
    "cached_cpu_ratio": ("<=", 1.03),
    "uncached_cpu_ratio": ("<=", 1.03),
    "feedback_p95_ms": ("<=", 10.0),
    "acknowledged": (">=", 10_000),
    "lost": ("<=", 0),
    "duplicated": ("<=", 0),
}
BODY = """n % 20 == 0 and '{"question": "%s of jane.doe@example.com"}' or '{"question": "%s"}'"""
"""One in twenty has something to be hidden."""


def main(arguments: list[str]) -> int:
    """Both, or the one that is named."""
    if arguments[:1] == ["--inside"]:
        return inside()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    OUT.parent.mkdir(exist_ok=True)
    figures: dict[str, float] = {}
    for name in arguments or ("cost", "loss"):
        figures |= {"cost": cost, "loss": loss}[name]()
    OUT.write_text(json.dumps(figures, indent=1) + "\n")
    return judge(figures)


def judge(figures: dict[str, float]) -> int:
    """Print each figure beside its goal; the exit code."""
    missed = 0
    for name, value in figures.items():
        sign, goal = GOALS[name]
        is_met = value <= goal if sign == "<=" else value >= goal
        missed += not is_met
        say(f"{'ok    ' if is_met else 'MISSED'} {name:20} {value:>10}  (goal {sign} {goal:g})")
    return 1 if missed else 0


# --- what it costs ----------------------------------------------------------------------------------


def cost() -> dict[str, float]:
    """Ratios of CPU, and the time that a label takes."""
    bench = Bench()
    try:
        bench.prepare()
        config = FeedbackConfig(experiment="bench-feedback")
        without, with_it = bench.served(1, "ms5", "without"), bench.served(1, "ms5", "with", feedback=config)
        figures = {}
        for load in LOADS:
            figures[f"{load}_cpu_ratio"] = compared(bench, without, with_it, load, BODY, TURNS)
        bench.stop(without)
        os.setpriority(os.PRIO_PGRP, bench.processes.started["registry"].pid, 10)  # as if it were another machine
        return figures | {"feedback_p95_ms": asyncio.run(labels_at_a_rate(with_it))}
    finally:
        bench.processes.stop_all()
        shutil.rmtree(bench.folder, ignore_errors=True)


async def labels_at_a_rate(system: System) -> float:
    """Milliseconds at p95 until a label is acknowledged, whatever comes back to the ones before."""
    url = f"http://127.0.0.1:{system.port}"
    async with aiohttp.ClientSession() as client:
        names = await predictions(client, f"{url}/execute")
        milliseconds: list[float] = []

        async def give(number: int) -> None:
            body = {"prediction_id": names[number], "label": "failure", "reason": f"it is not so ({number})"}
            if number % 2:
                body["expected"] = {"answer": "forty-three"}
            began = time.perf_counter()
            async with client.post(f"{url}/feedback", json=body) as answer:
                if answer.status != 202:
                    raise Failed(f"a label is answered {answer.status}: {await answer.text()}")
            milliseconds.append((time.perf_counter() - began) * 1000)

        started, tasks = time.perf_counter(), []
        for number in range(LABELS):
            tasks.append(asyncio.create_task(give(number)))
            await asyncio.sleep(max(0.0, started + (number + 1) / LABEL_RATE - time.perf_counter()))
        await asyncio.gather(*tasks)
    found = statistics.quantiles(milliseconds, n=100)
    say(f"labels    {LABELS} at {LABEL_RATE}/s: p50 {found[49]:.2f} ms, p95 {found[94]:.2f} ms, p99 {found[98]:.2f} ms")
    return round(found[94], 2)


async def predictions(client: aiohttp.ClientSession, url: str) -> list[str]:
    """The names of as many as are labelled."""

    async def ask(number: int) -> str:
        async with client.post(url, json={"question": f"{uuid.uuid4().hex} {number}"}) as answer:
            return answer.headers["despina-prediction-id"]

    names: list[str] = []
    while len(names) < LABELS:
        names += await asyncio.gather(*map(ask, range(len(names), len(names) + 16)))
    return names


# --- whether a label is lost ------------------------------------------------------------------------


def loss() -> dict[str, float]:
    """On a cluster of its own."""
    import test as stage_of_tests

    stage, processes = LocalStage("bench"), Processes(ROOT / "out" / "test" / "services")
    try:
        stage.prepare()
        environment = stage_of_tests.set_up(stage, processes, [NAMESPACE])
        command = [*stage.prefix, sys.executable, __file__, "--inside"]
        if subprocess.run(command, env={**os.environ, **environment}, check=False).returncode:
            raise Failed("the labels were not given as planned; see above")
        found: dict[str, float] = json.loads(FOUND.read_text())
        return found
    finally:
        processes.stop_all()
        if not os.environ.get("KEEP"):
            stage.down()


def inside() -> int:
    """In the cluster's network: give labels while everything happens, and look for them at the end."""
    for kind in ("good", "other"):
        log_model(kind, "labelled", "" if kind == "other" else "champion")
    runtime = {"workers": 2, "drainSeconds": 6, "requestTimeoutSeconds": 60}
    blue_green = {"scaleDownDelaySeconds": 10, "progressDeadlineSeconds": 600}
    rollout = {"strategy": "Auto", "blueGreen": blue_green, "postPromotion": {"watchSeconds": 0}}
    spec = {"replicas": 4, "feedback": {}, "cache": {"keyScope": "Both"}, "runtime": runtime, "rollout": rollout}
    program = Given(Kube(NAMESPACE), manifest("labelled", **spec))
    program.becomes_ready(300)
    callers, killer = Callers(program.url, ASK_RATE), Killer(program)
    asyncio.run(callers.run_while(lambda: all_happens(program, callers, killer)))
    held = looked_for(callers, Seen(MLFLOW, f"{NAMESPACE}/labelled"))
    say(
        f"labels    sent={callers.sent} failed={len(callers.failed)} labels={len(callers.said)} "
        f"elsewhere={callers.elsewhere} killed={json.dumps(killer.killed)} lost={len(held.lost)} "
        f"duplicated={held.duplicated} (asked again {callers.asked_again}, gone {callers.gone}, "
        f"not taken {len(callers.refused)}, unrecorded {held.unrecorded})"
    )
    for what in (*callers.failed[:3], *callers.refused[:3], *held.lost[:3]):
        say(f"  {what}")
    figures = {"acknowledged": len(callers.said), "lost": len(held.lost), "duplicated": held.duplicated}
    FOUND.write_text(json.dumps(figures))
    return 0


def all_happens(program: Given, callers: Callers, killer: Killer) -> None:
    """Fifty processes are killed, and the rest of it."""
    say("  workers and containers are killed")
    killer.kill_all("wwwswwwswwwswwws")
    say("  MLflow hangs for a minute, and more are killed")
    with hangs(int(os.environ["DESPINA_TEST_MLFLOW_PID"])):
        until = time.monotonic() + 60
        killer.kill_all("wwwswwws")
        time.sleep(max(0.0, until - time.monotonic()))
    killer.all_ready(4)
    say("  other code is released beside the old")
    move_alias("labelled", "2")
    killer.kill_all("wwww")
    eventually("the old pods are gone", lambda: program.is_active("2") and program.only_pods_of("2"), 600)
    say("  more are killed")
    killer.kill_all("wwwswwwswwwswwwsww")
    killer.all_ready(4)
    say("  two pods are taken away")
    program.kube("patch", "dspy", program.name, "--type=merge", "-p", '{"spec": {"replicas": 2}}')
    eventually("two pods", lambda: len(program.pods()) == 2, 180)
    killer.kill_all("wwww")
    eventually("enough labels", lambda: len(callers.said) >= ENOUGH, 600)


class Killer:
    """Kills processes of a program's pods: of one that is ready, and a while after it was harmed the last time, for a
    pod of which five workers end within a minute ends itself, and a container that ends often is restarted late."""

    def __init__(self, program: Given) -> None:
        self._program = program
        self.killed = {"worker": 0, "supervisor": 0}
        self._last: dict[tuple[str, bool], float] = {}

    def kill_all(self, kinds: str) -> None:
        """`w` for a worker, `s` for a pod's process 1 and with it the container."""
        for kind in kinds:
            of_all = kind == "s"
            pod = eventually("a pod to be harmed", lambda of_all=of_all: self._victim(of_all), 300)
            first, *others = processes_of(pod)
            os.kill(first if of_all else random.choice(others), signal.SIGKILL)  # noqa: S311 - any
            self._last[pod, False] = self._last[pod, of_all] = time.monotonic()
            self.killed["supervisor" if of_all else "worker"] += 1

    def _victim(self, of_all: bool) -> str:
        now, waits = time.monotonic(), {False: 13.0, True: 45.0}
        pods = [p["metadata"]["name"] for p in self._program.pods() if is_ready(p)]
        good = [
            pod
            for pod in pods
            if len(processes_of(pod)) == 3
            and all(now - self._last.get((pod, kind), 0.0) > waits[kind] for kind in {False, of_all})
        ]
        return random.choice(good) if good else ""  # noqa: S311 - any

    def all_ready(self, count: int) -> None:
        """Wait until all are there again."""
        eventually("all pods ready", lambda: sum(map(is_ready, self._program.pods())) == count, 300)


def looked_for(callers: Callers, experiment: Seen) -> Held:
    """What MLflow has, as soon as nothing is missing or nothing more comes, and a while after that: what is there twice
    may come late."""
    fewest, until = len(callers.said), time.monotonic() + PATIENCE_SECONDS
    while (held := compare(callers.said, experiment.traces())).lost and time.monotonic() < until:
        if len(held.lost) < fewest:
            fewest, until = len(held.lost), time.monotonic() + PATIENCE_SECONDS
        say(f"  {len(held.lost)} of {len(callers.said)} labels are still on their way")
        time.sleep(15)
    time.sleep(30)
    return compare(callers.said, experiment.traces())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
