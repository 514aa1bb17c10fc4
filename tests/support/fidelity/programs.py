"""One function or class for each thing that DSPy offers; its first line of documentation is its row's name.

This file is logged with each of them, as a user's own would be.
"""

from __future__ import annotations

import asyncio
import datetime
import enum
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Literal

import dspy
from dspy.adapters.baml_adapter import BAMLAdapter
from dspy.experimental import Choice, Citations, Document, Noul, Score
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

HOME = "a laptop's"


class Sort(dspy.Signature):
    """Sort a ticket."""

    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()


class Sorting(dspy.Module):
    """What most of these are made of: one predictor, and `forward`."""

    signature = Sort

    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict(Sort)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.sort(ticket=ticket)


def nothing_is_perfect(_arguments: Any, _prediction: Any) -> float:
    return 0.0


def look_up(ticket: str) -> str:
    """What is known of a ticket."""
    return f"known: {ticket}"


# --- modules


def predict() -> dspy.Module:
    return dspy.Predict(Sort)


def chain_of_thought() -> dspy.Module:
    return dspy.ChainOfThought(Sort)


def react() -> dspy.Module:
    return dspy.ReAct(Sort, tools=[look_up], max_iters=2)


def react_v2() -> dspy.Module:
    program = dspy.ReActV2(Sort, tools=[look_up], max_iters=2)
    calls = dspy.ToolCalls.from_dict_list([{"name": "submit", "args": {"category": "billing"}}])
    program.react.demos = [dspy.Example(ticket="a card", next_thought="I know it.", tool_calls=calls.model_dump())]
    return program


def program_of_thought() -> dspy.Module:
    program = dspy.ProgramOfThought(Sort, interpreter_factory=dspy.LocalInterpreter)
    program.code_generate.predict.demos = [
        dspy.Example(ticket="a card", reasoning="It is computed.", generated_code="print('billing')")
    ]
    return program


def needs_deno() -> dspy.Module:
    return dspy.ProgramOfThought(Sort)


def code_act() -> dspy.Module:
    program = dspy.CodeAct(Sort, tools=[look_up], max_iters=2, interpreter_factory=dspy.LocalInterpreter)
    program.codeact.demos = [
        dspy.Example(ticket="a card", trajectory="none", generated_code="print(look_up('card'))", finished=True)
    ]
    return program


def rlm() -> dspy.Module:
    program = dspy.RLM(Sort, max_iters=2, interpreter_factory=dspy.LocalInterpreter)
    program.generate_action.demos = [
        dspy.Example(variables_info="ticket", reasoning="It is known.", code="SUBMIT(category='billing')")
    ]
    return program


def flex() -> dspy.Module:
    return dspy.Flex(Sort, interpreter_factory=dspy.LocalInterpreter)


def flex_needs_deno() -> dspy.Module:
    return dspy.Flex(Sort)


