"""Curves from Prometheus: kept, bounded, and given up for the page's own when it is silent; and the queries beside them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl

import pytest
from aiohttp import web

from despina.cli import main
from despina.dashboard import past as past_module
from despina.dashboard import promql
from despina.dashboard.past import KEPT_SECONDS, LONGEST_SHOWN, MOST_KEPT, Past, placed
from despina.settings import DashboardSettings
from despina.sources.prometheus import MOST_BYTES, NoPast, Prometheus, points_of
from services import free_port

QA = ("team-a", "qa")
NOW = 1_790_000_005.0
NAMES = {
    "plain": ("team-a", 'namespace="team-a",program="qa"'),
    "that would end the text": ('a"} or vector(1) or x{b="', 'namespace="a\\"} or vector(1) or x{b=\\"",program="qa"'),
    "with a backslash and a line break": ("a\\\n", 'namespace="a\\\\\\n",program="qa"'),
    "half a character": ("\ud800", 'namespace="?",program="qa"'),
}


@pytest.mark.parametrize(("namespace", "found"), NAMES.values(), ids=NAMES)
def test_names_stay_within_their_quotes(namespace, found):
    assert promql.program((namespace, "qa")) == found
    assert all(found in query for query in promql.curves((namespace, "qa"), "2m").values())


PLACED = {
    "at their places": ([(80.0, 1.0), (100.0, 2.0)], [1.0, math.nan, 2.0]),
    "what is older or newer is left out": ([(70.0, 1.0), (110.0, 2.0)], [math.nan] * 3),
    "what is no number is a gap": ([(90.0, math.nan), (math.nan, 1.0), (100.0, math.inf)], [math.nan] * 3),
}


@pytest.mark.parametrize(("points", "found"), PLACED.values(), ids=PLACED)
def test_points_are_placed(points, found):
    assert placed(points, 100.0, 10.0, 3) == pytest.approx(found, nan_ok=True)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class FakeSource:
    """Gives every moment's own number, or what `fails`."""

    def __init__(self) -> None:
        self.asked, self.fails = [], False
        self.gate = asyncio.Event()
        self.gate.set()

    async def curve(self, query, start, end, step):
        self.asked.append((query, start, end, step))
        await self.gate.wait()
        if self.fails:
            raise NoPast("status 503")
        return [(end, 7.0)]


async def settled(past: Past) -> None:
    async with asyncio.timeout(10):
        while any(kept.asking for kept in past._kept.values()):
            await asyncio.sleep(0)


