"""`despina-runtime feedback import`: labels that exist already, as predictions of long ago that are trusted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TextIO

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from despina.wire.labels import Label
from despina.wire.predictions import trace_id_of
from despina_runtime.feedback.sink import Refused, Sink
from despina_runtime.telemetry.executed import Executed

AT_ONCE = 100


class Unreadable(ValueError):
    """A line is no label; the text says which, and what is wrong with it."""


class Line(BaseModel):
    """One line of the file: what was asked, and what is right or was wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = None
    """What was answered; left out where nobody was asked."""
    expected: dict[str, Any] | None = None
    """What should have been; left out for a success, whose outputs it is."""
    label: Literal["success", "failure"] = "success"
    reason: Annotated[str, Field(max_length=4096)] = ""
    source: Annotated[str, Field(max_length=128)] = "import"

    def origin(self, experiment: str) -> str:
        """The same for the same line in one experiment, so that a file can be taken in twice. MLflow has a trace of one
        name in one experiment only."""
        text = orjson.dumps([experiment, self.model_dump(exclude={"source"})], option=orjson.OPT_SORT_KEYS)
        return f"import-{hashlib.sha256(text).hexdigest()[:32]}"


def read_lines(file: TextIO) -> Iterator[Line]:
    """The file's lines; raises Unreadable."""
    for number, text in enumerate(file, 1):
        try:
            if text.strip():
                yield Line.model_validate_json(text)
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, error["loc"]))
            raise Unreadable(f"line {number}: {where + ': ' if where else ''}{error['msg']}") from None


async def take_in(lines: Sequence[Line], sink: Sink, experiment: str) -> int:
    """Deliver all of them; how many there were. Raises Away and Refused."""
    for first in range(0, len(lines), AT_ONCE):
        part = lines[first : first + AT_ONCE]
        await sink.deliver([_executed(line, line.origin(experiment)) for line in part])
        for line in part:
            await sink.label(_label(line, line.origin(experiment)))
    return len(lines)


def _executed(line: Line, origin: str) -> Executed:
    outputs = line.outputs if line.outputs is not None else line.expected
    return Executed(
        origin, time.time(), 0.0, "", "", "", 200, "", "", 0, 0, "", "", line.inputs, outputs, []
    )  # fmt: skip


def _label(line: Line, origin: str) -> Label:
    if line.label == "failure" and line.expected is None and not line.reason:
        raise Refused("a failure without expected outputs or a reason says nothing")
    return Label(
        prediction=origin,
        origin=origin,
        pod="",
        trace_id=trace_id_of(origin),
        at=time.time(),
        label=line.label,
        reason=line.reason,
        expected=line.expected,
        source=line.source,
        is_trusted=True,
    )
