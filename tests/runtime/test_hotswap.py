"""A revision beside another in the same processes: prepared, tried, mirrored, committed, released, and refused."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest
from mcp import Client

from despina.wire import CONFIG_FILE, ModuleConfig, ProgramBreakerConfig, RuntimeConfig
from despina_runtime.process.supervisor import latest
from tests.support.pods import fresh, lm_config
from tests.support.traffic import drive
from tests.support.world import TICKET, eventually


@pytest.fixture(scope="module")
def plain(log_model) -> str:
    return log_model("good", "serving")


@pytest.fixture(scope="module")
def other_code(log_model) -> str:
    return log_model("sync", "serving")


def of(config: RuntimeConfig, version: str, revision: str = "beef0002", **changes) -> RuntimeConfig:
    """The pod's configuration for another version."""
    model = config.model.model_copy(update={"version": version})
    return config.model_copy(update={"model": model, "revision": revision, **changes})


def prepare(pod, config: RuntimeConfig):
    """What became of it."""
    assert pod.order("Prepare", config=config) == 200

    def settled():
        held = pod.state().held.get(config.revision)
        return held if held and held.phase != "Preparing" else None

    return eventually("prepared", settled, 30)


async def test_a_batch_and_a_call_by_mcp_end_on_the_revision_that_they_began_with(pod, plain, version, lm):
    running = pod(plain, max_concurrency=1)
    eventually("ready", running.is_ready, 90)
    target = of(running.config, version)
    assert await asyncio.to_thread(prepare, running, target)
    before = lm.calls
    lm.misbehave(delay_seconds=1)

    async def batch() -> list[dict]:
        async with httpx.AsyncClient(timeout=60) as client:
            body = {"inputs": [fresh() for _ in range(5)]}
            return (await client.post(f"{running.url}/execute/batch", json=body)).json()["results"]

    async def by_mcp():
        async with Client(f"{running.url}/mcp") as client:
            return await client.call_tool("triage", fresh())

    def swap() -> None:
        eventually("it is counted", lambda: lm.calls > before and running.metric("despina_in_flight_requests") == 2, 10)
        assert running.order("Commit", subject="beef0002") == 200
        assert running.order("Release", subject="abcd1234") == 200

    results, found, _ = await asyncio.gather(batch(), by_mcp(), asyncio.to_thread(swap))
    assert [result.get("problem") for result in results] == [None] * 5
    assert found.structured_content["category"]
    counted = f'despina_requests_total{{status="200",version="{plain}"}}'
    eventually("all are counted", lambda: running.metric(counted) == 6, 10)


def test_every_worker_swaps_under_traffic_and_no_answer_mixes_revisions(pod, plain, version):
    running = pod(plain, workers=2)
    eventually("ready", running.is_ready, 90)
    target = of(running.config, version)

    async def swap() -> dict:
        swapped = asyncio.Event()
        load = asyncio.create_task(
            drive(f"{running.url}/execute", fresh, rate=100, stop=lambda s: swapped.is_set() or s > 60)
        )
        for config in (target, running.config) * 5:
            held = await asyncio.to_thread(prepare, running, config)
            assert held.phase == "Ready"
            assert await asyncio.to_thread(running.order, "Commit", subject=config.revision) == 200
            assert (await asyncio.to_thread(running.state)).revision == config.revision
        swapped.set()
        return (await load).answers

    answers = asyncio.run(swap())
    print(f"hot swaps in one pod: sent={len(answers)} failed={sum(a.status != 200 for a in answers)}")
    assert {a.status for a in answers} == {200}
    seen = {(a.headers["despina-model-version"], a.headers["despina-prediction-id"].partition("-")[0]) for a in answers}
    assert seen <= {(plain, "abcd1234"), (version, "beef0002")}
    assert len(seen) == 2
    assert running.order("Release", subject="beef0002") == 200
    eventually("released", lambda: "beef0002" not in running.state().held)
    assert running.ask(fresh()).headers["despina-model-version"] == plain


