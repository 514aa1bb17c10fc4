"""Everything of one worker put together, and what runs beside the requests."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from despina.wire import RuntimeConfig
from despina_runtime.app import Service
from despina_runtime.cache.store import Store
from despina_runtime.lm.client import LMs
from despina_runtime.lm.target import KeyFile
from despina_runtime.pipeline.corridor import Corridors
from despina_runtime.pipeline.record import WORKER_RSS
from despina_runtime.program.load import Loaded, load
from despina_runtime.program.warmup import warm_up
from despina_runtime.sessions import Sessions

if TYPE_CHECKING:
    from despina_runtime.cache.redis import RedisTier

log = logging.getLogger(__name__)
REPORT_SECONDS = 0.25
MEMBERS_SECONDS = 1.0


def load_program(folder: Path, config: RuntimeConfig) -> Loaded:
    """The program, tried out once; raises ProgramError."""
    return warm_up(load(folder, config.allow_pickle))


class Engine:
    """One worker's cache, LMs, corridors and application. It is made on a running event loop."""

    def __init__(self, loaded: Loaded, config: RuntimeConfig, cache: Path) -> None:
        self._redis = _redis(config)
        self._store = Store(config, cache, self._redis) if config.cache else None
        self._lms = LMs(config, self._store, loaded.program)
        self._sessions = Sessions(cache, config.session_ttl_seconds, self._redis, self._lms.names)
        self._corridors = Corridors(config, self._store, self._lms)
        self.service = Service(loaded, config, self._corridors, self._sessions)
        self._beside: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin what runs beside the requests."""
        if self._store:
            await self._store.follow()
        self._beside = [asyncio.create_task(work) for work in (self._report(), self._follow(), self._share())]

    async def invalidate(self, subject: str) -> None:
        """Forget cached answers."""
        if self._store:
            await self._store.invalidate(subject)

    async def _follow(self) -> None:
        if self._store:
            await self._store.watch()

    async def _report(self) -> None:
        while True:
            self.service.record.flush()
            WORKER_RSS.set(resident_bytes())
            await asyncio.sleep(REPORT_SECONDS)

    async def _share(self) -> None:
        """The rate limit is the whole program's: each worker has its part, by the workers that Redis sees."""
        if not (self._redis and self._corridors.bucket):
            return
        while True:
            members = await self._redis.count_members(MEMBERS_SECONDS * 3)
            if members:
                self._corridors.bucket.share = 1 / members
            await asyncio.sleep(MEMBERS_SECONDS)

    async def stop(self) -> None:
        """Give everything back; what does not let go within a second ends with the process."""
        for task in self._beside:
            task.cancel()
        await asyncio.wait(self._beside, timeout=1)
        self.service.record.flush()
        self._corridors.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._lms.close()
                if self._store:
                    await self._store.close()
        self._sessions.close()


def _redis(config: RuntimeConfig) -> RedisTier | None:
    if not (config.cache and config.cache.redis):
        return None
    url = KeyFile(config.cache.redis.url_file).read()
    if not url:
        log.error("The Redis URL's file is missing or empty file=%s", config.cache.redis.url_file)
        return None
    from despina_runtime.cache.redis import RedisTier  # only those who use it pay for its import

    return RedisTier(config, config.cache.redis, url)


def resident_bytes() -> int:
    """This process's resident memory; see proc(5)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
