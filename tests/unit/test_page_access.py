"""Who is let in, what they see, and what is done in whose name."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from despina.cluster.errors import Unavailable
from despina.cluster.reviews import Person, may, person_of
from despina.dashboard.access import (
    COOKIE,
    IDLE_SECONDS,
    MOST_KNOWN,
    MOST_WAITING,
    SESSION_SECONDS,
    SESSIONS_OF_ONE,
    Busy,
    Door,
    Sessions,
    Viewer,
    is_same_origin,
    is_token,
)
from despina.dashboard.app import FIRST_PIECES, PIECES, POLICY, Site, _in_pieces
from despina.dashboard.pages import local
from despina.dashboard.run import served
from despina.dashboard.stream import Stream
from despina.dashboard.world import World
from despina.settings import DashboardSettings
from services import free_port
from tests.support.page import NOW, a_candidate, a_manifest, figures
from tests.support.page_site import ADMIN, LOOKER, PEOPLE, STRANGER, FakeApi, a_reader


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def api():
    return FakeApi()


async def seen(door, **headers):
    return await door.viewer({name.replace("_", "-"): value for name, value in headers.items()}, "")


async def test_a_token_is_reviewed_once_in_half_a_minute(api, clock):
    door = Door(api, clock)
    for _ in range(5):
        assert (await seen(door, Authorization=f"Bearer {ADMIN}")).person.name == "ada"
    assert api.asked == 1
    clock.now += 31
    await seen(door, Authorization=f"bearer {ADMIN}")
    assert api.asked == 2


async def test_a_right_that_was_taken_is_gone_within_half_a_minute(api, clock):
    door = Door(api, clock)
    viewer = await door.holder(LOOKER)
    assert await door.seen(viewer, ["team-b", "team-a"]) == ["team-a"]
    api.rights["lou"] = set()
    assert await door.seen(viewer, ["team-a"]) == ["team-a"]
    clock.now += 31
    assert await door.seen(viewer, ["team-a"]) == []


STRANGERS = {
    "nothing": {},
    "a token that nobody knows": {"Authorization": "Bearer nope"},
    "another scheme": {"Authorization": f"Basic {ADMIN}"},
    "a header of a proxy that nobody knows": {"X_Forwarded_User": "ada"},
    "its secret wrong": {"X_Forwarded_User": "ada", "X_Despina_Proxy_Secret": "guess"},
    "its secret right and nobody named": {"X_Despina_Proxy_Secret": "between us"},
    "a proxy that vouches for a part of the cluster": {
        "X_Despina_Proxy_Secret": "between us",
        "X_Forwarded_User": "system:admin",
    },
}


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS)
async def test_strangers(api, clock, headers):
    assert await seen(Door(api, clock, "between us"), **headers) is None


async def test_a_proxy_vouches_for_people_who_only_look(api, clock):
    door = Door(api, clock, "between us")
    headers = {
        "X_Forwarded_User": "ada",
        "X_Forwarded_Groups": "a, system:masters",
        "X_Despina_Proxy_Secret": "between us",
    }
    viewer = await seen(door, **headers)
    assert viewer.person == Person("ada", ("a", "system:authenticated"))
    assert await door.seen(viewer, ["team-a", "team-z"]) == ["team-a"]
    assert not await door.acts(viewer, "team-a")


async def test_without_a_secret_no_proxy_is_believed(api, clock):
    assert await seen(Door(api, clock), X_Forwarded_User="ada", X_Despina_Proxy_Secret="") is None


async def test_what_is_known_of_people_ends_somewhere(api, clock):
    door = Door(api, clock)
    for number in range(MOST_KNOWN + 50):
        await door.holder(f"t{number}")
    assert len(door._refused._found) == MOST_KNOWN


async def test_strangers_push_nobody_out(api, clock):
    door = Door(api, clock)
    await door.holder(ADMIN)
    for number in range(MOST_KNOWN + 50):
        await door.holder(f"t{number}")
    before = api.asked
    assert (await door.holder(ADMIN)).person.name == "ada"
    assert api.asked == before


async def test_what_is_known_of_rights_has_room_for_a_person_in_many_namespaces(api, clock):
    door = Door(api, clock)
    viewer = await door.holder(ADMIN)
    names = [f"ns{number}" for number in range(MOST_KNOWN + 50)]
    await door.seen(viewer, names)
    before = api.asked
    await door.seen(viewer, names)
    assert api.asked == before


class SlowForStrangers(FakeApi):
    """Says nothing of tokens that are nobody's, as long as a test lasts."""

    async def person_of(self, token):
        if token not in PEOPLE:
            await asyncio.Event().wait()
        return await super().person_of(token)


