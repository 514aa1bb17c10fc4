"""One run of a program that calls no provider: it fills caches, imports what is imported late, and finds what
is broken before a caller does.

In place of the LM's adapter stands one that formats each prompt, as always, and answers with values that the
signature allows: recorded ones where the manifest has some, else made up. A program may ask more of them than its
signature says (`int(prediction.text)`), so what it raises of its own accord refuses no version and is only told.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from types import FrameType
from typing import Any

import dspy
from dspy.adapters import ChatAdapter
from dspy.primitives.code_interpreter import CodeInterpreterError
from pydantic import TypeAdapter

from despina.wire import FailureReason, WarmUpConfig
from despina_runtime import compat
from despina_runtime.lm.client import OUT_OF_REACH, NoLM, OutOfReach, is_on_a_loop
from despina_runtime.lm.meter import Meter
from despina_runtime.paths import is_in
from despina_runtime.program.answers import PLAIN, NeverAnswers, check_can_answer, described, missing
from despina_runtime.program.contained import awaited, called
from despina_runtime.program.interface import Interface, annotation_of, by_name, runs_async
from despina_runtime.program.load import Loaded, check_paths
from despina_runtime.program.made_up import begin_anew, made_up, submission
from despina_runtime.program.unservable import ProgramError
from despina_runtime.tools.api import OUTSIDE, LocalToolbox, rehearsing, serve_requests_only
from despina_runtime.tools.errors import ToolUnavailable, ToolUnknown

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 2.0
"""For the event loop to answer a thread, before it is looked what the loop does."""

BLOCKING = (
    "aforward calls modules without await, and every other request would wait: await them (`await module.acall(...)`,"
    " `await dspy.asyncify(module)(...)`), or write forward, which runs in threads"
)


NO_SANDBOX = (
    "{}: it runs code that LMs write, in a sandbox that is not here: pass interpreter_factory=dspy.LocalInterpreter,"
    " for which the pod is the sandbox, or use an image with Deno (docs/serving.md)"
)
WARMUP_INCONCLUSIVE = "WarmupInconclusive"
"""The word that a remark begins with."""
INCONCLUSIVE = (
    "{}: {}; if made-up values are the cause, record real ones: inputs with input_example= of log_program, what LMs"
    " answer with spec.warmUp.outputs"
)
NOT_THERE = "{}: {}; callers get an error where the code asks for it"
LACKING = "{}: {} is missing: {}; callers get an error where it does so"
ERROR_LENGTH = 640


class BlocksTheLoop(BaseException):
    """A module was called on the event loop without await, or in a thread that the event loop waits for: every other
    request would wait for it. No program's `except Exception` shall hide it."""


