"""DSPy's two adapters with what a server needs of them: one second try, which asks the LM again and is told what was
wrong, in place of DSPy's silent one; and LM answers that count for the cache only once they could be read.

The classes keep DSPy's names, for its stream listeners find the format by the adapter's name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Annotated, Any, Self

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from despina_runtime import compat
from despina_runtime.lm.loosely import whole_characters
from despina_runtime.lm.reasons import NOTHING, READ, Unread, of_bounds, of_unread
from despina_runtime.memory import remembered

COLLECTED: ContextVar[list[tuple[str, bytes]] | None] = ContextVar("collected", default=None)
"""Answers of the adapter call under way, to keep if they can be read. It is asked within that very call."""

_validator = remembered(lambda _, annotation: TypeAdapter(annotation))


def _type_adapter(annotation: Any) -> TypeAdapter[Any]:
    """A type's validator, made once. DSPy makes three for each call: a fifth of its time."""
    try:
        return _validator(id(annotation), annotation)  # `A | B` equals `B | A`, and is read otherwise
    except TypeError:  # an annotation that cannot be hashed
        return TypeAdapter(annotation)


compat.validate_by(_type_adapter)


_known: Callable[[Any], dict[str, Any]] = remembered(lambda _: {})


def _fields_of(signature: Any, kind: str) -> dict[str, FieldInfo]:
    """Its fields, told apart once: DSPy does it twenty times for each call. pydantic may make all of them anew."""
    known, fields = _known(signature), signature.__pydantic_fields__
    if known.get("of") is not fields:
        known.update({"of": fields, **{kind: compat.fields_of(signature, kind) for kind in ("input", "output")}})
    found: dict[str, FieldInfo] = known[kind].copy()
    return found


compat.know_fields_by(_fields_of)


