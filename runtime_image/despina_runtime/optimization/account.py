"""One account for all processes of an optimisation, kept by the one that runs no model's code.

Whoever wants to ask an LM connects to a Unix socket, says the most that the call can cost, and is told whether it may
be made, as soon as that is known: what calls under way cost less than they can is there for others. He keeps the
connection until the call has ended, and says then what it cost. Of one who ends without a word, the whole reservation
is booked.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from despina.wire import Report
from despina_runtime.lines import next_line
from despina_runtime.optimization.budget import Budget, Exhausted, Occupied

Money = Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False)]
ADDRESS = "account"
"""The file in a process's folder that names the socket."""
NOBODY = "nobody pays any more"


class Wanted(Report):
    """A call that somebody wants to make."""

    most: Money | None
    """US dollars; None where nobody knows."""


class Allowed(Report):
    """Whether he may."""

    refused: str | None = None


class Ended(Report):
    """What it cost."""

    cost: Money


@contextlib.asynccontextmanager
async def account(budget: Budget) -> AsyncIterator[Path]:
    """Serve a budget while the block runs; the socket's path."""

    desk = _Desk(budget)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValidationError):
            await desk.serve(reader, writer)
        writer.close()

    # A socket's path may have 107 bytes: none below a folder that others chose.
    with tempfile.TemporaryDirectory(prefix="despina-") as folder:
        path = Path(folder) / "account"
        async with await asyncio.start_unix_server(serve, path):
            yield path


class _Desk:
    """Where calls are asked for."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._one_ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One call, from the question to what it cost."""
        wanted = Wanted.model_validate_json(await next_line(reader))
        try:
            if not await self._reserve(wanted.most, reader):
                return
        except Exhausted as exc:
            writer.write(_line(Allowed(refused=str(exc))))
            return
        cost = wanted.most or Decimal(0)
        try:
            writer.write(_line(Allowed()))
            if line := await next_line(reader):
                cost = Ended.model_validate_json(line).cost
        finally:
            self._budget.settle(wanted.most, cost)
            self._one_ended.set()
            self._one_ended = asyncio.Event()

    async def _reserve(self, most: Decimal | None, reader: asyncio.StreamReader) -> bool:
        """Raises Exhausted; false if who wanted it has left meanwhile."""
        while not reader.at_eof():
            try:
                self._budget.reserve(most)
            except Occupied:
                await self._one_ended.wait()
            else:
                return True
        return False


def _line(said: Report) -> bytes:
    return said.model_dump_json().encode() + b"\n"


class Call:
    """A call that may be made."""

    def __init__(self, most: Decimal | None) -> None:
        self.cost = most or Decimal(0)
        """What it costs as far as is known."""


@contextlib.asynccontextmanager
async def paid(address: Path, most: Decimal | None) -> AsyncIterator[Call]:
    """A call that costs at most so much, in whichever process; raises Exhausted instead."""
    try:
        reader, writer = await asyncio.open_unix_connection(address)
    except OSError:
        raise Exhausted(NOBODY) from None
    try:
        writer.write(_line(Wanted(most=most)))
        line = await next_line(reader)
        refused = Allowed.model_validate_json(line).refused if line else NOBODY
        if refused is not None:
            raise Exhausted(refused)
        call = Call(most)
        try:
            yield call
        finally:
            writer.write(_line(Ended(cost=call.cost)))
    finally:
        writer.close()
