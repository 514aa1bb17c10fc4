"""The private parts of other libraries that the runtime touches, and nothing else of it does.

They may be gone with any release: `tests/runtime/test_compat.py` says of each what would break.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable
from contextvars import Token
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import dspy.adapters.chat_adapter
import dspy.adapters.decision
import dspy.adapters.json_adapter
import dspy.adapters.utils
import json_repair
import regex  # type: ignore[import-untyped]
from dspy.adapters import _legacy_type_markers
from dspy.adapters.decision import DecisionAdapter
from dspy.adapters.decision_state import DecisionState
from dspy.adapters.types import base_type
from dspy.clients.legacy_requests import _strict_json_schema
from dspy.dsp.utils.settings import Settings, main_thread_config, thread_local_overrides
from dspy.signatures.signature import SignatureMeta
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, SchemaSerializer

PRINTING = ("dspy.predict.best_of_n", "dspy.predict.refine")
"""These print why a try failed."""

MARKS = base_type.CUSTOM_TYPE_START_IDENTIFIER, base_type.CUSTOM_TYPE_END_IDENTIFIER
strict_json_schema: Callable[[dict[str, Any]], dict[str, Any]] = _strict_json_schema
"""A schema in the form that providers hold LMs to, as DSPy writes it."""
process_settings: dict[str, Any] = main_thread_config
"""What `dspy.configure` sets, for all threads."""
TRYING: dict[type[dspy.Module], Callable[..., Any]] = {kind: kind.forward for kind in (dspy.BestOfN, dspy.Refine)}
"""What these do, which counts tries that failed down from what the module was made with."""


def own_settings() -> dict[str, Any]:
    """What `dspy.context` set here, which DSPy carries into the threads that it starts."""
    found: dict[str, Any] = thread_local_overrides.get()
    return found


def set_own(**settings: Any) -> Token[Any]:
    """Set some of them from now on. `dspy.context` would keep all others as they are, too, and what a program's
    constructor configures would not be seen."""
    token: Token[Any] = thread_local_overrides.set({**own_settings(), **settings})
    return token


def reset_own(token: Token[Any]) -> None:
    """Take that back."""
    thread_local_overrides.reset(token)


def configure_by(configure: Callable[..., None]) -> None:
    """What `dspy.configure` and `dspy.settings.configure` do from now on."""
    Settings.configure = configure
    dspy.configure = dspy.settings.configure


def validate_by(make: Callable[[Any], TypeAdapter[Any]]) -> None:
    """How DSPy's adapters come to the validator of a type."""
    dspy.adapters.utils.TypeAdapter = make


def know_fields_by(fields: Callable[[Any, str], dict[str, FieldInfo]]) -> None:
    """How DSPy comes to a signature's fields of a kind, `input` or `output`."""
    SignatureMeta.input_fields = property(lambda signature: fields(signature, "input"))
    SignatureMeta.output_fields = property(lambda signature: fields(signature, "output"))


def fields_of(signature: Any, kind: str) -> dict[str, FieldInfo]:
    """As DSPy finds them."""
    found: dict[str, FieldInfo] = SignatureMeta._get_fields_with_type(signature, kind)
    return found


def read_values_by(parse_value: Callable[[Any, Any], Any]) -> None:
    """How DSPy's adapters read one output's value."""
    for module in (dspy.adapters.chat_adapter, dspy.adapters.json_adapter):
        module.parse_value = parse_value


def mark_types_by(word: str) -> None:
    """What stands around an image and the like in a prompt, until DSPy makes parts of a message of it. It reads that
    out of the finished text: with the words of its source code, a caller's text or an LM's could be anything there."""
    for module in (base_type, _legacy_type_markers):
        module.CUSTOM_TYPE_START_IDENTIFIER, module.CUSTOM_TYPE_END_IDENTIFIER = f"<<{word}>>", f"<</{word}>>"


def with_own_marks(state: str) -> str:
    """A compiled state's text with the marks of this process: its demonstrations may hold images."""
    own = base_type.CUSTOM_TYPE_START_IDENTIFIER, base_type.CUSTOM_TYPE_END_IDENTIFIER
    for mark, word in zip(MARKS, own, strict=True):
        state = state.replace(mark, word)
    return state


def read_loosely_by(loads: Callable[..., Any], search: Callable[..., Any], literal_eval: Callable[[str], Any]) -> None:
    """How DSPy reads JSON that is none, how it looks for an object in a text, and how it reads values of Python's."""
    json_repair.loads = loads
    dspy.adapters.utils.ast = SimpleNamespace(literal_eval=literal_eval)
    dspy.adapters.json_adapter.regex = SimpleNamespace(search=search, DOTALL=regex.DOTALL)


def print_by(say: Callable[..., None]) -> None:
    """What DSPy's modules do where they print."""
    for module in map(importlib.import_module, PRINTING):
        vars(module)["print"] = say


def count_tries_by_call() -> None:
    """Each call of a module that tries several times may fail as often as its author said. DSPy never gives back what a
    call has used up of that: in a process that serves, a few bad answers would be the last that it takes."""
    for kind, forward in TRYING.items():
        kind.forward = _on_a_copy(forward)


def _on_a_copy(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(self: dspy.Module, **kwargs: Any) -> Any:
        return forward(copy.copy(self), **kwargs)

    return run


def check_decisions(predictor: dspy.Predict) -> None:
    """Raise ValueError, as DSPy does in each request, where a decision (Noul, Score, Choice) is not said to be about
    anything."""
    state = DecisionState(predictor.signature, predictor.fields)
    for name, kind in state.types.items():
        state._question(name, predictor.signature.output_fields[name], kind)


class _Decisions(DecisionAdapter):  # type: ignore[misc]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with dspy.context(send_stream=None):
            return super().__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with dspy.context(send_stream=None):
            return await super().acall(*args, **kwargs)

    def _decode(self, completions: Any) -> Any:
        try:
            return super()._decode(completions)
        except ValueError as exc:
            raise AdapterParseError("DecisionAdapter", self.state.signature, "", str(exc)) from exc


def serve_decisions() -> None:
    """A decision comes whole in a stream, where DSPy raises; and probabilities that are none, such as zeros alone, are
    an LM's bad answer, not an error of the program's."""
    dspy.adapters.decision.DecisionAdapter = _Decisions


def serializer(schema: CoreSchema) -> SchemaSerializer:
    """What writes as a schema says. pydantic would take the serializers that the classes in it have already."""
    return SchemaSerializer(schema, _use_prebuilt=False)


def load_mlflow_model(folder: Path) -> dspy.Module:
    """What `mlflow.dspy.save_model` wrote. The public loader configures DSPy with the logged LM."""
    from mlflow.dspy.load import _load_model

    return _load_model(str(folder)).model
