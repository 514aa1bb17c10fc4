"""The breaker in front of the program: when too much fails, nothing is executed for a while."""

from __future__ import annotations

from despina.api.breaking import OK
from despina.wire import BreakerReport, ProgramBreakerConfig
from despina_runtime.breaker import Breaker, State
from despina_runtime.pipeline.call import Answer, Call, Step
from despina_runtime.problem import Problem

UNUSABLE = "invalid-output"
"""The LM is there and answers, so there is nothing to leave alone, and what callers write can bring this about."""


class Guard:
    """Counts failures by whose fault they were."""

    def __init__(self, config: ProgramBreakerConfig, then: Step) -> None:
        self._breaker = Breaker(config)
        self._counted = set(config.count_errors)
        self._falls_back = config.falls_back
        self._then = then

    async def __call__(self, call: Call) -> Answer:
        """503 with Retry-After while open, or what follows."""
        ticket = self._breaker.admit()
        if ticket is None:
            raise Problem(
                503, "breaker-open", "The program failed too often and is left alone for a while",
                retry_after=self._breaker.retry_after, can_fall_back=self._falls_back,
            )  # fmt: skip
        try:
            answer = await self._then(call)
        except Problem as problem:
            self._settle(ticket, problem)
            raise
        except BaseException:
            self._breaker.release(ticket)
            raise
        self._breaker.record(ticket)
        return answer

    def _settle(self, ticket: int, problem: Problem) -> None:
        if problem.fault is None or problem.type == UNUSABLE:
            self._breaker.release(ticket)  # the caller's own mistake, a full queue, or what may be either
        else:
            self._breaker.record(ticket, problem.fault if problem.fault in self._counted else OK)

    def force(self, state: State) -> None:
        """Be as the other workers' breakers are."""
        self._breaker.force(state)

    def report(self) -> BreakerReport:
        """For the supervisor and the operator."""
        breaker = self._breaker
        return BreakerReport(state=breaker.state.value, age_seconds=breaker.age, window=breaker.window)
