"""What is executed, on its way from a worker to the pod's disk: written down late, read seldom, and complete."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from despina.wire import FeedbackConfig
from despina_runtime.feedback import otlp
from despina_runtime.feedback.sorting import Sorting
from despina_runtime.feedback.spool import Block, Kept, KeptLabel, Spool
from despina_runtime.lm.meter import LMCall
from despina_runtime.pipeline.call import Answer, Call
from despina_runtime.pipeline.recorded import Recorded
from despina_runtime.problem import Problem
from despina_runtime.telemetry.executed import END, WORDS, Executed, read_executed
from despina_runtime.telemetry.prediction import Names
from despina_runtime.telemetry.recorder import LONGEST, MOST_WAITING, Record, Recorder
from despina_runtime.telemetry.redaction import HIDDEN, Redactor

POD = "1f900a010203"
PREDICTOR = object()
PROGRAM: Any = SimpleNamespace(
    named_predictors=lambda: [("classify", PREDICTOR)], named_sub_modules=lambda: [("self.classify", PREDICTOR)]
)


class World:
    """One worker's requests, and what it hands over."""

    def __init__(self) -> None:
        self.recorder, self.names = Recorder(), Names(b"key", "abcd1234", POD)

    def request(
        self,
        body: bytes = b'{"ticket": "it crashes"}',
        inputs: Any = None,
        outputs: Any = None,
        trace: tuple[tuple[str, str], ...] = (),
    ) -> str:
        """One that asks its predictor once, which asks its LM twice; the prediction's name."""

        async def then(call: Call) -> Answer:
            call.meter.calls += [
                LMCall("main", "openai/m", "classify", 0.0, 0.25, (0, 0), "", "LMError"),
                LMCall("main", "openai/m", "classify", 0.0, 0.5, (7, 3), "0.1", ""),
            ]
            call.steps.append((PREDICTOR, inputs or {"ticket": "it crashes"}, outputs or {"category": "bug"}))
            return Answer(b'{"category": "bug"}')

        recorded = Recorded(self.recorder, self.names, PROGRAM, ("abcd1234", "7", ""), then)
        call = Call(body, 0.0, "main")
        call.trace = trace
        return asyncio.run(recorded(call)).origin or ""

    def handed_over(self) -> bytes:
        """All so far, as one batch."""
        found: list[bytes] = []
        self.recorder.hand_over(lambda batch: found.append(batch) is None)
        return b"".join(found)

    def executed(self) -> list[Executed]:
        return [read_executed(record) for record in self.handed_over().split(END)[:-1]]


def test_a_record_says_what_was_executed():
    world = World()
    name = world.request()
    (found,) = world.executed()
    assert (found.origin, found.revision, found.version, found.status, found.lm) == (name, "abcd1234", "7", 200, "main")
    assert (found.inputs, found.outputs, found.is_redacted) == ({"ticket": "it crashes"}, {"category": "bug"}, False)
    module, *attempts = found.spans
    assert (module.name, module.seconds) == ("classify", 0.5), "as long as the LM's answer took"
    assert module.facts == {"inputs": {"ticket": "it crashes"}, "outputs": {"category": "bug"}}
    assert [a.facts["error"] for a in attempts] == ["LMError", ""]
    assert attempts[1].facts["input_tokens"] == 7