def test_a_worker_that_takes_another_ones_place_holds_what_was_committed(pod, plain, version):
    running = pod(plain, workers=2)
    eventually("ready", running.is_ready, 90)
    target = of(running.config, version)
    prepare(running, target)
    assert running.order("Commit", subject=target.revision) == 200
    before = running.workers()
    os.kill(before[0], signal.SIGKILL)
    eventually("replaced", lambda: len(running.workers()) == 2 and running.workers() != before, 30)
    eventually("all serve it", lambda: running.state().revision == target.revision, 30)
    versions = {running.ask(fresh()).headers["despina-model-version"] for _ in range(20)}
    assert versions == {version}


def test_workers_end_when_their_supervisor_is_killed(pod, plain):
    """It cannot tell them to, and left unread what they said."""
    running = pod(plain, workers=2, drain_seconds=0)
    eventually("ready", running.is_ready, 90)
    workers = running.workers()
    os.kill(running.process.pid, signal.SIGSTOP)
    for _ in range(3):
        running.ask(fresh())  # something to say
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    eventually("ended", lambda: not any(is_running(pid) for pid in workers), 30)


def is_running(pid: int) -> bool:
    try:
        return "worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_other_code_is_refused_and_what_runs_goes_on(pod, plain, other_code):
    running = pod(plain)
    eventually("ready", running.is_ready, 90)
    held = prepare(running, of(running.config, other_code))
    assert held.phase == "Failed"
    assert held.failure.reason == "CodeChanged"
    assert "triage.py" in held.failure.message
    assert running.order("Commit", subject="beef0002") == 503
    assert running.ask(fresh()).headers["despina-model-version"] == plain
    missing = prepare(running, of(running.config, "999", "beef0003"))
    assert missing.failure.reason == "ArtifactMissing"


def test_what_was_missing_for_a_moment_is_taken_in_at_the_second_try(pod, plain, log_model, servers):
    running = pod(plain)
    eventually("ready", running.is_ready, 90)
    stored = servers[0] / "mlflow" / "artifacts"
    others = set(stored.glob("**/MLmodel"))
    late = log_model("compiled", "late")
    (file,) = set(stored.glob("**/MLmodel")) - others
    aside = file.rename(file.with_suffix(".aside"))
    config = of(running.config, late)
    config = config.model_copy(update={"model": config.model.model_copy(update={"name": "late"})})
    assert running.order("Prepare", config=config) == 200
    eventually("tried once", lambda: "is tried once more" in running.log.read_text(), 30)
    assert running.state().held["beef0002"].phase == "Preparing"
    aside.rename(file)
    held = eventually("settled", lambda: (h := running.state().held["beef0002"]).phase != "Preparing" and h, 30)
    assert held.phase == "Ready"


TICKETS = (
    "My card was charged twice",
    "The app crashes when I open it",
    "I cannot log in, the code never comes",
    "How do I cancel my plan",
    "When will my parcel arrive",
)


def test_modules_take_state_and_lm_of_their_own(pod, plain, version, servers, lm):
    lms = (lm_config(servers[2], retries=0), lm_config(servers[2], "cheap", adapter="JSON", structured_output=True))
    running = pod(plain, lms=lms)
    eventually("ready", running.is_ready, 90)
    whole = prepare(running, of(running.config, version, "beef0001"))
    module = (ModuleConfig(path="classify", version=version, lm="cheap"),)
    part = prepare(running, of(running.config, plain, "beef0002", modules=module))
    assert part.phase == "Ready"
    same = prepare(
        running, of(running.config, plain, "beef0004", modules=(ModuleConfig(path="classify", version=version),))
    )
    digests = {whole.digest, part.digest, running.state().held["abcd1234"].digest}
    assert (len(digests), same.digest) == (3, part.digest), "of what was loaded, whichever LM it asks"
    answers = {}
    for revision in ("abcd1234", "beef0001", "beef0004"):
        running.order("Commit", subject=revision)
        answers[revision] = [running.ask({"ticket": text}).json()["category"] for text in TICKETS]
    assert answers["beef0004"] == answers["beef0001"] != answers["abcd1234"], (
        "it has the other version's demonstrations"
    )
    unknown = prepare(running, of(running.config, plain, "beef0003", modules=(ModuleConfig(path="rewrite"),)))
    assert unknown.failure.reason == "UnknownModule"
    assert "it has classify" in unknown.failure.message
    running.order("Commit", subject="beef0002")
    assert running.ask(fresh()).status_code == 200
    eventually("it is counted", lambda: 'lm="cheap",module="classify",outcome="ok"' in running.metrics(), 10)


