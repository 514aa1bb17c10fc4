"""`make bench-rollout`: every kind of change under 100 requests a second, more than 10,000 of them each; what failed,
and how long callers still met the old version.

For hot swaps, seconds from the moment the operator saw the alias move until the last request was sent that the old
version answered. For switches and rollbacks to pods that stand ready, from the operator's decision, on new connections.
For a breaker's restart, from its opening to its closing. While the operator is killed or MLflow is down, the longest
time between two answers. For what people and servers undo (`tests/support/undone.py`), until it is made good.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from services import Processes
from stage import LocalStage
from tools import ROOT, say

NAMESPACE = "bench"
RATE, REQUESTS = 100, 10_500
PROBE_SECONDS = 0.002
FALLBACK = {"response": {"category": "account"}}


def main(arguments: list[str]) -> int:
    """Set the stage, and run the scenarios in its network."""
    if arguments[:1] == ["--inside"]:
        return inside(arguments[1:])
    import test as stage_of_tests

    stage, processes = LocalStage("test", extras=True), Processes(ROOT / "out" / "test" / "services")
    try:
        stage.prepare()
        environment = stage_of_tests.set_up(stage, processes, [NAMESPACE])
        command = [*stage.prefix, sys.executable, __file__, "--inside", *arguments]
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
    finally:
        processes.stop_all()
        if not os.environ.get("KEEP"):
            stage.down()


def inside(names: list[str]) -> int:
    """Run the scenarios, print the table, write out/bench-rollout.json."""
    sys.path.insert(0, str(ROOT))
    rows: dict[str, dict[str, Any]] = {}
    for name in names or SCENARIOS:
        say(f"{name} …")
        sent, failed, seconds = SCENARIOS[name]()
        rows[name] = {
            "sent": sent,
            "failed": failed,
            "switch_seconds_p50": round(statistics.median(seconds), 3),
            "switch_seconds_max": round(max(seconds), 2),
        }
        say(f"{name:16} {json.dumps(rows[name])}  n={len(seconds)}")
    out = ROOT / "out" / "bench-rollout.json"
    out.write_text(json.dumps(rows, indent=1))
    good = all(r["failed"] == 0 and r["sent"] >= 10_000 for r in rows.values())
    return 0 if good else 1


def given(name: str, *kinds: str, **spec: Any) -> Any:
    """A program with logged versions, ready at the first."""
    from tests.support.world import Given, Kube, log_model, manifest

    for number, kind in enumerate(kinds):
        log_model(kind, name, "" if number else "champion")
    program = Given(Kube(NAMESPACE), manifest(name, **spec))
    program.becomes_ready()
    return program


def rollout(strategy: str, keep: int) -> dict[str, Any]:
    """Delays for many changes one after the other."""
    return {
        "strategy": strategy,
        "blueGreen": {"scaleDownDelaySeconds": keep, "progressDeadlineSeconds": 120},
        "postPromotion": {"watchSeconds": 0},
    }


def when(line: str) -> float:
    """An operator's log line's time, in seconds since the epoch; pods log in UTC."""
    moment = datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def told(word: str, since: float) -> list[float]:
    """When the operator said something, lately."""
    from tests.support.world import Kube

    lines = Kube("despina-system")("logs", "deployment/despina", "--since=20m").splitlines()
    return [t for line in lines if word in line and (t := when(line)) >= since]


def switched(name: str, since: float) -> float:
    """When the write was made that sent callers elsewhere: the last one of the Service before that was said."""
    said = told("reason='Promoted'", since)[0]
    return max(at for at in told(f"Apply(Service/{name})", since) if at <= said)


def last_of(records: list[dict[str, Any]], version: str, after: float, new_only: bool = False) -> float:
    """Seconds from a moment until the last request was sent that a version answered."""
    sent = [
        r["at"] for r in records
        if r.get("version") == version and after <= r["at"] < after + 8 and (not new_only or r["connection"] == "new")
    ]  # fmt: skip
    return max(sent, default=after) - after


def finish(program: Any, requests: Any, what: str, versions: set[str]) -> tuple[int, int]:
    """Wait until enough was sent; how many were, and how many failed."""
    from tests.support.world import eventually

    eventually("enough requests", lambda: len(requests.records) >= REQUESTS, 400)
    failed = requests.failures(versions)
    for record in failed[:3]:
        say(f"  failed: {record}")
    return len(requests.records), len(failed)


def hotswap() -> tuple[int, int, list[float]]:
    """Twenty swaps of compiled state in three replicas; each loads the version anew."""
    from tests.support.world import eventually, move_alias, traffic

    program = given("bench-swap", "good", "compiled", replicas=3, rollout=rollout("Auto", 0))
    seconds, version = [], "1"
    with traffic(program, rate=RATE) as requests:
        for _ in range(20):
            before, version = version, "2" if version == "1" else "1"
            started = time.time()
            move_alias("bench-swap", version)
            eventually("swapped", lambda v=version: program.is_active(v), 40)
            eventually("all say so", lambda: program.status["active"]["loaded"] == "3/3", 10)
            time.sleep(1)
            detected = told("Registry says", started)[0]
            seconds.append(last_of(requests.records, before, detected))
        assert program.status["rollout"]["strategy"] == "HotSwap"
        sent, failed = finish(program, requests, "hotswap", {"1", "2"})
    program.delete()
    return sent, failed, seconds


def bluegreen() -> tuple[int, int, list[float]]:
    """Other code: new pods beside the old. Counted until the last new connection that leads to the old ones."""
    from tests.support.world import eventually, move_alias, traffic

    program = given("bench-green", "good", "other", replicas=2, rollout=rollout("Auto", 5))
    seconds, version = [], "1"
    with traffic(program, rate=RATE) as requests:
        for _ in range(8):
            before, version = version, "2" if version == "1" else "1"
            started = time.time()
            move_alias("bench-green", version)
            eventually("new pods beside the old", lambda: len(program.pods()) == 4, 90)
            with Connections(program.url) as connections:
                eventually("switched", lambda v=version: program.is_active(v), 120)
                time.sleep(2)
            seconds.append(connections.last_to(before, switched("bench-green", started)))
            eventually("the old pods are gone", lambda: len(program.pods()) == 2, 90)
        sent, failed = finish(program, requests, "bluegreen", {"1", "2"})
    program.delete()
    return sent, failed, seconds


class Connections:
    """A new connection each 2 ms while the block runs, and the version that answers on it: requests would be too few to
    tell one hundredth of a second from another."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._where = (parts.hostname, parts.port or 80)
        self._found: list[tuple[float, str]] = []
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._go_on)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def last_to(self, version: str, after: float) -> float:
        """Seconds from a moment until the last one was opened that led to a version."""
        return max((at for at, found in self._found if found == version and at >= after), default=after) - after

    def _new(self) -> contextlib.closing[http.client.HTTPConnection]:
        return contextlib.closing(http.client.HTTPConnection(*self._where))

    def _go_on(self) -> None:
        while not self._stop.wait(PROBE_SECONDS):
            at = time.time()
            with contextlib.suppress(OSError, http.client.HTTPException), self._new() as one:
                one.request("GET", "/readyz", headers={"connection": "close"})
                self._found.append((at, one.getresponse().headers["despina-model-version"]))


