"""What Prometheus says to the queries beside the page's figures is what the page shows, of a pod that both asked."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import time
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web
from prometheus_client import generate_latest

from despina.dashboard import promql, story, words
from despina.dashboard.curves import charts
from despina.dashboard.facts import status_of
from despina.dashboard.pages import HEADS
from despina.dashboard.past import Past
from despina.dashboard.world import World
from despina.sources.prometheus import Prometheus
from despina.wire import Figures
from despina_runtime.process.exposition import registry_of
from services import Processes, free_port
from tests.support.page import a_manifest, a_pod, figures
from tools import CACHE

PROMETHEUS = shutil.which("prometheus") or str(CACHE / "packages" / "prometheus" / "usr" / "bin" / "prometheus")
pytestmark = pytest.mark.skipif(not Path(PROMETHEUS).exists(), reason="there is no prometheus: `make test` gets it")
QA, LABELS = ("team-a", "qa"), {"namespace": "team-a", "program": "qa"}
SCRAPED_SECONDS = 1
A_SECOND = 40
"""Requests."""
SOON = "4s"
"""The queries' two minutes would take too long here."""


class Pod:
    """Answers so many requests a second, until it is told to rest."""

    def __init__(self) -> None:
        self.began, self.rests = time.time(), False
        self.said = figures(200)

    def now(self) -> Figures:
        if not self.rests:
            requests = 200 + int((time.time() - self.began) * A_SECOND)
            self.said = figures(requests, requests // 20)
        return self.said

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry_of(self.now())), content_type="text/plain")


