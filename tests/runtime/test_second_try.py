"""What a predictor does with an answer that cannot be used: it asks once more, and says what was wrong."""

from __future__ import annotations

import asyncio
import json
import math
import time
from datetime import date
from enum import Enum
from typing import Annotated, Literal

import dspy
import pytest
from dspy.adapters.utils import parse_value
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel, Field, field_validator

from despina_runtime.lm.adapters import ADAPTERS, COLLECTED, EachItsOwn, unreadable
from despina_runtime.lm.meter import Meter
from despina_runtime.memory import settle


class Judged(dspy.Signature):
    question: str = dspy.InputField()
    verdict: Literal["yes", "no"] = dspy.OutputField()
    score: float = dspy.OutputField(ge=0, le=1)


class Scripted(dspy.BaseLM):
    """Gives one answer after the other, and each is on its way to the cache, as a served LM's."""

    def __init__(self, adapter: str, *answers: dict[str, str]) -> None:
        super().__init__(model="scripted", cache=False)
        self.adapter = adapter
        self.answers = [*answers]
        self.prompts: list[str] = []
        self.streams: list[object] = []

    def __call__(self, prompt=None, *, messages=None, **kwargs):
        self.prompts.append(messages[-1]["content"])
        self.streams.append(dspy.settings.send_stream)
        COLLECTED.get().append((f"key {len(self.prompts)}", b"[]"))
        said = self.answers.pop(0)
        if self.adapter == "JSON":
            return [json.dumps(said)]
        return ["".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in said.items()) + "[[ ## completed ## ]]"]

    async def acall(self, prompt=None, *, messages=None, **kwargs):
        return self(messages=messages)


GOOD, UNREADABLE = {"verdict": "yes", "score": "0.5"}, {"verdict": "perhaps", "score": "0.5"}
OUT_OF_BOUNDS = {"verdict": "yes", "score": "7"}
REASONS = {
    "one that cannot be read": (UNREADABLE, "\n- verdict: Input should be 'yes' or 'no'\nAnswer again"),
    "one that is out of bounds": (OUT_OF_BOUNDS, "\n- score: Input should be less than or equal to 1\nAnswer again"),
}


def ask(lm: Scripted, adapter=None, is_async: bool = False) -> tuple[dspy.Prediction, Meter]:
    meter, predict = Meter(math.inf), dspy.Predict(Judged)
    with dspy.context(lm=lm, adapter=adapter or ADAPTERS[lm.adapter](), meter=meter, send_stream="the stream"):
        return asyncio.run(predict.acall(question="?")) if is_async else predict(question="?"), meter