def rollback() -> tuple[int, int, list[float]]:
    """Back to pods that are still warm, by `rollbackTo`, and forth again."""
    from tests.support.world import eventually, traffic

    program = given("bench-back", "good", "other", replicas=2, rollout=rollout("Auto", 600))
    seconds = []
    with traffic(program, rate=RATE) as requests:
        pin(program, 2)
        eventually("switched", lambda: program.is_active("2"), 120)
        for number in range(10):
            before, version = ("2", "1") if number % 2 == 0 else ("1", "2")
            started = time.time()
            pin(program, int(version))
            eventually("switched back", lambda v=version: program.is_active(v), 30)
            time.sleep(2)
            seconds.append(last_of(requests.records, before, switched("bench-back", started), True))
        sent, failed = finish(program, requests, "rollback", {"1", "2"})
    program.delete()
    return sent, failed, seconds


def pin(program: Any, version: int) -> None:
    """Set rollbackTo."""
    patch = json.dumps({"spec": {"rollout": {"rollbackTo": version}}})
    program.kube("patch", "dspy", program.name, "--type=merge", "-p", patch)


def breaker_restart() -> tuple[int, int, list[float]]:
    """A program that wears out: the breaker opens, the fallback answers, a restart heals it."""
    from tests.support.world import eventually, traffic

    breaker = {"minRequests": 20, "windowSeconds": 10, "openSeconds": 60, "restart": {"maxPerHour": 2}}
    program = given("bench-worn", "wearing", replicas=3, rollout=rollout("Auto", 0), fallback=FALLBACK, breaker=breaker)
    with traffic(program, rate=RATE) as requests:
        eventually("open", lambda: program.condition("BreakerClosed").get("status") == "False", 120)
        opened = time.time()
        eventually("healed", lambda: program.condition("BreakerClosed").get("status") == "True", 120)
        seconds = [time.time() - opened]
        program.kube("patch", "dspy", program.name, "--type=merge", "-p", '{"spec": {"breaker": null}}')
        sent, failed = finish(program, requests, "breaker_restart", {"1"})
    program.delete()
    return sent, failed, seconds


def operator_killed() -> tuple[int, int, list[float]]:
    """Releases of both kinds while the operator is killed at random moments."""
    from tests.support.world import Kube, eventually, move_alias, traffic

    program = given("bench-killed", "good", "compiled", "other", replicas=2, rollout=rollout("Auto", 5))
    operator = Kube("despina-system")
    with traffic(program, rate=RATE) as requests:
        for version in ("2", "3", "1", "2"):
            move_alias("bench-killed", version)
            time.sleep(random.uniform(1, 14))  # noqa: S311 - any moment
            operator("delete", "pod", "-l", "app.kubernetes.io/name=despina", "--grace-period=0", "--force")
            eventually(f"version {version}", lambda v=version: program.is_active(v), 150)
        sent, failed = finish(program, requests, "operator_killed", {"1", "2", "3"})
        gaps = longest_gap(requests.records)
    program.delete()
    return sent, failed, gaps


