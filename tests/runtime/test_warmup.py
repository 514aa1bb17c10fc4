"""A program is tried out once before it serves, with made-up values that fit its types; nobody is asked."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, NamedTuple

import dspy
import pytest
from dspy.adapters import XMLAdapter
from pydantic import BaseModel, Field

from despina.wire import FailureReason, WarmUpConfig
from despina_runtime import compat, execute_tool
from despina_runtime.program.interface import interface_of
from despina_runtime.program.load import Loaded
from despina_runtime.program.unservable import ProgramError
from despina_runtime.program.warmup import WARMUP_INCONCLUSIVE, rehearse, warm_up


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Part(BaseModel):
    code: str = Field(pattern=r"^[A-Z]{3}-\d+$")
    parts: list[Part] = []
    within: Part | None = None


TYPES: dict[str, Any] = {
    "a moment": datetime.datetime,
    "a day": datetime.date,
    "a time of day": datetime.time,
    "a span": datetime.timedelta,
    "a UUID": uuid.UUID,
    "a pair": tuple[int, str],
    "a model that holds itself, with a pattern": Part,
    "models": list[Part],
    "an enumeration": Level,
    "words": Literal["a", "b"],
    "days by word": dict[Literal["a"], datetime.date],
    "anything": Any,
    "a document": dict,
    "documents": list[dict[str, Any]],
    "what may be missing": Part | None,
    "bounded text": Annotated[str, Field(min_length=40, max_length=42)],
    "a bounded number": Annotated[float, Field(gt=0, lt=0.1)],
    "an image": dspy.Image,
    "images": list[dspy.Image],
    "a recording": dspy.Audio,
    "a file": dspy.File,
    "code": dspy.Code["python"],
}


def with_output(kind: Any) -> dspy.Predict:
    return dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "x": (kind, dspy.OutputField())}, "Do it."))


def with_input(kind: Any) -> dspy.Predict:
    return dspy.Predict(dspy.Signature({"x": (kind, dspy.InputField()), "a": (str, dspy.OutputField())}, "Do it."))


async def tried(program: dspy.Module, config: WarmUpConfig | None = None, **loaded: Any) -> Loaded:
    return await warm_up(Loaded(program, interface_of(program), **loaded), config or WarmUpConfig())


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES.keys())
@pytest.mark.parametrize("program", [with_output, with_input])
async def test_values_are_made_up_for_every_type(program, kind):
    assert (await tried(program(kind))).remark == ""


class Demanding(dspy.Module):
    """It asks more of answers than its signature says."""

    signature = dspy.Signature("q -> x")

    def __init__(self, demand: Any) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought("q -> x, xs: list[str]")
        self.demand = demand
        self.ran = 0

    def forward(self, q: str) -> dspy.Prediction:
        self.ran += 1
        return dspy.Prediction(x=str(self.demand(self.answer(q=q))))


class DemandingOnTheLoop(Demanding):
    async def aforward(self, q: str) -> dspy.Prediction:
        self.ran += 1
        return dspy.Prediction(x=str(self.demand(await self.answer.acall(q=q))))


def asserting(prediction: Any) -> None:
    assert prediction.x == "yes"


@pytest.mark.parametrize("kind", [Demanding, DemandingOnTheLoop])
@pytest.mark.parametrize(
    "demand", [lambda p: int(p.x), lambda p: json.loads(p.x), asserting], ids=["a number", "JSON", "yes"]
)
async def test_a_program_that_raises_on_made_up_answers_is_only_remarked_on(kind, demand):
    loaded = await tried(kind(demand))
    assert loaded.remark.startswith(f"{WARMUP_INCONCLUSIVE}: ")
    assert "spec.warmUp.outputs" in loaded.remark
    assert "input_example=" in loaded.remark
    assert loaded.is_async == (kind is DemandingOnTheLoop)


async def test_a_long_error_leaves_room_for_the_advice():
    loaded = await tried(Demanding(lambda _: int("x" * 4000)))
    assert len(loaded.remark) <= 1024
    assert "spec.warmUp.outputs" in loaded.remark


async def test_recorded_answers_take_the_place_of_made_up_ones():
    recorded = WarmUpConfig(outputs={"answer": {"x": "42"}})
    assert (await tried(Demanding(lambda p: int(p.x)), recorded)).remark == ""
    assert (await tried(DemandingOnTheLoop(lambda p: int(p.x)), recorded)).remark == ""


async def test_recorded_answers_of_a_module_that_there_is_not_are_refused():
    recorded = WarmUpConfig(outputs={"anwser": {"x": "42"}})
    with pytest.raises(
        ProgramError, match=r"spec\.warmUp\.outputs: the program has no anwser; it has answer"
    ) as caught:
        await tried(Demanding(str), recorded)
    assert caught.value.failure.reason == FailureReason.UNKNOWN_MODULE


async def test_an_item_of_a_list_is_there():
    assert (await tried(Demanding(lambda p: p.xs[0]))).remark == ""


async def test_an_example_that_does_not_fit_is_remarked_on():
    assert WARMUP_INCONCLUSIVE in (await tried(with_input(int), example={"x": "many"})).remark


async def test_a_program_is_not_run_where_that_is_disabled():
    program = DemandingOnTheLoop(lambda p: int(p.x))
    loaded = await tried(program, WarmUpConfig(is_enabled=False))
    assert (program.ran, loaded.remark, loaded.is_async) == (0, "", True)


async def test_loops_over_answers_come_to_an_end():
    def until_it_is_so(_: Any) -> str:
        decide = dspy.Predict("q -> more: bool, done: bool")
        while decide(q="q").more:
            pass
        while not decide(q="q").done:
            pass
        return "done"

    assert (await tried(Demanding(until_it_is_so))).remark == ""


class Xml(dspy.Module):
    """It has an adapter of its own."""

    signature = dspy.Signature("q -> x")

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("q -> x, day: datetime.date", custom_types={"datetime": datetime})

    def forward(self, q: str) -> dspy.Prediction:
        with dspy.context(adapter=XMLAdapter()):
            return self.answer(q=q)

    async def aforward(self, q: str) -> dspy.Prediction:
        with dspy.context(adapter=XMLAdapter()):
            return await self.answer.acall(q=q)


async def test_an_adapter_of_the_programs_own_reads_what_it_asked_for():
    loaded = await tried(Xml())
    assert (loaded.remark, loaded.is_async) == ("", True)


async def test_react_calls_no_tool():
    called = []

    def dangerous(x: str) -> str:
        """Deletes everything."""
        called.append(x)
        return "done"

    for agent in (dspy.ReAct, dspy.ReActV2):
        for outputs in ("answer", "answer, days: list[int]"):
            loaded = await tried(agent(f"question -> {outputs}", tools=[dangerous]))
            assert (agent, loaded.remark) == (agent, "")
    assert called == []


@pytest.mark.parametrize("kind", [dspy.Refine, dspy.BestOfN])
async def test_every_try_of_a_module_that_tries_several_times_is_made(kind, capsys):
    judged = []

    def nothing_is_perfect(_: Any, prediction: Any) -> float:
        judged.append(prediction)
        return 0.0

    program = kind(dspy.Predict("q -> x"), N=3, reward_fn=nothing_is_perfect, threshold=1.0)
    loaded = await warm_up(Loaded(program, interface_of(program.module)))
    assert (loaded.remark, len(judged), program.fail_count) == ("", 3, 3)
    assert "failed" not in capsys.readouterr().out


class Asyncified(dspy.Module):
    """It has only `aforward`, and what blocks runs in threads."""

    signature = dspy.Signature("q -> x")

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("q -> x")

    async def aforward(self, q: str) -> dspy.Prediction:
        await asyncio.to_thread(self.answer, q=q)
        return await dspy.asyncify(self.answer)(q=q)


async def test_a_program_that_awaits_threads_runs_on_the_event_loop():
    assert (await tried(Asyncified())).is_async


class Blocking(dspy.Module):
    """Its `aforward` waits for threads before it raises."""

    signature = dspy.Signature("q -> x")

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("q -> x")

    def forward(self, q: str) -> dspy.Prediction:
        with ThreadPoolExecutor() as pool:
            assert pool.submit(lambda: 1).result() == 1
        return dspy.Prediction(x=int(self.answer(q=q).x))

    async def aforward(self, q: str) -> dspy.Prediction:
        return self.forward(q)


async def test_what_blocks_the_loop_runs_in_threads_also_if_it_raises_there():
    loaded = await tried(Blocking())
    assert not loaded.is_async
    assert WARMUP_INCONCLUSIVE in loaded.remark


async def test_a_tool_is_never_called_with_made_up_arguments_through_a_predictor_with_tools():
    called = []

    def delete(path: str) -> None:
        """Deletes a file."""
        called.append(path)

    class Calling(dspy.Module):
        signature = dspy.Signature("q -> x")

        def __init__(self) -> None:
            super().__init__()
            fields = {
                "q": (str, dspy.InputField()),
                "tools": (list[dspy.Tool], dspy.InputField()),
                "calls": (dspy.ToolCalls, dspy.OutputField()),
            }
            self.choose = dspy.Predict(dspy.Signature(fields, "Choose."))

        def forward(self, q: str) -> dspy.Prediction:
            for call in self.choose(q=q, tools=[dspy.Tool(delete)]).calls.tool_calls:
                call.execute(functions=[delete])
            return dspy.Prediction(x="x")

    assert (await tried(Calling())).remark == ""
    assert called == []


class Keeping(Demanding):
    """What it keeps is its own."""

    async def aforward(self, q: str) -> dspy.Prediction:
        self.kept = asyncio.get_running_loop()
        return dspy.Prediction(x=str(self.demand(await self.answer.acall(q=q))))


class Expensive(dspy.BaseLM):
    def __init__(self) -> None:
        super().__init__(model="expensive")
        self.asked = 0

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        self.asked += 1
        return ["[[ ## x ## ]]\n42\n[[ ## xs ## ]]\n[]"]


def said_of(program: dspy.Module, example: dict[str, Any] | None = None) -> str:
    return rehearse(program, interface_of(program), example)


def test_whoever_logs_a_program_is_told_what_a_pod_would_say():
    said = said_of(Demanding(lambda p: int(p.x)))
    assert said.startswith(f"{WARMUP_INCONCLUSIVE}: ValueError: ")
    assert "spec.warmUp.outputs" in said
    assert said_of(Demanding(str)) == ""
    assert said_of(Asyncified()) == ""


class Pooling(dspy.Module):
    """Its threads are its own."""

    signature = dspy.Signature("q -> x")

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("q -> x")

    def forward(self, q: str) -> dspy.Prediction:
        with ThreadPoolExecutor() as pool:
            return pool.submit(self.answer, q=q).result()


class Stuck(Asyncified):
    async def aforward(self, q: str) -> dspy.Prediction:
        return self.answer(q=q)


def test_whoever_logs_a_program_that_cannot_be_served_is_told_so_and_no_lm_is_asked():
    lm = Expensive()
    program = Pooling()
    program.set_lm(lm)
    with dspy.context():
        compat.process_settings["lm"] = lm
        try:
            assert "WarmupFailed: the manifest's LMs and tools are known only where" in said_of(program)
            assert "WarmupFailed: aforward calls modules without await" in said_of(Stuck())
        finally:
            compat.process_settings["lm"] = None
    assert lm.asked == 0
    assert program.answer.lm is lm


def test_a_program_that_is_logged_stays_as_it_was():
    program = Keeping(str)
    assert said_of(program) == ""
    assert (program.ran, hasattr(program, "kept")) == (0, False)


class Calling(dspy.Module):
    signature = dspy.Signature("q -> x")

    def forward(self, q: str) -> dspy.Prediction:
        return dspy.Prediction(x=execute_tool("nowhere", query=q))


def test_a_tool_that_is_not_known_where_a_program_is_logged_says_nothing():
    assert said_of(Calling()) == ""


class Unanswering(dspy.Module):
    """What its subclasses return has no outputs, or has none now and then."""

    signature = dspy.Signature("q -> x")

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("q -> x, sure: bool, kind: Literal['a', 'b'], data: dict[str, str]")


class Text(Unanswering):
    def forward(self, q: str) -> Any:
        return self.answer(q=q).x


class Word(Unanswering):
    async def aforward(self, q: str) -> Any:
        return (await self.answer.acall(q=q)).kind


class Formatted(Unanswering):
    def forward(self, q: str) -> Any:
        if self.answer(q=q).sure:
            return f"sure of {q}"
        return "not sure"


class Nothing(Unanswering):
    def forward(self, q: str) -> None:
        def inner() -> Any:
            return self.answer(q=q)

        inner()


NEVER = {
    Text: "Text.forward returns str, and its code gives nothing that has outputs",
    Word: "Word.aforward returns str, and",
    Formatted: "Formatted.forward returns str, and",
    Nothing: "Nothing.forward returns None, and",
}


@pytest.mark.parametrize("kind", NEVER)
async def test_a_program_that_can_only_return_what_has_no_outputs_is_refused(kind):
    with pytest.raises(ProgramError, match=NEVER[kind]) as caught:
        await tried(kind())
    assert caught.value.failure.reason == FailureReason.WARMUP_FAILED
    assert "dspy.Prediction(x=...)" in str(caught.value)


@pytest.mark.parametrize("kind", NEVER)
def test_and_it_is_not_logged(kind):
    with pytest.raises(ProgramError, match=NEVER[kind]):
        said_of(kind())


class NowAndThen(Unanswering):
    """It returns an answer where an LM says what the warm-up's does not."""

    def forward(self, q: str) -> Any:
        found = self.answer(q=q)
        if found.x == "known":
            return found
        return "not known"


