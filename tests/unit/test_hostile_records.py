"""What workers and callers may say to a pod's desk: none of it stops what waits beside it, or behind it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import orjson
import pytest

from despina.wire import FeedbackConfig, RuntimeConfig
from despina.wire.labels import LONGEST_LABEL, Label
from despina.wire.predictions import trace_id_of
from despina_runtime.feedback import desk as desks
from despina_runtime.feedback.desk import FeedbackDesk
from despina_runtime.feedback.line import Line
from despina_runtime.lines import LONGEST_LINE
from despina_runtime.process.supervisor import close_telemetry
from despina_runtime.telemetry.executed import END, WORDS
from despina_runtime.telemetry.redaction import Redactor
from despina_runtime.telemetry.traces import Traces
from tests.unit.test_optimization_end import BASE
from tests.unit.test_recording import POD, World, read_all, sorted_out

ATTEMPT = ["main", "openai/m", "classify", 0.0, 0.5, [7, 3], "0.1", ""]
WORD = b'[{"ticket": "it crashes"}, {"category": "bug"}, []]'


def origin(number: int | str, pod: str = POD, worker: str = "aaaaaaaa") -> str:
    return f"abcd1234-{pod}-{worker}-{int(time.time()):08x}-{number}"


def record(name: str, words: bytes = WORD, at: Any = 1.0, attempts: Any = (ATTEMPT,)) -> bytes:
    counted = [name, at, 0.5, "abcd1234", "7", "", 200, "", "main", 7, 3, "0.1", "", attempts]
    return orjson.dumps(counted) + WORDS + words + END


def said(name: str, **changes: Any) -> Label:
    fields = {"prediction": f"{name}-0123456789abcdef", "origin": name, "pod": POD, "trace_id": trace_id_of(name)}
    return Label(**{**fields, "at": 2.0, "label": "success", **changes})


class Desk:
    """A pod's desk that delivers to a file."""

    def __init__(self, folder: Any, **changes: Any) -> None:
        feedback = FeedbackConfig(**{"folder": str(folder / "out"), "sample_percent": 100, **changes})
        config: RuntimeConfig = BASE.model_copy(update={"feedback": feedback, "read_key": "k"})
        self._folder, self.desk = folder, FeedbackDesk(config, feedback, folder, POD)

    async def __aenter__(self) -> Desk:
        self.desk.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.desk.close(10)

    def delivered(self) -> list[dict[str, Any]]:
        lines = [line for file in (self._folder / "out").glob("*") for line in file.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def has_both(self, *names: str) -> bool:
        """Whether each prediction and its label are there; a file holds some lines twice."""
        found = {(line["type"], line["id"]) for line in self.delivered()}
        return found >= {(kind, trace_id_of(name)) for kind in ("prediction", "label") for name in names}


RECORDS = {
    "a number too large for most": record(origin("2"), b'[{"n": 1180591620717411303424}, null, []]'),
    "an attempt without tokens": record(origin("2"), attempts=[[*ATTEMPT[:5], [], "", ""]]),
    "no attempts": record(origin("2"), attempts=7),
    "a moment in words": record(origin("2"), at="x"),
    "a moment beyond all calendars": record(origin("2"), at=1e308),
    "words that are no list": record(origin("2"), b"7"),
    "no words": record(origin("2")).replace(WORDS, b""),
    "a number beyond all": record(origin("f" * 16)),
    "no number": record(origin("")),
    "a number that is none": record(origin("zz")),
    "no JSON": b"nonsense" + END,
    "nothing": b"",
    "another pod's": record(origin("2", pod="1f900a0102ff")),
    "mail beside a number too large": record(origin("2"), b'[{"n": 1180591620717411303424, "m": "a@b.de"}, 1, []]'),
}


@pytest.mark.parametrize("percent", [0, 100])
@pytest.mark.parametrize("sentence", RECORDS)
async def test_whatever_a_worker_says_what_is_beside_it_is_delivered(tmp_path, sentence, percent, monkeypatch):
    monkeypatch.setattr(desks, "LOOK_SECONDS", 0.01)
    before, beside, after = origin("1"), origin("3"), origin("4")
    async with Desk(tmp_path, sample_percent=percent) as own:
        end = b"" if RECORDS[sentence].endswith(END) else END
        own.desk.record(record(before) + RECORDS[sentence] + end + record(beside))
        for name in (before, beside):
            (reply,) = await own.desk.store([said(name)])
            assert reply.status == "Stored"
        own.desk.record(record(after))
        (reply,) = await own.desk.store([said(after)])
        assert reply.status == "Stored"
    assert own.has_both(before, beside, after)


async def test_a_callers_large_number_is_delivered_as_it_was(tmp_path):
    async with Desk(tmp_path) as own:
        own.desk.record(RECORDS["a number too large for most"])
    (found,) = own.delivered()
    assert found["inputs"] == {"n": 2**70}


LABELS = {
    "what no text can be": lambda: said(origin("2"), expected={"a": "\ud800"}),
    "the name of no prediction": lambda: said("abcd1234-x-zz"),
    "a number that is none": lambda: said(origin("zz")),
    "no pod": lambda: said(origin("2"), pod="z" * 12),
    "another pod": lambda: said(origin("2"), pod="1f900a0102ff"),
    "no moment": lambda: said(origin("2"), at=math.nan),
    "a moment that never comes": lambda: said(origin("2"), at=math.inf),
}


@pytest.mark.parametrize("sentence", LABELS)
async def test_a_label_that_is_none_keeps_no_other_from_being_stored(tmp_path, sentence):
    name = origin("1")
    async with Desk(tmp_path) as own:
        own.desk.record(record(name))
        with pytest.raises(ValueError, match=r"called so|surrogates|another pod|finite"):
            await own.desk.store([LABELS[sentence]()])
        (reply,) = await own.desk.store([said(name)])
        assert reply.status == "Stored"
    assert own.has_both(name)


async def test_many_long_labels_fit_into_lines():
    line, heard = Line(), []

    def say(what: dict[str, Any]) -> None:
        heard.append(json.dumps(what))
        line.heard(what["id"], [{"prediction_id": one["prediction"], "status": "Stored"} for one in what["labels"]])

    line.connect(say)
    longest = "é" * (LONGEST_LABEL // 2 - 100)  # each takes six letters on a line
    labels = [said(origin(f"{n:x}"), expected={"a": longest}) for n in range(256)]
    replies = await line.store(labels)
    assert [r.prediction_id for r in replies] == [one.prediction for one in labels]
    assert max(map(len, heard)) < LONGEST_LINE


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "a@" + "b" * 200_000, "a@b." * 50_000, "1 " * 100_000, "token " * 30_000]
)
def test_what_is_looked_through_is_long_and_takes_no_minute(text):
    began = time.monotonic()
    Redactor()(text)
    assert time.monotonic() - began < 20


