"""Budgets over the real client: what the stand-in LM counts is never more than a budget allows."""

from __future__ import annotations

import asyncio
import math
import random
from concurrent.futures import ThreadPoolExecutor

import dspy

from despina.wire import ModelRef, RuntimeConfig
from despina_runtime.lm.client import LMs
from despina_runtime.lm.meter import Meter
from despina_runtime.optimization.account import account
from despina_runtime.optimization.budget import Budget, Exhausted, Limits
from despina_runtime.optimization.paying import Paying
from tests.support.pods import lm_config
from tests.support.world import StandIn

BUDGETS, THREADS = 100, 4


def config(servers, fallbacks=(), retries=0) -> RuntimeConfig:
    model = ModelRef(name="m", version="1", tracking_uri="http://mlflow")
    lms = tuple(lm_config(servers[2], name, retries=retries) for name in ("main", *fallbacks))
    return RuntimeConfig(
        namespace="ns", program="p", revision="r", model=model, lms=lms, lm="main", fallbacks=fallbacks
    )


async def spend(own: RuntimeConfig, budget: Budget, questions: int) -> list[BaseException | None]:
    """Asked from several threads, as an optimiser does; what each question ended with."""
    program = dspy.Predict("question -> answer")
    async with account(budget) as address:
        lms = LMs(own, None, program, lambda lm, client: Paying(address, lm, client))
        return await ask_all(lms, program, questions)


async def ask_all(lms: LMs, program: dspy.Module, questions: int) -> list[BaseException | None]:
    meter = Meter(asyncio.get_running_loop().time() + 60)

    def ask(number: int) -> BaseException | None:
        try:
            with dspy.context(meter=meter, **lms.context("main", None)):
                program(question=f"question {number}")
        except BaseException as exc:
            return exc
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        loop = asyncio.get_running_loop()
        ended = await asyncio.gather(*(loop.run_in_executor(pool, ask, n) for n in range(questions)))
    await lms.close()
    return ended


async def test_no_call_is_made_over_a_hundred_random_budgets(servers, lm: StandIn):
    choose, over, refused = random.Random(14), 0, 0
    for _ in range(BUDGETS):
        calls, questions = choose.randint(0, 4), choose.randint(1, 6)
        retries, fallbacks = choose.randint(0, 2), choose.choice([(), ("second",)])
        failing = choose.choice([0, 0, 0, 2])
        lm.misbehave(**({"status": 500, "times": failing} if failing else {}))
        before = lm.calls
        budget = Budget(Limits(calls=calls, seconds=60))
        ended = await spend(config(servers, fallbacks, retries), budget, questions)
        made = lm.calls - before
        assert made == budget.spent.calls
        over += max(0, made - calls)
        refused += sum(isinstance(exc, Exhausted) for exc in ended)
        lm.misbehave()
    print(f"{BUDGETS} random budgets: {over} calls over, {refused} questions refused")
    assert over == 0
    assert refused > BUDGETS / 2, "then this test would show nothing"


async def test_the_limit_reaches_the_thread_that_asks_as_it_is(servers):
    ended = await spend(config(servers), Budget(Limits(calls=1, seconds=math.inf)), 2)
    assert sorted(type(exc).__name__ for exc in ended) == ["Exhausted", "NoneType"]
