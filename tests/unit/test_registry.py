"""Following aliases: one poller for all followers of a model, and what each answer of MLflow means."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from despina.api.conditions import Reason
from despina.api.credentials import Credentials
from despina.api.program import MlflowSource
from despina.sources.mlflow import Interest, Registry, _Poller
from despina.sources.tracking import Tracking
from tests.support.drip import Drip

URI = "http://mlflow:5000"
A, B = ("ns", "a"), ("ns", "b")


def source(**fields) -> MlflowSource:
    return MlflowSource.model_validate({"model": "qa", "alias": "champion"} | fields)


def model(**aliases: str) -> httpx.Response:
    entries = [{"alias": a, "version": v} for a, v in aliases.items()]
    return httpx.Response(200, json={"registered_model": {"name": "qa", "aliases": entries}})


class World:
    """A registry behind a transport that answers as told, and counts."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.woken: list[tuple[str, str]] = []
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        self.registry = Registry(Tracking(client), self.woken.append)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer(request)


def fails(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


GONE = httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
ANSWERS = {
    "an alias": (lambda r: model(champion="3"), {}, "3", Reason.MODEL_FOUND),
    "another alias only": (lambda r: model(other="3"), {}, None, Reason.ALIAS_NOT_FOUND),
    "no such model": (lambda r: GONE, {}, None, Reason.MODEL_NOT_FOUND),
    "no rights": (lambda r: httpx.Response(403), {}, None, Reason.REGISTRY_DENIED),
    "a server error": (lambda r: httpx.Response(500), {}, None, Reason.REGISTRY_UNREACHABLE),
    "no answer": (fails, {}, None, Reason.REGISTRY_UNREACHABLE),
    "not MLflow": (lambda r: httpx.Response(200, text="<html>"), {}, None, Reason.REGISTRY_UNREACHABLE),
    "a pinned version": (
        lambda r: model() if "registered" in r.url.path else httpx.Response(200, json={}),
        {"alias": None, "version": 7}, "7", Reason.MODEL_FOUND),
    "a pinned version that is missing": (
        lambda r: model() if "registered" in r.url.path else GONE,
        {"alias": None, "version": 7}, None, Reason.VERSION_NOT_FOUND),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_an_answer_means(case):
    answer, fields, version, reason = ANSWERS[case]
    world = World(answer)
    found = await world.registry.resolve(A, source(**fields), URI)
    assert (found.version, found.reason) == (version, reason)
    assert version or found.message
    await world.registry.close()


async def test_when_the_latest_version_was_made_is_told_with_the_aliases():
    told = {
        "aliases": [{"alias": "champion", "version": "3"}],
        "latest_versions": [{"version": 3, "creation_timestamp": 7}],
    }
    world = World(lambda _: httpx.Response(200, json={"registered_model": told}))
    found = await world.registry.resolve(A, source(), URI)
    assert (found.version, found.created, len(world.requests)) == ("3", {"3": 7}, 1)
    await world.registry.close()


LATEST = {
    "null": (None, {}),
    "no list": ({"version": "3", "creation_timestamp": 7}, {}),
    "an entry that is none": ([None, {"version": "3", "creation_timestamp": 7}], {}),
    "a version that is none": ([{"version": None}], {}),
    "a time that no clock shows": ([{"version": "3", "creation_timestamp": 10**400}], {}),
    "a time before all": ([{"version": "3", "creation_timestamp": -1}], {}),
    "more than MLflow has": ([{"version": n, "creation_timestamp": 7} for n in range(900)], dict.fromkeys(map(str, range(20)), 7)),
}  # fmt: skip


@pytest.mark.parametrize("case", LATEST)
async def test_the_latest_versions_need_not_be_readable(case):
    told, wanted = LATEST[case]
    found = {"aliases": [{"alias": "champion", "version": "3"}], "latest_versions": told, "description": "x" * 2**10}
    stamped = found | {"creation_timestamp": 1, "last_updated_timestamp": 2}
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer_with({"registered_model": stamped})))
    model = await Tracking(client).model(URI, "qa", None)
    assert (model.aliases, model.created) == ({"champion": "3"}, wanted)
    assert model.stamp.keys() == {"creation_timestamp", "last_updated_timestamp", "latest_versions"}