class Rehearsal:
    """What the program is given in place of LMs' answers, and whether it may run on the event loop."""

    def __init__(self, program: dspy.Module, recorded: Mapping[str, Mapping[str, Any]]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        """On which the program is tried out; the calls of its LMs would have to be made there."""
        self.loop_thread = 0
        self._paths = {id(m): name.removeprefix("self").lstrip(".") for name, m in program.named_sub_modules()}
        self._recorded = recorded

    def check_free(self) -> None:
        """In a thread: raise BlocksTheLoop unless the loop can work for it."""
        if self.loop:
            _check_free(self.loop, self.loop_thread)

    def values(self, signature: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of the predictor that is called."""
        fields = signature.output_fields
        recorded = {name: value for name, value in self._of_caller().items() if name in fields}
        made = made_up({name: field for name, field in fields.items() if name not in recorded})
        made |= {name: TypeAdapter(annotation_of(fields[name])).validate_python(v) for name, v in recorded.items()}
        return made | submission(fields, inputs)

    def _of_caller(self) -> Mapping[str, Any]:
        callers = reversed(dspy.settings.caller_modules or ())
        path = next((self._paths[id(module)] for module in callers if id(module) in self._paths), "")
        return next((values for module, values in self._recorded.items() if is_in(path, module)), {})


def _rehearsal() -> Rehearsal:
    """The one under way. It is where what belongs to a request is, for modules of DSPy's copy LMs, and make adapters
    of the class that they find."""
    if found := dspy.settings.get("rehearsal"):
        return found  # type: ignore[no-any-return]
    raise OutOfReach(OUT_OF_REACH)


class WarmupAdapter(ChatAdapter):  # type: ignore[misc]
    """Formats prompts and answers them itself."""

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """What an adapter gives: one dictionary of output values per completion."""
        _rehearsal().check_free()
        return self._values(signature, demos, inputs)

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """The same."""
        return self._values(signature, demos, inputs)

    def _values(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        self.format(signature, demos, inputs)
        return [_rehearsal().values(signature, inputs)]


def _check_free(loop: asyncio.AbstractEventLoop, thread: int) -> None:
    """Raise BlocksTheLoop unless the loop can work for this thread; others' requests may hold it up for a while."""
    if is_on_a_loop():
        raise BlocksTheLoop
    is_free = Future[None]()
    loop.call_soon_threadsafe(is_free.set_result, None)
    while True:
        try:
            return is_free.result(PATIENCE_SECONDS)
        except TimeoutError:
            if _is_trying_out(sys._current_frames().get(thread)):
                raise BlocksTheLoop from None


def _is_trying_out(frame: FrameType | None) -> bool:
    """Whether a thread is at work on the program's first run, by what it has called."""
    while frame and frame.f_code is not _on_the_loop.__code__:
        frame = frame.f_back
    return frame is not None


class WarmupLM(dspy.BaseLM):  # type: ignore[misc]
    """Answers whoever calls the LM without an adapter, or with one of the program's own, in whose format it does."""

    def __init__(self) -> None:
        super().__init__(model="warm-up")

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        """One completion."""
        _rehearsal().check_free()
        return [self._text()]

    async def acall(self, *args: Any, **kwargs: Any) -> list[str]:
        """The same."""
        return [self._text()]

    def _text(self) -> str:
        caller, adapter = (dspy.settings.caller_modules or [None])[-1], dspy.settings.adapter
        if not isinstance(caller, dspy.Predict) or isinstance(adapter, WarmupAdapter):
            return "warm-up"
        if isinstance(adapter, dspy.TwoStepAdapter):  # it reads any text, and has a ChatAdapter's answer made of it
            adapter = ChatAdapter()
        values = _rehearsal().values(caller.signature, {})
        text: str = adapter.format_assistant_message_content(caller.signature, values)
        return text


async def warm_up(loaded: Loaded, config: WarmUpConfig = WarmUpConfig()) -> Loaded:  # noqa: B008 - it is frozen
    """Run the program once on the logged example, or on inputs made from its signature, on the running event loop.

    A program with `aforward` runs on that loop, if it awaits its modules there; else in threads. One that needs a tool
    which is not there yet is not tried out: it shall start before its tools do. What the program raises of its own
    accord is its `remark`.

    Raises:
        ProgramError: it cannot work whatever LMs answer: it blocks the event loop and has no `forward`, asks LMs where
            no request is known, calls a tool that its manifest does not list, has no sandbox for LMs' code, or
            returns nothing that has outputs.
    """
    is_async = runs_async(loaded.program)
    if not config.is_enabled:
        return replace(loaded, is_async=is_async)
    check_paths(loaded.program, config.outputs, "spec.warmUp.outputs")
    try:
        rehearsal = Rehearsal(loaded.program, config.outputs)
        inputs = _inputs(loaded.interface, loaded.example)
        own = {"meter": Meter(math.inf), "trace": [], "warn_on_type_mismatch": False}  # as a request's
        with dspy.context(lm=WarmupLM(), adapter=WarmupAdapter(), rehearsal=rehearsal, **own):
            if is_async:
                is_async, given = await _on_the_loop(loaded.program, inputs, rehearsal)
            if not is_async:
                given = await awaited(asyncio.to_thread(called, lambda: loaded.program(**inputs)))
        loaded = replace(loaded, remark=_remark_on(loaded, is_async, given))
    except ToolUnavailable as exc:
        log.warning("The program is not tried out before it serves reason=%s", exc)
    except (OutOfReach, ToolUnknown) as exc:
        raise ProgramError(FailureReason.WARMUP_FAILED, str(exc)) from exc
    except ProgramError:
        raise
    except Exception as exc:
        if type(exc) is CodeInterpreterError:  # subclasses are about the code, which is made up here
            raise ProgramError(FailureReason.WARMUP_FAILED, NO_SANDBOX.format(type(exc).__name__)) from exc
        remark = _remark_of(exc)
        log.warning("%s", remark, exc_info=exc)
        return replace(loaded, is_async=is_async, remark=remark)
    return replace(loaded, is_async=is_async)


def _remark_on(loaded: Loaded, is_async: bool, given: Any) -> str:
    """Which outputs are missing; raises NeverAnswers where they always are."""
    if not (lacking := missing(loaded.interface.outputs, given)):
        return ""
    check_can_answer(loaded.program, is_async, given, lacking)
    remark = LACKING.format(WARMUP_INCONCLUSIVE, ", ".join(lacking)[:ERROR_LENGTH], described(given))
    log.warning("%s", remark)
    return remark


def _remark_of(exc: Exception) -> str:
    """What it raised. An attribute that a prediction or a module has not is none that other values would bring."""
    said = f"{type(exc).__name__}: {exc}"[:ERROR_LENGTH]
    if not isinstance(exc, AttributeError) or isinstance(exc.obj, (*PLAIN, dict)):
        return INCONCLUSIVE.format(WARMUP_INCONCLUSIVE, said)
    if isinstance(exc.obj, dspy.Example):
        said += f", only {', '.join(map(str, exc.obj)) or 'nothing'}"[: ERROR_LENGTH // 4]
    return NOT_THERE.format(WARMUP_INCONCLUSIVE, said)


def rehearse(program: dspy.Module, interface: Interface, example: dict[str, Any] | None) -> str:
    """What a pod would say of a program, where none is served: its remark, or why it would be refused.

    The program stays as it is: a copy runs, on an event loop of its own, and knows no LM. Which tools there will be is
    not known here, so those that are missing say nothing.

    Raises:
        NeverAnswers: it would be refused wherever it ran.
    """
    copy = program.deepcopy()
    copy.set_lm(None)
    toolbox = LocalToolbox()
    before, outside = compat.process_settings["lm"], [*OUTSIDE]
    compat.process_settings["lm"] = NoLM()
    serve_requests_only()
    try:
        with rehearsing(toolbox):
            return asyncio.run(warm_up(Loaded(copy, interface, example))).remark
    except NeverAnswers:
        raise
    except ProgramError as exc:
        return "" if isinstance(exc.__cause__, ToolUnknown) else f"{exc.failure.reason}: {exc}"
    finally:
        compat.process_settings["lm"], OUTSIDE[:] = before, outside


def _inputs(interface: Interface, example: dict[str, Any] | None) -> dict[str, Any]:
    begin_anew()
    needed = {name: field for name, field in interface.inputs.model_fields.items() if field.is_required()}
    return by_name(interface.inputs.model_validate(example or made_up(needed)))


async def _on_the_loop(program: dspy.Module, inputs: dict[str, Any], rehearsal: Rehearsal) -> tuple[bool, Any]:
    """Whether the program ran without blocking the event loop, and what it then returned."""
    rehearsal.loop, rehearsal.loop_thread = asyncio.get_running_loop(), threading.get_ident()
    try:
        return True, await awaited(program.acall(**inputs))
    except BlocksTheLoop:
        if not hasattr(type(program), "forward"):
            raise ProgramError(FailureReason.WARMUP_FAILED, BLOCKING) from None
        log.warning("The program's aforward calls modules without await, so it runs in threads")
        return False, None
    finally:
        rehearsal.loop = None
