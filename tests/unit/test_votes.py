"""Counting labels: what an assessment says, when MLflow is asked for what, and that no answer ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from despina.api.credentials import Credentials
from despina.decide.observed import LabelsView, Vote
from despina.sources import labels, votes
from despina.sources.labels import Labels, _Reader
from despina.sources.tracking import Tracking
from tests.support.drip import Drip

URI = "http://mlflow:5000"
A, B = ("ns", "a"), ("ns", "b")
MINE, OTHERS = Credentials(token="mine-hunter2"), Credentials(token="others")
NOTED = "2024-05-01T12:00:00Z"
NOTED_AT = 1714564800.0


def label(value: Any = "failure", at: Any = "100.5", prediction: Any = None, **fields: Any) -> dict[str, Any]:
    """An assessment as the runtime writes it."""
    metadata = {"despina.at": at, "despina.trusted": "false"} | (
        {"despina.prediction": prediction} if prediction else {}
    )
    found = {
        "assessment_name": "label",
        "source": {"source_type": "HUMAN"},
        "feedback": {"value": value},
        "metadata": metadata,
        "valid": True,
    }
    return found | {"create_time": "2024-05-01T11:00:00Z", "last_update_time": NOTED} | fields


def trace(name: str, *assessments: Any) -> dict[str, Any]:
    return {"trace_id": name, "assessments": list(assessments), "request_preview": "x" * 100}


def votes_of(*traces: Any) -> list[tuple[float, bool]]:
    _, found, _ = votes.page_of(json.dumps({"traces": traces}).encode())
    return [(vote.at, vote.is_failure) for vote in votes.in_order(found, 100)]


SAID = {
    "a failure": (label(), [(100.5, True)]),
    "a success": (label("success"), [(100.5, False)]),
    "another value": (label("perhaps"), []),
    "a value that is no text": (label(["failure"]), []),
    "a judge's": (label(source={"source_type": "LLM_JUDGE"}), []),
    "nobody's": (label(source=None), []),
    "another name": (label(assessment_name="expected"), []),
    "one that was taken back": (label(valid=False), []),
    "one of which nobody says whether it is valid": (label(valid=None), [(100.5, True)]),
    "what was expected": (label(feedback=None, expectation={"value": "x"}), []),
    "an error": (label(feedback={"error": {"error_code": "x"}}), []),
    "given in MLflow's pages": (label(metadata={}), [(NOTED_AT, True)]),
    "never changed": (label(metadata={}, last_update_time=None), [(NOTED_AT - 3600, True)]),
    "of no time at all": (label(metadata={}, last_update_time=None, create_time="soon"), []),
    "a time that is no number": (label(at="nan"), [(NOTED_AT, True)]),
    "a time that is no text": (label(at=[1]), [(NOTED_AT, True)]),
    "a time without end": (label(at="1e999"), [(NOTED_AT, True)]),
    "a time before all": (label(at="-1"), [(NOTED_AT, True)]),
    "a time that no calendar has": (label(at="1e12"), [(NOTED_AT, True)]),
    "a clock that is a little ahead": (label(at=str(NOTED_AT + 30)), [(NOTED_AT + 30, True)]),
    "a clock that is years ahead": (label(at=str(NOTED_AT + 1e8)), [(NOTED_AT, True)]),
    "MLflow's time is no time": (label(create_time=7, last_update_time="9999-99"), []),
    "MLflow's time is before all": (label(metadata={}, last_update_time="0001-01-01T00:00:00+23:00"), []),
    "metadata of another shape": (label(metadata=[1]), []),
    "no assessment": (7, []),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_what_an_assessment_says(case):
    assessment, wanted = SAID[case]
    good = label("success", at="50", prediction="good~1")
    assert votes_of(trace("t", assessment, good)) == [(50.0, False), *wanted]


def test_there_is_one_vote_a_prediction_and_the_latest_counts():
    first, later = label("success", "10", "p"), label("failure", "20", "p")
    assert votes_of(trace("t", later, first)) == votes_of(trace("t", first, later)) == [(20.0, True)]
    hit, again = label("success", "30", "p~1"), label("failure", "40", "p~1")
    assert votes_of(trace("t", first, hit)) == [(10.0, False), (30.0, False)]
    assert votes_of(trace("t", again, hit), trace("u", first)) == [(10.0, False), (40.0, True)]


def test_who_corrects_a_label_in_mlflows_pages_says_it_of_the_same_prediction():
    given, clicked = label("success", "10", "p"), label("failure", metadata={})
    assert votes_of(trace("t", clicked, given)) == [(NOTED_AT, True)]


def test_traces_that_are_none_leave_the_others_as_they_are():
    good = trace("t", label())
    for odd in (None, 7, "x", {}, {"trace_id": 7}, {"trace_id": "u", "assessments": {}}):
        assert votes_of(odd, good) == [(100.5, True)]


@settings(deadline=None)
@given(st.one_of(st.binary(), st.recursive(st.none() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(
    st.sampled_from(["traces", "experiment", "data_points", "dimensions", "values", "assessments", "next_page_token"]), c
)).map(lambda found: json.dumps(found).encode())))  # fmt: skip
def test_whatever_is_answered_is_read_or_refused(answer):
    votes.counts_of(answer)
    for read in (votes.page_of, votes.experiment_id_of):
        with contextlib.suppress(ValidationError):
            read(answer)


class World:
    """An MLflow server behind a transport, which answers as told."""

    def __init__(self) -> None:
        self.traces: list[dict[str, Any]] = []
        self.instead: dict[str, Callable[[httpx.Request], httpx.Response]] = {}
        """By the path's end."""
        self.requests: list[httpx.Request] = []
        self.woken: list[tuple[str, str]] = []
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        self.labels = Labels(Tracking(client), self.woken.append)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        what = request.url.path.rpartition("/")[2]
        if what in self.instead:
            return self.instead[what](request)
        return getattr(self, what.replace("-", "_"))(json.loads(request.content or b"{}"))

    def get_by_name(self, _: Any) -> httpx.Response:
        return httpx.Response(200, json={"experiment": {"experiment_id": "7"}})

    def metrics(self, _: Any) -> httpx.Response:
        said = [a["feedback"]["value"] for t in self.traces for a in t["assessments"]]
        points = [{"dimensions": {"assessment_value": v}, "values": {"COUNT": said.count(v)}} for v in sorted({*said})]
        return httpx.Response(200, json={"data_points": points})

    def search(self, asked: dict[str, Any]) -> httpx.Response:
        assert asked["locations"][0]["mlflow_experiment"]["experiment_id"] == "7"
        start = json.loads(votes.base64.b64decode(asked["page_token"]))["offset"] if "page_token" in asked else 0
        end = start + asked["max_results"]
        more = {"next_page_token": votes.token_after(end)} if end < len(self.traces) else {}
        return httpx.Response(200, json={"traces": self.traces[start:end]} | more)

    def look(self, key: tuple[str, str] = A, own: Credentials | None = None) -> LabelsView | None:
        return self.labels.look(key, URI, "ns/a", own)

    async def until(self, holds: Callable[[LabelsView], bool], key: tuple[str, str] = A) -> LabelsView:
        async with asyncio.timeout(20):
            while (view := self.look(key)) is None or not holds(view):
                await asyncio.sleep(0)
        return view

    def asked(self, what: str) -> int:
        return sum(request.url.path.endswith(what) for request in self.requests)


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(labels, "PERIOD_SECONDS", 0.001)
    found = World()
    yield found
    await found.labels.close()