class SureOnly(Unanswering):
    def forward(self, q: str) -> Any:
        found = self.answer(q=q)
        if found.x == "known":
            return found
        return None


class ByName(Unanswering):
    def forward(self, q: str) -> Any:
        found = self.answer(q=q)
        return found if found.x == "known" else found.x


class Misspelt(Unanswering):
    def forward(self, q: str) -> Any:
        return dspy.Prediction(y=self.answer(q=q).x)


class Documents(Unanswering):
    def forward(self, q: str) -> Any:
        return {"y": self.answer(q=q).x}


class OfAMethod(Unanswering):
    async def aforward(self, q: str) -> Any:
        return self.given((await self.answer.acall(q=q)).x)

    @staticmethod
    def given(found: str) -> Any:
        return found if found != "known" else dspy.Prediction(x=found)


LACKS = {
    NowAndThen: "x is missing: the program returned str",
    SureOnly: "x is missing: the program returned NoneType",
    ByName: "x is missing: the program returned str",
    Misspelt: "x is missing: the program returned Prediction with y",
    Documents: "x is missing: the program returned dict",
    OfAMethod: "x is missing: the program returned str",
}


@pytest.mark.parametrize("kind", LACKS)
async def test_a_program_that_might_return_its_outputs_for_other_answers_is_only_remarked_on(kind):
    loaded = await tried(kind())
    assert loaded.remark.startswith(f"{WARMUP_INCONCLUSIVE}: {LACKS[kind]};")
    assert "made-up" not in loaded.remark
    assert await asyncio.to_thread(said_of, kind()) == loaded.remark


