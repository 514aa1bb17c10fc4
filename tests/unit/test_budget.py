"""What an optimisation may spend: what is reserved, what is refused, and that nothing is ever overrun."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from decimal import Decimal

import pytest
from dspy.utils.exceptions import LMError, LMServerError, LMTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st

from despina.wire import LMConfig, Price
from despina_runtime.lm.meter import price_of
from despina_runtime.lm.openai_compatible import Completion
from despina_runtime.optimization.account import account
from despina_runtime.optimization.budget import Budget, Exhausted, Insufficient, Limits, check_sufficient
from despina_runtime.optimization.paying import Paying, cost_of, most_of

ONE_EACH = LMConfig(name="main", model="openai/m", price=Price(input_per_million_usd="1", output_per_million_usd="1"))
FREE = LMConfig(name="free", model="openai/m")
MESSAGES = [{"role": "user", "content": "12345"}]


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def usd(text: str) -> Decimal:
    return Decimal(text)


MOST = {
    "bytes and tokens": (ONE_EACH, {"max_tokens": 100}, usd("0.000156")),
    "under the newer name": (ONE_EACH, {"max_completion_tokens": 100}, usd("0.000167")),
    "of several completions": (ONE_EACH, {"max_tokens": 100, "n": 3}, usd("0.000362")),
    "any length": (ONE_EACH, {}, None),
    "no price": (FREE, {}, usd("0")),
}


@pytest.mark.parametrize("case", MOST)
def test_the_most_that_a_call_can_cost(case):
    lm, params, expected = MOST[case]
    assert most_of(lm, MESSAGES, params) == expected


@settings(deadline=None)
@given(st.text(), st.integers(1, 1000), st.integers(0, 1000))
def test_no_call_within_its_lengths_costs_more_than_was_reserved(text, longest, given_tokens):
    messages = [{"role": "user", "content": text}]
    usage = {"prompt_tokens": len(text.encode()), "completion_tokens": min(longest, given_tokens)}
    assert cost_of(ONE_EACH, usage, usd("9")) <= most_of(ONE_EACH, messages, {"max_tokens": longest})


def test_usage_that_nobody_tells_costs_what_was_reserved():
    assert cost_of(ONE_EACH, {}, usd("9")) == 9


REFUSED = {
    "calls": (Limits(calls=2, seconds=9), 0, "2 of 2 LM calls are made, and 0 are set aside"),
    "calls that are set aside": (Limits(calls=5, seconds=9), 3, "2 of 5 LM calls are made, and 3 are set aside"),
    "money": (Limits(calls=9, seconds=9, usd=usd("2.5")), 0, "2 of 2.5 USD are spent, and a call can cost 1"),
    "money that is set aside": (Limits(9, 9, usd("5")), 3, "2 of 5 USD are spent, and a call can cost 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_third_call_is_refused(case):
    limits, aside, words = REFUSED[case]
    budget = Budget(limits, aside)
    for _ in range(2):
        budget.reserve(usd("1"))
        budget.settle(usd("1"), usd("1"))
    with pytest.raises(Exhausted, match=words):
        budget.reserve(usd("1"))
    assert (budget.spent.calls, budget.spent.usd, budget.spent.dearest) == (2, 2, 1)


def test_no_call_starts_after_its_seconds():
    time = Time()
    budget = Budget(Limits(calls=9, seconds=10), clock=time)
    time.now += 9.9
    budget.reserve(None)
    time.now += 0.1
    with pytest.raises(Exhausted, match="10 seconds are over"):
        budget.reserve(None)
    assert (budget.spent.calls, budget.spent.seconds) == (1, pytest.approx(10))
    assert budget.refusal == "10 seconds are over, but for 0 that are set aside"


def test_what_was_set_aside_can_be_spent_when_its_time_has_come():
    budget = Budget(Limits(calls=1, seconds=9), aside=1)
    with pytest.raises(Exhausted):
        budget.reserve(None)
    budget.begin()
    assert budget.refusal == ""
    budget.reserve(None)


def test_seconds_can_be_set_aside():
    time = Time()
    budget = Budget(Limits(calls=9, seconds=10), clock=time)
    budget.begin(aside_seconds=4)
    time.now += 6
    with pytest.raises(Exhausted, match="10 seconds are over, but for 4 that are set aside"):
        budget.reserve(None)
    budget.begin()
    budget.reserve(None)


def test_what_was_not_needed_can_be_spent_again():
    budget = Budget(Limits(calls=9, seconds=9, usd=usd("1")))
    budget.reserve(usd("1"))
    with pytest.raises(Exhausted):
        budget.reserve(usd("0.9"))
    budget.settle(usd("1"), usd("0.1"))
    budget.reserve(usd("0.9"))


def test_a_call_of_any_length_is_refused_where_money_counts():
    Budget(Limits(calls=1, seconds=9)).reserve(None)
    with pytest.raises(Exhausted, match="no max_tokens"):
        Budget(Limits(calls=1, seconds=9, usd=usd("5"))).reserve(None)


def test_it_is_no_exception_that_an_optimiser_would_count():
    assert not issubclass(Exhausted, Exception)


class Provider:
    def __init__(self, said):
        self.said = said

    async def complete(self, *_):
        if isinstance(self.said, BaseException):
            raise self.said
        return Completion(["x"], self.said)

    async def close(self):
        pass


RESERVED = most_of(ONE_EACH, MESSAGES, {"max_tokens": 100})
ENDINGS = {
    "the provider's count": ({"prompt_tokens": 2, "completion_tokens": 3}, usd("0.000005")),
    "no count": ({}, RESERVED),
    "a refusal": (LMServerError("no", status=500), 0),
    "a gateway that did not wait": (LMServerError("no", status=504), RESERVED),
    "half a count": ({"prompt_tokens": 2, "total_tokens": 5}, RESERVED),
    "no answer in time": (LMTimeoutError("late"), RESERVED),
    "the caller has left": (asyncio.CancelledError(), RESERVED),
}


@pytest.mark.parametrize("case", ENDINGS)
async def test_what_a_call_cost_is_booked_when_it_ends(case):
    said, cost = ENDINGS[case]
    budget = Budget(Limits(calls=9, seconds=9, usd=usd("1")))
    async with account(budget) as address:
        with contextlib.suppress(LMError, asyncio.CancelledError):
            await Paying(address, ONE_EACH, Provider(said)).complete(MESSAGES, {"max_tokens": 100}, None, None)
        assert budget.spent.calls == 1
        while budget.spent.usd != cost:  # or this test does not end
            await asyncio.sleep(0)


async def test_of_one_who_ends_without_a_word_the_whole_reservation_is_booked():
    budget = Budget(Limits(calls=9, seconds=9, usd=usd("1")))
    async with account(budget) as address:
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(b'{"most": "0.5"}\n')
        assert await reader.readline() == b'{"refused":null}\n'
        writer.close()
        await writer.wait_closed()
        for nonsense in (b"", b"?\n", b'{"most": -1}\n', b'{"most": "NaN"}\n'):
            reader, writer = await asyncio.open_unix_connection(address)
            writer.write(nonsense)
            writer.write_eof()
            assert await reader.read() == b""
    assert (budget.spent.calls, budget.spent.usd) == (1, usd("0.5"))


async def asks(address, most: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(address)
    writer.write(b'{"most": "%s"}\n' % most.encode())
    return reader, writer


async def test_a_call_that_has_room_once_another_has_cost_less_than_it_could_waits_for_that():
    budget = Budget(Limits(calls=9, seconds=9, usd=usd("1")))
    async with account(budget) as address:
        first, says = await asks(address, "0.9")
        assert await first.readline() == b'{"refused":null}\n'
        _, leaves = await asks(address, "0.8")
        second, tells = await asks(address, "0.8")
        third, _ = await asks(address, "1.1")
        assert b"0 of 1 USD are spent, and a call can cost 1.1" in await third.readline()
        budget.begin()
        leaves.close()
        await leaves.wait_closed()
        says.write(b'{"cost": "0.1"}\n')
        assert await second.readline() == b'{"refused":null}\n'
        assert (budget.spent.calls, budget.spent.usd, budget.refusal) == (2, usd("0.9"), "")
        fourth, _ = await asks(address, "0.5")
        tells.write(b'{"cost": "0.8"}\n')
        assert b"0.9 of 1 USD are spent, and a call can cost 0.5" in await fourth.readline()
    assert (budget.spent.calls, budget.spent.usd, budget.spent.dearest) == (2, usd("0.9"), usd("0.8"))


async def test_who_asks_for_more_than_there_is_or_when_nobody_pays_any_more_is_refused():
    async with account(Budget(Limits(calls=0, seconds=9))) as address:
        client = Paying(address, FREE, Provider({}))
        with pytest.raises(Exhausted, match="0 of 0 LM calls are made"):
            await client.complete(MESSAGES, {}, None, None)
    with pytest.raises(Exhausted, match="nobody pays any more"):
        await client.complete(MESSAGES, {}, None, None)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 10), st.integers(0, 500), st.integers(0, 2**32))
def test_threads_together_overrun_nothing(calls, aside, cents, seed):
    limits = Limits(calls=calls, seconds=60, usd=Decimal(cents) / 100)
    budget, sent = Budget(limits, aside), []

    def spend(own: random.Random) -> None:
        try:
            while True:
                most = Decimal(own.randint(0, 50)) / 100
                budget.reserve(most)
                sent.append(cost := most * own.randint(0, 100) / 100)
                budget.settle(most, cost)
        except Exhausted:
            return

    threads = [threading.Thread(target=spend, args=[random.Random(seed + n)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == budget.spent.calls <= max(0, calls - aside)
    assert sum(sent) == budget.spent.usd <= limits.usd


INSUFFICIENT = {
    "too few calls": (Limits(calls=99, seconds=9), 100, "99 LM calls cannot be enough: it takes 100 at least"),
    "answers of any length": (
        Limits(calls=99, seconds=9, usd=usd("1")), 1, r"a budget of money needs params.max_tokens in lms\[main\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INSUFFICIENT)
def test_a_budget_that_cannot_be_enough_is_told_before_any_call(case):
    limits, calls, words = INSUFFICIENT[case]
    with pytest.raises(Insufficient, match=words):
        check_sufficient(limits, calls, [ONE_EACH, FREE])


def test_a_budget_that_may_be_enough():
    check_sufficient(Limits(calls=100, seconds=9), 100, [ONE_EACH])
    check_sufficient(Limits(calls=100, seconds=9, usd=usd("1")), 100, [FREE])


def test_a_price_is_exact():
    assert price_of(ONE_EACH, 1, 1) == usd("0.000002")