def answer_with(document: dict) -> httpx.Response:
    return httpx.Response(200, content=json.dumps(document))


async def test_one_tenants_silent_servers_hold_up_one_pass_and_no_more(monkeypatch):
    monkeypatch.setattr("despina.sources.mlflow.FIRST_ANSWER_SECONDS", 60.0)
    silent = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "silent":
            await silent.wait()
        return model(champion="3")

    woken = []
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    registry = Registry(Tracking(client), woken.append, most_waiting=1)
    first = asyncio.create_task(registry.resolve(A, source(), "http://silent:1"))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        others = [(("ns", str(n)), f"http://silent:{n}") for n in range(2, 10)]
        found = [(await registry.resolve(key, source(), uri)).reason for key, uri in others]
        assert set(found) == {Reason.NOT_ASKED_YET}
        silent.set()
        assert (await first).version == "3"
        while len(woken) < len(others):
            await asyncio.sleep(0)
    assert {(await registry.resolve(key, source(), uri)).version for key, uri in others} == {"3"}
    await registry.close()


async def test_without_any_server_the_message_says_where_to_name_one():
    world = World(fails)
    found = await world.registry.resolve(A, source(), None)
    assert found.reason == Reason.NO_TRACKING_URI
    assert "trackingURI" in found.message
    await world.registry.close()


# Seconds between polls that a program asks for, failures in a row, and what follows.
PERIODS = [(10, 0, 10), (10, 1, 20), (10, 2, 40), (10, 3, 60), (10, 2000, 60), (300, 0, 300), (300, 9, 300)]


@pytest.mark.parametrize(("asked", "failures", "seconds"), PERIODS)
def test_a_registry_that_is_back_is_seen_within_a_minute_unless_a_program_asks_for_less(asked, failures, seconds):
    follows = {A: Interest(source(pollPeriodSeconds=asked))}
    assert _Poller(followers=follows, failures=failures).period == seconds


async def test_programs_of_one_model_share_a_poller_and_are_woken_together(monkeypatch):
    world = World(lambda r: model(champion="1"))
    await asyncio.gather(*(world.registry.resolve(key, source(), URI) for key in (A, B)))
    asked = len(world.requests)
    for _ in range(5):
        assert (await world.registry.resolve(A, source(), URI)).version == "1"
    assert len(world.requests) <= asked + 1
    world.answer = lambda r: model(champion="2")
    await world.registry.resolve(("ns", "c"), source(), URI)  # a newcomer makes the poller look
    async with asyncio.timeout(5):
        while not world.woken:
            await asyncio.sleep(0)
    assert set(world.woken) >= {A, B}
    await world.registry.close()


