"""Backends in this very process: on a laptop a tool's own function is called, without a cluster."""

from __future__ import annotations

import asyncio
import functools
import logging

from pydantic import ValidationError
from pydantic_core import from_json

from despina.wire import ContractConfig, ToolBackend, ToolConfig
from despina_runtime.problem import place_of
from despina_runtime.tools.endpoint import Outcome, Request
from despina_runtime.tools.errors import NotReady
from despina_runtime.tools.functions import Function, find_tools
from despina_runtime.tools.routing import Fate

log = logging.getLogger(__name__)


class LocalTransport:
    """A Python package's functions."""

    def __init__(self, package: str) -> None:
        self._functions = functions_of(package)

    async def send(self, request: Request) -> Outcome:
        """One attempt."""
        function = self._functions.get(request.tool)
        if function is None:
            return Outcome(Fate.REFUSED, message=f"there is no {request.tool}")
        try:
            async with asyncio.timeout_at(request.deadline):
                return Outcome(Fate.DONE, from_json(await function.call(request.arguments)))
        except TimeoutError:
            return Outcome(Fate.TIMEOUT, message="no result in time")
        except ValidationError as exc:
            return Outcome(Fate.INVALID, message=str(exc))
        except NotReady as exc:
            return Outcome(Fate.REFUSED, message=f"{exc.reason}: {exc}")
        except Exception as exc:
            log.error("Tool raised tool=%s error=%s\n%s", request.tool, type(exc).__name__, place_of(exc))
            return Outcome(Fate.ERROR, message=f"{type(exc).__name__}: {exc}")

    async def close(self) -> None:
        """Nothing is kept."""


@functools.cache
def functions_of(package: str) -> dict[str, Function]:
    """The tools of one package."""
    return find_tools([package])


def local_tool(name: str, package: str) -> ToolConfig | None:
    """What a caller needs to know of a function in this process."""
    function = functions_of(package).get(name)
    if function is None:
        return None
    contract = ContractConfig(
        name=name,
        description=function.description,
        parameters=function.parameters,
        returns=function.returns,
    )
    return ToolConfig(contract=contract, backends=(ToolBackend(name="local", kind="Local", url=package, tool=name),))
