"""Running the program: on the event loop if it can, else in a bounded pool of threads; always with a deadline."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError, LMTimeoutError, LMTransportError

from despina.wire import RuntimeConfig
from despina_runtime.lm.client import LMs
from despina_runtime.problem import Problem

log = logging.getLogger(__name__)


class Executor:
    """At most `max_concurrency` executions at a time; the rest wait within their own deadline."""

    def __init__(self, program: dspy.Module, config: RuntimeConfig) -> None:
        self._program = program
        self._lms = LMs(config)
        self._timeout = config.request_timeout_seconds
        self._is_async = hasattr(program, "aforward")
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._pool = ThreadPoolExecutor(config.max_concurrency, thread_name_prefix="program")

    async def run(self, inputs: dict[str, Any]) -> Any:
        """The program's prediction. Raises Problem: 504 for a deadline, 502 for the LM, 500 for the program."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._call(inputs)
        except TimeoutError:
            detail = f"no answer within {self._timeout} s"
            raise Problem(504, "deadline-exceeded", "The program took too long", detail) from None
        except Problem:
            raise
        except Exception as exc:
            raise problem_of(exc) from exc

    async def _call(self, inputs: dict[str, Any]) -> Any:
        with dspy.context(lm=self._lms.current()):
            if self._is_async:
                async with self._slots:
                    return await self._program.acall(**inputs)
            # A thread cannot be stopped: after a deadline it holds its place in the pool until it is done,
            # so that slow calls can never pile up beyond the limit.
            call = contextvars.copy_context().run
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: call(self._program, **inputs))


def problem_of(exc: Exception) -> Problem:
    """What a caller is told. A provider's own words may hold keys or prompts, so they go to the log only."""
    kind = type(exc).__name__
    if isinstance(exc, AdapterParseError):
        return Problem(502, "lm-answer-unusable", "The language model's answer does not fit the signature", kind)
    if isinstance(exc, LMTimeoutError) or (isinstance(exc, LMTransportError) and "time" in str(exc).lower()):
        log.warning("LM timed out error=%s", kind)
        return Problem(504, "lm-timeout", "The language model took too long", kind)
    if isinstance(exc, LMError):
        log.warning("LM failed error=%s", kind)
        return Problem(502, "lm-failure", "The language model could not be used", kind)
    log.exception("Program raised", exc_info=exc)
    return Problem(500, "program-error", "The program raised an error", kind)
