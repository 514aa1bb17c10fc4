"""Running the program: on the event loop if it can, else in a bounded pool of threads; always with a deadline."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError, LMRateLimitError, LMTimeoutError

from despina_runtime.cache.flight import has_ended, is_over
from despina_runtime.lm.adapters import unreadable
from despina_runtime.lm.client import LMs
from despina_runtime.lm.meter import Meter
from despina_runtime.lm.retry import is_refusal
from despina_runtime.lm.target import LMUnavailable
from despina_runtime.pipeline.call import Call, Emit, Rejected
from despina_runtime.problem import Disconnected, Problem, deadline_exceeded, place_of
from despina_runtime.program.contained import awaited, called
from despina_runtime.tools.api import Toolbox
from despina_runtime.tools.errors import ToolArgumentsInvalid, ToolError, ToolFailed, ToolRefused, ToolTimeout

log = logging.getLogger(__name__)
LETS_GO_SECONDS = 0.1
"""For a program that is told to end to do so, before its caller is told that it took too long."""
Event = tuple[str, dict[str, str]]
"""As `Emit` takes it."""


class Execute:
    """One program, or one of its modules."""

    def __init__(
        self,
        program: dspy.Module,
        is_async: bool,
        fields: Iterable[str],
        lms: LMs,
        pool: ThreadPoolExecutor,
        toolbox: Toolbox | None = None,
    ) -> None:
        self._program = program
        self._fields = set(fields)
        self._is_async = is_async
        self._lms = lms
        self._pool = pool
        self._toolbox = toolbox

    async def run(self, call: Call) -> Any:
        """The program's prediction.

        Raises:
            Problem: 504 for the deadline, 422, 502 or 503 for the LM, 500 for the program.
            Rejected: an LM's answer could not be read, nor that of a second try.
        """
        own, toolbox = self._lms.context(call.lm, call.temperature), self._toolbox
        if call.steps is not None:
            own = own | {"trace": call.steps}
        if toolbox and call.refusal:
            toolbox = toolbox.refusing(call.refusal)
        with dspy.context(meter=call.meter, toolbox=toolbox, **own):
            working = asyncio.create_task(self._stream(call, call.emit) if call.emit else self._call(call, call.inputs))
        try:
            await _in_time(working, call)
            return working.result()
        except AdapterParseError as exc:
            raise Rejected(unreadable(exc), "unreadable") from None
        except (Disconnected, Problem):
            raise
        except Exception as exc:
            if is_over(call.deadline):  # an LM is given up at the same moment, and its failure may come first
                raise deadline_exceeded() from exc
            problem = problem_of(cause_of(exc, call.meter))
            if call.refusal:  # which may have led to it: no breaker and no watch shall hold it against the program
                problem.fault = None
            raise problem from exc

    async def _call(self, call: Call, inputs: Mapping[str, Any]) -> Any:
        """What the program returns."""
        return await awaited(self._program.acall(**inputs) if self._is_async else self._threaded(call, inputs))

    async def _threaded(self, call: Call, inputs: Mapping[str, Any]) -> Any:
        run = contextvars.copy_context().run
        thread = self._pool.submit(called, lambda: run(self._program, **inputs))
        call.meter.lingering.append(thread)
        return await asyncio.wrap_future(thread)

    async def _stream(self, call: Call, emit: Emit) -> Any:
        """The prediction; before it, its fields piece by piece, and which tools are called. A caller who reads slowly
        holds up neither the program nor the LM: what he is told waits for him."""
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        working = asyncio.create_task(self._streamed(call, events.put_nowait))
        working.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while event := await events.get():
                await emit(*event)
            return await working
        except asyncio.CancelledError:
            if working.done() and not working.cancelled():
                raise Disconnected from None  # the program was in time, and its caller does not read
            raise
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait([working])

    async def _streamed(self, call: Call, tell: Callable[[Event], None]) -> Any:
        """The prediction, in a task that alone has to do with DSPy's stream."""
        status, results = _Status(), []

        async def within(**inputs: Any) -> dspy.Prediction:
            status.stream = dspy.settings.send_stream
            results.append(await self._call(call, inputs))
            await status.all_sent()
            return dspy.Prediction()  # a stream ends with one only, and a program may give something else

        program = _Awaited(self._program, within)
        run = dspy.streamify(program, status, stream_listeners=self._listeners(), is_async_program=True)
        async for piece in run(**call.inputs):
            if isinstance(piece, dspy.streaming.StreamResponse) and piece.chunk:
                tell(("delta", {"field": piece.signature_field_name, "text": piece.chunk}))
            elif isinstance(piece, dspy.streaming.StatusMessage):
                tell(("status", {"message": piece.message}))
        return results[0]

    def _listeners(self) -> list[Any]:
        """One for each of the program's outputs that a predictor generates; of several, the last in the program.

        A listener holds a stream's state, so each request has its own.
        """
        sources = {
            field: (name, predictor)
            for name, predictor in self._program.named_predictors()
            for field in predictor.signature.output_fields
            if field in self._fields
        }
        return [
            dspy.streaming.StreamListener(field, predict=predictor, predict_name=name)
            for field, (name, predictor) in sources.items()
        ]


