"""Every answer fits the schema that is published, and may be sent back: DSPy's types are written by their fields."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import dspy
import jsonschema
import pytest
from dspy.experimental import Choice, Citations, Document, Noul, Score
from pydantic import BaseModel, field_serializer

from despina.wire import ModelRef, RuntimeConfig
from despina_runtime.http.openapi import openapi
from despina_runtime.lm.adapters import ChatAdapter
from despina_runtime.lm.meter import Meter
from despina_runtime.memory import settle
from despina_runtime.pipeline.validate import parse_inputs, render_outputs
from despina_runtime.program.interface import Interface, interface_of

IMAGE = dspy.Image(url="https://example.com/a.png")
PYTHON = dspy.Code["python"]
SORT, GRADE = Choice[("a", "one"), ("b", "another")], Score["bad", "good"]
CONFIG = RuntimeConfig(
    namespace="ns", program="p", revision="r", model=ModelRef(name="m", version="1", tracking_uri="http://mlflow")
)


class Page(BaseModel):
    image: dspy.Image
    parts: list[Page] = []


class Shouting(BaseModel):
    image: dspy.Image
    text: str

    @field_serializer("text")
    def _loud(self, text: str) -> str:
        return text.upper()


class Own(dspy.Type):
    text: str

    def format(self) -> list[dict[str, Any]]:
        return [{"type": "text", "text": self.text}]


CALLS = dspy.ToolCalls.from_dict_list([{"name": "f", "args": {"a": 1}}])
CITED = {"cited_text": "t", "document_index": 0, "start_char_index": 0, "end_char_index": 1}
VALUES: dict[str, tuple[Any, Any]] = {
    "an image": (dspy.Image, IMAGE),
    "a recording": (dspy.Audio, dspy.Audio(data="UklGRg==", audio_format="wav")),
    "a file": (dspy.File, dspy.File(file_data="data:text/plain;base64,YQ==", filename="a.txt")),
    "code": (PYTHON, PYTHON(code="print(1)")),
    "reasoning": (dspy.Reasoning, dspy.Reasoning(content="so")),
    "calls of tools": (dspy.ToolCalls, CALLS),
    "a history": (dspy.History, dspy.History(messages=[{"q": IMAGE}])),
    "a list": (list[dspy.Image], [IMAGE]),
    "a dictionary": (dict[str, PYTHON], {"a": PYTHON(code="1")}),
    "what may be missing": (dspy.Image | None, IMAGE),
    "a user's model that holds itself": (Page, Page(image=IMAGE, parts=[Page(image=IMAGE)])),
    "a user's type": (Own, Own(text="a")),
    "anything": (Any, {"a": [IMAGE, Page(image=IMAGE), 1]}),
    "a list of anything": (list, [IMAGE]),
    "a document": (Document, Document(data="text")),
    "citations": (Citations, Citations.from_dict_list([CITED])),
    "a decision": (Noul, Noul(value=True, confidence=0.5, probability=0.75)),
    "a choice": (SORT, SORT(value="a", confidence=0.5, probabilities={"a": 0.9, "b": 0.1})),
    "a score": (GRADE, GRADE(value=0.5, confidence=1, probabilities={0: 1, 1: 1}, level=1)),
}


def giving(kind: Any) -> Interface:
    return interface_of(dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "x": (kind, dspy.OutputField())})))


def taking(kind: Any) -> Interface:
    return interface_of(dspy.Predict(dspy.Signature({"x": (kind, dspy.InputField()), "a": (str, dspy.OutputField())})))


def in_openapi(interface: Interface) -> dict[str, Any]:
    return {"$ref": "#/components/schemas/Outputs", **openapi(interface, CONFIG, {})}


@pytest.mark.parametrize(("kind", "value"), VALUES.values(), ids=VALUES.keys())
def test_an_answer_fits_its_schema_and_can_be_sent_back(kind, value):
    body = render_outputs(giving(kind), dspy.Prediction(x=value))
    assert b"CUSTOM-TYPE" not in body
    jsonschema.validate(json.loads(body), giving(kind).schema()["outputs"])
    jsonschema.validate(json.loads(body), in_openapi(giving(kind)))
    jsonschema.validate(json.loads(body), taking(kind).schema()["inputs"])
    again = dspy.Prediction(**parse_inputs(taking(kind), body))
    assert render_outputs(giving(kind), again) == body


def test_users_serializers_write_what_they_wrote():
    body = render_outputs(giving(list[Shouting]), dspy.Prediction(x=[Shouting(image=IMAGE, text="a")]))
    assert json.loads(body) == {"x": [{"image": {"url": IMAGE.url}, "text": "A"}]}


def test_what_was_made_of_a_revisions_types_goes_with_it():
    class Own(BaseModel):
        text: str

    interface = giving(Own)
    signature = dspy.Signature({"x": (str, dspy.InputField()), "y": (Own, dspy.OutputField())})
    with dspy.context(meter=Meter(0.0)):
        ChatAdapter().parse(signature, '[[ ## y ## ]]\n{"text": "a"}')
        ChatAdapter()._amiss(signature, [{"y": Own(text="a")}], [])
    render_outputs(interface, dspy.Prediction(x=Own(text="a")))
    seen = [weakref.ref(Own), weakref.ref(signature), weakref.ref(interface.outputs)]
    del Own, interface, signature
    gc.collect()
    assert all(ref() for ref in seen)  # else this test would show nothing
    settle()
    assert not any(ref() for ref in seen)