def longest_gap(records: list[dict[str, Any]]) -> list[float]:
    """The longest time between two answers."""
    answered = sorted(r["until"] for r in records)
    return [max(b - a for a, b in itertools.pairwise(answered))]


def mlflow_down() -> tuple[int, int, list[float]]:
    """MLflow hangs for a minute."""
    from tests.support.world import eventually, hangs, traffic

    program = given("bench-alone", "good", replicas=2, rollout=rollout("Auto", 0))
    with traffic(program, rate=RATE) as requests:
        with hangs(int(os.environ["DESPINA_TEST_MLFLOW_PID"])):
            time.sleep(60)
        eventually("resolved again", lambda: program.condition("ModelResolved").get("status") == "True", 120)
        sent, failed = finish(program, requests, "mlflow_down", {"1"})
        gaps = longest_gap(requests.records)
    program.delete()
    return sent, failed, gaps


def human_rollback() -> tuple[int, int, list[float]]:
    """A person goes back to a warm version that had erred, and it stays."""
    from tests.support import undone
    from tests.support.world import traffic

    spec = {"replicas": 2, "rollout": undone.rollout(keep=300), "fallback": undone.FALLBACK}
    program = given("bench-meant", "boom", "guarded", **spec)
    with traffic(program, rate=RATE) as requests:
        seconds = [undone.go_back_by_hand(program, "1", "2") for _ in range(2)]
        sent, failed = finish(program, requests, "human_rollback", {"1", "2"})
    program.delete()
    return sent, failed, seconds


def service_deleted() -> tuple[int, int, list[float]]:
    """Somebody deletes the Service, again and again, while a version is in quarantine."""
    from tests.support import undone
    from tests.support.world import eventually, move_alias, traffic

    program = given("bench-led", "good", "broken-import", replicas=2, rollout=undone.rollout())
    with traffic(program, rate=RATE) as requests:
        move_alias("bench-led", "2")
        eventually("version 2 is quarantined", lambda: program.quarantined("2"), 120)
        seconds = []
        for _ in range(10):
            seconds.append(undone.delete_the_service(program, "1"))
            requests.goes_on(10 * RATE)
        sent, failed = finish(program, requests, "service_deleted", {"1"})
    program.delete()
    return sent, failed, seconds


def key_replaced() -> tuple[int, int, list[float]]:
    """The key of the orders is lost, the operator restarts, and a version is released."""
    from tests.support import undone
    from tests.support.world import traffic

    program = given("bench-rekeyed", "good", "compiled", replicas=2, rollout=undone.rollout())
    with traffic(program, rate=RATE) as requests:
        seconds = [undone.replace_the_key(program, version) for version in ("2", "1")]
        sent, failed = finish(program, requests, "key_replaced", {"1", "2"})
    program.delete()
    return sent, failed, seconds


def events_refused() -> tuple[int, int, list[float]]:
    """A bad version is taken back within its watch though no Event can be written."""
    from tests.support import undone
    from tests.support.world import traffic

    spec = {"replicas": 2, "rollout": undone.rollout(), "fallback": undone.FALLBACK}
    program = given("bench-unheard", "guarded", "boom", **spec)
    with traffic(program, rate=RATE) as requests:
        seconds = [undone.err_while_events_are_refused(program, "1", "2")]
        sent, failed = finish(program, requests, "events_refused", {"1", "2"})
    program.delete()
    return sent, failed, seconds


def suspended() -> tuple[int, int, list[float]]:
    """While the program is suspended, and nobody asks it, the alias moves to a broken version."""
    from tests.support import undone
    from tests.support.world import eventually, traffic

    program = given("bench-asleep", "good", "broken-import", replicas=2, rollout=undone.rollout())
    with traffic(program, rate=RATE) as before:
        eventually("requests", lambda: len(before.records) >= 10 * RATE, 60)
    undone.suspend(program)
    seconds = [undone.resume_after_a_bad_release(program, "1", "2")]
    with traffic(program, rate=RATE) as requests:
        eventually("version 2 is quarantined", lambda: program.quarantined("2"), 120)
        sent, failed = finish(program, requests, "suspended", {"1"})
    program.delete()
    return sent + len(before.records), failed + len(before.failures({"1"})), seconds


SCENARIOS = {
    "hotswap": hotswap,
    "bluegreen": bluegreen,
    "rollback": rollback,
    "breaker_restart": breaker_restart,
    "operator_killed": operator_killed,
    "mlflow_down": mlflow_down,
    "human_rollback": human_rollback,
    "service_deleted": service_deleted,
    "key_replaced": key_replaced,
    "events_refused": events_refused,
    "suspended": suspended,
}


if __name__ == "__main__":
    Path(ROOT / "out").mkdir(exist_ok=True)
    sys.exit(main(sys.argv[1:]))