async def _in_time(working: asyncio.Task[Any], call: Call) -> None:
    """Wait for the program until its deadline, or until nobody waits for the request any more; then it is told to end.
    One that does not holds its slot for as long as it goes on, as its threads do. Raises Problem 504."""
    done = False
    try:
        done = await has_ended(working, call.deadline)
    finally:
        if not done:
            call.meter.close()
            call.meter.lingering.append(working)
            working.add_done_callback(lambda task: task.cancelled() or task.exception())
            working.cancel()
    if not done:
        await asyncio.wait([working], timeout=LETS_GO_SECONDS)
        if _was_in_time(working):
            raise Disconnected
        raise deadline_exceeded()


def _was_in_time(working: asyncio.Task[Any]) -> bool:
    """Whether it was only the caller who did not read what he was told."""
    return working.done() and not working.cancelled() and isinstance(working.exception(), Disconnected)


class _Awaited:
    """A program as `dspy.streamify` takes it, which would run one without `aforward` in DSPy's own threads: eight for
    all."""

    def __init__(self, program: dspy.Module, acall: Callable[..., Awaitable[Any]]) -> None:
        self.named_predictors = program.named_predictors
        self.acall = acall


class _Status(dspy.streaming.StatusMessageProvider):  # type: ignore[misc]
    """DSPy's own words on tools, put into the stream from any thread. DSPy itself would send them from a second
    event loop, and the first would stand still until that is done."""

    def __init__(self) -> None:
        self.stream: Any = None
        """The request's; a program that streams within has another, and is given DSPy's words as DSPy gives them."""
        self._loop = asyncio.get_running_loop()
        self._sending: list[Future[None]] = []

    async def all_sent(self) -> None:
        """Wait until what was said so far is in the stream."""
        await asyncio.gather(*map(asyncio.wrap_future, self._sending))

    def tool_start_status_message(self, instance: Any, inputs: dict[str, Any]) -> str | None:
        """Sent; text only for a stream of the program's own."""
        return self._sent(super().tool_start_status_message(instance, inputs))

    def tool_end_status_message(self, outputs: Any) -> str | None:
        """As at the start."""
        return self._sent(super().tool_end_status_message(outputs))

    def _sent(self, message: str) -> str | None:
        if dspy.settings.send_stream is not self.stream:
            return message
        sending = self.stream.send(dspy.streaming.StatusMessage(message))
        self._sending.append(asyncio.run_coroutine_threadsafe(sending, self._loop))
        return None


def cause_of(exc: Exception, meter: Meter) -> Exception:
    """What a program's error comes from: the first one of a group, or the LM's failure that it was raised after.

    Programs that ask LMs at the same time (`asyncio.TaskGroup`, `dspy.Parallel`) raise an error of their own.
    """
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc if isinstance(exc, (LMError, ToolError)) else meter.failure or exc


def problem_of(exc: Exception) -> Problem:
    """What a caller is told. A provider's own words may hold keys or prompts, so they go to the log only."""
    kind = type(exc).__name__
    if isinstance(exc, LMError):
        log.warning("LM failed model=%s error=%s status=%s", exc.model, kind, exc.status)
        status, name, title = _of_lm(exc)
        wait = exc.retry_after if status == 503 else None
        fault = {504: "Timeout", 422: None}.get(status, "Upstream")
        return Problem(status, name, title, kind, fault=fault, retry_after=wait, can_fall_back=True)  # type: ignore[arg-type]
    if isinstance(exc, ToolRefused):
        return Problem(403, "tool-refused", f"The tool {exc.tool} is not executed for this request", str(exc))
    if isinstance(exc, ToolError) and not isinstance(exc, ToolArgumentsInvalid):
        said = "" if isinstance(exc, ToolFailed) else str(exc)  # what was executed may quote its arguments
        log.warning("Tool failed tool=%s error=%s message=%r", exc.tool, kind, said)
        status, fault = (504, "Timeout") if isinstance(exc, ToolTimeout) else (502, "Upstream")
        title = f"The tool {exc.tool} could not be used"
        return Problem(status, "tool-failure", title, kind, fault=fault, can_fall_back=True)  # type: ignore[arg-type]
    log.error("Program raised error=%s\n%s", kind, place_of(exc))
    return Problem(500, "program-error", "The program raised an error", kind, fault="Program", can_fall_back=True)


def _of_lm(exc: LMError) -> tuple[int, str, str]:
    if isinstance(exc, LMUnavailable):
        return 503, "lm-unavailable", "The language model failed too often and is left alone for a while"
    if isinstance(exc, LMRateLimitError):
        return 503, "lm-rate-limited", "The language model's provider limits the rate"
    if isinstance(exc, LMTimeoutError):
        return 504, "lm-timeout", "The language model took too long"
    if is_refusal(exc):
        return 422, "lm-refused", "The language model does not take this request: it may be too long, or not allowed"
    return 502, "lm-failure", "The language model could not be used"