async def test_who_is_known_does_not_wait_behind_strangers(clock):
    door = Door(SlowForStrangers(), clock)
    viewer = await door.holder(ADMIN)
    waiting = [asyncio.create_task(door.holder(f"t{number}")) for number in range(MOST_WAITING)]
    while door._waiting < MOST_WAITING:
        await asyncio.sleep(0)
    clock.now += 31
    async with asyncio.timeout(20):
        assert (await door.holder(ADMIN)).person.name == "ada"
        assert await door.may(viewer, "get", "team-a")
        with pytest.raises(Busy):
            await door.holder(LOOKER)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (await door.holder(LOOKER)).person.name == "lou"


async def test_whose_token_is_no_good_any_more_is_nobody(api, clock, monkeypatch):
    door = Door(api, clock)
    await door.holder(ADMIN)
    monkeypatch.delitem(PEOPLE, ADMIN)
    clock.now += 31
    assert [await door.holder(ADMIN), await door.holder(ADMIN)] == [None, None]
    assert api.asked == 2


def test_one_person_signs_nobody_else_out(clock):
    sessions = Sessions(clock)
    lous, adas = sessions.begin("l", "lou"), [sessions.begin("t", "ada") for _ in range(3000)]
    assert sessions.token(lous) == "l"
    assert [word for word in adas if sessions.token(word)] == adas[-SESSIONS_OF_ONE:]


def test_sessions_end_by_themselves_and_when_told(clock):
    sessions = Sessions(clock)
    word = sessions.begin("t", "ada")
    assert (sessions.token(word), sessions.token("guess"), sessions.token("")) == ("t", "", "")
    for _ in range(int(SESSION_SECONDS / (IDLE_SECONDS - 1))):
        clock.now += IDLE_SECONDS - 1
        assert sessions.token(word) == "t"
    clock.now += IDLE_SECONDS - 1  # in use all the time, and too long
    assert sessions.token(word) == ""
    word = sessions.begin("t", "ada")
    clock.now += IDLE_SECONDS + 1
    assert sessions.token(word) == ""
    word = sessions.begin("t", "ada")
    sessions.end(word)
    assert sessions.token(word) == ""


TOKENS = {"abc.def-_": True, "": False, "a b": False, "a\nb": False, "ü": False, "x" * 20_000: False}


@pytest.mark.parametrize(("text", "good"), TOKENS.items(), ids=["one", "none", "space", "line", "letter", "long"])
def test_what_can_be_a_token(text, good):
    assert is_token(text) is good


ORIGINS = {
    "our own page": ({"Origin": "https://h:1"}, True, True),
    "another page": ({"Origin": "https://evil"}, True, False),
    "another port": ({"Origin": "https://h:2"}, True, False),
    "a page of nowhere": ({"Origin": "null"}, True, False),
    "another page, without a cookie": ({"Origin": "https://evil"}, False, False),
    "no browser, with a cookie": ({}, True, False),
    "no browser, no cookie": ({}, False, True),
}


@pytest.mark.parametrize(("headers", "has_cookie", "good"), ORIGINS.values(), ids=ORIGINS)
def test_whose_forms_are_obeyed(headers, has_cookie, good):
    assert is_same_origin(headers, "h:1", has_cookie) is good


PATHS = {
    "/p/a/b?x=1": "/p/a/b?x=1",
    "//evil": "/",
    "https://evil": "/",
    "/\\evil": "/",
    None: "/",
    "": "/",
    "/login": "/",
    "/a\r\nb": "/",
}


@pytest.mark.parametrize(("path", "found"), PATHS.items(), ids=repr)
def test_the_form_leads_nowhere_else(path, found):
    assert local(path) == found


class Reviewing:
    """An API server's answers to reviews."""

    def __init__(self, status) -> None:
        self.status, self.sent = status, []

    async def post(self, path, document):
        self.sent.append((path.rsplit("/", 1)[1], document["spec"]))
        return {"status": self.status}


