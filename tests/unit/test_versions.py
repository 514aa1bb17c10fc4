"""Which version a number means: when it was made belongs to what a registry is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from despina.api.conditions import Reason
from despina.api.credentials import server_of
from despina.api.program import MlflowSource
from despina.decide.versions import ref_of
from despina.sources.mlflow import Registry
from despina.sources.tracking import Tracking
from tests.support.gen import a_program, observed

URI = "http://mlflow:5000"
A, B = ("ns", "a"), ("ns", "b")


@dataclass
class Fake:
    """A registry with one model, as MLflow tells of it."""

    made: int = 1000
    updated: int = 1000
    aliases: dict[str, str] = field(default_factory=lambda: {"champion": "1"})
    versions: dict[str, int] = field(default_factory=lambda: {"1": 1001, "2": 1002, "3": 1003})
    has_times: bool = True
    broken: frozenset[str] = frozenset()
    """Versions that it fails to tell of."""
    asked: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        version = request.url.params.get("version")
        self.asked.append(version or "model")
        if version is None:
            return httpx.Response(200, json={"registered_model": self._model()})
        if version in self.broken:
            return httpx.Response(500)
        if version not in self.versions:
            return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
        return httpx.Response(200, json={"model_version": {"version": version} | self._at(self.versions[version])})

    def _model(self) -> Mapping[str, Any]:
        aliases = [{"alias": a, "version": v} for a, v in self.aliases.items()]
        return {"name": "qa", "aliases": aliases} | self._at(self.made, self.updated)

    def _at(self, made: int, updated: int = 0) -> dict[str, int]:
        return {"creation_timestamp": made, "last_updated_timestamp": updated or made} if self.has_times else {}

    def remake_version(self, version: str, at: int) -> None:
        self.versions[version] = self.updated = at

    def remake_model(self, at: int) -> None:
        self.made = self.updated = at
        self.versions = {"1": at + 1}


class World:
    """Programs that follow the fake; `poll` has it asked again."""

    def __init__(self, fake: Fake) -> None:
        self.fake, self.woken = fake, asyncio.Event()
        client = httpx.AsyncClient(transport=httpx.MockTransport(fake))
        self.registry = Registry(Tracking(client), lambda _: self.woken.set())

    async def resolve(self, key=A, others=frozenset(), uri=URI, **fields):
        source = MlflowSource.model_validate({"model": "qa", "alias": "champion"} | fields)
        return await self.registry.resolve(key, source, uri, others)

    async def poll(self) -> list[str]:
        """What is asked in one more round, by then."""
        asked = len(self.fake.asked)
        (poller,) = self.registry._pollers.values()
        before = poller.answer
        poller.new_follower.set()
        async with asyncio.timeout(5):
            while poller.answer is before:
                await asyncio.sleep(0)
        return self.fake.asked[asked:]


@pytest.fixture
async def world():
    made = World(Fake())
    yield made
    await made.registry.close()


NEEDED = {
    "the alias's": ({}, {"1": 1001}),
    "a pinned one": ({"alias": None, "version": 2}, {"2": 1002}),
    "others, such as modules'": ({"others": frozenset({"2", "3"})}, {"1": 1001, "2": 1002, "3": 1003}),
    "one that is not there": ({"others": frozenset({"7"})}, {"1": 1001}),
    "a pinned one that is not there, and another": ({"alias": None, "version": 7, "others": frozenset({"2"})}, {"2": 1002}),
    "an alias that is not there, and another": ({"alias": "none", "others": frozenset({"2"})}, {"2": 1002}),
}  # fmt: skip


@pytest.mark.parametrize("case", NEEDED)
async def test_every_version_that_matters_comes_with_when_it_was_made(world, case):
    fields, created = NEEDED[case]
    found = await world.resolve(**fields)
    assert (found.created, found.server) == (created, URI)


async def test_a_server_that_tells_no_times_is_followed_all_the_same(world):
    world.fake.has_times = False
    found = await world.resolve()
    assert (found.version, found.created) == ("1", {})


async def test_a_poll_that_finds_nothing_changed_is_one_request(world):
    await world.resolve(others=frozenset({"2", "3"}))
    assert await world.poll() == ["model"]


async def test_a_model_that_was_made_anew_is_noticed_at_the_next_poll(world):
    await world.resolve()
    world.fake.remake_model(5000)
    await world.poll()
    assert world.woken.is_set()
    found = await world.resolve()
    assert (found.version, found.created) == ("1", {"1": 5001})


async def test_a_version_that_was_made_anew_is_noticed_at_the_next_poll(world):
    await world.resolve(others=frozenset({"3"}))
    world.fake.remake_version("3", 6000)
    await world.poll()
    assert (await world.resolve(others=frozenset({"3"}))).created == {"1": 1001, "3": 6000}


async def test_a_version_that_appears_late_is_found_even_if_the_model_looks_unchanged(world):
    assert (await world.resolve(alias=None, version=9)).reason == Reason.VERSION_NOT_FOUND
    world.fake.versions["9"] = 1009
    await world.poll()
    assert (await world.resolve(alias=None, version=9)).created == {"9": 1009}


async def test_whoever_asks_for_one_more_version_waits_for_it_though_a_poll_is_under_way(world):
    await world.resolve()
    world.fake.aliases = {"champion": "2"}
    (poller,) = world.registry._pollers.values()
    poller.new_follower.set()
    await asyncio.sleep(0)  # the poll has begun, for one follower
    found = await world.resolve(B, alias=None, version=3)
    assert (found.version, found.created) == ("3", {"3": 1003})


async def test_one_version_that_fails_is_a_matter_of_those_who_need_it(world):
    """MLflow answers 500 where a number is greater than its database's integers."""
    world.fake.broken = frozenset({"99999999999999999999"})
    found = await world.resolve(B, others=world.fake.broken)
    assert (found.version, found.reason, found.created) == (None, Reason.REGISTRY_UNREACHABLE, {})
    assert (await world.resolve(A)).version == "1"
    world.fake.aliases = {"champion": "2"}
    await world.poll()
    assert (await world.resolve(A)).version == "2"


