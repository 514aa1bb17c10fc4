"""One run of a program that calls no provider: it fills caches, imports what is imported late, and finds what
is broken before a caller does.

In place of the LM's adapter stands one that formats each prompt, as always, and answers with values that the
signature allows.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import dspy
from dspy.adapters import ChatAdapter
from pydantic import TypeAdapter

from despina.wire import FailureReason
from despina_runtime.program.interface import by_name
from despina_runtime.program.load import Loaded
from despina_runtime.program.unservable import ProgramError
from despina_runtime.samples import sample
from despina_runtime.tools.errors import ToolUnavailable

log = logging.getLogger(__name__)
ON_LOOP: ContextVar[bool] = ContextVar("on_loop", default=False)


class BlocksTheLoop(Exception):
    """A module was called on the event loop without await: every other request would wait for it."""


class WarmupAdapter(ChatAdapter):  # type: ignore[misc]
    """Formats prompts and answers them itself."""

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """What an adapter gives: one dictionary of output values per completion."""
        if ON_LOOP.get():
            raise BlocksTheLoop
        return self._values(signature, demos, inputs)

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """The same."""
        return self._values(signature, demos, inputs)

    def _values(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        self.format(signature, demos, inputs)
        return [{name: sample_value(field.annotation) for name, field in signature.output_fields.items()}]


def sample_value(annotation: Any) -> Any:
    """A Python value of a type."""
    adapter = TypeAdapter(annotation)
    return adapter.validate_python(sample(adapter.json_schema()))


class WarmupLM(dspy.BaseLM):  # type: ignore[misc]
    """Answers whoever calls the LM without an adapter."""

    def __init__(self) -> None:
        super().__init__(model="warm-up")

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        """One completion."""
        return ["warm-up"]

    async def acall(self, *args: Any, **kwargs: Any) -> list[str]:
        """The same."""
        return ["warm-up"]


def warm_up(loaded: Loaded) -> Loaded:
    """Run the program once on the logged example, or on inputs made from its signature.

    One that needs a tool which is not there yet is not tried out: it shall start before its tools do.

    A program with `aforward` runs on the event loop, if it awaits its modules there; else in threads.

    Raises:
        ProgramError: the program raised.
    """
    try:
        inputs = loaded.interface.inputs.model_validate(
            loaded.example or sample(loaded.interface.inputs.model_json_schema())
        )
        with dspy.context(lm=WarmupLM(), adapter=WarmupAdapter()):
            return replace(loaded, is_async=_run_once(loaded.program, by_name(inputs)))
    except ToolUnavailable as exc:
        log.warning("The program is not tried out before it serves reason=%s", exc)
        return replace(loaded, is_async=hasattr(loaded.program, "aforward"))
    except Exception as exc:
        text = f"{type(exc).__name__}: {exc}; log the program with input_example= if made-up inputs are the cause"
        raise ProgramError(FailureReason.WARMUP_FAILED, text) from exc


def _run_once(program: dspy.Module, inputs: dict[str, Any]) -> bool:
    """Whether the program ran without blocking the event loop."""
    if hasattr(program, "aforward"):
        token = ON_LOOP.set(True)
        try:
            asyncio.run(program.acall(**inputs))
        except BlocksTheLoop:
            log.warning("The program's aforward calls modules without await, so it runs in threads")
        else:
            return True
        finally:
            ON_LOOP.reset(token)
    program(**inputs)
    return False
