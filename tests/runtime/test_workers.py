"""Workers that are killed, stopped or hang, and orders that go wrong, while callers ask: the pod comes back to what was
ordered, by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from despina.wire import SIGNATURE_HEADER, ProgramBreakerConfig, RuntimeConfig
from despina_runtime.process.restarts import MOST, WITHIN_SECONDS
from tests.support.pods import SILENT_SECONDS, Pod, fresh, is_running
from tests.support.traffic import Given, drive
from tests.support.world import REPORTS, ROOT, TICKET, eventually

ROUNDS = int(os.environ.get("POD_ROUNDS", "1"))
RATE = 100 if ROUNDS > 1 else 20
DICE = random.Random(11)
SUBJECTS = [
    "charged twice",
    "cannot log in",
    "the parcel is late",
    "add a dark theme",
    "it crashes",
    "ünïcode — 漢字 🙂",
]


@pytest.fixture(scope="module")
def first(log_model) -> str:
    return log_model("hanging", "hanging")


@pytest.fixture(scope="module")
def second(log_model, first) -> str:
    return log_model("hanging-too", "hanging")


def varied(n: int) -> dict[str, str]:
    return {"ticket": f"{DICE.choice(SUBJECTS)} ({n}) " + "please help " * DICE.randrange(40)}


def of(config: RuntimeConfig, version: str, revision: str) -> RuntimeConfig:
    model = config.model.model_copy(update={"version": version})
    return config.model_copy(update={"model": model, "revision": revision})


def kill(pod: Pod) -> None:
    os.kill(pod.workers()[0], signal.SIGKILL)


def stop(pod: Pod) -> None:
    os.kill(pod.workers()[0], signal.SIGSTOP)


def hang(pod: Pod) -> None:
    """One of them, on its event loop, for an hour."""
    with contextlib.suppress(httpx.TransportError):
        httpx.post(f"{pod.url}/execute", json={"ticket": "never mind"}, timeout=1)


def is_whole(pod: Pod) -> bool:
    state = pod.state()
    return state.workers == state.wanted_workers == len(pod.workers()) == 2


def loads(pid: int) -> bool:
    """Whether a worker has read its configuration: what serves requests is imported after that."""
    try:
        return "aiohttp" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def held_by_all(pod: Pod, revision: str) -> None:
    eventually("held by all", lambda: pod.state().held[revision].phase == "Ready", 60)


def commit(pod: Pod, revision: str) -> float:
    """When it was confirmed; as the operator does, it is said again until it is."""
    eventually("committed", lambda: pod.order("Commit", subject=revision) == 200, 60)
    return time.monotonic()


class Eras:
    """Which version was the committed one, and since when; between two orders both may answer."""

    def __init__(self, version: str) -> None:
        self._from = [(time.monotonic(), version)]
        self._until: list[float] = []

    def ordered(self) -> None:
        self._until.append(time.monotonic())

    def confirmed(self, at: float, version: str) -> None:
        self._from.append((at, version))

    def strays(self, answers: list[Given]) -> list[Given]:
        """Answers of another version than the committed one, from a second after that was confirmed."""
        eras = zip(self._from, [*self._until, float("inf")], strict=True)
        return [
            a
            for (since, version), until in eras
            for a in answers
            if since + 1 < a.at < until and a.status == 200 and a.headers["despina-model-version"] != version
        ]


class Losses:
    """A worker is lost between changes of version, while a version is loaded, and before one is committed."""

    def __init__(self, pod: Pod, versions: tuple[str, str], harm: Callable[[Pod], None]) -> None:
        self.pod, self.harm, self.versions = pod, harm, versions
        self.eras, self.whole_again = Eras(versions[0]), list[float]()
        self._serves, self._number = pod.config.revision, itertools.count(2)
        self._losses = list[float]()

    def round(self) -> None:
        """Three changes of version."""
        self.replaced(self.lost())
        self.lost_before_a_commit_that_does_not_wait(self.versions[1])
        self.lost_before_a_commit_that_waits(self.versions[0])
        self.lost_while_loading(self.versions[1])
        self.asked_often()
        self.committed(self.prepared(self.versions[0]), self.versions[0])
        self.asked_often()

    def lost(self) -> set[int]:
        """Those that were there. Never so many in a minute that the pod would end itself; how long it takes to notice
        that one hangs varies."""
        eventually("another may be lost", lambda: self._lost_within(WITHIN_SECONDS + 5) < MOST - 1, 2 * WITHIN_SECONDS)
        before = set(self.pod.workers())
        self._losses.append(time.monotonic())
        self.harm(self.pod)
        return before

    def _lost_within(self, seconds: float) -> int:
        return sum(at > time.monotonic() - seconds for at in self._losses)

    def replaced(self, before: set[int]) -> None:
        def is_made_good() -> bool:
            return len(set(self.pod.workers()) - before) == 1 and is_whole(self.pod)

        eventually("replaced", is_made_good, 60)
        self.whole_again.append(time.monotonic() - self._losses[-1])
        assert self.pod.state().revision == self._serves

    def told(self, version: str) -> str:
        """The order is given again until all have taken it, as the operator does: one that hangs has not."""
        revision = f"beef{next(self._number):04}"
        config = of(self.pod.config, version, revision)
        eventually("told", lambda: self.pod.order("Prepare", config=config) == 200, 60)
        return revision

    def prepared(self, version: str) -> str:
        revision = self.told(version)
        held_by_all(self.pod, revision)
        return revision

    def committed(self, revision: str, version: str) -> None:
        before, self._serves = self._serves, revision
        self.eras.ordered()
        self.eras.confirmed(commit(self.pod, revision), version)
        eventually("released", lambda: self.pod.order("Release", subject=before) == 200, 60)

    def lost_before_a_commit_that_does_not_wait(self, version: str) -> None:
        """It comes while another one loads what served before, or while the lost one still hangs."""
        revision = self.prepared(version)
        before = self.lost()
        if self.harm is kill:
            eventually("another one loads", lambda: any(map(loads, set(self.pod.workers()) - before)), 60)
        self.committed(revision, version)
        self.replaced(before)

    def lost_before_a_commit_that_waits(self, version: str) -> None:
        revision = self.prepared(version)
        self.replaced(self.lost())
        held = self.pod.state().held
        assert {name: h.phase for name, h in held.items()} == {self._serves: "Ready", revision: "Ready"}
        self.committed(revision, version)

    def lost_while_loading(self, version: str) -> None:
        before = self.lost() if self.harm is not kill else set(self.pod.workers())
        revision = self.told(version)
        if self.harm is kill:
            before = self.lost()
        self.replaced(before)
        held_by_all(self.pod, revision)
        self.committed(revision, version)

    def asked_often(self) -> None:
        until = time.monotonic() + 2

        def is_over() -> bool:
            for n in range(20):
                self.pod.ask(varied(n))
            return time.monotonic() > until

        eventually("asked for a while", is_over)


@pytest.mark.parametrize("harm", [kill, stop, hang])
def test_a_pod_of_which_a_worker_is_lost_serves_what_was_committed_and_nothing_else(pod, first, second, harm):
    running = pod(first, model="hanging", workers=2, silent_seconds=SILENT_SECONDS if ROUNDS > 1 else 4)
    eventually("ready", running.is_ready, 90)
    losses = Losses(running, (first, second), harm)

    def all_rounds() -> None:
        for _ in range(ROUNDS):
            losses.round()

    async def under_traffic() -> list[Given]:
        work = asyncio.create_task(asyncio.to_thread(all_rounds))
        traffic = await drive(f"{running.url}/execute", varied, RATE, lambda s: work.done() or s > 240 * ROUNDS)
        await work
        return traffic.answers

    answers = asyncio.run(under_traffic())
    failed, strays = [a for a in answers if a.status != 200], losses.eras.strays(answers)
    told(harm.__name__, len(answers), len(failed), len(strays), losses.whole_again)
    assert not strays, [(a.at, a.headers["despina-model-version"]) for a in strays[:5]]
    assert {a.status for a in failed} <= {0}  # what was on its way in the lost worker
    assert len(failed) < len(answers) / 10
    assert running.is_ready()


def told(fault: str, sent: int, failed: int, strays: int, whole_again: list[float]) -> None:
    """For whoever reads the test's output; of many rounds also as a file."""
    slowest = round(max(whole_again), 1)
    words = f"{fault} a worker {len(whole_again)} times: sent={sent} failed={failed} strays={strays}"
    REPORTS.append(f"{words} whole again after {slowest} s at most")
    print(REPORTS[-1])
    if ROUNDS > 1:
        file = ROOT / "out" / "bench-pod.json"
        file.parent.mkdir(exist_ok=True)
        known = json.loads(file.read_text()) if file.exists() else {}
        row = {"sent": sent, "failed": failed, "of_wrong_version": strays, "whole_again_seconds_max": slowest}
        file.write_text(json.dumps(known | {fault: row}, indent=1))


