"""What we know of the insides of other libraries: each test says what breaks where a release is made otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import dspy.adapters.chat_adapter
import dspy.adapters.json_adapter
import dspy.adapters.utils
import pytest
from dspy.experimental import Noul
from dspy.signatures.signature import SignatureMeta
from pydantic import BaseModel, TypeAdapter

from despina_runtime import compat

APART = """
import sys
import dspy
from despina_runtime import compat
"""


@pytest.fixture
def apart(tmp_path: Path) -> Callable[[str], str]:
    """What a process of its own prints, for it changes DSPy for good."""
    file = tmp_path / "apart.py"

    def printed(source: str) -> str:
        file.write_text(APART + source)
        ran = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    return printed


class Inner(BaseModel):
    text: str
    note: str = ""


class Outer(BaseModel):
    inner: Inner


def test_providers_would_refuse_a_schema_that_is_not_strict():
    schema = compat.strict_json_schema(Outer.model_json_schema())
    inner = schema["$defs"]["Inner"]
    assert (inner["additionalProperties"], inner["required"]) == (False, ["text", "note"])
    assert schema["additionalProperties"] is False


def test_a_decision_without_description_would_be_logged_and_raise_in_each_request():
    with pytest.raises(ValueError, match=r"Decision output 'x' requires an OutputField\(desc=...\)"):
        compat.check_decisions(deciding(dspy.OutputField()))
    compat.check_decisions(deciding(dspy.OutputField(desc="Is it late?")))
    compat.check_decisions(dspy.Predict("question -> answer: bool"))


def deciding(field: Any) -> dspy.Predict:
    return dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "x": (Noul, field)}, "Decide."))


def test_a_stream_of_a_decision_would_be_an_error(apart):
    source = """
from dspy.experimental import Noul
compat.serve_decisions()
fields = {"q": (str, dspy.InputField()), "x": (Noul, dspy.OutputField(desc="Is it late?"))}
program = dspy.Predict(dspy.Signature(fields, "Decide."))
with dspy.context(lm=dspy.utils.DummyLM([{"x": '{"noul": 0.75}'}]), send_stream="a stream"):
    print(program(q="a parcel").x.value)
"""
    assert apart(source) == "True"


def test_an_lm_that_finds_nothing_probable_would_be_the_programs_fault(apart):
    source = """
from dspy.experimental import Score
compat.serve_decisions()
fields = {"q": (str, dspy.InputField()), "x": (Score["bad", "good"], dspy.OutputField(desc="How good?"))}
program = dspy.Predict(dspy.Signature(fields, "Judge."))
zeros = '{"probabilities": {"0": 0, "1": 0}, "confidence": 0}'
try:
    with dspy.context(lm=dspy.utils.DummyLM([{"x": zeros}])):
        program(q="a parcel")
except dspy.utils.exceptions.AdapterParseError as exc:
    print(*exc.signature.output_fields)