def read(view: LabelsView) -> bool:
    return not view.problem


async def test_nothing_is_known_at_first_and_the_program_is_woken_when_it_is(world):
    world.traces = [trace("t", label("success", "20")), trace("u", label("failure", "10"))]
    assert world.look() is None
    view = await world.until(read)
    assert view == LabelsView((Vote(10.0, True), Vote(20.0, False)))
    assert world.woken == [A]
    search = next(r for r in world.requests if r.url.path.endswith("/search"))
    assert json.loads(search.content)["filter"] == "feedback.label IS NOT NULL"


async def test_labels_are_read_when_their_number_changes_and_every_tenth_time(world):
    world.traces = [trace("t", label("success"))]
    await world.until(read)
    async with asyncio.timeout(20):
        while world.asked("metrics") < 3 * labels.WHOLE_ROUNDS + 1:
            await asyncio.sleep(0)
    assert world.asked("search") == 1 + (world.asked("metrics") - 1) // labels.WHOLE_ROUNDS
    assert world.woken == [A]
    world.traces.append(trace("u", label("failure")))
    await world.until(lambda view: len(view.votes) == 2)
    assert world.woken == [A, A]


async def test_two_that_change_sides_are_noticed_too(world):
    world.traces = [trace("t", label("success", "1")), trace("u", label("failure", "2"))]
    await world.until(read)
    world.traces = [trace("t", label("failure", "1")), trace("u", label("success", "2"))]
    await world.until(lambda view: view.votes == (Vote(1.0, True), Vote(2.0, False)))


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(400, json={}), httpx.Response(200, text="<"),
    httpx.Response(200, json={"data_points": [], "next_page_token": "x"})], ids=["404", "400", "html", "pages"])  # fmt: skip