def test_a_worker_that_joins_is_retired_and_refuses_as_the_others_do(pod, version, log_model):
    breaker = ProgramBreakerConfig(min_requests=5, window_seconds=60, open_seconds=600)
    running = pod(version, workers=2, breaker=breaker)
    eventually("ready", running.is_ready, 90)
    for order in ("Retire", "OpenBreaker"):
        assert running.order(order) == 200
    before = set(running.workers())
    kill(running)
    eventually("replaced", lambda: not set(running.workers()) >= before and is_whole(running), 60)
    answers = [running.ask(fresh()) for _ in range(30)]
    assert {a.json()["type"].rpartition(":")[2] for a in answers} == {"breaker-open"}
    assert {a.headers["connection"] for a in answers} == {"close"}
    assert {b.state for b in running.state().breakers} == {"Open"}


def test_a_worker_whose_replacement_cannot_start_at_first_is_replaced_later(pod, version, tmp_path):
    running = pod(version, workers=2)
    eventually("ready", running.is_ready, 90)
    (file,) = tmp_path.glob("cache/workers/*.json")
    file.rename(file.with_suffix(".aside"))
    kill(running)
    eventually("tried in vain", lambda: "is not replaced" in running.log.read_text(), 60)
    state = running.state()
    assert (state.workers, state.wanted_workers) == (1, 2)
    assert running.ask(fresh()).status_code == 200
    file.with_suffix(".aside").rename(file)
    eventually("replaced", lambda: is_whole(running), 90)


