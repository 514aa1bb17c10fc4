"""What a predictor does with an answer that cannot be used: it asks once more, and says what was wrong."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Literal

import dspy
import pytest
from dspy.adapters.utils import parse_value
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel

from despina_runtime.lm.adapters import ADAPTERS, COLLECTED, EachItsOwn
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
    "one that cannot be read": (UNREADABLE, "verdict: it could not be read in the format that was asked for"),
    "one that is out of bounds": (OUT_OF_BOUNDS, "score: Input should be less than or equal to 1"),
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