async def test_where_mlflow_does_not_count_they_are_read_each_time(world, answer):
    world.instead["metrics"] = lambda _: answer
    world.traces = [trace("t", label())]
    await world.until(read)
    before = world.asked("search")
    async with asyncio.timeout(20):
        while world.asked("search") < before + 3:
            await asyncio.sleep(0)
    assert world.asked("search") >= world.asked("metrics") - 1


async def test_an_experiment_that_is_not_there_yet_has_no_labels(world):
    world.instead["get-by-name"] = lambda _: httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
    assert await world.until(read) == LabelsView()
    world.traces = [trace("t", label())]
    del world.instead["get-by-name"]
    await world.until(lambda view: len(view.votes) == 1)


def fails(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


HOSTILE = {
    "no answer": fails,
    "a byte now and then": lambda _: httpx.Response(200, stream=Drip(b" ")),
    "no end": lambda _: httpx.Response(200, stream=Drip(b" " * 2**18)),
    "a redirect": lambda _: httpx.Response(307, headers={"location": "http://elsewhere/"}),
    "no rights": lambda _: httpx.Response(401, json={"token": "hunter2"}),
    "none at all": lambda _: httpx.Response(403),
    "an error": lambda _: httpx.Response(500, text="hunter2"),
    "not JSON": lambda _: httpx.Response(200, text="<html>"),
    "nested without end": lambda _: httpx.Response(200, content=b"[" * 200000),
    "half a character": lambda _: httpx.Response(200, content=b'{"traces": ["\xc3'),
    "a list": lambda _: httpx.Response(200, json=[]),
    "packed": lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, content=b"x"),
    "other shapes": lambda _: httpx.Response(200, json={"traces": 7, "experiment": {"experiment_id": []}}),
}  # fmt: skip


@pytest.mark.parametrize("what", ["get-by-name", "search"])
@pytest.mark.parametrize("case", HOSTILE)
async def test_whatever_mlflow_answers_the_votes_stay_and_the_reading_goes_on(world, case, what, monkeypatch):
    monkeypatch.setattr("despina.sources.tracking.ANSWER_SECONDS", 0.1)
    world.traces = [trace("t", label())]
    before = await world.until(read)
    world.instead = {what: HOSTILE[case], "metrics": lambda _: httpx.Response(404)}
    view = await world.until(lambda view: bool(view.problem))
    assert view.votes == before.votes
    assert "hunter2" not in view.problem
    assert not any(request.url.host == "elsewhere" for request in world.requests)
    world.traces.append(trace("u", label()))
    world.instead = {}
    assert len((await world.until(read)).votes) == 2