def test_of_a_key_that_stands_there_twice_neither_value_is_kept_if_one_is_hidden():
    batch = record(origin("1"), b'[{"ticket": "jane@example.com", "ticket": "x"}, null, []]')
    found = sorted_out(batch)
    assert b"jane" not in b"".join(block.body for block in found[1])
    (executed,) = read_all(found).values()
    assert executed.inputs == {"ticket": "x"}


def test_what_the_program_changes_after_its_answer_changes_no_record():
    world, history, outputs = World(), ["of A"], {"category": ["bug"]}
    world.request(inputs={"history": history}, outputs=outputs)
    history.append("of B")
    outputs["category"] += ["other"]
    outputs["more"] = 1
    (found,) = world.executed()
    assert found.spans[0].facts == {"inputs": {"history": ["of A"]}, "outputs": {"category": ["bug"]}}


def test_a_batch_for_which_there_is_no_room_is_offered_again():
    world = World()
    names = [world.request() for _ in range(3)]
    world.recorder.hand_over(lambda _: False)
    names.append(world.request())
    assert [one.origin for one in world.executed()] == names


def test_a_header_that_is_no_trace_is_not_recorded():
    world = World()
    world.request(trace=(("traceparent", "jane@example.com"),))
    world.request(trace=(("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),))
    assert [one.traceparent for one in world.executed()] == ["", f"00-{'ab' * 16}-{'cd' * 8}-01"]


async def test_what_is_said_at_the_end_is_stored_and_its_trace_is_kept(tmp_path, caplog):
    name, own = origin("1"), Desk(tmp_path)
    traces = Traces(BASE, str)
    own.desk.on_spoken = traces.mark
    own.desk.start()
    own.desk.record(record(name))
    storing = asyncio.create_task(own.desk.store([said(name)]))
    while not own.desk._labels:
        await asyncio.sleep(0)
    await close_telemetry(own.desk, traces, 10)
    assert [reply.status for reply in await storing] == ["Stored"]
    assert [one.why for one in traces.told().traces] == ["marked"]
    assert own.has_both(name)
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []


async def test_what_is_spoken_of_before_its_record_came_is_kept_as_well(tmp_path):
    name, own = origin("1"), Desk(tmp_path)
    traces = Traces(BASE, str)
    own.desk.on_spoken = traces.mark
    own.desk.start()
    await own.desk.store([said(name)])
    own.desk.record(record(name))
    async with asyncio.timeout(10):
        while not traces.told().traces:
            await asyncio.sleep(0.01)
    assert [one.why for one in traces.told().traces] == ["marked"]
    await close_telemetry(own.desk, traces, 10)


async def test_a_trace_that_cannot_be_kept_makes_no_label_lost(tmp_path, caplog):
    def fail(_: object) -> None:
        raise RuntimeError

    name, own = origin("1"), Desk(tmp_path)
    own.desk.on_spoken = fail
    async with own:
        own.desk.record(record(name))
        for _ in range(2):
            assert [reply.status for reply in await own.desk.store([said(name)])] == ["Stored"]
        assert own.desk.report().trouble == ""
    assert own.has_both(name)
    assert {line.getMessage() for line in caplog.records if line.levelname == "ERROR"} == {
        "Traces that labels are about are not kept error=RuntimeError"
    }
