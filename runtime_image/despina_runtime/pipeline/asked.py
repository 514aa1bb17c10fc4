"""A question by hand: what the page asks one held revision, as a caller's request would be answered, and told whole.

It counts for nothing that decides anything: neither as the version's request, nor for the program's breaker, a watch or
a gate, nor for the breakers of LMs. What it asked of LMs counts, for that was paid. No NonIdempotent tool is executed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from despina.wire import LONGEST_ANSWER, Answered, RuntimeConfig
from despina_runtime.lm.meter import Meter
from despina_runtime.pipeline.call import Call, Step
from despina_runtime.problem import Problem, as_problem
from despina_runtime.tools.api import BY_HAND

GONE = Problem(404, "not-held", "This revision is not held here any more").body()


def question_of(body: bytes, config: RuntimeConfig) -> Call:
    """A question as a call that goes past caches, and whose trace is kept. Raises Problem for one that is too long."""
    if len(body) > config.limits.max_request_bytes:
        detail = f"the limit is {config.limits.max_request_bytes} bytes"
        raise Problem(413, "body-too-large", "The body is too large", detail)
    call = Call(body, asyncio.get_running_loop().time() + config.request_timeout_seconds, config.lm)
    call.refusal, call.is_traced, call.meter.is_by_hand = BY_HAND, True, True
    return call


async def answered(corridor: Step, body: bytes, config: RuntimeConfig, sign: Callable[[str], str]) -> Answered:
    """What became of a question, whatever it was."""
    began, call = time.perf_counter(), Call(b"", 0.0)
    try:
        call = question_of(body, config)
        answer = await corridor(call)
        status, said, origin = 200, answer.body, answer.origin
    except Exception as exc:
        problem = as_problem(exc)
        status, said, origin = problem.status, problem.body(), call.origin
    spent = time.perf_counter() - began, call.meter, config.model.version
    return _told(status, said, sign(origin) if origin else "", *spent)


def _told(status: int, said: bytes, name: str, seconds: float, meter: Meter, version: str) -> Answered:
    text = said.decode(errors="replace")
    return Answered(
        status=status,
        said=text,
        is_cut=len(text) > LONGEST_ANSWER,
        seconds=seconds,
        lm_attempts=meter.attempts,
        input_tokens=meter.input_tokens,
        output_tokens=meter.output_tokens,
        cost_usd="" if meter.cost is None else format(meter.cost, "f"),
        id=name,
        version=version,
    )


def not_held() -> Answered:
    """For a revision that has gone meanwhile."""
    return Answered(status=404, said=GONE.decode())