class Named(Unanswering):
    def forward(self, q: str) -> Any:
        return NamedAnswer(self.answer(q=q).x)


class NamedAnswer(NamedTuple):
    x: str


class Table(Unanswering):
    signature = dspy.Signature("q -> x: int | None, y: str")

    def forward(self, q: str) -> Any:
        return {"y": self.answer(q=q).x}


@pytest.mark.parametrize("kind", [Named, Table])
async def test_outputs_may_be_those_of_a_named_tuple_or_of_a_dictionary(kind):
    assert (await tried(kind())).remark == ""


async def test_a_misspelt_attribute_of_a_prediction_is_not_laid_on_made_up_values():
    remark = (await tried(Demanding(lambda p: p.reasning))).remark
    assert remark.startswith(f"{WARMUP_INCONCLUSIVE}: AttributeError: 'Prediction' object has no attribute 'reasning'")
    assert "only reasoning, x, xs; callers get an error" in remark
    assert "made-up" not in remark


async def test_an_attribute_of_what_was_made_up_may_be_there_in_what_an_lm_gives():
    assert "if made-up values are the cause" in (await tried(Demanding(lambda p: p.x.code))).remark


class NoForward(dspy.Module):
    signature = dspy.Signature("q -> x")

    def run(self, q: str) -> None:
        """Nobody calls it."""


class CalledItsOwnWay(NoForward):
    def __call__(self, q: str) -> dspy.Prediction:
        return dspy.Prediction(x=q)


async def test_a_module_that_nothing_can_call_has_no_interface():
    with pytest.raises(ProgramError, match="NoForward has neither forward nor aforward") as caught:
        interface_of(NoForward())
    assert caught.value.failure.reason == FailureReason.SIGNATURE_UNKNOWN
    assert (await tried(CalledItsOwnWay())).remark == ""
