"""Despina's model format: what is in it, what never is, and what is checked before a line of it runs."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import textwrap
from pathlib import Path

import dspy
import pytest

from despina.wire import FailureReason, ModelRef, RuntimeConfig
from despina_runtime.http.modules import Modules
from despina_runtime.pipeline.call import Rejected
from despina_runtime.pipeline.validate import parse_inputs, render_outputs
from despina_runtime.problem import Problem
from despina_runtime.program.artifact import check_example, remarks_on, state_of, write
from despina_runtime.program.fetch import COMPLETE
from despina_runtime.program.guarded import check_guarded
from despina_runtime.program.interface import interface_of, module_interfaces
from despina_runtime.program.load import Loaded, _digest_of, check_same_code, load, load_despina
from despina_runtime.program.manifest import CODE as CODE_FOLDER
from despina_runtime.program.manifest import MANIFEST, STATE, sha256
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


NOTES = {
    "that it is what it was": ('{"abc": "%s"}', True),
    "that it was something else": ('{"abc": "0123456789abcdef"}', False),
    "nothing of this revision": ('{"other": "0123456789abcdef"}', True),
    "nothing that can be read": ("[", True),
    "nothing": ("[]", True),
}


@pytest.mark.parametrize("sentence", NOTES)
def test_what_a_revision_was_not_when_it_was_first_loaded_never_runs(sentence, make, tmp_path, monkeypatch):
    note, is_served = NOTES[sentence]
    folder, module = make(f"pinned_{sorted(NOTES).index(sentence)}"), f"pinned_{sorted(NOTES).index(sentence)}"
    config = RuntimeConfig(
        namespace="ns", program="p", revision="abc", model=ModelRef(name="m", version="7", tracking_uri="http://m")
    )
    monkeypatch.setenv("DESPINA_TOOLS_FILE", str(tmp_path / "tools.json"))
    monkeypatch.setattr("despina_runtime.program.load.prepare", lambda **_: None)  # which is for a whole process
    digest = load(folder, config, tmp_path).digest
    assert load(folder, config, tmp_path).digest == digest, "a load leaves it as it is"
    monkeypatch.delitem(sys.modules, module)
    (tmp_path / "digests.json").write_text(note % digest if "%s" in note else note)
    if is_served:
        assert load(folder, config, tmp_path).digest == digest
        return
    with pytest.raises(ProgramError) as caught:
        load(folder, config, tmp_path)
    assert caught.value.failure.reason == FailureReason.ARTIFACT_CHANGED
    assert "version 7 is not what it was when revision abc was first loaded" in caught.value.failure.message
    assert module not in sys.modules


def test_a_digest_is_of_code_state_and_the_modules_of_other_versions(make, tmp_path):
    folder = make("digested")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert _digest_of([folder]) == _digest_of([other]) != _digest_of([folder, other])
    (other / MANIFEST).write_text((other / MANIFEST).read_text() + " ")
    assert _digest_of([folder]) != _digest_of([other])
    for pickle in (folder, other):
        (pickle / MANIFEST).unlink()
        (pickle / COMPLETE).write_text(str(pickle))
        (pickle / "registered_model_meta").write_text(str(pickle))
    assert _digest_of([folder]) == _digest_of([other])
    for name in ("code/__pycache__/x.pyc", "code/x.pyc", f"code/{COMPLETE}"):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).touch()
        assert _digest_of([folder]) != _digest_of([other]), name
        (other / name).unlink()
    (other / STATE).rename(other / "renamed")
    assert _digest_of([folder]) != _digest_of([other]), "a name counts as what stands under it"
    (other / STATE).write_text("{}")
    assert _digest_of([folder]) != _digest_of([other])


async def test_it_loads_warms_up_and_holds_inputs_and_outputs_to_their_types(make):
    loaded = load_despina(make("typed"))
    await warm_up(loaded)
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


@pytest.mark.parametrize(
    "file", ["unlisted_neighbour.py", "own/__init__.py", "__pycache__/listed.cpython-311.pyc", "fast.so"]
)
def test_code_that_is_not_listed_is_refused_before_anything_runs(make, file):
    folder = make("listed")
    (folder / CODE_FOLDER / file).parent.mkdir(exist_ok=True)
    (folder / CODE_FOLDER / file).write_bytes(b"raise SystemExit")
    error = fails(folder)
    assert error.failure.reason == FailureReason.ARTIFACT_CORRUPT
    assert f"code/{file}" in str(error)
    assert "listed" not in sys.modules


def test_a_link_out_of_the_artefact_is_refused(make, tmp_path):
    folder = make("linked")
    (folder / CODE_FOLDER / "away").symlink_to(tmp_path / "src", target_is_directory=True)
    assert fails(folder).failure.reason == FailureReason.ARTIFACT_CORRUPT


def test_another_versions_unlisted_code_is_refused_beside_a_running_one(make, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = make("beside")
    running = load_despina(folder)
    assert load_despina(folder).manifest == running.manifest, "what ran has left nothing in its folder"
    (folder / CODE_FOLDER / "unlisted_neighbour.py").touch()
    with pytest.raises(ProgramError) as caught:
        check_same_code(folder, running)
    assert caught.value.failure.reason == FailureReason.ARTIFACT_CORRUPT


def test_a_state_brings_no_lm(make):
    folder = make("owned")
    state = json.loads((folder / STATE).read_bytes())
    lm = dspy.LM("openai/theirs", api_key="none").dump_state()
    state = {k: v | {"lm": lm} if "signature" in v else v for k, v in state.items()}
    (folder / STATE).write_text(json.dumps(state))
    manifest = json.loads((folder / MANIFEST).read_bytes()) | {"state_sha256": sha256(folder / STATE)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert [p.lm for p in load_despina(folder).program.predictors()] == [None]


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


async def test_a_program_that_has_only_aforward_must_await_its_modules(make):
    code = CODE.replace("    def forward", "    async def aforward")
    with pytest.raises(ProgramError, match="await them") as caught:
        await warm_up(load_despina(make("blocking", code=code)))
    assert caught.value.failure.reason == FailureReason.WARMUP_FAILED


RICH = """
import datetime
import enum
import uuid