def test_a_held_revision_is_tried_and_mirrored_without_the_callers_noticing(pod, plain, version):
    running = pod(plain)
    eventually("ready", running.is_ready, 90)
    target = of(running.config, version)
    prepare(running, target)
    running.order("Try", subject="beef0002:smoke", inputs=TICKET)
    running.order("Try", subject="beef0002:wrong", inputs={"tickets": 1})
    tries = eventually("tried", lambda: len(t := running.state().tries) == 2 and t)
    assert tries["beef0002:smoke"].ok
    assert not tries["beef0002:wrong"].ok
    assert "422" in tries["beef0002:wrong"].message
    running.order("Shadow", shadow={"revision": "beef0002", "percent": 100})
    answers = asyncio.run(drive(f"{running.url}/execute", fresh, rate=20, stop=lambda s: s > 2)).answers
    assert {(a.status, a.headers["despina-model-version"]) for a in answers} == {(200, plain)}
    report = eventually("mirrored", lambda: (r := running.state().shadow) and r.mirrored >= 10 and r)
    assert report.failed == 0
    assert 0 <= report.agreed < report.mirrored  # the compiled version answers better
    assert sum(report.seconds) == sum(report.live_seconds) == report.mirrored
    running.order("Shadow")
    assert running.state().shadow is None
    interface = httpx.get(f"{running.admin}/interface/beef0002").json()
    assert interface["inputs"]["required"] == ["ticket"]
    assert httpx.get(f"{running.admin}/interface/nothing").status_code == 404


def test_the_breaker_is_opened_and_closed_from_outside_and_counts_by_class(pod, plain, lm):
    breaker = ProgramBreakerConfig(min_requests=5, window_seconds=60, open_seconds=60)
    running = pod(plain, breaker=breaker, workers=2)
    eventually("ready", running.is_ready, 90)
    assert running.ask(fresh()).status_code == 200
    assert running.order("OpenBreaker", subject="Upstream") == 200
    assert {b.state for b in running.state().breakers} == {"Open"}
    assert running.ask(fresh()).json()["type"].endswith("breaker-open")
    assert running.order("CloseBreaker") == 200
    assert running.ask(fresh()).status_code == 200
    lm.misbehave(status=500)
    running.ask(fresh())

    def counted() -> tuple[int, int, int]:
        state = running.state()
        counts = state.counts["abcd1234"]
        return counts.ok, counts.outage, sum(b.window.get("Upstream", 0) for b in state.breakers)

    eventually("counted once", lambda: counted() == (2, 1, 1))


def test_a_pod_that_starts_runs_what_its_fellows_were_changed_to(tmp_path, pod, plain):
    config = RuntimeConfig.model_validate_json((pod(plain).log.parent / CONFIG_FILE).read_bytes())
    assert latest(config, tmp_path / "absent") is config
    (tmp_path / "generation").write_text(of(config, "7").model_dump_json())
    assert latest(config, tmp_path / "generation").model.version == "7"
    (tmp_path / "generation").write_text("{")
    assert latest(config, tmp_path / "generation") is config
