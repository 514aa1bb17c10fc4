"""Moving aliases and writing tags: once, again after a failure, and nothing that is not wanted any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from despina.api.credentials import Credentials
from despina.decide.plan import MoveAlias, Tag
from despina.decide.quarantine import timestamp
from despina.sources import marks
from despina.sources.marks import PROMOTED, Marks
from despina.sources.tracking import Tracking
from tests.support.drip import Drip

URI, KEY = "http://mlflow:5000", ("ns", "qa")
MINE, NEW = Credentials(token="mine-hunter2"), Credentials(token="new")
MOVE = MoveAlias(version="8", base="7")
TAKEN_BACK = Tag("8", "taken-back", "WatchFailed")
Answer = Callable[[httpx.Request], httpx.Response]


class World:
    """A model with versions 7 and 8 on an MLflow behind a transport, and an operator that writes to it."""

    def __init__(self) -> None:
        self.alias = "7"
        self.tags: dict[str, dict[str, str]] = {"7": {}, "8": {}}
        self.instead: dict[str, Answer] = {}
        """By what is asked for: what is answered in place of what is right."""
        self.requests: list[httpx.Request] = []
        self.written: list[tuple[str, ...]] = []
        self.woken = 0
        self.now = 1e9
        self.wanted: list[MoveAlias | Tag] = []
        """What a pass gives, as often as there is one."""
        self.marks = self.operator()

    def operator(self) -> Marks:
        """A process of it."""
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        return Marks(Tracking(client), self.wake, lambda: self.now)

    def wake(self, key: tuple[str, str]) -> None:
        assert key == KEY
        self.woken += 1
        for action in self.wanted:
            asyncio.get_running_loop().call_soon(self.do, action)

    def do(self, action: MoveAlias | Tag, own: Credentials | None = MINE) -> None:
        self.marks.do(KEY, action, URI, "qa", "champion", own)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        what = request.url.path.removeprefix("/api/2.0/mlflow/")
        if what in self.instead:
            return self.instead[what](request)
        if request.method == "GET":
            return self.get(what, request.url.params)
        body = json.loads(request.content)
        if body.get("version") not in self.tags:
            return GONE
        assert body.pop("name") == "qa"
        self.written.append(tuple(body.values()))
        if what == "registered-models/alias":
            assert body["alias"] == "champion"
            self.alias = body["version"]
        else:
            self.tags[body["version"]][body["key"]] = body["value"]
        return httpx.Response(200, json={})

    def get(self, what: str, params: httpx.QueryParams) -> httpx.Response:
        assert params["name"] == "qa"
        if what == "registered-models/get":
            aliases = [{"alias": "champion", "version": self.alias}, {"alias": "candidate", "version": "8"}]
            return httpx.Response(200, json={"registered_model": {"aliases": aliases}})
        assert what == "model-versions/get"
        if params["version"] not in self.tags:
            return GONE
        tags = [{"key": k, "value": v} for k, v in self.tags[params["version"]].items()]
        return httpx.Response(200, json={"model_version": {"version": "8"} | ({"tags": tags} if tags else {})})

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return [m.task for found in self.marks._marks.values() for m in found.values() if m.task]

    async def at_rest(self) -> None:
        """Until nothing is under way."""
        async with asyncio.timeout(20):
            while any(not task.done() for task in self.tasks):
                await asyncio.sleep(0)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0)


GONE = httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(marks, "RETRY_SECONDS", 0.001)
    found = World()
    yield found
    await found.marks.close()


async def test_an_alias_is_moved_and_its_version_says_so(world):
    world.do(MOVE)
    world.do(MOVE)
    await world.at_rest()
    assert world.written == [("champion", "8"), ("8", PROMOTED, timestamp(1e9))]
    assert (world.alias, world.tags["7"], world.marks.trouble(KEY), world.woken) == ("8", {}, "", 1)
    asked = len(world.requests)
    world.do(MOVE)
    await world.at_rest()
    assert len(world.requests) == asked


async def test_an_alias_that_somebody_moved_back_is_moved_never_again(world):
    world.do(MOVE)
    await world.at_rest()
    world.alias = "7"
    world.do(MOVE)
    await world.at_rest()
    world.marks = world.operator()
    world.do(MOVE)
    await world.at_rest()
    assert (world.alias, len(world.written)) == ("7", 2)


async def test_an_alias_that_somebody_moved_elsewhere_stays_there_until_it_is_back(world):
    world.alias = "5"
    for _ in range(3):
        world.do(MOVE)
        await world.at_rest()
    assert (world.written, len(world.requests)) == ([], 2)
    world.now += marks.REST_SECONDS
    world.alias = "7"
    world.do(MOVE)
    await world.at_rest()
    assert world.alias == "8"


async def test_an_operator_that_was_killed_before_it_wrote_the_tag_is_followed_by_one_that_does(world):
    killed = asyncio.Event()
    world.instead["model-versions/set-tag"] = lambda _: killed.set() or fails(_)
    world.do(MOVE)
    async with asyncio.timeout(20):
        await killed.wait()
    await world.marks.close()
    assert (world.alias, world.tags["8"]) == ("8", {})
    world.instead, world.marks = {}, world.operator()
    world.do(MOVE)
    await world.at_rest()
    assert world.written == [("champion", "8"), ("8", PROMOTED, timestamp(1e9))]


def fails(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


HOSTILE: dict[str, Answer] = {
    "no answer": fails,
    "a byte now and then": lambda _: httpx.Response(200, stream=Drip(b" ")),
    "no end": lambda _: httpx.Response(200, stream=Drip(b" " * 2**18)),
    "a redirect": lambda _: httpx.Response(307, headers={"location": "http://elsewhere/"}),
    "no rights": lambda _: httpx.Response(401, json={"token": "hunter2"}),
    "an error": lambda _: httpx.Response(500, text="hunter2"),
    "not there": lambda _: GONE,
}  # fmt: skip
STRANGE: dict[str, Answer] = {
    "not JSON": lambda _: httpx.Response(200, text="<html>"),
    "nested without end": lambda _: httpx.Response(200, content=b"[" * 200000),
    "other shapes": lambda _: httpx.Response(
        200, json={"registered_model": [], "model_version": {"tags": [{"key": 7}]}}),
}  # fmt: skip
READS, MOVES = ("model-versions/get", "registered-models/get"), ("registered-models/alias",)
FAILURES = [(w, c) for w in READS for c in {**HOSTILE, **STRANGE}] + [(w, c) for w in MOVES for c in HOSTILE]


@pytest.mark.parametrize(("what", "case"), FAILURES)
async def test_an_alias_that_could_not_be_moved_is_moved_later_if_it_is_still_wanted(world, what, case, monkeypatch):
    monkeypatch.setattr("despina.sources.tracking.ANSWER_SECONDS", 0.1)
    world.wanted = [MOVE]
    world.instead = {what: {**HOSTILE, **STRANGE}[case]}
    world.do(MOVE)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    said = world.marks.trouble(KEY)
    assert said.startswith("alias 'champion' was not moved to version 8 of 'qa': ")
    assert "hunter2" not in said
    assert world.written == []
    world.instead = {}
    await world.at_rest()
    assert (world.alias, PROMOTED in world.tags["8"], world.marks.trouble(KEY)) == ("8", True, "")
    assert all(request.url.host == "mlflow" for request in world.requests)


async def test_what_was_wanted_long_before_the_next_attempt_is_asked_about_again(world, monkeypatch):
    monkeypatch.setattr(marks, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(marks, "RENEW_SECONDS", 0.01)
    world.instead = {"registered-models/get": fails}
    world.do(MOVE)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    world.instead = {}
    world.do(MOVE)
    await world.until(lambda: world.marks.trouble(KEY) == "")
    await world.at_rest()
    assert (world.alias, world.written) == ("7", [])


async def test_an_alias_that_is_not_wanted_any_more_is_not_moved_by_a_server_that_is_back(world, monkeypatch):
    monkeypatch.setattr(marks, "RENEW_SECONDS", 0.01)
    world.instead = {"registered-models/get": fails}
    world.do(MOVE)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    world.instead = {}
    await world.until(lambda: world.marks.trouble(KEY) == "")
    await world.at_rest()
    assert (world.alias, world.written, world.woken) == ("7", [], 3)  # trouble, is it wanted?, no trouble


async def test_a_moved_alias_gets_its_tag_though_nobody_asks_and_somebody_moves_it_back(world, monkeypatch):
    monkeypatch.setattr(marks, "RENEW_SECONDS", 0.01)
    world.instead = {"model-versions/set-tag": fails}
    world.do(MOVE)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    assert world.marks.trouble(KEY).startswith("version 8 of 'qa' was not tagged despina.promoted: ")
    world.alias, world.instead = "7", {}
    await world.at_rest()
    assert (world.alias, PROMOTED in world.tags["8"], world.marks.trouble(KEY)) == ("7", True, "")


async def test_a_tag_is_written_once(world):
    for _ in range(3):
        world.do(TAKEN_BACK)
        await world.at_rest()
    assert world.written == [("8", "despina.taken-back", "WatchFailed")]
    world.do(Tag("8", "taken-back", "BreakerOpen"))
    world.do(Tag("7", "taken-back", "WatchFailed"))
    await world.at_rest()
    assert world.tags == {"8": {"despina.taken-back": "BreakerOpen"}, "7": {"despina.taken-back": "WatchFailed"}}
    assert len(world.written) == 3


@pytest.mark.parametrize("case", [case for case in HOSTILE if case != "not there"])
async def test_a_tag_that_could_not_be_written_is_written_later_by_itself(world, case, monkeypatch):
    monkeypatch.setattr("despina.sources.tracking.ANSWER_SECONDS", 0.1)
    world.instead = {"model-versions/set-tag": HOSTILE[case]}
    world.do(TAKEN_BACK)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    assert world.marks.trouble(KEY).startswith("version 8 of 'qa' was not tagged despina.taken-back: ")
    assert "hunter2" not in world.marks.trouble(KEY)
    world.instead = {}
    await world.at_rest()
    assert (world.marks.trouble(KEY), world.woken) == ("", 2)
    assert world.tags["8"] == {"despina.taken-back": "WatchFailed"}


async def test_what_is_overtaken_is_not_written_last(world):
    """The first is on its way when the second is given, and fails."""
    world.instead = {"model-versions/set-tag": lambda r: world.instead.clear() or world.do(LATER) or fails(r)}
    world.do(TAKEN_BACK)
    await world.at_rest()
    assert world.written == [("8", "despina.taken-back", "BreakerOpen")]


LATER = Tag("8", "taken-back", "BreakerOpen")


async def test_a_version_that_is_gone_needs_no_tag(world):
    world.do(Tag("9", "taken-back", "x"))
    await world.at_rest()
    assert (world.marks.trouble(KEY), len(world.requests)) == ("", 1)


async def test_other_credentials_are_tried_at_once(world, monkeypatch):
    monkeypatch.setattr(marks, "RETRY_SECONDS", 60)
    shown = lambda r: httpx.Response(200 if r.headers["authorization"] == "Bearer new" else 403)  # noqa: E731
    world.instead = {"model-versions/set-tag": shown}
    world.do(TAKEN_BACK)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    assert "403 to the program's credentials" in world.marks.trouble(KEY)
    world.do(TAKEN_BACK, NEW)
    await world.at_rest()
    assert world.marks.trouble(KEY) == ""


async def test_other_credentials_that_fail_too_are_tried_once(world, monkeypatch):
    monkeypatch.setattr(marks, "RETRY_SECONDS", 60)
    world.instead = {"model-versions/set-tag": fails}
    world.do(TAKEN_BACK)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    world.do(TAKEN_BACK, NEW)
    await world.until(lambda: len(world.requests) >= 2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(world.requests) == 2


async def test_one_mark_that_fails_holds_no_other_up(world):
    world.instead = {"registered-models/get": fails}
    world.wanted = [MOVE]
    world.do(MOVE)
    world.do(TAKEN_BACK)
    await world.until(lambda: bool(world.written))
    assert world.tags["8"] == {"despina.taken-back": "WatchFailed"}


async def test_nothing_more_is_written_for_a_program_that_is_gone(world):
    world.instead = {"model-versions/set-tag": fails}
    world.do(TAKEN_BACK)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    tasks = world.tasks
    world.marks.forget(KEY)
    world.marks.forget(KEY)
    await asyncio.wait(tasks, timeout=10)
    assert all(task.cancelled() for task in tasks)
    assert world.marks.trouble(KEY) == ""


async def test_the_log_shows_no_credentials(world, caplog):
    world.instead = {"model-versions/set-tag": HOSTILE["no rights"]}
    world.do(TAKEN_BACK)
    await world.until(lambda: world.marks.trouble(KEY) != "")
    assert "was not tagged" in caplog.text
    assert "hunter2" not in caplog.text