class _Careful:
    """What both share."""

    wrong: Mapping[str, str] = MappingProxyType({})
    """In a second try: what was wrong with the first answer, by output field."""

    def format(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """The prompt; after a rejected answer it ends with what was wrong."""
        messages: list[dict[str, Any]] = super().format(signature, demos, inputs)  # type: ignore[misc]
        if self.wrong:
            messages[-1] = _with_note(messages[-1], self.wrong)
        return messages

    def format_system_message(self, signature: Any) -> str:
        """What the task is, written once: DSPy writes it anew for each call, a tenth of its time."""
        return _system_message(type(self), signature, *_words(signature))

    def user_message_output_requirements(self, signature: Any) -> str:
        """What is to be answered, written once."""
        return _output_requirements(type(self), signature)

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """The values; of an answer that cannot be used, those of one second try.

        Raises:
            AdapterParseError: the second one cannot be read either. One that is out of bounds is given as it is.
        """
        collected: list[tuple[str, bytes]] = []
        given = {**lm_kwargs}  # the first try writes into them
        token = COLLECTED.set(collected)
        try:
            values: list[dict[str, Any]] = super().__call__(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]
            wrong = self._amiss(signature, values, collected)
        except AdapterParseError as exc:
            if self.wrong:
                raise
            wrong = unreadable(exc)
        finally:
            COLLECTED.reset(token)
        if not wrong:
            return values
        with dspy.context(send_stream=None):  # callers have had what the first one streamed
            return self._told(wrong)(lm, given, signature, demos, inputs)

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """The same, awaited."""
        collected: list[tuple[str, bytes]] = []
        given = {**lm_kwargs}
        token = COLLECTED.set(collected)
        try:
            values: list[dict[str, Any]] = await super().acall(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]
            wrong = self._amiss(signature, values, collected)
        except AdapterParseError as exc:
            if self.wrong:
                raise
            wrong = unreadable(exc)
        finally:
            COLLECTED.reset(token)
        if not wrong:
            return values
        with dspy.context(send_stream=None):
            return await self._told(wrong).acall(lm, given, signature, demos, inputs)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """The values. Whatever an answer does to those who read it, it could not be read.

        Raises:
            AdapterParseError: it could not; `wrong` says of which fields.
        """
        failure: Exception | None = None
        found: list[Any] = []
        token = READ.set(found)
        try:
            values: dict[str, Any] = super().parse(signature, whole_characters(completion))  # type: ignore[misc]
        except Exception as exc:
            failure, values = exc, getattr(exc, "parsed_result", None) or {}
        finally:
            READ.reset(token)
        if failure or Unread in map(type, values.values()):
            raise _unreadable(self, signature, completion, values, bool(found)) from failure
        return values

    def _amiss(
        self, signature: Any, values: list[dict[str, Any]], collected: list[tuple[str, bytes]]
    ) -> Mapping[str, str]:
        """Why to ask again, by output field; an answer that fits is kept."""
        wrong = _out_of_bounds(signature, values)
        if not wrong:
            dspy.settings.meter.pending.extend(collected)
        return {} if self.wrong else wrong

    def _told(self, wrong: Mapping[str, str]) -> Self:
        """The same for a second try. Other calls of the request use this one meanwhile."""
        again = copy.copy(self)
        again.wrong = wrong
        return again


def _words(signature: Any) -> Iterator[Any]:
    """What a program may write anew into a signature that it goes on with."""
    yield signature.__doc__
    for field in signature.model_fields.values():
        yield str(field.json_schema_extra["desc"])


@remembered
def _system_message(kind: type[_Careful], signature: Any, *_: Any) -> str:
    text: str = super(_Careful, kind()).format_system_message(signature)  # type: ignore[misc]
    return text


@remembered
def _output_requirements(kind: type[_Careful], signature: Any) -> str:
    text: str = super(_Careful, kind()).user_message_output_requirements(signature)  # type: ignore[misc]
    return text


def unreadable(exc: AdapterParseError) -> Mapping[str, str]:
    """What is said of an answer that could not be read, by output field. Its words are not repeated."""
    return getattr(exc, "wrong", NOTHING)


def _unreadable(
    adapter: Any, signature: Any, completion: str, values: dict[str, Any], found_any: bool
) -> AdapterParseError:
    """DSPy's error, which knows what is wrong besides."""
    read = {name: value for name, value in values.items() if not isinstance(value, Unread)}
    name = type(adapter).__name__
    exc = AdapterParseError(adapter_name=name, signature=signature, lm_response=completion, parsed_result=read)
    if found_any and values:
        exc.wrong = _out_of_bounds(signature, [read]) | of_unread(signature, values)
    return exc


def _out_of_bounds(signature: Any, values: list[dict[str, Any]]) -> dict[str, str]:
    """What is wrong with values that could be read, by output field. DSPy writes bounds into the prompt, no more."""
    if (bounded := _bounded(signature)) is None:
        return {}
    try:
        for value in values:
            bounded.model_validate({k: v for k, v in value.items() if v is not None}, from_attributes=True)
    except ValidationError as exc:
        return of_bounds(exc, signature)
    return {}


@remembered
def _bounded(signature: Any) -> type[BaseModel] | None:
    """The output fields that have bounds (`ge`, `max_length`, …); None where there is none."""
    fields: dict[str, Any] = {
        name: (Annotated[field.annotation, *field.metadata], None)
        for name, field in signature.output_fields.items()
        if field.metadata
    }
    return create_model("Bounded", __config__=ConfigDict(arbitrary_types_allowed=True), **fields) if fields else None


class ChatAdapter(_Careful, dspy.ChatAdapter):  # type: ignore[misc]
    """`[[ ## field ## ]]` headers. A bad answer is not asked for again as JSON behind the caller's back."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)


class JSONAdapter(_Careful, dspy.JSONAdapter):  # type: ignore[misc]
    """One JSON object, by JSON Schema where the LM's `structuredOutput` is Enabled."""


ADAPTERS = {"Chat": ChatAdapter, "JSON": JSONAdapter}


class EachItsOwn(ChatAdapter):
    """For programs whose modules ask LMs of different adapters: each call is written as its LM wants it. An LM of the
    program's own says nothing of that."""

    def __call__(self, lm: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = _wanted_by(lm)(lm, *args, **kwargs)
        return values

    async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The same, awaited."""
        values: list[dict[str, Any]] = await _wanted_by(lm).acall(lm, *args, **kwargs)
        return values


def _wanted_by(lm: Any) -> Any:
    return ADAPTERS[getattr(lm, "adapter", "Chat")]()


def _with_note(message: dict[str, Any], wrong: Mapping[str, str]) -> dict[str, Any]:
    lines = "\n".join(f"- {why}" for why in wrong.values())
    note = f"\n\nAn earlier answer to this was rejected:\n{lines}\nAnswer again, in the format that is asked for."
    content = message["content"]
    content = content + note if isinstance(content, str) else [*content, {"type": "text", "text": note}]
    return {**message, "content": content}