@contextlib.asynccontextmanager
async def scraping(pod: Pod, folder: Path):
    """A Prometheus that asks the pod; gives its address."""
    app, port, target = web.Application(), free_port(), free_port()
    app.router.add_get("/metrics", pod.metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", target).start()
    job = {"job_name": "pods", "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": LABELS}]}
    config = {"global": {"scrape_interval": f"{SCRAPED_SECONDS}s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    processes = Processes(folder)
    files = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    processes.start("prometheus", [PROMETHEUS, *files, f"--web.listen-address=127.0.0.1:{port}"])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(processes.stop_all)
        await runner.cleanup()


class Answers:
    """Asks it."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __call__(self, query: str) -> dict[tuple[str, ...], float]:
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{self.url}/api/v1/query", params={"query": query}) as a,
        ):
            said = await a.json()
        assert said["status"] == "success", said
        return {
            tuple(one["metric"].get(n, "") for n in NAMES): float(one["value"][1]) for one in said["data"]["result"]
        }

    async def until(self, query: str, is_so) -> None:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiohttp.ClientError, KeyError):
                    if is_so(await self(query)):
                        return
                await asyncio.sleep(0.2)


NAMES = ("version", "module", "lm", "class", "problem", "tier", "tool", "backend", "label")


def only(found: dict[tuple[str, ...], float]) -> float:
    (value,) = found.values()
    return value


def by(found: dict[tuple[str, ...], float]) -> dict[str, float]:
    return {"".join(labels): value for labels, value in found.items()}


async def test_prometheus_says_what_the_page_says(tmp_path):
    pod, world = Pod(), World(time.time)
    world.set_programs("team-a", [a_manifest()])
    world.set_pods("team-a", [a_pod()])
    async with scraping(pod, tmp_path) as url:
        ask = Answers(url)
        await ask.until("despina_requests_total", bool)
        world.heard(QA, "uid-qa", {"qa-1": pod.now()})
        sums = promql.total("despina_requests_total", promql.program(QA))
        before = only(await ask(sums))
        await ask.until(sums, lambda found: only(found) > before + 5 * A_SECOND)
        world.heard(QA, "uid-qa", {"qa-1": pod.now()})
        await of_the_moment(ask, world)
        await over_time(url, world)
        pod.rests = True
        last = sum(n for one in pod.said.versions.values() for n in one.requests.values())
        await ask.until(sums, lambda found: only(found) == last)
        world.heard(QA, "uid-qa", {"qa-1": pod.now()})
        await of_all_time(ask, world)


async def of_the_moment(ask: Answers, world: World) -> None:
    now = world.programs[QA].history.present()
    asked = {name: q.replace(promql.WINDOW, SOON) for name, q in promql.columns(promql.program(QA)).items()}
    found = {name: only(await ask(query)) for name, query in asked.items() if name != "score"}
    shown = now._asdict() | {"errors": now.errors / now.requests}
    assert found == pytest.approx({name: shown[name] for name in found}, rel=0.1)
    assert found["requests"] == pytest.approx(A_SECOND * 1.05, rel=0.1)
    of_list = dict(zip((name for name, _ in HEADS), promql.of_list("team-a", HEADS), strict=True))
    assert only(await ask(of_list["p95"].text.replace(promql.WINDOW, SOON))) == pytest.approx(now.p95, rel=0.1)
    (pods,) = [q.text for q in promql.of_program(QA, "15m", HEADS)["pods"] if q.title == "Under way"]
    assert only(await ask(pods)) == world.programs[QA].meter.gauges().in_flight


async def over_time(url: str, world: World) -> None:
    """The curves, as the page gets them."""
    async with Prometheus(url) as source:
        world.past = Past(source, time.time)
        async with asyncio.timeout(60):
            while True:
                await world.past.first(QA, "15m")
                curves = world.past.curves(QA, "15m")
                if curves and math.isfinite(curves["p95"][-1]) and not math.isnan(curves["errors"][-1]):
                    break
                world.past = Past(source, time.time)
                await asyncio.sleep(0.5)
        assert curves["p95"][-1] == pytest.approx(world.programs[QA].history.present().p95, rel=0.1)
        assert curves["errors"][-1] < curves["requests"][-1]
        assert world.charts(world.programs[QA], "15m") == charts(curves)
        assert world.past.silent_since == 0
        await world.past.close()


async def of_all_time(ask: Answers, world: World) -> None:
    known, queries = world.programs[QA], promql.of_program(QA, "15m", HEADS)
    total, status = known.meter.total(), status_of(known.facts.document)
    found = {(part, q.title): by(await ask(q.text)) for part in queries for q in queries[part]}
    (side,) = story.sides(status, total)
    written = {"Requests": words.number, "Errors": words.share, "Median": words.seconds, "95th percentile": words.seconds,
               "Tokens a request": words.number, "Cost of 1,000 requests": words.dollars}  # fmt: skip
    assert {title: write(found["sides", title]["7"]) for title, write in written.items()} == {
        title: side.figures[title] for title in written
    }
    heads = {"Calls": words.number, "Failed": words.share, "Tokens": words.number, "Cost": words.dollars}
    for part in story.modules(total):
        module, lm, calls, failed, median, tokens, cost = part.words
        said = {title: write(found["modules", title][module + lm]) for title, write in heads.items()}
        assert said == {"Calls": calls, "Failed": failed, "Tokens": tokens, "Cost": cost}
        assert words.seconds(found["modules", "Median"][lm]) == median
    assert [
        (n, words.number(found["errors", "Answers by class"][n])) for n, _ in map(_words, story.failures(total))
    ] == [one.words for one in story.failures(total)]
    for tier, count, share in (one.words for one in story.cache(total)):
        assert (words.number(found["cache", "Answers"][tier]), words.share(found["cache", "Share"][tier])) == (
            count,
            share,
        )
    assert by(found["tools", "Calls"]) == {"searchlocal": sum(n for k, n in total.items() if k[0] == "tool")}
    for version, label, count in (one.words for one in story.feedback(total)):
        assert words.number(found["feedback", "Labels"][version.removeprefix("v") + label]) == count


def _words(part: story.Part) -> tuple[str, str]:
    return part.words[0], part.words[1]
