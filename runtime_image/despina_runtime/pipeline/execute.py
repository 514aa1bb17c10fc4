"""Running the program: on the event loop if it can, else in a bounded pool of threads; always with a deadline."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError, LMInvalidRequestError, LMRateLimitError, LMTimeoutError

from despina_runtime.lm.client import LMs
from despina_runtime.lm.target import LMUnavailable
from despina_runtime.pipeline.call import Call, EmitField, Rejected
from despina_runtime.problem import Problem, deadline_exceeded
from despina_runtime.tools.api import Toolbox
from despina_runtime.tools.errors import ToolArgumentsInvalid, ToolError, ToolTimeout

log = logging.getLogger(__name__)
UNREADABLE = "{}: it could not be read in the format that was asked for"


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
            Problem: 504 for the deadline, 502 or 503 for the LM, 500 for the program.
            Rejected: an LM's answer could not be read.
        """
        own = self._lms.context(call.lm, call.temperature)
        try:
            async with asyncio.timeout_at(call.deadline):
                with dspy.context(meter=call.meter, toolbox=self._toolbox, **own):
                    return await (self._stream(call.inputs, call.emit) if call.emit else self._call(call.inputs))
        except TimeoutError:
            raise deadline_exceeded() from None
        except AdapterParseError as exc:
            raise Rejected({name: UNREADABLE.format(name) for name in exc.signature.output_fields}) from None
        except Exception as exc:
            raise problem_of(exc) from exc

    async def _call(self, inputs: Mapping[str, Any]) -> Any:
        if self._is_async:
            return await self._program.acall(**inputs)
        # A thread cannot be stopped: after a deadline it is done when its LM calls are, which have the same deadline.
        call = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(self._program, **inputs))

    async def _stream(self, inputs: Mapping[str, Any], emit: EmitField) -> Any:
        """The prediction, its fields told piece by piece before."""
        run = dspy.streamify(self._program, stream_listeners=self._listeners(), is_async_program=self._is_async)
        prediction = None
        async for piece in run(**inputs):
            if isinstance(piece, dspy.Prediction):
                prediction = piece
            elif isinstance(piece, dspy.streaming.StreamResponse):
                await emit(piece.signature_field_name, piece.chunk)
        return prediction

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


def problem_of(exc: Exception) -> Problem:
    """What a caller is told. A provider's own words may hold keys or prompts, so they go to the log only."""
    kind = type(exc).__name__
    if isinstance(exc, LMError):
        log.warning("LM failed error=%s status=%s", kind, exc.status)
        status, name, title = _of_lm(exc)
        wait = exc.retry_after if status == 503 else None
        fault = "Timeout" if status == 504 else "Upstream"
        return Problem(status, name, title, kind, fault=fault, retry_after=wait, can_fall_back=True)  # type: ignore[arg-type]
    if isinstance(exc, ToolError) and not isinstance(exc, ToolArgumentsInvalid):
        log.warning("Tool failed tool=%s error=%s message=%s", exc.tool, kind, exc)
        status, fault = (504, "Timeout") if isinstance(exc, ToolTimeout) else (502, "Upstream")
        title = f"The tool {exc.tool} could not be used"
        return Problem(status, "tool-failure", title, kind, fault=fault, can_fall_back=True)  # type: ignore[arg-type]
    log.exception("Program raised", exc_info=exc)
    return Problem(500, "program-error", "The program raised an error", kind, fault="Program", can_fall_back=True)


def _of_lm(exc: LMError) -> tuple[int, str, str]:
    if isinstance(exc, LMUnavailable):
        return 503, "lm-unavailable", "The language model failed too often and is left alone for a while"
    if isinstance(exc, LMRateLimitError):
        return 503, "lm-rate-limited", "The language model's provider limits the rate"
    if isinstance(exc, LMTimeoutError):
        return 504, "lm-timeout", "The language model took too long"
    if isinstance(exc, LMInvalidRequestError):
        return 502, "lm-refused", "The language model refused the request"
    return 502, "lm-failure", "The language model could not be used"