def test_what_is_delivered_again_is_the_same():
    world = World()
    world.request()
    (found,) = world.executed()
    first, again = (orjson.loads(orjson.dumps(otlp.traces("p", "ns", [found]))) for _ in range(2))
    assert first == again
    root, own, *parts = first["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {"key": "despina.model_version", "value": {"stringValue": "7"}} in root["attributes"]
    assert own["parentSpanId"] == root["spanId"]
    assert [part["parentSpanId"] for part in parts] == [own["spanId"]] * 3


@pytest.mark.parametrize("parent", [-7, 99])
def test_what_says_that_nobody_called_it_was_called_by_the_prediction(parent):
    world = World()
    world.request()
    (found,) = world.executed()
    spans = [span._replace(parent=parent) for span in found.spans]
    told = otlp.traces("p", "ns", [found._replace(spans=spans)])["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["parentSpanId"] for span in told[2:]] == [told[1]["spanId"]] * len(spans)


def test_each_attempt_stands_in_the_call_that_made_it_whoever_asked_before():
    world, outer, inner = World(), object(), object()
    modules = [("self", outer), ("self.inner", inner)]
    program: Any = SimpleNamespace(named_predictors=list, named_sub_modules=lambda: modules)
    ways = [(outer, inner), (outer,), (), (outer, inner)]

    async def then(call: Call) -> Answer:
        call.meter.calls.append(LMCall("main", "openai/m", "", 0.0, 0.25, (0, 0), "", "", ways[len(seen)]))
        return Answer(b"{}")

    recorded, seen = Recorded(world.recorder, world.names, program, ("abcd1234", "7", ""), then), list[str]()
    for _ in ways:
        seen.append(asyncio.run(recorded(Call(b"{}", 0.0, "main"))).origin or "")
    found = [[(span.kind, span.name, span.parent) for span in one.spans] for one in world.executed()]
    deep = [("module", "", -1), ("module", "inner", 0), ("lm", "main", 1)]
    assert found == [deep, [("module", "", -1), ("lm", "main", 0)], [("lm", "main", -1)], deep]


def test_what_waits_to_be_written_holds_nothing_else_of_its_request():
    world = World()

    async def then(call: Call) -> Answer:
        held.append(weakref.ref(call))
        return Answer(b"{}")

    held: list[weakref.ref[Any]] = []
    asyncio.run(Recorded(world.recorder, world.names, PROGRAM, ("abcd1234", "7", ""), then)(Call(b"{}", 0.0, "main")))
    gc.collect()
    assert [one() for one in held] == [None]
    assert [one.outputs for one in world.executed()] == [{}]


def test_what_failed_is_recorded_with_its_problem():
    world = World()

    async def then(_: Call) -> Answer:
        raise Problem(502, "lm-failure", "The language model could not be used")

    recorded = Recorded(world.recorder, world.names, PROGRAM, ("abcd1234", "7", ""), then)
    with pytest.raises(Problem):
        asyncio.run(recorded(Call(b"{}", 0.0, "main")))
    (found,) = world.executed()
    assert (found.status, found.problem, found.outputs) == (502, "lm-failure", None)


class Odd:
    def __str__(self) -> str:
        return "odd"


def test_values_of_any_type_are_written_as_far_as_they_can_be():
    world = World()
    given = {"a": float("nan"), "b": {1: "one"}, "c": 2**70, "d": Odd(), "e": {"x"}, "f": b"bytes"}
    world.request(inputs=given)
    (found,) = world.executed()
    inputs = found.spans[0].facts["inputs"]
    assert (inputs["a"], inputs["b"], inputs["d"], inputs["f"]) == (None, {"1": "one"}, "odd", "bytes")
    assert inputs["c"] == 2**70


class Bad:
    def __str__(self) -> str:
        raise RuntimeError("never")


def test_what_cannot_be_written_keeps_nothing_else_from_being():
    world = World()
    first, _, last = world.request(), world.request(inputs={"x": Bad()}), world.request()
    assert [one.origin for one in world.executed()] == [first, last]
    assert world.recorder.take_dropped() == {"unwritable": 1}
    assert world.recorder.take_dropped() == {}


def test_of_what_is_too_long_the_words_are_left_out():
    world = World()
    name = world.request(body=orjson.dumps({"ticket": "x" * LONGEST}))
    (found,) = world.executed()
    assert (found.origin, found.inputs, found.spans[0].kind, found.is_redacted) == (name, None, "lm", True)


def test_where_nobody_takes_them_records_go_and_are_counted():
    recorder = Recorder()
    for number in range(5000):
        recorder(lambda n=number: Record((f"r-p-w-t-{n:x}", []), (None, None, [])))
    recorder.hand_over(lambda _: False)
    assert recorder.take_dropped() == {"not_taken_in_time": 5000 - MOST_WAITING}


def sorted_out(batch: bytes, **changes: Any) -> tuple[list[Kept], list[Block]]:
    """As the supervisor gets it from a worker's line."""
    config = FeedbackConfig(**{"experiment": "e", "sample_percent": 0, **changes})
    return Sorting(config, POD)([batch.replace(b"\n", b" ") + b"\n"], 5.0)


def read_all(found: tuple[list[Kept], list[Block]]) -> dict[str, Executed]:
    records = [kept.body for kept in found[0]] + [r for b in found[1] for r in b.body.split(END)[:-1]]
    return {one.origin: one for one in map(read_executed, records)}


def test_what_is_hidden_is_hidden_on_the_disk_and_nothing_else_is_touched():
    world = World()
    plain, private = world.request(), world.request(b'{"ticket":\n"jane.doe@example.com"}')
    found = sorted_out(world.handed_over())
    assert b"jane.doe" not in b"".join(block.body for block in found[1])
    executed = read_all(found)
    assert (executed[private].inputs, executed[private].is_redacted) == ({"ticket": HIDDEN}, True)
    assert (executed[plain].inputs, executed[plain].is_redacted) == ({"ticket": "it crashes"}, False)


def test_of_payloads_none_only_what_was_counted_is_kept():
    world = World()
    name = world.request()
    found = read_all(sorted_out(world.handed_over(), payloads="None"))[name]
    assert (found.inputs, found.outputs, [s.kind for s in found.spans]) == (None, None, ["lm", "lm"])
    assert (found.spans[1].facts["input_tokens"], found.is_redacted) == (7, True)


def test_of_payloads_full_all_is_kept():
    world = World()
    name = world.request(b'{"ticket": "jane.doe@example.com"}')
    assert read_all(sorted_out(world.handed_over(), payloads="Full"))[name].inputs == {"ticket": "jane.doe@example.com"}


def test_some_are_sampled_and_lie_by_themselves():
    world = World()
    names = {world.request() for _ in range(300)}
    sampled, blocks = sorted_out(world.handed_over(), sample_percent=10)
    assert 10 < len(sampled) < 60
    assert read_all((sampled, blocks)).keys() == names


@pytest.mark.parametrize("batch", [b"nonsense" + END, b'["no number"]' + WORDS + b"[]" + END, b'["a-b-c-d-1"]' + END])
def test_what_is_no_record_is_left_out_with_its_batch(batch):
    assert sorted_out(batch) == ([], [])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.from_regex(r"([a-zA-Z0-9@ .:=_-]|sk|pk|eyJ|token|\n|é){0,40}", fullmatch=True)
    | st.from_regex(r"[ \n(\\-]?(sk|pk|ghp|AKIA|xoxb|DE89)[-\w ]{10,20}", fullmatch=True)
    | st.from_regex(r"(password|Bearer|api_key|SECRET)[ :=]+\S{8}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, st.booleans())
@example("\nsk-abcdefghijklmnop", True)
@example("my number is 4111 1111-1111 1111", False)
@example({"ssn": 7}, True)
def test_where_it_is_said_that_nothing_is_hidden_nothing_is(value, as_ascii):
    hide = Redactor(("ssn",), ())
    text = json.dumps(value, ensure_ascii=as_ascii).encode("utf-8", "surrogatepass")
    narrowed = hide.narrowed(text)
    assert hide(value) == (narrowed(value) if narrowed else value)


@given(st.lists(JSON, max_size=4), st.booleans())
@example(["é", "sk-abcdefghijklmnop"], False)
def test_nor_is_anything_hidden_of_one_of_many(values, as_ascii):
    hide = Redactor(("ssn",), ())
    texts = [json.dumps([value], ensure_ascii=as_ascii).encode("utf-8", "surrogatepass") for value in values]
    of_all = hide.narrowed(b"".join(texts))
    narrowed = [of_all.narrowed(text) if of_all else None for text in texts]
    assert [n(value) if n else value for n, value in zip(narrowed, values, strict=True)] == list(map(hide, values))


def test_an_ordinary_text_is_not_looked_through():
    hide = Redactor()
    text = "My task: the desk\tof skilled people was charged 12.50 on 2026-11-29, order 123456 - token of my api's keyboard?"
    plain, suspicious = (json.dumps({"ticket": said}).encode() for said in (text.replace("token", "sign"), text))
    assert hide.narrowed(plain) is None
    assert (of_both := hide.narrowed(plain + suspicious)) is not None
    assert of_both.narrowed(plain) is None
    assert of_both.narrowed(suspicious) is not None
    own = Redactor((), (r"a pattern",))
    assert own.narrowed(b'"x"') is own, "what the manifest's patterns find is not known before"


@pytest.fixture
def spool(tmp_path):
    found = Spool(tmp_path / "spool.sqlite", 2**20, POD)
    yield found
    found.close()


def block(first: int, *numbers: int, at: float = 5.0, length: int = 10) -> Block:
    records = [record(n, length) + END for n in (first, *numbers)]
    return Block(f"r-{POD}-0000000a", first, at, b"".join(records))


def name(number: int) -> str:
    return f"r-{POD}-0000000a-00000001-{number:x}"


def record(number: int, length: int = 10) -> bytes:
    return orjson.dumps([name(number), "x" * length])


def said(number: int, pod: str = POD, at: float = 100.0) -> KeptLabel:
    return KeptLabel(f"{name(number)}-mac", name(number), pod, at, b"{}")


def test_a_prediction_is_found_among_others(spool):
    spool.take([], [], [block(1, 2, 5), block(9, 16, 17)])
    known = [n for n in range(20) if spool.knows(name(n))]
    assert known == [1, 2, 5, 9, 16, 17]
    assert spool.due(10) == []


def test_one_that_is_spoken_of_is_delivered_whichever_comes_first(spool):
    spool.take([], [said(2), said(9)], [block(1, 2, 5)])
    assert [one.body for one in spool.due(10)] == [record(2)]
    spool.take([], [], [block(9, 16)])
    assert {one.body for one in spool.due(10)} == {record(2), record(9)}


def test_what_is_said_of_one_that_may_still_come_waits_for_it(spool):
    spool.take([], [said(2, at=100.0), said(3, pod="another", at=100.0)])
    assert [one.pod for one in spool.labels(10, before=100.0)] == ["another"]
    assert [one.origin for one in spool.labels(10, before=101.0)] == [name(2), name(3)]


@pytest.mark.parametrize("first_block", [(1, 2, 5), (2,)])
def test_at_the_end_all_are_delivered_once(spool, first_block):
    spool.take([], [said(2)], [block(*first_block), block(9, at=6.0)])
    seen = [one.body for one in spool.due(10)]
    spool.delivered([name(2)])
    while due := spool.due(10, everything=True):
        seen += [one.body for one in due]
        spool.delivered([one.origin for one in due])
    assert sorted(seen) == sorted([record(n) for n in (*first_block, 9)])


def test_the_oldest_go_with_their_block_but_not_one_that_is_spoken_of(spool):
    spool.take([], [said(2)], [block(1, 2, 5, at=5.0), block(9, at=50.0)])
    spool.prune(10.0)
    assert [n for n in (1, 2, 5, 9) if spool.knows(name(n))] == [2, 9]


def test_where_there_is_no_room_the_oldest_blocks_go(spool):
    for n in range(0, 2000, 10):
        spool.take([], [], [block(n, *range(n + 1, n + 10), at=float(n), length=1000)])
    assert spool.prune(-1.0) == 0, "nobody would have delivered them"
    assert not spool.knows(name(0))
    assert spool.knows(name(1999))