USER = {"username": "ada", "uid": "1", "groups": ["g", 5], "extra": {"a": ["b"]}}
REVIEWED = {
    "known": ({"authenticated": True, "user": USER}, Person("ada", ("g",), "1", {"a": ["b"]})),
    "unknown": ({"authenticated": False, "user": USER}, None),
    "without a name": ({"authenticated": True, "user": {}}, None),
    "nothing": (None, None),
}


@pytest.mark.parametrize(("status", "person"), REVIEWED.values(), ids=REVIEWED)
async def test_a_token_review(status, person):
    assert await person_of(Reviewing(status), "t") == person


@pytest.mark.parametrize(
    ("status", "allowed"), [({"allowed": True}, True), ({"allowed": "yes"}, False), ({}, False), (None, False)]
)
async def test_an_access_review(status, allowed):
    cluster = Reviewing(status)
    assert await may(cluster, Person("ada", ("g",), "1", {"a": ["b"]}), "patch", "ns") is allowed
    ((kind, spec),) = cluster.sent
    assert kind == "subjectaccessreviews"
    assert spec["resourceAttributes"] == {
        "group": "despina.dev",
        "resource": "dspyprograms",
        "verb": "patch",
        "namespace": "ns",
    }
    assert (spec["user"], spec["groups"], spec["uid"], spec["extra"]) == ("ada", ["g"], "1", {"a": ["b"]})


@pytest.fixture
async def client(api, clock):
    """A page with one program in each of two namespaces."""
    world = World(lambda: NOW)
    for name, namespace in (("qa", "team-a"), ("other", "team-z")):
        world.set_program(a_manifest(name, namespace, **a_candidate("AwaitPromotion")))
        world.heard((namespace, name), f"uid-{name}", {"p": figures()})
    site = Site(world, Door(api, clock, "between us"), api, a_reader(api))
    async with TestClient(TestServer(site.app())) as made:
        made.site = site
        yield made


def bearing(token, **more):
    return {"Authorization": f"Bearer {token}", **more}