async def test_a_server_that_is_slow_with_each_page_is_left_after_a_while(world, monkeypatch):
    monkeypatch.setattr(labels, "READ_SECONDS", 0.05)
    world.traces = [trace("t", label())]

    async def late(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("search"):
            await asyncio.sleep(0.02)
            return httpx.Response(200, json={"traces": world.traces, "next_page_token": "on"})
        return world.handle(request)

    slow = Labels(Tracking(httpx.AsyncClient(transport=httpx.MockTransport(late))), world.woken.append)
    async with asyncio.timeout(20):
        while (view := slow.look(A, URI, "ns/a", None)) is None:
            await asyncio.sleep(0)
    assert "does not hand out all labels" in view.problem
    await slow.close()


def sizes(world: World) -> list[int]:
    return [json.loads(r.content)["max_results"] for r in world.requests if r.url.path.endswith("search")]


async def test_only_so_many_of_the_newest_traces_are_read(world, monkeypatch):
    monkeypatch.setattr(labels, "MOST_TRACES", 620)
    world.traces = [trace(f"t{n}", label(at=str(10**6 - n))) for n in range(1000)]
    view = await world.until(read)
    assert [vote.at for vote in view.votes] == [10**6 - n for n in range(619, -1, -1)]
    assert sizes(world)[:3] == [250, 250, 120]


ENDLESS = {
    "the same page for ever": {"traces": [trace("t", label())], "next_page_token": "again"},
    "pages with nothing on them": {"traces": [], "next_page_token": "again"},
    "more than was asked for": {"traces": [trace(f"t{n}", label()) for n in range(900)], "next_page_token": "again"},
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS)
async def test_pages_without_end_come_to_one(world, case, monkeypatch):
    monkeypatch.setattr(labels, "MOST_TRACES", 50)
    world.instead["search"] = lambda _: httpx.Response(200, json=ENDLESS[case])
    view = await world.until(read)
    assert len(view.votes) == {"the same page for ever": 1, "pages with nothing on them": 0}.get(case, 900)
    assert world.asked("search") <= 50 * (1 + world.asked("metrics"))


async def test_a_trace_with_votes_without_end_does_not_fill_the_memory(world, monkeypatch):
    monkeypatch.setattr(labels, "MOST_VOTES", 20)
    many = [trace(f"t{n}", *(label(at=str(m), prediction=f"p{n}~{m}") for m in range(1, 9))) for n in range(600)]
    world.traces = many
    view = await world.until(read)
    assert len(view.votes) == 20
    assert view.votes[-1].at == 8.0
    assert sizes(world)[:2] != [250, 250]


async def test_pages_that_are_too_long_are_asked_for_in_smaller_ones_and_a_trace_that_is_is_left_out(
    world, monkeypatch
):
    monkeypatch.setattr(labels, "LONGEST_PAGE", 40_000)
    world.traces = [trace(f"t{n}", label(at=str(n + 1))) for n in range(300)]
    world.traces[120]["request_preview"] = "x" * 50_000
    view = await world.until(read)
    assert [vote.at for vote in view.votes] == [n + 1 for n in range(300) if n != 120]
    assert min(sizes(world)) == 1
    assert world.asked("search") < 60


async def test_a_server_all_of_whose_traces_are_too_long_is_not_asked_for_each(world, monkeypatch):
    monkeypatch.setattr(labels, "LONGEST_PAGE", 40)
    world.traces = [trace(f"t{n}", label()) for n in range(300)]
    await world.until(lambda view: bool(view.problem))
    assert world.asked("search") < 8 * labels.MOST_SKIPPED


async def test_programs_share_a_reader_where_server_experiment_and_credentials_are_the_same(world):
    world.traces = [trace("t", label())]
    await world.until(read)
    world.labels.look(B, "HTTP://MLflow:5000/", "ns/a", None)
    assert len(world.labels._readers) == 1
    world.traces.append(trace("u", label()))
    world.woken.clear()
    await world.until(lambda view: len(view.votes) == 2, B)
    assert sorted(world.woken) == [A, B]
    world.labels.look(B, URI, "ns/a", MINE)
    world.labels.look(("ns", "c"), URI, "ns/a", OTHERS)
    world.labels.look(("ns", "d"), URI, "another", None)
    assert len(world.labels._readers) == 4


async def test_a_program_is_read_for_with_its_own_credentials_alone(world):
    world.traces = [trace("t", label())]
    async with asyncio.timeout(20):
        while world.look(A, MINE) is None:
            await asyncio.sleep(0)
    assert {r.headers["authorization"] for r in world.requests} == {"Bearer mine-hunter2"}
    assert {r.method for r in world.requests} == {"GET", "POST"}


async def test_what_programs_follow_ends_with_them(world):
    await world.until(read)
    world.look(B)
    world.labels.forget(A)
    (reader,) = world.labels._readers.values()
    assert not reader.task.done()
    world.labels.forget(B)
    world.labels.forget(B)
    assert not world.labels._readers
    await asyncio.wait([reader.task], timeout=10)
    assert reader.task.cancelled()


async def test_a_program_that_names_something_else_follows_the_first_no_more(world):
    await world.until(read)
    world.labels.look(A, URI, "another", None)
    assert [experiment.name for experiment in world.labels._readers] == ["another"]


async def test_a_server_that_is_silent_when_it_is_to_count_is_asked_for_no_pages(world):
    world.instead["metrics"] = fails
    await world.until(lambda view: bool(view.problem))
    assert world.asked("search") == 0


async def test_a_reader_that_ended_begins_anew(world):
    await world.until(read)
    (reader,) = world.labels._readers.values()
    reader.task.cancel()
    await asyncio.wait([reader.task])
    world.traces = [trace("t", label())]
    await world.until(lambda view: len(view.votes) == 1)


PERIODS = [(0, 60), (1, 120), (2, 240), (3, 300), (5000, 300)]


@pytest.mark.parametrize(("failures", "seconds"), PERIODS)
def test_a_server_that_fails_is_asked_less_often(failures, seconds):
    assert _Reader(failures=failures).period == seconds


async def test_servers_that_do_not_answer_keep_no_others_from_being_read(monkeypatch):
    monkeypatch.setattr(labels, "PERIOD_SECONDS", 0.001)
    world, silent = World(), asyncio.Event()
    world.traces = [trace("t", label())]

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host.startswith("silent"):
            await silent.wait()
        return world.handle(request)

    asking = Labels(Tracking(httpx.AsyncClient(transport=httpx.MockTransport(answer))), world.woken.append)
    for n in range(3 * labels.READERS):
        asking.look(("ns", f"silent-{n}"), f"http://silent-{n}:5000", "x", None)
    async with asyncio.timeout(20):
        while asking.look(A, URI, "ns/a", None) is None:
            await asyncio.sleep(0)
    await asking.close()