"""
    assert apart(source) == "x"


def test_images_in_a_users_model_would_be_written_as_in_prompts():
    class Page(BaseModel):
        image: dspy.Image

    schema: Any = {**Page.__pydantic_core_schema__}
    image = schema["schema"]["fields"]["image"]["schema"] = {**schema["schema"]["fields"]["image"]["schema"]}
    assert image.pop("serialization")["function"] is dspy.Type.serialize_model
    url = "https://example.com/a.png"
    assert compat.serializer(schema).to_python(Page(image=dspy.Image(url=url))) == {"image": {"url": url}}


def test_each_call_would_make_its_validators_anew(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []

    def make(annotation: Any) -> TypeAdapter[Any]:
        made.append(annotation)
        return TypeAdapter(annotation)

    monkeypatch.setattr(dspy.adapters.utils, "TypeAdapter", dspy.adapters.utils.TypeAdapter)  # to be put back
    compat.validate_by(make)
    assert dspy.adapters.utils.parse_value("[1, 2]", list[int]) == [1, 2]
    assert made == [list[int]]


def test_each_call_would_tell_fields_apart_twenty_times(monkeypatch: pytest.MonkeyPatch):
    for name in ("input_fields", "output_fields"):
        monkeypatch.setattr(SignatureMeta, name, vars(SignatureMeta)[name])  # to be put back
    compat.know_fields_by(lambda signature, kind: {kind: compat.fields_of(signature, kind)})
    plain = dspy.Signature("question -> answer")
    assert [*plain.input_fields["input"], *plain.output_fields["output"]] == ["question", "answer"]


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()], ids=["Chat", "JSON"])
def test_of_an_answer_with_one_bad_value_nobody_would_know_which(adapter, monkeypatch: pytest.MonkeyPatch):
    for module in (dspy.adapters.chat_adapter, dspy.adapters.json_adapter):
        monkeypatch.setattr(module, "parse_value", module.parse_value)  # to be put back
    compat.read_values_by(lambda value, annotation: (value, annotation))
    signature = dspy.Signature("q -> n: int, m: str")
    answers = {"Chat": "[[ ## n ## ]]\nx\n[[ ## m ## ]]\ny\n", "JSON": '{"n": "x", "m": "y"}'}
    read = adapter.parse(signature, answers[type(adapter).__name__.removesuffix("Adapter")])
    assert read == {"n": ("x", int), "m": ("y", str)}


def test_threads_of_dspys_would_not_know_their_request():
    token = compat.set_own(meter="a meter")
    try:
        found, failed, errors = dspy.Parallel(num_threads=2, return_failed_examples=True, disable_progress_bar=True)(
            [(lambda n: (n, dspy.settings.get("meter")), {"n": n}) for n in (1, 2)]
        )
    finally:
        compat.reset_own(token)
    assert (found, failed, errors) == ([(1, "a meter"), (2, "a meter")], [], [])
    assert dspy.settings.get("meter") is None


def test_what_a_constructor_configures_after_set_own_would_not_be_seen(apart):
    assert apart("compat.set_own(meter=1); dspy.configure(cost=2); print(dspy.settings.cost)") == "2"


def test_the_process_would_have_no_settings_of_its_own(apart):
    source = """
import threading
compat.process_settings["lm"] = "an LM"
seen = []
thread = threading.Thread(target=lambda: seen.append(dspy.settings.lm))
thread.start(); thread.join()
print(seen)
"""
    assert apart(source) == "['an LM']"


def test_programs_could_configure_dspy_from_one_thread_only(apart):
    source = """
compat.configure_by(lambda settings, **wanted: print(wanted))
dspy.configure(cost=1)
dspy.settings.configure(cost=2)
"""
    assert apart(source).splitlines() == ["{'cost': 1}", "{'cost': 2}"]


FAILING = """
class Program(dspy.Module):
    def __init__(self):
        self.predict = dspy.Predict("word -> answer")
    def forward(self, word):
        raise ValueError(word)
"""


@pytest.mark.parametrize("way", ["BestOfN", "Refine"])
def test_callers_words_would_be_printed(apart, way: str):
    source = f"""{FAILING}
compat.print_by(lambda *_: sys.stdout.write("said"))
with dspy.context(lm=dspy.utils.DummyLM([]), trace=[]):
    dspy.{way}(Program(), N=1, reward_fn=lambda *_: 1.0, threshold=1.0, fail_count=1)(word="secret")
"""
    assert apart(source) == "said"


@pytest.mark.parametrize("way", ["BestOfN", "Refine"])
def test_tries_that_fail_would_count_against_all_later_calls(apart, way: str):
    source = f"""{FAILING}
tried = dspy.{way}(Program(), N=2, reward_fn=lambda *_: 1.0, threshold=1.0)
def ask():
    with dspy.context(lm=dspy.utils.DummyLM([]), trace=[]):
        assert tried(word="word") is None
    return tried.fail_count
compat.print_by(lambda *_: None)
before = ask()
tried.fail_count = 2
compat.count_tries_by_call()
compat.count_tries_by_call()
print(before, ask(), ask())
"""
    assert apart(source) == "0 2 2"


def test_a_logged_model_would_configure_dspy(apart, tmp_path):
    source = f"""
import os
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
import mlflow
with dspy.context(lm=dspy.utils.DummyLM([]), trace=[]):
    mlflow.dspy.save_model(dspy.Predict("question -> answer"), {str(tmp_path / "model")!r})
import pathlib
program = compat.load_mlflow_model(pathlib.Path({str(tmp_path / "model")!r}))
print(type(program).__name__, dspy.settings.lm)
"""
    assert apart(source).splitlines()[-1] == "Predict None"