import dspy


class Level(enum.Enum):
    LOW = "low"


class Ask(dspy.Signature):
    day: datetime.date = dspy.InputField()
    number: uuid.UUID = dspy.InputField()
    level: Level = dspy.OutputField()
    at: datetime.datetime = dspy.OutputField()


class Program(dspy.Module):
    signature = Ask

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict(Ask)
        day, number = datetime.date(2026, 1, 2), uuid.UUID(int=7)
        self.ask.demos = [dspy.Example(day=day, number=number, level=Level.LOW, at=datetime.datetime(2026, 1, 2, 3))]

    def forward(self, day, number):
        return self.ask(day=day, number=number)
"""


async def test_demonstrations_may_hold_all_that_dspy_itself_can_save(make, tmp_path):
    folder = make("rich_demos", code=RICH)
    loaded = load_despina(folder)
    loaded.program.save(tmp_path / "dspys-own.json")
    (demo,) = json.loads((folder / STATE).read_text())["ask"]["demos"]
    assert (demo["day"], demo["level"]) == ("2026-01-02", "low")
    assert demo == json.loads((tmp_path / "dspys-own.json").read_text())["ask"]["demos"][0]
    assert (await warm_up(loaded)).remark == ""


@pytest.mark.parametrize(
    "change",
    [
        ("self.ask = dspy.ChainOfThought(Ask)\n        self.signature = Ask", "self.predict = dspy.Predict('context, question -> answer')"),
        ("        self.signature = Ask\n\n    def forward(self, question", "        self.more = dspy.Predict('a -> b')\n\n    async def aforward(self, question"),
    ],
    ids=["its predictor takes more than it does", "only aforward"],
)  # fmt: skip
def test_a_program_whose_inputs_are_not_known_is_told_so_when_it_is_logged(make, request, change):
    code = CODE.replace(*change)
    assert code != CODE
    with pytest.raises(ProgramError, match=r"pass signature= to log_program, or --signature") as caught:
        make(request.node.callspec.id.replace(" ", "_"), code=code)
    assert caught.value.failure.reason == FailureReason.SIGNATURE_UNKNOWN


def test_a_program_with_neither_forward_nor_aforward_is_not_logged_whatever_it_shows(make):
    with pytest.raises(ProgramError, match="Program has neither forward nor aforward"):
        make("no_forward", code=CODE.replace("def forward", "def run"))


class Relaying(dspy.Module):
    """It gives its predictors whatever it is given."""

    def __init__(self, *signatures):
        super().__init__()
        self.steps = [dspy.Predict(signature) for signature in signatures]

    def forward(self, **kwargs):
        return self.steps[0](**kwargs)


UNKNOWN = {
    "and none of its predictors (steps[0], steps[1]) is the whole of it: pass": ("q -> a", "a -> b"),
    "and it has no predictor: pass": (),
    "its predictor steps[0] takes q, r, where it takes whatever it is given itself: pass": ("q, r -> a",),
}


@pytest.mark.parametrize("why", UNKNOWN)
def test_why_a_signature_is_to_be_given_is_said(why):
    with pytest.raises(ProgramError, match=re.escape(why)):
        interface_of(Relaying(*UNKNOWN[why]))


@pytest.mark.parametrize("text", ["q => answer", "question", "json:JSONDecoder", "json:", "a b:C"])
def test_what_is_no_signature_is_told_so(text):
    with pytest.raises(
        ProgramError, match=re.escape(f"{text!r} is no DSPy signature: write it as 'question -> answer'")
    ):
        interface_of(Relaying("q -> a"), text)


def test_an_async_program_shows_its_only_predictors_signature(make):
    code = CODE.replace("        self.signature = Ask\n\n    def forward", "\n    async def aforward")
    assert set(load_despina(make("only_async", code=code)).interface.inputs.model_fields) == {"question", "top_k"}


def test_a_class_that_stands_in_no_file_cannot_be_logged(monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    typed: dict = {"dspy": dspy, "__name__": "__main__"}
    exec("class Program(dspy.Module):\n    def forward(self, question):\n        return question", typed)  # noqa: S102
    with pytest.raises(ValueError, match="stands in no file"):
        write(
            Path("unused"), program=typed["Program"](), entrypoint=None, signature_text="question -> answer",
            code_paths=None, requirements=(), input_example_json=None,
        )  # fmt: skip


class Awaiting(dspy.Module):
    """A sub-module that has only `aforward`."""

    async def aforward(self, question):
        return dspy.Prediction(answer=question)


class Tooled(dspy.Module):
    """Its predictors take what no JSON can hold."""

    signature = dspy.Signature("question -> answer")

    def __init__(self):
        super().__init__()
        fields = {
            "question": (str, dspy.InputField()),
            "tools": (list[dspy.Tool], dspy.InputField()),
            "calls": (dspy.ToolCalls, dspy.OutputField()),
        }
        self.choose = dspy.Predict(dspy.Signature(fields, "Choose."))
        self.answer = dspy.Predict("question -> answer")
        self.awaiting = Awaiting()

    def forward(self, question):
        return self.answer(question=question)


def test_modules_whose_inputs_no_caller_can_send_are_not_among_those_that_can_be_called():
    program = Tooled()
    loaded = Loaded(program, interface_of(program), modules=module_interfaces(program))
    assert list(Modules(loaded, None).schemas()) == ["answer"]


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
        ({"type": "array", "items": {"type": "integer"}}, [0]),
        ({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}, {"a": "warm-up"}),
        ({"$ref": "#/$defs/X", "$defs": {"X": {"const": 3}}}, 3),
    ],
)
def test_samples_fit_their_schema(schema, value):
    assert sample(schema) == value


BESIDE = """
import dspy
import packaging  # it is installed
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import not_imported_at_all
{}