async def test_curves_are_asked_for_once_in_a_while():
    source, clock = FakeSource(), Clock()
    past = Past(source, clock)
    assert past.curves(QA, "15m") is None
    await settled(past)
    assert past.curves(QA, "15m")["p95"][-2:] == pytest.approx([math.nan, 7.0], nan_ok=True)
    assert len(past.curves(QA, "15m")["requests"]) == 90
    assert [(end - start, step) for _, start, end, step in source.asked] == [(890, 10)] * 4
    clock.now += KEPT_SECONDS
    assert past.curves(QA, "15m") is not None
    await settled(past)
    assert len(source.asked) == 8
    past.curves(QA, "24h")
    await settled(past)
    assert source.asked[-1][1:] == (1_790_000_005 // 300 * 300 - 287 * 300.0, 1_790_000_005 // 300 * 300.0, 300)
    assert "[5m]" in source.asked[-1][0]


async def test_as_many_curves_are_kept_as_there_is_room_for():
    past = Past(FakeSource(), Clock())
    for number in range(MOST_KEPT + 10):
        past.curves(("team-a", str(number)), "15m")
        await settled(past)
    assert [name for (_, name), _ in past._kept] == [str(number) for number in range(10, MOST_KEPT + 10)]


async def test_a_silent_prometheus_gives_way_to_the_rings_and_says_since_when(caplog):
    source, clock = FakeSource(), Clock()
    past = Past(source, clock)
    await past.first(QA, "1h")
    assert past.curves(QA, "1h") is not None
    source.fails = True
    for _ in range(20):
        clock.now += KEPT_SECONDS / 4
        past.curves(QA, "1h")
        await settled(past)
    assert len(source.asked) <= 4 + 4 * 6, "it is not asked more often than one that answers"
    assert past.silent_since == NOW + KEPT_SECONDS
    clock.now = NOW + LONGEST_SHOWN
    assert past.curves(QA, "1h") is None
    await settled(past)
    assert "status 503" in caplog.text
    source.fails = False
    clock.now += KEPT_SECONDS
    past.curves(QA, "1h")
    await settled(past)
    assert past.silent_since == 0
    assert past.curves(QA, "1h") is not None


async def test_nobody_waits_for_long_and_there_are_so_many(monkeypatch):
    monkeypatch.setattr(past_module, "FIRST_SECONDS", 0.01)
    source, clock = FakeSource(), Clock()
    past = Past(source, clock)
    source.gate.clear()
    await past.first(QA, "15m")
    for number in range(2 * MOST_KEPT):
        past.curves(("team-a", f"p{number}"), "15m")
    assert sum(kept.asking is not None for kept in past._kept.values()) <= MOST_KEPT
    await past.close()
    await Past(None, clock).first(QA, "15m")
    assert Past(None, clock).curves(QA, "15m") is None


@contextlib.asynccontextmanager
async def a_prometheus(answers):
    app, port = web.Application(), free_port()
    app.router.add_post("/prefix/api/v1/query_range", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/prefix/"
    finally:
        await runner.cleanup()


SUCCESS = '{"status": "success", "data": {"resultType": "matrix", "result": [%s]}}'


async def test_it_is_asked_with_the_token_of_the_moment(tmp_path):
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization"), dict(await request.post())))
        return web.Response(text=SUCCESS % '{"metric": {}, "values": [[10, "1.5"], [20, "NaN"]]}')

    async with a_prometheus(answer) as url, Prometheus(url, tmp_path) as source:
        (tmp_path / "token").write_text("one\n")
        points = await source.curve("up", 10, 20, 10)
        (tmp_path / "token").write_text("two")
        await source.curve("up", 10, 20, 10)
        (tmp_path / "token").unlink()
        await source.curve("up", 10, 20, 10)
    assert points[0] == (10, 1.5)
    assert [token for token, _ in seen] == ["Bearer one", "Bearer two", None]
    assert seen[0][1] == {"query": "up", "start": "10.000", "end": "20.000", "step": "10"}


BAD = {
    "an error": {"status": 422, "text": '{"status": "error"}'},
    "no success": {"text": '{"status": "error"}'},
    "no JSON": {"text": "<html>"},
    "nested without end": {"text": "[" * 100_000},
    "too long": {"body": b" " * (MOST_BYTES + 1)},
    "elsewhere": {"status": 302, "headers": {"Location": "http://127.0.0.1/"}},
    "packed": {"body": b"x", "headers": {"Content-Encoding": "gzip"}},
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_what_is_no_answer_is_told(answer):
    async def answers(_: web.Request) -> web.Response:
        return web.Response(**answer)

    async with a_prometheus(answers) as url, Prometheus(url) as source:
        with pytest.raises(NoPast):
            await source.curve("up", 0, 10, 10)


async def test_one_that_is_slow_or_not_there_is_told(monkeypatch):
    monkeypatch.setattr("despina.sources.prometheus.SECONDS", 0.2)

    async def answers(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with a_prometheus(answers) as url, Prometheus(url) as source:
        with pytest.raises(NoPast):
            await source.curve("up", 0, 10, 10)
    async with Prometheus(f"http://127.0.0.1:{free_port()}") as source:
        with pytest.raises(NoPast):
            await source.curve("up", 0, 10, 10)


ODD = {
    "no series": (SUCCESS % "", []),
    "a series without points": (SUCCESS % '{"metric": {}}', []),
    "points that are none": (SUCCESS % '{"values": [[1], ["a", "b"], 5, null, [1, "2"]]}', [(1.0, 2.0)]),
    "more than were asked for": (SUCCESS % '{"values": [[1, "1"], [2, "2"], [3, "3"], [4, "4"], [5, "5"], [6, "6"]]}',
                                 [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0), (5.0, 5.0)]),
    "a number that is too long": (SUCCESS % ('{"values": [[1, 1%s], [2, "2"]]}' % ("0" * 400)), [(2.0, 2.0)]),
    "another shape": ('{"status": "success", "data": [1]}', []),
}  # fmt: skip


@pytest.mark.parametrize(("body", "points"), ODD.values(), ids=ODD)
def test_an_answer_is_read_as_far_as_it_is_one(body, points):
    assert points_of(body.encode(), 5) == points


async def test_a_certificate_that_is_none_is_told(tmp_path):
    (tmp_path / "ca.crt").write_text("nothing")
    with pytest.raises(ssl.SSLError):
        Prometheus("https://p", tmp_path)


def test_flags_go_before_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("DESPINA_PROMETHEUS_URL", "http://one:9090")
    assert DashboardSettings().prometheus_url == "http://one:9090"
    assert DashboardSettings(prometheus_url="http://two").prometheus_url == "http://two"
    with pytest.raises(SystemExit):
        main(["dashboard", "--prometheus-url", "http://ada:secret@p"])
    said = capsys.readouterr().err
    assert said.startswith("DESPINA_PROMETHEUS_URL: ")
    assert "secret" not in said