class BestOfN(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.best = dspy.BestOfN(self.sort, N=2, reward_fn=nothing_is_perfect, threshold=1.0)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.best(ticket=ticket)


class Refine(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.refined = dspy.Refine(self.sort, N=2, reward_fn=nothing_is_perfect, threshold=1.0)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.refined(ticket=ticket)


class Parallel(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        return dspy.Parallel(num_threads=2)([(self.sort, {"ticket": f"{ticket} {n}"}) for n in range(3)])[0]


class Batch(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        return self.sort.batch([dspy.Example(ticket=f"{ticket} {n}").with_inputs("ticket") for n in range(3)])[0]


class MultiChainComparison(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought(Sort)
        self.compare = dspy.MultiChainComparison(Sort, M=2)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.compare([self.think(ticket=f"{ticket} {n}") for n in range(2)], ticket=ticket)


class Majority(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        return dspy.majority([self.sort(ticket=f"{ticket} {n}") for n in range(3)], field="category")


def letters(texts: list[str]) -> Any:
    import numpy as np

    return np.array([[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts], dtype=np.float32)


class Embeddings(Sorting):
    def __init__(self) -> None:
        super().__init__()
        embedder = dspy.Embedder(letters)
        self.search = dspy.retrievers.Embeddings(["a card that was charged", "a parcel that is late"], embedder, k=1)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.sort(ticket=self.search(ticket).passages[0])


class NearestExamples(Sorting):
    def __init__(self) -> None:
        super().__init__()
        known = [dspy.Example(ticket=t, category=c).with_inputs("ticket") for t, c in [("card", "a"), ("parcel", "b")]]
        self.nearest = dspy.KNN(1, known, dspy.Embedder(letters))

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.sort(ticket=ticket, demos=self.nearest(ticket=ticket))


# --- adapters


class WithAdapter(Sorting):
    def __init__(self, adapter: Any) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, ticket: str) -> dspy.Prediction:
        with dspy.context(adapter=self.adapter):
            return self.sort(ticket=ticket)


def chat_adapter() -> dspy.Module:
    return WithAdapter(dspy.ChatAdapter())


def json_adapter() -> dspy.Module:
    return WithAdapter(dspy.JSONAdapter())


def xml_adapter() -> dspy.Module:
    return WithAdapter(dspy.XMLAdapter())


def baml_adapter() -> dspy.Module:
    return WithAdapter(BAMLAdapter())


class TwoSteps(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        with dspy.context(adapter=dspy.TwoStepAdapter(dspy.settings.lm)):
            return self.sort(ticket=ticket)


# --- types


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Part(BaseModel):
    code: str = Field(pattern=r"^[A-Z]{3}-\d+$")
    made: datetime.date
    parts: list[Part] = []


class Size(TypedDict):
    width: int
    unit: str


TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "Literal": Literal["a", "b"],
    "Enum": Level,
    "Optional": int | None,
    "Union": int | str,
    "list": list[str],
    "set": set[int],
    "tuple": tuple[int, str],
    "dict": dict[str, int],
    "TypedDict": Size,
    "Decimal": Decimal,
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "UUID": uuid.UUID,
    "pydantic model": Part,
    "list of models": list[Part],
    "Any": Any,
    "dspy.Image": dspy.Image,
    "dspy.Audio": dspy.Audio,
    "dspy.File": dspy.File,
    "dspy.Code": dspy.Code["python"],
    "dspy.ToolCalls": dspy.ToolCalls,
}
EXPERIMENTAL: dict[str, Any] = {
    "experimental Noul": Noul,
    "experimental Choice": Choice[("a", "one"), ("b", "another")],
    "experimental Score": Score["bad", "good"],
    "experimental Document": Document,
    "experimental Citations": Citations,
}
GIVEN_ONLY, TAKEN_ONLY = {"dspy.Reasoning": dspy.Reasoning}, {"dspy.History": dspy.History}


def taking(kind: Any) -> dspy.Module:
    fields = {"x": (kind, dspy.InputField()), "category": (str, dspy.OutputField())}
    return dspy.Predict(dspy.Signature(fields, "Sort it."))


def giving(kind: Any) -> dspy.Module:
    fields = {"ticket": (str, dspy.InputField()), "x": (kind, dspy.OutputField(desc="What it is."))}
    return dspy.Predict(dspy.Signature(fields, "Read it."))


def name_of(prefix: str, kind: str) -> str:
    return f"{prefix}_{kind.lower().replace(' ', '_').replace('.', '_')}"


globals().update(
    {
        name_of("taking", name): lambda kind=kind: taking(kind)
        for name, kind in (TYPES | TAKEN_ONLY | EXPERIMENTAL).items()
    }
)
globals().update(
    {
        name_of("giving", name): lambda kind=kind: giving(kind)
        for name, kind in (TYPES | GIVEN_ONLY | EXPERIMENTAL).items()
    }
)


def undescribed() -> dspy.Module:
    return dspy.Predict(
        dspy.Signature({"ticket": (str, dspy.InputField()), "x": (Noul, dspy.OutputField())}, "Read it.")
    )


class WithImages(BaseModel):
    images: dict[str, list[dspy.Image]]
    code: dspy.Code | None = None


class GivingImages(Sorting):
    """As a field of a user's model."""

    signature = dspy.Signature({"ticket": (str, dspy.InputField()), "x": (WithImages, dspy.OutputField())}, "Draw it.")

    def forward(self, ticket: str) -> dspy.Prediction:
        image = dspy.Image(url=f"https://example.com/{self.sort(ticket=ticket).category}.png")
        return dspy.Prediction(x=WithImages(images={"a": [image]}, code={"code": "draw()"}))


# --- ways of writing a program


class OnlyAsync(dspy.Module):
    signature = Sort

    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict(Sort)

    async def aforward(self, ticket: str) -> dspy.Prediction:
        return await self.sort.acall(ticket=ticket)


class Gathering(OnlyAsync):
    async def aforward(self, ticket: str) -> dspy.Prediction:
        return (await asyncio.gather(*(self.sort.acall(ticket=f"{ticket} {n}") for n in range(3))))[0]


class RunsALoop(Sorting):
    """An event loop of its own, in each request."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = OnlyAsync()

    def forward(self, ticket: str) -> dspy.Prediction:
        return asyncio.run(self.inner.acall(ticket=ticket))


class Synced(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.syncify(OnlyAsync(), in_place=False)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.inner(ticket=ticket)


class Asyncified(OnlyAsync):
    async def aforward(self, ticket: str) -> dspy.Prediction:
        return await dspy.asyncify(self.sort)(ticket=ticket)


class InThreads(OnlyAsync):
    async def aforward(self, ticket: str) -> dspy.Prediction:
        return await asyncio.to_thread(self.sort, ticket=ticket)


class Blocking(OnlyAsync):
    async def aforward(self, ticket: str) -> dspy.Prediction:
        return self.sort(ticket=ticket)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.sort(ticket=ticket)


class OwnLM(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.sort.set_lm(dspy.LM("openai/gpt-4o-mini", api_key=HOME))


class InContext(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        with dspy.context(temperature=0.3, lm=dspy.settings.lm):
            return self.sort(ticket=ticket)


class Configuring(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        dspy.configure(track_usage=True)
        return self.sort(ticket=ticket)


class ConfiguringFirst(Sorting):
    def __init__(self) -> None:
        dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", api_key=HOME))
        super().__init__()


class Tracking(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        with dspy.track_usage() as usage:
            found = self.sort(ticket=ticket)
        assert isinstance(usage.get_total_tokens(), dict)
        return found


class DirectCall(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        return dspy.Prediction(category=dspy.settings.lm(f"Sort {ticket}")[0])


class Pooling(Sorting):
    def forward(self, ticket: str) -> dspy.Prediction:
        with ThreadPoolExecutor() as pool:
            return pool.submit(self.sort, ticket=ticket).result()


def in_a_notebook() -> dspy.Module:
    cell = {"__name__": "notebook", "Sorting": Sorting}
    exec("class Program(Sorting):\n    pass", cell)  # noqa: S102 - as a notebook does
    return cell["Program"]()


def several_files() -> dspy.Module:
    from parts.whole import Program

    return Program()


def a_module_beside() -> dspy.Module:
    from alone import Program

    return Program()


class Streaming(Sorting):
    """A status message for whoever listens, and what is made in parts is put together."""

    async def aforward(self, ticket: str) -> dspy.Prediction:
        parts = dspy.streamify(self.sort)(ticket=ticket)
        return [part async for part in parts][-1]


class Lists(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.steps = [dspy.Predict(Sort), dspy.ChainOfThought(Sort)]

    def forward(self, ticket: str) -> dspy.Prediction:
        return [step(ticket=ticket) for step in self.steps][-1]


class Dictionaries(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.steps = {"first": dspy.Predict(Sort), "second": dspy.ChainOfThought(Sort)}

    def forward(self, ticket: str) -> dspy.Prediction:
        return [step(ticket=ticket) for step in self.steps.values()][-1]


class Nested(Sorting):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Sorting()

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.inner(ticket=ticket)


class NestedAsync(OnlyAsync):
    def __init__(self) -> None:
        super().__init__()
        self.inner = OnlyAsync()

    async def aforward(self, ticket: str) -> dspy.Prediction:
        return await self.inner.acall(ticket=ticket)


class InnerTools(Sorting):
    """DSPy's tutorial of tools: a predictor that takes them, and gives calls of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tools = [dspy.Tool(look_up)]
        fields = {
            "ticket": (str, dspy.InputField()),
            "tools": (list[dspy.Tool], dspy.InputField()),
            "calls": (dspy.ToolCalls, dspy.OutputField()),
        }
        self.choose = dspy.Predict(dspy.Signature(fields, "Choose."))

    def forward(self, ticket: str) -> dspy.Prediction:
        self.choose(ticket=ticket, tools=self.tools)
        return self.sort(ticket=ticket)


class CallsAToolInAThread(Sorting):
    """Whoever streams is told of it, as `dspy.streamify` tells."""

    def __init__(self) -> None:
        super().__init__()
        self.look_up = dspy.Tool(look_up)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.sort(ticket=self.look_up(ticket=ticket))


class AwaitsATool(CallsAToolInAThread):
    async def aforward(self, ticket: str) -> dspy.Prediction:
        return await self.sort.acall(ticket=await self.look_up.acall(ticket=ticket))


class CallsAToolOnTheLoop(CallsAToolInAThread):
    """More often than DSPy's stream holds messages."""

    async def aforward(self, ticket: str) -> dspy.Prediction:
        found = [self.look_up(ticket=ticket) for _ in range(40)]
        return await self.sort.acall(ticket=found[-1])


class Demanding(Sorting):
    """Its code asks more of an answer than its type says."""

    def forward(self, ticket: str) -> dspy.Prediction:
        found = self.sort(ticket=ticket)
        assert found.category == "stand-in", "no other is known"
        return found


class ItsOwnArgument(dspy.Module):
    """A constructor with an argument that may be left out."""

    signature = Sort

    def __init__(self, kind: type[dspy.Module] = dspy.ChainOfThought) -> None:
        super().__init__()
        self.sort = kind(Sort)

    def forward(self, ticket: str) -> dspy.Prediction:
        return self.sort(ticket=ticket)


class NeedsAnArgument(Sorting):
    def __init__(self, kind: type[dspy.Module]) -> None:
        super().__init__()
        self.sort = kind(Sort)


def needs_an_argument() -> dspy.Module:
    return NeedsAnArgument(dspy.Predict)


class OtherForward(dspy.ChainOfThought):
    """`forward` is its own, `aforward` is the one of the class that it is made from."""

    def __init__(self) -> None:
        super().__init__(Sort)

    def forward(self, ticket: str) -> dspy.Prediction:
        return dspy.Prediction(reasoning="none", category=f"by its own forward: {self.predict(ticket=ticket).category}")


class AnyArguments(Sorting):
    def forward(self, **kwargs: Any) -> dspy.Prediction:
        return self.sort(**kwargs)


class Keywords(dspy.Module):
    """Nothing shows what it takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = dspy.Predict(Sort), dspy.Predict("category -> answer")

    def forward(self, **kwargs: Any) -> dspy.Prediction:
        return self.second(category=self.first(**kwargs).category)


class GivesAText(Sorting):
    def forward(self, ticket: str) -> str:
        return self.sort(ticket=ticket).category


class NoForward(dspy.Module):
    signature = Sort

    def run(self, ticket: str) -> None:
        """Nobody calls it."""