SPELLINGS = {
    "http://mlflow:5000": "http://mlflow:5000",
    "http://mlflow:5000/": "http://mlflow:5000",
    "http://MLflow:5000": "http://mlflow:5000",
    "http://mlflow:80/": "http://mlflow",
    "https://mlflow:443": "https://mlflow",
    "https://mlflow:80": "https://mlflow:80",
    "http://mlflow/One/": "http://mlflow/One",
    "http://mlflow.:5000": "http://mlflow.:5000",
    "http://[::1]:5000": "http://[::1]:5000",
    "http://mlflow:abc": "http://mlflow:abc",
}


@pytest.mark.parametrize("uri", SPELLINGS)
async def test_one_server_has_one_spelling(world, uri):
    server = SPELLINGS[uri]
    assert server_of(uri) == server_of(server) == server
    assert (await world.resolve(uri=uri)).server == server


async def test_two_spellings_of_one_server_share_a_poller(world):
    await asyncio.gather(world.resolve(A), world.resolve(B, uri="http://MLFLOW:5000/"))
    assert len(world.registry._pollers) == 1


@pytest.mark.parametrize(
    "document",
    [[], "x", {}, {"registered_model": "x"}, {"registered_model": {"aliases": [{}]}}, {"registered_model": None}],
    ids=repr,
)
async def test_what_is_not_like_mlflow_ends_no_poller(document):
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=document)))
    registry = Registry(Tracking(client), lambda _: None)
    source = MlflowSource(model="qa", alias="champion")
    assert (await registry.resolve(A, source, URI)).reason == Reason.REGISTRY_UNREACHABLE
    await registry.close()


async def test_who_gave_up_waiting_is_woken_by_the_first_answer(monkeypatch):
    monkeypatch.setattr("despina.sources.mlflow.FIRST_ANSWER_SECONDS", 0.01)
    answers, woken = asyncio.Event(), asyncio.Event()
    fake = Fake()

    async def late(request: httpx.Request) -> httpx.Response:
        await answers.wait()
        return fake(request)

    registry = Registry(Tracking(httpx.AsyncClient(transport=httpx.MockTransport(late))), lambda _: woken.set())
    source = MlflowSource(model="qa", alias="champion")
    assert (await registry.resolve(A, source, URI)).reason == Reason.NOT_ASKED_YET
    monkeypatch.setattr("despina.sources.mlflow.FIRST_ANSWER_SECONDS", 60)
    async with asyncio.timeout(5):  # a later pass does not wait, nor does another program's
        for key in (A, B):
            assert (await registry.resolve(key, source, URI)).reason == Reason.NOT_ASKED_YET
    answers.set()
    await asyncio.wait_for(woken.wait(), 5)
    assert (await registry.resolve(A, source, URI)).version == "1"
    await registry.close()


def test_a_version_is_the_same_one_while_its_server_is_not_asked():
    source = {"mlflow": {"model": "qa", "alias": "champion", "trackingURI": "http://MLflow:80/"}}
    o = observed(a_program(source=source), None)
    assert ref_of(o, "1").tracking_uri == server_of("http://MLflow:80/") == "http://mlflow"