def test_a_pod_ends_while_a_worker_is_being_replaced_and_leaves_nobody(pod, version, tmp_path):
    running = pod(version, workers=2, drain_seconds=0)
    eventually("ready", running.is_ready, 90)
    before = set(running.workers())
    kill(running)
    coming = eventually("one starts", lambda: set(running.workers()) - before, 30)
    assert running.stop() == 0
    eventually("nobody is left", lambda: not any(is_running(pid) for pid in before | coming), 30)


HUGE = {"ticket": int("9" * 31)}


def test_an_order_that_cannot_be_carried_out_ends_neither_orders_nor_the_pods_end(pod, version):
    running = pod(version, workers=2)
    eventually("ready", running.is_ready, 90)
    assert running.order("Try", subject="abcd1234:huge", inputs=HUGE) in (200, 503)
    assert running.order("Retire") == 200
    eventually("retired", lambda: running.ask().headers.get("connection") == "close")
    assert running.stop() == 0


def test_a_revision_that_is_released_is_freed_though_it_was_the_first(pod, log_model):
    running = pod(log_model("counted", "counted"), model="counted")
    eventually("ready", running.is_ready, 90)

    def alive() -> str:
        return running.ask(TICKET).json()["category"]

    assert alive() == "1"
    assert running.order("Prepare", config=of(running.config, running.config.model.version, "beef0002")) == 200
    held_by_all(running, "beef0002")
    assert running.order("Commit", subject="beef0002") == 200
    assert alive() == "2"
    assert running.order("Release", subject="abcd1234") == 200
    eventually("freed", lambda: alive() == "1", 20)


def test_an_order_to_a_container_counts_for_no_other_life_of_it(pod, version):
    """A container that starts again has the same name; who wrote an order down cannot give it once more."""
    running = pod(version)
    eventually("ready", running.is_ready, 90)
    written_down = [running.signed(order="Retire", number=number) for number in (1, 10**6)]
    assert running.give(*written_down[0]) == 200
    running.process.kill()
    running.process.wait()
    again = pod(version)
    eventually("ready", again.is_ready, 90)
    assert (again.config.namespace, again.state().orders.number) == (running.config.namespace, 0)
    for body, headers in written_down:
        assert headers.keys() == {SIGNATURE_HEADER}
        assert again.give(body, headers) == 409
    assert "connection" not in again.ask().headers
    assert again.order("Retire") == 200