@pytest.mark.parametrize("sentence", REASONS)
@pytest.mark.parametrize("is_async", [False, True], ids=["called", "awaited"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_lm_is_asked_once_more_and_told_what_was_wrong(name, is_async, sentence):
    bad, note = REASONS[sentence]
    lm = Scripted(name, bad, GOOD)
    answer, meter = ask(lm, is_async=is_async)
    assert (answer.verdict, answer.score) == ("yes", 0.5)
    assert [note in prompt for prompt in lm.prompts] == [False, True]
    assert lm.streams == ["the stream", None]
    assert [key for key, _ in meter.pending] == ["key 2"]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Event(BaseModel):
    title: str
    start: date
    pet: Cat | Dog | None = Field(default=None, discriminator="kind")
    extra: dict[str, int] = {}

    @field_validator("title")
    @classmethod
    def is_decent(cls, title: str) -> str:
        if title == "plain":
            raise ValueError("titles begin with a capital")
        if title == "quoted":
            raise ValueError(f"{title.upper()} is not one")
        return title


class Read(dspy.Signature):
    mail: str = dspy.InputField()
    events: list[Event] = dspy.OutputField()
    urgency: Literal["low", "high"] = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    score: float = dspy.OutputField(ge=0, le=1)
    counts: dict[str, int] = dspy.OutputField(default={})


EVENT = {"title": "A", "start": "2026-01-31"}
FITS = {"events": json.dumps([EVENT]), "urgency": "low", "colour": "red", "score": "0.5"}
NOTHING = ["the answer could not be read in the format that was asked for"]
UNFIT: dict[str, tuple[dict[str, str], list[str]]] = {
    "a word that is none of the words": ({**FITS, "urgency": "HIGH"}, ["urgency: Input should be 'low' or 'high'"]),
    "no member": ({**FITS, "colour": "green"}, ["colour: Input should be one of 'red', 'blue'"]),
    "two, and one out of bounds": (
        {**FITS, "urgency": "HIGH", "colour": "green", "score": "7"},
        [
            "score: Input should be less than or equal to 1",
            "urgency: Input should be 'low' or 'high'",
            "colour: Input should be one of 'red', 'blue'",
        ],
    ),
    "one that is missing": ({k: v for k, v in FITS.items() if k != "urgency"}, ["urgency: it is missing"]),
    "what is no list": ({**FITS, "events": "tomorrow"}, ["events: Input should be a valid list"]),
    "something within": (
        {**FITS, "events": json.dumps([EVENT, {"title": "B"}])},
        ["events.1.start: Field required"],
    ),
    "a key that the LM made up": ({**FITS, "counts": '{"secret": "many"}'}, [
        "counts: Input should be a valid integer, unable to parse string as an integer"]),
    "words of the program's own": (
        {**FITS, "events": json.dumps([{**EVENT, "title": "plain"}])},
        ["events.0.title: Value error, titles begin with a capital"],
    ),
    "words of the program's own that quote": (
        {**FITS, "events": json.dumps([{**EVENT, "title": "quoted"}])},
        ["events.0.title: could not be read as list[Event]"],
    ),
    "words of pydantic's that quote": (
        {**FITS, "events": json.dumps([{**EVENT, "pet": {"kind": "secret"}}])},
        ["events.0.pet: could not be read as list[Event]"],
    ),
    "more than are told": (
        {**FITS, "events": json.dumps([{"title": "A"}] * 9)},
        ["; ".join([*(f"events.{n}.start: Field required" for n in range(5)), "events: 9 errors in all"])],
    ),
    "other fields": ({"category": "billing"}, NOTHING),
}  # fmt: skip


@pytest.mark.parametrize("sentence", UNFIT)
@pytest.mark.parametrize("name", ADAPTERS)
def test_only_what_failed_is_named_and_what_it_may_be(name, sentence):
    answer, notes = UNFIT[sentence]
    lm = Scripted(name, answer, answer)
    with pytest.raises(AdapterParseError) as caught, dspy.context(lm=lm, adapter=ADAPTERS[name](), meter=Meter(1)):
        dspy.Predict(Read)(mail="?")
    assert [*unreadable(caught.value).values()] == notes
    told = "An earlier answer to this was rejected:\n" + "".join(f"- {note}\n" for note in notes)
    assert told in lm.prompts[1]


@pytest.mark.parametrize("text", ["", "I cannot help with that.", "[" * 2000, "{" * 5000])
@pytest.mark.parametrize("name", ADAPTERS)
def test_of_an_answer_without_any_field_one_thing_is_said(name, text):
    with pytest.raises(AdapterParseError) as caught:
        ADAPTERS[name]().parse(Read, text)
    assert [*unreadable(caught.value).values()] == NOTHING


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_long_answer_that_fits_nowhere_is_read_once_and_in_bounded_time(name):
    """4 MiB, the longest that is read: each field within its own bounds, and not again to say what is wrong."""
    long = "[" + '{"title":' * 2**17 + "x"
    said = {**FITS, "events": long, "colour": long, "urgency": long, "score": long}
    text = json.dumps(said) if name == "JSON" else "".join(f"[[ ## {k} ## ]]\n{v}\n" for k, v in said.items())
    began = time.monotonic()
    with pytest.raises(AdapterParseError) as caught:
        ADAPTERS[name]().parse(Read, text)
    assert time.monotonic() - began < 2
    assert {*unreadable(caught.value)} == {"events", "colour", "urgency", "score"}
    assert sum(map(len, unreadable(caught.value).values())) < 1000


def test_of_more_bounds_broken_than_are_gathered_the_number_is_told():
    many = dspy.Signature("q -> n").append("ns", dspy.OutputField(min_length=1), list[Annotated[int, Field(le=1)]])
    lm = Scripted("JSON", {"n": "x", "ns": []}, {"n": "x", "ns": [1]})
    lm.answers[0]["ns"] = [2] * 2000
    with dspy.context(lm=lm, adapter=ADAPTERS["JSON"](), meter=Meter(1)):
        assert dspy.Predict(many)(q="?").ns == [1]
    assert "\n- ns: 2000 errors in all\n" in lm.prompts[1]


def test_an_adapter_of_dspys_own_reads_as_ever():
    with pytest.raises(AdapterParseError, match="Failed to parse field urgency"):
        dspy.JSONAdapter().parse(Read, json.dumps({**FITS, "urgency": "HIGH"}))


class One(BaseModel):
    text: str


class Another(One):
    pass


@pytest.mark.parametrize("before", [One | Another, Another | One], ids=["one first", "another first"])
def test_a_type_is_read_as_it_is_written_whichever_was_read_before(before):
    settle()  # forgets all types
    parse_value('{"text": "x"}', before)
    assert [type(parse_value('{"text": "x"}', kind)) for kind in (One | Another, Another | One)] == [One, Another]


def test_where_adapters_differ_each_asks_as_its_lm_wants_it():
    lm = Scripted("JSON", UNREADABLE, GOOD)
    assert ask(lm, EachItsOwn())[0].verdict == "yes"
    assert len(lm.prompts) == 2


def test_a_good_answer_is_asked_for_once():
    lm = Scripted("Chat", GOOD)
    _, meter = ask(lm)
    assert (len(lm.prompts), len(meter.pending)) == (1, 1)


def test_there_is_no_third_try():
    """What cannot be read is the program's to catch; what is out of bounds it gets, and its own outputs are checked."""
    lm = Scripted("Chat", UNREADABLE, UNREADABLE, GOOD)
    with pytest.raises(AdapterParseError):
        ask(lm)
    assert len(lm.answers) == 1
    lm = Scripted("Chat", OUT_OF_BOUNDS, UNREADABLE, GOOD)
    with pytest.raises(AdapterParseError):
        ask(lm)
    assert len(lm.answers) == 1
    lm = Scripted("Chat", OUT_OF_BOUNDS, OUT_OF_BOUNDS, GOOD)
    answer, meter = ask(lm)
    assert (answer.score, len(lm.answers), meter.pending) == (7, 1, [])
