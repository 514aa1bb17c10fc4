"""A default that a later operator changes makes no new revision of what is stored with the old one."""

from __future__ import annotations

import json
import os
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from despina.api import revision as revisions
from despina.api.pods import Placement
from despina.api.program import Module, ModuleSource, ProgramSpec, Runtime
from despina.api.revision import RELEVANT, first_default, revision_of, shape_of, without_first_defaults
from despina.api.serving import LM, Cache, NodeCache, ProcessCache
from tests.support.gen import a_program, ref

GOLDEN = Path(__file__).parents[1] / "data" / "first_defaults.json"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def below(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all that it holds."""
    found = {model}
    for field in model.model_fields.values():
        for part in models_in(field.annotation):
            found |= below(part)
    return found


def hashed() -> set[type[BaseModel]]:
    """The models under what makes a revision."""
    fields = {f.alias or name: f for name, f in ProgramSpec.model_fields.items()}
    return {model for name in RELEVANT for part in models_in(fields[name].annotation) for model in below(part)}


def first_defaults() -> dict[str, Any]:
    """All first defaults, by the names of FIRST_DEFAULTS. What must be given, or is a part of its own, has none here."""
    found = {}
    for model in hashed():
        for name, field in model.model_fields.items():
            if not field.is_required() and field.default_factory is None:
                found[f"{model.__name__}.{name}"] = first_default(model, name)
    return json.loads(json.dumps(found, sort_keys=True))


def test_a_default_that_is_changed_is_noted():
    """UPDATE_GOLDENS=1 takes in new fields. One that is there keeps its first default for ever: after a change of a
    default, put the earlier one into FIRST_DEFAULTS of api/revision.py."""
    found, known = first_defaults(), json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    changed = [name for name in known if name in found and known[name] != found[name]]
    assert not changed, f"note the earlier defaults of {', '.join(changed)} in FIRST_DEFAULTS of api/revision.py"
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.write_text(json.dumps(known | found, indent=1, sort_keys=True) + "\n")
    assert json.loads(GOLDEN.read_text()) == known | found


STORED = {
    "a number": (a_program(runtime={"maxConcurrency": 16}), Runtime, "max_concurrency", 32),
    "a word": (a_program(security={"pickle": "Deny"}), None, "pickle", "Allow"),
    "one in an item of a list": (a_program(lms=[{"name": "main", "model": "openai/gpt-4o-mini", "retries": 2}]), LM, "retries", 5),
    "one two levels down": (a_program(cache={"process": {"maxEntries": 10000}}), ProcessCache, "max_entries", 5),
}  # fmt: skip


def change(monkeypatch, model: type[BaseModel], name: str, default: Any) -> str:
    """A later operator's default; returns the field's name in the table of first ones."""
    field = model.model_fields[name]
    monkeypatch.setattr(field, "default", default)
    return f"{model.__name__}.{name}"


@pytest.mark.parametrize("case", STORED)
def test_what_is_stored_with_an_old_default_stays_the_same_revision(case, monkeypatch):
    program, model, name, later = STORED[case]
    model = model or type(program.spec.security)
    old = model.model_fields[name].default
    before, shape = revision_of(program, ref("1")).hash, shape_of(program, ref("1"), "i")
    key = change(monkeypatch, model, name, later)
    monkeypatch.setitem(revisions.FIRST_DEFAULTS, key, old)
    assert revision_of(program, ref("1")).hash == before
    assert shape_of(program, ref("1"), "i") == shape


def test_what_is_stored_with_the_new_default_is_another_revision(monkeypatch):
    before = revision_of(a_program(), ref("1")).hash
    monkeypatch.setitem(revisions.FIRST_DEFAULTS, change(monkeypatch, Runtime, "max_concurrency", 32), 16)
    assert revision_of(a_program(runtime={"maxConcurrency": 32}), ref("1")).hash != before


def test_only_what_is_not_as_it_first_was_is_left():
    assert without_first_defaults(Runtime(workers=2, port=8080)) == {"workers": 2}
    assert without_first_defaults(Module(path="a", source=ModuleSource(version=1))) == {
        "path": "a",
        "source": {"version": 1},
    }
    assert without_first_defaults(Cache()) == {}
    assert without_first_defaults(Cache(node=NodeCache(type="EmptyDir"))) == {"node": {"type": "EmptyDir"}}
    assert without_first_defaults(Placement(node_selector={"a": "b"})) == {"nodeSelector": {"a": "b"}}
    assert without_first_defaults(LM(name="a", model="m", params={"x": [1, {"y": None}]})) == {
        "name": "a", "model": "m", "params": {"x": [1, {"y": None}]},
    }  # fmt: skip


def test_a_block_that_is_given_and_empty_is_not_one_that_is_left_out():
    assert revision_of(a_program(cache={}), ref("1")).hash != revision_of(a_program(), ref("1")).hash
    assert revision_of(a_program(runtime={}), ref("1")).hash == revision_of(a_program(), ref("1")).hash


def test_a_later_field_of_a_tool_that_nobody_sets_changes_nothing():
    program = a_program(tools=[{"name": "find", "ref": {"name": "search"}}])
    document = revisions.asked_of(program)["tools"]
    assert document == [{"name": "find", "tool": "ns/search"}]