ODD = {
    "a character set that there is not": httpx.Response(404, headers={"content-type": "text/plain; charset=undefined"}, content=b"x"),
    "an answer that nests without an end": httpx.Response(200, content=b"[" * 200000),
    "a byte now and then": httpx.Response(200, stream=Drip(b" ")),
    "more than anybody reads": httpx.Response(200, stream=Drip(b" " * 2**18)),
    "two kilobytes that unpack to gigabytes": httpx.Response(
        200, headers={"content-encoding": "gzip"}, content=gzip.compress(b'{"registered_model": {"aliases": []}}')),
    "half a character": httpx.Response(200, content=b'{"registered_model": "\xc3'),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
async def test_whatever_a_server_answers_its_poller_goes_on(case, monkeypatch):
    world = World(lambda r: ODD[case])
    monkeypatch.setattr("despina.sources.tracking.ANSWER_SECONDS", 0.1)
    assert (await world.registry.resolve(A, source(), URI)).reason == Reason.REGISTRY_UNREACHABLE
    world.answer = lambda r: model(champion="2")
    await world.registry.resolve(B, source(), URI)  # a newcomer makes the poller look
    async with asyncio.timeout(5):
        while A not in world.woken:
            await asyncio.sleep(0)
    assert (await world.registry.resolve(A, source(), URI)).version == "2"
    await world.registry.close()


async def test_a_poller_that_ended_begins_anew():
    world = World(lambda r: model(champion="1"))
    await world.registry.resolve(A, source(), URI)
    (poller,) = world.registry._pollers.values()
    poller.task.cancel()
    await asyncio.wait([poller.task])
    world.answer = lambda r: model(champion="2")
    await world.registry.resolve(A, source(), URI)
    async with asyncio.timeout(5):
        while A not in world.woken:
            await asyncio.sleep(0)
    await world.registry.close()


async def test_the_last_follower_ends_the_poller():
    world = World(lambda r: model(champion="1"))
    await world.registry.resolve(A, source(), URI)
    world.registry.forget(A)
    world.registry.forget(A)
    assert not world.registry._pollers
    await world.registry.close()


async def test_a_secret_in_an_answer_does_not_reach_the_message():
    world = World(lambda r: httpx.Response(401, text=json.dumps({"token": "hunter2"})))
    found = await world.registry.resolve(A, source(), URI)
    assert "hunter2" not in found.message
    await world.registry.close()


TOKEN = Credentials(token="operators-token")
HOME = "https://mlflow.example/one"
PARTS = {
    "scheme": ("https://", "http://"),
    "user": ("", "mlflow.example@", "a:b@", "mlflow.example%40"),
    "host": (
        "mlflow.example", "MLflow.Example", "mlflow.example.", "mlflow.example.org", "a.mlflow.example", "mlflow",
        "mlflow.exampl\u0435", "mlflow.example\\.org", "mlflow.example%2eorg", "[::1]", "127.0.0.1",
    ),
    "port": ("", ":443", ":80", ":5000", ":", ":0443"),
    "path": (
        "/one", "/one/", "", "/", "/oneself", "/two", "/one/../two", "/one/%2e%2e/two", "/one/%252e%252e/two", "/one/a",
        "/one;/a", "/one?a=", "?a=/one", "#/one", "/one#", "/one/..;/two", "/One", "//one", "\\one",
    ),
}  # fmt: skip
OURS = {
    "scheme": {"https://"}, "user": {""}, "host": {"mlflow.example", "MLflow.Example"},
    "port": {"", ":443", ":", ":0443"}, "path": {"/one", "/one/", "/one/a"},
}  # fmt: skip


@settings(deadline=None)
@given(parts=st.fixed_dictionaries({name: st.sampled_from(texts) for name, texts in PARTS.items()}))
async def test_only_what_is_sent_to_the_operators_own_server_carries_its_credentials(parts):
    uri = "".join(parts[name] for name in PARTS)
    sent: list[httpx.Request] = []
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: sent.append(request) or model()))
    registry = Registry(Tracking(client, HOME, TOKEN), lambda _: None)
    await registry.resolve(A, source().model_copy(update={"tracking_uri": uri}), HOME)
    await registry.close()
    for request in sent:
        url, shows = request.url, "authorization" in request.headers
        if shows:
            assert (url.scheme, url.host, url.port or 443) == ("https", "mlflow.example", 443)
            assert request.headers["host"].split(":")[0].lower() == "mlflow.example"
            assert url.raw_path.startswith(b"/one/")
        if all(part in OURS[name] for name, part in parts.items()):
            assert shows


@settings(deadline=None)
@given(uri=st.one_of(st.text(), st.lists(st.sampled_from([p for ps in PARTS.values() for p in ps])).map("".join)))
async def test_whatever_an_address_is_its_poller_goes_on(uri):
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: model(champion="1")))
    registry = Registry(Tracking(client, HOME, TOKEN), lambda _: None)
    async with asyncio.timeout(10):
        found = await registry.resolve(A, source().model_copy(update={"tracking_uri": uri or "x"}), None)
    assert found.reason in (Reason.MODEL_FOUND, Reason.REGISTRY_UNREACHABLE)
    await registry.close()
