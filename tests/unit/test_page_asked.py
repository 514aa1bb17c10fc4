"""Who asks a version by hand from the page, how often, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from despina.cluster.reviews import Person
from despina.dashboard.access import Door, Viewer
from despina.dashboard.app import Site
from despina.dashboard.ask import MOST_OF_ONE, Seats
from despina.dashboard.world import World
from despina.sources.asking import NotAsked, Unanswered
from despina.wire import Answered, PodState, Prompt, Prompts, Trace, TraceSpan
from despina.wire.predictions import unsigned
from tests.support.page import HOSTILE, NOW, a_candidate, a_manifest, a_pod, figures
from tests.support.page_site import ADMIN, LOOKER, FakeApi, FakeHand, a_reader
from tests.support.page_traces import FakeHolders, a_name

ASK, QUESTION = "/p/team-a/qa/ask", {"revision": "rev8", "f0": "why?"}
NAME = a_name()
TRACE = f"/p/team-a/qa/traces/{unsigned(NAME)}"
REPLAY = f"{TRACE}/replay"
PREVIOUS = {"revision": "rev6", "version": "6", "deployment": "qa-rev6"}
GOOD = Answered(status=200, said='{"answer": "since"}', id=a_name(2), version="8", seconds=0.5)


def interface(**fields) -> bytes:
    inputs = {"type": "object", "required": ["q"], "properties": {"q": {"type": "string"}} | fields}
    return json.dumps({"inputs": inputs, "outputs": {"properties": {"answer": {"type": "string"}}}}).encode()


@pytest.fixture
def api():
    return FakeApi()


@pytest.fixture
def hand():
    found = FakeHand("rev6", "rev7", "rev8")
    found.interfaces = {
        "rev6": interface(),
        "rev7": interface(),
        "rev8": interface(n={"type": "integer", "maximum": 3}),
    }
    found.answers = [GOOD]
    return found


@pytest.fixture
def holders():
    found = FakeHolders()
    root = TraceSpan(id="a" * 16, inputs='{"q": "why"}', outputs='{"answer": "because"}')
    found.held["qa-1"] = [Trace(id=NAME, version="7", status=200, spans=(root,))]
    return found


@pytest.fixture
async def client(api, hand, holders):
    world = World(lambda: NOW)
    world.set_program(a_manifest("qa", previous=PREVIOUS, **a_candidate("Gate")))
    world.set_pod(a_pod())
    site = Site(world, Door(api, lambda: 0.0), api, a_reader(api, holders), pods=hand)
    async with TestClient(TestServer(site.app())) as found:
        found.site = site
        yield found


def bearing(token=ADMIN):
    return {"Authorization": f"Bearer {token}"}


async def text(answer) -> str:
    return (await answer.read()).decode()


async def test_any_version_that_pods_hold_is_there_to_be_asked(client, hand):
    page = await text(await client.get(ASK, headers=bearing()))
    assert page.index("Active v7") < page.index("Candidate v8") < page.index("Previous v6")
    assert 'name="f0"' in page
    assert 'name="f1"' not in page
    other = await text(await client.get(f"{ASK}?revision=rev8", headers=bearing()))
    assert "whole number; at most 3; may be left out" in other
    hand.holds = FakeHand("rev8").holds
    alone = await text(await client.get(ASK, headers=bearing()))
    assert "Active v7" not in alone
    hand.holds = None
    assert "No pod says that it holds a version ready" in await text(await client.get(ASK, headers=bearing()))


async def test_a_programs_page_tells_what_is_counted_when_it_is_sent(client, api, monkeypatch):
    """However long the API server takes to say who may ask."""
    world, may, counted = client.site.world, api.may, itertools.count(700, 13)

    async def slowly(person, verb, namespace):
        world.heard(("team-a", "qa"), "uid-qa", {"qa-1": figures(next(counted), 0)})
        return await may(person, verb, namespace)

    monkeypatch.setattr(api, "may", slowly)
    page = await text(await client.get("/p/team-a/qa", headers=bearing()))
    assert f'<th scope="row">Requests</th><td>{next(counted) - 13}</td>' in page


async def test_a_question_is_answered_with_its_trace(client, hand):
    answer = await client.post(ASK, data=QUESTION | {"f1": "2"}, headers=bearing())
    page = await text(answer)
    assert answer.status == 200
    ((place, revision, inputs, seconds),) = hand.asked
    assert (place.pod, revision, json.loads(inputs), seconds) == ("qa-1", "rev8", {"q": "why?", "n": 2}, 70.0)
    assert "since" in page
    assert f'/p/team-a/qa/traces/{unsigned(a_name(2))}"' in page
    assert "why?" in page, "what was asked can be asked again"


async def test_what_is_wrong_is_not_asked_and_what_the_program_refuses_stands_beside_its_field(client, hand):
    page = await text(await client.post(ASK, data=QUESTION | {"f1": "two"}, headers=bearing()))
    assert "A whole number is asked for." in page
    assert hand.asked == []
    said = {"title": "The input does not fit", "errors": [{"field": "n", "message": "at most 3, please"}]}
    hand.answers = [Answered(status=422, said=json.dumps(said))]
    page = await text(await client.post(ASK, data=QUESTION | {"f1": "9"}, headers=bearing()))
    assert 'id="i-f1-error"' in page
    assert "at most 3, please" in page


ROADS = [("get", ASK, None), ("post", ASK, QUESTION), ("post", REPLAY, {"revision": "rev8"})]


@pytest.mark.parametrize(("method", "path", "data"), ROADS)
async def test_without_the_verb_nobody_asks(client, hand, method, path, data):
    answer = await client.request(method, path, data=data, headers=bearing(LOOKER))
    assert (answer.status, hand.asked) == (403, [])
    assert (await client.request(method, path.replace("qa", "none"), data=data, headers=bearing())).status == 404


async def test_a_replay_needs_the_right_to_payloads_too(client, api, hand):
    api.rights["lou"] |= {("ask", "team-a")}
    assert (await client.post(ASK, data=QUESTION, headers=bearing(LOOKER))).status == 200
    assert (await client.post(REPLAY, data={"revision": "rev8"}, headers=bearing(LOOKER))).status == 403
    page = await text(await client.get("/p/team-a/qa", headers=bearing(LOOKER)))
    assert 'id="ask"' in page


async def test_another_pages_form_asks_nothing(client, hand):
    headers = bearing() | {"Origin": "https://elsewhere"}
    for _, path, data in ROADS[1:]:
        assert (await client.post(path, data=data, headers=headers)).status == 403
    assert hand.asked == []


async def test_one_question_at_a_time(client, api, hand):
    hand.free.clear()
    first = asyncio.create_task(client.post(ASK, data=QUESTION, headers=bearing()))
    async with asyncio.timeout(10):
        while not hand.asked:
            await asyncio.sleep(0.01)
    assert (await client.post(ASK, data=QUESTION, headers=bearing())).status == 429
    client.site.asking._seats._most = 1
    api.rights["lou"] |= {("ask", "team-a")}
    assert (await client.post(ASK, data=QUESTION, headers=bearing(LOOKER))).status == 503
    hand.free.set()
    assert (await first).status == 200
    assert (await client.post(ASK, data=QUESTION, headers=bearing())).status == 200


async def test_a_seat_is_given_back_whatever_happens(client, hand):
    hand.answers = [RuntimeError("no"), GOOD]
    assert (await client.post(ASK, data=QUESTION, headers=bearing())).status == 500
    assert (await client.post(ASK, data=QUESTION, headers=bearing())).status == 200
    assert client.site.asking._seats._taken == {}


def test_pods_of_one_namespace_that_let_people_wait_take_not_all_seats():
    seats = Seats()

    def sits(name, namespace):
        return seats.taken(Viewer(Person(name, ())), namespace)

    with contextlib.ExitStack() as stack:
        for number in range(MOST_OF_ONE):
            stack.enter_context(sits(f"theirs-{number}", "team-a"))
        with pytest.raises(web.HTTPServiceUnavailable):
            stack.enter_context(sits("another", "team-a"))
        with sits("another", "team-b"):
            pass


async def test_however_many_pods_let_a_question_wait_it_is_one_time_in_all(client, hand, monkeypatch):
    monkeypatch.setattr("despina.dashboard.ask._seconds", lambda _: 1.0)
    for number in (2, 3):
        client.site.world.set_pod(a_pod(f"qa-{number}", ip=f"10.0.0.{number}"))

    async def ask(place, revision, inputs, seconds):
        hand.asked.append(place)
        await asyncio.sleep(seconds * 0.6)
        raise NotAsked("busy")

    hand.ask = ask
    assert "it may have worked on the question" in await text(await client.post(ASK, data=QUESTION, headers=bearing()))
    assert len(hand.asked) == 2


async def test_a_pod_that_takes_no_question_is_passed_by_and_one_that_may_have_is_not(client, hand):
    client.site.world.set_pod(a_pod("qa-2", ip="10.0.0.2"))
    hand.answers = [NotAsked("busy"), GOOD]
    assert "since" in await text(await client.post(ASK, data=QUESTION, headers=bearing()))
    assert {place.pod for place, *_ in hand.asked} == {"qa-1", "qa-2"}
    hand.asked.clear()
    hand.answers = [Unanswered("lost"), GOOD]
    assert "No answer: lost." in await text(await client.post(ASK, data=QUESTION, headers=bearing()))
    assert len(hand.asked) == 1


async def test_pods_are_asked_once_for_all_who_open_a_form_at_the_same_time(client, hand):
    held, known, looks = client.site.asking.held, client.site.world.programs["team-a", "qa"], []

    async def state(place):
        looks.append(place)
        return hand.holds

    hand.state = state
    first = asyncio.create_task(held.versions(known))
    await asyncio.sleep(0)
    first.cancel()  # whoever began it may be gone
    found = await asyncio.gather(*(held.versions(known) for _ in range(20)))
    assert all(one == found[0] and len(one) == 3 for one in found)
    assert len(looks) == 1
    assert await held.versions(known) == found[0]
    assert len(looks) == 2, "it is not remembered"


async def test_a_version_that_is_gone_is_not_asked(client, hand):
    hand.holds = PodState()
    assert (await client.post(ASK, data=QUESTION, headers=bearing())).status == 409


BODIES = {
    "parts": ({"headers": {"Content-Type": "multipart/form-data; boundary=x"}, "data": b"--x--"}, 415),
    "no text": ({"data": b"f0=%ff", "headers": {"Content-Type": "application/x-www-form-urlencoded; charset=no"}}, 400),
    "too much": ({"data": b"f0=" + b"x" * 2**20}, 413),
    "names without end": ({"data": b"a&" * 2**18}, 400),
}


@pytest.mark.parametrize(("sent", "status"), BODIES.values(), ids=BODIES)
async def test_what_is_sent_is_read_with_care(client, hand, sent, status):
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    headers = bearing() | kind | sent.get("headers", {})
    assert (await client.post(ASK, data=sent["data"], headers=headers)).status == status
    assert hand.asked == []


async def test_no_word_of_a_question_is_in_the_log(client, hand, caplog):
    caplog.set_level("DEBUG")
    await client.post(ASK, data=QUESTION | {"f0": "my very own words"}, headers=bearing())
    assert "Asked by hand program=team-a/qa revision=rev8 status=200 person=ada" in caplog.text
    assert "very own" not in caplog.text


async def test_a_replay_shows_both_answers(client, hand, holders):
    page = await text(await client.post(REPLAY, data={"revision": "rev8"}, headers=bearing()))
    assert json.loads(hand.asked[0][2]) == {"q": "why"}
    assert "<del>because</del>" in page
    assert "<ins>since</ins>" in page
    assert "1 of 1 outputs differ" in page
    gone = REPLAY.replace(unsigned(NAME), unsigned(a_name(9)))
    assert (await client.post(gone, data={"revision": "rev8"}, headers=bearing())).status == 404
    holders.held["qa-1"] = [Trace(id=NAME)]
    page = await text(await client.post(REPLAY, data={"revision": "rev8"}, headers=bearing()))
    assert "holds no inputs" in page
    assert len(hand.asked) == 1


async def test_who_may_ask_and_not_label_is_shown_no_name_that_labels(client, api):
    api.rights["lou"] |= {("ask", "team-a"), ("payloads", "team-a")}
    for path, data in ((REPLAY, {"revision": "rev8"}), (ASK, QUESTION)):
        page = await text(await client.post(path, data=data, headers=bearing(LOOKER)))
        assert unsigned(a_name(2)) in page
        assert NAME not in page
        assert a_name(2) not in page


async def test_a_trace_that_silent_pods_may_hold_is_not_said_to_be_gone(client, holders, hand):
    holders.held["qa-1"] = None
    answer = await client.post(REPLAY, data={"revision": "rev8"}, headers=bearing())
    assert (answer.status, hand.asked) == (503, [])


async def test_the_traces_page_offers_the_versions_that_are_held(client, api):
    page = await text(await client.get(TRACE, headers=bearing()))
    assert f'action="{REPLAY}"' in page
    assert page.index("Active v7") < page.index("Candidate v8")
    assert REPLAY not in await text(await client.get(TRACE, headers=bearing(LOOKER)))


async def until_learned(client, revision="rev8"):
    held = client.site.asking.held
    async with asyncio.timeout(10):
        while ("uid-qa", revision) not in held._told or held._learning:
            await asyncio.sleep(0.01)


async def test_what_differs_stands_on_the_programs_page_when_pods_have_told_it(client, api, hand):
    demo = Prompt(path="classify", lm="main", instructions="Be nice", demos=('{"q": "my own words"}',), demo_count=1)
    hand.prompted = {"rev7": Prompts(modules=(Prompt(path="classify", lm="main"),)), "rev8": Prompts(modules=(demo,))}
    known = client.site.world.programs["team-a", "qa"]
    before = known.changes
    first = await text(await client.get("/p/team-a/qa", headers=bearing()))
    assert "no pod has told of both versions yet" in first
    await until_learned(client)
    await until_learned(client, "rev6")
    assert known.changes > before, "open pages are made anew"
    page = await text(await client.get("/p/team-a/qa", headers=bearing()))
    assert page.index("Active v7 → Candidate v8") < page.index("Previous v6 → Active v7")
    assert "input n" in page
    assert "my own words" in page
    assert "Schema: callers give and get the same." in page
    theirs = await text(await client.get("/p/team-a/qa", headers=bearing(LOOKER)))
    assert "my own words" not in theirs
    assert "Be nice" not in theirs
    assert "shows them" in theirs
    assert 'id="ask"' not in theirs


@pytest.mark.parametrize("word", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_words_of_pods_are_bounded_and_escaped(client, hand, word):
    said = word.encode(errors="replace").decode()
    hand.interfaces["rev8"] = json.dumps(
        {"inputs": {"properties": {said: {"type": "string", "description": said, "default": said, "title": said}}},
         "instructions": said}
    ).encode()  # fmt: skip
    hand.prompted["rev8"] = Prompts(modules=(Prompt(path=said, lm=said, instructions=said, demos=(said,)),))
    hand.answers = [Answered(status=200, said=json.dumps({word: word}), version=said, id=said[:50], cost_usd=said)]
    await client.get("/p/team-a/qa", headers=bearing())
    await until_learned(client)
    pages = [
        await client.get("/p/team-a/qa", headers=bearing()),
        await client.get(f"{ASK}?revision=rev8", headers=bearing()),
        await client.post(ASK, data=QUESTION, headers=bearing()),
        await client.post(REPLAY, data={"revision": "rev8"}, headers=bearing()),
    ]
    for page in pages:
        found = re.sub("<textarea.*?</textarea>", "", await text(page), flags=re.DOTALL)  # which sends back what it has
        assert page.status == 200
        assert len(found) < 200_000
        assert "<img src=x" not in found
        assert "<svg onload" not in found
        assert not set(found) & {"\x00", "\x1b", "\u202e", "\u2066"}


async def test_a_thousand_fields_are_one(client, hand):
    hand.interfaces["rev8"] = interface(**{f"x{n}": {"$ref": "#/$defs/none"} for n in range(1000)})
    page = await text(await client.get(f"{ASK}?revision=rev8", headers=bearing()))
    assert page.count("<textarea") == 1
    await client.post(ASK, data={"revision": "rev8", "all": '{"q": "why"}'}, headers=bearing())
    assert hand.asked[0][2] == '{"q": "why"}'
