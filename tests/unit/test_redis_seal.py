"""The keys of what a program's pods write into a Redis: there as long as one of its revisions uses it."""

from __future__ import annotations

import base64

from despina.wire import REDIS_SEAL
from tests.support.simulator.operator import NAME, simulated
from tests.support.simulator.schedule import happen, manifest, rest
from tests.support.simulator.world import World

REDIS = {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}}


def told(world: World) -> list[str]:
    secret = world.api.get("Secret", f"{NAME}-tools")
    return base64.b64decode(secret["data"][REDIS_SEAL]).decode().split("\n") if secret else []


def test_pods_have_the_keys_as_long_as_a_revision_uses_redis():
    with simulated():
        world = World(manifest("BlueGreen", cache=REDIS), {})
        happen(world, "rounds", 1)
        own = f"{world.program.uid}{world.program.namespace}"
        assert told(world) == [own, "before"], "the present one is for writing"
        (config,) = world.truth.configs.values()
        assert config.cache.redis.seal_file == "/etc/despina-tool-tokens/redis-seal"
        rest(world)
        world.edit(cache=None)
        happen(world, "rounds", 1)
        assert told(world) == [own, "before"], "what serves uses them"
        rest(world)
        assert told(world) == []
        given = world.api.get("ConfigMap", f"{NAME}-tools")
        assert list(given["data"]) == ["digests.json"], "nothing of tools and Redis is left"
