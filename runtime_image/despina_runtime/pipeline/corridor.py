"""All doors of the corridor in their order. A door that the manifest leaves out is not built, so it costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import dspy

from despina.wire import RuntimeConfig
from despina_runtime.cache.store import Store
from despina_runtime.lm.client import LMs
from despina_runtime.pipeline.admission import Queue, RateLimit, Slots, TokenBucket
from despina_runtime.pipeline.attended import Attended
from despina_runtime.pipeline.cached import Cache, Replay
from despina_runtime.pipeline.call import Step
from despina_runtime.pipeline.execute import Execute
from despina_runtime.pipeline.fallback import OtherProgram, build_fallback
from despina_runtime.pipeline.guard import Guard
from despina_runtime.pipeline.recorded import Again, Policy, Recorded
from despina_runtime.pipeline.tally import Tally
from despina_runtime.pipeline.validate import Parse, Validate
from despina_runtime.program.interface import Interface
from despina_runtime.telemetry.context import USUAL_RATIO
from despina_runtime.telemetry.counting import Times, VersionCounts
from despina_runtime.telemetry.prediction import Names
from despina_runtime.telemetry.recorder import Recorder
from despina_runtime.tools.api import Toolbox

TRIALS, QUESTIONS = 2, 2
"""Of gates, and of people who ask by hand, so many at a time in a worker; nobody takes another kind's place."""
MOST_THREADS = 32
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """Where `asyncio.to_thread` works: a request's threads are known, for they hold its slot."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """A function, in the context of whoever has it run."""
        thread = super().submit(fn, *args, **kwargs)
        if meter := dspy.settings.get("meter"):
            meter.lingering.append(thread)
        return thread


class Capacity:
    """What one worker can do at a time, whichever revisions it holds."""

    def __init__(self, config: RuntimeConfig, trials: int = TRIALS) -> None:
        slots = -(-config.max_concurrency // config.workers)
        self.slots = Slots(slots, -(-config.limits.max_queue // config.workers))
        self.trial_slots = Slots(trials, trials)
        self.asked_slots = Slots(QUESTIONS, 0)
        self.pool = ThreadPoolExecutor(slots + trials + QUESTIONS, thread_name_prefix="program")
        self.threads = Threads(max(MOST_THREADS, 2 * slots), thread_name_prefix="to_thread")
        self.bucket = _bucket(config)

    def close(self) -> None:
        """End the threads that have nothing to do."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.threads.shutdown(wait=False, cancel_futures=True)


class Corridors:
    """Builds corridors, for a revision of the program and for its modules."""

    def __init__(
        self,
        config: RuntimeConfig,
        store: Store | None,
        lms: LMs,
        capacity: Capacity,
        toolbox: Toolbox | None = None,
        recorder: Recorder | None = None,
        names: Names | None = None,
        ratio: float = USUAL_RATIO,
        traced: Recorder | None = None,
        counts: VersionCounts | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._lms = lms
        self._capacity = capacity
        self._toolbox = toolbox
        self._fallback: Step | None = None
        self._recorder, self.names = recorder, names
        self.counts = counts or VersionCounts()
        self._traced = traced
        self._policy = Policy(ratio, config.feedback is not None, config.request_timeout_seconds)
        which = config.revision, config.model.version, ""
        self.again = Again(traced, which, self._policy) if traced else None
        self.tally: Tally | None = None
        self.guard: Guard | None = None

    def build(self, program: dspy.Module, is_async: bool, interface: Interface, path: str = "") -> Step:
        """rate limit → replay → attended → parse → cache → fallback → tally → breaker → queue → recorded → validate →
        execute."""
        config, cache = self._config, self._config.cache
        step: Step = self._validated(program, is_async, interface)
        if self._recorder and self.names:
            which = config.revision, config.model.version, path
            step = Recorded(self._recorder, self.names, program, which, step, self._policy)
        step = Queue(self._capacity.slots, self.counts.queue, step)
        if not path:
            step = self._counted(step)
        if config.fallback and not path:
            step = self._fallback = build_fallback(config.fallback, config.auth_token_file, interface, step)
        keeps = cache is not None and cache.scope != "LM"
        if cache and self._store:
            step = Cache(self._store, path, keeps, step)
        step = Attended(Parse(interface, step))
        if keeps and cache and self._store and cache.process_entries:
            step = Replay(self._store, f"{config.revision}/{path}", step)
        return RateLimit(self._capacity.bucket, step) if self._capacity.bucket else step

    def build_trial(self, program: dspy.Module, is_async: bool, interface: Interface) -> Step:
        """parse → queue → validate → execute: for a candidate, with slots of its own, so that no caller waits."""
        step = self._validated(program, is_async, interface)
        return Parse(interface, Queue(self._capacity.trial_slots, Times(), step))

    def build_asked(self, program: dspy.Module, is_async: bool, interface: Interface) -> Step:
        """parse → queue → recorded → validate → execute: for somebody who asks by hand. It has slots of its own, and
        leaves a trace, which is no prediction."""
        step: Step = self._validated(program, is_async, interface)
        if self._traced and self.names:
            which = self._config.revision, self._config.model.version, ""
            step = Recorded(self._traced, self.names, program, which, step, self._policy)
        return Parse(interface, Queue(self._capacity.asked_slots, Times(), step))

    async def close(self) -> None:
        """Give connections back."""
        if isinstance(self._fallback, OtherProgram):
            await self._fallback.close()

    def _validated(self, program: dspy.Module, is_async: bool, interface: Interface) -> Step:
        fields = interface.outputs.model_fields
        execute = Execute(program, is_async, fields, self._lms, self._capacity.pool, self._toolbox)
        return Validate(interface, execute)

    def _counted(self, step: Step) -> Step:
        if self._config.breaker:
            step = self.guard = Guard(self._config.breaker, step)
        self.tally = Tally(step)
        return self.tally


def _bucket(config: RuntimeConfig) -> TokenBucket | None:
    rate = config.limits.requests_per_second
    if rate is None:
        return None
    return TokenBucket(rate, config.limits.burst or rate, 1 / (config.replicas * config.workers))
