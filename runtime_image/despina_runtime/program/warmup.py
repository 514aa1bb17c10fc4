"""One run of a program that calls no provider: it fills caches, imports what is imported late, and finds what
is broken before a caller does.

In place of the LM's adapter stands one that formats each prompt, as always, and answers with values that the
signature allows.
"""

from __future__ import annotations

import asyncio
import logging
import math
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import dspy
from dspy.adapters import ChatAdapter
from pydantic import TypeAdapter

from despina.wire import FailureReason
from despina_runtime.lm.client import OutOfReach, is_on_a_loop
from despina_runtime.lm.meter import Meter
from despina_runtime.program.interface import by_name
from despina_runtime.program.load import Loaded
from despina_runtime.program.unservable import ProgramError
from despina_runtime.samples import sample
from despina_runtime.tools.errors import ToolUnavailable

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 2.0
"""For the event loop to answer a thread, while nothing else runs on it."""

BLOCKING = (
    "aforward calls modules without await, and every other request would wait: await them (`await module.acall(...)`,"
    " `await dspy.asyncify(module)(...)`), or write forward, which runs in threads"
)


class BlocksTheLoop(BaseException):
    """A module was called on the event loop without await, or in a thread that the event loop waits for: every other
    request would wait for it. No program's `except Exception` shall hide it."""


class WarmupAdapter(ChatAdapter):  # type: ignore[misc]
    """Formats prompts and answers them itself."""

    loop: asyncio.AbstractEventLoop | None = None
    """On which the program is tried out; the calls of its LMs would have to be made there."""

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """What an adapter gives: one dictionary of output values per completion."""
        if self.loop:
            _check_free(self.loop)
        return self._values(signature, demos, inputs)

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """The same."""
        return self._values(signature, demos, inputs)

    def _values(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        self.format(signature, demos, inputs)
        return [{name: sample_value(field.annotation) for name, field in signature.output_fields.items()}]


def _check_free(loop: asyncio.AbstractEventLoop) -> None:
    """Raise BlocksTheLoop unless the loop can work for this thread."""
    if is_on_a_loop():
        raise BlocksTheLoop
    is_free = Future[None]()
    loop.call_soon_threadsafe(is_free.set_result, None)
    try:
        is_free.result(PATIENCE_SECONDS)
    except TimeoutError:
        raise BlocksTheLoop from None


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
        ProgramError: the program raised, or it blocks the event loop and has no `forward`.
    """
    try:
        inputs = loaded.interface.inputs.model_validate(
            loaded.example or sample(loaded.interface.inputs.model_json_schema())
        )
        adapter = WarmupAdapter()
        with dspy.context(lm=WarmupLM(), adapter=adapter, meter=Meter(math.inf), trace=[]):
            return replace(loaded, is_async=_run_once(loaded.program, by_name(inputs), adapter))
    except ToolUnavailable as exc:
        log.warning("The program is not tried out before it serves reason=%s", exc)
        return replace(loaded, is_async=hasattr(loaded.program, "aforward"))
    except ProgramError:
        raise
    except OutOfReach as exc:
        raise ProgramError(FailureReason.WARMUP_FAILED, str(exc)) from exc
    except Exception as exc:
        text = f"{type(exc).__name__}: {exc}; log the program with input_example= if made-up inputs are the cause"
        raise ProgramError(FailureReason.WARMUP_FAILED, text) from exc


def _run_once(program: dspy.Module, inputs: dict[str, Any], adapter: WarmupAdapter) -> bool:
    """Whether the program ran without blocking the event loop."""
    if hasattr(program, "aforward"):
        try:
            asyncio.run(_on_loop(program, inputs, adapter))
        except BlocksTheLoop:
            if not hasattr(type(program), "forward"):
                raise ProgramError(FailureReason.WARMUP_FAILED, BLOCKING) from None
            log.warning("The program's aforward calls modules without await, so it runs in threads")
        else:
            return True
    program(**inputs)
    return False


async def _on_loop(program: dspy.Module, inputs: dict[str, Any], adapter: WarmupAdapter) -> None:
    adapter.loop = asyncio.get_running_loop()
    try:
        await program.acall(**inputs)
    finally:
        adapter.loop = None
