"""DSPy's two adapters with what a server needs of them: no silent second call, a word on what was wrong, and LM answers
that count for the cache only once they could be read.

The classes keep DSPy's names, for its stream listeners find the format by the adapter's name.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

import dspy
from pydantic import TypeAdapter

from despina_runtime import compat

COLLECTED: ContextVar[list[tuple[str, bytes]] | None] = ContextVar("collected", default=None)
"""Answers of the adapter call under way, to keep if they can be read. It is asked within that very call."""

_validator = functools.lru_cache(1024)(TypeAdapter)


def _type_adapter(annotation: Any) -> TypeAdapter[Any]:
    """A type's validator, made once. DSPy makes three for each call: a fifth of its time."""
    try:
        return _validator(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return TypeAdapter(annotation)


compat.validate_by(_type_adapter)


class _Careful:
    """What both share."""

    def format(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """The prompt; after a rejected answer it ends with what was wrong."""
        messages: list[dict[str, Any]] = super().format(signature, demos, inputs)  # type: ignore[misc]
        wrong = {k: v for k, v in dspy.settings.meter.rejected.items() if k in signature.output_fields}
        if wrong:
            messages[-1] = _with_note(messages[-1], wrong)
        return messages

    def __call__(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        collected: list[tuple[str, bytes]] = []
        token = COLLECTED.set(collected)
        try:
            values: list[dict[str, Any]] = super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            COLLECTED.reset(token)
        dspy.settings.meter.pending.extend(collected)
        return values

    async def acall(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The same, awaited."""
        collected: list[tuple[str, bytes]] = []
        token = COLLECTED.set(collected)
        try:
            values: list[dict[str, Any]] = await super().acall(*args, **kwargs)  # type: ignore[misc]
        finally:
            COLLECTED.reset(token)
        dspy.settings.meter.pending.extend(collected)
        return values


class ChatAdapter(_Careful, dspy.ChatAdapter):  # type: ignore[misc]
    """`[[ ## field ## ]]` headers. A bad answer is not asked for again as JSON behind the caller's back."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)


class JSONAdapter(_Careful, dspy.JSONAdapter):  # type: ignore[misc]
    """One JSON object, by JSON Schema where the LM's `structuredOutput` is Enabled."""


ADAPTERS = {"Chat": ChatAdapter, "JSON": JSONAdapter}


class EachItsOwn(ChatAdapter):
    """For programs whose modules ask LMs of different adapters: each call is written as its LM wants it."""

    def __call__(self, lm: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = ADAPTERS[lm.adapter]()(lm, *args, **kwargs)
        return values

    async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The same, awaited."""
        values: list[dict[str, Any]] = await ADAPTERS[lm.adapter]().acall(lm, *args, **kwargs)
        return values


def _with_note(message: dict[str, Any], wrong: dict[str, str]) -> dict[str, Any]:
    lines = "\n".join(f"- {field}: {why}" for field, why in wrong.items())
    note = f"\n\nAn earlier answer to this was rejected:\n{lines}\nAnswer again, in the format that is asked for."
    content = message["content"]
    content = content + note if isinstance(content, str) else [*content, {"type": "text", "text": note}]
    return {**message, "content": content}