class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.ask(question=question)
"""
WAYS_OF_IMPORTING = {
    "a module beside it": ("import beside_it", "beside_it.py"),
    "a name of one": ("from beside_it import NAME", "beside_it.py"),
    "a package beside it": ("import beside_it.inner", "beside_it"),
}


@pytest.fixture
def beside(tmp_path):
    """The folder of the code, with what a test makes there; and what is imported from it is forgotten."""
    source = tmp_path / "src"
    (source / "beside_it").mkdir(parents=True)
    yield source
    for name in [n for n in sys.modules if n.partition(".")[0] == "beside_it"]:
        del sys.modules[name]


@pytest.mark.parametrize("way", WAYS_OF_IMPORTING)
def test_code_that_imports_a_file_which_is_not_logged_is_refused_with_what_to_pass(way, make, beside):
    line, path = WAYS_OF_IMPORTING[way]
    if path.endswith(".py"):
        (beside / path).write_text("NAME = 1")
        (beside / "beside_it").rmdir()
    else:
        (beside / path / "inner.py").write_text("")
    name = f"alone_{sorted(WAYS_OF_IMPORTING).index(way)}"
    expected = f"{name}.py imports beside_it, .* pass code_paths=.*{name}.py', '{beside / path}']"
    with pytest.raises(ValueError, match=expected):
        make(name, BESIDE.format(line))


def test_code_that_holds_what_it_imports_is_logged_and_loads(make, beside):
    (beside / "beside_it" / "__init__.py").write_text("")
    folder = make(
        "accompanied", BESIDE.format("import beside_it"), code_paths=[beside / "accompanied.py", beside / "beside_it"]
    )
    assert [file.path for file in load_despina(folder).manifest.code] == ["accompanied.py", "beside_it/__init__.py"]


def test_a_file_beside_it_that_the_image_has_installed_is_only_a_requirement(make, beside):
    (beside / "beside_it" / "__init__.py").write_text("")
    folder = make("brought", BESIDE.format("import beside_it"), requirements=["beside-it>=1"])
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["requirements"] == ["beside-it>=1"]
    assert [file["path"] for file in manifest["code"]] == ["brought.py"]


IMPORTED: dict[str, int | None] = {
    "log_program(Program(), 'x', alias='champion')": 1,
    "version = despina_runtime.log_program(Program(), 'x')": 1,
    "for name in 'ab':\n    print(log_program(Program(), name))": 2,
    "try:\n    pass\nfinally:\n    log_program(Program(), 'x')": 4,
    "class Publisher:\n    version = log_program(Program(), 'x')": 2,
    "class Publisher(made(log_program(Program(), 'x'))):\n    pass": 1,
    "def main(version=log_program(Program(), 'x')):\n    pass": 1,
    "async def main(*, given, version=log_program(Program(), 'x')):\n    pass": 1,
    "publish = lambda version=log_program(Program(), 'x'): version": 1,
    "@released(log_program(Program(), 'x'))\ndef main():\n    pass": 1,
    "if __name__ != '__main__':\n    log_program(Program(), 'x')": 2,
    "if '__main__' != __name__:\n    log_program(Program(), 'x')": 2,
    "if not __name__ == '__main__':\n    log_program(Program(), 'x')": 2,
    "if __name__ == '__main__':\n    pass\nelse:\n    log_program(Program(), 'x')": 4,
    "if __name__ == '__main__':\n    pass\nelif sys.argv:\n    log_program(Program(), 'x')": 4,
    "if __name__ == '__main__' or sys.argv:\n    log_program(Program(), 'x')": 2,
    "if __name__ == 'one':\n    log_program(Program(), 'x')": 2,
    "if log_program(Program(), 'x') and __name__ == '__main__':\n    pass": 1,
    "version = None if __name__ == '__main__' else log_program(Program(), 'x')": 1,
    "if __name__ == '__main__':\n    log_program(Program(), 'x')": None,
    "if '__main__' == __name__:\n    log_program(Program(), 'x')": None,
    "if not __name__ != '__main__':\n    log_program(Program(), 'x')": None,
    "if sys.argv and __name__ == '__main__':\n    log_program(Program(), 'x')": None,
    "if __name__ != '__main__':\n    pass\nelse:\n    log_program(Program(), 'x')": None,
    "if sys.argv:\n    pass\nelif __name__ == '__main__':\n    log_program(Program(), 'x')": None,
    "try:\n    if __name__ == '__main__':\n        log_program(Program(), 'x')\nfinally:\n    pass": None,
    "version = log_program(Program(), 'x') if __name__ == '__main__' else None": None,
    "def main():\n    log_program(Program(), 'x')": None,
    "async def main():\n    log_program(Program(), 'x')": None,
    "if sys.version_info > (3,):\n    def publish():\n        log_program(Program(), 'x')": None,
    "publish = lambda program: log_program(program, 'x')": None,
    "class Publisher:\n    def publish(self):\n        log_program(Program(), 'x')": None,
}
"""Code, and in which of its lines an import of it logs a program."""


@pytest.mark.parametrize("code", IMPORTED)
def test_code_that_logs_a_program_as_it_is_imported_is_refused(code, tmp_path):
    file = tmp_path / "one.py"
    file.write_text(f"{code}\n")
    if (line := IMPORTED[code]) is None:
        check_guarded(file)
    else:
        with pytest.raises(ValueError, match=rf"one\.py calls log_program in line {line} whenever a pod"):
            check_guarded(file)


def test_a_load_is_no_release(make, monkeypatch):
    code = """
        import os
        from despina_runtime import log_program

        def publish():
            log_program(Program(), "releases-itself", alias="champion")

        if "PUBLISHES" in os.environ:
            publish()
    """
    folder = make("releases_itself", CODE + textwrap.dedent(code))
    monkeypatch.setenv("PUBLISHES", "1")
    with pytest.raises(ValueError, match="logs a program whenever it is loaded: put that under"):
        load_despina(folder)


def test_an_example_that_the_program_would_refuse_is_refused_by_its_fields():
    interface = interface_of(dspy.Predict("question, budget: float -> answer"))
    check_example(interface, None)
    check_example(interface, {"question": "x", "budget": 1.5})
    with pytest.raises(ValueError, match=r"input_example does not fit: .*question.*; .*bogus"):
        check_example(interface, {"budget": 1.5, "bogus": 3})


def test_lms_of_its_own_are_remarked_on_once():
    program = dspy.ChainOfThought("question -> answer")
    assert remarks_on(program, interface_of(program), None) == []
    program.set_lm(dspy.LM("openai/x", api_key="sk-very-secret"))
    (said,) = remarks_on(program, interface_of(program), None)
    assert said.startswith("predict has an LM of its own, which is not logged: pods ask spec.lm")


def test_a_flex_is_logged_without_its_lm_too():
    program = dspy.Flex("question -> answer", interpreter_factory=dspy.LocalInterpreter)
    program.set_lm(dspy.LM("openai/x", api_key="sk-very-secret", api_base="http://inner"))
    assert state_of(program)["lm"] is None
