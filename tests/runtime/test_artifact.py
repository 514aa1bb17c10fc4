"""Despina's model format: what is in it, what never is, and what is checked before a line of it runs."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from pathlib import Path

import dspy
import pytest

from despina.wire import FailureReason
from despina_runtime.pipeline.call import Rejected
from despina_runtime.pipeline.validate import parse_inputs, render_outputs
from despina_runtime.problem import Problem
from despina_runtime.program.artifact import MANIFEST, STATE, write
from despina_runtime.program.interface import interface_of
from despina_runtime.program.load import load_despina
from despina_runtime.program.unservable import ProgramError
from despina_runtime.program.warmup import warm_up
from despina_runtime.samples import sample

CODE = """
import dspy
from pydantic import BaseModel, Field


class Source(BaseModel):
    title: str = Field(min_length=1)
    page: int = Field(ge=1)


class Ask(dspy.Signature):
    question: str = dspy.InputField()
    top_k: int = dspy.InputField(default=3, ge=1, le=10)
    answer: str = dspy.OutputField()
    confidence: float = dspy.OutputField(ge=0, le=1)
    sources: list[Source] = dspy.OutputField()


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.ChainOfThought(Ask)
        self.signature = Ask

    def forward(self, question, top_k=3):
        return self.ask(question=question, top_k=top_k)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes an artefact of the code above under a module name of the test's own."""

    def make(module: str, code: str = CODE, name: str = "Program", **options):
        source = tmp_path / "src"
        source.mkdir(exist_ok=True)
        (source / f"{module}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(source))
        program = getattr(importlib.import_module(module), name)()
        if options.pop("lm", None):
            program.set_lm(dspy.LM("openai/x", api_key="sk-very-secret", api_base="http://inner"))
        folder = tmp_path / "artifact"
        folder.mkdir()
        base = {"entrypoint": None, "signature_text": None, "code_paths": None, "requirements": ()}
        write(folder, program=program, input_example_json=None, **{**base, **options})
        monkeypatch.delitem(sys.modules, module)
        return folder

    return make


def fails(folder: Path) -> ProgramError:
    with pytest.raises(ProgramError) as caught:
        load_despina(folder)
    return caught.value


def test_no_secret_and_no_pickle_is_in_the_artefact(make):
    folder = make("secretive", lm=True)
    content = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert b"sk-very-secret" not in content
    assert b"http://inner" not in content
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {".json", ".py", ".txt"}


def test_it_loads_warms_up_and_holds_inputs_and_outputs_to_their_types(make):
    loaded = load_despina(make("typed"))
    warm_up(loaded)
    assert parse_inputs(loaded.interface, b'{"question": "q"}') == {"question": "q", "top_k": 3}
    with pytest.raises(Problem) as caught:
        parse_inputs(loaded.interface, b'{"question": "q", "top_k": 11}')
    assert caught.value.errors[0]["field"] == "top_k"
    good = {"answer": "a", "confidence": 0.5, "sources": [{"title": "t", "page": 1}]}
    assert json.loads(render_outputs(loaded.interface, dspy.Prediction(**good))) == good
    for bad, field in (
        ({"confidence": 9.5}, "confidence"),
        ({"sources": [{"title": "", "page": 0}]}, "sources.0.title"),
    ):
        with pytest.raises(Rejected, match=field):
            render_outputs(loaded.interface, dspy.Prediction(**good | bad))


@pytest.mark.parametrize("file", [STATE, "code/changed.py", MANIFEST])
def test_a_changed_file_is_refused_before_it_runs(make, file):
    folder = make("changed")
    with (folder / file).open("a") as out:
        out.write("\nraise SystemExit\n")
    error = fails(folder)
    assert error.failure.reason == FailureReason.ARTIFACT_CORRUPT
    assert Path(file).name in str(error)


def test_what_the_image_lacks_is_named_before_anything_is_imported(make):
    folder = make("needy", requirements=["dspy>=3", "nowhere-to-be-found==1.2", "pydantic<1"])
    error = fails(folder)
    assert error.failure.reason == FailureReason.REQUIREMENTS_MISSING
    assert "nowhere-to-be-found==1.2, pydantic<1" in str(error)
    assert "dspy>=3" not in str(error)


def test_a_program_that_does_not_show_its_signature_must_declare_it(make):
    code = CODE.replace("        self.signature = Ask\n", "        self.more = dspy.Predict('a -> b')\n")
    with pytest.raises(ProgramError, match="pass signature="):
        make("mute", code=code)


def test_a_declared_signature_counts(make, tmp_path):
    code = CODE.replace("        self.signature = Ask\n", "        self.more = dspy.Predict('a -> b')\n")
    folder = make("declared", code=code, signature_text="question -> answer")
    assert set(load_despina(folder).interface.outputs.model_fields) == {"answer"}


def test_dspys_own_modules_need_an_entry_point():
    with pytest.raises(ValueError, match="entrypoint="):
        write(
            Path("unused"), program=dspy.Predict("q -> a"), entrypoint=None, signature_text=None, code_paths=[],
            requirements=(), input_example_json=None,
        )  # fmt: skip


def test_a_program_that_raises_in_its_warm_up_is_refused(make):
    code = CODE.replace("        return self.ask", "        raise KeyError('nothing there')\n        return self.ask")
    with pytest.raises(ProgramError, match="nothing there") as caught:
        warm_up(load_despina(make("raising", code=code)))
    assert caught.value.failure.reason == FailureReason.WARMUP_FAILED


def test_a_program_that_has_only_aforward_must_await_its_modules(make):
    code = CODE.replace("    def forward", "    async def aforward")
    with pytest.raises(ProgramError, match="await them") as caught:
        warm_up(load_despina(make("blocking", code=code)))
    assert caught.value.failure.reason == FailureReason.WARMUP_FAILED


def test_a_warm_up_of_react_calls_no_tool():
    called = []

    def dangerous(x: str) -> str:
        """Deletes everything."""
        called.append(x)
        return "done"

    program = dspy.ReAct("question -> answer", tools=[dangerous])
    from despina_runtime.program.load import Loaded

    warm_up(Loaded(program, interface_of(program)))
    assert called == []


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "minLength": 10}, "warm-up..."),
        ({"type": "string", "maxLength": 2}, "wa"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "number", "exclusiveMinimum": 0}, 0.5),
        ({"type": "number", "maximum": -2}, -2),
        ({"enum": ["tool", "finish"]}, "finish"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}, {"a": "warm-up"}),
        ({"$ref": "#/$defs/X", "$defs": {"X": {"const": 3}}}, 3),
    ],
)
def test_samples_fit_their_schema(schema, value):
    assert sample(schema) == value
