"""A process that runs a model's code, as whoever scores it sees it: it is asked, and what it says is doubted.

It gets one end of a socket, on which the lines go to and fro; what the model prints goes to the log. First it says
`{"interface": ...}` or `{"failure": why}`. Then each question, a line with an `id`, has one line as its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import Field, ValidationError

from despina.wire import EVALUATION_ENV, TERMINATION_LOG_ENV, Report, RuntimeConfig
from despina_runtime.cache.keys import as_json
from despina_runtime.evaluation.examples import Shape, Unusable
from despina_runtime.lines import LONGEST_LINE, next_line

ANSWERING = (sys.executable, "-m", "despina_runtime.evaluation.answering")
CONFIG = "config.json"
LATE_SECONDS = 5.0
"""It keeps a request's deadline itself; this much later nobody waits for it any more."""
EXIT_SECONDS = 5.0
STDERR = 2
NOT_THEIRS = (EVALUATION_ENV, TERMINATION_LOG_ENV)


class First(Report):
    """Its first line."""

    interface: Shape | None = None
    failure: str | None = None


class Said(Report):
    """The answer to one question."""

    id: int
    outputs: dict[str, Any] | None = None
    status: int = 0
    """Of the problem, where there are no outputs."""
    title: str = ""
    detail: str = ""
    cost: Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False)] = Decimal(0)
    """What its LM calls cost, as it says: nobody else sees them."""
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    error: str | None = None


@contextlib.contextmanager
def fresh_folder(cache: Path, config: RuntimeConfig) -> Iterator[Path]:
    """A folder for one version alone: its configuration, its files, its temporary files."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        (folder / CONFIG).write_text(config.model_dump_json())
        yield folder


class Subject:
    """One such process."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._name, self._process, self._reader, self._writer = name, process, reader, writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Said | None]] = {}
        self._heard_at = 0.0
        self._end: str | None = None
        """Why it says nothing any more."""
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, name: str, command: Sequence[str], folder: Path, *role: str) -> Subject:
        """Start `command ROLE FD FOLDER …`; `name` is what messages call it."""
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        full = [*command, role[0], str(fd), str(folder), *role[1:]]
        process = await asyncio.create_subprocess_exec(
            *full,
            pass_fds=(fd,),
            env=_environment(folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=STDERR,
        )
        theirs.close()
        return cls(name, process, *await asyncio.open_connection(sock=ours, limit=LONGEST_LINE))

    async def first_word(self) -> Shape:
        """Its interface; raises Unusable when it says why it has none, or something else."""
        line = await self._line()
        if not line:
            raise Unusable(await self._ending())
        try:
            first = First.model_validate_json(line)
        except ValidationError:
            raise Unusable(self._nonsense()) from None
        if first.failure is not None or first.interface is None:
            raise Unusable(first.failure or self._nonsense())
        self._listening = asyncio.create_task(self._listen())
        return first.interface

    async def ask(self, question: Mapping[str, Any], seconds: float) -> Said | None:
        """Its answer; None when that took too long. Raises Unusable when it says nothing any more."""
        asked_at, patience = asyncio.get_running_loop().time(), seconds + LATE_SECONDS
        number = next(self._numbers)
        line = _written({"id": number, **question})
        if self._end is None:
            waiting: asyncio.Future[Said | None] = asyncio.get_running_loop().create_future()
            self._asked[number] = waiting
            self._writer.write(line)
            with contextlib.suppress(TimeoutError):
                if said := await asyncio.wait_for(waiting, patience):
                    return said
            if self._end is None and self._heard_at < asked_at:
                self._end = f"{self._name} has not answered anything for {patience:.0f} s"
        if self._end is not None:
            raise Unusable(self._end)
        return None

    async def _listen(self) -> None:
        """Take in answers until it ends, or says what it was not asked for."""
        try:
            while line := await self._line():
                said = Said.model_validate_json(line)
                self._heard_at = asyncio.get_running_loop().time()
                waiting = self._asked.pop(said.id)
                if not waiting.done():  # nobody waits for one that is late
                    waiting.set_result(said)
            self._end = await self._ending()
        except (ValidationError, KeyError):
            self._end = self._nonsense()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(None)

    async def _line(self) -> bytes:
        try:
            return await next_line(self._reader)
        except ValueError:  # longer than any answer may be
            return b"?"

    async def _ending(self) -> str:
        """How it ended; one that only stopped talking is ended."""
        try:
            await asyncio.wait_for(self._process.wait(), EXIT_SECONDS)
        except TimeoutError:
            self._process.kill()
        return f"{self._name} ended with code {await self._process.wait()}; see the Job's log"

    def _nonsense(self) -> str:
        return f"{self._name} said something that is no answer to what it was asked"

    async def close(self) -> None:
        """Let go of it, once it was ended."""
        if self._listening:
            self._listening.cancel()
        self._writer.close()
        await self._process.wait()


def _written(question: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(question, default=as_json) + b"\n"
    except (TypeError, ValueError) as exc:
        raise Unusable(f"an example of the dataset holds what is not JSON: {exc}") from exc


def _environment(folder: Path) -> dict[str, str]:
    own = {"TMPDIR": str(folder / "tmp"), "DSPY_CACHEDIR": str(folder / "tmp" / "dspy")}
    return {name: value for name, value in os.environ.items() if name not in NOT_THEIRS} | own
