"""The key of the orders in its Secret, against a server that keeps Secrets as the API server does: made once, made anew
where it is gone or cannot be read, and never lost to another operator that starts at the same time."""

from __future__ import annotations

import asyncio
import base64

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from despina.cluster.client import Cluster
from despina.main import signing_keys
from despina.settings import Settings

SETTINGS = Settings(namespace="sys")
PATH = "/api/v1/namespaces/sys/secrets"
OLD, OTHER = bytes(range(32)), bytes(range(1, 33))


class Secrets:
    """One namespace's."""

    def __init__(self) -> None:
        self.stored: dict | None = None
        self.before_a_write = lambda: None
        self.writes = 0

    def put(self, **data: bytes) -> None:
        version = str(int(self.stored["metadata"]["resourceVersion"]) + 1) if self.stored else "1"
        encoded = {k: base64.b64encode(v).decode() for k, v in data.items()}
        meta = {"name": "despina-order-key", "namespace": "sys", "resourceVersion": version}
        self.stored = {"metadata": meta, "data": encoded}

    @property
    def data(self) -> dict[str, bytes]:
        assert self.stored
        return {k: base64.b64decode(v) for k, v in self.stored["data"].items()}

    async def get(self, _: web.Request) -> web.Response:
        return web.json_response(self.stored or {"message": "no"}, status=200 if self.stored else 404)

    async def create(self, request: web.Request) -> web.Response:
        self._about_to_write()
        if self.stored:
            return web.json_response({"message": "exists"}, status=409)
        self.put(**{k: base64.b64decode(v) for k, v in (await request.json())["data"].items()})
        return web.json_response(self.stored, status=201)

    async def patch(self, request: web.Request) -> web.Response:
        self._about_to_write()
        body = await request.json()
        if not self.stored:
            return web.json_response({"message": "no"}, status=404)
        if body["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            return web.json_response({"message": "changed"}, status=409)
        self.put(**(self.data | {k: base64.b64decode(v) for k, v in body["data"].items()}))
        return web.json_response(self.stored)

    def _about_to_write(self) -> None:
        self.writes += 1
        happens, self.before_a_write = self.before_a_write, lambda: None
        happens()


@pytest.fixture
async def world():
    secrets = Secrets()
    app = web.Application()
    app.router.add_get(f"{PATH}/despina-order-key", secrets.get)
    app.router.add_post(PATH, secrets.create)
    app.router.add_patch(f"{PATH}/despina-order-key", secrets.patch)
    server = TestServer(app)
    await server.start_server()
    cluster = Cluster(ApiClient(Configuration(host=str(server.make_url("")).rstrip("/"))))
    yield secrets, cluster
    await cluster.close()
    await server.close()


async def raw(cluster: Cluster) -> list[bytes]:
    async with asyncio.timeout(10):
        return [key.private_bytes_raw() for key in await signing_keys(SETTINGS, cluster)]


async def test_the_first_start_makes_a_key_and_the_next_one_finds_it(world):
    secrets, cluster = world
    (made,) = await raw(cluster)
    assert secrets.data == {"ed25519": made}
    assert await raw(cluster) == [made]
    assert secrets.writes == 1


@pytest.mark.parametrize("data", [{}, {"other": b"x"}, {"ed25519": b""}, {"ed25519": b"not a key"}])
async def test_a_secret_without_a_readable_key_gets_one(world, data):
    secrets, cluster = world
    secrets.put(**data)
    (made,) = await raw(cluster)
    assert secrets.data == {**data, "ed25519": made}
    assert await raw(cluster) == [made]


async def test_while_a_key_is_replaced_both_are_there_and_the_new_one_is_first(world):
    secrets, cluster = world
    secrets.put(previous=OLD)  # its owner has moved it
    made, old = await raw(cluster)
    assert (old, secrets.data) == (OLD, {"previous": OLD, "ed25519": made})
    secrets.put(ed25519=made)
    assert await raw(cluster) == [made]


@pytest.mark.parametrize("previous", [b"", b"not a key", OLD])
async def test_a_previous_key_that_adds_nothing_is_left_out(world, previous):
    secrets, cluster = world
    secrets.put(ed25519=OLD, previous=previous)
    assert await raw(cluster) == [OLD]


@pytest.mark.parametrize("before", [None, {"ed25519": b"x"}])
async def test_of_two_operators_that_make_one_the_firsts_counts(world, before):
    secrets, cluster = world
    if before:
        secrets.put(**before)
    secrets.before_a_write = lambda: secrets.put(ed25519=OTHER)
    assert await raw(cluster) == [OTHER]
    assert secrets.data == {"ed25519": OTHER}


async def test_a_secret_that_is_deleted_meanwhile_is_made_again(world):
    secrets, cluster = world
    secrets.put(ed25519=b"x")
    secrets.before_a_write = lambda: setattr(secrets, "stored", None)
    (made,) = await raw(cluster)
    assert secrets.data == {"ed25519": made}
