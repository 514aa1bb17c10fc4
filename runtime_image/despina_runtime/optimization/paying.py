"""Before each attempt to ask an LM, the account is asked: what stands in the process that runs a model's code.

The most that a call can cost is its `max_tokens`, and no more input tokens than the request has bytes. What it did cost
is the provider's count; of a call that may have been answered unseen, the most. What a provider charges beyond
the tokens that it was allowed (for an image that is named by its address) is booked, but was not reserved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from dspy.utils.exceptions import LMError

from despina.wire import LMConfig
from despina_runtime.lm.meter import price_of
from despina_runtime.lm.openai_compatible import Completion, Emit
from despina_runtime.lm.target import Client, Guard
from despina_runtime.optimization.account import ADDRESS, paid
from despina_runtime.optimization.budget import longest_of

TOO_LATE = (408, 499, 502, 504, 524)


def guard_of(folder: Path) -> Guard:
    """What stands before the LMs' clients of the process that has this folder."""
    address = Path((folder / ADDRESS).read_text())
    return lambda lm, client: Paying(address, lm, client)


class Paying:
    """An LM's client whose attempts are paid for."""

    def __init__(self, address: Path, lm: LMConfig, client: Client) -> None:
        self._address, self._lm, self._client = address, lm, client

    async def complete(
        self, messages: list[dict[str, Any]], params: dict[str, Any], key: str | None, emit: Emit | None
    ) -> Completion:
        """One attempt; raises Exhausted instead."""
        async with paid(self._address, most_of(self._lm, messages, params)) as call:
            try:
                completion = await self._client.complete(messages, params, key, emit)
            except LMError as exc:
                call.cost = Decimal(0) if is_free(exc.status) else call.cost
                raise
            call.cost = cost_of(self._lm, completion.usage, call.cost)
            return completion

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()


def most_of(lm: LMConfig, messages: Iterable[Any], params: Mapping[str, Any]) -> Decimal | None:
    """The most that a call can cost, in US dollars; None where its answer may have any length."""
    if lm.price is None:
        return Decimal(0)
    longest = longest_of(params)
    if longest is None:
        return None
    request = orjson.dumps([messages, params], default=str)
    return price_of(lm, len(request), longest * int(params.get("n") or 1))


def cost_of(lm: LMConfig, usage: Mapping[str, Any], otherwise: Decimal) -> Decimal:
    """What an answer cost by the provider's count, where there is one."""
    counted = [usage.get(kind) for kind in ("prompt_tokens", "completion_tokens")]
    if None in counted:
        return otherwise
    return price_of(lm, *(max(0, int(count or 0)) for count in counted))


def is_free(status: int | None) -> bool:
    """Whether a provider says that it did not answer. Whoever stands before it may have given up too early."""
    return status is not None and status not in TOO_LATE
