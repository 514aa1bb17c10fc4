"""A program that can be run in every way that DSPy has of calling modules; a request names the one it wants."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import dspy


class Sort(dspy.Signature):
    """Sort a ticket."""

    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()


class Asked(dspy.Signature):
    """Its names are those of methods that every dictionary has."""

    keys: str = dspy.InputField()
    way: str = dspy.InputField(default="plainly")
    items: str = dspy.OutputField()
    values: list[str] = dspy.OutputField()


class Raising(dspy.Module):
    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)

    def forward(self, ticket):
        raise ValueError(ticket)


def in_full(arguments, prediction) -> float:
    """A reward that no answer is worth."""
    return 0.0


class Program(dspy.Module):
    signature = Asked

    def __init__(self):
        super().__init__()
        dspy.configure(lm=dspy.LM("openai/a-laptops"), max_errors=7)
        self.sort = dspy.Predict(Sort)
        self.best = dspy.BestOfN(self.sort, N=3, reward_fn=in_full, threshold=1.0)
        self.refine = dspy.Refine(self.sort, N=2, reward_fn=in_full, threshold=1.0)
        self.raising = Raising()
        self.patient = dspy.BestOfN(self.raising, N=2, reward_fn=in_full, threshold=1.0)

    def forward(self, keys, way="plainly"):
        said = getattr(self, way)(keys) if way in WAYS else self.plainly(keys)
        return dspy.Prediction(items=str(said), values=[way])

    def plainly(self, ticket):
        return self.sort(ticket=ticket).category

    def best_of_n(self, ticket):
        return self.best(ticket=ticket).category

    def refined(self, ticket):
        return self.refine(ticket=ticket).category

    def in_parallel(self, ticket):
        pairs = [(self.sort, {"ticket": f"{ticket} {n}"}) for n in range(4)]
        return [p.category for p in dspy.Parallel(num_threads=2)(pairs)]

    def in_a_batch(self, ticket):
        examples = [dspy.Example(ticket=f"{ticket} {n}").with_inputs("ticket") for n in range(4)]
        return [p.category for p in self.sort.batch(examples)]

    def raising_in_parallel(self, ticket):
        return dspy.Parallel(num_threads=2)([(self.raising, {"ticket": ticket}), (self.raising, {"ticket": ticket})])

    def raising_in_every_try(self, ticket):
        return dspy.BestOfN(self.raising, N=2, reward_fn=in_full, threshold=1.0, fail_count=2)(ticket=ticket)

    def patiently(self, ticket):
        """As often as it is asked: it takes as many failures as it tries."""
        return self.patient(ticket=ticket)

    def tracked(self, ticket):
        with dspy.track_usage() as usage:
            self.sort(ticket=ticket)
        return sorted(usage.get_total_tokens())

    def configured(self, ticket):
        before = dspy.settings.num_threads
        dspy.configure(num_threads=3, lm=dspy.LM("openai/a-laptops"))
        return self.sort(ticket=ticket).category, dspy.settings.max_errors, before, dspy.settings.num_threads


WAYS = {name for name in vars(Program) if not name.startswith("_") and name != "forward"}


class Awaiting(dspy.Module):
    """It has only `aforward`, and modules that block run in threads."""

    signature = Sort

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)

    async def aforward(self, ticket):
        one = await dspy.asyncify(self.sort)(ticket=ticket)
        other = await asyncio.to_thread(self.sort, ticket=f"{ticket}, again")
        return dspy.Prediction(category=f"{one.category} {other.category}")


class Pooling(dspy.Module):
    """Its threads are its own: nothing carries a request's settings there."""

    signature = Sort

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)

    def forward(self, ticket):
        with ThreadPoolExecutor() as pool:
            return pool.submit(self.sort, ticket=ticket).result()


class Waiting(dspy.Module):
    """Its `aforward` waits for threads, on the event loop that they need."""

    others_await = False

    signature = Sort

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)

    async def aforward(self, ticket):
        if self.others_await and ticket != "wait":
            return await self.sort.acall(ticket=ticket)
        return self.forward(ticket)

    def forward(self, ticket):
        return dspy.Parallel(num_threads=2)([(self.sort, {"ticket": ticket})] * 2)[0]


class Stalling(Waiting):
    """It does so for one ticket only, which is not the warm-up's."""

    others_await = True


class Keeping(dspy.Module):
    """It keeps a connection that is made on first use, and belongs to the event loop of then."""

    signature = Sort

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)
        self.session = None

    async def aforward(self, ticket):
        self.session = self.session or aiohttp.ClientSession()
        if ticket.startswith("http"):
            async with self.session.get(ticket) as answer:
                return dspy.Prediction(category=str(answer.status))
        return await self.sort.acall(ticket=ticket)


class Scoring(dspy.Module):
    """It asks more of an answer than its type says."""

    signature = Sort

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Sort)

    async def aforward(self, ticket):
        known = {"stand-in": 10}
        found = (await self.sort.acall(ticket=ticket)).category
        return dspy.Prediction(category=str(known[found] if found in known else int(found)))
