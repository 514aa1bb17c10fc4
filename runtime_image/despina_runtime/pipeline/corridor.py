"""All doors of the corridor in their order. A door that the manifest leaves out is not built, so it costs nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import dspy

from despina.wire import RuntimeConfig
from despina_runtime.cache.store import Store
from despina_runtime.lm.client import LMs
from despina_runtime.pipeline.admission import Queue, RateLimit, Slots, TokenBucket
from despina_runtime.pipeline.breaker import Guard
from despina_runtime.pipeline.cache import Cache, Replay
from despina_runtime.pipeline.call import Step
from despina_runtime.pipeline.execute import Execute
from despina_runtime.pipeline.fallback import build_fallback
from despina_runtime.pipeline.validate import Parse, Validate
from despina_runtime.program.interface import Interface


class Corridors:
    """Builds corridors, for the program and for its modules; they share LMs, cache, limits and threads."""

    def __init__(self, config: RuntimeConfig, store: Store | None, lms: LMs) -> None:
        slots = -(-config.max_concurrency // config.workers)
        self._config = config
        self._store = store
        self._lms = lms
        self._slots = Slots(slots, -(-config.limits.max_queue // config.workers))
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="program")
        self.bucket = _bucket(config)

    def build(self, program: dspy.Module, is_async: bool, interface: Interface, path: str = "") -> Step:
        """rate limit → replay → parse → cache → fallback → breaker → queue → validate → execute."""
        config, cache = self._config, self._config.cache
        execute = Execute(program, is_async, interface.outputs.model_fields, self._lms, self._pool)
        step: Step = Validate(interface, execute)
        step = Queue(self._slots, step)
        if config.breaker and not path:
            step = Guard(config.breaker, step)
        if config.fallback and not path:
            step = build_fallback(config.fallback, interface, step)
        keeps = cache is not None and cache.scope != "LM"
        if cache and self._store:
            step = Cache(self._store, path, keeps, cache.single_flight, step)
        step = Parse(interface, step)
        if keeps and cache and self._store and cache.process_entries:
            step = Replay(self._store, cache.process_entries, step)
        return RateLimit(self.bucket, step) if self.bucket else step

    def close(self) -> None:
        """End the threads that have nothing to do."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _bucket(config: RuntimeConfig) -> TokenBucket | None:
    rate = config.limits.requests_per_second
    if rate is None:
        return None
    return TokenBucket(rate, config.limits.burst or rate, 1 / (config.replicas * config.workers))