async def test_every_answer_has_the_policy(client):
    for path in ("/", "/login", "/nowhere", "/healthz", "/static/x/y", "/p/team-a/qa", "/events"):
        answer = await client.get(path)
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_what_every_page_looks_like_stands_in_it_and_nothing_else_may(client):
    """So that a browser draws at once, and whoever gets words of theirs into a page changes nothing of how it looks."""
    for path in ("/", "/login", "/p/team-a/qa"):
        page = await (await client.get(path, headers=bearing(ADMIN))).text()
        (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        found = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'self' 'sha256-{found}';" in POLICY
        assert path == "/p/team-a/qa" or 'rel="stylesheet"' not in page
    assert "unsafe" not in POLICY


async def test_the_head_of_the_list_is_sent_before_its_rows_are_made(client, monkeypatch):
    world, written, before = client.site.world, [], []
    write, rows = web.StreamResponse.write, world.rows

    async def noted(response, data):
        written.append(data)
        await write(response, data)

    monkeypatch.setattr(web.StreamResponse, "write", noted)
    monkeypatch.setattr(world, "rows", lambda names: before.append(b"".join(written)) or rows(names))
    answer = await client.get("/", headers=bearing(ADMIN, **{"Accept-Encoding": "identity"}))
    assert await answer.read() == b"".join(written)
    (sent,) = before
    assert b"</style>" in sent
    assert b">Despina</a>" in sent


@pytest.mark.parametrize("parts", [0, 1, FIRST_PIECES, FIRST_PIECES + 1, 20 * PIECES])
def test_a_page_is_sent_in_pieces_that_grow(parts):
    said = [str(number) if number % 3 else "" for number in range(parts)]
    pieces = list(_in_pieces(iter(said)))
    assert "".join(pieces) == "".join(said)
    assert len(pieces) <= parts / PIECES + 8
    assert pieces[:1] == (["".join(said[:FIRST_PIECES])] if parts else [])


GUARDED = [
    ("GET", "/"),
    ("GET", "/p/team-a/qa"),
    ("GET", "/events"),
    ("POST", "/view"),
    ("POST", "/p/team-a/qa/act"),
    ("POST", "/logout"),
    ("GET", "/x"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_nobody_unknown_gets_further_than_the_form(client, method, path):
    answer = await client.request(method, path, headers={"Accept": "text/html"})
    assert answer.status == 401
    assert "qa" not in (await answer.text()).replace("/p/team-a/qa", "")


@pytest.mark.parametrize("asked", ["person_of", "may"])
async def test_an_api_server_that_hangs_lets_no_page_say_that_it_is_live(client, api, clock, monkeypatch, asked):
    monkeypatch.setattr("despina.dashboard.access.REVIEW_SECONDS", 0.05)
    stream = await client.get("/events?namespace=team-a&name=qa", headers=bearing(LOOKER))
    assert stream.status == 200
    monkeypatch.setattr(api, asked, lambda *_: asyncio.Event().wait())
    clock.now += 31
    async with asyncio.timeout(20):
        await stream.read()
        assert (await client.get("/p/team-a/qa", headers=bearing(LOOKER))).status == 503
    monkeypatch.undo()
    assert (await client.get("/p/team-a/qa", headers=bearing(LOOKER))).status == 200


@pytest.mark.parametrize("path", ["/p/team-z/other", "/p/team-a/none", "/events?namespace=team-z&name=other"])
async def test_what_they_may_not_see_is_not_there(client, path):
    answer = await client.get(path, headers=bearing(ADMIN))
    assert answer.status == 404


async def test_who_sees_nothing_holds_no_stream(client):
    async with asyncio.timeout(20):
        assert (await client.get("/events", headers=bearing(STRANGER))).status == 403
        answer = await client.get("/events", headers=bearing(LOOKER))
        assert answer.status == 200
    answer.close()


ACTS = {
    "with the right": (ADMIN, "promote", "rev8", 303, 1),
    "without": (LOOKER, "promote", "rev8", 403, 0),
    "who may not even look": (STRANGER, "promote", "rev8", 404, 0),
    "a candidate that is none any more": (ADMIN, "promote", "rev5", 409, 0),
    "nothing that there is": (ADMIN, "delete", "", 409, 0),
}


@pytest.mark.parametrize(("token", "act", "subject", "status", "count"), ACTS.values(), ids=ACTS)
async def test_acts(client, api, token, act, subject, status, count):
    sent = {"act": act, "subject": subject}
    answer = await client.post("/p/team-a/qa/act", data=sent, headers=bearing(token), allow_redirects=False)
    assert (answer.status, len(api.patches)) == (status, count)
    if count:
        assert api.patches == [
            (token, ("team-a", "qa"), {"metadata": {"annotations": {"despina.dev/promote": "rev8"}}})
        ]


async def test_a_word_that_was_acted_on_is_taken_away_before_it_is_set_again(api, clock, monkeypatch):
    monkeypatch.setattr("despina.dashboard.app.AGAIN_SECONDS", 0.0)
    manifest = a_manifest(**a_candidate("AwaitPromotion"))
    manifest["metadata"]["annotations"] = {"despina.dev/promote": "rev8"}
    world = World(lambda: NOW)
    world.set_program(manifest)
    async with TestClient(TestServer(Site(world, Door(api, clock), api, a_reader(api)).app())) as client:
        sent = {"act": "promote", "subject": "rev8"}
        await client.post("/p/team-a/qa/act", data=sent, headers=bearing(ADMIN), allow_redirects=False)
    noted = [body["metadata"]["annotations"]["despina.dev/promote"] for _, _, body in api.patches]
    assert noted == [None, "rev8"]


async def test_a_proxys_people_have_no_buttons(client, api):
    headers = {"X-Forwarded-User": "ada", "X-Despina-Proxy-Secret": "between us"}
    page = await (await client.get("/p/team-a/qa", headers=headers)).text()
    assert "Versions side by side" in page
    assert "/act" not in page
    sent = {"act": "promote", "subject": "rev8"}
    assert (await client.post("/p/team-a/qa/act", data=sent, headers=headers)).status == 403
    assert api.patches == []


async def test_another_pages_form_is_refused(client, api):
    for headers in ({"Origin": "https://evil"}, {"Origin": "null"}, {"Cookie": f"{COOKIE}=x"}):
        answer = await client.post("/p/team-a/qa/act", data={"act": "restart"}, headers=bearing(ADMIN, **headers))
        assert answer.status == 403
    assert api.patches == []


async def test_an_api_server_that_is_silent_lets_nobody_in(client, api):
    api.error = Unavailable("GET /secret: no")
    answer = await client.get("/", headers=bearing(ADMIN))
    assert answer.status == 503
    assert "secret" not in await answer.text()


@pytest.mark.parametrize("body", ["", "[", "[" * 50_000, "1", '{"stream": 1, "keys": {}}'])
async def test_what_a_page_sends_is_read_with_care(client, body):
    answer = await client.post("/view", data=body, headers=bearing(ADMIN))
    assert answer.status in (400, 410)


NO_FORMS = {
    "no boundary": (b"x", "multipart/form-data"),
    "a part without a name": (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
    "an odd header": (b"--b\r\nContent-Disposition\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
    "an odd packing": (
        b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: x\r\n\r\nx\r\n--b--\r\n',
        "multipart/form-data; boundary=b",
    ),
    "another boundary": (b"--c\r\n\r\nx\r\n--c--\r\n", "multipart/form-data; boundary=b"),
    "a part that goes on": (b"--b\r\n\r\nx", "multipart/form-data; boundary=b"),
    "no such charset": (b"token=%ff", "application/x-www-form-urlencoded; charset=nope"),
    "not of that charset": (b"token=\xff", "application/x-www-form-urlencoded; charset=utf-8"),
    "no text of that charset": (b"token=x", "application/x-www-form-urlencoded; charset=base64"),
}


@pytest.mark.parametrize(("body", "kind"), NO_FORMS.values(), ids=NO_FORMS)
async def test_what_is_no_form_is_nobodys_error_but_the_senders(client, caplog, body, kind):
    for path in ("/login", "/view", "/p/team-a/qa/act"):
        answer = await client.post(path, data=body, headers=bearing(ADMIN, **{"Content-Type": kind}))
        assert answer.status in (400, 415) if path != "/view" else (400, 410)
    assert caplog.records == []


async def test_what_is_no_http_leaves_no_trace_in_the_log(api, clock, caplog, monkeypatch):
    monkeypatch.setenv("DESPINA_DASHBOARD_PORT", str(free_port()))
    settings = DashboardSettings()
    async with served(Site(World(lambda: NOW), Door(api, clock), api, a_reader(api)), settings, True, None):
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        writer.write(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        async with asyncio.timeout(20):
            assert b" 400 " in await reader.readline()
        writer.close()
    assert [record for record in caplog.records if record.name == "aiohttp.server"] == []


async def test_what_they_may_not_see_is_not_asked_more_often_for_them(api, clock):
    world = World(lambda: NOW)
    for name, namespace in (("qa", "team-a"), ("other", "team-z")):
        world.set_program(a_manifest(name, namespace))
    site, stream = Site(world, Door(api, clock), api, a_reader(api)), Stream("ada")
    site.streams.begin(stream)
    async with TestClient(TestServer(site.app())) as client:
        sent = {"stream": stream.word, "keys": ["team-a/qa", "team-z/other", "nowhere/none"]}
        assert (await client.post("/view", json=sent, headers=bearing(ADMIN))).status == 204
    assert site.streams.watched().rows == {("team-a", "qa")}


async def test_too_much_is_not_read(client):
    assert (await client.post("/login", data={"token": "x" * 200_000})).status == 413


async def test_the_list_is_the_persons_own(client):
    text = await (await client.get("/?q=%3Cscript%3E", headers=bearing(ADMIN))).text()
    assert "<script>" not in text
    text = await (await client.get("/", headers=bearing(LOOKER))).text()
    assert "team-a" in text
    assert "team-z" not in text


async def test_an_open_page_answers_to_this_machine_alone(api, clock):
    world = World(lambda: NOW)
    world.set_program(a_manifest())
    site = Site(world, Door(api, clock, is_open=True), api, a_reader(api), is_local=True)
    async with TestClient(TestServer(site.app())) as client:
        assert (await client.get("/")).status == 200
        assert (await client.get("/", headers={"Host": "evil.example:80"})).status == 421
        evil = {"Origin": "http://evil.example"}
        assert (
            await client.post("/p/team-a/qa/act", data={"act": "restart", "subject": ""}, headers=evil)
        ).status == 403
        answer = await client.post("/p/team-a/qa/act", data={"act": "restart", "subject": ""}, allow_redirects=False)
        assert answer.status == 303
    assert [(token, key) for token, key, _ in api.patches] == [("", ("team-a", "qa"))]


def test_a_viewer_without_a_token_acts_only_here():
    assert not Viewer(Person("a")).can_act
    assert Viewer(Person("a"), is_local=True).can_act
